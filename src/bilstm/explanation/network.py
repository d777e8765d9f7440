"""A trained network opened up behind its word vectors: what every layer read and gave, and the way back; no torch.

Place: word vectors -> logits, and gradients by the word vectors. All explanation methods that look inside the network
go through here, so each works on the model that predicts, in evaluation mode. Recurrent layers run and go back in the
native engine where the model runs in it, else with numpy. Imports numpy, `description`, `engine`, `runtime`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, overload

import numpy as np

from bilstm import description, engine
from bilstm.data.ragged import Ragged
from bilstm.engine.library import Context
from bilstm.errors import ShapeError, UsageError
from bilstm.explanation.pooled_pass import PooledTrace, pools_one_layer, slope, trace_pooled
from bilstm.explanation.recurrent_trace import Clock, Direction, Gates, directions_of, gates_of, step_gradients
from bilstm.runtime import steps
from bilstm.runtime.model import Model
from bilstm.runtime.recurrent import merge_directions

__all__ = ["DirectionTrace", "LayerTrace", "Network", "Trace", "attention_of"]

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class DirectionTrace:
    """One direction of one recurrent layer over a batch: states in the order of the batch, gates when asked for."""

    direction: Direction
    clock: Clock
    inputs: np.ndarray
    states: np.ndarray

    def gates(self) -> Gates:
        """Open all steps; time-major."""
        return gates_of(self.direction, self.clock, self.clock.gather(self.inputs), self.clock.gather(self.states))


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """What one layer read and gave.

    Parameters
    ----------
    layer : description.Layer
    weights : mapping
    inputs, outputs : ndarray
        (steps, features), or (batch, features) behind a pooling layer.
    stacked : tuple of tuple of DirectionTrace
        Of a recurrent layer: its stacked layers, each with its directions.
    results : tuple
        Of a recurrent layer in the engine, kept for the way back: one result a stacked layer.
    """

    layer: description.Layer
    weights: Weights
    inputs: np.ndarray
    outputs: np.ndarray
    stacked: tuple[tuple[DirectionTrace, ...], ...] = ()
    results: tuple[Any, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class Trace:
    """A pass through the network.

    Parameters
    ----------
    offsets : ndarray of shape (batch + 1,), int64
    layers : tuple of LayerTrace
    """

    offsets: np.ndarray
    layers: tuple[LayerTrace, ...]

    @property
    def outputs(self) -> np.ndarray:
        """Logits: (batch, outputs), or (steps, outputs) of a network without pooling."""
        return self.layers[-1].outputs

    @property
    def hidden(self) -> np.ndarray:
        """What the last linear layer reads: the representation of each text (batch, features)."""
        return self.layers[-1].inputs


class Network:
    """The layers of a model behind its embedding, dropout left out.

    Parameters
    ----------
    layers : sequence of layer descriptions
        The first reads vectors.
    weights : sequence of mapping
        One a layer.
    backend : {"engine", "numpy"}
    threads : int, optional
        Of the engine.
    """

    def __init__(
        self,
        layers: Sequence[description.Layer],
        weights: Sequence[Weights],
        *,
        backend: str,
        threads: int | None = None,
    ):
        self.layers = tuple(layers)
        self.weights = tuple(weights)
        self.backend = backend
        self.threads = threads
        named = {f"layers.{at}.{name}": one for at, part in enumerate(weights) for name, one in part.items()}
        self._model = Model(self.layers, named, backend=backend, threads=threads)
        self.context = None
        if backend == "engine":
            self.context = engine.default_context() if threads is None else Context(threads)

    @property
    def is_pooled(self) -> bool:
        """Whether a text gets one row of logits; else every step has its own."""
        return any(isinstance(layer, description.Pooling) for layer in self.layers)

    @property
    def has_gradients(self) -> bool:
        """Whether `gradient` works: "last" behind directions that are merged into one has no place of its own."""
        return not any(
            isinstance(layer, description.Recurrent)
            and layer.bidirectional
            and layer.merge_mode in ("sum", "mul", "ave")
            and isinstance(after, description.Pooling)
            and "last" in after.kinds
            for layer, after in pairwise(self.layers)
        )

    @classmethod
    def behind_embedding(
        cls, layers: Sequence[description.Layer], weights: Weights, *, backend: str, threads: int | None = None
    ) -> Network:
        """Take the layers behind the embedding of a stack, and their weights `layers.<index>.<name>`."""
        kept, parts = [], []
        for number, layer in enumerate(layers):
            if isinstance(layer, description.WordDropout | description.Embedding | description.Dropout):
                continue
            kept.append(layer)
            parts.append({name: weights[f"layers.{number}.{name}"] for name in description.weight_shapes_of(layer)})
        return cls(kept, parts, backend=backend, threads=threads)

    def parts(self, batch: Ragged) -> list[tuple[Network, Ragged]]:
        """Return the networks that answer, this one alone, each with the vectors that it reads."""
        return [(self, batch)]

    def hidden(self, batch: Ragged) -> np.ndarray:
        """Return what the last linear layer reads: the representation of each text (batch, features)."""
        return self._below_head.run(batch)

    @cached_property
    def _below_head(self) -> Network:
        return Network(self.layers[:-1], self.weights[:-1], backend=self.backend, threads=self.threads)

    def run(self, batch: Ragged) -> np.ndarray:
        """Return logits of vectors (steps, size), float32: (batch, outputs), or (steps, outputs) without pooling."""
        result = self._model.run(batch)
        return result.values if isinstance(result, Ragged) else result

    @overload
    def trace(self, batch: Ragged, *, for_gradients: Literal[False] = ...) -> Trace: ...

    @overload
    def trace(self, batch: Ragged, *, for_gradients: bool) -> Trace | PooledTrace: ...

    def trace(self, batch: Ragged, *, for_gradients: bool = False) -> Trace | PooledTrace:
        """Run the network and keep what every layer read and gave; `for_gradients`: what `gradient` needs."""
        if for_gradients and self.context is not None and pools_one_layer(self.layers):
            first = self.layers[0]
            assert isinstance(first, description.Recurrent)
            directions = directions_of(first, self.weights[0], 0)
            vectors = batch.with_values(np.ascontiguousarray(batch.values))
            return trace_pooled(self.layers, self.weights, directions, vectors, self.context)
        flow, offsets, traces = np.ascontiguousarray(batch.values), batch.offsets, []
        for layer, weights in zip(self.layers, self.weights, strict=True):
            if isinstance(layer, description.Recurrent):
                found = self._trace_recurrent(layer, weights, Ragged(flow, offsets), for_gradients)
            elif isinstance(layer, description.Linear):
                found = LayerTrace(layer, weights, flow, steps.map_linear(flow, layer, weights))
            elif isinstance(layer, description.Convolution):
                outputs = steps.convolve(Ragged(flow, offsets), layer, weights).values
                found = LayerTrace(layer, weights, flow, outputs)
            elif isinstance(layer, description.Pooling):
                before = traces[-1] if traces else None
                pooled = steps.pool(Ragged(flow, offsets), layer, weights, _final(before, offsets))
                found = LayerTrace(layer, weights, flow, pooled)
            else:
                raise UsageError(f"{type(layer).__name__} cannot be explained.")
            traces.append(found)
            flow = found.outputs
        return Trace(offsets, tuple(traces))

    def _trace_recurrent(
        self, layer: description.Recurrent, weights: Weights, batch: Ragged, for_gradients: bool
    ) -> LayerTrace:
        clocks = [Clock(batch.offsets, False), Clock(batch.offsets, True)]
        flow, stacked, results = batch.values, [], []
        for number in range(layer.num_layers):
            directions = directions_of(layer, weights, number)
            if self.context is not None:
                result = self._engine_call(directions, batch.with_values(flow), save=for_gradients)
                parts = np.split(result.outputs, len(directions), axis=1)
                results.append(result)
            else:
                parts = []
                for one in directions:
                    clock = clocks[one.is_backward]
                    parts.append(clock.scatter(gates_of(one, clock, clock.gather(flow)).h))
            stacked.append(
                tuple(
                    DirectionTrace(one, clocks[one.is_backward], flow, states)
                    for one, states in zip(directions, parts, strict=True)
                )
            )
            flow = np.ascontiguousarray(merge_directions(parts, layer.merge_mode or "concat"))
        return LayerTrace(layer, weights, batch.values, flow, tuple(stacked), tuple(results) if for_gradients else ())

    def _engine_call(self, directions: list[Direction], batch: Ragged, *, save: bool) -> Any:
        first = directions[0]
        cell: Any = first.cell if first.cell != "rnn" else f"rnn_{first.nonlinearity}"
        plain = [engine.DirectionWeights(one.w_ih, one.w_hh, one.b_ih, one.b_hh) for one in directions]
        return engine.recurrent(cell, batch, plain, save=save, context=self.context)

    def gradient(self, trace: Any, d_outputs: np.ndarray) -> np.ndarray:
        """Return the gradient by the word vectors (steps, size), float32.

        Parameters
        ----------
        trace : Trace or PooledTrace
            Of this network, made with `for_gradients`.
        d_outputs : ndarray of the shape of the logits
        """
        if isinstance(trace, PooledTrace):
            return trace.gradient(d_outputs)
        flow = np.ascontiguousarray(d_outputs, dtype=np.float32)
        for number in range(len(trace.layers) - 1, -1, -1):
            one = trace.layers[number]
            if isinstance(one.layer, description.Linear):
                flow = (flow * slope(one.layer.activation, one.outputs)) @ one.weights["weight"]
            elif isinstance(one.layer, description.Convolution):
                flow = _convolution_back(one, trace.offsets, flow)
            elif isinstance(one.layer, description.Pooling):
                before = trace.layers[number - 1] if number else None
                flow = _pooling_back(one, trace.offsets, flow, before)
            else:
                flow = self._recurrent_back(one, flow)
        return flow

    def _recurrent_back(self, trace: LayerTrace, d_outputs: np.ndarray) -> np.ndarray:
        assert isinstance(trace.layer, description.Recurrent)
        flow = d_outputs
        for number in range(len(trace.stacked) - 1, -1, -1):
            directions = trace.stacked[number]
            parts = split_merged(flow, [one.states for one in directions], trace.layer.merge_mode or "concat")
            if trace.results:
                joined = np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.float32)
                flow = trace.results[number].gradients(d_outputs=joined, weights=False).values
                continue
            flow = np.zeros_like(directions[0].inputs)
            for one, part in zip(directions, parts, strict=True):
                found = step_gradients(one.direction, one.clock, one.gates(), one.clock.gather(part))
                flow += one.clock.scatter(found)
        return flow


def split_merged(values: np.ndarray, states: Sequence[np.ndarray], mode: str) -> list[np.ndarray]:
    """Return the gradient by each direction from that by their merged states."""
    if len(states) == 1:
        return [values]
    if mode == "concat":
        return np.split(values, 2, axis=1)
    if mode == "mul":
        return [values * states[1], values * states[0]]
    return [values, values] if mode == "sum" else [values / 2, values / 2]


def _final(before: LayerTrace | None, offsets: np.ndarray) -> dict[str, np.ndarray | None]:
    """Return what "last" is behind a recurrent layer: the last state that each direction read."""
    if before is None or not isinstance(before.layer, description.Recurrent):
        return {}
    rows = np.flatnonzero(np.diff(offsets))
    parts = []
    for one in before.stacked[-1]:
        part = np.zeros((len(offsets) - 1, one.states.shape[1]), dtype=np.float32)
        part[rows] = one.states[last_steps(offsets, one.direction.is_backward)[rows]]
        parts.append(part)
    return {"last": merge_directions(parts, before.layer.merge_mode or "concat")}


def last_steps(offsets: np.ndarray, is_backward: bool) -> np.ndarray:
    """Return the step that a direction reads last in each sequence (meaningless for empty ones)."""
    return offsets[:-1] if is_backward else offsets[1:] - 1


def _convolution_back(trace: LayerTrace, offsets: np.ndarray, d_outputs: np.ndarray) -> np.ndarray:
    layer = trace.layer
    assert isinstance(layer, description.Convolution)
    d_sums = d_outputs * slope(layer.activation, trace.outputs)
    d_inputs = np.zeros_like(trace.inputs)
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    place = np.arange(len(row))
    for tap in range(layer.kernel_size):
        source = place + tap - (layer.kernel_size - 1) // 2
        inside = (source >= offsets[row]) & (source < offsets[row + 1])
        d_inputs[source[inside]] += d_sums[inside] @ trace.weights["weight"][:, :, tap]
    return d_inputs


def attention_of(trace: LayerTrace, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of attention pooling (steps,), and what the scores were made of (steps, size)."""
    weights = trace.weights
    if "attention_weight" not in weights:
        raise ShapeError("this pooling layer has no attention.")
    projected = np.tanh(trace.inputs @ weights["attention_weight"].T + weights["attention_bias"])
    scores = projected @ weights["attention_query"]
    shares = np.zeros_like(scores)
    for row in np.flatnonzero(np.diff(offsets)):
        part = slice(offsets[row], offsets[row + 1])
        powers = np.exp(scores[part] - scores[part].max())
        shares[part] = powers / powers.sum()
    return shares, projected


