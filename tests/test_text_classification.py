"""The task contract of text classification: learn, predict, save, load, and every option of the settings."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import bilstm
from bilstm.config import from_mapping
from bilstm.data.batching import epoch_batches
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.sample import sample_reviews
from bilstm.description import weight_shapes
from bilstm.errors import DataError, ModelFolderError, UsageError
from bilstm.layers.model import build_model
from bilstm.layers.randomness import Randomness
from bilstm.model_summary import format_summary
from bilstm.tasks.presets import PRESETS, resolve_settings
from bilstm.tasks.text_classification import Config, describe_model, dev_rows_of, for_data, output_count
from bilstm.tasks.text_training import fit
from bilstm.training.objectives import binary_cross_entropy


def config_of(small_settings, **changes):
    return from_mapping(Config, {**small_settings, "join_linear": False, **changes})


def train(texts, raw_labels, config, kind="auto", separator=None, **options):
    labels = LabelSet.build(raw_labels, kind, separator)
    return fit(texts, labels.encode(raw_labels), labels, config, baseline=config.join_linear, **options)


@pytest.fixture(scope="module")
def outcome(order_texts):
    from conftest import SMALL

    texts, labels = order_texts
    return train(texts[:160], labels[:160], config_of(SMALL))


# ---- learning ------------------------------------------------------------------------------------------------------


def test_learns_the_bundled_sample_where_counting_words_fails(small_settings):
    texts, labels = sample_reviews(1700, seed=2)
    settings = {"max_epochs": 7, "embedding_size": 24, "hidden_size": 24, "batch_size": 32, "learning_rate": 0.02}
    outcome = train(texts[:1400], labels[:1400], config_of(small_settings, **settings))
    assert outcome.model.evaluate(texts[1400:], labels[1400:])["accuracy"] >= 0.85  # a linear model: 0.6 to 0.75


def test_order_of_words_decides(outcome, order_texts):
    model = outcome.model
    assert model.predict(["the film was bad but the end was good", "the film was good but the end was bad"]) == [
        "pos",
        "neg",
    ]
    scores = model.evaluate(order_texts[0][160:], order_texts[1][160:])
    assert scores["accuracy"] >= 0.95
    assert outcome.dev_metrics["rows"] == 16
    assert len(outcome.result.history) == 6


def test_equal_seeds_give_equal_weights_other_seeds_others(order_texts, small_settings):
    texts, labels = order_texts
    weights = []
    for seed in (4, 4, 5):
        config = config_of(small_settings, max_epochs=1, seed=seed, word_dropout=0.2, dropout=0.3, vectors="in-domain")
        weights.append(train(texts[:60], labels[:60], config).model.weights)
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not np.array_equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pooling": ("last", "attention"), "dense_size": 5},
        {"convolution_size": 6, "num_layers": 2},
        {"layer_sizes": (5, 3), "cell": "gru", "merge_mode": "sum"},
        {"cell": "rnn", "bidirectional": False},
        {"cell": "none", "dense_size": 4, "pooling": ("mean",)},
    ],
    ids=str,
)
def test_every_weight_gets_a_gradient(order_texts, small_settings, change):
    texts, raw = order_texts
    config = config_of(small_settings, **change)
    outcome = train(texts[:24], raw[:24], config_of(small_settings, max_epochs=1, **change))
    encoder = outcome.model.encoder
    net = build_model(describe_model(config, len(encoder.vocabulary), 1), Randomness(0))
    targets = torch.tensor([label == "pos" for label in raw[:24]]).long()
    binary_cross_entropy(net(encoder.encode(texts[:24])), targets).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().sum()) > 0, name


def test_both_faces_give_the_same_numbers(outcome, order_texts):
    model = outcome.model
    net = build_model(model.model.description, Randomness(0))
    net.load_state_dict({name: torch.from_numpy(value) for name, value in model.weights.items()})
    net.eval()
    ids = model.encoder.encode(order_texts[0][:30])
    with torch.no_grad():
        np.testing.assert_allclose(net(ids).numpy(), model.logits_of_ids(ids), atol=2e-5)


# ---- every option --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"merge_mode": "sum"},
        {"merge_mode": "mul"},
        {"merge_mode": "ave"},
        {"pooling": ("last",)},
        {"pooling": ("attention",)},
        {"pooling": ("last", "max", "mean", "attention")},
        {"cell": "gru"},
        {"cell": "rnn"},
        {"cell": "none"},
        {"bidirectional": False},
        {"num_layers": 2, "dropout": 0.2},
        {"layer_sizes": (6, 4), "dense_size": 3},
        {"convolution_size": 8, "kernel_size": 2},
        {"tokenizer": "characters", "lowercase": False},
        {"tokenizer": "byte-pairs", "vocabulary_size": 60},
        {"max_length": 3, "keep": "tail"},
        {"max_length": 4, "keep": "both"},
        {"vectors": "in-domain", "vector_epochs": 1},
        {"adversarial_norm": 1.0, "average_decay": 0.9, "word_dropout": 0.2, "embedding_dropout": 0.2},
        {"variational_dropout": 0.2, "weight_dropout": 0.2},
        {"class_weights": "balanced", "label_smoothing": 0.1, "optimizer": "adamw", "weight_decay": 0.01},
        {"schedule": "one-cycle", "warmup": 0.3},
        {"backend": "torch"},
        {"backend": "reference"},
        {"precision": "auto"},
        {"join_linear": True},
    ],
    ids=str,
)
def test_every_option_trains_saves_and_loads(order_texts, small_settings, change, tmp_path):
    if change.get("tokenizer") == "byte-pairs":
        pytest.importorskip("tokenizers")
    texts, labels = order_texts
    outcome = train(texts[:80], labels[:80], config_of(small_settings, **{"max_epochs": 2, **change}))
    folder = outcome.model.save(tmp_path / "model")
    probabilities = bilstm.load(folder, threads=1).predict_proba(texts[80:90])
    np.testing.assert_array_equal(probabilities, outcome.model.predict_proba(texts[80:90]))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert np.isfinite([row.train_loss for row in outcome.result.history]).all()
    layers = describe_model(config_of(small_settings, **change), 50, 1)
    assert ("Bidirectional" in format_summary(layers)) == (
        change.get("bidirectional", True) and change.get("cell") != "none"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": ("median",)}, "pooling must be of last, max, mean, attention"),
        ({"pooling": ()}, "pooling must name one kind"),
        ({"pooling": ("max", "max")}, "each once"),
        ({"dropout": 1.0}, "dropout must be a number at least 0 and below 1"),
        ({"hidden": 4}, "Did you mean 'hidden_size'"),
    ],
)
def test_wrong_settings(small_settings, change, message):
    with pytest.raises(UsageError, match=message):
        config_of(small_settings, **change)


# ---- inputs --------------------------------------------------------------------------------------------------------


def test_odd_texts(outcome):
    texts = ["", " ", "good", "xyzzy qwerty", "good " * 3000, "\u202bטוב\u202c 😀", "\0", "the\u2028end"]
    probabilities = outcome.model.predict_proba(texts)
    assert probabilities.shape == (8, 2)
    assert np.isfinite(probabilities).all()
    assert outcome.model.predict([]) == []


@pytest.mark.parametrize("rows", [[0], [3, 1, 2], list(range(19, -1, -1)), [5, 5, 5]], ids=str)
def test_answers_do_not_depend_on_batch_mates_or_order(outcome, order_texts, rows):
    """Bit for bit, where the engine runs; the loops of numpy multiply whole batches."""
    if outcome.model.model.backend != "engine":
        pytest.skip("the engine does not run here")
    texts = [*order_texts[0][:17], "", "good", "bad " * 200]
    alone = np.concatenate([outcome.model.predict_proba([text]) for text in texts])
    np.testing.assert_array_equal(outcome.model.predict_proba([texts[row] for row in rows]), alone[rows])


def test_ids_as_keras_has_them(small_settings, tmp_path):
    random = np.random.default_rng(0)
    rows = [random.integers(4, 20, size=random.integers(3, 9)) for _ in range(120)]
    labels = ["1" if (row == 7).any() or (row == 9).any() else "0" for row in rows]
    ids = Ragged.of(rows)
    outcome = train(ids, labels, config_of(small_settings, max_epochs=15, vocabulary_size=15))
    assert outcome.model.evaluate(ids, labels)["accuracy"] > 0.85
    loaded = bilstm.load(outcome.model.save(tmp_path / "model"), threads=1)
    np.testing.assert_array_equal(loaded.predict_proba(ids), outcome.model.predict_proba(ids))


def test_many_classes(small_settings, tmp_path):
    words = ["red", "green", "blue", "white"]
    texts = [f"it is {word} here" for word in words] * 15
    outcome = train(texts, [f"class {word}" for word in words] * 15, config_of(small_settings, learning_rate=0.05))
    loaded = bilstm.load(outcome.model.save(tmp_path / "model"), threads=1)
    assert loaded.predict(texts[:4]) == [f"class {word}" for word in words]
    assert loaded.predict_proba(texts[:4]).shape == (4, 4)
    scores = loaded.evaluate(texts, [f"class {word}" for word in words] * 15)
    assert scores["macro_f1"] == 1.0
    with pytest.raises(DataError, match="class black"):
        loaded.evaluate(["a"], ["class black"])


def test_several_labels_a_text(small_settings, tmp_path):
    texts = ["red round", "red", "round", "grey"] * 20
    raw = ["r|o", "r", "o", ""] * 20
    config = config_of(small_settings, max_epochs=12, learning_rate=0.05)
    outcome = train(texts, raw, config, kind="multilabel", separator="|")
    loaded = bilstm.load(outcome.model.save(tmp_path / "model"), threads=1)
    assert [sorted(filter(None, found.split("|"))) for found in loaded.predict(texts[:4])] == [
        ["o", "r"],
        ["r"],
        ["o"],
        [],
    ]
    assert loaded.evaluate(texts, raw)["micro_f1"] == 1.0


def test_numbers(small_settings, tmp_path):
    texts = ["very good", "good", "bad", "very bad"] * 20
    raw = ["1009.5", "1007", "1003", "1001"] * 20
    config = config_of(small_settings, max_epochs=20, learning_rate=0.03)
    outcome = train(texts, raw, config, kind="regression")
    loaded = bilstm.load(outcome.model.save(tmp_path / "model"), threads=1)
    np.testing.assert_allclose(loaded.predict(texts[:4]), [1009.5, 1007, 1003, 1001], atol=0.7)
    assert loaded.evaluate(texts, raw)["r_squared"] > 0.95


def test_too_little_data(small_settings):
    labels = LabelSet("binary", ("a", "b"))
    with pytest.raises(DataError, match="too few"):
        fit(["a b"], np.array([0]), labels, config_of(small_settings))
    with pytest.raises(DataError, match="the texts hold no word"):
        fit(["", " ", "", " "], np.array([0, 1, 0, 1]), labels, config_of(small_settings))


# ---- the folder ----------------------------------------------------------------------------------------------------


def test_a_saved_model_predicts_without_torch_and_scikit_learn(outcome, order_texts, tmp_path):
    folder = outcome.model.save(tmp_path / "model")
    program = (
        "import sys\n"
        "for name in ('torch', 'sklearn', 'scipy', 'gensim', 'polars'): sys.modules[name] = None\n"
        "import bilstm, json\n"
        "model = bilstm.load(sys.argv[1], threads=1)\n"
        "print(json.dumps(model.predict_proba(json.loads(sys.stdin.read())).tolist()))\n"
    )
    import json

    texts = order_texts[0][:10]
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], input=json.dumps(texts), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(json.loads(done.stdout), outcome.model.predict_proba(texts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"scale": "1"}, "scale"),
        ({"labels": {"kind": "multiclass", "names": ["a", "b", "c"]}}, "labels"),
        ({"layers": []}, "layers"),
    ],
    ids=str,
)
def test_wrong_config_is_told(outcome, change, message):
    model = outcome.model
    files = {"vocabulary.json": model.encoder.to_json().encode()}
    with pytest.raises(ModelFolderError, match=message):
        type(model).from_folder({**model.to_config(), **change}, model.weights, files)
    with pytest.raises(ModelFolderError, match=r"no vocabulary\.json"):
        type(model).from_folder(model.to_config(), model.weights, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "torch"}, "allowed are auto, engine, numpy"),
        ({"precision": "float16"}, "allowed are auto, float32, bfloat16"),
        ({"backend": "numpy", "precision": "bfloat16"}, "needs the engine"),
    ],
)
def test_a_backend_that_cannot_run_is_an_error(outcome, tmp_path, options, message):
    folder = outcome.model.save(tmp_path / "model")
    with pytest.raises(UsageError, match=message):
        bilstm.load(folder, **options)


def test_backends_agree(outcome, order_texts, tmp_path):
    folder = outcome.model.save(tmp_path / "model")
    texts = order_texts[0][:20]
    plain = bilstm.load(folder, backend="numpy").predict_proba(texts)
    np.testing.assert_allclose(bilstm.load(folder, threads=1).predict_proba(texts), plain, atol=1e-5)
    automatic = bilstm.load(folder, precision="auto", threads=1)
    assert automatic.model.precision in ("float32", "bfloat16")
    np.testing.assert_allclose(automatic.predict_proba(texts), plain, atol=0.05)


# ---- presets -------------------------------------------------------------------------------------------------------


def test_the_tutorials_lstm_has_82129_parameters_as_keras_counts():
    config = resolve_settings("imdb-16", None, {"bidirectional": False})
    assert "Keras counts 82,129" in format_summary(describe_model(config, 5_000, 1))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build(preset):
    config = resolve_settings(preset, None, {})
    labels = LabelSet("binary", ("a", "b"))
    layers = describe_model(config, config.vocabulary_size, output_count(labels))
    assert weight_shapes(layers)
    batches = list(epoch_batches(np.full(100, 10), max_rows=config.batch_size, max_steps=2**40, seed=0, epoch=1))
    assert sum(len(rows) for rows in batches) == 100


@pytest.mark.parametrize(
    ("share", "rows", "expected"),
    [(None, 500, 50), (None, 9_999, 1_000), (None, 25_000, 1_000), (0.1, 25_000, 2_500), (None, 2, 1), (0.9, 2, 1)],
)
def test_a_tenth_of_the_rows_chooses_and_at_most_a_thousand(share, rows, expected):
    assert dev_rows_of(Config(dev_share=share), rows) == expected


@pytest.mark.parametrize(("cell", "epochs"), [("lstm", 5), ("none", 15)])
def test_models_of_means_pass_over_the_texts_more_often(cell, epochs):
    lengths = np.full(25_600, 30)  # 400 batches of 64
    assert for_data(Config(cell=cell), lengths).max_epochs == epochs
