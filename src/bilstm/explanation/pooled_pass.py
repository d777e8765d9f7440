"""The pass for gradients through one recurrent layer that is pooled, in the engine: no state of a step is ever written.

The engine pools while it runs and goes back from the gradient of what it pooled, so neither the states nor their
gradients pass through numpy. Place: inside `network`, which does the same layer by layer for all other networks; both
give the same numbers. Imports numpy, `engine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm import description, engine
from bilstm.data.ragged import Ragged
from bilstm.engine.library import Context
from bilstm.explanation.recurrent_trace import Direction
from bilstm.runtime import steps

__all__ = ["PooledTrace", "gradient_of_pooled", "pools_one_layer", "slope", "trace_pooled"]

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class PooledTrace:
    """A pass through such a network, kept for the way back.

    Parameters
    ----------
    layers, weights : tuple
        Of the network.
    result : engine.Result
    flows : tuple of ndarray
        What each layer behind the recurrent one gave: pooled states, then each linear layer; the last are the logits.
    """

    layers: tuple[description.Layer, ...]
    weights: tuple[Weights, ...]
    result: engine.Result
    flows: tuple[np.ndarray, ...]

    @property
    def outputs(self) -> np.ndarray:
        """Logits (batch, outputs)."""
        return self.flows[-1]

    def gradient(self, d_outputs: np.ndarray) -> np.ndarray:
        """Return the gradient by the word vectors (steps, size), float32; may be called more than once."""
        flow = gradient_of_pooled(self.layers, self.weights, self.flows, np.asarray(d_outputs, dtype=np.float32))
        pooling = self.layers[1]
        assert isinstance(pooling, description.Pooling)
        given = dict(zip(pooling.kinds, np.split(flow, len(pooling.kinds), axis=1), strict=True))
        last = given.get("last")
        count = len(self.result.h_n)  # directions
        return self.result.gradients(
            d_max=given.get("max"),
            d_mean=given.get("mean"),
            d_h_n=None if last is None else np.stack(np.split(last, count, axis=1)),
            weights=False,
        ).values


def gradient_of_pooled(
    layers: Sequence[description.Layer], weights: Sequence[Weights], flows: Sequence[np.ndarray], d_outputs: np.ndarray
) -> np.ndarray:
    """Return the gradient by what the pooling gave (batch, features); parameters as in `PooledTrace`."""
    flow = d_outputs
    for layer, own, outputs in reversed(list(zip(layers[2:], weights[2:], flows[1:], strict=True))):
        assert isinstance(layer, description.Linear)
        flow = (flow * slope(layer.activation, outputs)) @ own["weight"]
    return flow


def pools_one_layer(layers: Sequence[description.Layer]) -> bool:
    """Whether a network behind its embedding is one recurrent layer, directions side by side, pooled without attention.

    Linear layers may follow. This is the default network.
    """
    if len(layers) < 2:
        return False
    first, second, *rest = layers
    return (
        isinstance(first, description.Recurrent)
        and first.num_layers == 1
        and (not first.bidirectional or first.merge_mode in ("concat", None))
        and isinstance(second, description.Pooling)
        and "attention" not in second.kinds
        and all(isinstance(layer, description.Linear) for layer in rest)
    )


def trace_pooled(
    layers: Sequence[description.Layer],
    weights: Sequence[Weights],
    directions: Sequence[Direction],
    batch: Ragged,
    context: Context,
    *,
    keeps_states: bool = False,
) -> PooledTrace:
    """Run vectors (steps, size) through a network for which `pools_one_layer` holds.

    With `keeps_states` the states of all steps are in `result.outputs`, in place of what the way back needs.
    """
    pooling = layers[1]
    assert isinstance(pooling, description.Pooling)
    first = directions[0]
    cell: Any = first.cell if first.cell != "rnn" else f"rnn_{first.nonlinearity}"
    result = engine.recurrent(
        cell,
        batch,
        [engine.DirectionWeights(one.w_ih, one.w_hh, one.b_ih, one.b_hh) for one in directions],
        outputs=keeps_states,
        pooling=[kind for kind in pooling.kinds if kind in ("max", "mean")],
        save=not keeps_states,
        context=context,
    )
    pooled = {"last": np.concatenate(list(result.h_n), axis=1), "max": result.max_values, "mean": result.mean_values}
    flows = [steps.pool(batch, pooling, weights[1], pooled)]
    for layer, own in zip(layers[2:], weights[2:], strict=True):
        assert isinstance(layer, description.Linear)
        flows.append(steps.map_linear(flows[-1], layer, own))
    return PooledTrace(tuple(layers), tuple(weights), result, tuple(flows))


def slope(activation: str, outputs: np.ndarray) -> np.ndarray | float:
    """Return the derivative of an activation from its value."""
    if activation == "relu":
        return (outputs > 0).astype(outputs.dtype)
    if activation == "tanh":
        return 1 - outputs**2
    return outputs * (1 - outputs) if activation == "sigmoid" else 1.0
