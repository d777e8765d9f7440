"""Checks of what is given to a metric, and the one way an undefined score is written. Imports only `errors`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bilstm.errors import DataError, ShapeError

__all__ = ["UndefinedScoreError", "check_classes", "check_finite", "check_same_rows", "midranks", "score_or_reason"]


class UndefinedScoreError(DataError):
    """A score that has no value on these rows, for example ROC AUC where only one class occurs."""


def check_same_rows(targets: np.ndarray, others: np.ndarray, name: str) -> int:
    """Return the number of rows, or raise if there are none or the two arrays differ.

    Parameters
    ----------
    targets, others : ndarray
        Compared on their first axis.
    name : str
        What `others` is, for the message.

    Raises
    ------
    DataError
        If there are no rows.
    ShapeError
        If the numbers of rows differ.
    """
    if len(targets) != len(others):
        raise ShapeError(f"targets have {len(targets)} rows, {name} {len(others)}; they must be equal.")
    if len(targets) == 0:
        raise DataError("There are no rows to score.", "Give at least one labelled row.")
    return len(targets)


def check_classes(targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Return `targets` as int64 of shape (rows,); raise ShapeError unless all are in 0 .. num_classes - 1."""
    targets = np.asarray(targets)
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise ShapeError(f"targets must be integers of shape (rows,), got {targets.dtype} of shape {targets.shape}.")
    wrong = np.flatnonzero((targets < 0) | (targets >= num_classes))
    if len(wrong):
        row = int(wrong[0])
        raise ShapeError(f"targets[{row}] is {targets[row]}; classes are 0 to {num_classes - 1}.")
    return targets.astype(np.int64, copy=False)


def check_finite(values: np.ndarray, name: str) -> np.ndarray:
    """Return `values` as float64; raise ShapeError naming the first row that is NaN or infinite."""
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise ShapeError(f"{name}[{row}] is not finite: {values[row]}.")
    return values


def midranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, equal values sharing the mean of their ranks. (rows,) -> (rows,) float64."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # rank of the last member of each group of equal values
    return (last - (counts - 1) / 2.0)[inverse]


def score_or_reason(name: str, score: Callable[[], float], undefined: dict[str, str]) -> float | None:
    """Return a finite score, or None with the reason added to `undefined` (JSON has no NaN)."""
    try:
        value: Any = float(score())
    except UndefinedScoreError as error:
        undefined[name] = str(error)
        return None
    if not math.isfinite(value):
        undefined[name] = f"{name} is not finite."
        return None
    return value
