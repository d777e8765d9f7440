"""Which rows make a batch: rows of similar length together, in an order that follows from seed and epoch alone.

Step `batch` of the way of the data, between encoding and layers. Nothing is padded here; similar lengths still help, as
steps of many sequences are computed together. Imports numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bilstm.errors import UsageError

__all__ = ["epoch_batches", "ordered_batches"]

# Rows are sorted by length within pools of this many full batches: larger pools give more even batches, smaller ones
# more chance in which rows meet.
POOL_BATCHES = 50


def epoch_batches(lengths: Any, *, max_rows: int, max_steps: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Deal all rows into batches for one epoch of training, in random order.

    Parameters
    ----------
    lengths : array-like of shape (rows,), int
        Steps of each sequence.
    max_rows : int
        Most rows of a batch.
    max_steps : int
        Most steps of a batch, counted as rows times the longest length, so that the bound holds even where a library
        pads. A single longer sequence forms its own batch.
    seed, epoch : int
        The order follows from these two alone: training can resume at any batch without stored state.

    Returns
    -------
    list of ndarray of int64
        Row numbers; every row stands in exactly one batch.
    """
    lengths = _checked(lengths, max_rows, max_steps)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    pool = max_rows * POOL_BATCHES
    batches: list[np.ndarray] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += _cut(rows, lengths, max_rows, max_steps)
    return [batches[number] for number in random.permutation(len(batches))]


def ordered_batches(lengths: Any, *, max_rows: int, max_steps: int) -> list[np.ndarray]:
    """Deal all rows into batches for prediction, shortest first; parameters as in `epoch_batches`, no chance.

    The batches joined are a permutation of the rows; results must be put back by it.
    """
    lengths = _checked(lengths, max_rows, max_steps)
    return _cut(np.argsort(lengths, kind="stable"), lengths, max_rows, max_steps)


def _checked(lengths: Any, max_rows: int, max_steps: int) -> np.ndarray:
    if max_rows < 1 or max_steps < 1:
        raise UsageError(
            f"a batch needs at least one row and one step, got max_rows={max_rows}, max_steps={max_steps}."
        )
    return np.asarray(lengths, dtype=np.int64).reshape(-1)


def _cut(rows: np.ndarray, lengths: np.ndarray, max_rows: int, max_steps: int) -> list[np.ndarray]:
    """Cut rows, sorted by length, into runs that keep both budgets."""
    batches = []
    start = 0
    for end, length in enumerate(lengths[rows].tolist()):
        count = end - start
        # sorted: this length is the longest of the batch
        if count and (count == max_rows or (count + 1) * length > max_steps):
            batches.append(rows[start:end])
            start = end
    if start < len(rows):
        batches.append(rows[start:])
    return batches
