"""Self-training: the model's own surest answers on unlabelled texts become labels. Imports numpy.

References
----------
.. [1] D. Yarowsky, Unsupervised word sense disambiguation rivaling supervised methods, ACL 1995.
.. [2] D.-H. Lee, Pseudo-label: the simple and efficient semi-supervised learning method for deep neural networks, ICML
   2013 workshop, equation 15: the most probable class is taken as the label.
.. [3] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On calibration of modern neural networks, ICML 2017: why confidence
   is divided by a temperature first (`bilstm.metrics.calibration`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm.errors import ShapeError

__all__ = ["PseudoLabels", "choose_pseudo_labels"]


@dataclass(frozen=True)
class PseudoLabels:
    """Rows that were answered surely enough.

    Parameters
    ----------
    rows : ndarray of int64
        Rising.
    targets : ndarray of int64
        Class of each.
    least_confidence : float
        Probability of the least sure of them; 1.0 if there is none.
    """

    rows: np.ndarray
    targets: np.ndarray
    least_confidence: float


def choose_pseudo_labels(
    probabilities: np.ndarray, class_shares: np.ndarray, *, share: float, threshold: float
) -> PseudoLabels:
    """Choose the surest rows of each class, as many of each as the labelled rows have of it.

    Parameters
    ----------
    probabilities : ndarray of shape (rows, classes)
        Calibrated.
    class_shares : ndarray of shape (classes,)
        Share of each class among the labelled rows; adds up to 1. Without this balance a model that leans to one class
        would lean further at each round.
    share : float
        Of all rows, the most to take, 0 to 1.
    threshold : float
        A row needs at least this probability.

    Raises
    ------
    ShapeError
        If the classes differ in number.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(class_shares):
        raise ShapeError(f"probabilities of shape {probabilities.shape} do not fit {len(class_shares)} classes.")
    answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    sure = confidence >= threshold
    found = np.bincount(answers[sure], minlength=len(class_shares))
    # as many rows in all as keep every class in its share
    within = [found[k] / class_shares[k] for k in range(len(class_shares)) if class_shares[k] > 0]
    total = min(share * len(probabilities), *within)
    chosen = []
    for k, part in enumerate(class_shares):
        rows = np.flatnonzero(sure & (answers == k))
        chosen.append(rows[np.argsort(-confidence[rows], kind="stable")][: int(total * part)])
    rows = np.sort(np.concatenate(chosen))
    least = float(confidence[rows].min()) if len(rows) else 1.0
    return PseudoLabels(rows, answers[rows].astype(np.int64), least)
