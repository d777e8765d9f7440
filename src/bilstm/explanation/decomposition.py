"""Contextual decomposition: what a phrase, and only the phrase, adds to the logits through an LSTM.

Source: Murdoch, Liu and Yu 2018 (ICLR, arXiv 1801.05453), sections 3.1 and 3.2. Every state is a sum of a relevant part
(from the phrase) and an irrelevant one. With a the relevant sum that a gate reads, b its bias and s all of its sum, a
nonlinearity gives the phrase the mean over both orders of the other two terms, the bias always first:

    L(a) = 1/2 (act(a + b) - act(b) + act(s) - act(s - a)),    L(b) = act(b)

With i, f, g for the gates and c, h for the relevant parts of the states,

    c_t = L_i(a) (L_g(a) + L_g(b)) + L_i(b) L_g(a) + [t in the phrase] L_i(b) L_g(b) + (L_f(a) + L_f(b)) c_(t-1)
    h_t = o_t 1/2 (tanh(c_t) + tanh(C_t) - tanh(C_t - c_t)),   C_t the whole state, o_t not taken apart

The irrelevant part is the whole less the relevant one, at every place; so both add up to the logits. Maximum pooling
takes the step that it takes in the whole text; means and linear layers are linear; their bias is irrelevant. Before its
phrase everything is irrelevant, so a phrase costs the steps from its start on only, all phrases as one ragged batch.
Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError
from bilstm.explanation.averaged_network import AveragedNetwork, mean_of
from bilstm.explanation.network import DirectionTrace, LayerTrace, Network
from bilstm.explanation.recurrent_trace import Clock, LstmGates
from bilstm.runtime.steps import sigmoid

__all__ = ["can_decompose", "decompose", "phrase_logits"]

BLOCK_STEPS = 40_000  # (phrase, step) pairs at once


def can_decompose(network: Network | AveragedNetwork) -> bool:
    """Whether the rules apply: one LSTM layer, directions side by side, pooling without attention, linear layers."""
    if len(network.layers) < 2:
        return False
    first, second, *rest = network.layers
    return (
        isinstance(first, description.Recurrent)
        and first.cell == "lstm"
        and first.num_layers == 1
        and (not first.bidirectional or first.merge_mode in ("concat", None))
        and isinstance(second, description.Pooling)
        and "attention" not in second.kinds
        and all(isinstance(layer, description.Linear) for layer in rest)
    )


def phrase_logits(network: Network | AveragedNetwork, batch: Ragged, rows: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Return what phrases add to the logits, shape (phrases, outputs); parameters as `decompose`.

    The mean over the members of an ensemble.
    """
    return mean_of([decompose(member, own, rows, spans)[0] for member, own in network.parts(batch)])


class _Relevant(NamedTuple):
    """Relevant parts of h in one direction.

    states : ndarray of shape (pairs, hidden)
        For each phrase, from its first step in the order of reading to the end.
    offsets : ndarray of shape (phrases + 1,)
    first : ndarray of shape (phrases,)
        First step read, counted in the order of reading.
    """

    states: np.ndarray
    offsets: np.ndarray
    first: np.ndarray


