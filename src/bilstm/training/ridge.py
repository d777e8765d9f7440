"""Least squares with a ridge over a large sparse table. Imports numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["sparse_ridge"]

TOLERANCE = 1e-3


def sparse_ridge(features: Any, targets: np.ndarray, weights: np.ndarray, strength: float, steps: int) -> np.ndarray:
    """Return, for each column t of the targets, the v that minimises sum_r w_r (t_r - x_r v)^2 + strength |v|^2.

    Parameters
    ----------
    features : scipy.sparse csr of shape (rows, features), float32
    targets : ndarray of shape (rows, outputs)
    weights : ndarray of shape (rows,)
    strength : float
    steps : int
        At most; ending early keeps rare features small, as a larger ridge would.

    Returns
    -------
    ndarray of shape (outputs, features), float64

    Notes
    -----
    Conjugate gradients on (X^T W X + strength I) v = X^T W t (Hestenes and Stiefel 1952), every column for itself.
    """
    across, own = features.T.tocsr(), weights.astype(np.float32)[:, None]
    residual = across @ (own * targets.astype(np.float32))
    found, direction = np.zeros_like(residual), residual.copy()
    squares = first = (residual**2).sum(axis=0)
    tiny = np.finfo(np.float32).tiny
    for _ in range(steps):
        if (squares <= TOLERANCE**2 * first).all():
            break
        applied = across @ (own * (features @ direction)) + np.float32(strength) * direction
        step = squares / np.maximum((direction * applied).sum(axis=0), tiny)
        found += step * direction
        residual -= step * applied
        squares, before = (residual**2).sum(axis=0), squares
        direction = residual + squares / np.maximum(before, tiny) * direction
    return found.T.astype(np.float64)
