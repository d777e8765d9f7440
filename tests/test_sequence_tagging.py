"""The tagger as a whole: learns, saves, loads, says clearly what it cannot do. On a small made-up language."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch

import bilstm
from bilstm.config import from_mapping
from bilstm.data.ragged import Ragged
from bilstm.data.tagged_files import read_tagged, sentences_of
from bilstm.data.tags import allowed_tags, convert_tags, illegal_tags, tags_to_spans
from bilstm.errors import DataError, ModelFolderError, UsageError
from bilstm.layers.randomness import Randomness
from bilstm.layers.tagger import Tagger, runtime_weights
from bilstm.runtime.tagger import Tagger as RuntimeTagger
from bilstm.sequence_tagger import SequenceTagger
from bilstm.tasks.sequence_tagging import Config, TaggerModel, describe_tagger
from bilstm.tasks.tagging_training import fit_tagger

torch.set_num_threads(1)

FIRST = ["Anna", "Bo", "Carla", "Dmitri", "Eva", "Farid"]
LAST = ["Okafor", "Lindqvist", "Sato", "Novak"]
PLACES = [["Rome"], ["New", "York"], ["Lima"], ["Sao", "Paulo"], ["Rio", "de", "Janeiro"]]
SMALL = {
    "max_epochs": 12,
    "hidden_size": 24,
    "word_size": 16,
    "character_size": 8,
    "character_features": 8,
    "trait_size": 4,
    "learning_rate": 0.02,
    "batch_size": 16,
    "average_decay": 0.9,
    "adversarial_norm": None,
    "vectors": "random",
    "embedding_dropout": 0.1,
    "dropout": 0.1,
}


def made_up(count, seed, scheme="IOB2"):
    """Sentences in which a person visits, or leaves, a place; the intent is in the verb."""
    random = np.random.default_rng(seed)
    tokens, tags, intents = [], [], []
    for _ in range(count):
        person = [random.choice(FIRST)] + ([random.choice(LAST)] if random.random() < 0.5 else [])
        place = list(PLACES[random.integers(len(PLACES))])
        verb = random.choice(["visits", "leaves"])
        when = [["today"], ["on", "Monday"], []][random.integers(3)]
        tokens.append([*person, verb, *place, *when, "."])
        spans = ["B-PER"] + ["I-PER"] * (len(person) - 1) + ["O", "B-LOC"] + ["I-LOC"] * (len(place) - 1)
        tags.append(convert_tags([*spans, *["O"] * (len(when) + 1)], scheme))
        intents.append("go" if verb == "visits" else "come")
    return [[str(word) for word in row] for row in tokens], tags, intents


@pytest.fixture(scope="module")
def outcome():
    tokens, tags, intents = made_up(160, 0)
    return fit_tagger(sentences_of(tokens, tags, intents), from_mapping(Config, SMALL))


def test_learns_spans_and_intents(outcome):
    tokens, tags, intents = made_up(60, 1)
    scores = outcome.model.evaluate(sentences_of(tokens, tags, intents))
    assert scores["f1"] > 0.97
    assert scores["intent"]["accuracy"] > 0.97
    assert scores["per_type"]["PER"]["support"] == 60
    assert outcome.dev_metrics["f1"] >= outcome.baseline_metrics["f1"] - 0.05
    json.dumps(scores, allow_nan=False)


def test_spans_carry_places_and_probabilities(outcome):
    text = "  Carla Novak leaves  Sao Paulo on Monday."
    row = outcome.model.annotate([text])[0]
    assert [(span.label, span.text) for span in row.spans] == [("PER", "Carla Novak"), ("LOC", "Sao Paulo")]
    for span in row.spans:
        assert text[span.start : span.end] == span.text
        assert 0.5 < span.score <= 1.0
    assert row.intent == "come"
    assert 0.5 < row.intent_score <= 1.0
    assert [text[begin:end] for begin, end in row.offsets] == row.tokens
    assert outcome.model.predict_intents([text, "Bo visits Lima ."]) == ["come", "go"]


def test_n_best_are_probabilities_best_first(outcome):
    tokens = ["Eva", "Sato", "visits", "New", "York", "."]
    found = outcome.model.predict_n_best([tokens], 3)[0]
    probabilities = [probability for _, probability in found]
    assert found[0][0] == outcome.model.predict([tokens])[0]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1 + 1e-9


@pytest.mark.parametrize("length", [0, 1, 2000])
def test_sentences_of_any_length(outcome, length):
    tokens = (["Anna", "visits", "Rome", "."] * 500)[:length]
    row = outcome.model.annotate([tokens])[0]
    assert len(row.tags) == length
    assert illegal_tags([row.tags], "IOB2") == []


def test_words_never_seen_and_odd_texts(outcome):
    texts = ["", " ", "\u200f\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\U0001f642\U0001f642", "x" * 5000]
    for text, row in zip(texts, outcome.model.annotate(texts), strict=True):
        assert "".join(row.tokens) == "".join(text.split())
        assert len(row.tags) == len(row.tokens)


def test_answers_do_not_depend_on_batch_mates(outcome):
    tokens, _, _ = made_up(40, 2)
    tokens += [[], ["Rome"]]
    together = outcome.model.scores(outcome.model.encode(tokens))[0]
    for row in (0, 7, 39, 40, 41):
        alone = outcome.model.scores(outcome.model.encode([tokens[row]]))[0]
        np.testing.assert_allclose(alone.values, together[row], rtol=1e-4, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(tokens))
    shuffled = outcome.model.predict([tokens[row] for row in order])
    whole = outcome.model.predict(tokens)
    assert shuffled == [whole[row] for row in order]


def test_saved_and_loaded_is_the_same(outcome, tmp_path):
    folder = outcome.model.save(tmp_path / "ner", settings=from_mapping(Config, SMALL), metrics=outcome.dev_metrics)
    loaded = bilstm.load(folder)
    assert isinstance(loaded, TaggerModel)
    tokens, tags, intents = made_up(20, 3)
    assert loaded.predict(tokens) == outcome.model.predict(tokens)
    np.testing.assert_array_equal(
        loaded.scores(loaded.encode(tokens))[0].values, outcome.model.scores(outcome.model.encode(tokens))[0].values
    )
    sentences = sentences_of(tokens, tags, intents)
    assert loaded.evaluate(sentences) == outcome.model.evaluate(sentences)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": ["O"]}, "scores for 1 tags"),
        ({"tags": "O"}, "tags must be a list"),
        ({"scheme": "IOB3"}, "schemes are missing or unknown"),
        ({"intents": []}, "scores for 0 intent"),
        ({"lowercase": None}, "lowercase"),
        ({"intent_temperature": 0}, "intent_temperature"),
        ({"layers": {}}, "layers of a tagger"),
    ],
)
def test_damaged_config_is_refused(outcome, change, message):
    model = outcome.model
    files = {
        "vocabulary.json": model.encoder.to_json().encode(),
        "known_words.json": json.dumps(model.known.to_mapping()).encode(),
    }
    TaggerModel.from_folder(model.to_config(), model.weights, files)  # as it is, it is fine
    with pytest.raises(ModelFolderError, match=message):
        TaggerModel.from_folder({**model.to_config(), **change}, model.weights, files)
    with pytest.raises(ModelFolderError, match=r"no known_words.json"):
        TaggerModel.from_folder(model.to_config(), model.weights, {"vocabulary.json": files["vocabulary.json"]})
    for broken in ({**model.weights, "other": np.zeros(1, np.float32)}, {}):
        with pytest.raises(ModelFolderError, match="weight"):
            TaggerModel.from_folder(model.to_config(), broken, files)


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "IOBES", "BILOU", "BMES"])
def test_every_scheme_is_read_and_written_back(scheme):
    tokens, tags, _ = made_up(60, 4, scheme)
    config = from_mapping(Config, {**SMALL, "max_epochs": 6})
    model = fit_tagger(sentences_of(tokens, tags), config).model
    assert model.scheme == scheme
    answers = model.predict(tokens)
    assert illegal_tags(answers, scheme) == []
    found = [tags_to_spans(row) for row in answers]
    assert sum(len(row) for row in found) > 60
    assert model.evaluate(sentences_of(tokens, tags))["f1"] > 0.8


@pytest.mark.parametrize("change", [{"head": "softmax"}, {"characters": "lstm"}, {"characters": "none"}])
def test_other_settings_learn_too(change):
    tokens, tags, _ = made_up(80, 5)
    model = fit_tagger(sentences_of(tokens, tags), from_mapping(Config, {**SMALL, "max_epochs": 8, **change})).model
    assert model.evaluate(sentences_of(*made_up(30, 6)[:2]))["f1"] > 0.9
    assert model.tagger.layers.crf == (change.get("head") != "softmax")


def test_plain_tags_with_auxiliary_columns_and_adversarial_training(tmp_path):
    kinds = {"visits": "VERB", "leaves": "VERB", ".": "PUNCT", "on": "ADP"}
    lines = []
    for row in made_up(60, 7)[0]:
        lines += [f"{word} {word[-1]} {kinds.get(word, 'NOUN')}" for word in row] + [""]
    path = tmp_path / "pos.conll"
    path.write_text("\n".join(lines))
    sentences = read_tagged(path)
    config = from_mapping(
        Config, {**SMALL, "max_epochs": 14, "auxiliary": ("pos",), "adversarial_norm": 0.1, "num_layers": 2}
    )
    outcome = fit_tagger(sentences, config)
    assert outcome.model.scheme == "none"
    assert outcome.model.intents == ()
    assert not any("auxiliary" in name for name in outcome.model.weights)
    scores = outcome.model.evaluate(sentences)
    assert scores["token_accuracy"] > 0.95
    assert scores["per_tag"]["PUNCT"]["f1"] > 0.95
    assert scores["confusion"]["names"] == ["ADP", "NOUN", "PUNCT", "VERB"]
    assert np.sum(scores["confusion"]["counts"]) == scores["tokens"]
    with pytest.raises(UsageError, match="no column 'xyz'; further columns are pos"):
        fit_tagger(sentences, from_mapping(Config, {**SMALL, "auxiliary": ("xyz",)}))


def test_equal_seeds_give_equal_weights():
    tokens, tags, intents = made_up(40, 8)
    config = from_mapping(Config, {**SMALL, "max_epochs": 2})
    first, second = (fit_tagger(sentences_of(tokens, tags, intents), config).model.weights for _ in range(2))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    other = fit_tagger(sentences_of(tokens, tags, intents), dataclasses.replace(config, seed=1)).model.weights
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_vectors_from_unlabelled_text():
    tokens, tags, _ = made_up(60, 9)
    further = [["Zanzibar", "is", "far", "."], ["Zanzibar", "is", "big", "."]] * 5
    config = from_mapping(Config, {**SMALL, "max_epochs": 2, "vectors": "in-domain", "vector_epochs": 2})
    model = fit_tagger(sentences_of(tokens, tags), config, unlabelled=further).model
    assert model.encoder.is_known("Zanzibar")
    without = fit_tagger(sentences_of(tokens, tags), dataclasses.replace(config, vectors="random")).model
    assert not without.encoder.is_known("Zanzibar")


def test_tags_that_training_lacks_are_counted_and_wrong():
    tokens, tags, _ = made_up(60, 10)
    valid = sentences_of(
        [["Anna", "sings", "Imagine"], ["Anna", "visits", "Rome"]], [["B-PER", "O", "B-SONG"], ["B-PER", "O", "B-LOC"]]
    )
    outcome = fit_tagger(sentences_of(tokens, tags), from_mapping(Config, {**SMALL, "max_epochs": 3}), valid=valid)
    assert outcome.dev_metrics["unknown_tags"] == {"SONG": 1}
    assert outcome.dev_metrics["per_type"]["SONG"]["recall"] == 0.0
    assert any("tags that training lacks, scored as wrong: SONG (1)" in note for note in outcome.notes)
    assert np.isfinite([row.dev_loss for row in outcome.result.history]).all()


def test_broken_schemes_are_told_with_their_lines(tmp_path):
    path = tmp_path / "train.conll"
    tokens, tags, _ = made_up(40, 11)
    rows = [f"{a} {b}" for s, t in zip(tokens, tags, strict=True) for a, b in [*zip(s, t, strict=True), ("", "")]]
    rows[:0] = ["x O", "y I-LOC", ""]
    path.write_text("\n".join(row.strip() for row in rows))
    outcome = fit_tagger(read_tagged(path), from_mapping(Config, {**SMALL, "max_epochs": 1}))
    assert any(
        "1 tags break the scheme IOB2" in note and "train.conll:2 I-LOC after O" in note for note in outcome.notes
    )


def test_mixed_schemes_between_files():
    tokens, tags, _ = made_up(40, 12)
    valid = sentences_of(*made_up(20, 13, "IOBES")[:2])
    outcome = fit_tagger(sentences_of(tokens, tags), from_mapping(Config, {**SMALL, "max_epochs": 8}), valid=valid)
    assert any("written in IOBES, training in IOB2" in note for note in outcome.notes)
    assert outcome.dev_metrics["f1"] > 0.8
    plain = sentences_of([["a", "b"]], [["NOUN", "VERB"]])
    with pytest.raises(DataError, match="of scheme IOB2, those of the development part of none"):
        fit_tagger(sentences_of(tokens, tags), from_mapping(Config, SMALL), valid=plain)


def test_data_that_cannot_be_learned_from():
    config = from_mapping(Config, SMALL)
    with pytest.raises(DataError, match="All 2 training tokens have the same tag 'O'"):
        fit_tagger(sentences_of([["a", "b"]] * 2, [["O", "O"]] * 2), config)
    with pytest.raises(DataError, match="1 sentences are too few"):
        fit_tagger(sentences_of([["a", "b"]], [["O", "B-X"]]), config)
    with pytest.raises(DataError, match="sentences without tags"):
        fit_tagger(sentences_of([["a"]] * 3), config)


def test_torch_and_runtime_faces_are_equal():
    tokens, tags, intents = made_up(12, 14)
    outcome = fit_tagger(sentences_of(tokens, tags, intents), from_mapping(Config, {**SMALL, "max_epochs": 1}))
    model = outcome.model
    for head in ("crf", "softmax"):
        layers = describe_tagger(from_mapping(Config, {**SMALL, "head": head}), model.encoder, len(model.tags), 2)
        allowed = allowed_tags(model.tags, model.inner_scheme)
        net = Tagger(layers, allowed, Randomness(1)).eval()
        runtime = RuntimeTagger(layers, runtime_weights(net), allowed)
        batch = model.encode([*tokens, [], ["unseen"]]).batch(range(14))
        with torch.no_grad():
            expected = net(batch)
        emissions, intent_scores = runtime.run(batch)
        np.testing.assert_allclose(emissions.values, expected.emissions.values.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(intent_scores, expected.intent.numpy(), rtol=1e-4, atol=1e-5)
        if head == "crf":
            best = net.crf.decode(Ragged(expected.emissions.values, torch.from_numpy(emissions.offsets)))
            from bilstm.runtime.crf import decode

            np.testing.assert_array_equal(decode(emissions, runtime.crf)[0].values, best.values.numpy())


def test_every_weight_gets_a_gradient():
    tokens, tags, intents = made_up(16, 15)
    outcome = fit_tagger(sentences_of(tokens, tags, intents), from_mapping(Config, {**SMALL, "max_epochs": 1}))
    model = outcome.model
    layers = describe_tagger(from_mapping(Config, SMALL), model.encoder, len(model.tags), 2)
    net = Tagger(layers, allowed_tags(model.tags, model.inner_scheme), Randomness(2), {"more": 3}).train()
    scores = net(model.encode(tokens).batch(range(16)))
    gold = torch.tensor([model.tags.index(tag) for row in tags for tag in convert_tags(row, model.inner_scheme)])
    loss = net.crf.loss(scores.emissions, scores.emissions.with_values(gold)).sum()
    loss = loss + scores.intent.logsumexp(1).sum() + scores.auxiliary["more"].logsumexp(1).sum()
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("head", ["crf", "softmax"])
def test_adversarial_step_has_the_gradients_of_two_separate_losses(head):
    """The step keeps the first gradient; here the move is computed apart and both losses go back on their own."""
    from bilstm.tasks import tagging_training
    from bilstm.training.objectives import perturbation

    tokens, tags, intents = made_up(12, 17)
    sentences = sentences_of(tokens, tags, intents)
    # No dropout: both ways must see the same network. One thread, no engine in bfloat16.
    settings = {"dropout": 0.0, "embedding_dropout": 0.0, "word_dropout": 0.0, "adversarial_norm": 0.5, "head": head}
    config = from_mapping(Config, {**SMALL, **settings})
    coder = tagging_training._TagCoder.build(sentences, "IOB2", config)
    encoder = tagging_training.WordEncoder.build(tokens, min_count=1)
    part = tagging_training._Part.of(sentences, encoder, coder)
    layers = describe_tagger(config, encoder, len(coder.tags), 2)
    net = Tagger(layers, allowed_tags(coder.tags, coder.inner_scheme), Randomness(3)).train()
    objective = tagging_training._Objective(net, part, coder, config)
    rows = np.arange(12)
    objective.step_loss(rows).backward()
    found = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()
    features = net.features(part.words.batch(rows))
    plain = objective._loss(net.run_from_features(features), part, rows)
    (gradient,) = torch.autograd.grad(plain, features.values)
    move = perturbation(gradient, torch.as_tensor(features.offsets), 0.5)
    for moved in (torch.zeros_like(move), move):
        again = net.features(part.words.batch(rows))
        scores = net.run_from_features(again.with_values(again.values + moved))
        (0.5 * objective._loss(scores, part, rows)).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


# ---- estimator -----------------------------------------------------------------------------------------------------


def test_estimator_has_the_settings_as_parameters():
    parameters = inspect.signature(SequenceTagger.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if name not in ("self", "verbose", "random_state")}
    fields = {field.name: field.default for field in dataclasses.fields(Config) if field.name != "seed"}
    assert defaults == fields
    assert list(defaults) == list(fields)


def test_estimator_fits_predicts_and_is_cloned(tmp_path):
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError

    tokens, tags, intents = made_up(60, 16)
    tagger = clone(SequenceTagger(**{**SMALL, "max_epochs": 8}))
    with pytest.raises(NotFittedError):
        tagger.predict(tokens)
    assert tagger.fit(tokens, tags, intents=intents) is tagger
    assert tagger.score(tokens, tags) > 0.9
    assert tagger.classes_.tolist() == ["LOC", "PER"]
    assert tagger.predict_intents(tokens[:3]) == intents[:3]
    lists = tagger.predict_n_best(tokens[:3], 2)
    assert [best for (best, _), _ in lists] == tagger.predict(tokens[:3])
    assert all(1 >= first > second > 0 for (_, first), (_, second) in lists)
    assert bilstm.load(tagger.save(tmp_path / "m")).predict(tokens[:3]) == tagger.predict(tokens[:3])
    with pytest.raises(UsageError, match="Expected a list of sentences"):
        tagger.predict("Anna visits Rome")
    with pytest.raises(UsageError, match="2 sentences but 1 tags"):
        tagger.fit([["a"], ["b"]], [["O"]])
