"""The native reading of texts gives what the Python reference gives, on any text; so do the native n-gram models."""

import copy
import csv
import dataclasses
import gzip
import os
import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm.data.ngrams import NgramIndex
from bilstm.data.ragged import Ragged
from bilstm.data.tokenizers import CharacterTokenizer, WordTokenizer
from bilstm.data.vocabulary import TextEncoder, Vocabulary
from bilstm.engine import words as native
from bilstm.errors import ShapeError, UsageError
from bilstm.runtime import ngram_linear, word_ids
from bilstm.runtime.ngram_linear import LinearHead, NgramLinear
from bilstm.runtime.word_ids import WordReader
from bilstm.tasks.text_classification import JoinedLinear
from made_models import joined_model, some_texts

_MISSING = native.missing()
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=f"engine: {_MISSING}")

# What the expression of the reference is made of, and what it must stop at.
PIECES = [
    *"abcdnopstxz'!?:;=-^o()[]|\\*/<>3_.,&#% \n\t09", "n't", "N'T", "don't", "can't've", "'s", "'re", "'ll", "'d", "'m",
    "7/10", "1,000", "3.5a", "1.2.3a", "1.23b", ":-)", ":o)", ":o", ";(((", "=D", ":/", "://", "<3", "</3", "<33",
    "^_^", "-__-", "<br />", "<br/>", "<BR />", "<b>", "</i>", "<a href='x'>", "< b", "<<br />b>", "</<br />p>",
    "&amp;", "&lt;", "&#39;", "&nosuch;", "& b;", "&", "\u2019", "n\u2019t", "\u2018", "\u2013", "\u2026", "\xe9",
    "\xc9", "\xdf", "\xb2", "\xaa", "\xa0", "\x85", "\x97", "\u0130", "\u0131", "\u01c5", "\u017f", "\u0178",
    "\u023a", "\u24b6", "\u03a3", "\u0301", "\u4e2d", "\u30ab", "\u0939\u093f", "\u200d", "\u200c", "\ufe0f",
    "\U0001f600", "\U0001f1e9\U0001f1ea", "\u231a", "\u02bc", "\uff07", "\ud800", "\x00", "\x1c", "\uffff", "\u212a",
    "\u2028", "WORD", "word", "caf\xe9",
]  # fmt: skip


def reader_of(texts, max_length=None, keep="head", ngram_words=None) -> WordReader:
    """A reader whose vocabulary holds most words of the texts, and that is native from the first text on."""
    known = [token for token in dict.fromkeys(t for text in texts for t in WordTokenizer().tokens(text)) if len(token)]
    tokens = tuple(token for number, token in enumerate(known) if number % 5)
    reader = WordReader(
        TextEncoder(WordTokenizer(), Vocabulary(("<unknown>", *tokens)), max_length, keep),
        known[::2] if ngram_words is None else ngram_words,
    )
    reader._texts_read = 10**6
    return reader


def assert_equal(reader, texts):
    ids, words = reader.read(texts)
    expected = reader._encoder.encode(texts)
    assert np.array_equal(ids.offsets, expected.offsets)
    assert np.array_equal(ids.values, expected.values)
    other = reader._reference_words(texts)
    assert np.array_equal(words.offsets, other.offsets)
    assert np.array_equal(words.values, other.values)


def made_up_texts(count, seed) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randrange(30))) for _ in range(count)]


def counted_by_reference(texts) -> Counter:
    return Counter(token for text in texts for token in WordTokenizer().tokens(text))


@pytest.mark.parametrize("seed", range(4))
def test_words_are_counted(seed):
    texts = made_up_texts(3000, seed)  # several chunks, and texts that are left to the reference
    assert word_ids.count_tokens(WordTokenizer(), texts) == counted_by_reference(texts)


def test_many_different_words_are_counted():
    draw = random.Random(0)
    words = ["".join(draw.choices("abcde\xe9", k=draw.randrange(1, 9))) for _ in range(40_000)]  # tables grow often
    texts = [" ".join(words[start : start + 37]) for start in range(0, len(words), 37)]
    counts, left_out = native.count_words([texts[:500], [], texts[500:]])
    assert not left_out
    assert counts == counted_by_reference(texts)
    assert list(counts) == list(dict.fromkeys(words))


def test_no_words_are_counted():
    assert native.count_words([]) == ({}, [])
    assert native.count_words([["", " ,.", "&amp;"]]) == ({}, ["&amp;"])
    assert word_ids.count_tokens(WordTokenizer(), ["", "&amp;"]) == Counter()


