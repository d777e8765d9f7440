"""Rows of n-gram counts as linear models and comparisons see them: weighed, and of length 1.

Salton and Buckley, Term-weighting approaches in automatic text retrieval, 1988: (1 + ln count) times the inverse
document frequency, each row divided by its Euclidean length.

Place in the way of the data: sparse counts -> features. Imports numpy; what it is given is scipy's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["to_unit_length", "weigh"]

CHUNK = 1 << 20  # numbers at a time: what is computed on the way stays small beside the matrix


def weigh(counts: Any, inverse_frequency: np.ndarray) -> Any:
    """Weigh counts in place: (1 + ln count) * inverse_frequency, rows of length 1.

    Parameters
    ----------
    counts : csr of shape (rows, features), float
        Counts above 0.
    inverse_frequency : ndarray of shape (features,)
        Its type, with that of the counts, gives the type of the result.

    Returns
    -------
    csr
        `counts`.
    """
    weighed = counts.data
    if np.result_type(weighed, inverse_frequency) != weighed.dtype:
        weighed = np.empty(len(counts.data), dtype=np.result_type(weighed, inverse_frequency))
    for start in range(0, len(weighed), CHUNK):
        own = slice(start, start + CHUNK)
        weighed[own] = (1 + np.log(counts.data[own])) * inverse_frequency[counts.indices[own]]
    counts.data = weighed
    return to_unit_length(counts)


def to_unit_length(matrix: Any) -> Any:
    """Divide each row of a csr matrix by its Euclidean length, in place; rows of zeros stay as they are."""
    bounds = matrix.indptr
    first = 0
    while first + 1 < len(bounds):
        last = max(int(np.searchsorted(bounds, int(bounds[first]) + CHUNK, side="right")) - 1, first + 1)
        per_row = np.diff(bounds[first : last + 1])
        own = matrix.data[bounds[first] : bounds[last]]
        squares = np.bincount(np.repeat(np.arange(len(per_row)), per_row), own**2, minlength=len(per_row))
        lengths = np.sqrt(np.where(squares > 0, squares, 1.0)).astype(own.dtype)
        own /= np.repeat(lengths, per_row)
        first = last
    return matrix
