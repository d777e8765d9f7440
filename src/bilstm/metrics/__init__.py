"""Scores and calibration: each formula with its source, numpy only, no task knowledge.

Spans of tagged sequences are in `bilstm.metrics.spans`; imports only `bilstm.errors` and numpy.
"""

from bilstm.metrics.calibration import Temperature, apply_temperature, fit_temperature
from bilstm.metrics.classification import evaluate_classification
from bilstm.metrics.multilabel import evaluate_multilabel
from bilstm.metrics.regression import evaluate_regression

__all__ = [
    "Temperature",
    "apply_temperature",
    "evaluate_classification",
    "evaluate_multilabel",
    "evaluate_regression",
    "fit_temperature",
]
