"""The table of layers, output shapes and parameters that Keras users expect.

Imports `description` and `errors`.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, TextIO

from bilstm import description
from bilstm.errors import UsageError

__all__ = ["LayerRow", "describe_layers", "format_summary", "summary"]


@dataclass(frozen=True)
class LayerRow:
    """One line of the table.

    Parameters
    ----------
    name : str
        Index and layer, with its settings.
    output_shape : str
        Axes in words and numbers, for example `(batch, steps, 16)`.
    parameters : int
        Numbers that are trained and stored, as torch counts them.
    second_biases : int
        How many of them are a recurrent layer's second bias, which Keras does not have: torch keeps `bias_ih` and
        `bias_hh`, and only their sum counts, except in the candidate gate of a GRU. Keras' own GRU keeps both.
    """

    name: str
    output_shape: str
    parameters: int
    second_biases: int


def describe_layers(layers: tuple[description.Layer, ...]) -> list[LayerRow]:
    """Compute the lines of the table; those of an ensemble's members stand together."""
    description.check_layers(layers)
    if layers and isinstance(layers[0], description.Average):
        return _describe_average(layers[0])
    rows, is_sequence, features = [], True, 0
    for number, layer in enumerate(layers):
        if isinstance(layer, description.Embedding):
            features = layer.size
        elif not isinstance(layer, description.WordDropout | description.Dropout):
            features = layer.output_size
        is_sequence = is_sequence and not isinstance(layer, description.Pooling)
        axes = ["batch", "steps"] if is_sequence else ["batch"]
        shapes = description.weight_shapes_of(layer)
        has_second_bias = isinstance(layer, description.Recurrent) and layer.cell != "gru"
        rows.append(
            LayerRow(
                f"{number} {_title(layer)}",
                f"({', '.join([*axes, str(features)] if features else axes)})",
                sum(math.prod(shape) for shape in shapes.values()),
                sum(
                    math.prod(shape) for name, shape in shapes.items() if name.startswith("bias_hh") and has_second_bias
                ),
            )
        )
    return rows


def _describe_average(layer: description.Average) -> list[LayerRow]:
    count = layer.members
    rows = [
        LayerRow(f"{count} x {row.name}", row.output_shape, count * row.parameters, count * row.second_biases)
        for row in describe_layers(layer.layers)
    ]
    return [*rows, LayerRow(f"mean of {count} members", f"(batch, {layer.output_size})", 0, 0)]


def format_summary(layers: tuple[description.Layer, ...]) -> str:
    """Write the table as text."""
    rows = describe_layers(layers)
    header = ("Layer", "Output shape", "Parameters")
    cells = [(row.name, row.output_shape, f"{row.parameters:,}") for row in rows]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(3)]
    rule = "-" * (sum(widths) + 4)
    lines = [_line(header, widths), rule, *(_line(line, widths) for line in cells), rule]
    total = sum(row.parameters for row in rows)
    lines.append(f"Parameters: {total:,}")
    if second := sum(row.second_biases for row in rows):
        lines.append(
            f"Keras counts {total - second:,}: it keeps one bias where torch keeps two that are added up "
            f"({second:,} numbers)."
        )
    return "\n".join(lines)


def summary(model: Any, file: TextIO | None = None) -> None:
    """Print the table of layers, output shapes and parameters.

    Parameters
    ----------
    model : tuple of layer descriptions, or a model that has them as its `description`
    file : text file, optional
        Standard output if left out.

    Raises
    ------
    UsageError
        If `model` is neither.

    Examples
    --------
    >>> from bilstm.description import Embedding, Linear, Pooling, Recurrent
    >>> summary((Embedding(5000, 16), Recurrent("lstm", 16, 16, bidirectional=False), Pooling(16), Linear(16, 1)))
    Layer                     Output shape        Parameters
    --------------------------------------------------------
    0 Embedding(5,000 -> 16)  (batch, steps, 16)      80,000
    1 LSTM(16 -> 16)          (batch, steps, 16)       2,176
    2 Pooling(last)           (batch, 16)                  0
    3 Linear(16 -> 1)         (batch, 1)                  17
    --------------------------------------------------------
    Parameters: 82,193
    Keras counts 82,129: it keeps one bias where torch keeps two that are added up (64 numbers).
    """
    layers = getattr(model, "description", model)
    if not isinstance(layers, tuple | list) or not all(type(layer) in description.LAYERS.values() for layer in layers):
        raise UsageError(
            f"summary needs layer descriptions or a model that has them, got {type(model).__name__}.",
            "Fit or load the model first.",
        )
    print(format_summary(tuple(layers)), file=sys.stdout if file is None else file)


def _line(line: tuple[str, str, str], widths: list[int]) -> str:
    return f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}  {line[2]:>{widths[2]}}"


def _title(layer: description.Layer) -> str:
    if isinstance(layer, description.Embedding):
        return f"Embedding({layer.vocabulary_size:,} -> {layer.size})"
    if isinstance(layer, description.WordDropout | description.Dropout):
        return f"{type(layer).__name__}({layer.rate:g})"
    if isinstance(layer, description.Pooling):
        return f"Pooling({', '.join(layer.kinds)})"
    if isinstance(layer, description.Average):
        return f"Average({layer.members})"
    if not isinstance(layer, description.Recurrent):
        return f"{type(layer).__name__}({layer.input_size} -> {layer.output_size})"
    depth = f"{layer.num_layers} x " if layer.num_layers > 1 else ""
    title = f"{depth}{layer.cell.upper()}({layer.input_size} -> {layer.hidden_size})"
    return f"Bidirectional {title}, {layer.merge_mode or 'apart'}" if layer.bidirectional else title
