"""What a text model scores in each precision that this machine can run it in: for metrics.json and the model card.

Imports no torch.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bilstm.runtime.engine_recurrent import resolve_precision
from bilstm.runtime.model import Model as RuntimeModel
from bilstm.tasks.text_classification import TextModel, Texts

__all__ = ["precision_scores"]

SCORES = {"regression": "root_mean_squared_error", "multilabel": "micro_f1"}


def precision_scores(model: TextModel, texts: Texts, targets: np.ndarray) -> dict[str, Any]:
    """Score labelled texts in float32, and in bfloat16 where this machine has instructions for it.

    Returns
    -------
    dict
        `score`, the name of what is measured; then its value by precision.
    """
    name = SCORES.get(model.labels.kind, "accuracy")
    precisions = ["float32"] + (["bfloat16"] if resolve_precision("auto", "auto") == "bfloat16" else [])
    found: dict[str, Any] = {"score": name}
    for precision in precisions:
        other = model
        if model.model.precision != precision:
            runtime = RuntimeModel(model.model.description, model.weights, precision=precision)
            other = dataclasses.replace(model, model=runtime)
        found[precision] = other.measure(other.predict_proba(texts), targets)[name]
    return found
