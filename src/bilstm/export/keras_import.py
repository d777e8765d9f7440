"""A Keras model of recurrent layers as a model of this project: `bilstm import old.keras -o model`.

Known are the layers of the usual text classifiers, one after another. Everything else is refused by its name, and so
is every setting that would change the numbers: what is imported predicts what Keras predicts. Imports numpy,
`description`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bilstm import description
from bilstm.data.labels import LabelSet
from bilstm.data.tokenizers import KerasTokenizer
from bilstm.data.vocabulary import UNKNOWN_TOKEN, IdEncoder, TextEncoder, Vocabulary
from bilstm.description import Layer
from bilstm.errors import DataError, UsageError
from bilstm.export.gate_orders import to_torch_order
from bilstm.export.keras_file import KerasFile, checkpoint_names, read_keras_file
from bilstm.runtime.model import Model
from bilstm.tasks.text_classification import TextModel

__all__ = ["ImportedKeras", "import_keras"]

_CELLS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn"}
_ACTIVATIONS = {"linear": "none", "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid"}
_SKIPPED = ("InputLayer",)
_KNOWN = (
    "InputLayer, TextVectorization, Embedding, Dropout, SpatialDropout1D, Conv1D, LSTM, GRU, SimpleRNN, Bidirectional, "
    "GlobalMaxPooling1D, GlobalAveragePooling1D, Dense"
)
LabelKind = Literal["binary", "multiclass", "multilabel", "regression"]


@dataclass
class ImportedKeras:
    """An imported model.

    Parameters
    ----------
    model : TextModel
    notes : list of str
        What a user should know.
    """

    model: TextModel
    notes: list[str]


@dataclass
class _Reader:
    """Layers and weights while they are read."""

    file: KerasFile
    layers: list[Layer] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    features: int = 0
    pads_with_words: bool = False  # the embedding masks nothing: id 0 is read like a word
    text: dict[str, Any] | None = None  # settings of TextVectorization
    words: list[str] = field(default_factory=list)
    output: str = "linear"

    def fail(self, layer: str, problem: str) -> DataError:
        return DataError(f"{self.file.name}: layer {layer!r}: {problem}.", f"Known layers: {_KNOWN}.")

    def array(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        """Take the weights at a path; they must have this shape."""
        found = self.file.weights.get(f"layers/{path}")
        if found is None or found.shape != shape:
            what = "are missing" if found is None else f"have shape {found.shape}, should be {shape}"
            raise DataError(f"{self.file.name}: the weights layers/{path} {what}.", "Is the file complete?")
        return found

    def add(self, layer: Layer, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            self.weights[f"layers.{len(self.layers)}.{name}"] = np.ascontiguousarray(array, dtype=np.float32)
        self.layers.append(layer)
        self.features = getattr(layer, "output_size", getattr(layer, "size", self.features))


def import_keras(
    path: str | Path, *, label_kind: LabelKind | None = None, labels: Sequence[str] | None = None
) -> ImportedKeras:
    """Read a `.keras` file of a text classifier.

    Parameters
    ----------
    path : path
    label_kind : {"binary", "multiclass", "multilabel", "regression"}, optional
        What the outputs mean. Needed where the last layer does not say it: one without activation, whose loss is not
        stored either.
    labels : sequence of str, optional
        Names of the classes in the order of their numbers; by default the numbers.

    Raises
    ------
    DataError
        If the file is damaged, or holds a layer or setting that is not known; the message names it.
    UsageError
        If the labels do not fit the outputs.
    MissingExtraError
        h5py is not installed.
    """
    file = read_keras_file(path)
    entries = _chain(file)
    reader = _Reader(file)
    for entry, stored in zip(entries, checkpoint_names([entry["class_name"] for entry in entries]), strict=True):
        _read_layer(reader, entry, stored)
    if not reader.layers or not isinstance(reader.layers[-1], description.Linear):
        raise DataError(f"{file.name}: the last layer must be a Dense layer.", f"Known layers: {_KNOWN}.")
    kind = label_kind or _kind_of(file, reader)
    last = reader.layers[-1]
    label_set = _label_set(kind, last.output_size, labels)
    if kind != "regression":  # probabilities are made of logits
        _check_output(file, kind, reader.output)
        reader.layers[-1] = description.Linear(last.input_size, last.output_size)
    encoder = _encoder(reader)
    description.check_layers(tuple(reader.layers))
    model = Model(tuple(reader.layers), reader.weights)
    return ImportedKeras(TextModel(encoder, label_set, model, reader.weights), reader.notes)


def _chain(file: KerasFile) -> list[dict[str, Any]]:
    """Return the layers of a Sequential model, or of a Functional one that is a chain, in their order."""
    kind, config = file.config.get("class_name"), file.config.get("config")
    layers = config.get("layers") if isinstance(config, dict) else None
    if kind not in ("Sequential", "Functional") or not isinstance(layers, list):
        raise DataError(f"{file.name}: a model of class {kind!r} is not known.", "Known are Sequential and Functional.")
    before: str | None = None
    for entry in layers:
        if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict) or "class_name" not in entry:
            raise DataError(f"{file.name}: config.json: a layer has no class or settings.")
        if kind == "Functional":
            origins = _origins(entry.get("inbound_nodes"))
            if origins != ([] if before is None else [before]):
                raise DataError(
                    f"{file.name}: layer {entry['config'].get('name')!r} does not read the one layer before it.",
                    "Only models whose layers form a chain are imported.",
                )
            before = entry["config"].get("name")
    return layers


def _origins(nodes: Any) -> list[str]:
    """Names of the layers whose tensors stand in the `inbound_nodes` of a layer."""
    if isinstance(nodes, dict):
        history = nodes.get("keras_history")
        return [history[0]] if isinstance(history, list) and history else _origins(list(nodes.values()))
    return [name for node in nodes for name in _origins(node)] if isinstance(nodes, list) else []


def _read_layer(reader: _Reader, entry: Mapping[str, Any], stored: str) -> None:
    kind, config = entry["class_name"], entry["config"]
    name = str(config.get("name"))
    if kind == "Lambda":
        raise reader.fail(name, "a Lambda holds code, which is never run")
    if entry.get("registered_name") not in (None, kind) or not str(entry.get("module")).startswith("keras"):
        raise reader.fail(name, f"{kind!r} is a layer of somebody's own")
    if kind in _SKIPPED:
        return
    if reader.output == "softmax":
        raise reader.fail(name, "stands behind a softmax, which is only known in the last layer")
    readers = {
        "TextVectorization": _read_text,
        "Embedding": _read_embedding,
        "Dropout": _read_dropout,
        "SpatialDropout1D": _read_dropout,
        "Conv1D": _read_convolution,
        "LSTM": _read_recurrent,
        "GRU": _read_recurrent,
        "SimpleRNN": _read_recurrent,
        "Bidirectional": _read_bidirectional,
        "GlobalMaxPooling1D": _read_pooling,
        "GlobalAveragePooling1D": _read_pooling,
        "Dense": _read_dense,
    }
    if kind not in readers:
        raise reader.fail(name, f"{kind!r} is not known")
    readers[kind](reader, kind, config, stored)


def _expect(reader: _Reader, config: Mapping[str, Any], **wanted: Any) -> None:
    """Raise DataError for a setting that would change the numbers; a tuple lists what is allowed."""
    for setting, allowed in wanted.items():
        options = allowed if isinstance(allowed, tuple) else (allowed,)
        value = config.get(setting, options[0])
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if value not in options:
            shown = " or ".join(map(repr, options))
            raise reader.fail(str(config.get("name")), f"{setting}={value!r} is not known (only {shown})")


def _read_text(reader: _Reader, kind: str, config: Mapping[str, Any], stored: str) -> None:
    _expect(reader, config, output_mode="int", ngrams=(None,), split="whitespace")
    _expect(reader, config, standardize=("lower_and_strip_punctuation", "lower", "strip_punctuation", None))
    words = reader.file.vocabularies.get(stored)
    if words is None or words[:2] != ["", "[UNK]"]:
        raise reader.fail(str(config.get("name")), "its vocabulary is missing")
    reader.text, reader.words = dict(config), words[2:]


def _read_embedding(reader: _Reader, kind: str, config: Mapping[str, Any], stored: str) -> None:
    if reader.layers:
        raise reader.fail(str(config.get("name")), "an embedding must be the first layer")
    shape = (config["input_dim"], config["output_dim"])
    reader.pads_with_words = not config.get("mask_zero", False)
    reader.add(description.Embedding(*shape), weight=reader.array(f"{stored}/vars/0", shape))


def _read_dropout(reader: _Reader, kind: str, config: Mapping[str, Any], stored: str) -> None:
    if config.get("rate"):
        reader.add(description.Dropout(float(config["rate"]), variational=kind == "SpatialDropout1D"))


def _read_convolution(reader: _Reader, kind: str, config: Mapping[str, Any], stored: str) -> None:
    _expect(reader, config, padding="same", strides=1, dilation_rate=1, groups=1, activation=tuple(_ACTIVATIONS))
    size, filters = config["kernel_size"], config["filters"]
    size = size[0] if isinstance(size, list) else size
    kernel = reader.array(f"{stored}/vars/0", (size, reader.features, filters))
    bias = reader.array(f"{stored}/vars/1", (filters,)) if config.get("use_bias", True) else np.zeros(filters)
    activation: Any = _ACTIVATIONS[config["activation"]]
    layer = description.Convolution(reader.features, filters, size, activation)
    reader.add(layer, weight=kernel.transpose(2, 1, 0), bias=bias)


def _read_recurrent(reader: _Reader, kind: str, config: Mapping[str, Any], stored: str) -> None:
    if config.get("go_backwards"):
        raise reader.fail(str(config.get("name")), "go_backwards=True outside of Bidirectional is not known")
    _add_recurrent(reader, kind, config, [f"{stored}/cell"], "concat")


def _read_bidirectional(reader: _Reader, kind: str, config: Mapping[str, Any], stored: str) -> None:
    inner, backward = config["layer"], config.get("backward_layer") or config["layer"]
    own, other = inner["config"], backward["config"]
    name = str(config.get("name"))
    if inner["class_name"] not in _CELLS or backward["class_name"] != inner["class_name"]:
        raise reader.fail(name, f"Bidirectional of {inner['class_name']} and {backward['class_name']} is not known")
    if own["units"] != other["units"] or own.get("go_backwards") or not other.get("go_backwards", True):
        raise reader.fail(name, "its directions must have the same units, the second one backwards")
    _expect(reader, config, merge_mode=("concat", "sum", "mul", "ave"))
    _check_cell(reader, inner["class_name"], other)
    paths = [f"{stored}/forward_layer/cell", f"{stored}/backward_layer/cell"]
    _add_recurrent(reader, inner["class_name"], own, paths, config["merge_mode"])


def _check_cell(reader: _Reader, kind: str, config: Mapping[str, Any]) -> None:
    _expect(reader, config, return_state=False, stateful=False)
    if kind == "SimpleRNN":
        _expect(reader, config, activation=("tanh", "relu"))
        return
    _expect(reader, config, activation="tanh", recurrent_activation="sigmoid")
    if kind == "GRU":
        _expect(reader, config, reset_after=True)


def _add_recurrent(reader: _Reader, kind: str, config: Mapping[str, Any], paths: list[str], merge: Any) -> None:
    _check_cell(reader, kind, config)
    cell: Any = _CELLS[kind]
    units, inputs = config["units"], reader.features
    nonlinearity: Any = config.get("activation", "tanh") if cell == "rnn" else "tanh"
    layer = description.Recurrent(
        cell, inputs, units, bidirectional=len(paths) == 2, merge_mode=merge, nonlinearity=nonlinearity
    )
    arrays: dict[str, np.ndarray] = {}
    for path, suffix in zip(paths, ("l0", "l0_reverse"), strict=False):
        found = _cell_arrays(reader, path, cell, inputs, units, bool(config.get("use_bias", True)))
        arrays |= {f"{name}_{suffix}": to_torch_order(array, cell, "keras") for name, array in found.items()}
    reader.add(layer, **arrays)
    for setting in ("dropout", "recurrent_dropout"):
        if config.get(setting):
            reader.notes.append(f"{config.get('name')}: {setting} acts in training only and is left out.")
    if not config.get("return_sequences", False):
        reader.add(description.Pooling(reader.features, ("last",)))


def _cell_arrays(
    reader: _Reader, path: str, cell: str, inputs: int, units: int, has_bias: bool
) -> dict[str, np.ndarray]:
    """Read one direction; blocks of gates along the first axis, in Keras' order."""
    rows = {"lstm": 4, "gru": 3, "rnn": 1}[cell] * units
    bias, recurrent_bias = np.zeros(rows, dtype=np.float32), np.zeros(rows, dtype=np.float32)
    if has_bias and cell == "gru":
        bias, recurrent_bias = reader.array(f"{path}/vars/2", (2, rows))
    elif has_bias:
        bias = reader.array(f"{path}/vars/2", (rows,))
    return {
        "weight_ih": reader.array(f"{path}/vars/0", (inputs, rows)).T,
        "weight_hh": reader.array(f"{path}/vars/1", (units, rows)).T,
        "bias_ih": bias,
        "bias_hh": recurrent_bias,
    }


