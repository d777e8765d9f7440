"""Ensembles: against members that are trained, run, explained and exported one by one, and averaged by hand."""

from __future__ import annotations

import dataclasses
import signal

import numpy as np
import pytest

import bilstm
from bilstm import TextClassifier, description
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.description import Average, Dropout, Embedding, Linear, Pooling, Recurrent, WordDropout
from bilstm.errors import ModelFolderError, OutputError, UsageError
from bilstm.explanation.methods import METHODS
from bilstm.export.keras_export import export_keras
from bilstm.export.onnx_export import export_onnx, onnx_session
from bilstm.export.onnx_model import text_inputs
from bilstm.model_summary import describe_layers
from bilstm.runtime import Model
from bilstm.serving.served_model import read_model
from bilstm.tasks.starting_weights import read_start
from bilstm.tasks.text_classification import Config, TextModel
from bilstm.tasks.text_training import Unlabelled, fit
from bilstm.training import events
from bilstm.training.budget import Budget
from bilstm.training.word_vectors import train_word_vectors
from cli_runs import FAST, labelled_rows, run, write_csv
from made_models import joined_model, some_texts

STACK = (
    WordDropout(0.1),
    Embedding(20, 5),
    Dropout(0.2, variational=True),
    Recurrent("lstm", 5, 4),
    Pooling(8, ("max", "mean")),
    Linear(16, 2),
)


def random_weights(layers, seed=0):
    random = np.random.default_rng(seed)
    shapes = description.weight_shapes(layers)
    return {name: random.normal(size=shape, scale=0.5).astype(np.float32) for name, shape in shapes.items()}


# ---- description and runtime -----------------------------------------------------------------------------------------


def test_description_is_written_and_read_back():
    layers = (Average(3, STACK),)
    description.check_layers(layers)
    config = description.layers_to_config(layers)
    assert config[0]["members"] == 3
    assert config[0]["layers"][1] == {
        "layer": "embedding",
        "vocabulary_size": 20,
        "size": 5,
    }
    assert description.layers_from_config(config) == layers
    shapes = description.weight_shapes(layers)
    assert shapes["layers.0.members.2.layers.5.weight"] == (2, 16)
    assert len(shapes) == 3 * (1 + 8 + 2)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((Average(1, STACK),), "average.members must be at least 2"),
        ((Average(2, STACK), Linear(2, 2)), "must be the only layer"),
        ((Average(2, STACK[:-1]),), "end with a linear layer"),
        ((Average(2, (Average(2, STACK),)),), "be no average"),
        ((Average(2, (*STACK[:4], Pooling(9), Linear(9, 2))),), "the layer before gives 8 features"),
    ],
)
def test_what_is_no_ensemble_is_refused(layers, said):
    with pytest.raises(UsageError, match=said):
        description.check_layers(layers)


def test_nested_ensembles_in_a_file_are_refused():
    inner = {"layer": "average", "members": 2, "layers": description.layers_to_config(STACK)}
    with pytest.raises(ModelFolderError, match="an average cannot be a member"):
        description.layers_from_config([{"layer": "average", "members": 2, "layers": [inner]}])
    with pytest.raises(ModelFolderError, match="unknown layer"):
        description.layers_from_config([{"layer": "average", "members": 2, "layers": [{"layer": "magic"}]}])


@pytest.mark.parametrize("backend", ["engine", "numpy"])
def test_logits_are_the_mean_of_the_members(backend):
    layers = (Average(3, STACK),)
    weights = random_weights(layers)
    model = Model(layers, weights, backend=backend, threads=1)
    random = np.random.default_rng(1)
    batch = Ragged.of([random.integers(0, 20, length) for length in (4, 0, 11)])
    alone = []
    for number in range(3):
        start = f"layers.0.members.{number}."
        own = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        alone.append(Model(STACK, own, backend=backend, threads=1).run(batch).astype(np.float64))
    assert np.array_equal(model.run(batch), (sum(alone) / 3).astype(np.float32))
    # no answer depends on its batch mates or on the number of threads
    for row in range(3):
        assert np.array_equal(model.run(batch.select([row]))[0], model.run(batch)[row])
    assert np.array_equal(Model(layers, weights, backend=backend, threads=2).run(batch), model.run(batch))


