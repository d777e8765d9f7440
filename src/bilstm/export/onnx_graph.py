"""Layer descriptions as nodes of an ONNX graph: dynamic batch and length, true lengths, nothing padded counts.

Sequences cross the border padded on the right, (batch, time); inside, steps stand time first as the recurrent
operators want them. Operators of opset 17, each with its own handling of lengths (`sequence_lens`), so that the
backward direction starts at the last real step. Equals `runtime.Model` up to rounding. Imports numpy, `description`;
`onnx` when a graph is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bilstm import description
from bilstm.errors import MissingExtraError, UsageError
from bilstm.export.gate_orders import from_torch_order

__all__ = ["OPSET", "GraphBuilder", "onnx_library"]

OPSET = 17
_LOWEST = np.float32(-3.0e38)  # below every state; minus infinity would make NaN in 0 * -inf
_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def onnx_library() -> Any:
    """Return the package `onnx`.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("Writing ONNX needs the package onnx.", "pip install 'bilstm[onnx]'") from error
    return onnx


class GraphBuilder:
    """Collects nodes and weights; every method returns the name of the value that it adds.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
    weights : dict of str to ndarray
        Initializers by name.
    """

    def __init__(self, prefix: str = "", weights: dict[str, np.ndarray] | None = None) -> None:
        self._onnx = onnx_library()
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {} if weights is None else weights
        self._prefix = prefix
        self._count = 0

    def body(self, prefix: str) -> GraphBuilder:
        """Begin the graph of one step of a loop: it shares the weights; its values begin with `prefix`."""
        return GraphBuilder(prefix, self.weights)

    def graph(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Return the nodes as the body of a loop; weights stay in the graph around it."""
        return self._onnx.helper.make_graph(self.nodes, name, list(inputs), list(outputs))

    def constant(self, values: Any, dtype: Any = np.float32, name: str | None = None) -> str:
        """Add a weight or constant; equal small constants share one."""
        array = np.asarray(values, dtype=dtype)
        name = name or f"constant_{array.dtype}_{'_'.join(map(str, array.shape))}_{array.reshape(-1).tolist()[:8]}"
        self.weights.setdefault(name, array)
        return name

    def add(self, operator: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes: Any) -> Any:
        """Add a node; return the name of its output, or the names if there are several."""
        if isinstance(outputs, int):
            names = [f"{self._prefix}{operator.lower()}_{self._count}_{number}" for number in range(outputs)]
        else:
            names = list(outputs)
        self._count += 1
        self.nodes.append(self._onnx.helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if len(names) == 1 else names

    # ---- sequences ---------------------------------------------------------------------------------------------

    def mask_of(self, lengths: str, steps: str) -> str:
        """Say which steps are real: (time, batch, 1) float, from lengths (batch,) int64 and any (time, batch, ...)."""
        shape = self.add("Shape", steps)
        time = self.add("Gather", shape, self.constant(0, np.int64))
        numbers = self.add("Range", self.constant(0, np.int64), time, self.constant(1, np.int64))
        column = self.add("Unsqueeze", numbers, self.constant([1], np.int64))
        row = self.add("Unsqueeze", lengths, self.constant([0], np.int64))
        is_real = self.add("Cast", self.add("Less", column, row), to=self._onnx.TensorProto.FLOAT)
        return self.add("Unsqueeze", is_real, self.constant([2], np.int64))

    def stack(
        self,
        layers: Sequence[description.Layer],
        weights: Mapping[str, np.ndarray],
        flow: str,
        lengths: str,
        prefix: str,
    ) -> str:
        """Add a stack of layers.

        Parameters
        ----------
        layers : sequence of layer descriptions
        weights : mapping of str to ndarray
            Named `layers.<index>.<parameter>`.
        flow : str
            Ids (time, batch) int64, or vectors (time, batch, features).
        lengths : str
            (batch,) int64.
        prefix : str
            Of the names of the weights.

        Returns
        -------
        str
            (batch, features) if a layer pools, else (time, batch, features).
        """
        if isinstance(ensemble := layers[0], description.Average):
            found = [
                self.stack(
                    ensemble.layers,
                    description.member_weights(ensemble, number, weights),
                    flow,
                    lengths,
                    f"{prefix}layers.0.members.{number}.",
                )
                for number in range(ensemble.members)
            ]
            return self.add("Mean", *found)
        mask = self.mask_of(lengths, flow)
        final: str | None = None  # last states of a recurrent layer, until another layer changes the steps
        for number, layer in enumerate(layers):
            if isinstance(layer, description.Dropout | description.WordDropout):
                continue
            own = {name: weights[f"layers.{number}.{name}"] for name in description.weight_shapes_of(layer)}
            at = f"{prefix}layers.{number}."
            if isinstance(layer, description.Embedding):
                flow, final = self.add("Gather", self.constant(own["weight"], name=f"{at}weight"), flow), None
            elif isinstance(layer, description.Convolution):
                flow, final = self._convolution(layer, own, flow, mask, at), None
            elif isinstance(layer, description.Recurrent):
                flow, final = self._recurrent(layer, own, flow, lengths, at)
            elif isinstance(layer, description.Pooling):
                flow, final = self._pooling(layer, own, flow, lengths, mask, final, at), None
            elif isinstance(layer, description.Linear):
                flow, final = self.linear(layer, own, flow, at), None
            else:
                raise AssertionError(f"{type(layer).__name__} does not stand inside a list of layers")
        return flow

    def linear(self, layer: description.Linear, own: Mapping[str, np.ndarray], flow: str, at: str) -> str:
        """Map the last axis."""
        product = self.add("MatMul", flow, self.constant(own["weight"].T, name=f"{at}weight"))
        return self._activated(self.add("Add", product, self.constant(own["bias"], name=f"{at}bias")), layer.activation)

    def _activated(self, flow: str, activation: str) -> str:
        return flow if activation == "none" else self.add(_ACTIVATIONS[activation], flow)

    def _convolution(
        self, layer: description.Convolution, own: Mapping[str, np.ndarray], flow: str, mask: str, at: str
    ) -> str:
        left = (layer.kernel_size - 1) // 2
        channels = self.add("Transpose", self.add("Mul", flow, mask), perm=[1, 2, 0])  # (batch, features, time)
        weight, bias = (self.constant(own[name], name=f"{at}{name}") for name in ("weight", "bias"))
        pads = [left, layer.kernel_size - 1 - left]
        result = self.add("Conv", channels, weight, bias, kernel_shape=[layer.kernel_size], pads=pads)
        return self._activated(self.add("Transpose", result, perm=[2, 0, 1]), layer.activation)

    def _recurrent(
        self, layer: description.Recurrent, own: Mapping[str, np.ndarray], flow: str, lengths: str, at: str
    ) -> tuple[str, str]:
        operator = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}[layer.cell]
        directions = 2 if layer.bidirectional else 1
        attributes: dict[str, Any] = {
            "hidden_size": layer.hidden_size,
            "direction": "bidirectional" if layer.bidirectional else "forward",
        }
        if layer.cell == "gru":
            attributes["linear_before_reset"] = 1
        if layer.cell == "rnn":
            attributes["activations"] = ["Relu" if layer.nonlinearity == "relu" else "Tanh"] * directions
        short = self.add("Cast", lengths, to=self._onnx.TensorProto.INT32)
        mode = layer.merge_mode or "concat"
        final = ""
        for number in range(layer.num_layers):
            suffixes = [f"l{number}", f"l{number}_reverse"][:directions]
            names = [self._packed(own, layer.cell, kind, suffixes, f"{at}{kind}_l{number}") for kind in ("W", "R", "B")]
            results = self.add(operator, flow, *names, short, outputs=2, **attributes)
            every = self.add("Transpose", results[0], perm=[0, 2, 1, 3])  # (time, batch, directions, units)
            flow = self._merged(every, mode, directions, axis=2)
            final = self._merged(self.add("Transpose", results[1], perm=[1, 0, 2]), mode, directions, axis=1)
        return flow, final

    def _packed(self, own: Mapping[str, np.ndarray], cell: str, kind: str, suffixes: list[str], name: str) -> str:
        """Stack the directions of one kind of weight in ONNX's form."""

        def ordered(parameter: str, suffix: str) -> np.ndarray:
            return from_torch_order(own[f"{parameter}_{suffix}"], cell, "onnx")

        if kind == "B":
            parts = [np.concatenate([ordered("bias_ih", end), ordered("bias_hh", end)]) for end in suffixes]
        else:
            parts = [ordered("weight_ih" if kind == "W" else "weight_hh", end) for end in suffixes]
        return self.constant(np.stack(parts), name=name)

    def _merged(self, flow: str, mode: str, directions: int, axis: int) -> str:
        if directions == 1:
            return self.add("Squeeze", flow, self.constant([axis], np.int64))
        if mode == "concat":  # (..., 2, units) -> (..., 2 * units)
            return self.add("Reshape", flow, self.constant([0] * axis + [-1], np.int64))
        halves = self.add("Split", flow, outputs=2, axis=axis)
        forward, backward = (self.add("Squeeze", half, self.constant([axis], np.int64)) for half in halves)
        joined = self.add("Mul" if mode == "mul" else "Add", forward, backward)
        return self.add("Mul", joined, self.constant(0.5)) if mode == "ave" else joined

    # ---- pooling -----------------------------------------------------------------------------------------------

    def _pooling(
        self,
        layer: description.Pooling,
        own: Mapping[str, np.ndarray],
        flow: str,
        lengths: str,
        mask: str,
        final: str | None,
        at: str,
    ) -> str:
        parts = []
        for kind in layer.kinds:
            if kind == "last":
                parts.append(final if final is not None else self._last(flow, lengths))
            elif kind == "max":
                parts.append(self._largest(flow, lengths, mask))
            elif kind == "mean":
                parts.append(self._mean(flow, lengths, mask))
            else:
                parts.append(self._attention(own, flow, mask, at))
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)

    def _sum_of_steps(self, flow: str) -> str:
        return self.add("ReduceSum", flow, self.constant([0], np.int64), keepdims=0)

    def _last(self, flow: str, lengths: str) -> str:
        before = self.add("Sub", lengths, self.constant(1, np.int64))
        difference = self.add("Sub", self.mask_of(lengths, flow), self.mask_of(before, flow))  # one at the last step
        return self._sum_of_steps(self.add("Mul", flow, difference))

    def _largest(self, flow: str, lengths: str, mask: str) -> str:
        is_real = self.add("Cast", mask, to=self._onnx.TensorProto.BOOL)
        largest = self.add("ReduceMax", self.add("Where", is_real, flow, self.constant(_LOWEST)), axes=[0], keepdims=0)
        has_steps = self.add("Greater", lengths, self.constant(0, np.int64))
        column = self.add("Unsqueeze", has_steps, self.constant([1], np.int64))
        return self.add("Where", column, largest, self.constant(0.0))

    def _mean(self, flow: str, lengths: str, mask: str) -> str:
        total = self._sum_of_steps(self.add("Mul", flow, mask))
        count = self.add("Max", lengths, self.constant(1, np.int64))
        column = self.add("Unsqueeze", count, self.constant([1], np.int64))
        return self.add("Div", total, self.add("Cast", column, to=self._onnx.TensorProto.FLOAT))

    def _attention(self, own: Mapping[str, np.ndarray], flow: str, mask: str, at: str) -> str:
        projected = self.add("MatMul", flow, self.constant(own["attention_weight"].T, name=f"{at}attention_weight"))
        biased = self.add("Add", projected, self.constant(own["attention_bias"], name=f"{at}attention_bias"))
        query = self.constant(own["attention_query"][:, None], name=f"{at}attention_query")
        scores = self.add("MatMul", self.add("Tanh", biased), query)  # (time, batch, 1)
        is_real = self.add("Cast", mask, to=self._onnx.TensorProto.BOOL)
        shifted = self.add("Where", is_real, scores, self.constant(_LOWEST))
        level = self.add("ReduceMax", shifted, axes=[0], keepdims=1)
        powers = self.add("Mul", self.add("Exp", self.add("Sub", shifted, level)), mask)
        total = self.add("Max", self._sum_of_steps(powers), self.constant(1e-30))
        return self.add("Div", self._sum_of_steps(self.add("Mul", flow, powers)), total)

    # ---- the whole ---------------------------------------------------------------------------------------------

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], name: str, metadata: Mapping[str, str]) -> bytes:
        """Return the whole model as the content of one file.

        Raises
        ------
        UsageError
            If it is larger than the 2 GB that one ONNX file can hold.
        """
        onnx = self._onnx
        make = onnx.numpy_helper.from_array
        weights = [make(np.ascontiguousarray(array), name) for name, array in self.weights.items()]
        if sum(array.nbytes for array in self.weights.values()) >= 2**31 - 2**24:
            raise UsageError("the model is larger than one ONNX file can hold (2 GB).")
        graph = onnx.helper.make_graph(self.nodes, name, list(inputs), list(outputs), weights)
        made = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=9, producer_name="bilstm"
        )
        onnx.helper.set_model_props(made, dict(metadata))
        onnx.checker.check_model(made, full_check=True)
        return made.SerializeToString()