def _read_pooling(reader: _Reader, kind: str, config: Mapping[str, Any], stored: str) -> None:
    _expect(reader, config, keepdims=False, data_format=("channels_last", None))
    is_max = kind == "GlobalMaxPooling1D"
    reader.add(description.Pooling(reader.features, ("max",) if is_max else ("mean",)))
    if is_max and not reader.pads_with_words:
        reader.notes.append(
            "GlobalMaxPooling1D in Keras reads the zeros of masked padding; here only real steps count, as in Keras "
            "without padding."
        )


def _read_dense(reader: _Reader, kind: str, config: Mapping[str, Any], stored: str) -> None:
    units, activation = config["units"], config.get("activation", "linear")
    _expect(reader, config, activation=(*_ACTIVATIONS, "softmax"))
    weight = reader.array(f"{stored}/vars/0", (reader.features, units))
    bias = reader.array(f"{stored}/vars/1", (units,)) if config.get("use_bias", True) else np.zeros(units)
    reader.output = activation
    own: Any = _ACTIVATIONS.get(activation, "none")  # softmax can only be the last, and is what the labels then say
    reader.add(description.Linear(reader.features, units, own), weight=weight.T, bias=bias)


# ---- what the outputs mean, what the inputs are ----------------------------------------------------------------------