def test_summary_counts_every_member():
    rows = describe_layers((Average(3, STACK),))
    assert sum(row.parameters for row in rows) == 3 * sum(row.parameters for row in describe_layers(STACK))
    assert rows[-1].name == "mean of 3 members"
    assert rows[-1].output_shape == "(batch, 2)"


# ---- training --------------------------------------------------------------------------------------------------------

WORDS = ["good", "bad", "fine", "poor", "film", "plot", "the", "a", "was", "very", "not"]
CONFIG = Config(
    max_epochs=2, hidden_size=6, embedding_size=5, vectors="random", average_decay=None, threads=1, members=3, seed=4,
    learning_rate=0.03, batch_size=16,
)  # fmt: skip


def rated(count, seed):
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, 7)) for _ in range(count)]
    labels = [
        "pos" if text.count("good") + text.count("fine") > text.count("bad") + text.count("poor") else "neg"
        for text in texts
    ]
    return texts, labels


TEXTS, LABELS = rated(160, 0)
VALID_TEXTS, VALID_LABELS = rated(60, 1)
NAMES = LabelSet.build(LABELS)
VALID = (VALID_TEXTS, NAMES.encode(VALID_LABELS))


def trained(config=CONFIG, **options):
    return fit(TEXTS, NAMES.encode(LABELS), NAMES, config, valid=VALID, baseline=False, **options)


@pytest.fixture(scope="module")
def whole():
    return trained()


@pytest.fixture(scope="module")
def alone():
    """Return networks of the same seeds, trained by themselves."""
    return [trained(dataclasses.replace(CONFIG, members=1, seed=4 + number)) for number in range(3)]


def test_members_are_the_networks_of_their_seeds(whole, alone):
    assert [member.seed for member in whole.members] == [4, 5, 6]
    for number, one in enumerate(alone):
        for name, weight in one.model.weights.items():
            assert np.array_equal(whole.model.weights[f"layers.0.members.{number}.{name}"], weight)
        assert whole.members[number].dev_metrics == one.network_metrics
        assert whole.members[number].result.history[0].dev_loss == one.result.history[0].dev_loss
    ids = whole.model.encoder.encode(VALID_TEXTS)
    expected = np.mean([one.model.logits_of_ids(ids).astype(np.float64) for one in alone], axis=0)
    assert np.abs(whole.model.logits_of_ids(ids) - expected).max() < 1e-6  # rounding to float32
    assert whole.result.steps == sum(one.result.steps for one in alone)


def test_the_temperature_is_that_of_the_whole(whole):
    logits = whole.model.logits_of_ids(whole.model.encoder.encode(VALID_TEXTS))[:, 0].astype(np.float64)
    signs = np.where(VALID[1] == 1, 1.0, -1.0)

    def loss(temperature):
        return np.log1p(np.exp(-signs * logits / temperature)).mean()

    best = whole.model.temperature
    assert loss(best) <= min(loss(best * 1.05), loss(best / 1.05)) + 1e-9


def test_word_vectors_are_learned_once(tmp_path):
    config = dataclasses.replace(CONFIG, vectors="in-domain", vector_epochs=1, subwords=False, members=2)
    told = []
    both = trained(config, progress=told.append)
    assert [event.name for event in told if isinstance(event, events.PhaseStarted)].count("word vectors") == 1
    encoder = both.model.encoder
    ids, valid = encoder.encode(TEXTS), (encoder.encode(VALID_TEXTS), VALID[1])
    vectors = train_word_vectors(ids, len(encoder.vocabulary), 5, epochs=1, seed=4, threads=1)
    second = fit(
        ids, NAMES.encode(LABELS), NAMES, dataclasses.replace(config, members=1, seed=5), valid=valid, baseline=False,
        encoder=encoder, vectors=vectors,
    )  # fmt: skip
    for name, weight in second.model.weights.items():
        assert np.array_equal(both.model.weights[f"layers.0.members.1.{name}"], weight)


class _Interruption:
    """Presses Ctrl-C when a step of a member is done."""

    def __init__(self, member):
        self.member, self.begun = member, 0

    def __call__(self, event):
        self.begun += isinstance(event, events.EpochStarted) and event.epoch == 1
        if isinstance(event, events.StepDone) and self.begun == self.member and event.epoch == 2:
            self.member = None
            signal.raise_signal(signal.SIGINT)


