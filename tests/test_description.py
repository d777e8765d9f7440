"""Descriptions: written and read back, refused when wrong, and naming the weights that torch modules really have."""

import copy
import json

import pytest
from hypothesis import given, settings

from bilstm.description import (
    Convolution,
    Dropout,
    Embedding,
    Linear,
    Pooling,
    Recurrent,
    WordDropout,
    check_layers,
    layers_from_config,
    layers_to_config,
    weight_shapes,
)
from bilstm.errors import ModelFolderError, UsageError
from layer_strategies import layer_stacks

STACK = (Embedding(10, 4), Recurrent("lstm", 4, 3), Pooling(6, ("max", "mean")), Linear(12, 2))


@given(layers=layer_stacks())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_json_and_back_is_the_same_description(layers):
    assert layers_from_config(json.loads(json.dumps(layers_to_config(layers)))) == layers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "transformer"}, r"layers\[1\]: unknown layer; known are word_dropout"),
        ({"layer": None}, r"layers\[1\]: unknown layer"),
        ({"hidden": 3}, r"layers\[1\] \(recurrent\): unknown key 'hidden'"),
        ({"cell": "qrnn"}, r"layers\[1\]\.cell: 'qrnn' is not allowed"),
        ({"hidden_size": "3"}, r"hidden_size: '3' is not allowed"),
        ({"hidden_size": True}, r"hidden_size: True is not allowed"),
        ({"hidden_size": 0}, r"hidden_size must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be at least 0 and below 1"),
        ({"dropout": float("nan")}, r"dropout must be at least 0 and below 1"),
        ({"merge_mode": "max"}, r"merge_mode: 'max' is not allowed"),
        ({"bidirectional": 1}, r"bidirectional: 1 is not allowed"),
    ],
)
def test_a_wrong_value_is_named(change, message):
    config = layers_to_config(STACK)
    config[1] = {**config[1], **change}
    with pytest.raises(ModelFolderError, match=message):
        layers_from_config(config)


def test_a_missing_key_is_named():
    config = copy.deepcopy(layers_to_config(STACK))
    del config[1]["hidden_size"]
    with pytest.raises(ModelFolderError, match=r"layers\[1\] \(recurrent\): key 'hidden_size' is missing"):
        layers_from_config(config)


@pytest.mark.parametrize("config", [None, {}, "layers", [[]], [3]])
def test_what_is_no_list_of_layers_is_refused(config):
    with pytest.raises(ModelFolderError):
        layers_from_config(config)


@pytest.mark.parametrize("kinds", [[], ["best"], "max", [["max"]]])
def test_wrong_pooling_kinds_are_refused(kinds):
    with pytest.raises(ModelFolderError, match="kinds"):
        layers_from_config([{"layer": "pooling", "input_size": 3, "kinds": kinds}])


@given(layers=layer_stacks())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_valid_stacks_are_accepted(layers):
    check_layers(layers)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Embedding(5, 4), Linear(3, 2)), r"layers\[1\] \(linear\)\.input_size is 3, .* gives 4"),
        ((Embedding(5, 4), Embedding(5, 4)), r"layers\[1\] \(embedding\) reads token ids"),
        ((Embedding(5, 4), WordDropout(0.1)), r"layers\[1\] \(word_dropout\) reads token ids"),
        ((WordDropout(0.1), Linear(3, 2)), r"layers\[1\] \(linear\) reads vectors"),
        ((Pooling(3), Recurrent("gru", 3, 2)), r"layers\[1\] \(recurrent\) reads sequences"),
        ((Pooling(3), Pooling(3)), r"layers\[1\] \(pooling\) reads sequences"),
        ((Recurrent("gru", 3, 2, merge_mode=None), Linear(4, 2)), r"cannot read two directions kept apart"),
        ((Linear(3, 0),), r"linear\.output_size must be at least 1"),
    ],
)
def test_layers_that_do_not_fit_are_named(layers, message):
    with pytest.raises(UsageError, match=message):
        check_layers(layers)


def test_directions_kept_apart_may_be_dropped_and_pooled():
    check_layers((Recurrent("gru", 3, 2, merge_mode=None), Dropout(0.5), Pooling(4), Linear(4, 1)))
    check_layers((Recurrent("gru", 3, 2, bidirectional=False, merge_mode=None), Linear(2, 1)))


def test_weight_names_and_shapes_of_a_small_model():
    layers = (
        Embedding(10, 4),
        Convolution(4, 5, 3),
        Recurrent("gru", 5, 2, 2, merge_mode="sum"),
        Pooling(2),
        Linear(2, 1),
    )
    shapes = weight_shapes(layers)
    assert shapes["layers.0.weight"] == (10, 4)
    assert shapes["layers.1.weight"] == (5, 4, 3)
    assert shapes["layers.2.weight_ih_l0_reverse"] == (6, 5)
    assert shapes["layers.2.weight_ih_l1"] == (6, 2)
    assert shapes["layers.4.bias"] == (1,)
    assert len(shapes) == 1 + 2 + 16 + 2


@given(layers=layer_stacks())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_torch_modules_have_exactly_the_weights_that_are_named(layers):
    pytest.importorskip("torch", reason="the extra train is not installed")
    from bilstm.layers import Randomness, build_model

    state = build_model(layers, Randomness(0)).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == weight_shapes(layers)
