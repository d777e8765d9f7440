"""Scores of a classifier with one class per row. Place: `decode -> score`. numpy only.

Probabilities are (rows, classes), targets (rows,) class indices. Sources: Guo et al. 2017, arXiv 1706.04599 (expected
calibration error); Brier 1950, Monthly Weather Review 78; Wilson 1927, JASA 22; Fawcett 2006, Pattern Recognition
Letters 27 (ROC AUC as a rank statistic). Where classes are missing the conventions are scikit-learn's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from bilstm.errors import DataError, ShapeError
from bilstm.metrics.inputs import (
    UndefinedScoreError,
    check_classes,
    check_finite,
    check_same_rows,
    midranks,
    score_or_reason,
)

__all__ = [
    "ClassScores",
    "ReliabilityBins",
    "accuracy",
    "balanced_accuracy",
    "binary_roc_auc",
    "brier_score",
    "confusion_matrix",
    "evaluate_classification",
    "expected_calibration_error",
    "log_loss",
    "macro_average",
    "mcnemar_p_value",
    "precision_recall_f1",
    "reliability_bins",
    "roc_auc",
    "wilson_interval",
]

DEFAULT_BINS = 15  # Guo et al. 2017, section 5


def accuracy(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Return the share of rows whose predicted class is the true one. Both (rows,) integers."""
    check_same_rows(targets, predictions, "predictions")
    return float(np.mean(np.asarray(targets) == np.asarray(predictions)))


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion.

    Parameters
    ----------
    correct, total : int
        0 <= correct <= total, total >= 1.
    confidence : float, default=0.95
        Probability that such intervals cover the true proportion, between 0 and 1.

    Returns
    -------
    low, high : float
        Within 0..1.

    Notes
    -----
    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n): Wilson 1927.
    """
    if total < 1 or not 0 <= correct <= total:
        raise DataError(f"An interval needs 0 <= correct <= total and total >= 1, got {correct} of {total}.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count rows by true class (row) and predicted class (column). -> (num_classes, num_classes) int64."""
    check_same_rows(targets, predictions, "predictions")
    pairs = check_classes(targets, num_classes) * num_classes + check_classes(predictions, num_classes)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Return the mean recall over the classes that occur in the targets.

    Source: Brodersen et al. 2010, ICPR, "The balanced accuracy and its posterior distribution".
    """
    support = confusion.sum(axis=1)
    return float(np.mean(np.diag(confusion)[support > 0] / support[support > 0]))


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of each class, shape (classes,) each; NaN where the denominator is 0.

    `support` counts the true rows of a class, `predicted` the rows given that class.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    predicted: np.ndarray


def precision_recall_f1(confusion: np.ndarray) -> ClassScores:
    """Return per-class scores from counts.

    Parameters
    ----------
    confusion : ndarray of shape (classes, classes)
        True class by row, predicted class by column.

    Notes
    -----
    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN): van Rijsbergen 1979.
    """
    hits = np.diag(confusion)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassScores(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, support + predicted),
        support=support,
        predicted=predicted,
    )


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


def macro_average(scores: np.ndarray, occurs: np.ndarray) -> float:
    """Return the mean over the classes in `occurs` (bool, (classes,)), an undefined score counting as 0."""
    return float(np.mean(np.nan_to_num(scores[occurs])))


def binary_roc_auc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the probability that a positive row scores above a negative one, ties counting one half.

    Parameters
    ----------
    is_positive : ndarray of shape (rows,), bool
    scores : ndarray of shape (rows,)
        Higher means more likely positive; only the order matters.

    Raises
    ------
    UndefinedScoreError
        If all rows are positive or all negative.

    Notes
    -----
    (sum of positive ranks - P(P + 1)/2) / (P N), the Mann-Whitney statistic: Fawcett 2006, section 7.
    """
    is_positive = np.asarray(is_positive, dtype=bool)
    check_same_rows(is_positive, scores, "scores")
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    if positives == 0 or negatives == 0:
        raise UndefinedScoreError("ROC AUC needs rows inside and outside the class.")
    rank_sum = float(midranks(np.asarray(scores))[is_positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def roc_auc(targets: np.ndarray, probabilities: np.ndarray, names: Sequence[str] = ()) -> float:
    """Return ROC AUC: of class 1 where there are two classes, else one-against-rest, plain mean over classes.

    `names` are used in the message where a class is missing.

    Raises
    ------
    UndefinedScoreError
        If a class has no row, or all rows.
    """
    targets, probabilities = _checked(targets, probabilities)
    num_classes = probabilities.shape[1]
    absent = np.flatnonzero(np.bincount(targets, minlength=num_classes) == 0)
    if len(absent):
        missing = repr(str(names[absent[0]])) if len(names) else str(absent[0])
        raise UndefinedScoreError(f"ROC AUC needs rows of every class; class {missing} has none here.")
    classes = [1] if num_classes == 2 else range(num_classes)
    return float(np.mean([binary_roc_auc(targets == index, probabilities[:, index]) for index in classes]))


def log_loss(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean of -ln p(true class), in nats; p is kept within 2.2e-16 of 0 and 1 (float64 epsilon)."""
    targets, probabilities = _checked(targets, probabilities)
    epsilon = np.finfo(np.float64).eps
    chosen = probabilities[np.arange(len(targets)), targets]
    return float(-np.mean(np.log(np.clip(chosen, epsilon, 1 - epsilon))))


def brier_score(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean squared distance of the probabilities from the truth.

    Two classes: mean (p_1 - y)^2, between 0 and 1. More: mean over rows of the sum over classes, between 0 and 2, as
    Brier 1950 defines it.
    """
    targets, probabilities = _checked(targets, probabilities)
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(targets)), targets] = 1.0
    total = float(np.mean(np.sum((probabilities - truth) ** 2, axis=1)))
    return total / 2 if probabilities.shape[1] == 2 else total


@dataclass(frozen=True)
class ReliabilityBins:
    """Rows grouped by confidence into intervals (edges[m], edges[m + 1]] of equal width.

    `edges` has shape (bins + 1,); `counts`, `mean_confidence` and `accuracy` (bins,), NaN where a bin is empty.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean_confidence: np.ndarray
    accuracy: np.ndarray

    def error(self) -> float:
        """Return the expected calibration error: sum over bins of |B| / n |acc(B) - conf(B)| (Guo 2017, eq. 3)."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.mean_confidence[filled])
        return float(np.sum(self.counts[filled] * gaps) / self.counts.sum())


def reliability_bins(targets: np.ndarray, probabilities: np.ndarray, num_bins: int = DEFAULT_BINS) -> ReliabilityBins:
    """Group rows by the probability of the predicted class.

    Parameters
    ----------
    targets : ndarray of shape (rows,), integer
    probabilities : ndarray of shape (rows, classes)
    num_bins : int, default=15
        Intervals of equal width over 0..1, open on the left, closed on the right.
    """
    targets, probabilities = _checked(targets, probabilities)
    confidence = probabilities.max(axis=1)
    is_correct = probabilities.argmax(axis=1) == targets
    return bin_confidences(confidence, is_correct, num_bins)


def bin_confidences(confidence: np.ndarray, is_correct: np.ndarray, num_bins: int = DEFAULT_BINS) -> ReliabilityBins:
    """Group `confidence` (rows,) within 0..1 by equal width, with the share of `is_correct` (rows,) in each bin."""
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    return ReliabilityBins(
        edges=edges,
        counts=counts,
        mean_confidence=_ratio(np.bincount(bins, weights=confidence, minlength=num_bins), counts),
        accuracy=_ratio(np.bincount(bins, weights=is_correct, minlength=num_bins), counts),
    )


def expected_calibration_error(targets: np.ndarray, probabilities: np.ndarray, num_bins: int = DEFAULT_BINS) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width (Guo et al. 2017, eq. 3)."""
    return reliability_bins(targets, probabilities, num_bins).error()


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return how often chance alone would part two equally good classifiers at least as far.

    Parameters
    ----------
    only_first, only_second : int
        Rows that only the first, or only the second, has right; at least 0.

    Returns
    -------
    float
        Between 0 and 1; 1 where the two never differ. Small values mean a real difference.

    Notes
    -----
    Exact two-sided binomial test of only_first in only_first + only_second at 1/2: McNemar 1947, Psychometrika 12.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    if fewer < 0:
        raise DataError(f"Counts of rows cannot be negative, got {only_first} and {only_second}.")
    # terms in logarithms: 2^-total is below the smallest float from 1,075 rows on
    log_half = total * math.log(0.5)
    log_terms = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) + log_half for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(term) for term in log_terms))


def evaluate_classification(
    probabilities: np.ndarray, targets: np.ndarray, names: Sequence[str], num_bins: int = DEFAULT_BINS
) -> dict[str, Any]:
    """Score a classifier on labelled rows; the result is ready for JSON.

    Parameters
    ----------
    probabilities : ndarray of shape (rows, classes)
        Each row sums to 1. The predicted class is the most probable one, the first of equals.
    targets : ndarray of shape (rows,), integer
        True classes, indices into `names`.
    names : sequence of str
        The classes; at least two.
    num_bins : int, default=15
        Bins of the calibration error.

    Returns
    -------
    dict
        `accuracy` with `accuracy_interval` (Wilson, 95 %), `balanced_accuracy`, macro scores, `roc_auc`, `log_loss`,
        `brier_score`, `expected_calibration_error`, `calibration` (the bins), `confusion_matrix` (true by row),
        `per_class`. A score without a value is None, and `undefined` says why.

    Raises
    ------
    DataError
        If there are no rows.
    ShapeError
        If shapes, classes or probabilities do not fit.
    """
    targets, probabilities = _checked(targets, probabilities)
    if probabilities.shape[1] != len(names):
        raise ShapeError(f"probabilities have {probabilities.shape[1]} classes, names {len(names)}.")
    predictions = probabilities.argmax(axis=1)
    confusion = confusion_matrix(targets, predictions, len(names))
    scores = precision_recall_f1(confusion)
    occurs = (scores.support + scores.predicted) > 0
    bins = reliability_bins(targets, probabilities, num_bins)
    correct = int(np.trace(confusion))
    undefined: dict[str, str] = {}
    return {
        "kind": "classification",
        "rows": len(targets),
        "classes": [str(name) for name in names],
        "accuracy": correct / len(targets),
        "accuracy_interval": list(wilson_interval(correct, len(targets))),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_precision": macro_average(scores.precision, occurs),
        "macro_recall": macro_average(scores.recall, occurs),
        "macro_f1": macro_average(scores.f1, occurs),
        "roc_auc": score_or_reason("roc_auc", lambda: roc_auc(targets, probabilities, names), undefined),
        "log_loss": log_loss(targets, probabilities),
        "brier_score": brier_score(targets, probabilities),
        "expected_calibration_error": bins.error(),
        "calibration": {
            "bins": num_bins,
            "edges": bins.edges.tolist(),
            "counts": bins.counts.tolist(),
            "mean_confidence": _null_for_nan(bins.mean_confidence),
            "accuracy": _null_for_nan(bins.accuracy),
        },
        "confusion_matrix": confusion.tolist(),
        "per_class": per_class_rows(names, scores),
        "undefined": undefined,
    }


def per_class_rows(names: Sequence[str], scores: ClassScores) -> list[dict[str, Any]]:
    """Return one JSON object a class; None where the class never occurs (recall) or is never predicted (precision)."""
    columns = zip(
        names,
        _null_for_nan(scores.precision),
        _null_for_nan(scores.recall),
        _null_for_nan(scores.f1),
        scores.support.tolist(),
        scores.predicted.tolist(),
        strict=True,
    )
    keys = ("class", "precision", "recall", "f1", "support", "predicted")
    return [dict(zip(keys, (str(row[0]), *row[1:]), strict=True)) for row in columns]


def _null_for_nan(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _checked(targets: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 targets and float64 probabilities, or raise if they cannot be what they should be."""
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ShapeError(f"probabilities must have shape (rows, 2 or more classes), got {probabilities.shape}.")
    check_same_rows(np.asarray(targets), probabilities, "probabilities")
    probabilities = check_finite(probabilities, "probabilities")
    # float32 softmax over many classes may be off by rounding; 1e-3 still tells logits from probabilities
    wrong = np.flatnonzero((probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > 1e-3))
    if len(wrong):
        row = int(wrong[0])
        raise ShapeError(f"probabilities[{row}] must be at least 0 and sum to 1, got {probabilities[row].tolist()}.")
    return check_classes(targets, probabilities.shape[1]), probabilities