def _pooling_back(
    trace: LayerTrace, offsets: np.ndarray, d_outputs: np.ndarray, before: LayerTrace | None
) -> np.ndarray:
    layer = trace.layer
    assert isinstance(layer, description.Pooling)
    d_inputs = np.zeros_like(trace.inputs)
    lengths = np.diff(offsets)
    rows = np.flatnonzero(lengths)
    parts = np.split(d_outputs, len(layer.kinds), axis=1)
    for kind, part in zip(layer.kinds, parts, strict=True):
        if kind == "mean":
            d_inputs += np.repeat(part / np.maximum(lengths, 1)[:, None].astype(part.dtype), lengths, axis=0)
        elif kind == "last":
            _last_back(d_inputs, offsets, part, before)
        elif kind == "max":
            for row in rows:
                states = trace.inputs[offsets[row] : offsets[row + 1]]
                places = offsets[row] + states.argmax(axis=0)
                np.add.at(d_inputs, (places, np.arange(layer.input_size)), part[row])
        else:
            d_inputs += _attention_back(trace, offsets, part)
    return d_inputs


def _last_back(d_inputs: np.ndarray, offsets: np.ndarray, part: np.ndarray, before: LayerTrace | None) -> None:
    rows = np.flatnonzero(np.diff(offsets))
    if before is None or not isinstance(before.layer, description.Recurrent):
        d_inputs[offsets[1:][rows] - 1] += part[rows]
        return
    directions = before.stacked[-1]
    mode = before.layer.merge_mode or "concat"
    if mode == "concat" or len(directions) == 1:
        size = directions[0].states.shape[1]
        for number, one in enumerate(directions):
            places = last_steps(offsets, one.direction.is_backward)[rows]
            d_inputs[places, number * size : (number + 1) * size] += part[rows, number * size : (number + 1) * size]
        return
    raise UsageError(f"the pooling 'last' behind directions merged by {mode!r} cannot be explained by gradients.")


def _attention_back(trace: LayerTrace, offsets: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Yang et al. 2016: p_t = softmax(u . tanh(W h_t + b)), pooled = sum_t p_t h_t."""
    shares, projected = attention_of(trace, offsets)
    spread = np.repeat(part, np.diff(offsets), axis=0)  # (steps, size)
    d_share = (trace.inputs * spread).sum(axis=1)
    d_score = np.zeros_like(shares)
    for row in np.flatnonzero(np.diff(offsets)):
        one = slice(offsets[row], offsets[row + 1])
        d_score[one] = shares[one] * (d_share[one] - shares[one] @ d_share[one])
    d_projected = d_score[:, None] * trace.weights["attention_query"] * (1 - projected**2)
    return shares[:, None] * spread + d_projected @ trace.weights["attention_weight"]
