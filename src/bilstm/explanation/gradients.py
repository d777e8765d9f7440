"""Integrated gradients, and gradient times input to compare with.

Sources: Sundararajan, Taly and Yan 2017 (ICML, arXiv 1703.01365), equation 1; the integral by Gauss and Legendre's
rule, as Captum's "gausslegendre", or quickly by Lobatto's (`QUICK_RULE`). Gradient times input: Shrikumar et al. 2016
(arXiv 1605.01713), here times the difference from the baseline, which is the same rule with a single gradient at the
text itself. Imports numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.explanation.averaged_network import AveragedNetwork
from bilstm.explanation.network import Network

__all__ = [
    "GAP_SHARE",
    "GAP_SMALL",
    "QUICK_RULE",
    "Path",
    "StepAttribution",
    "gradient_times_input",
    "integrated_gradients",
    "quick_gradients",
    "run_path",
]

GAP_SHARE = 0.01  # of the difference that is explained
GAP_SMALL = 0.01  # in the unit of the score; a gap below is small beside any decision
FEWEST_POINTS, MOST_POINTS = 4, 256
BLOCK_STEPS = 32_768


class Rule(NamedTuple):
    """A rule for an integral over 0 to 1: places and weights, each of shape (points,), float64."""

    places: np.ndarray
    weights: np.ndarray


# Lobatto's rule with 5 points (Abramowitz and Stegun 25.4.32), exact for polynomials of degree 7. Its ends are the
# baseline and the text itself, whose scores are wanted anyway.
QUICK_RULE = Rule(
    np.array([0.0, (1 - np.sqrt(3 / 7)) / 2, 0.5, (1 + np.sqrt(3 / 7)) / 2, 1.0]),
    np.array([9.0, 49.0, 64.0, 49.0, 9.0]) / 180,
)


class StepAttribution(NamedTuple):
    """What a method gives for a batch.

    values : ndarray of shape (steps,), float64
        What each step adds to the explained score.
    score, baseline_score : ndarray of shape (batch,), float64
        Of the network alone; the second of the text without information, or what no word gave.
    gap : ndarray of shape (batch,), float64
        |sum of the values - (score - baseline_score)|.
    """

    values: np.ndarray
    score: np.ndarray
    baseline_score: np.ndarray
    gap: np.ndarray


def integrated_gradients(
    network: Network | AveragedNetwork,
    batch: Ragged,
    baseline: np.ndarray,
    contrasts: np.ndarray,
    *,
    points: int | None = None,
    logits: np.ndarray | None = None,
) -> StepAttribution:
    """Integrate the gradient along the straight path from the baseline to the text.

    Parameters
    ----------
    network : Network or AveragedNetwork
    batch : Ragged of vectors (steps, size), float32
    baseline : ndarray of shape (size,) or (steps, size), float32
        Vector of a step without information.
    contrasts : ndarray of the shape of the logits: (batch, outputs), or (steps, outputs) without pooling
        What is explained is the sum of contrast times logit of a text.
    points : int, optional
        Of the rule. By default 4, doubled for the texts whose gap is above
        max(GAP_SHARE * |score - baseline score|, GAP_SMALL), up to 256.
    logits : ndarray, optional
        What the network gives for the batch, where it is known already.

    Returns
    -------
    StepAttribution

    Notes
    -----
    a_i = (x_i - x'_i) * integral of dF(x' + t (x - x')) / dx_i over t from 0 to 1, summed over the features of step i.
    """
    base = np.broadcast_to(baseline, batch.values.shape)
    known = network.run(batch) if logits is None else logits
    score = _scores(network, known, contrasts, batch.offsets)
    empty = network.run(batch.with_values(np.ascontiguousarray(base)))
    baseline_score = _scores(network, empty, contrasts, batch.offsets)
    values = np.zeros(len(batch.values))
    gap = np.abs(score - baseline_score)
    bound = np.maximum(GAP_SHARE * gap, GAP_SMALL)
    open_rows, count = np.flatnonzero(batch.lengths), points or FEWEST_POINTS
    while len(open_rows):
        _integrate(network, batch, base, contrasts, open_rows, legendre(count), values)
        gap = np.abs(_sums(values, batch.offsets) - (score - baseline_score))
        open_rows = open_rows[gap[open_rows] > bound[open_rows]]
        count *= 2
        if points is not None or count > MOST_POINTS:
            break
    return StepAttribution(values, score, baseline_score, gap)


@dataclass(frozen=True, eq=False)
class Path:
    """Texts, their baseline, and the points between them that `QUICK_RULE` needs, run at once.

    Parameters
    ----------
    network : Network or AveragedNetwork
    batch : Ragged of vectors (steps, size), float32
        The texts.
    difference : ndarray of shape (steps, size), float32
        Of the texts from the baseline.
    trace : Trace
        Of all texts at the first point, then all at the second, and so on.
    outputs : ndarray of shape (points, rows, outputs)
        Logits there.
    """

    network: Network | AveragedNetwork
    batch: Ragged
    difference: np.ndarray
    trace: Any
    outputs: np.ndarray

    @property
    def logits(self) -> np.ndarray:
        """What `Network.run` gives for the texts; in the engine with the same bits."""
        return self.outputs[-1]

    def attribute(self, contrasts: np.ndarray) -> StepAttribution:
        """Explain one contrast of the logits a text, as `quick_gradients`; may be called more than once."""
        points = len(self.outputs)
        found = self.network.gradient(self.trace, np.tile(contrasts, (points, 1)))
        by_point = np.einsum("psf,sf->ps", found.reshape(points, *self.difference.shape), self.difference)
        values = QUICK_RULE.weights @ by_point
        score, baseline_score = (
            _scores(self.network, self.outputs[at], contrasts, self.batch.offsets) for at in (-1, 0)
        )
        gap = np.abs(_sums(values, self.batch.offsets) - (score - baseline_score))
        return StepAttribution(values, score, baseline_score, gap)


def run_path(network: Network | AveragedNetwork, batch: Ragged, baseline: np.ndarray) -> Path | None:
    """Run texts along their paths; None for what would take too much memory at once.

    Parameters
    ----------
    network : Network or AveragedNetwork
    batch : Ragged of vectors (steps, size), float32
    baseline : ndarray of shape (size,) or (steps, size), float32
    """
    points, steps = len(QUICK_RULE.places), len(batch.values)
    if points * steps > BLOCK_STEPS:
        return None
    path = np.empty((points, *batch.values.shape), dtype=np.float32)
    path[0], path[-1] = baseline, batch.values
    difference = path[-1] - path[0]
    for at in range(1, points - 1):
        np.multiply(difference, np.float32(QUICK_RULE.places[at]), out=path[at])
        path[at] += path[0]
    starts = np.arange(points)[:, None] * steps + batch.offsets[:-1]
    flat = Ragged(path.reshape(points * steps, batch.values.shape[1]), np.append(starts, points * steps))
    trace = network.trace(flat, for_gradients=True)
    rows, outputs = trace.outputs.shape
    return Path(network, batch, difference, trace, trace.outputs.reshape(points, rows // points, outputs))


def quick_gradients(
    network: Network | AveragedNetwork,
    batch: Ragged,
    baseline: np.ndarray,
    contrasts: np.ndarray,
    *,
    logits: np.ndarray | None = None,
) -> StepAttribution:
    """Integrate the gradient by `QUICK_RULE`: a small fixed price, and the gap is given; as `integrated_gradients`."""
    if (path := run_path(network, batch, baseline)) is not None:
        return path.attribute(contrasts)
    base = np.broadcast_to(baseline, batch.values.shape)
    score = _scores(network, network.run(batch) if logits is None else logits, contrasts, batch.offsets)
    empty = network.run(batch.with_values(np.ascontiguousarray(base)))
    baseline_score = _scores(network, empty, contrasts, batch.offsets)
    values = np.zeros(len(batch.values))
    _integrate(network, batch, base, contrasts, np.flatnonzero(batch.lengths), QUICK_RULE, values)
    gap = np.abs(_sums(values, batch.offsets) - (score - baseline_score))
    return StepAttribution(values, score, baseline_score, gap)


def gradient_times_input(
    network: Network | AveragedNetwork, batch: Ragged, baseline: np.ndarray, contrasts: np.ndarray
) -> StepAttribution:
    """Multiply the gradient at the text with the difference from the baseline; parameters as `integrated_gradients`.

    The values add up to nothing in particular; the gap says how far they are from score - baseline score.
    """
    base = np.broadcast_to(baseline, batch.values.shape)
    trace = network.trace(batch, for_gradients=True)
    found = network.gradient(trace, contrasts)
    values = np.einsum("sf,sf->s", found.astype(np.float64), batch.values - base)
    score = _scores(network, trace.outputs, contrasts, batch.offsets)
    baseline_score = _scores(
        network, network.run(batch.with_values(np.ascontiguousarray(base))), contrasts, batch.offsets
    )
    gap = np.abs(_sums(values, batch.offsets) - (score - baseline_score))
    return StepAttribution(values, score, baseline_score, gap)


def legendre(points: int) -> Rule:
    """Return Gauss and Legendre's rule."""
    places, weights = np.polynomial.legendre.leggauss(points)
    return Rule((places + 1) / 2, weights / 2)


def _integrate(
    network: Network | AveragedNetwork,
    batch: Ragged,
    base: np.ndarray,
    contrasts: np.ndarray,
    rows: np.ndarray,
    rule: Rule,
    values: np.ndarray,
) -> None:
    """Write the attributions of some texts, some texts and all points of the path at once."""
    places, weights = rule
    points, lengths = len(places), batch.lengths
    block = np.cumsum(lengths[rows] * points) // BLOCK_STEPS
    for number in np.unique(block):
        here = rows[block == number]
        step = np.concatenate([np.arange(batch.offsets[row], batch.offsets[row + 1]) for row in here])
        total = np.zeros((len(step), batch.values.shape[1]))
        difference = batch.values[step] - base[step]
        chosen = contrasts[here if network.is_pooled else step]
        group = max(1, BLOCK_STEPS // max(len(step), 1))  # points of a long text that fit into memory at once
        for first in range(0, points, group):
            at = places[first : first + group].astype(np.float32)
            path = base[step] + at[:, None, None] * difference  # (points, steps, size)
            offsets = np.concatenate([[0], np.cumsum(np.tile(lengths[here], len(at)))]).astype(np.int64)
            trace = network.trace(Ragged(path.reshape(-1, path.shape[2]), offsets), for_gradients=True)
            found = network.gradient(trace, np.tile(chosen, (len(at), 1)))
            total += np.tensordot(weights[first : first + group], found.reshape(path.shape).astype(np.float64), 1)
        values[step] = np.einsum("sf,sf->s", total, difference)


def _scores(
    network: Network | AveragedNetwork, logits: np.ndarray, contrasts: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Return the explained score of each text."""
    found = (logits.astype(np.float64) * contrasts).sum(axis=1)
    return found if network.is_pooled else _sums(found, offsets)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Add up the steps of each text."""
    return np.diff(np.concatenate([[0.0], np.cumsum(values)])[offsets])
