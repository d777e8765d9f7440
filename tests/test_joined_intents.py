"""What is joined to the intents of a tagger: weights against an optimizer, counts by hand, the folder, refusals."""

import json

import numpy as np
import pytest

import bilstm
from bilstm.config import from_mapping
from bilstm.data.ragged import Ragged
from bilstm.data.tagged_files import sentences_of
from bilstm.errors import ModelFolderError, UsageError
from bilstm.evaluation.baseline import fit_linear_baseline
from bilstm.export.onnx_export import export_onnx
from bilstm.metrics import fit_temperature
from bilstm.runtime.crf import build_lattice
from bilstm.tasks.joined_intents import expected_counts, join_intents, tag_log_shares
from bilstm.tasks.sequence_tagging import Config, TaggerModel
from bilstm.tasks.tagging_training import fit_tagger
from test_sequence_tagging import SMALL, made_up

VERBS = {0: ["Play", "hear"], 1: ["Find", "show"], 2: ["Rate", "give"]}


def asked(count, seed, intents, noise=0.1):
    """Sentences whose verb tells the intent, but for a share that is drawn anew; logits that know half of it."""
    random = np.random.default_rng(seed)
    true = random.integers(0, intents, count)
    tokens = [
        [str(random.choice(VERBS[int(kind)])), *(f"w{random.integers(40)}" for _ in range(random.integers(1, 5)))]
        for kind in true
    ]
    true = np.where(random.random(count) < noise, random.integers(0, intents, count), true)
    logits = np.eye(intents)[true] * 2 + random.normal(0, 1.5, (count, intents))
    return tokens, true, logits.astype(np.float32)


def lower_case(sentences):
    return [[word.lower() for word in words] for words in sentences]


def tags_like(true, intents, seed):
    """Expected counts of five tags that tell a little of the intent, and log shares of the tags in each intent."""
    random = np.random.default_rng(seed)
    shares = np.log(np.random.default_rng(9).dirichlet(np.ones(5), intents))
    return random.poisson(3 * np.exp(shares)[true]).astype(float), shares


def loss_of(logits, targets):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]))


@pytest.mark.parametrize("intents", [2, 3])
def test_weights_are_those_of_a_general_optimizer(intents):
    optimize = pytest.importorskip("scipy.optimize")
    train, dev, new = (asked(count, seed, intents) for count, seed in ((600, 0), (300, 1), (50, 2)))
    alone = fit_temperature(dev[2], dev[1]).loss_after
    counts = {len(part[1]): tags_like(part[1], intents, seed) for part, seed in ((dev, 7), (new, 8))}
    joined, note = join_intents(train[:2], dev[:2], dev[2], *counts[300], alone, 0)
    assert joined is not None
    # Margins by a model of the same settings; of two intents it has one, the log odds of the second.
    linear = fit_linear_baseline(
        lower_case(train[0]), train[1], lower_case(dev[0]), dev[1], "classification", intents,
        families=("nb-svm",), choose_by="loss",
    ).to_runtime()  # fmt: skip

    def scores(weights, part):
        margins = linear.margins(lower_case(part[0]))[..., 0]
        if intents == 2:
            margins = np.concatenate([np.zeros_like(margins), margins], axis=1)
        tags, shares = counts[len(part[1])]
        return weights[0] * part[2] + weights[1] * margins + weights[2] * tags @ shares.T

    options = {"xatol": 1e-8, "fatol": 1e-13, "maxiter": 4000, "maxfev": 4000}
    best = optimize.minimize(
        lambda w: loss_of(scores(w, dev), dev[1]), [1.0, 0.1, 0.1], method="Nelder-Mead", options=options
    )
    assert joined.words.joining.loss == pytest.approx(best.fun, abs=1e-7)
    assert note.endswith(f"log loss {alone:.4f} -> {best.fun:.4f}.")
    found, wanted = joined.join(new[2], new[0], counts[50][0]), scores(best.x, new)
    # Scores count up to a number of their sentence.
    np.testing.assert_allclose(found - found[:, :1], wanted - wanted[:, :1], atol=2e-3)
    assert (found.argmax(axis=1) == new[1]).mean() > (new[2].argmax(axis=1) == new[1]).mean() + 0.1


def test_nothing_is_joined_where_nothing_is_gained():
    train, dev = asked(400, 3, 3), asked(200, 4, 3)
    known = np.eye(3, dtype=np.float32)[dev[1]] * 20
    tags = tags_like(dev[1], 3, 5)
    joined, note = join_intents(train[:2], dev[:2], known, *tags, loss_of(known, dev[1]), 0)
    assert joined is None
    assert "gains nothing" in note
    joined, note = join_intents(train[:2], (dev[0][:99], dev[1][:99]), dev[2][:99], tags[0][:99], tags[1], 1.0, 0)
    assert joined is None
    assert "99 development sentences are too few" in note