def _kind_of(file: KerasFile, reader: _Reader) -> LabelKind:
    last = reader.layers[-1]
    assert isinstance(last, description.Linear)
    if reader.output == "softmax" and last.output_size > 1:
        return "multiclass"
    if reader.output == "sigmoid":
        return "binary" if last.output_size == 1 else "multilabel"
    if reader.output == "linear":
        loss = str((file.config.get("compile_config") or {}).get("loss", "")).lower().replace("_", "")
        if "binarycrossentropy" in loss:
            return "binary" if last.output_size == 1 else "multilabel"
        if "categoricalcrossentropy" in loss and last.output_size > 1:
            return "multiclass"
        if last.output_size == 1 and any(name in loss for name in ("mean", "mse", "mae", "huber")):
            return "regression"
    raise UsageError(
        f"{file.name}: the last layer ({last.output_size} outputs, {reader.output}) does not say what it means.",
        "Say it: --label-kind binary, multiclass, multilabel or regression.",
    )


def _check_output(file: KerasFile, kind: str, activation: str) -> None:
    """Raise UsageError if the activation of the last layer does not go with the kind of the labels."""
    if activation not in ("linear", "softmax" if kind == "multiclass" else "sigmoid"):
        raise UsageError(
            f"{file.name}: the last layer has activation {activation}, which label kind {kind} cannot have."
        )


