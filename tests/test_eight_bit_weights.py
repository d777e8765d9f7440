"""Weights as 8-bit integers: the numbers, the folder that is read like any other, the scores that its card states."""

import dataclasses
import json
import math

import numpy as np
import pytest

import bilstm
from bilstm import eight_bit_weights
from bilstm.config import from_mapping
from bilstm.data.conll import write_conll
from bilstm.data.tagged_files import sentences_of
from bilstm.eight_bit_weights import BLOCK, from_int8, round_to_int8, to_int8
from bilstm.errors import ModelFolderError
from bilstm.model_folder import load_model, save_model
from bilstm.tasks import precision_scores
from bilstm.tasks.sequence_tagging import Config
from bilstm.tasks.tagging_scores import main_score
from bilstm.tasks.tagging_training import fit_tagger
from cli_runs import FAST, labelled_rows, run, write_csv
from made_models import joined_model, some_texts, tagger_model
from test_sequence_tagging import SMALL, made_up
from test_tagging_run import FLAGS


def test_numbers_by_hand():
    array = np.zeros((17, 64), dtype=np.float32)
    array[0, :4] = [1.27, -1.27, 0.014, 0.016]  # scale 0.01: 1.4 and 1.6 round to 1 and 2
    array[3, 5] = -2.54
    found = to_int8({"a": array})
    assert found["a"].dtype == np.int8
    assert found["a"].shape == array.shape
    assert found["a"][0, :5].tolist() == [127, -127, 1, 2, 0]
    assert found["a"][3, 5] == -127
    assert found["a.int8_scales"].tolist() == pytest.approx([0.01, 0, 0, 0.02, *[0] * 13], rel=1e-6)
    restored = from_int8(found, "x")
    assert list(restored) == ["a"]
    assert restored["a"][0, :5].tolist() == pytest.approx([1.27, -1.27, 0.01, 0.02, 0], rel=1e-6)
    assert not restored["a"][1:3].any()


@pytest.mark.parametrize("shape", [(1, 2000), (1025, 1), (40, 30), (5, 7, 31), (3, 64 * 11)])
def test_no_number_moves_by_more_than_half_a_level(shape):
    array = np.random.default_rng(1).standard_t(3, size=shape).astype(np.float32)
    rounded = round_to_int8({"a": array})["a"]
    assert rounded.shape == shape
    assert rounded.dtype == np.float32
    flat, other = array.reshape(-1), rounded.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK].astype(np.float64)
        most = math.fabs(max(block, key=abs)) / 127 / 2
        assert np.abs(other[start : start + BLOCK] - block).max() <= most * (1 + 1e-4)  # float32 rounds the scale
    again = round_to_int8({"a": rounded})["a"]
    assert np.abs(again - rounded).max() <= 1e-6 * np.abs(array).max()


def test_small_arrays_and_other_types_stay_as_they_are():
    arrays = {
        "bias": np.ones(5000, np.float32),
        "small": np.full((31, 33), 0.1, np.float32),
        "double": np.full((40, 40), 0.1),
        "keys": np.arange(4000).reshape(2, 2000),
    }
    found = to_int8(arrays)
    assert found.keys() == arrays.keys()
    assert all(found[name] is array for name, array in arrays.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, "needs int8 weights 'a'"),
        ({"a": np.zeros((40, 40), np.float32)}, "needs int8 weights 'a'"),
        ({"a.int8_scales": np.ones(24, np.float32)}, "must be 25 scales of float32"),
        ({"a.int8_scales": np.ones(25)}, "got float64"),
        ({"a.int8_scales": -np.ones(25, np.float32)}, "none below 0"),
    ],
)
def test_scales_that_do_not_fit_are_refused(change, message, tmp_path):
    weights = {**to_int8({"a": np.ones((40, 40), np.float32)}), **change}
    weights = {name: array for name, array in weights.items() if array is not None}
    with pytest.raises(ModelFolderError, match=message):
        from_int8(weights, "weights.safetensors")
    save_model(tmp_path / "model", config={"task": "x"}, weights=weights)
    with pytest.raises(ModelFolderError, match=message):
        load_model(tmp_path / "model")


def big_model():
    """A classifier with n-gram models, some of whose arrays are large enough to be rounded."""
    texts = [f"{text} x{number} y{number} x{number}" for number, text in enumerate(some_texts(400) * 2)]
    return joined_model(texts), texts


def test_a_folder_answers_with_the_rounded_weights(tmp_path, capsys):
    model, texts = big_model()
    model.save(tmp_path / "model")
    done = run(capsys, "export", tmp_path / "model", "--int8", tmp_path / "small", "--json")
    assert done.code == 0, done.err
    assert "does not say how int8 weights score" in done.err
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).iterdir()) for name in ("model", "small")]
    assert [done.json["before"], done.json["bytes"]] == sizes
    stored, plain = load_model(tmp_path / "small"), load_model(tmp_path / "model")
    rounded = round_to_int8(plain.weights)
    assert any(not np.array_equal(rounded[name], plain.weights[name]) for name in rounded if "linear." in name)
    assert stored.weights.keys() == plain.weights.keys()
    assert all(np.array_equal(stored.weights[name], rounded[name]) for name in rounded)
    own = type(model).from_folder(plain.config, rounded, plain.files)
    small = bilstm.load(tmp_path / "small")
    assert np.array_equal(small.predict_proba(texts), own.predict_proba(texts))
    assert not np.array_equal(small.predict_proba(texts), model.predict_proba(texts))
    assert np.abs(small.predict_proba(texts) - model.predict_proba(texts)).max() < 0.05
    assert "8-bit integers" in (tmp_path / "small" / "README.md").read_text()