def decompose(network: Network, batch: Ragged, rows: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split logits into what a phrase gives and the rest.

    Parameters
    ----------
    network : Network
    batch : Ragged of vectors (steps, size), float32
    rows : ndarray of shape (phrases,), int64
        Text of each phrase.
    spans : ndarray of shape (phrases, 2), int64
        First step of the phrase in its text, and the one after its last.

    Returns
    -------
    relevant, irrelevant : ndarray of shape (phrases, outputs), float64

    Raises
    ------
    UsageError
        For a network that is not one LSTM layer, pooling and linear layers.
    """
    if not can_decompose(network):
        raise UsageError(
            "contextual decomposition is defined for one LSTM layer with pooling (last, max, mean).",
            "Choose another method, for example occlusion.",
        )
    trace = network.trace(batch)
    sizes = np.cumsum(np.maximum(batch.lengths[rows], 1)) // BLOCK_STEPS
    outputs = trace.outputs.shape[1]
    relevant, irrelevant = np.zeros((len(rows), outputs)), np.zeros((len(rows), outputs))
    for number in np.unique(sizes):
        here = np.flatnonzero(sizes == number)
        parts = [
            _pool(trace.layers[1], one, batch, rows[here], _read(one, batch, rows[here], spans[here]))
            for one in trace.layers[0].stacked[0]
        ]
        flow_b = np.concatenate([np.concatenate(kinds, axis=1) for kinds in zip(*parts, strict=True)], axis=1)
        flow_b = flow_b.astype(np.float64)
        flow_g = trace.layers[1].outputs[rows[here]] - flow_b
        for one in trace.layers[2:]:
            flow_b, flow_g = _linear(one, flow_b, flow_g)
        relevant[here], irrelevant[here] = flow_b, flow_g
    return relevant, irrelevant


def _read(one: DirectionTrace, batch: Ragged, rows: np.ndarray, spans: np.ndarray) -> _Relevant:
    """Run the relevant part through one direction, from the start of each phrase to the end of its text."""
    starts, lengths = batch.offsets[:-1][rows], batch.lengths[rows]
    if one.direction.is_backward:
        spans = lengths[:, None] - spans[:, ::-1]
    first = np.where(spans[:, 0] < spans[:, 1], spans[:, 0], lengths)  # an empty phrase reads nothing
    offsets = np.concatenate([[0], np.cumsum(lengths - first)]).astype(np.int64)
    phrase = np.repeat(np.arange(len(rows)), lengths - first)
    place = np.arange(offsets[-1]) - offsets[:-1][phrase] + first[phrase]
    step = (starts + lengths - 1)[phrase] - place if one.direction.is_backward else starts[phrase] + place
    clock = Clock(offsets, False)
    inside = place < spans[phrase, 1]
    states = _relevant_states(one, clock, clock.gather(step), clock.gather(inside))
    return _Relevant(clock.scatter(states), offsets, first)


def _relevant_states(one: DirectionTrace, clock: Clock, step: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the relevant part of h at every (phrase, step); `step` and `inside` (in the phrase) are time-major."""
    gates, direction, size = one.gates(), one.direction, one.direction.hidden_size
    assert isinstance(gates, LstmGates)
    order = one.clock.scatter
    whole = [order(part) for part in (gates.i, gates.f, gates.g)]
    c_whole, o = order(gates.c), order(gates.o)
    bias = np.split((direction.b_ih + direction.b_hh)[: 3 * size], 3)
    w_hh = direction.w_hh[: 3 * size].T
    x_part = one.inputs @ direction.w_ih[: 3 * size].T
    sums = x_part + order(gates.h_before) @ w_hh + (direction.b_ih + direction.b_hh)[: 3 * size]
    h, c = (np.zeros((len(step), size), dtype=np.float32) for _ in range(2))
    for now, before, _ in clock.moments:
        at, is_in = step[now], inside[now, None]
        relevant = np.where(is_in, x_part[at], np.float32(0))
        if before is not None:
            relevant = relevant + h[before] @ w_hh
        terms = zip(np.split(relevant, 3, axis=1), np.split(sums[at], 3, axis=1), bias, whole, strict=True)
        acts = (sigmoid, sigmoid, np.tanh)
        (i_a, i_b), (f_a, f_b), (g_a, g_b) = (
            (_share(act, a, b, s, value[at]), act(b)) for act, (a, s, b, value) in zip(acts, terms, strict=True)
        )
        c[now] = i_a * (g_a + g_b) + i_b * g_a + np.where(is_in, i_b * g_b, np.float32(0))
        if before is not None:
            c[now] += (f_a + f_b) * c[before]
        all_c = c_whole[at]
        h[now] = o[at] * 0.5 * (np.tanh(c[now]) + np.tanh(all_c) - np.tanh(all_c - c[now]))
    return h


def _share(
    act: Callable[[np.ndarray], np.ndarray], a: np.ndarray, b: np.ndarray, s: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """L(a) of the module's docstring; `value` is act(s)."""
    return 0.5 * (act(a + b) - act(b) + value - act(s - a))


def _pool(
    pooled: LayerTrace, one: DirectionTrace, batch: Ragged, rows: np.ndarray, found: _Relevant
) -> list[np.ndarray]:
    """Return the relevant part of each kind of pooling for one direction, (phrases, hidden) each."""
    layer, size = pooled.layer, one.direction.hidden_size
    assert isinstance(layer, description.Pooling)
    lengths, counts = batch.lengths[rows], np.diff(found.offsets)
    result = []
    for kind in layer.kinds:
        part = np.zeros((len(rows), size))
        some = np.flatnonzero(counts)
        if kind == "mean" and len(some):
            sums = np.add.reduceat(found.states.astype(np.float64), found.offsets[:-1][some], axis=0)
            part[some] = sums / lengths[some, None]
        elif kind == "last":
            part[some] = found.states[found.offsets[1:][some] - 1]
        elif kind == "max":
            place = _places_of_maximum(one, batch)[rows]  # in the order of reading
            pair = found.offsets[:-1, None] + place - found.first[:, None]
            is_read = (place >= found.first[:, None]) & (counts[:, None] > 0)
            where, unit = np.nonzero(is_read)
            part[where, unit] = found.states[pair[where, unit], unit]
        result.append(part)
    return result


def _places_of_maximum(one: DirectionTrace, batch: Ragged) -> np.ndarray:
    """Return the step of each unit's maximum in each text, counted in the order of reading, (texts, hidden)."""
    places = np.zeros((len(batch), one.direction.hidden_size), dtype=np.int64)
    for row in np.flatnonzero(batch.lengths):
        states = one.states[batch.offsets[row] : batch.offsets[row + 1]]
        places[row] = states.argmax(axis=0)
        if one.direction.is_backward:
            places[row] = len(states) - 1 - places[row]
    return places


def _linear(one: LayerTrace, relevant: np.ndarray, irrelevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pass both parts through a linear layer and its activation."""
    layer, weight, bias = one.layer, one.weights["weight"].astype(np.float64), one.weights["bias"].astype(np.float64)
    assert isinstance(layer, description.Linear)
    a, rest = relevant @ weight.T, irrelevant @ weight.T
    if layer.activation == "none":
        return a, rest + bias
    act = _ACTIVATIONS[layer.activation]
    value = act(a + rest + bias)
    share = _share(act, a, bias, a + rest + bias, value)
    return share, value - share


def _relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"relu": _relu, "tanh": np.tanh, "sigmoid": sigmoid}