def _label_set(kind: LabelKind, outputs: int, labels: Sequence[str] | None) -> LabelSet:
    wanted = {"binary": 2, "regression": 0}.get(kind, outputs)
    if kind in ("binary", "regression") and outputs != 1:
        raise UsageError(f"label kind {kind} needs one output, the model has {outputs}.")
    names = tuple(labels) if labels is not None else tuple(str(number) for number in range(wanted))
    if len(names) != wanted or len(set(names)) != wanted:
        raise UsageError(f"the model needs {wanted} different label names, got {len(names)}.", "Give --labels a,b,...")
    return LabelSet(kind, names, "|" if kind == "multilabel" else None)


def _encoder(reader: _Reader) -> TextEncoder | IdEncoder:
    embedding = reader.layers[0]
    if not isinstance(embedding, description.Embedding):
        raise DataError(f"{reader.file.name}: the first layer must be an Embedding.", f"Known layers: {_KNOWN}.")
    if reader.text is None:
        if reader.pads_with_words:
            reader.notes.append("The embedding masks nothing: padding, where the model was trained with it, is a word.")
        else:
            reader.notes.append("The embedding masks id 0: give sequences without padding.")
        return IdEncoder(embedding.vocabulary_size)
    length = reader.text.get("output_sequence_length")
    if reader.pads_with_words and length is not None:
        reader.notes.append(
            f"TextVectorization pads texts to {length} and the model reads the padding like words; it is left out: "
            "give ids as it makes them."
        )
        return IdEncoder(embedding.vocabulary_size)
    # Keras: 0 padding, 1 unknown, then the words; here: 0 unknown, then the words
    count = len(reader.words) + 1
    if embedding.vocabulary_size < count + 1:
        raise DataError(f"{reader.file.name}: the embedding has fewer rows than the vocabulary words.")
    reader.layers[0] = description.Embedding(count, embedding.size)
    reader.weights["layers.0.weight"] = np.ascontiguousarray(reader.weights["layers.0.weight"][1 : count + 1])
    tokenizer = KerasTokenizer(str(reader.text.get("standardize") or "none"))
    return TextEncoder(tokenizer, Vocabulary((UNKNOWN_TOKEN, *reader.words)), length)