def test_taggers_too(tmp_path, capsys):
    model = tagger_model(hidden_size=24, word_size=16)
    model.save(tmp_path / "model")
    assert run(capsys, "export", tmp_path / "model", "--int8", tmp_path / "small").code == 0
    sentences = [["Anna", "saw", "Bo", "Lee", "."]]
    before, after = (
        bilstm.load(tmp_path / name).scores(model.encode(sentences))[0].values for name in ("model", "small")
    )
    assert 0 < np.abs(before - after).max() < 0.2


def test_the_card_states_what_the_folder_scores(tmp_path, capsys):
    """Of a classifier: score the folder of integers on the development part with `evaluate`."""
    train = write_csv(tmp_path / "train.csv", labelled_rows(80))
    rows = [(f"{text} {['good', 'bad'][n % 3 == 0]}", label) for n, (text, label) in enumerate(labelled_rows(40))]
    dev = write_csv(tmp_path / "dev.csv", rows)
    flags = [*FAST[:2], "--embedding-size", "32", "--hidden-size", "16", *FAST[6:]]
    done = run(capsys, "train", train, "--valid", dev, "-o", tmp_path / "model", *flags, "--quiet")
    assert done.code == 0, done.err
    done = run(capsys, "export", tmp_path / "model", "--int8", tmp_path / "small")
    assert done.code == 0, done.err
    assert done.err == ""
    stated = json.loads((tmp_path / "model" / "metrics.json").read_text())["precisions"]
    found = {
        name: run(capsys, "evaluate", tmp_path / folder, dev, "--json").json["accuracy"]
        for name, folder in (("float32", "model"), ("int8_weights", "small"))
    }
    assert {name: stated[name] for name in found} == found
    assert f"{found['float32']:.4f} (float32), {found['int8_weights']:.4f} (int8)" in done.out
    for folder in ("model", "small"):
        card = (tmp_path / folder / "README.md").read_text()
        assert f"| float32, weights stored in int8 (`bilstm export --int8`) | {found['int8_weights']:.4f} |" in card
    assert run(capsys, "export", tmp_path / "small", "--int8", tmp_path / "again").code == 0
    assert (tmp_path / "again" / "README.md").read_text().count("8-bit integers") == 1


def test_the_card_of_a_tagger_does_too(tmp_path, capsys):
    for name, count, seed in (("train", 60, 0), ("dev", 30, 1)):
        tokens, tags, _ = made_up(count, seed)
        (tmp_path / f"{name}.conll").write_text(write_conll(zip(tokens, tags, strict=True)))
    files = [tmp_path / "train.conll", "--valid", tmp_path / "dev.conll"]
    assert run(capsys, "train", *files, "-o", tmp_path / "model", "--max-epochs", "2", *FLAGS).code == 0
    assert run(capsys, "export", tmp_path / "model", "--int8", tmp_path / "small").code == 0
    stated = json.loads((tmp_path / "model" / "metrics.json").read_text())["precisions"]
    assert stated["score"] == "span F1"
    for name, folder in (("float32", "model"), ("int8_weights", "small")):
        scores = run(capsys, "evaluate", tmp_path / folder, tmp_path / "dev.conll", "--json").json
        assert stated[name] == scores["f1"]
        assert f"{scores['f1']:.4f} |" in (tmp_path / folder / "README.md").read_text()


def test_what_is_joined_to_the_intents_is_rounded_as_in_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(eight_bit_weights, "SMALLEST", 8)  # small arrays too, so that the rounding is seen
    train, valid = sentences_of(*made_up(160, 30)), sentences_of(*made_up(120, 31))
    settings = from_mapping(Config, {**SMALL, "max_epochs": 2, "intent_weight": 0.0})
    model = fit_tagger(train, settings, valid=valid).model
    assert model.joined is not None
    drawn = np.random.default_rng(0).normal(size=model.joined.tag_scores.shape).astype(np.float32)
    model = dataclasses.replace(model, joined=dataclasses.replace(model.joined, tag_scores=drawn))
    model.save(tmp_path / "model")
    assert run(capsys, "export", tmp_path / "model", "--int8", tmp_path / "small").code == 0
    small = bilstm.load(tmp_path / "small")
    found = precision_scores._rounded_intents(model.joined)
    assert np.array_equal(found.tag_scores, small.joined.tag_scores)
    assert not np.array_equal(found.tag_scores, model.joined.tag_scores)
    for one, other in zip(found.words.linear.heads, small.joined.words.linear.heads, strict=True):
        assert np.array_equal(one.weights, other.weights)
    stated = precision_scores.tagger_precision_scores(model, valid)
    assert stated["score"] == "mean of span F1 and intent accuracy"
    for name, one in (("float32", model), ("int8_weights", small)):
        assert stated[name] == main_score(one.evaluate(valid))[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8", "small", "--onnx", "x.onnx"], "say what to write: --onnx, --keras or --int8"),
        (["--int8", "small", "--network-only"], "--int8 keeps the whole model"),
        (["--int8", "taken"], "exists already"),
    ],
)
def test_what_cannot_be_is_said(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    joined_model().save(tmp_path / "model")
    joined_model().save(tmp_path / "taken")
    done = run(capsys, "export", "model", *arguments)
    assert done.code != 0
    assert message in done.error
    assert not (tmp_path / "small").exists()
