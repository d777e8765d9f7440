"""A text classifier as a `.keras` file: `bilstm export --keras`.

The file is a chain of Keras' own layers, or, where several poolings are joined, a small graph of them. Id 0 is padding
there and masked, so every id of ours is one higher. Without padding the numbers are equal; with it too, but for
GlobalMaxPooling1D, which in Keras reads the zeros of masked steps. Imports numpy, `description`; h5py inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bilstm import description
from bilstm.errors import UsageError
from bilstm.export.gate_orders import from_torch_order
from bilstm.export.keras_file import checkpoint_names, write_keras_file
from bilstm.export.single_file import check_place, write_file
from bilstm.tasks.text_classification import TextModel

__all__ = ["build_keras", "export_keras"]

_POOLS = {"max": "GlobalMaxPooling1D", "mean": "GlobalAveragePooling1D"}
_CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}


@dataclass
class _Writer:
    """Layers and weights while they are gathered."""

    layers: list[dict[str, Any]] = field(default_factory=list)  # class_name, config, inputs (names)
    weights: list[dict[str, np.ndarray]] = field(default_factory=list)  # of each layer, by path below its own
    shape_of: dict[str, list[int | None]] = field(default_factory=dict)  # of what each layer gives
    last: str = ""

    def add(self, kind: str, config: dict[str, Any], weights: dict[str, np.ndarray] | None = None, **given: Any) -> str:
        name = f"{checkpoint_names([kind])[0]}_{len(self.layers)}"
        inputs = given.get("inputs", [self.last] if self.last else [])
        shape = given.get("shape") or self.shape_of[inputs[0]]
        self.layers.append({"class_name": kind, "config": {"name": name, **config}, "inputs": inputs})
        self.shape_of[name] = shape
        self.weights.append(weights or {})
        self.last = name
        return name


def export_keras(
    model: TextModel, path: str | Path, *, network_only: bool = False, overwrite: bool = False
) -> list[str]:
    """Write a text classifier as a `.keras` file; return what a user should know.

    Parameters
    ----------
    model : TextModel
    path : path
    network_only : bool
        Leave the linear n-gram models out, which a Keras model cannot hold.
    overwrite : bool
        Replace a file that stands there.

    Raises
    ------
    UsageError
        For what Keras has no layer for; the message names it.
    MissingExtraError
        h5py is not installed.
    OutputError, WriteFailedError
        As `single_file`.
    """
    check_place(path, overwrite)
    if not str(path).endswith(".keras"):
        raise UsageError(f"{path}: the name must end in .keras.")
    if not isinstance(model, TextModel):
        raise UsageError("only text classifiers are written for Keras: it has no CRF.", "Use --onnx.")
    if model.joined is not None and not network_only:
        raise UsageError(
            "the model adds linear n-gram models to its network, which a Keras model cannot hold.",
            "Add --network-only to write the network alone, or use --onnx.",
        )
    if isinstance(model.model.description[0], description.Average):
        raise UsageError(
            f"an ensemble of {model.model.description[0].members} members is not written for Keras.",
            "Use --onnx, which holds them all, or train with --members 1.",
        )
    write_file(path, build_keras(model))
    notes = ["Ids are one higher than in vocabulary.json; 0 is padding (masked)."]
    if any(isinstance(layer, description.Pooling) and "max" in layer.kinds for layer in model.model.description):
        notes.append("GlobalMaxPooling1D of Keras reads masked steps as zeros: give texts of one length together.")
    return notes


def build_keras(model: TextModel) -> bytes:
    """Return the content of the file; errors as `export_keras`."""
    writer = _Writer()
    writer.add("InputLayer", {"batch_shape": [None, None], "dtype": "int32"}, shape=[None, None])
    layers = [
        (number, layer)
        for number, layer in enumerate(model.model.description)
        if not isinstance(layer, description.WordDropout)
    ]
    for place, (number, layer) in enumerate(layers):
        own = {
            name: np.asarray(model.weights[f"layers.{number}.{name}"]) for name in description.weight_shapes_of(layer)
        }
        following = next(
            (other for _, other in layers[place + 1 :] if not isinstance(other, description.Dropout)), None
        )
        _write_layer(writer, layer, own, following, model)
    return _content(writer)


def _write_layer(
    writer: _Writer, layer: description.Layer, own: dict[str, np.ndarray], following: Any, model: TextModel
) -> None:
    if isinstance(layer, description.Embedding):
        table = np.concatenate([np.zeros((1, layer.size), dtype=np.float32), own["weight"]])
        config = {"input_dim": len(table), "output_dim": layer.size, "mask_zero": True}
        writer.add("Embedding", config, {"vars/0": table}, shape=[None, None, layer.size])
    elif isinstance(layer, description.Dropout):
        writer.add("SpatialDropout1D" if layer.variational else "Dropout", {"rate": layer.rate})
    elif isinstance(layer, description.Convolution):
        raise UsageError("a convolution is not written for Keras: there it reads the padding.", "Use --onnx.")
    elif isinstance(layer, description.Recurrent):
        keeps_last = isinstance(following, description.Pooling) and following.kinds == ("last",)
        _write_recurrent(writer, layer, own, keeps_last)
    elif isinstance(layer, description.Pooling):
        _write_pooling(writer, layer)
    elif isinstance(layer, description.Linear):
        is_last = following is None
        activation = {"none": "linear"}.get(layer.activation, layer.activation)
        weight, bias = own["weight"].T, own["bias"]
        if is_last:
            activation, weight, bias = _output(model, weight, bias)
        config = {"units": layer.output_size, "activation": activation}
        shape = [*writer.shape_of[writer.last][:-1], layer.output_size]
        writer.add("Dense", config, {"vars/0": weight, "vars/1": bias}, shape=shape)


def _output(model: TextModel, weight: np.ndarray, bias: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the last activation, and weights that hold the temperature, or the scale of numbers."""
    if model.labels.kind == "regression":
        return "linear", weight * np.float32(model.scale), bias * np.float32(model.scale) + np.float32(model.shift)
    factor = np.float32(1.0 / model.temperature)
    return ("softmax" if model.labels.kind == "multiclass" else "sigmoid"), weight * factor, bias * factor


