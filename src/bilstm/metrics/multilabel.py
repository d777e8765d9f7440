"""Scores of a classifier that gives each row any number of labels. Place: `decode -> score`. numpy only.

Sources: Tsoumakas, Katakis and Vlahavas 2010, Mining Multi-label Data (subset accuracy, micro and macro F1, Hamming
loss); Schapire and Singer 2000, Machine Learning 39 (ranking precision).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bilstm.errors import ShapeError
from bilstm.metrics.classification import (
    DEFAULT_BINS,
    ClassScores,
    bin_confidences,
    binary_roc_auc,
    per_class_rows,
    wilson_interval,
)
from bilstm.metrics.inputs import UndefinedScoreError, check_finite, check_same_rows, score_or_reason

__all__ = [
    "evaluate_multilabel",
    "hamming_loss",
    "label_ranking_average_precision",
    "label_scores",
    "macro_roc_auc",
    "micro_f1",
    "subset_accuracy",
]


def subset_accuracy(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Return the share of rows whose whole set of labels is right. Both (rows, labels) bool."""
    return float(np.mean((np.asarray(targets) == np.asarray(predictions)).all(axis=1)))


def hamming_loss(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Return the share of the rows x labels decisions that are wrong. Both (rows, labels) bool."""
    return float(np.mean(np.asarray(targets) != np.asarray(predictions)))


def label_scores(targets: np.ndarray, predictions: np.ndarray) -> ClassScores:
    """Return precision, recall and F1 of each label; NaN where the denominator is 0. Both (rows, labels) bool."""
    targets, predictions = np.asarray(targets, dtype=bool), np.asarray(predictions, dtype=bool)
    hits = (targets & predictions).sum(axis=0).astype(np.float64)
    support, predicted = targets.sum(axis=0), predictions.sum(axis=0)
    nothing = np.full(len(hits), np.nan)
    return ClassScores(
        precision=np.divide(hits, predicted, out=nothing.copy(), where=predicted > 0),
        recall=np.divide(hits, support, out=nothing.copy(), where=support > 0),
        f1=np.divide(2 * hits, support + predicted, out=nothing.copy(), where=support + predicted > 0),
        support=support,
        predicted=predicted,
    )


def micro_f1(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Return F1 over all rows x labels decisions together; 0 where nothing is true and nothing predicted."""
    targets, predictions = np.asarray(targets, dtype=bool), np.asarray(predictions, dtype=bool)
    below = int(targets.sum()) + int(predictions.sum())
    return 2 * int((targets & predictions).sum()) / below if below else 0.0


def label_ranking_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Return, over rows and their true labels, the mean share of true labels among those scored at least as high.

    Parameters
    ----------
    targets : ndarray of shape (rows, labels), bool
    scores : ndarray of shape (rows, labels)

    Notes
    -----
    Rows with no label or all labels count 1, as any order of them is right (scikit-learn's convention). A row costs
    labels^2 comparisons.
    """
    targets, scores = np.asarray(targets, dtype=bool), np.asarray(scores)
    precisions = np.ones(len(targets))
    counts = targets.sum(axis=1)
    for row in np.flatnonzero((counts > 0) & (counts < targets.shape[1])):
        is_true = targets[row]
        at_least = scores[row][:, None] >= scores[row][is_true][None, :]  # (labels, true labels)
        precisions[row] = np.mean(at_least[is_true].sum(axis=0) / at_least.sum(axis=0))
    return float(precisions.mean())


def macro_roc_auc(targets: np.ndarray, scores: np.ndarray) -> float:
    """Return the plain mean over labels of ROC AUC.

    Raises
    ------
    UndefinedScoreError
        If a label is on no row or on every row.
    """
    constant = np.flatnonzero(targets.all(axis=0) | ~targets.any(axis=0))
    if len(constant):
        raise UndefinedScoreError(
            f"ROC AUC needs rows with and without every label; label {int(constant[0])} is on none or on all."
        )
    return float(np.mean([binary_roc_auc(targets[:, label], scores[:, label]) for label in range(targets.shape[1])]))


def evaluate_multilabel(
    probabilities: np.ndarray,
    targets: np.ndarray,
    names: Sequence[str],
    threshold: float = 0.5,
    num_bins: int = DEFAULT_BINS,
) -> dict[str, Any]:
    """Score a multi-label classifier on labelled rows; the result is ready for JSON.

    Parameters
    ----------
    probabilities : ndarray of shape (rows, labels)
        Each within 0..1 on its own.
    targets : ndarray of shape (rows, labels), bool or 0 and 1
    names : sequence of str
        The labels.
    threshold : float, default=0.5
        A label is given where its probability is above this.
    num_bins : int, default=15
        Bins of the calibration error, taken over all rows x labels decisions.

    Returns
    -------
    dict
        `subset_accuracy` with its Wilson interval, `micro_f1`, `macro_f1`, `hamming_loss`,
        `label_ranking_average_precision`, `roc_auc` (macro), `log_loss` (mean over decisions),
        `expected_calibration_error`, `calibration`, `per_class`. A score without a value is None, and `undefined` says
        why.
    """
    targets, probabilities = _checked(targets, probabilities, len(names))
    predictions = probabilities > threshold
    scores = label_scores(targets, predictions)
    is_right = (targets == predictions).all(axis=1)
    # confidence of a decision is the probability of the side taken, so bins below one half stay empty at 0.5
    bins = bin_confidences(
        np.where(predictions, probabilities, 1 - probabilities).ravel(), (targets == predictions).ravel(), num_bins
    )
    epsilon = np.finfo(np.float64).eps
    chosen = np.clip(np.where(targets, probabilities, 1 - probabilities), epsilon, 1 - epsilon)
    undefined: dict[str, str] = {}
    return {
        "kind": "multilabel",
        "rows": len(targets),
        "classes": [str(name) for name in names],
        "threshold": threshold,
        "subset_accuracy": float(is_right.mean()),
        "subset_accuracy_interval": list(wilson_interval(int(is_right.sum()), len(targets))),
        "micro_f1": micro_f1(targets, predictions),
        "macro_f1": float(np.mean(np.nan_to_num(scores.f1))),
        "hamming_loss": hamming_loss(targets, predictions),
        "label_ranking_average_precision": label_ranking_average_precision(targets, probabilities),
        "roc_auc": score_or_reason("roc_auc", lambda: macro_roc_auc(targets, probabilities), undefined),
        "log_loss": float(-np.mean(np.log(chosen))),
        "expected_calibration_error": bins.error(),
        "calibration": {
            "bins": num_bins,
            "edges": bins.edges.tolist(),
            "counts": bins.counts.tolist(),
            "mean_confidence": [None if np.isnan(value) else float(value) for value in bins.mean_confidence],
            "accuracy": [None if np.isnan(value) else float(value) for value in bins.accuracy],
        },
        "per_class": per_class_rows(names, scores),
        "undefined": undefined,
    }


def _checked(targets: np.ndarray, probabilities: np.ndarray, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    for name, values in (("targets", targets), ("probabilities", probabilities)):
        if values.ndim != 2 or values.shape[1] != num_labels:
            raise ShapeError(f"{name} must have shape (rows, {num_labels} labels), got {values.shape}.")
    check_same_rows(targets, probabilities, "probabilities")
    if not np.isin(targets, (0, 1)).all():
        raise ShapeError("targets must be 0 or 1 for every label.")
    probabilities = check_finite(probabilities, "probabilities")
    outside = np.flatnonzero(((probabilities < 0) | (probabilities > 1)).any(axis=1))
    if len(outside):
        row = int(outside[0])
        raise ShapeError(f"probabilities[{row}] must be within 0 and 1, got {probabilities[row].tolist()}.")
    return targets.astype(bool), probabilities
