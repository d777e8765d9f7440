"""The linear baseline against brute force, against scikit-learn, and on texts whose answer is known."""

import csv
import gzip
import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from bilstm.data.ngrams import NgramIndex
from bilstm.errors import DataError, ShapeError
from bilstm.evaluation import baseline as module
from bilstm.evaluation.baseline import fit_linear_baseline
from bilstm.metrics import evaluate_classification

texts_of_few_words = st.lists(st.lists(st.sampled_from("abcd"), max_size=8), min_size=1, max_size=8)


def brute_ngrams(tokens: list[str], order: int) -> Counter:
    return Counter(" ".join(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


@settings(max_examples=80, deadline=None)
@given(texts_of_few_words, texts_of_few_words, st.integers(1, 3))
def test_counts_equal_brute_force(train, others, min_rows):
    index = NgramIndex(3, min_rows)
    counted = {"train": index.fit_transform(train), "others": index.transform(others)}
    assert [matrix.shape[1] for matrix in counted["train"]] == index.sizes
    starts = np.cumsum([0, *index.sizes])
    for order in (1, 2, 3):
        frequency = Counter(gram for tokens in train for gram in brute_ngrams(tokens, order))
        rows_with = Counter(gram for tokens in train for gram in set(brute_ngrams(tokens, order)))
        known = index.names(range(starts[order - 1], starts[order]))
        assert sorted(known) == sorted(gram for gram in frequency if rows_with[gram] >= min_rows)
        for part, texts in (("train", train), ("others", others)):
            expected = [[brute_ngrams(tokens, order)[gram] for gram in known] for tokens in texts]
            assert counted[part][order - 1].toarray().tolist() == expected


def generated(seed: int, rows: int, num_classes: int = 2):
    """Return texts of noise words in which one of three words of the class stands, and their classes."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, num_classes, rows)
    texts = []
    for target in targets:
        words = [f"noise{i}" for i in generator.integers(0, 50, 12)]
        words[generator.integers(0, 12)] = f"sign{target}{generator.integers(0, 3)}"
        texts.append(words)
    return texts, targets


def test_tfidf_features_equal_scikit_learn():
    texts, _ = generated(0, 60)
    index = NgramIndex(2, 2)
    counts = index.fit_transform(texts)
    frequency = module._inverse_frequency(counts, len(texts))
    peer = TfidfVectorizer(analyzer=lambda x: x, min_df=2, sublinear_tf=True)
    joined = [tokens + [" ".join(tokens[i : i + 2]) for i in range(len(tokens) - 1)] for tokens in texts]
    expected = peer.fit_transform(joined).toarray()
    names = index.names(range(sum(index.sizes)))
    order = [peer.vocabulary_[name] for name in names]
    found = module._features(counts, "tf-idf", frequency).toarray()
    assert np.allclose(found, expected[:, order], rtol=0, atol=1e-14)
    others = module._features(index.transform([["noise1", "unseen"], []]), "tf-idf", frequency)
    assert np.allclose(others.toarray(), peer.transform([["noise1", "unseen"], []]).toarray()[:, order], atol=1e-14)


def test_nb_ratios_by_hand():
    presence = sparse.csr_matrix(np.array([[1, 1, 0], [1, 0, 1], [0, 0, 1]]))
    # positive rows 0, 1: counts 2, 1, 1, smoothed 3, 2, 2 of 7; negative row 2: 0, 0, 1, smoothed 1, 1, 2 of 4
    expected = [math.log(3 / 7 / (1 / 4)), math.log(2 / 7 / (1 / 4)), math.log(2 / 7 / (2 / 4))]
    assert module._nb_ratios(presence, np.array([True, True, False])).tolist() == pytest.approx(expected)


def test_two_classes_are_learned_and_told():
    texts, targets = generated(1, 400)
    dev_texts, dev_targets = generated(2, 150)
    fitted = fit_linear_baseline(texts, targets, dev_texts, dev_targets, "classification")
    assert fitted.dev_score >= 0.99  # the sign words decide
    assert fitted.dev_score == max(candidate.dev_score for candidate in fitted.candidates)
    scores = evaluate_classification(fitted.dev_probabilities, dev_targets, ["zero", "one"])
    assert scores["accuracy"] == fitted.dev_score
    assert np.allclose(fitted.predict(dev_texts), fitted.dev_probabilities, rtol=0, atol=1e-12)
    zero, one = fitted.telling(3)
    assert {name for name, _ in zero} == {"sign00", "sign01", "sign02"}
    assert {name for name, _ in one} == {"sign10", "sign11", "sign12"}
    assert all(effect > 0 for _, effect in zero + one)
    assert json.loads(json.dumps(fitted.settings, allow_nan=False))["tried"] == len(fitted.candidates)
    assert fitted.predict([]).shape == (0, 2)


def test_word_order_is_seen_through_ngrams():
    generator = np.random.default_rng(0)
    pairs = [("not good", 0), ("good", 1), ("bad", 0), ("not bad", 1)]
    picks = generator.integers(0, 4, 300)
    texts = [["it", "was", *pairs[i][0].split(), "indeed"] for i in picks]
    targets = np.array([pairs[i][1] for i in picks])
    fitted = fit_linear_baseline(texts[:200], targets[:200], texts[200:], targets[200:], "classification")
    assert fitted.dev_score == 1.0  # impossible for single words: each word stands in both classes


def test_one_candidate_equals_scikit_learn(monkeypatch):
    texts, targets = generated(3, 200)
    dev_texts, dev_targets = generated(4, 80)
    monkeypatch.setattr(module, "GRID", {("tf-idf", "logistic"): (3.0,)})
    fitted = fit_linear_baseline(texts, targets, dev_texts, dev_targets, "classification")
    peer = TfidfVectorizer(analyzer=lambda x: x, sublinear_tf=True)

    def joined(rows):
        return [tokens + [" ".join(tokens[i : i + 2]) for i in range(len(tokens) - 1)] for tokens in rows]

    model = LogisticRegression(C=3.0, solver="liblinear", dual=True, max_iter=1000, random_state=0)
    model.fit(peer.fit_transform(joined(texts)), targets)
    margins = model.decision_function(peer.transform(joined(dev_texts)))
    probabilities = fitted.dev_probabilities
    found = np.log(probabilities[:, 1] / probabilities[:, 0]) * fitted.settings["temperature"]
    # the dual solver visits features in another order and stops at its tolerance of 1e-4
    assert np.allclose(found, margins, rtol=0, atol=5e-3)


def test_many_classes_and_a_class_only_in_the_development_part():
    texts, targets = generated(5, 500, num_classes=5)
    dev_texts, dev_targets = generated(6, 100, num_classes=5)
    keep = targets != 4
    texts, targets = [text for text, k in zip(texts, keep, strict=True) if k], targets[keep]
    fitted = fit_linear_baseline(texts, targets, dev_texts, dev_targets, "classification", num_classes=5)
    assert fitted.dev_probabilities.shape == (100, 5)
    assert np.allclose(fitted.dev_probabilities.sum(axis=1), 1)
    seen = dev_targets != 4
    assert (fitted.dev_probabilities.argmax(axis=1)[seen] == dev_targets[seen]).mean() > 0.95
    lists = fitted.telling(3)
    assert len(lists) == 5
    assert {name for name, _ in lists[2]} == {"sign20", "sign21", "sign22"}


def test_several_labels_a_row():
    generator = np.random.default_rng(0)

    def rows(count):
        labels = generator.random((count, 3)) < 0.4
        labels[:, 2] = False  # a label that is never given
        texts = [[f"noise{i}" for i in generator.integers(0, 30, 6)] for _ in range(count)]
        for text, row in zip(texts, labels, strict=True):
            text.extend(f"sign{k}" for k in np.flatnonzero(row))
        return texts, labels

    texts, labels = rows(300)
    dev_texts, dev_labels = rows(100)
    fitted = fit_linear_baseline(texts, labels, dev_texts, dev_labels, "multilabel")
    assert fitted.score_name == "micro_f1"
    assert fitted.dev_score > 0.98
    assert fitted.dev_probabilities.shape == (100, 3)
    assert (fitted.dev_probabilities[:, 2] < 0.5).all()
    assert fitted.telling(1)[0][0][0] == "sign0"


def test_numbers_equal_ridge_of_scikit_learn(monkeypatch):
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 4, 260)
    texts = [["up"] * c + [f"noise{i}" for i in generator.integers(0, 20, 5)] for c in counts]
    targets = counts + 0.1 * generator.normal(size=260)
    monkeypatch.setattr(module, "RIDGE_GRID", (0.3,))
    fitted = fit_linear_baseline(texts[:200], targets[:200], texts[200:], targets[200:], "regression")
    peer = TfidfVectorizer(analyzer=lambda x: x, sublinear_tf=True)
    joined = [tokens + [" ".join(tokens[i : i + 2]) for i in range(len(tokens) - 1)] for tokens in texts]
    inputs = peer.fit_transform(joined[:200])
    expected = Ridge(alpha=0.3, solver="cholesky").fit(inputs.toarray(), targets[:200])
    predicted = expected.predict(peer.transform(joined[200:]).toarray())
    assert np.allclose(fitted.dev_probabilities, predicted, rtol=0, atol=5e-3)  # conjugate gradients stop at 1e-4
    assert fitted.dev_score == pytest.approx(np.sqrt(np.mean((fitted.dev_probabilities - targets[200:]) ** 2)))
    lower, raise_ = fitted.telling(2)
    assert raise_[0][0] in ("up", "up up")
    assert all(not name.startswith("up") for name, _ in lower)


def test_texts_without_words_get_the_share_of_the_classes():
    fitted = fit_linear_baseline([[], [], [], []], np.array([0, 1, 1, 1]), [[], []], np.array([1, 0]), "classification")
    assert fitted.dev_score == 0.5
    assert fitted.predict([["unseen"]])[0].argmax() == 1
    assert fitted.telling() == [[], []]
    numbers = fit_linear_baseline([[], []], np.array([1.0, 3.0]), [[]], np.array([2.5]), "regression")
    assert numbers.predict([["x"]]).tolist() == [2.0]


def test_equal_seeds_give_equal_results_and_large_data_is_sampled_and_said(monkeypatch):
    texts, targets = generated(7, 300)
    parts = (texts[:200], targets[:200], texts[200:], targets[200:], "classification")
    first, second = (fit_linear_baseline(*parts, seed=3) for _ in range(2))
    assert first.dev_probabilities.tobytes() == second.dev_probabilities.tobytes()
    assert first.notes == []
    monkeypatch.setattr(module, "MAX_TOKENS", 1200)
    monkeypatch.setattr(module, "MAX_FULL_COST", 100)
    sampled = fit_linear_baseline(*parts)
    monkeypatch.setattr(module, "MAX_WEIGHTS", 300)
    assert sum(fit_linear_baseline(*parts).settings["ngrams"]) <= 300
    assert "100 of 200 training rows" in sampled.notes[0]  # 12 words a text
    assert "one setting" in sampled.notes[1]
    assert {(c.family, c.strength) for c in sampled.candidates} == {("tf-idf", 10.0), ("nb-svm", 0.1)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token_lists": [], "targets": np.zeros(0, int)}, "training part"),
        ({"dev_token_lists": [], "dev_targets": np.zeros(0, int)}, "development part"),
        ({"targets": np.array([0])}, "do not fit 2 texts"),
        ({"targets": np.array([0, 0]), "dev_targets": np.array([0])}, "two classes"),
        ({"kind": "multilabel"}, "multilabel"),
    ],
)
def test_nonsense_is_refused(change, words):
    arguments = {
        "token_lists": [["a"], ["b"]],
        "targets": np.array([0, 1]),
        "dev_token_lists": [["a"]],
        "dev_targets": np.array([0]),
        "kind": "classification",
    }
    with pytest.raises((DataError, ShapeError), match=words):
        fit_linear_baseline(**(arguments | change))


@pytest.mark.data
@pytest.mark.skipif("BILSTM_DATA" not in os.environ, reason="needs BILSTM_DATA, the folder with imdb/train.csv.gz")
def test_film_reviews():
    csv.field_size_limit(1_000_000)
    with gzip.open(Path(os.environ["BILSTM_DATA"]) / "imdb" / "train.csv.gz", "rt", encoding="utf-8", newline="") as f:
        rows = [row for row, _ in zip(csv.DictReader(f), range(4000), strict=False)]
    texts = [row["review"].replace("<br />", " ").lower().split() for row in rows]
    targets = np.array([row["sentiment"] == "positive" for row in rows]).astype(np.int64)
    fitted = fit_linear_baseline(texts[:3000], targets[:3000], texts[3000:], targets[3000:], "classification")
    assert fitted.dev_score > 0.84  # 3,000 reviews; 22,500 give 0.918
    assert len(fitted.telling(5)[0]) == 5
