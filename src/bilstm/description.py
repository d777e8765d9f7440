"""What a model is made of: frozen layer descriptions, read from and written to `config.json`.

One description, two faces: `bilstm.layers.build_model` makes torch modules of it for training, `bilstm.runtime` runs
the same list with numpy and the native engine. Names are looked up in the fixed table `LAYERS`; nothing is imported by
name. Imports only `errors`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bilstm.errors import ModelFolderError, UsageError

__all__ = [
    "LAYERS",
    "MOST_MEMBERS",
    "Activation",
    "Average",
    "Cell",
    "Convolution",
    "Dropout",
    "Embedding",
    "Layer",
    "Linear",
    "MergeMode",
    "Pooling",
    "PoolingKind",
    "Recurrent",
    "WordDropout",
    "check_layer",
    "check_layers",
    "layers_from_config",
    "layers_to_config",
    "member_weights",
    "weight_shapes",
    "weight_shapes_of",
]

Cell = Literal["lstm", "gru", "rnn"]
MergeMode = Literal["concat", "sum", "mul", "ave"] | None
PoolingKind = Literal["last", "max", "mean", "attention"]
Activation = Literal["none", "relu", "tanh", "sigmoid"]


@dataclass(frozen=True)
class WordDropout:
    """Replace token ids by the unknown id with probability `rate`, while training only. ids -> ids."""

    rate: float
    unknown_id: int = 0


@dataclass(frozen=True)
class Embedding:
    """Look up one vector per token id. ids (steps,) -> (steps, size)."""

    vocabulary_size: int
    size: int


@dataclass(frozen=True)
class Dropout:
    """Zero features with probability `rate` while training; `variational`: one mask per sequence for all its steps."""

    rate: float
    variational: bool = False


@dataclass(frozen=True)
class Convolution:
    """Convolve over time, zero steps beyond both ends, same length out. (steps, input_size) -> (steps, output_size)."""

    input_size: int
    output_size: int
    kernel_size: int = 3
    activation: Activation = "relu"


@dataclass(frozen=True)
class Recurrent:
    """Read each sequence forwards, and backwards too if `bidirectional`. (steps, input_size) -> (steps, output_size).

    `merge_mode` joins the two directions after every layer (Keras' names); None keeps the last layer's directions apart
    (between layers it is "concat"), which is only allowed before a pooling layer. `dropout` acts between stacked
    layers; `variational_dropout` is one mask per sequence on the recurrent state (Gal and Ghahramani 2016);
    `weight_dropout` drops recurrent weights (Merity et al. 2018).
    """

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = True
    merge_mode: MergeMode = "concat"
    dropout: float = 0.0
    variational_dropout: float = 0.0
    weight_dropout: float = 0.0
    nonlinearity: Literal["tanh", "relu"] = "tanh"  # of the cell "rnn" only

    @property
    def output_size(self) -> int:
        """Features a step has after merging (both directions counted when they are kept apart)."""
        return self.hidden_size * (2 if self.bidirectional and self.merge_mode in ("concat", None) else 1)


@dataclass(frozen=True)
class Pooling:
    """Turn each sequence into one vector. (steps, input_size) -> (batch, input_size * len(kinds)).

    Several kinds are concatenated in the given order. A sequence without steps gives zeros. "last" after a recurrent
    layer is the final state of each direction (the backward one ends at step 0), merged as that layer merges.
    """

    input_size: int
    kinds: tuple[PoolingKind, ...] = ("last",)

    @property
    def output_size(self) -> int:
        """Features of the pooled vector."""
        return self.input_size * len(self.kinds)


@dataclass(frozen=True)
class Linear:
    """Affine map of the last axis, then `activation`. (..., input_size) -> (..., output_size)."""

    input_size: int
    output_size: int
    activation: Activation = "none"


@dataclass(frozen=True)
class Average:
    """Run stacks of the same layers side by side, each with weights of its own, and average what they give.

    ids (steps,) -> (batch, output_size). A model that has it has no other layer: it is the whole ensemble.

    Parameters
    ----------
    members : int
        Stacks, 2 to 100.
    layers : tuple of layer descriptions
        Of each stack, from ids to the logits of each sequence.
    """

    members: int
    layers: tuple[Any, ...]

    @property
    def output_size(self) -> int:
        """Features that each member gives."""
        return self.layers[-1].output_size


MOST_MEMBERS = 100

Layer = Union[  # noqa: UP007 (a name of the union)
    WordDropout, Embedding, Dropout, Convolution, Recurrent, Pooling, Linear, Average
]

LAYERS: dict[str, type] = {
    "word_dropout": WordDropout,
    "embedding": Embedding,
    "dropout": Dropout,
    "convolution": Convolution,
    "recurrent": Recurrent,
    "pooling": Pooling,
    "linear": Linear,
    "average": Average,
}
_NAMES = {layer: name for name, layer in LAYERS.items()}


def layers_to_config(layers: tuple[Layer, ...]) -> list[dict[str, Any]]:
    """Write descriptions as plain JSON values, each with its `"layer"` name."""
    return [_layer_to_config(layer) for layer in layers]


def _layer_to_config(layer: Layer) -> dict[str, Any]:
    if isinstance(layer, Average):
        return {"layer": _NAMES[Average], "members": layer.members, "layers": layers_to_config(layer.layers)}
    return {"layer": _NAMES[type(layer)], **dataclasses.asdict(layer)}


def layers_from_config(config: Any) -> tuple[Layer, ...]:
    """Read descriptions from JSON values; the schema is closed.

    Raises
    ------
    ModelFolderError
        For an unknown layer or key, a missing key, or a value of the wrong type or out of range.
    """
    if not isinstance(config, list):
        raise ModelFolderError(f"config.json: layers must be a list, found {type(config).__name__}.")
    return tuple(_layer_from_config(entry, number) for number, entry in enumerate(config))


def _layer_from_config(entry: Any, number: int) -> Layer:
    where = f"config.json: layers[{number}]"
    if not isinstance(entry, dict) or entry.get("layer") not in LAYERS:
        raise ModelFolderError(f"{where}: unknown layer; known are {', '.join(LAYERS)}.")
    layer_type = LAYERS[entry["layer"]]
    given = {key: value for key, value in entry.items() if key != "layer"}
    fields = {field.name: field for field in dataclasses.fields(layer_type)}
    hints = get_type_hints(layer_type)
    if unknown := sorted(given.keys() - fields.keys()):
        raise ModelFolderError(f"{where} ({entry['layer']}): unknown key {unknown[0]!r}.")
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in given]
    if missing:
        raise ModelFolderError(f"{where} ({entry['layer']}): key {missing[0]!r} is missing.")
    if layer_type is Average:
        given["layers"] = _member_from_config(given["layers"], where)
        hints["layers"] = tuple
    values = {name: _checked(value, hints[name], f"{where}.{name}") for name, value in given.items()}
    layer = layer_type(**values)
    try:
        check_layer(layer)
    except UsageError as error:
        raise ModelFolderError(f"{where}: {error.message}") from error
    return layer


def _member_from_config(config: Any, where: str) -> tuple[Layer, ...]:
    """Read the layers of an ensemble's members, which are no ensembles themselves."""
    entries = config if isinstance(config, list) else []
    if any(isinstance(entry, dict) and entry.get("layer") == _NAMES[Average] for entry in entries):
        raise ModelFolderError(f"{where}: an average cannot be a member of an average.")
    try:
        return layers_from_config(config)
    except ModelFolderError as error:
        raise ModelFolderError(f"{where}: {error.message}") from error


def _checked(value: Any, hint: Any, where: str) -> Any:
    """Return `value` if it has the type that `hint` names (ints are floats too), else raise."""
    options = get_args(hint) if get_origin(hint) is not Literal else (hint,)
    if get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and value:
            return tuple(_checked(item, options[0], where) for item in value)
    elif options and get_origin(hint) is not Literal:  # a union
        for option in options:
            try:
                return _checked(value, option, where)
            except ModelFolderError:
                continue
    elif get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
    elif hint is type(None):
        if value is None:
            return None
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    raise ModelFolderError(f"{where}: {value!r} is not allowed here (expected {hint}).")


def check_layer(layer: Layer) -> None:
    """Raise UsageError if a size is not positive or a rate is outside 0 <= rate < 1."""
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        is_rate = field.name == "rate" or field.name.endswith("dropout")
        if is_rate and not 0.0 <= value < 1.0:
            raise UsageError(f"{_NAMES[type(layer)]}.{field.name} must be at least 0 and below 1, got {value}.")
        is_size = field.name.endswith("_size") or field.name in ("size", "num_layers")
        if is_size and not 1 <= value <= 2**31:
            raise UsageError(f"{_NAMES[type(layer)]}.{field.name} must be at least 1, got {value}.")
    if isinstance(layer, Average):
        _check_average(layer)


def _check_average(layer: Average) -> None:
    """Raise UsageError unless the members read ids and give one vector a sequence."""
    if not 2 <= layer.members <= MOST_MEMBERS:
        raise UsageError(f"average.members must be at least 2 and at most {MOST_MEMBERS}, got {layer.members}.")
    check_layers(layer.layers)
    kinds = {type(member) for member in layer.layers}
    if Average in kinds or not kinds >= {Embedding, Pooling} or not isinstance(layer.layers[-1], Linear):
        raise UsageError("average.layers must read token ids, pool, end with a linear layer, and be no average.")


def check_layers(layers: tuple[Layer, ...]) -> None:
    """Raise UsageError if a layer is wrong in itself or does not fit the one before it."""
    features: int | None = None  # of a step, or of a pooled sequence; None: not known yet
    stage = "start"  # then "ids", "steps", "apart" (two directions side by side), "pooled"
    for number, layer in enumerate(layers):
        check_layer(layer)
        name = f"layers[{number}] ({_NAMES[type(layer)]})"
        if isinstance(layer, Average):
            if len(layers) > 1:
                raise UsageError(f"{name} must be the only layer of its model, found {len(layers)}.")
            continue
        if isinstance(layer, WordDropout | Embedding):
            if stage not in ("start", "ids"):
                raise UsageError(f"{name} reads token ids, but the layers before it give vectors.")
            stage, features = ("steps", layer.size) if isinstance(layer, Embedding) else ("ids", None)
            continue
        if stage == "ids":
            raise UsageError(
                f"{name} reads vectors, but the layers before it give token ids.", "Put an embedding there."
            )
        if stage == "apart" and not isinstance(layer, Pooling | Dropout):
            raise UsageError(f"{name} cannot read two directions kept apart (merge_mode None); only pooling can.")
        if stage == "pooled" and isinstance(layer, Convolution | Recurrent | Pooling):
            raise UsageError(f"{name} reads sequences, but the layers before it give one vector per sequence.")
        stage = "steps" if stage == "start" else stage
        if isinstance(layer, Dropout):
            continue
        if features is not None and layer.input_size != features:
            raise UsageError(
                f"{name}.input_size is {layer.input_size}, but the layer before gives {features} features."
            )
        features = layer.output_size
        if isinstance(layer, Pooling):
            stage = "pooled"
        elif isinstance(layer, Recurrent) and layer.bidirectional and layer.merge_mode is None:
            stage = "apart"


def weight_shapes_of(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Name every weight of one layer, with its shape, in a fixed order.

    Names, shapes and gate order (i, f, g, o; r, z, n) are torch's, so state dicts interchange. The weights of attention
    pooling are W, b and u of Yang et al. 2016 (NAACL, section 2.2).
    """
    if isinstance(layer, Average):
        own = weight_shapes(layer.layers)
        return {f"members.{number}.{name}": shape for number in range(layer.members) for name, shape in own.items()}
    if isinstance(layer, Embedding):
        return {"weight": (layer.vocabulary_size, layer.size)}
    if isinstance(layer, Convolution):
        return {"weight": (layer.output_size, layer.input_size, layer.kernel_size), "bias": (layer.output_size,)}
    if isinstance(layer, Linear):
        return {"weight": (layer.output_size, layer.input_size), "bias": (layer.output_size,)}
    if isinstance(layer, Pooling) and "attention" in layer.kinds:
        size = layer.input_size
        return {"attention_weight": (size, size), "attention_bias": (size,), "attention_query": (size,)}
    if not isinstance(layer, Recurrent):
        return {}
    rows = {"lstm": 4, "gru": 3, "rnn": 1}[layer.cell] * layer.hidden_size
    merged_size = layer.hidden_size * (2 if layer.bidirectional and layer.merge_mode in ("concat", None) else 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(layer.num_layers):
        for suffix in ("", "_reverse") if layer.bidirectional else ("",):
            shapes[f"weight_ih_l{number}{suffix}"] = (rows, merged_size if number else layer.input_size)
            shapes[f"weight_hh_l{number}{suffix}"] = (rows, layer.hidden_size)
            shapes[f"bias_ih_l{number}{suffix}"] = (rows,)
            shapes[f"bias_hh_l{number}{suffix}"] = (rows,)
    return shapes


def member_weights(layer: Average, number: int, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of one member of an ensemble, named as those of a model of its own.

    Parameters
    ----------
    layer : Average
    number : int
        From 0.
    weights : mapping of str to any
        Of the whole model, named `layers.0.members.<number>.layers.<index>.<parameter>`.
    """
    return {name: weights[f"layers.0.members.{number}.{name}"] for name in weight_shapes(layer.layers)}


def weight_shapes(layers: tuple[Layer, ...]) -> dict[str, tuple[int, ...]]:
    """Name every weight of a model `layers.<index>.<parameter>`, with its shape."""
    return {
        f"layers.{number}.{name}": shape
        for number, layer in enumerate(layers)
        for name, shape in weight_shapes_of(layer).items()
    }
