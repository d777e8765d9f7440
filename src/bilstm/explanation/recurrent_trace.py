"""Recurrent layers opened up: gates at every step, and the way back through time, with numpy alone.

Place: inside `network`; relevance propagation and contextual decomposition read the gates, gradients use the way back
where the engine is not there. Arrays of steps are kept time-major, longest sequence first, so that the steps of one
moment are one slice and nothing is padded. Weights have torch's shapes and gate order (i, f, g, o; r, z, n).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bilstm import description
from bilstm.runtime.steps import sigmoid

__all__ = [
    "Clock",
    "Direction",
    "GruGates",
    "LstmGates",
    "RnnGates",
    "cells_of",
    "directions_of",
    "gates_of",
    "run_states",
    "step_gradients",
]


class Moment(NamedTuple):
    """The steps that sequences read at one moment: `now` of the time-major arrays, `before` their previous ones."""

    now: slice
    before: slice | None
    alive: int


@dataclass(frozen=True, eq=False)
class Clock:
    """Order in which one direction reads the steps of a ragged batch.

    Parameters
    ----------
    offsets : ndarray of shape (batch + 1,), int64
    is_backward : bool
    """

    offsets: np.ndarray
    is_backward: bool

    @cached_property
    def rows(self) -> np.ndarray:
        """Sequences, longest first."""
        return np.argsort(-np.diff(self.offsets), kind="stable")

    @cached_property
    def counts(self) -> np.ndarray:
        """Sequences that still have a step at each moment."""
        lengths = np.diff(self.offsets)
        return len(lengths) - np.searchsorted(np.sort(lengths), np.arange(int(lengths.max(initial=0))), side="right")

    @cached_property
    def order(self) -> np.ndarray:
        """Number of each time-major step among the steps of the batch."""
        lengths = np.diff(self.offsets)[self.rows]
        first = self.offsets[1:][self.rows] - 1 if self.is_backward else self.offsets[:-1][self.rows]
        time = np.repeat(np.arange(len(self.counts)), self.counts)
        place = np.arange(len(time)) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        assert len(time) == int(lengths.sum())
        return first[place] + (-time if self.is_backward else time)

    @cached_property
    def moments(self) -> tuple[Moment, ...]:
        """The moments in the order of reading."""
        found, begin, before = [], 0, 0
        for alive in self.counts.tolist():
            previous = slice(before, before + alive) if begin else None
            found.append(Moment(slice(begin, begin + alive), previous, alive))
            before, begin = begin, begin + alive
        return tuple(found)

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Put steps of the batch into time-major order."""
        return values[self.order]

    def scatter(self, values: np.ndarray) -> np.ndarray:
        """Put time-major steps back into the order of the batch."""
        result = np.empty_like(values)
        result[self.order] = values
        return result

    def previous(self, states: np.ndarray) -> np.ndarray:
        """Return the state before each time-major step; zeros before the first."""
        result = np.zeros_like(states)
        for now, before, _ in self.moments:
            if before is not None:
                result[now] = states[before]
        return result

    def backwards(self) -> Iterator[Moment]:
        """Yield the moments from the last to the first."""
        return reversed(self.moments)


@dataclass(frozen=True, eq=False)
class Direction:
    """Weights of one direction of one layer: w_ih (G * hidden, input), w_hh (G * hidden, hidden), biases."""

    cell: description.Cell
    nonlinearity: str
    w_ih: np.ndarray
    w_hh: np.ndarray
    b_ih: np.ndarray
    b_hh: np.ndarray
    is_backward: bool

    @property
    def hidden_size(self) -> int:
        """Features of a state."""
        return self.w_hh.shape[1]


def directions_of(layer: description.Recurrent, weights: Mapping[str, np.ndarray], number: int) -> list[Direction]:
    """Return the directions of the `number`-th stacked layer."""
    suffixes = [f"l{number}", f"l{number}_reverse"][: 1 + layer.bidirectional]
    return [
        Direction(
            layer.cell,
            layer.nonlinearity,
            w_ih=weights[f"weight_ih_{suffix}"],
            w_hh=weights[f"weight_hh_{suffix}"],
            b_ih=weights[f"bias_ih_{suffix}"],
            b_hh=weights[f"bias_hh_{suffix}"],
            is_backward=suffix.endswith("_reverse"),
        )
        for suffix in suffixes
    ]


