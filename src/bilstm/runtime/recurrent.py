"""Recurrent layers with numpy alone: for machines where the native engine is not there.

A loop walks time-major over the sequences that still have steps, longest first, so there is no padding. Products go
through `steps.map_rows`, so that a sequence gets the same bits whatever stands beside it. Imports numpy,
`data.ragged`, `description`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.runtime.steps import map_rows, sigmoid

__all__ = ["RecurrentResult", "merge_directions", "run_recurrent"]


@dataclass(frozen=True)
class RecurrentResult:
    """What the layers of one recurrent description give.

    Parameters
    ----------
    outputs : Ragged of values (steps, output_size), or None if only pooled values were asked for
    final : ndarray of shape (batch, output_size)
        Last state of each direction of the last layer, merged like the outputs.
    max_values, mean_values : ndarray of shape (batch, output_size), optional
        Largest and mean output of each sequence, where they were computed inside.
    """

    outputs: Ragged | None
    final: np.ndarray
    max_values: np.ndarray | None = None
    mean_values: np.ndarray | None = None


def run_recurrent(batch: Ragged, layer: description.Recurrent, weights: Mapping[str, np.ndarray]) -> RecurrentResult:
    """Run all layers of one description.

    Parameters
    ----------
    batch : Ragged of values (steps, input_size), float32
    layer : description.Recurrent
    weights : mapping of parameter name to ndarray
        With torch's names and gate order.
    """
    values, final = batch.values, np.zeros((len(batch), layer.output_size), dtype=np.float32)
    # Directions that the description keeps apart stand side by side here: pooling reads them as one vector.
    mode = layer.merge_mode or "concat"
    for number in range(layer.num_layers):
        suffixes = [f"l{number}", f"l{number}_reverse"][: 1 + layer.bidirectional]
        runs = [_run_direction(batch.with_values(values), layer, _weights(weights, suffix)) for suffix in suffixes]
        values = merge_directions([outputs for outputs, _ in runs], mode)
        final = merge_directions([last for _, last in runs], mode)
    return RecurrentResult(batch.with_values(values), final)


def merge_directions(directions: list[np.ndarray], mode: str) -> np.ndarray:
    """Join forward and backward features: "concat", "sum", "mul" or "ave"."""
    if len(directions) == 1:
        return directions[0]
    forward, backward = directions
    if mode == "concat":
        return np.concatenate([forward, backward], axis=1)
    if mode == "sum":
        return forward + backward
    if mode == "mul":
        return forward * backward
    return (forward + backward) / np.float32(2)


@dataclass(frozen=True)
class _DirectionWeights:
    """Weights of one direction, rows by gate."""

    w_ih: np.ndarray
    w_hh: np.ndarray
    b_ih: np.ndarray
    b_hh: np.ndarray
    is_backward: bool


def _weights(weights: Mapping[str, np.ndarray], suffix: str) -> _DirectionWeights:
    return _DirectionWeights(
        weights[f"weight_ih_{suffix}"],
        weights[f"weight_hh_{suffix}"],
        weights[f"bias_ih_{suffix}"],
        weights[f"bias_hh_{suffix}"],
        suffix.endswith("_reverse"),
    )


def _run_direction(
    batch: Ragged, layer: description.Recurrent, weights: _DirectionWeights
) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs (steps, hidden) and last states (batch, hidden), from zero initial states."""
    lengths = batch.lengths
    rows = np.argsort(-lengths, kind="stable")
    longest = int(lengths.max(initial=0))
    counts = len(lengths) - np.searchsorted(np.sort(lengths), np.arange(longest), side="right")
    bias = weights.b_ih if layer.cell == "gru" else weights.b_ih + weights.b_hh
    x_gates = map_rows(batch.values, weights.w_ih) + bias
    outputs = np.zeros((len(batch.values), layer.hidden_size), dtype=np.float32)
    h = np.zeros((len(batch), layer.hidden_size), dtype=np.float32)
    c = np.zeros_like(h)
    if weights.is_backward:
        first, stride = batch.offsets[1:][rows] - 1, -1
    else:
        first, stride = batch.offsets[:-1][rows], 1
    for time, alive in enumerate(counts.tolist()):
        steps = first[:alive] + stride * time
        if layer.cell == "lstm":
            h[:alive], c[:alive] = _lstm_step(x_gates[steps], h[:alive], c[:alive], weights)
        elif layer.cell == "gru":
            h[:alive] = _gru_step(x_gates[steps], h[:alive], weights)
        else:
            h[:alive] = _rnn_step(x_gates[steps], h[:alive], weights, layer.nonlinearity)
        outputs[steps] = h[:alive]
    final = np.empty_like(h)
    final[rows] = h
    return outputs, final


def _lstm_step(
    x_gates: np.ndarray, h: np.ndarray, c: np.ndarray, weights: _DirectionWeights
) -> tuple[np.ndarray, np.ndarray]:
    i, f, g, o = np.split(x_gates + map_rows(h, weights.w_hh), 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def _gru_step(x_gates: np.ndarray, h: np.ndarray, weights: _DirectionWeights) -> np.ndarray:
    x_r, x_z, x_n = np.split(x_gates, 3, axis=1)
    h_r, h_z, h_n = np.split(map_rows(h, weights.w_hh) + weights.b_hh, 3, axis=1)
    z = sigmoid(x_z + h_z)
    n = np.tanh(x_n + sigmoid(x_r + h_r) * h_n)
    return z * h + (np.float32(1) - z) * n


def _rnn_step(x_gates: np.ndarray, h: np.ndarray, weights: _DirectionWeights, nonlinearity: str) -> np.ndarray:
    a = x_gates + map_rows(h, weights.w_hh)
    return np.maximum(a, np.float32(0)) if nonlinearity == "relu" else np.tanh(a)
