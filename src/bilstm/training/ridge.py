"""Least squares with a ridge over a large sparse table. Imports numpy; scipy inside the function."""

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
    Conjugate gradients on (X^T W X + strength I) v = X^T W t (Hestenes and Stiefel 1952).
    """
    from scipy.sparse.linalg import LinearOperator, cg

    across = features.T.tocsr()
    own = weights.astype(np.float32)

    def apply(vector: np.ndarray) -> np.ndarray:
        return across @ (own * (features @ vector)) + np.float32(strength) * vector

    operator: Any = LinearOperator(shape=(features.shape[1],) * 2, matvec=apply, dtype=np.float32)  # type: ignore[call-arg]
    solved = []
    for column in targets.T.astype(np.float32):
        found, _ = cg(operator, across @ (own * column), rtol=TOLERANCE, maxiter=steps)
        solved.append(found)
    return np.stack(solved).astype(np.float64)
