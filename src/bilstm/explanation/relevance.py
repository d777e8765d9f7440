"""Layer-wise relevance propagation through LSTM and GRU layers.

Sources: Bach et al. 2015 (PLOS ONE 10(7)), the epsilon rule, equation 58; Arras et al. 2017 (WASSA, arXiv 1706.07206),
section 3.2: in a product of a gate and a signal the signal takes all; Arras et al. 2019 (arXiv 1909.12114), "LRP-all".
For the GRU the same two rules are applied to torch's equations: the gates r and z take nothing. A plain RNN has no
sum of old and new along time; the epsilon rule alone lets relevance grow without bound there (measured: 10,000 times
the score within 70 steps), so it is refused.

A linear map z_j = sum_i w_ji x_i + b_j gives input i the share w_ji x_i / (z_j + e sign(z_j)) of the relevance of z_j.
What goes to biases and to the stabilizer e belongs to no word: it is added up and given as the baseline score, so that
words and baseline add up to the explained score. Imports numpy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError
from bilstm.explanation.gradients import StepAttribution
from bilstm.explanation.network import DirectionTrace, LayerTrace, Network, attention_of, last_steps
from bilstm.explanation.recurrent_trace import GruGates, LstmGates

__all__ = ["EPSILON", "relevance"]

EPSILON = 1e-3  # as in Arras et al.'s code


def relevance(network: Network, batch: Ragged, contrasts: np.ndarray, *, epsilon: float = EPSILON) -> StepAttribution:
    """Propagate the explained score back to the steps.

    Parameters
    ----------
    network : Network
    batch : Ragged of vectors (steps, size), float32
    contrasts : ndarray of the shape of the logits
        What is explained is the sum of contrast times logit.
    epsilon : float
        Stabilizer.

    Returns
    -------
    StepAttribution
        `baseline_score` is the relevance of biases and stabilizer; `gap` what is lost by rounding.

    Raises
    ------
    UsageError
        For layers to which the rules do not apply: a plain RNN, directions that are multiplied, a sigmoid.
    """
    for layer in network.layers:
        if getattr(layer, "activation", "none") == "sigmoid":
            raise _no_rule("a sigmoid between layers")
        if isinstance(layer, description.Recurrent) and layer.cell == "rnn":
            raise _no_rule("a plain RNN")
    trace = network.trace(batch)
    ledger = _Ledger(batch.offsets, epsilon)
    pooled_from = next(
        (at for at, one in enumerate(trace.layers) if isinstance(one.layer, description.Pooling)), len(trace.layers)
    )
    terms = contrasts * trace.outputs.astype(np.float64)
    flow = terms
    for number in range(len(trace.layers) - 1, -1, -1):
        one = trace.layers[number]
        if isinstance(one.layer, description.Linear):
            flow = ledger.linear(flow, one, is_pooled=number > pooled_from)
        elif isinstance(one.layer, description.Convolution):
            flow = ledger.convolution(flow, one)
        elif isinstance(one.layer, description.Pooling):
            flow = ledger.pooling(flow, one, trace.layers[number - 1] if number else None)
        else:
            flow = ledger.recurrent(flow, one)
    values, score = flow.sum(axis=1), terms.sum(axis=1)
    score = score if pooled_from < len(trace.layers) else ledger.by_text(score)
    return StepAttribution(values, score, ledger.lost, np.abs(ledger.by_text(values) + ledger.lost - score))


class _Ledger:
    """The rules, and the relevance that no word gets, kept by text."""

    def __init__(self, offsets: np.ndarray, epsilon: float):
        self.offsets, self.epsilon = offsets, epsilon
        self.row_of_step = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        self.lost = np.zeros(len(offsets) - 1)

    def by_text(self, values: np.ndarray) -> np.ndarray:
        """Add up values of steps by text."""
        return np.bincount(self.row_of_step, values, minlength=len(self.lost))

    def push(self, values: np.ndarray) -> np.ndarray:
        """Return the stabilizer: what moves values away from zero."""
        return self.epsilon * np.where(values >= 0, 1.0, -1.0)

    def linear(self, flow: np.ndarray, one: LayerTrace, is_pooled: bool) -> np.ndarray:
        """Share the relevance (rows, outputs) of a linear layer among its inputs (rows, inputs)."""
        weight, bias = one.weights["weight"].astype(np.float64), one.weights["bias"].astype(np.float64)
        sums = one.inputs @ weight.T + bias
        push = self.push(sums)
        ratio = flow / (sums + push)
        lost = (ratio * (bias + push)).sum(axis=1)
        self.lost += lost if is_pooled else self.by_text(lost)
        return one.inputs * (ratio @ weight)

    def convolution(self, flow: np.ndarray, one: LayerTrace) -> np.ndarray:
        """Share the relevance of a convolution among the steps it saw."""
        layer, offsets = one.layer, self.offsets
        assert isinstance(layer, description.Convolution)
        place, inputs = np.arange(len(one.inputs)), one.inputs.astype(np.float64)
        taps = []
        for tap in range(layer.kernel_size):
            source = place + tap - (layer.kernel_size - 1) // 2
            inside = (source >= offsets[self.row_of_step]) & (source < offsets[self.row_of_step + 1])
            taps.append((place[inside], source[inside], one.weights["weight"][:, :, tap].astype(np.float64)))
        bias = one.weights["bias"].astype(np.float64)
        sums = np.tile(bias, (len(inputs), 1))
        for target, source, weight in taps:
            sums[target] += inputs[source] @ weight.T
        push, found = self.push(sums), np.zeros_like(inputs)
        ratio = flow / (sums + push)
        for target, source, weight in taps:
            found[source] += inputs[source] * (ratio[target] @ weight)
        self.lost += self.by_text((ratio * (bias + push)).sum(axis=1))
        return found

    def pooling(self, flow: np.ndarray, one: LayerTrace, before: LayerTrace | None) -> np.ndarray:
        """Maximum: the step that gave it takes all; mean and attention: in proportion to what each step gave."""
        layer, offsets = one.layer, self.offsets
        assert isinstance(layer, description.Pooling)
        found = np.zeros(one.inputs.shape)
        rows, features = np.flatnonzero(np.diff(offsets)), np.arange(layer.input_size)
        for kind, part in zip(layer.kinds, np.split(flow, len(layer.kinds), axis=1), strict=True):
            if kind == "last":
                self._last(found, part, before)
                continue
            shares = attention_of(one, offsets)[0] if kind == "attention" else None
            for row in rows:
                steps = slice(offsets[row], offsets[row + 1])
                if kind == "max":
                    places = offsets[row] + one.inputs[steps].argmax(axis=0)
                    np.add.at(found, (places, features), part[row])
                    continue
                length = offsets[row + 1] - offsets[row]
                weight = np.full(length, 1.0 / length) if shares is None else shares[steps].astype(np.float64)
                given = one.inputs[steps] * weight[:, None]
                sums = given.sum(axis=0)
                ratio = part[row] / (sums + self.push(sums))
                found[steps] += given * ratio
                self.lost[row] += (ratio * self.push(sums)).sum()
        empty = np.diff(offsets) == 0
        self.lost[empty] += flow[empty].sum(axis=1)
        return found

    def _last(self, found: np.ndarray, part: np.ndarray, before: LayerTrace | None) -> None:
        rows = np.flatnonzero(np.diff(self.offsets))
        if before is None or not before.stacked:
            found[self.offsets[1:][rows] - 1] += part[rows]
            return
        directions, size = before.stacked[-1], before.stacked[-1][0].states.shape[1]
        if len(directions) * size != part.shape[1]:
            raise _no_rule("the last state of merged directions")
        for number, one in enumerate(directions):
            columns = slice(number * size, (number + 1) * size)
            found[last_steps(self.offsets, one.direction.is_backward)[rows], columns] += part[rows, columns]

    def recurrent(self, flow: np.ndarray, one: LayerTrace) -> np.ndarray:
        """Go back through the stacked layers and the directions of each."""
        layer = one.layer
        assert isinstance(layer, description.Recurrent)
        for directions in reversed(one.stacked):
            parts = self._unmerged(flow, directions, layer.merge_mode or "concat")
            flow = np.zeros(directions[0].inputs.shape)
            for direction, part in zip(directions, parts, strict=True):
                flow += self._direction(direction, part)
        return flow

    def _unmerged(self, flow: np.ndarray, directions: tuple[DirectionTrace, ...], mode: str) -> list[np.ndarray]:
        if len(directions) == 1:
            return [flow]
        if mode == "concat":
            return np.split(flow, 2, axis=1)
        if mode == "mul":
            raise _no_rule("directions that are multiplied")
        states = [one.states.astype(np.float64) for one in directions]
        push = self.push(states[0] + states[1])
        ratio = flow / (states[0] + states[1] + push)
        self.lost += self.by_text((ratio * push).sum(axis=1))
        return [ratio * one for one in states]

    def _direction(self, one: DirectionTrace, flow: np.ndarray) -> np.ndarray:
        """Go back through time; what the signal of a step takes is shared among word, state before, and bias."""
        clock, direction, signal = one.clock, one.direction, _signal_of(one)
        state, taken = signal.state.astype(np.float64), clock.gather(flow).astype(np.float64)
        push = self.push(state)
        of_state = 1.0 / (state + push)
        by_new, by_old = signal.new * of_state, signal.old * of_state
        sum_push = self.push(signal.sums)
        per_sum = 1.0 / (signal.sums + sum_push)
        per_sum_of_state = per_sum * signal.gate
        w_hh = direction.w_hh[signal.rows].astype(np.float64)
        got, carried = np.zeros_like(taken), np.zeros_like(taken)
        for now, before, _ in clock.backwards():
            carried[now] += taken[now]  # an LSTM carries the relevance of c, the others that of h
            got[now] = carried[now] * by_new[now]
            if before is not None:
                carried[before] += carried[now] * by_old[now]
                taken[before] += signal.h[before] * ((got[now] * per_sum_of_state[now]) @ w_hh)
        ratio = got * per_sum
        found = clock.gather(one.inputs) * (ratio @ direction.w_ih[signal.rows].astype(np.float64))
        nobody = carried * push * of_state + ratio * (signal.bias + sum_push)
        self.lost += self.by_text(clock.scatter(nobody.sum(axis=1)))
        return clock.scatter(found)


class _Signal(NamedTuple):
    """How a step makes its state: state = new + old, new from the signal, whose sum has the rows of the weights.

    All of shape (steps, hidden), time-major. `gate` multiplies the part of the sum that comes from the state before;
    `bias` is the part that comes from neither word nor state.
    """

    state: np.ndarray
    new: np.ndarray
    old: np.ndarray
    sums: np.ndarray
    gate: np.ndarray
    bias: np.ndarray
    h: np.ndarray
    rows: slice


def _signal_of(one: DirectionTrace) -> _Signal:
    gates, direction, size = one.gates(), one.direction, one.direction.hidden_size
    rows = slice(2 * size, 3 * size)  # of g (LSTM) and of n (GRU)
    b_ih, b_hh = direction.b_ih[rows].astype(np.float64), direction.b_hh[rows].astype(np.float64)
    if isinstance(gates, LstmGates):
        new, old = (gates.i * gates.g).astype(np.float64), (gates.f * gates.c_before).astype(np.float64)
        ones = np.ones(gates.h.shape)
        return _Signal(gates.c, new, old, gates.a_g.astype(np.float64), ones, ones * (b_ih + b_hh), gates.h, rows)
    assert isinstance(gates, GruGates)
    r, z = gates.r.astype(np.float64), gates.z.astype(np.float64)
    sums = gates.x_n + r * gates.h_n
    return _Signal(gates.h, (1 - z) * gates.n, z * gates.h_before, sums, r, b_ih + r * b_hh, gates.h, rows)


def _no_rule(place: str) -> UsageError:
    return UsageError(f"relevance propagation has no rule for {place}.", "Choose another method.")
