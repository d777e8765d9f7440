"""How far to trust a network and how far linear models: weights of their sum, fitted on the development part.

The joined logit is a * network + b_1 * linear_1 + b_2 * linear_2 + ... + c: stacked generalisation (Wolpert 1992,
Neural Networks 5) with a logistic top level. It also calibrates, so no temperature is needed on top. Imports numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Joining", "fit_joining", "fit_joining_to_answers"]

MAX_STEPS = 100
RIDGE = 1e-6  # keeps the Newton step defined where two logits are proportional


@dataclass(frozen=True)
class Joining:
    """Weights of the sum and what they gain.

    Parameters
    ----------
    network, shift : float
        a and c; c is 0 for more than two exclusive classes, which it would not change.
    linear : tuple of float
        b of each linear model; 0 for one that would count against itself.
    loss : float
        Mean negative log likelihood on the development part, in nats.
    """

    network: float
    linear: tuple[float, ...]
    shift: float
    loss: float

    def join(self, network_logits: np.ndarray, margins: np.ndarray) -> np.ndarray:
        """Return joined logits (rows, outputs), float64; margins (rows, outputs, linear models)."""
        joined = self.network * network_logits.astype(np.float64)
        for number, weight in enumerate(self.linear):  # one by one: a matrix product rounds rows by their place
            joined += weight * margins[..., number]
        return joined + self.shift


def fit_joining(network_logits: np.ndarray, margins: np.ndarray, targets: np.ndarray) -> Joining:
    """Find the weights that make the development labels most likely, none of a linear model below 0.

    Parameters
    ----------
    network_logits : ndarray of shape (rows, outputs)
        One output: two classes, the logit of class 1. Several: one of each class or, with targets (rows, outputs), of
        each independent label.
    margins : ndarray of shape (rows, outputs, linear models)
    targets : ndarray of shape (rows,) integer, or (rows, outputs) of 0 and 1

    Returns
    -------
    Joining

    Notes
    -----
    The loss is convex in (a, b, c); Newton steps with halving find its minimum. A linear model whose weight comes out
    negative is left out and the others are fitted again.
    """
    is_exclusive = targets.ndim == 1 and network_logits.shape[1] > 1
    flat = targets.reshape(-1).astype(np.int64)
    classes = network_logits.shape[1] if is_exclusive else 2
    return _fitted(network_logits, margins, np.eye(classes)[flat], is_exclusive)


def fit_joining_to_answers(network_logits: np.ndarray, margins: np.ndarray, answers: np.ndarray) -> Joining:
    """Do the same for probabilities that a teacher gives, where labels are few or flatter.

    Parameters
    ----------
    network_logits, margins : ndarray
        As for `fit_joining`.
    answers : ndarray of shape (rows, classes)
        Rows add up to 1; with one output, columns are class 0 and class 1.
    """
    return _fitted(network_logits, margins, answers.astype(np.float64), network_logits.shape[1] > 1)


def _fitted(network_logits: np.ndarray, margins: np.ndarray, answers: np.ndarray, is_exclusive: bool) -> Joining:
    """Fit weights to the probabilities (decisions, candidates), no linear model's below 0."""
    used = list(range(margins.shape[-1]))
    while True:
        weights, shift, loss = _minimum(network_logits, margins[..., used], answers, is_exclusive)
        negative = [number for number, weight in zip(used, weights[1:], strict=True) if weight < 0]
        if not negative:
            break
        used = [number for number in used if number not in negative]
    linear = np.zeros(margins.shape[-1])
    linear[used] = weights[1:]
    return Joining(float(weights[0]), tuple(float(weight) for weight in linear), shift, loss)


def _minimum(
    network_logits: np.ndarray, margins: np.ndarray, answers: np.ndarray, is_exclusive: bool
) -> tuple[np.ndarray, float, float]:
    """Return the weights of network and linear models, the shift and the loss."""
    features = np.concatenate([network_logits[..., None], margins], axis=-1).astype(np.float64)
    width = features.shape[-1]
    if is_exclusive:
        candidates = features
    else:  # every decision is a row of two candidates: 0, and a z + b m + c
        flat = features.reshape(-1, width)
        yes = np.concatenate([flat, np.ones((len(flat), 1))], axis=1)  # (decisions, width + 1)
        candidates = np.stack([np.zeros_like(yes), yes], axis=1)  # (decisions, 2, width + 1)
    weights = np.zeros(candidates.shape[-1])
    weights[0] = 1.0
    loss, gradient, hessian = _loss(candidates, answers, weights)
    for _ in range(MAX_STEPS):
        step = np.linalg.solve(hessian + RIDGE * np.eye(len(weights)), gradient)
        size = 1.0
        while size > 1e-6 and not (found := _loss(candidates, answers, weights - size * step))[0] <= loss:
            size /= 2
        if size <= 1e-6 or loss - found[0] < 1e-12:
            break
        weights = weights - size * step
        loss, gradient, hessian = found
    return weights[:width], float(weights[width]) if len(weights) > width else 0.0, float(loss)


def _loss(candidates: np.ndarray, answers: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return loss, gradient and Hessian; candidates (rows, classes, weights), answers (rows, classes)."""
    logits = candidates @ weights  # (rows, classes)
    logits -= logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(exponentials.sum(axis=1)) - (answers * logits).sum(axis=1)))
    mean = np.einsum("rc,rcw->rw", probabilities, candidates)
    gradient = (mean - np.einsum("rc,rcw->rw", answers, candidates)).mean(axis=0)
    centred = candidates - mean[:, None, :]
    hessian = np.einsum("rc,rcv,rcw->vw", probabilities, centred, centred) / len(answers)
    return loss, gradient, hessian
