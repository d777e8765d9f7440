"""Presets: what they describe is what Keras would show and do for the tutorials' programs."""

import math

import numpy as np
import pytest
import torch

from bilstm import description
from bilstm.errors import UsageError
from bilstm.layers.model import build_model
from bilstm.layers.randomness import Randomness
from bilstm.model_summary import describe_layers
from bilstm.tasks.compared_models import settings_of
from bilstm.tasks.presets import PRESETS, resolve_settings
from bilstm.tasks.text_classification import describe_model


def keras_parameters(config):
    """Parameters as Keras counts them: one bias per LSTM gate."""
    rows = describe_layers(describe_model(config, config.vocabulary_size, 1))
    return sum(row.parameters - row.second_biases for row in rows)


def keras_lstm(inputs, units):
    """Weights of keras.layers.LSTM: kernel (inputs, 4 units), recurrent kernel (units, 4 units), bias (4 units)."""
    return 4 * units * inputs + 4 * units * units + 4 * units


@pytest.mark.parametrize(
    ("preset", "model", "expected"),
    [
        ("imdb-16", "lstm", 82_129),  # the number that the tutorial prints
        ("imdb-16", "bilstm", 5_000 * 16 + 2 * keras_lstm(16, 16) + 32 + 1),
        ("imdb-16", "feedforward", 5_000 * 16 + (16 * 16 + 16) + (16 + 1)),
        ("imdb-16-deep", "bilstm-2", 5_000 * 64 + 2 * keras_lstm(64, 32) + 2 * keras_lstm(64, 16) + 32 + 1),
        ("imdb-64", "bilstm", 10_000 * 128 + 2 * keras_lstm(128, 64) + 128 + 1),
        ("keras-docs", "bilstm-2", 2_757_761),  # the number on the page of the example
    ],
)
def test_parameter_counts_are_those_that_keras_shows(preset, model, expected):
    assert keras_parameters(settings_of(model, resolve_settings(preset, None, {}))) == expected


@pytest.mark.parametrize(
    ("preset", "model"),
    [("imdb-16", "bilstm"), ("imdb-16-deep", "bilstm-2"), ("imdb-64", "bilstm"), ("keras-docs", "bilstm-2")],
)
def test_the_preset_itself_is_the_bidirectional_model(preset, model):
    config = resolve_settings(preset, None, {})
    assert describe_model(settings_of(model, config), 100, 1) == describe_model(config, 100, 1)


def test_layers_stand_where_the_programs_have_them():
    def layers(preset, **flags):
        config = resolve_settings(preset, None, flags)
        return describe_model(config, config.vocabulary_size, 1)

    d = description
    assert layers("imdb-16", bidirectional=False) == (
        d.Embedding(5_000, 16),
        d.Recurrent("lstm", 16, 16, bidirectional=False),
        d.Pooling(16, ("last",)),
        d.Linear(16, 1),
    )
    assert layers("imdb-16-deep") == (
        d.Embedding(5_000, 64),
        d.Dropout(0.3, variational=True),
        d.Recurrent("lstm", 64, 32),
        d.Dropout(0.2),
        d.Recurrent("lstm", 64, 16),
        d.Pooling(32, ("last",)),
        d.Linear(32, 1),
    )
    assert layers("imdb-64") == (
        d.Embedding(10_000, 128),
        d.Recurrent("lstm", 128, 64),
        d.Pooling(128, ("last",)),
        d.Dropout(0.5),
        d.Linear(128, 1),
    )
    assert layers("keras-docs") == (
        d.Embedding(20_000, 128),
        d.Recurrent("lstm", 128, 64),
        d.Recurrent("lstm", 128, 64),
        d.Pooling(128, ("last",)),
        d.Linear(128, 1),
    )


@pytest.mark.parametrize(
    ("preset", "batch_size", "max_epochs", "max_length", "keep"),
    [
        ("imdb-16", 512, 12, None, "head"),
        ("imdb-16-deep", 512, 3, None, "head"),
        ("imdb-64", 128, 12, 200, "tail"),
        ("keras-docs", 32, 2, 200, "tail"),
    ],
)
def test_training_is_plain_adam_as_in_keras(preset, batch_size, max_epochs, max_length, keep):
    config = resolve_settings(preset, None, {})
    assert (config.batch_size, config.max_epochs, config.max_length, config.keep) == (
        batch_size,
        max_epochs,
        max_length,
        keep,
    )
    assert (config.optimizer, config.learning_rate, config.epsilon, config.betas) == ("adam", 1e-3, 1e-7, (0.9, 0.999))
    assert (config.schedule, config.warmup, config.clip_norm, config.weight_decay) == ("constant", None, None, 0.0)
    assert (config.patience, config.average_decay, config.adversarial_norm) == (None, None, None)
    assert (config.precision, config.join_linear) == ("float32", False)
    assert (config.vectors, config.min_count, config.word_dropout, config.batch_steps) == ("random", 1, 0.0, None)


def test_initial_weights_follow_keras():
    config = resolve_settings("imdb-16", None, {"vocabulary_size": 500})
    weights = build_model(describe_model(config, 500, 1), Randomness(0)).state_dict()
    vectors = weights["layers.0.weight"].numpy()
    assert vectors.min() >= -0.05
    assert vectors.max() <= 0.05
    assert vectors.std() == pytest.approx(0.1 / math.sqrt(12), rel=0.05)  # of a uniform distribution 0.1 wide
    for suffix in ("", "_reverse"):
        bias = weights[f"layers.1.bias_ih_l0{suffix}"] + weights[f"layers.1.bias_hh_l0{suffix}"]
        np.testing.assert_array_equal(bias.numpy(), np.repeat([0.0, 1.0, 0.0, 0.0], 16))  # gates i, f, g, o
        recurrent = weights[f"layers.1.weight_hh_l0{suffix}"].reshape(4, 16, 16)
        for gate in recurrent:  # 1e-5: float32 of a product of 16 terms
            torch.testing.assert_close(gate @ gate.T, torch.eye(16), atol=1e-5, rtol=0)
    head = weights["layers.3.weight"].numpy()
    assert np.abs(head).max() <= math.sqrt(6 / (32 + 1))  # Glorot: inputs + outputs
    assert weights["layers.3.bias"].tolist() == [0.0]


def test_preset_then_file_then_flags(tmp_path):
    toml = tmp_path / "run.toml"
    toml.write_text("hidden_size = 8\nmax_epochs = 5\n")
    config = resolve_settings("imdb-16", str(toml), {"max_epochs": 2})
    assert (config.embedding_size, config.hidden_size, config.max_epochs) == (16, 8, 2)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(UsageError, match="imdb-17") as caught:
        resolve_settings("imdb-17", None, {})
    assert all(name in str(caught.value) for name in PRESETS)