def test_interrupted_keeps_the_members_that_are_done_and_resumes_to_the_same_bits(tmp_path, whole):
    checkpoint = str(tmp_path / "run")
    told = []
    interruption = _Interruption(3)

    def listen(event):
        told.append(event)
        interruption(event)

    cut = trained(checkpoint=checkpoint, progress=listen)
    assert cut.result.stopped_because == "interrupted"
    assert len(cut.members) == 2
    assert cut.model.model.description[0].members == 2
    notes = [event.text for event in told if isinstance(event, events.Note)]
    assert "Interrupted in member 3: the 2 done before it are kept." in notes
    with pytest.raises(OutputError, match="has not ended"):
        trained(checkpoint=checkpoint)
    with pytest.raises(UsageError, match="several members"):
        trained(dataclasses.replace(CONFIG, members=1), checkpoint=checkpoint, resume=True)
    again = trained(checkpoint=checkpoint, resume=True)
    assert again.result.stopped_because == "finished"
    for name, weight in whole.model.weights.items():
        assert np.array_equal(again.model.weights[name], weight)


def test_interrupted_in_the_first_member_keeps_it_as_one_network(tmp_path):
    cut = trained(checkpoint=str(tmp_path / "run"), progress=_Interruption(1))
    assert cut.result.stopped_because == "interrupted"
    assert cut.result.best_epoch == 1
    assert not isinstance(cut.model.model.description[0], Average)
    one = dataclasses.replace(CONFIG, members=1)
    trained(one, checkpoint=str(tmp_path / "single"), progress=_Interruption(1))
    with pytest.raises(UsageError, match="one network"):
        trained(checkpoint=str(tmp_path / "single"), resume=True)


def test_unlabelled_texts_share_vectors_and_budget(tmp_path):
    config = dataclasses.replace(CONFIG, members=2, phases=("none",), vectors="in-domain", vector_epochs=1)
    told = []
    found = trained(config, unlabelled=Unlabelled(TEXTS * 2, Budget(None)), progress=told.append)
    started = [event.name for event in told if isinstance(event, events.PhaseStarted)]
    assert started.count("word vectors") == 1
    assert started.count("training") == 2
    assert len(found.phases) == 2
    assert len(found.members) == 2
    clock = iter([0.0, 40.0, 40.0, 50.0])
    part = Budget(100.0, lambda: next(clock)).part(3)  # 60 s are left for three
    assert part.seconds == 20.0
    assert part.left() == 10.0


def test_estimator_has_members(tmp_path):
    kept = {
        name: getattr(CONFIG, name) for name in ("max_epochs", "hidden_size", "embedding_size", "vectors", "threads")
    }
    classifier = TextClassifier(members=2, random_state=4, join_linear=False, **kept).fit(TEXTS, LABELS)
    assert classifier.model_.model.description[0].members == 2
    folder = classifier.save(tmp_path / "model")
    loaded = bilstm.load(folder)
    assert np.array_equal(loaded.predict_proba(VALID_TEXTS), classifier.predict_proba(VALID_TEXTS))
    start = read_start(folder)  # of the first member
    assert np.array_equal(start.layers[0][1]["weight"], loaded.weights["layers.0.members.0.layers.1.weight"])


# ---- what is made of the folder --------------------------------------------------------------------------------------


def ensemble(joined=True):
    """Return a made-up ensemble with linear models beside it, and its members with the same linear models."""
    base = joined_model()
    layers, random = base.model.description, np.random.default_rng(3)
    members = []
    for _ in range(3):
        own = {
            name: random.normal(size=value.shape, scale=0.6).astype(np.float32) for name, value in base.weights.items()
        }
        one = dataclasses.replace(base, model=Model(layers, own, threads=1), weights=own)
        members.append(one if joined else dataclasses.replace(one, joined=None, temperature=1.7))
    weights = {
        f"layers.0.members.{number}.{name}": value
        for number, one in enumerate(members)
        for name, value in one.weights.items()
    }
    whole = (Average(3, layers),)
    return dataclasses.replace(members[0], model=Model(whole, weights, threads=1), weights=weights), members


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    "method",
    ["occlusion", "near-occlusion", "relevance", "contextual-decomposition", "gradient-x-input", "quick-gradients"],
)
def test_an_explanation_is_the_mean_of_the_members(method, joined):
    """The score is linear in the members' logits, and every one of these methods is linear in the score."""
    assert method in METHODS
    model, members = ensemble(joined)
    texts = some_texts(3, seed=5)
    found = model.explain(texts, method, "good")
    apart = [one.explain(texts, method, "good") for one in members]
    for row, one in enumerate(found):
        expected = np.mean([part[row].attributions for part in apart], axis=0)
        # near-occlusion stops where a state comes near to what it was, in bfloat16
        np.testing.assert_allclose(one.attributions, expected, atol=2e-2 if method == "near-occlusion" else 2e-5)
        np.testing.assert_allclose(one.score, np.mean([part[row].score for part in apart], axis=0), atol=1e-5)