@pytest.mark.parametrize("tokenizer", [WordTokenizer(False), CharacterTokenizer()])
def test_other_tokens_are_counted_by_the_reference(tokenizer):
    texts = ["A b, a!", "It wasn't"]
    assert word_ids.count_tokens(tokenizer, texts) == Counter(t for text in texts for t in tokenizer.tokens(text))


@pytest.mark.parametrize("seed", range(4))
def test_made_up_texts(seed):
    texts = made_up_texts(3000, seed)
    assert_equal(reader_of(texts), texts)
    # most pieces that the library leaves to the reference are drawn seldom enough that it does read many texts
    plain = [text for text in texts if text.isascii() and "<" not in text and "&" not in text]
    handled = native.encode_words(plain, reader_of(plain)._made())[2]
    assert handled.all()
    assert len(plain) > 100


@given(st.lists(st.text(), max_size=8))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text(texts):
    assert_equal(reader_of(texts), texts)


@given(st.lists(st.text(alphabet="no'tdN’:-)(/\\<3>&;br 7.,/10=!?_^|*é"), max_size=6))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_of_signs(texts):
    assert_equal(reader_of(texts), texts)


def test_every_code_point_alone_and_inside_a_word():
    texts = [f"ab{chr(code)}cd {chr(code)} {chr(code).upper()}x" for code in range(0x3000)]
    assert_equal(reader_of(texts), texts)


@pytest.mark.parametrize("keep", ["head", "tail", "both"])
@pytest.mark.parametrize("max_length", [1, 4, 7])
def test_long_texts_are_shortened(max_length, keep):
    texts = [*some_texts(150), "", "one", "\u4e2d " * 30]
    assert_equal(reader_of(texts, max_length, keep), texts)


def test_texts_are_read_in_chunks(monkeypatch):
    monkeypatch.setattr(word_ids, "_CHUNK_TEXTS", 7)
    texts = made_up_texts(100, 9)
    assert_equal(reader_of(texts), texts)
    assert_equal(reader_of(texts), [])


def test_the_library_is_used_once_it_pays(monkeypatch):
    texts = some_texts(200)
    reader = reader_of(texts)
    reader._texts_read = 0
    calls = []
    encode = native.encode_words
    monkeypatch.setattr(word_ids.native, "encode_words", lambda *given: calls.append(1) or encode(*given))
    reader.read(texts[:20])
    assert not calls
    reader.read(texts)
    assert calls


def test_what_is_no_text_is_refused():
    reader = reader_of(["a"])
    with pytest.raises(UsageError, match=r"texts\[1\] is int"):
        reader.read(["a", 3])
    with pytest.raises(UsageError, match="Put it in a list"):
        reader.read("a text")


def test_copies_make_their_own_tables():
    texts = some_texts(80)
    reader = reader_of(texts)
    reader.read(texts)
    for other in (copy.deepcopy(reader), pickle.loads(pickle.dumps(reader))):
        other._texts_read = 10**6
        assert_equal(other, texts)


@pytest.mark.parametrize("seed", range(3))
def test_margins_have_the_same_bits(seed, monkeypatch):
    monkeypatch.setattr(ngram_linear, "ROWS_WORTH_TABLES", 10**9)
    model = joined_model(some_texts(300))
    linear = model.joined.linear
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, 60, 400)
    words = Ragged.of([generator.integers(-1, len(linear.words), size) for size in sizes])
    reference = linear.margins_of_numbers(words)
    monkeypatch.setattr(ngram_linear, "ROWS_WORTH_TABLES", 0)
    assert np.array_equal(linear.margins_of_numbers(words), reference)
    assert linear._native is not None
    spelled = [["\0" if number < 0 else linear.words[number] for number in words[row]] for row in range(len(words))]
    assert np.array_equal(linear.margins(spelled), reference)


