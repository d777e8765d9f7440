"""A text classifier that begins with another model's words and weights."""

import dataclasses

import numpy as np
import pytest

from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.errors import DataError, ModelFolderError, ShapeError, UsageError
from bilstm.layers.model import build_model
from bilstm.layers.randomness import Randomness
from bilstm.tasks import language_model, language_training, load
from bilstm.tasks.starting_weights import read_start
from bilstm.tasks.text_classification import Config, describe_model
from bilstm.tasks.text_training import fit

LANGUAGE = language_model.Config(
    embedding_size=6, hidden_size=7, cell="gru", max_epochs=1, threads=1, precision="float32", piece_length=None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, order_texts):
    outcome = language_training.fit(order_texts[0], LANGUAGE)
    path = tmp_path_factory.mktemp("start") / "language"
    outcome.model.save(path, settings=outcome.config)
    return path


def net_for(start, config, encoder):
    config = start.adopt(config)
    return build_model(describe_model(config, len(encoder.vocabulary), 1), Randomness(5))


def test_weights_stand_where_a_classifier_has_them(folder):
    start = read_start(folder)
    encoder = start.encoder_for(["a brand new sentence new sentence"] * 2, Config(min_count=2))
    added = encoder.vocabulary.tokens[len(start.encoder.vocabulary) :]
    assert set(added) == {"a", "brand", "new", "sentence"}
    net = net_for(start, Config(), encoder)  # word dropout comes with the data: none here
    copied = start.place(net, encoder)
    language = load(folder)
    own = net.state_dict()
    for name in ("weight_ih_l0", "weight_hh_l0_reverse", "bias_ih_l0", "bias_hh_l0_reverse"):
        (found,) = [full for full in copied if full.endswith(f".{name}")]
        (theirs,) = [full for full in language.weights if full.endswith(f".{name}")]
        np.testing.assert_array_equal(own[found].numpy(), language.weights[theirs])
    table = own[copied[0]].numpy()
    known = len(start.encoder.vocabulary)
    np.testing.assert_array_equal(table[:known], language.weights["layers.0.weight"])
    for row in table[known:]:
        np.testing.assert_allclose(row, language.weights["layers.0.weight"].mean(axis=0), atol=1e-7)


def test_a_word_keeps_its_id(folder):
    start = read_start(folder)
    encoder = start.encoder_for(["wholly other words"], Config())
    for word in ("film", "good", "end"):
        assert encoder.vocabulary.id_of[word] == start.encoder.vocabulary.id_of[word]


def test_settings_are_taken_over_and_contradictions_named(folder):
    start = read_start(folder)
    config = start.adopt(Config(learning_rate=0.5))
    assert (config.embedding_size, config.hidden_size, config.cell, config.learning_rate) == (6, 7, "gru", 0.5)
    assert start.adopt(dataclasses.replace(Config(), hidden_size=7)).hidden_size == 7
    with pytest.raises(UsageError, match=r"--hidden-size 99: the weights in .* have 7"):
        start.adopt(dataclasses.replace(Config(), hidden_size=99))
    with pytest.raises(UsageError, match="--num-layers 2"):
        start.adopt(dataclasses.replace(Config(), num_layers=2))


def test_a_classifier_starts_from_a_language_model_and_another_from_it(folder, order_texts, small_settings, tmp_path):
    texts, raw = order_texts
    labels = LabelSet.build(raw)
    targets = labels.encode(raw)
    settings = {name: value for name, value in small_settings.items() if name not in ("embedding_size", "hidden_size")}
    config = Config(**{**settings, "max_epochs": 1, "join_linear": False})
    first = fit(texts, targets, labels, config, baseline=False, start=read_start(folder))
    assert first.config.hidden_size == 7
    first.model.save(tmp_path / "first", settings=first.config)
    second = fit(texts, targets, labels, config, baseline=False, start=read_start(tmp_path / "first"))
    fresh = fit(texts, targets, labels, dataclasses.replace(second.config), baseline=False)
    assert second.result.history[0].train_loss < fresh.result.history[0].train_loss
    # what is started from the trained model goes on where it stood
    assert second.result.history[0].train_loss < first.result.history[0].train_loss


def test_what_cannot_be_started_from(folder, tmp_path, order_texts):
    start = read_start(folder)
    with pytest.raises(DataError, match="training data are word ids"):
        start.encoder_for(Ragged.of([[1, 2]]), Config())
    encoder = start.encoder_for(order_texts[0], Config())
    other = build_model(describe_model(Config(), len(encoder.vocabulary), 1), Randomness(5))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ShapeError, match="has shape"):
        start.place(other, encoder)
    assert all((before[name] == value).all() for name, value in other.state_dict().items())
    model = load(folder)
    model.save(tmp_path / "bare")
    with pytest.raises(ModelFolderError, match="holds no settings"):
        read_start(tmp_path / "bare")
