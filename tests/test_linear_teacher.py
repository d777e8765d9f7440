"""The linear teacher: features and solvers by independent formulas, answers on made texts."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from bilstm.data.ragged import Ragged
from bilstm.tasks.phase_teaching import runtime_linear, teacher_texts_within
from bilstm.training import linear_teacher
from bilstm.training.linear_teacher import ask_linear_teacher, ngram_features, pseudo_labels, short_descriptions
from bilstm.training.ridge import sparse_ridge
from bilstm.training.word_vectors import train_word_vectors

SIGNS = 12  # words that speak for one class
OTHERS = 60


def made_texts(targets: np.ndarray, classes: int, seed: int) -> Ragged:
    """Return texts of ten words, two of them signs of the class; ids from 1."""
    random = np.random.default_rng(seed)
    rows = []
    for target in targets:
        words = 1 + classes * SIGNS + random.integers(OTHERS, size=10)
        words[random.permutation(10)[:2]] = 1 + target * SIGNS + random.integers(SIGNS, size=2)
        rows.append(words.tolist())
    return Ragged.of(rows)


def test_ngram_features_by_hand():
    texts = Ragged.of([[1, 2, 1, 2], [1, 2, 0, 3], [3, 1, 3], []])
    features = ngram_features(texts).matrix.toarray()
    # in at least two texts: the words 1, 2, 3 and the pair (1, 2); the pair across the unknown word is none
    counts = np.array([[2, 2, 0, 2], [1, 1, 1, 1], [1, 0, 2, 0], [0, 0, 0, 0]], dtype=float)
    inverse = np.log(4 / (counts > 0).sum(axis=0))
    expected = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * inverse
    lengths = np.sqrt((expected**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(features, expected / np.maximum(lengths, 1e-12), rtol=1e-6)


def test_pairs_do_not_reach_into_the_next_text():
    texts = Ragged.of([[1, 2], [3, 4], [1, 2], [3, 4]])
    seen = collections.Counter((ngram_features(texts).matrix.toarray() > 0).sum(axis=1).tolist())
    assert seen == {3: 4}  # two words and one pair each


def test_short_descriptions_are_the_exact_ones(monkeypatch):
    random = np.random.default_rng(0)
    texts = made_texts(np.arange(80) % 2, 2, 0)
    vectors = random.normal(size=(1 + 2 * SIGNS + OTHERS, 5)).astype(np.float32)
    monkeypatch.setattr(linear_teacher, "LATENT_SIZE", 3)
    monkeypatch.setattr(linear_teacher, "POWER_STEPS", 30)
    means, places = short_descriptions(texts, vectors)
    counts = np.stack([np.bincount(texts[row], minlength=len(vectors)) for row in range(len(texts))]).astype(float)
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    expected = (weights / np.linalg.norm(weights, axis=1, keepdims=True)) @ vectors
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    np.testing.assert_allclose(means * np.sqrt(5) / 3, expected, atol=2e-5)
    frequency = np.maximum((counts > 0).sum(axis=0), 1)
    weighed = weights * np.log(len(texts) / frequency)
    weighed /= np.linalg.norm(weighed, axis=1, keepdims=True)
    left, strengths, _ = np.linalg.svd(weighed, full_matrices=False)
    exact = left[:, :3] * strengths[:3]
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    # singular vectors have no sign: products of rows do not depend on it
    middle = exact - exact.mean(axis=0)
    np.testing.assert_allclose(places @ places.T, middle @ middle.T, atol=2e-3)


def test_ridge_solves_the_normal_equations():
    features = ngram_features(made_texts(np.arange(60) % 2, 2, 3)).matrix
    rows = np.arange(0, 60, 2)
    targets = np.where(np.arange(30) % 3 == 0, 1.0, -1.0)[:, None]
    weights = 1.0 + np.arange(30) % 4
    found = sparse_ridge(features[rows], targets, weights, 1.0, 500)
    dense = features.toarray().astype(np.float64)
    own = dense[rows]
    exact = np.linalg.solve(
        own.T @ (weights[:, None] * own) + np.eye(dense.shape[1]), own.T @ (weights[:, None] * targets)
    )
    np.testing.assert_allclose(dense @ found.T, dense @ exact, atol=0.02)


@pytest.mark.parametrize("classes", [2, 3])
def test_answers_are_better_than_those_of_the_labelled_texts_alone(classes):
    labelled, rest = 8 * classes, 1500
    targets = np.arange(labelled + rest) % classes
    texts = made_texts(targets, classes, 1)
    size = 1 + classes * SIGNS + OTHERS
    vectors = train_word_vectors(texts, size, 12, epochs=3, backend="torch")
    answers = ask_linear_teacher(texts, targets[:labelled], classes, vectors).answers
    assert answers.shape == (len(texts), classes)
    np.testing.assert_allclose(answers.sum(axis=1), 1.0)
    features = ngram_features(texts).matrix
    alone = LogisticRegression(C=10.0, max_iter=1000).fit(features[:labelled], targets[:labelled])
    by_labels = (alone.predict(features[labelled:]) == targets[labelled:]).mean()
    right = (answers[labelled:].argmax(axis=1) == targets[labelled:]).mean()
    assert right > by_labels + 0.05
    assert right > 0.8
    assert np.array_equal(answers, ask_linear_teacher(texts, targets[:labelled], classes, vectors).answers)
    found = pseudo_labels(answers[labelled:], np.full(classes, 1 / classes))
    among = np.bincount(found.targets, minlength=classes)
    assert among.max() - among.min() <= 1  # each class in its share
    assert (found.targets == targets[labelled:][found.rows]).mean() > right  # the surer part is right more often


def test_two_classes_keep_the_share_of_the_labels():
    labelled = 40
    targets = np.concatenate([np.arange(labelled) % 4 == 0, np.arange(1200) % 4 == 0]).astype(np.int64)
    texts = made_texts(targets, 2, 2)
    vectors = train_word_vectors(texts, 1 + 2 * SIGNS + OTHERS, 12, epochs=2, backend="torch")
    answers = ask_linear_teacher(texts, targets[:labelled], 2, vectors).answers
    assert (answers[labelled:, 1] > 0.5).mean() == pytest.approx(0.25, abs=0.01)


def test_the_model_of_the_last_round_gives_the_same_answers_to_texts():
    labelled = 20
    targets = np.arange(labelled + 400) % 2
    texts = made_texts(targets, 2, 4)
    vectors = train_word_vectors(texts, 1 + 2 * SIGNS + OTHERS, 8, epochs=1, backend="torch")
    taught = ask_linear_teacher(texts, targets[:labelled], 2, vectors)
    linear = runtime_linear(taught.model, lambda number: f"w{number}")
    margins = linear.margins([[f"w{number}" for number in texts[row]] for row in range(len(texts))])
    assert margins.shape == (len(texts), 1, 1)
    np.testing.assert_allclose(expit(margins[:, 0, 0]), taught.answers[:, 1], atol=1e-4)


def test_a_teacher_reads_what_the_time_allows():
    lengths = np.full(1000, 200)
    assert teacher_texts_within(float("inf"), lengths) == 1000
    assert teacher_texts_within(3600.0, lengths) == 1000
    assert 0 < teacher_texts_within(1.0, lengths) < 1000
    assert teacher_texts_within(0.0, lengths) == 0


def test_document_vectors_and_ngrams_teach_each_other():
    """Noisy document vectors: better than n-grams of a few labels, worse than both together."""
    labelled, rest = 20, 1500
    targets = np.arange(labelled + rest) % 2
    texts = made_texts(targets, 2, 1)
    random = np.random.default_rng(5)
    documents = random.normal(size=(len(texts), 6))
    documents[:, 0] += np.where(targets == 1, 1.2, -1.2)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    vectors = random.normal(size=(1 + 2 * SIGNS + OTHERS, 4)).astype(np.float32)  # say nothing

    def right(margins: np.ndarray) -> float:
        return float(((margins > 0) == targets)[labelled:].mean())

    alone = right(linear_teacher.document_margins(documents, targets[:labelled], 2)[:, 0])
    ngrams = right(linear_teacher.ngram_margins(texts, targets[:labelled], 2)[:, 0])
    answers = ask_linear_teacher(texts, targets[:labelled], 2, vectors, documents=documents).answers
    without = ask_linear_teacher(texts, targets[:labelled], 2, vectors).answers
    together = right(answers[:, 1] - 0.5)
    assert together > max(alone, ngrams) + 0.03
    assert together > right(without[:, 1] - 0.5)


def test_dense_ridge_solves_the_normal_equations():
    random = np.random.default_rng(0)
    view, rows, columns = random.normal(size=(40, 3)), np.arange(0, 40, 2), random.normal(size=(20, 2))
    weights = 1.0 + np.arange(20) % 3
    found = linear_teacher._dense_ridge(view, rows, columns, weights)
    # the same as least squares over rows multiplied by the root of their weight, with the ridge as further rows
    full = np.concatenate([view, np.ones((40, 1))], axis=1)
    root = np.sqrt(weights)[:, None]
    stacked = np.concatenate([root * full[rows], np.sqrt(linear_teacher.RIDGE) * np.eye(4)])
    exact = np.linalg.lstsq(stacked, np.concatenate([root * columns, np.zeros((4, 2))]), rcond=None)[0]
    np.testing.assert_allclose(found, full @ exact, atol=1e-8)