@pytest.mark.parametrize("words", [9, 3_000, 100_000])  # features of one, two and three bytes
def test_long_texts_with_many_n_grams_have_the_same_bits(words, monkeypatch):
    """Word pairs made up at random, half of them in the texts; hundreds of n-grams in a text, some many times."""
    generator = np.random.default_rng(words)
    texts = [generator.integers(-1, words, size) % generator.integers(2, words + 1) for size in (0, 1, 47, 300, 900)]
    pairs = np.concatenate([text[:-1] * words + text[1:] for text in texts if len(text) > 1])
    pairs = np.union1d(pairs[::2], generator.integers(0, words**2, 60))
    index = NgramIndex.from_arrays([f"w{number}" for number in range(words)], [pairs])
    features = words + len(pairs)
    heads = tuple(
        LinearHead(2, generator.normal(size=(3, features)).astype(np.float32), generator.normal(size=3), frequencies)
        for frequencies in (None, generator.uniform(1, 9, features))
    )
    numbers = Ragged.of(texts)
    monkeypatch.setattr(ngram_linear, "ROWS_WORTH_TABLES", 10**9)
    reference = NgramLinear(index, heads).margins_of_numbers(numbers)
    monkeypatch.setattr(ngram_linear, "ROWS_WORTH_TABLES", 0)
    assert np.array_equal(NgramLinear(index, heads).margins_of_numbers(numbers), reference)


def test_two_vocabularies_in_one_table():
    """Words of both, of either and of neither; long words, and words that begin alike."""
    words = ["a", "ab", "abc", "abcd", "abcde", "abcdefgh", "abcdefghi", "x" * 70_000, "x" * 70_001]
    first, second = words[::2], words[1:6]
    table = native.WordIds([(first, np.arange(5, 5 + len(first))), (second, np.arange(len(second)))], (0, -1))
    texts = [*words, "b", "abcdefg", "x" * 69_999, "ab abc"]
    ids, offsets, handled = native.encode_words(texts, table)
    tokens = [word for text in texts for word in text.split()]
    assert handled.all()
    assert offsets.tolist() == [*range(len(texts)), len(texts) + 1]
    assert ids[0].tolist() == [5 + first.index(word) if word in first else 0 for word in tokens]
    assert ids[1].tolist() == [second.index(word) if word in second else -1 for word in tokens]
    with pytest.raises(ShapeError, match="as many ids"):
        native.WordIds([(first, np.arange(2))], (0,))
    with pytest.raises(ShapeError, match="one or two vocabularies"):
        native.WordIds([], ())


def test_linear_models_of_weight_zero_are_left_out():
    whole = joined_model(some_texts(300))
    joined = whole.joined
    texts = some_texts(50, seed=9)
    for weights in ((0.0, 0.7), (0.7, 0.0)):
        given = JoinedLinear(joined.linear, dataclasses.replace(joined.joining, linear=weights))
        fewer = given.without_unused()
        assert len(fewer.linear.heads) == len(fewer.joining.linear) == 1
        assert fewer.linear.index.max_order == fewer.linear.heads[0].order
        before, after = (dataclasses.replace(whole, joined=one).predict_proba(texts) for one in (given, fewer))
        assert np.array_equal(before, after)
    assert joined.without_unused() is joined
    none = JoinedLinear(joined.linear, dataclasses.replace(joined.joining, linear=(0.0, 0.0)))
    assert none.without_unused() is none


def test_a_word_that_comes_very_often_is_left_to_the_reference(monkeypatch):
    monkeypatch.setattr(ngram_linear, "ROWS_WORTH_TABLES", 0)
    linear = joined_model().joined.linear
    words = Ragged.of([[3] * (native.MAX_COUNT + 5), [1, 2]])
    assert linear.margins_of_numbers(words).shape == (2, 1, 2)
    names = [[linear.words[3]] * (native.MAX_COUNT + 5), [linear.words[1], linear.words[2]]]
    assert np.array_equal(linear.margins_of_numbers(words), linear.margins(names))


def test_a_model_answers_alike_with_and_without_the_library(monkeypatch):
    texts = [*some_texts(300, seed=5), *made_up_texts(300, 3)]
    monkeypatch.setattr(word_ids, "_TEXTS_WORTH_TABLES", 0)
    monkeypatch.setattr(ngram_linear, "ROWS_WORTH_TABLES", 0)
    fast = joined_model().predict_proba(texts)
    monkeypatch.setattr(native, "missing", lambda: "taken away by the test")
    assert np.array_equal(joined_model().predict_proba(texts), fast)


@pytest.mark.data
def test_reviews():
    folder = os.environ.get("BILSTM_DATA")
    if folder is None:
        pytest.skip("BILSTM_DATA does not name the folder of the real data sets")
    with gzip.open(Path(folder) / "imdb" / "train.csv.gz", "rt", encoding="utf-8", newline="") as file:
        texts = [row["review"] for row in csv.DictReader(file)][::8]
    reader = reader_of(texts)
    assert_equal(reader, texts)
    handled = native.encode_words(texts, reader._tables)[2]
    assert handled.mean() > 0.9