class LstmGates(NamedTuple):
    """All of shape (steps, hidden), time-major: c_t = f c_(t-1) + i g, h_t = o tanh(c_t); `a_g` goes into tanh."""

    i: np.ndarray
    f: np.ndarray
    g: np.ndarray
    o: np.ndarray
    a_g: np.ndarray
    c: np.ndarray
    c_before: np.ndarray
    h: np.ndarray
    h_before: np.ndarray


class GruGates(NamedTuple):
    """All of shape (steps, hidden), time-major: n = tanh(x_n + r h_n), h_t = z h_(t-1) + (1 - z) n."""

    r: np.ndarray
    z: np.ndarray
    n: np.ndarray
    x_n: np.ndarray
    h_n: np.ndarray
    h: np.ndarray
    h_before: np.ndarray


class RnnGates(NamedTuple):
    """All of shape (steps, hidden), time-major: h_t = tanh or relu of a."""

    a: np.ndarray
    h: np.ndarray
    h_before: np.ndarray


Gates = LstmGates | GruGates | RnnGates


def gates_of(direction: Direction, clock: Clock, x: np.ndarray, h: np.ndarray | None = None) -> Gates:
    """Compute what happens inside every step.

    Parameters
    ----------
    direction : Direction
    clock : Clock
    x : ndarray of shape (steps, input)
        Time-major.
    h : ndarray of shape (steps, hidden), optional
        States that the layer is known to give, time-major; then all steps are opened at once, which is much faster.
    """
    if h is None:
        h = run_states(direction, clock, x @ direction.w_ih.T + direction.b_ih)[0]
    h_before = clock.previous(h)
    x_gates = x @ direction.w_ih.T + direction.b_ih
    h_gates = h_before @ direction.w_hh.T + direction.b_hh
    if direction.cell == "rnn":
        return RnnGates(x_gates + h_gates, h, h_before)
    if direction.cell == "gru":
        x_r, x_z, x_n = np.split(x_gates, 3, axis=1)
        h_r, h_z, h_n = np.split(h_gates, 3, axis=1)
        r = sigmoid(x_r + h_r)
        return GruGates(r, sigmoid(x_z + h_z), np.tanh(x_n + r * h_n), x_n, h_n, h, h_before)
    a_i, a_f, a_g, a_o = np.split(x_gates + h_gates, 4, axis=1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    c = i * g
    for now, before, _ in clock.moments:
        if before is not None:
            c[now] += f[now] * c[before]
    return LstmGates(i, f, g, o, a_g, c, clock.previous(c), h, h_before)


def cells_of(direction: Direction, clock: Clock, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Return c of an LSTM at every step, from the states h that it is known to give; all time-major."""
    size = 3 * direction.hidden_size  # the output gate is not in c
    a = x @ direction.w_ih[:size].T + clock.previous(h) @ direction.w_hh[:size].T
    a += direction.b_ih[:size] + direction.b_hh[:size]
    a_i, a_f, a_g = np.split(a, 3, axis=1)
    f, c = sigmoid(a_f), sigmoid(a_i) * np.tanh(a_g)
    for now, before, _ in clock.moments:
        if before is not None:
            c[now] += f[now] * c[before]
    return c


def run_states(
    direction: Direction,
    clock: Clock,
    x_gates: np.ndarray,
    h_0: np.ndarray | None = None,
    c_0: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the direction step by step.

    Parameters
    ----------
    x_gates : ndarray of shape (steps, G * hidden)
        Input part of the gates with its bias, time-major.
    h_0, c_0 : ndarray of shape (batch, hidden), optional
        Initial states, in the order of the batch; zero by default.

    Returns
    -------
    h, c : ndarray of shape (steps, hidden)
        Time-major; c is zero where the cell has none.
    """
    h = np.zeros((len(x_gates), direction.hidden_size), dtype=x_gates.dtype)
    c = np.zeros_like(h)
    zero = np.zeros((len(clock.rows), h.shape[1]), dtype=h.dtype)
    h_first = zero if h_0 is None else h_0[clock.rows]
    c_first = zero if c_0 is None else c_0[clock.rows]
    for now, before, alive in clock.moments:
        h_before = h_first[:alive] if before is None else h[before]
        h_gates = h_before @ direction.w_hh.T + direction.b_hh
        if direction.cell == "rnn":
            a = x_gates[now] + h_gates
            h[now] = np.maximum(a, 0) if direction.nonlinearity == "relu" else np.tanh(a)
        elif direction.cell == "gru":
            x_r, x_z, x_n = np.split(x_gates[now], 3, axis=1)
            h_r, h_z, h_n = np.split(h_gates, 3, axis=1)
            z = sigmoid(x_z + h_z)
            h[now] = z * h_before + (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n)
        else:
            i, f, g, o = np.split(x_gates[now] + h_gates, 4, axis=1)
            c_before = c_first[:alive] if before is None else c[before]
            c[now] = sigmoid(f) * c_before + sigmoid(i) * np.tanh(g)
            h[now] = sigmoid(o) * np.tanh(c[now])
    return h, c


def step_gradients(direction: Direction, clock: Clock, gates: Gates, d_h: np.ndarray) -> np.ndarray:
    """Go back through time: gradient by the input of every step, from the gradient by every state.

    Parameters
    ----------
    gates : LstmGates, GruGates or RnnGates
    d_h : ndarray of shape (steps, hidden)
        Time-major.

    Returns
    -------
    ndarray of shape (steps, input)
        Time-major.
    """
    return _back(direction, clock, gates, d_h.copy()) @ direction.w_ih


def _back(direction: Direction, clock: Clock, gates: Gates, d_h: np.ndarray) -> np.ndarray:
    """Return the gradient by the input part of the gates; `d_h` becomes the whole gradient by h."""
    if isinstance(gates, LstmGates):
        return _lstm_back(direction, clock, gates, d_h)
    if isinstance(gates, GruGates):
        return _gru_back(direction, clock, gates, d_h)
    slope = (gates.a > 0) if direction.nonlinearity == "relu" else 1 - gates.h**2
    d_x_gates = np.empty_like(gates.a)
    for now, before, _ in clock.backwards():
        d_x_gates[now] = d_h[now] * slope[now]
        if before is not None:
            d_h[before] += d_x_gates[now] @ direction.w_hh
    return d_x_gates


def _lstm_back(direction: Direction, clock: Clock, gates: LstmGates, d_h: np.ndarray) -> np.ndarray:
    """Derivatives of c_t = f c_(t-1) + i g and h_t = o tanh(c_t) by the inputs of the gates."""
    i, f, g, o, _, c, c_before, _, _ = gates
    tanh_c = np.tanh(c)
    by_o = tanh_c * o * (1 - o)
    by_c = o * (1 - tanh_c**2)
    of_c = np.stack([g * i * (1 - i), c_before * f * (1 - f), i * (1 - g**2)], axis=1)
    d_c, d_a = np.zeros_like(c), np.empty((len(c), 4, c.shape[1]), dtype=c.dtype)
    flat = d_a.reshape(len(c), -1)
    for now, before, _ in clock.backwards():
        d_c[now] += d_h[now] * by_c[now]
        np.multiply(of_c[now], d_c[now, None], out=d_a[now, :3])
        np.multiply(d_h[now], by_o[now], out=d_a[now, 3])
        if before is not None:
            d_h[before] += flat[now] @ direction.w_hh
            d_c[before] += d_c[now] * f[now]
    return flat


def _gru_back(direction: Direction, clock: Clock, gates: GruGates, d_h: np.ndarray) -> np.ndarray:
    """Derivatives of h_t = z h_(t-1) + (1 - z) n by the input part of the gates, (steps, 3 * hidden)."""
    r, z, n, _, h_n, _, h_before = gates
    by_z = (h_before - n) * z * (1 - z)
    by_n = (1 - z) * (1 - n**2)
    d_x = np.empty((len(z), 3 * z.shape[1]), dtype=z.dtype)
    for now, before, _ in clock.backwards():
        d_z, d_n = d_h[now] * by_z[now], d_h[now] * by_n[now]
        d_r = d_n * h_n[now] * r[now] * (1 - r[now])
        d_x[now] = np.concatenate([d_r, d_z, d_n], axis=1)
        if before is not None:
            d_of_h = np.concatenate([d_r, d_z, d_n * r[now]], axis=1)
            d_h[before] += d_of_h @ direction.w_hh + d_h[now] * z[now]
    return d_x