def test_integrated_gradients_and_phrases_add_up():
    model, _members = ensemble()
    text = some_texts(1, seed=6)[0]
    found = model.explain(text, "integrated-gradients", "good")
    whole = found.attributions.sum(axis=0) + found.baseline_score
    assert np.abs(whole - found.score).max() < 0.02 * max(1.0, abs(float(found.score[0])))
    tree = model.explain(text, target="good", phrases=True).phrases[0]
    assert (tree.start, tree.end) == (0, len(found.tokens))


def test_attention_is_averaged_and_no_attention_is_an_error():
    stack = (Embedding(6, 4), Recurrent("lstm", 4, 3), Pooling(6, ("attention",)), Linear(6, 1))
    layers = (Average(2, stack),)
    weights = random_weights(layers, 2)
    base = joined_model(["a b c d e"] * 3)
    encoder = dataclasses.replace(base.encoder)
    labels = base.labels
    model = TextModel(encoder, labels, Model(layers, weights, threads=1), weights)
    parts = []
    for number in range(2):
        own = description.member_weights(layers[0], number, weights)
        parts.append(TextModel(encoder, labels, Model(stack, own, threads=1), own).explain("a c e b", "attention"))
    expected = np.mean([part.attributions for part in parts], axis=0)
    np.testing.assert_allclose(model.explain("a c e b", "attention").attributions, expected, atol=1e-12)
    with pytest.raises(UsageError, match="no attention"):
        ensemble()[0].explain("w1 w2", "attention")


def test_one_onnx_file_holds_all_members(tmp_path):
    pytest.importorskip("onnxruntime")
    model, members = ensemble()
    texts = some_texts(6, seed=8)
    export_onnx(model, tmp_path / "all.onnx")
    given = text_inputs(model, texts)
    found = onnx_session(str(tmp_path / "all.onnx")).run(["logits", "probabilities"], given)
    apart = []
    for number, one in enumerate(members):
        export_onnx(one, tmp_path / f"{number}.onnx")
        apart.append(onnx_session(str(tmp_path / f"{number}.onnx")).run(["logits"], given)[0])
    np.testing.assert_allclose(found[0], np.mean(apart, axis=0), atol=1e-5)
    np.testing.assert_allclose(found[1], model.predict_proba(texts), atol=1e-5)


def test_keras_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match=r"ensemble of 3 members is not written for Keras. Use --onnx"):
        export_keras(ensemble(joined=False)[0], tmp_path / "model.keras")


def test_the_server_answers_as_the_folder(tmp_path):
    model, _ = ensemble()
    served = read_model("model", model.save(tmp_path / "model"))
    texts = some_texts(4, seed=9)
    answers = served.predict(texts)
    assert [answer["probabilities"] for answer in answers] == [
        dict(zip(("bad", "good"), row, strict=True)) for row in model.predict_proba(texts).tolist()
    ]


def test_the_command_line(tmp_path, capsys):
    data = write_csv(tmp_path / "train.csv", labelled_rows(80))
    folder = tmp_path / "model"
    done = run(capsys, "train", data, "-o", folder, "--members", "2", "--json", *FAST)
    assert done.code == 0, done.err
    assert "2 members of so many each" in done.err
    assert "Member 2 of 2, seed 1." in done.err
    assert done.json["model"].startswith("2 x BiLSTM")
    assert [member["seed"] for member in done.json["members"]] == [0, 1]
    card, report = (folder / "README.md").read_text(), (folder / "report.html").read_text()
    assert "| seed 1 | " in card
    assert "| mean of 2 | - | " in card
    assert "2 members, accuracy on the development part" in report
    assert not (tmp_path / "model.checkpoint").exists()
    scored = run(capsys, "evaluate", folder, data, "--json")
    assert scored.code == 0
    assert scored.json["accuracy"] > 0.9
    assert run(capsys, "predict", folder, "film 3 was good", "--json").code == 0
    assert run(capsys, "explain", folder, "film 3 was good").code == 0
