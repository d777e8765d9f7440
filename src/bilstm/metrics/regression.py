"""Scores of predicted numbers. Place: `decode -> score`. numpy only.

Sources: Draper and Smith 1998, Applied Regression Analysis (R squared); Spearman 1904, American Journal of
Psychology 15.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bilstm.errors import ShapeError
from bilstm.metrics.inputs import UndefinedScoreError, check_finite, check_same_rows, midranks, score_or_reason

__all__ = ["evaluate_regression", "mean_absolute_error", "r_squared", "root_mean_squared_error", "spearman"]


def mean_absolute_error(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Return mean |prediction - target|, in units of the target. Both (rows,)."""
    targets, predictions = _checked(targets, predictions)
    return float(np.mean(np.abs(predictions - targets)))


def root_mean_squared_error(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Return sqrt(mean (prediction - target)^2), in units of the target. Both (rows,)."""
    targets, predictions = _checked(targets, predictions)
    return float(np.sqrt(np.mean((predictions - targets) ** 2)))


def r_squared(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Return 1 - sum (y - prediction)^2 / sum (y - mean y)^2: 1 is perfect, 0 no better than the mean, below 0 worse.

    Raises
    ------
    UndefinedScoreError
        If all targets are equal.
    """
    targets, predictions = _checked(targets, predictions)
    total = float(np.sum((targets - targets.mean()) ** 2))
    if np.ptp(targets) == 0:
        raise UndefinedScoreError("R squared needs targets that differ.")
    return 1.0 - float(np.sum((targets - predictions) ** 2)) / total


def spearman(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Return the correlation of ranks, equal values sharing their mean rank; -1 to 1.

    Raises
    ------
    UndefinedScoreError
        If all targets or all predictions are equal.
    """
    targets, predictions = _checked(targets, predictions)
    if np.ptp(targets) == 0 or np.ptp(predictions) == 0:
        raise UndefinedScoreError("Rank correlation needs targets and predictions that differ.")
    first, second = midranks(targets), midranks(predictions)
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def evaluate_regression(predictions: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Score predicted numbers; the result is ready for JSON.

    Parameters
    ----------
    predictions, targets : ndarray of shape (rows,)
        Finite numbers in the same unit.

    Returns
    -------
    dict
        `mean_absolute_error`, `root_mean_squared_error`, `r_squared`, `spearman`, and the mean and standard deviation
        of the targets to read them by. A score without a value is None, and `undefined` says why.
    """
    targets, predictions = _checked(targets, predictions)
    undefined: dict[str, str] = {}
    return {
        "kind": "regression",
        "rows": len(targets),
        "mean_absolute_error": mean_absolute_error(targets, predictions),
        "root_mean_squared_error": root_mean_squared_error(targets, predictions),
        "r_squared": score_or_reason("r_squared", lambda: r_squared(targets, predictions), undefined),
        "spearman": score_or_reason("spearman", lambda: spearman(targets, predictions), undefined),
        "target_mean": float(targets.mean()),
        "target_standard_deviation": float(targets.std()),
        "undefined": undefined,
    }


def _checked(targets: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    for name, values in (("targets", targets), ("predictions", predictions)):
        if values.ndim != 1:
            raise ShapeError(f"{name} must have shape (rows,), got {values.shape}.")
    check_same_rows(targets, predictions, "predictions")
    return check_finite(targets, "targets"), check_finite(predictions, "predictions")
