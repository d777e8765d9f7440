"""Temperature scaling: one number, fitted on the development part, that makes probabilities mean something.

Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 4.2: p = softmax(z / T), T chosen
to minimise the negative log likelihood. The order of the classes does not change, so accuracy does not either.
numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bilstm.errors import DataError, ShapeError
from bilstm.metrics.inputs import check_classes, check_finite

__all__ = ["MAX_TEMPERATURE", "MIN_TEMPERATURE", "Temperature", "apply_temperature", "fit_temperature"]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 100.0


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Parameters
    ----------
    value : float
        Divide logits by it; above 1 makes probabilities milder. Between 0.05 and 100.
    loss_before, loss_after : float
        Mean negative log likelihood in nats at temperature 1 and at `value`.
    rows : int
        Development rows it was fitted on.
    note : str
        Empty, or why the value is not the minimum: the loss had none inside the range.
    """

    value: float
    loss_before: float
    loss_after: float
    rows: int
    note: str = ""


def apply_temperature(logits: np.ndarray, temperature: float = 1.0, multilabel: bool = False) -> np.ndarray:
    """Return probabilities of logits divided by the temperature, float64.

    Parameters
    ----------
    logits : ndarray of shape (rows,) or (rows, classes)
        (rows,): one logit a row of class 1 against class 0. (rows, classes): one of the classes.
    temperature : float, default=1.0
        Above 0.
    multilabel : bool, default=False
        Take (rows, classes) as independent labels.

    Returns
    -------
    ndarray
        Of the same shape; softmax over the last axis, or sigmoid for (rows,) and multi-label.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ShapeError(f"temperature must be above 0, got {temperature}.")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if scaled.ndim == 1 or multilabel:
        return 0.5 * (1.0 + np.tanh(0.5 * scaled))  # the sigmoid, without overflow
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> Temperature:
    """Find the temperature that minimises the negative log likelihood of development rows.

    Parameters
    ----------
    logits : ndarray of shape (rows,) or (rows, classes)
        Before sigmoid or softmax. (rows,): two classes, the logit of class 1.
    targets : ndarray of shape (rows,) integer, or (rows, classes) of 0 and 1
        Class indices; two-dimensional targets mean independent labels (multi-label).

    Returns
    -------
    Temperature
        With `note` set, and value 1, where every row is right (the loss falls for ever as the temperature falls, so the
        rows say nothing about it).

    Raises
    ------
    DataError
        If there are no rows.
    ShapeError
        If shapes do not fit or a logit is not finite.

    Notes
    -----
    With b = 1 / T the loss mean(logsumexp(b z) - b z_y) is convex, and its slope mean(E_p[z] - z_y) grows with b. The
    root is found by Newton's method on log b, kept inside a bracket by bisection.
    """
    candidates, true = _as_choices(logits, targets)
    before = _loss(candidates, true, 1.0)
    rows = len(np.asarray(targets))
    if np.all(np.ptp(candidates, axis=1) == 0):
        return Temperature(1.0, before, before, rows, "All logits of a row are equal; no temperature changes them.")
    if not np.any(candidates.max(axis=1) > true):
        note = "Every development row is right; there is no temperature to learn from them."
        return Temperature(1.0, before, before, rows, note)
    low, high = math.log(1 / MAX_TEMPERATURE), math.log(1 / MIN_TEMPERATURE)
    note = ""
    if _slope(candidates, true, math.exp(low))[0] >= 0:
        low, high = low, low
        note = f"The logits say nothing about the classes; the temperature is at its limit {MAX_TEMPERATURE:g}."
    elif _slope(candidates, true, math.exp(high))[0] <= 0:
        low, high = high, high
        note = f"The temperature is at its limit {MIN_TEMPERATURE:g}."
    value = 1.0 / math.exp(_root(candidates, true, low, high))
    return Temperature(value, before, _loss(candidates, true, 1 / value), rows, note)


def _root(candidates: np.ndarray, true: np.ndarray, low: float, high: float) -> float:
    """Return u in low..high where the slope at b = exp(u) crosses zero (it grows with b)."""
    u = min(max(0.0, low), high)
    for _ in range(100):
        b = math.exp(u)
        slope, curvature = _slope(candidates, true, b)
        if slope > 0:
            high = min(high, u)
        else:
            low = max(low, u)
        step = slope / (curvature * b) if curvature > 0 else math.inf  # d slope / du = curvature * b
        proposal = u - step
        if not low <= proposal <= high:
            proposal = 0.5 * (low + high)
        if abs(proposal - u) < 1e-12:
            break
        u = proposal
    return u


def _slope(candidates: np.ndarray, true: np.ndarray, b: float) -> tuple[float, float]:
    """Return the first and second derivative of the loss with respect to b."""
    weights = apply_temperature(candidates, 1 / b)
    mean = (weights * candidates).sum(axis=1)
    variance = (weights * (candidates - mean[:, None]) ** 2).sum(axis=1)
    return float(np.mean(mean - true)), float(np.mean(variance))


def _loss(candidates: np.ndarray, true: np.ndarray, b: float) -> float:
    top = candidates.max(axis=1)
    total = np.log(np.exp(b * (candidates - top[:, None])).sum(axis=1)) + b * (top - true)
    return float(np.mean(total))


def _as_choices(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every decision as a choice: candidate logits (decisions, options), logit of the true one (decisions,)."""
    logits, targets = np.asarray(logits), np.asarray(targets)
    if len(logits) == 0:
        raise DataError(
            "A temperature needs development rows, and there are none.", "Give a development part with labels."
        )
    if logits.ndim not in (1, 2) or len(logits) != len(targets) or targets.ndim > logits.ndim:
        raise ShapeError(f"logits of shape {logits.shape} do not fit targets of shape {targets.shape}.")
    logits = check_finite(logits, "logits")
    if targets.ndim == 2:
        if logits.shape != targets.shape:
            raise ShapeError(f"logits of shape {logits.shape} do not fit targets of shape {targets.shape}.")
        logits, targets = logits.ravel(), targets.ravel().astype(np.int64)
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    targets = check_classes(targets, logits.shape[1])
    return logits, logits[np.arange(len(logits)), targets]
