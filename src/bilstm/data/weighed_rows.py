"""Rows of n-gram counts as linear models and comparisons see them: weighed, and of length 1.

Salton and Buckley, Term-weighting approaches in automatic text retrieval, 1988: (1 + ln count) times the inverse
document frequency, each row divided by its Euclidean length.

Place in the way of the data: sparse counts -> features. Imports numpy; what it is given is scipy's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["to_unit_length", "weigh"]


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
    counts.data = (1 + np.log(counts.data)) * inverse_frequency[counts.indices]
    return to_unit_length(counts)


def to_unit_length(matrix: Any) -> Any:
    """Divide each row of a csr matrix by its Euclidean length, in place; rows of zeros stay as they are."""
    per_row = np.diff(matrix.indptr)
    squares = np.bincount(np.repeat(np.arange(len(per_row)), per_row), matrix.data**2, minlength=len(per_row))
    lengths = np.sqrt(np.where(squares > 0, squares, 1.0)).astype(matrix.data.dtype)
    matrix.data /= np.repeat(lengths, per_row)
    return matrix
