"""Vectors of rare words from their character n-grams: by the formula, solved densely, and on made words."""

import dataclasses

import numpy as np
import pytest

from bilstm.data.tokenizers import WordTokenizer
from bilstm.data.vocabulary import TextEncoder
from bilstm.errors import ShapeError
from bilstm.tasks import text_network
from bilstm.tasks.text_classification import Config
from bilstm.tasks.text_network import learn_word_vectors
from bilstm.training import ridge, subwords
from bilstm.training.subwords import character_ngrams, with_subwords


def test_ngrams_by_hand():
    assert character_ngrams("cat") == ["<ca", "cat", "at>", "<cat", "cat>"]
    assert character_ngrams("a") == []  # "<a>" is the word itself
    assert "<abcde" in character_ngrams("abcdefg")
    assert max(map(len, character_ngrams("abcdefghij"))) == 6


def test_vectors_are_the_minimum_of_the_formula(monkeypatch):
    monkeypatch.setattr(subwords, "SOLVER_STEPS", 500)
    monkeypatch.setattr(ridge, "TOLERANCE", 1e-7)
    words = ["", "walk", "walks", "walking", "talk", "talking", "talks", "x", "zebra"]
    random = np.random.default_rng(0)
    vectors = random.normal(size=(len(words), 3)).astype(np.float32)
    counts = np.array([50, 40, 3, 0, 100, 2, 7, 4, 1])
    found = with_subwords(vectors, counts, words)

    sets = [character_ngrams(word) for word in words]
    shared = sorted({n for own in sets for n in own if sum(n in other for other in sets) > 1})
    table = np.array([[own.count(n) for n in shared] for own in sets], dtype=float)
    table /= np.sqrt(np.maximum(table.sum(axis=1, keepdims=True), 1))
    own = counts / (counts + 20)
    mean = counts @ vectors / counts.sum()
    square = table.T @ (own[:, None] * table) + np.eye(len(shared))
    expected = table @ np.linalg.solve(square, table.T @ (own[:, None] * (vectors - mean))) + mean
    has_none = table.sum(axis=1) == 0
    assert has_none.tolist() == [True, False, False, False, False, False, False, True, True]
    by_hand = np.where(has_none[:, None], vectors, own[:, None] * vectors + (1 - own[:, None]) * expected)
    np.testing.assert_allclose(found, by_hand, atol=2e-5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[[0, 7, 8]], vectors[[0, 7, 8]])


def test_rare_words_come_nearer_to_what_they_mean():
    """Words of four stems; each vector is that of its stem, the worse known the rarer the word."""
    random = np.random.default_rng(1)
    stems = ["kalm", "porf", "mund", "seld"]
    letters = list("abcdefgh")
    words = [stem + "".join(random.choice(letters, 3)) for stem in stems for _ in range(60)]
    truth = np.repeat(np.eye(4), 60, axis=0)
    counts = random.integers(1, 200, len(words))
    measured = truth + random.normal(size=truth.shape) * (2 / np.sqrt(counts))[:, None]
    found = with_subwords(measured.astype(np.float32), counts, words)

    def error(vectors: np.ndarray, rows: np.ndarray) -> float:
        return float(((vectors - truth)[rows] ** 2).mean())

    rare, frequent = counts < 20, counts > 100
    assert error(found, rare) < 0.5 * error(measured, rare)
    assert error(found, frequent) < 1.2 * error(measured, frequent)


def test_arguments_of_different_lengths_are_refused():
    with pytest.raises(ShapeError, match="3 vectors, 2 counts and 3 words"):
        with_subwords(np.zeros((3, 2), np.float32), np.zeros(2), ["a", "b", "c"])


def test_few_words_are_drawn_and_many_are_not(monkeypatch):
    texts = ["walk walks walking", "talk talks talking", "walk talk"] * 5
    encoder = TextEncoder.build(texts, WordTokenizer(), max_size=100, min_count=1)
    ids = encoder.encode(texts)
    config = Config(embedding_size=4, backend="torch")

    def learned(wanted: bool | None) -> np.ndarray:
        return learn_word_vectors(ids, encoder, dataclasses.replace(config, subwords=wanted), 2, lambda event: None)

    plain, drawn = learned(False), learned(True)
    words = ["", *encoder.vocabulary.tokens[1:]]
    np.testing.assert_array_equal(drawn, with_subwords(plain, np.bincount(ids.values, minlength=7), words))
    assert not np.array_equal(drawn, plain)
    np.testing.assert_array_equal(learned(None), drawn)
    monkeypatch.setattr(text_network, "SUBWORD_WORDS", len(ids.values))
    np.testing.assert_array_equal(learned(None), plain)