def test_counts_and_shares_by_hand():
    marginals = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_array_equal(
        expected_counts(marginals, np.array([0, 2, 2, 3])), [[1.25, 0.75], [0, 0], [0.5, 0.5]]
    )
    tags = Ragged(np.array([0, 1, 1, 0]), np.array([0, 3, 4]))  # intent 0: one and two times; intent 1: once, never
    wanted = np.log([[1.5 / 4, 2.5 / 4], [1.5 / 2, 0.5 / 2]])
    np.testing.assert_allclose(tag_log_shares(tags, np.array([0, 1]), (2, 2)), wanted)


def test_the_loss_chooses_where_it_is_asked_to():
    train, dev = asked(500, 5, 3, noise=0.3), asked(120, 6, 3, noise=0.3)
    parts = (lower_case(train[0]), train[1], lower_case(dev[0]), dev[1], "classification")
    by_loss = fit_linear_baseline(*parts, families=("nb-svm",), choose_by="loss")
    by_score = fit_linear_baseline(*parts)
    assert {one.family for one in by_loss.candidates} == {"nb-svm"}
    assert {one.family for one in by_score.candidates} == {"nb-svm", "tf-idf"}
    nb_svm = fit_linear_baseline(*parts, families=("nb-svm",))
    losses = [loss_of(np.log(one.dev_probabilities), dev[1]) for one in (by_loss, nb_svm)]
    assert losses[0] <= losses[1]
    assert by_loss.dev_score <= nb_svm.dev_score


@pytest.fixture(scope="module")
def taggers():
    """Two taggers whose networks learn no intent, the first with a linear model; and their development part."""
    train, valid = sentences_of(*made_up(160, 30)), sentences_of(*made_up(120, 31))
    settings = {**SMALL, "max_epochs": 3, "intent_weight": 0.0}
    configs = [from_mapping(Config, {**settings, "join_linear": join}) for join in (True, False)]
    return [fit_tagger(train, config, valid=valid) for config in configs], valid


def test_the_tagger_answers_by_both(taggers, tmp_path):
    (joined, alone), valid = taggers
    assert alone.model.joined is None
    assert alone.dev_metrics["intent"]["accuracy"] < 0.9
    assert joined.dev_metrics["intent"]["accuracy"] == 1.0
    assert any("n-gram model are joined" in note for note in joined.notes)
    assert joined.dev_tags == alone.dev_tags  # tags stay as they are
    assert joined.dev_metrics["f1"] == alone.dev_metrics["f1"]
    loaded = bilstm.load(joined.model.save(tmp_path / "m", settings=joined.config))
    assert loaded.evaluate(valid) == joined.model.evaluate(valid)
    assert loaded.annotate(valid.tokens) == joined.model.annotate(valid.tokens)
    # Probabilities by hand: the scores of network, words and tags, each with its weight.
    tokens, model = valid.tokens[:7], joined.model
    emissions, scores = model.scores(model.encode(tokens))
    margins = model.joined.words.linear.margins(lower_case(tokens))[..., 0]
    joining = model.joined.words.joining
    logits = joining.network * scores + joining.linear[0] * margins
    lattice = build_lattice(emissions, model.tagger.crf)
    for row in range(len(tokens)):
        steps = slice(emissions.offsets[row], emissions.offsets[row + 1])
        logits[row] += model.joined.tag_scores @ lattice.marginals[steps].sum(axis=0)
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, probabilities in zip(loaded.annotate(tokens), wanted, strict=True):
        assert row.intent_score == pytest.approx(probabilities.max(), abs=1e-6)
        assert row.intent == model.intents[probabilities.argmax()]
    assert loaded.predict_intents(tokens) == [row.intent for row in loaded.annotate(tokens)]


def test_a_folder_that_lacks_a_part_is_refused(taggers):
    model = taggers[0][0].model
    arrays, ngrams = model.joined.to_folder()
    files = {
        "vocabulary.json": model.encoder.to_json().encode(),
        "known_words.json": b'{"words": [], "spans": []}',
        "ngrams.json": ngrams.encode(),
    }
    weights, config = {**model.weights, **arrays}, json.loads(json.dumps(model.to_config()))
    TaggerModel.from_folder(config, weights, files)  # as it is, it is fine
    without = {name: value for name, value in files.items() if name != "ngrams.json"}
    for wrong in (
        (config, weights, without),
        ({**config, "joined": None}, weights, files),
        (config, model.weights, files),
    ):
        with pytest.raises(ModelFolderError):
            TaggerModel.from_folder(*wrong)
    older = {name: value for name, value in config.items() if name != "joined"}
    assert TaggerModel.from_folder(older, model.weights, files).joined is None  # folders written before there was any


def test_onnx_holds_the_network_alone_and_says_so(taggers, tmp_path):
    with pytest.raises(UsageError, match="no ONNX form"):
        export_onnx(taggers[0][0].model, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="nothing beside its network"):
        export_onnx(taggers[0][1].model, tmp_path / "m.onnx", network_only=True)
    assert list(tmp_path.iterdir()) == []