def _write_recurrent(
    writer: _Writer, layer: description.Recurrent, own: dict[str, np.ndarray], keeps_last: bool
) -> None:
    if layer.bidirectional and layer.merge_mode is None:
        raise UsageError("merge_mode None is not written for Keras.", "Use --onnx.")
    for number in range(layer.num_layers):
        is_last = number == layer.num_layers - 1
        config: dict[str, Any] = {"units": layer.hidden_size, "return_sequences": not (keeps_last and is_last)}
        config["activation"] = layer.nonlinearity if layer.cell == "rnn" else "tanh"
        if layer.cell == "gru":
            config["reset_after"] = True
        kind = _CELLS[layer.cell]
        shape = [None, layer.output_size] if keeps_last and is_last else [None, None, layer.output_size]
        forward = {f"cell/{path}": array for path, array in _cell(layer.cell, own, f"l{number}").items()}
        if not layer.bidirectional:
            writer.add(kind, config, forward, shape=shape)
            continue
        backward = {f"cell/{path}": array for path, array in _cell(layer.cell, own, f"l{number}_reverse").items()}
        arrays = {f"forward_layer/{path}": array for path, array in forward.items()}
        arrays |= {f"backward_layer/{path}": array for path, array in backward.items()}
        inner = {"module": "keras.layers", "class_name": kind, "registered_name": None}
        both = {
            "merge_mode": layer.merge_mode,
            "layer": {**inner, "config": {"name": f"forward_{kind.lower()}", **config}},
            "backward_layer": {**inner, "config": {"name": f"backward_{kind.lower()}", "go_backwards": True, **config}},
        }
        writer.add("Bidirectional", both, arrays, shape=shape)


def _cell(cell: str, own: dict[str, np.ndarray], suffix: str) -> dict[str, np.ndarray]:
    """Return the weights of one direction as Keras stores them."""
    kernel, recurrent, bias, recurrent_bias = (
        from_torch_order(own[f"{name}_{suffix}"], cell, "keras")
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    both = np.stack([bias, recurrent_bias]) if cell == "gru" else bias + recurrent_bias
    return {"vars/0": kernel.T, "vars/1": recurrent.T, "vars/2": both}


def _write_pooling(writer: _Writer, layer: description.Pooling) -> None:
    if layer.kinds == ("last",):
        if not _is_recurrent(writer):
            raise UsageError("pooling 'last' is written for Keras only right after a recurrent layer.", "Use --onnx.")
        return
    for kind in layer.kinds:
        if kind not in _POOLS:
            raise UsageError(f"pooling {kind!r} beside others is not written for Keras.", "Use --onnx.")
    origin = writer.last
    shape = [None, layer.input_size]
    pooled = [writer.add(_POOLS[kind], {}, inputs=[origin], shape=shape) for kind in layer.kinds]
    if len(pooled) > 1:
        writer.add("Concatenate", {"axis": -1}, inputs=pooled, shape=[None, layer.output_size])


def _is_recurrent(writer: _Writer) -> bool:
    kinds = [layer["class_name"] for layer in writer.layers if "Dropout" not in layer["class_name"]]
    return kinds[-1] in ("Bidirectional", *_CELLS.values())


def _content(writer: _Writer) -> bytes:
    names = checkpoint_names([layer["class_name"] for layer in writer.layers])
    arrays = {
        f"layers/{name}/{path}": array
        for name, own in zip(names, writer.weights, strict=True)
        for path, array in own.items()
    }
    entries = [
        {
            "module": "keras.layers",
            "class_name": layer["class_name"],
            "config": layer["config"],
            "registered_name": None,
            "name": layer["config"]["name"],
            "inbound_nodes": _nodes(layer["inputs"], writer.shape_of),
        }
        for layer in writer.layers
    ]
    first, last = writer.layers[0]["config"]["name"], writer.last
    config = {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {
            "name": "bilstm",
            "trainable": True,
            "layers": entries,
            "input_layers": [[first, 0, 0]],
            "output_layers": [[last, 0, 0]],
        },
        "registered_name": "Functional",
    }
    return write_keras_file(config, arrays, [f"layers/{name}/vars" for name in names])


def _nodes(inputs: list[str], shape_of: dict[str, list[int | None]]) -> list[dict[str, Any]]:
    if not inputs:
        return []
    tensors = []
    for name in inputs:
        dtype = "int32" if len(shape_of[name]) == 2 and shape_of[name][1] is None else "float32"
        config = {"shape": shape_of[name], "dtype": dtype, "keras_history": [name, 0, 0]}
        tensors.append({"class_name": "__keras_tensor__", "config": config})
    return [{"args": [tensors if len(tensors) > 1 else tensors[0]], "kwargs": {}}]
