"""The table of layers: counts against hand-worked figures and against what the torch modules really hold."""

import doctest
import importlib
import io

import pytest
from hypothesis import given, settings

from bilstm.description import Dropout, Embedding, Linear, Pooling, Recurrent
from bilstm.errors import UsageError
from bilstm.model_summary import describe_layers, format_summary, summary
from layer_strategies import layer_stacks

TUTORIAL = (Embedding(5000, 16), Recurrent("lstm", 16, 16, bidirectional=False), Pooling(16), Linear(16, 1))


def test_the_tutorial_model_has_the_parameters_that_keras_prints():
    # 5000 * 16; 4 * 16 * (16 + 16) and one bias 4 * 16; 16 + 1. Torch stores a second bias of 4 * 16.
    rows = describe_layers(TUTORIAL)
    assert [row.parameters for row in rows] == [80_000, 2_048 + 64 + 64, 0, 17]
    assert [row.second_biases for row in rows] == [0, 64, 0, 0]
    text = format_summary(TUTORIAL)
    assert "Parameters: 82,193" in text
    assert "Keras counts 82,129: it keeps one bias where torch keeps two that are added up (64 numbers)." in text


def test_output_shapes():
    layers = (
        Embedding(100, 8),
        Recurrent("gru", 8, 5, merge_mode="sum"),
        Dropout(0.5),
        Pooling(5, ("max", "mean")),
        Linear(10, 3),
    )
    shapes = [row.output_shape for row in describe_layers(layers)]
    assert shapes == ["(batch, steps, 8)", "(batch, steps, 5)", "(batch, steps, 5)", "(batch, 10)", "(batch, 3)"]


def test_gru_keeps_both_biases_in_keras_too():
    layers = (Embedding(10, 4), Recurrent("gru", 4, 3), Linear(6, 1))
    # Keras GRU(reset_after=True): 3 * 3 * (4 + 3) weights and 2 * 3 * 3 biases, twice for the two directions.
    assert describe_layers(layers)[1].parameters == 2 * (63 + 18)
    assert "Keras" not in format_summary(layers)


@given(layers=layer_stacks())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_counts_are_those_of_the_torch_modules(layers):
    pytest.importorskip("torch", reason="the extra train is not installed")
    from bilstm.layers import Randomness, build_model

    model = build_model(layers, Randomness(0))
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in model.layers]
    assert [row.parameters for row in describe_layers(layers)] == counts


def test_it_prints_models_and_descriptions_alike():
    pytest.importorskip("torch", reason="the extra train is not installed")
    from bilstm.layers import Randomness, build_model

    printed = []
    for model in (TUTORIAL, build_model(TUTORIAL, Randomness(0))):
        printed.append(io.StringIO())
        summary(model, file=printed[-1])
    assert printed[0].getvalue() == printed[1].getvalue()
    assert len({len(line) for line in printed[0].getvalue().splitlines()[:6]}) == 1


def test_what_is_no_model_is_refused():
    with pytest.raises(UsageError, match=r"summary needs layer descriptions .* got str"):
        summary("model")


def test_examples():
    # The package offers the function under the module's name, so the module is asked for by its path.
    result = doctest.testmod(importlib.import_module("bilstm.model_summary"))
    assert (result.attempted > 0, result.failed) == (True, 0)
