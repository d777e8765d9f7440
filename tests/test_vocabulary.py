"""Vocabulary and encoders: counted by hand, and equal to the plain way of looking up one token after another."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm.data.ragged import Ragged
from bilstm.data.tokenizers import CharacterTokenizer, WordTokenizer
from bilstm.data.vocabulary import (
    IdEncoder,
    TextEncoder,
    Vocabulary,
    encoder_from_config,
    rows_without_known_tokens,
    unknown_share,
)
from bilstm.errors import DataError, ModelFolderError, UsageError

TOKENS = st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=8), max_size=8)


@given(TOKENS, st.integers(1, 12), st.integers(1, 4))
def test_the_most_frequent_tokens_are_kept(token_lists, max_size, min_count):
    vocabulary = Vocabulary.build(token_lists, max_size, min_count)
    counts = Counter(token for tokens in token_lists for token in tokens)
    assert len(vocabulary) <= max_size
    kept = vocabulary.tokens[1:]
    assert all(counts[token] >= min_count for token in kept)
    order = [(-counts[token], token) for token in kept]
    assert order == sorted(order)
    left_out = [(-counts[token], token) for token in counts if token not in kept and counts[token] >= min_count]
    assert not left_out or (len(vocabulary) == max_size and min(left_out) > max(order, default=(-(10**9), "")))


@given(TOKENS, st.randoms())
def test_the_order_of_the_texts_does_not_matter(token_lists, random):
    shuffled = list(token_lists)
    random.shuffle(shuffled)
    assert Vocabulary.build(shuffled) == Vocabulary.build(token_lists)


def test_vocabulary_errors():
    with pytest.raises(UsageError, match="at least 1"):
        Vocabulary.build([["a"]], max_size=0)
    with pytest.raises(UsageError, match="'a' stands twice"):
        Vocabulary(("<unknown>", "a", "a"))
    with pytest.raises(UsageError, match="first token"):
        Vocabulary(("a",))
    assert Vocabulary.build([["<unknown>", "a"]]).tokens == ("<unknown>", "a")
    assert Vocabulary.build([["a", "b"]]).encode(["b", "c", "a"]) == [2, 0, 1]


def encoder(**options):
    return TextEncoder.build(["b a a c", "a b"], WordTokenizer(), **options)


def test_encoding_by_hand():
    ids = encoder().encode(["a b c", "", "A zzz", "?"])
    assert ids.values.tolist() == [1, 2, 3, 1, 0, 0]
    assert ids.offsets.tolist() == [0, 3, 3, 5, 6]
    assert ids.values.dtype == ids.offsets.dtype == np.int64
    assert unknown_share(ids) == pytest.approx(2 / 6)
    assert rows_without_known_tokens(ids) == [1, 3]
    empty = encoder().encode([])
    assert (len(empty), empty.values.shape, unknown_share(empty)) == (0, (0,), 0.0)


@pytest.mark.parametrize(
    ("keep", "expected"), [("head", ["a", "b", "c"]), ("tail", ["c", "d", "e"]), ("both", ["a", "b", "e"])]
)
def test_longer_texts_are_shortened(keep, expected):
    text = "a b c d e"
    shortening = TextEncoder.build([text], max_length=3, keep=keep)
    assert shortening.tokens(text) == expected
    assert [text[start:end] for start, end in shortening.spans(text)] == expected
    assert shortening.encode([text, "d e"]).values.tolist() == [*map("?abcde".index, expected), 4, 5]
    ids = IdEncoder(6, max_length=3, keep=keep).encode(Ragged.of([[1, 2, 3, 4, 5], [4]]))
    assert ids.values.tolist() == [*map("?abcde".index, expected), 4]
    assert ids.offsets.tolist() == [0, 3, 4]


@given(
    st.lists(st.text("abcdxyz .!", max_size=20), max_size=6),
    st.none() | st.integers(1, 6),
    st.sampled_from(["head", "tail", "both"]),
)
def test_encoding_many_is_encoding_each(texts, max_length, keep):
    shortening = TextEncoder.build(["a b c d"], CharacterTokenizer(), max_length=max_length, keep=keep)
    batch = shortening.encode(texts)
    for row, text in enumerate(texts):
        plain = [shortening.vocabulary.id_of.get(token, 0) for token in shortening.tokens(text)]
        assert batch[row].tolist() == plain
        assert max_length is None or len(plain) == min(len(text), max_length)


def test_unknown_ids_become_zero():
    ids = IdEncoder(3).encode(Ragged.of([[0, 1, 2, 3], [], [99]]))
    assert ids.values.tolist() == [0, 1, 2, 0, 0]


def test_wrong_texts():
    with pytest.raises(UsageError, match="a list of texts, got one text"):
        encoder().encode("a b")
    with pytest.raises(UsageError, match=r"texts\[1\] is float"):
        encoder().encode(["a", float("nan")])
    with pytest.raises(DataError, match="hold no word"):
        TextEncoder.build(["", ".,"])
    with pytest.raises(UsageError, match="max_length"):
        encoder(max_length=0)
    with pytest.raises(UsageError, match="keep"):
        encoder(keep="middle")


def test_config_round_trip():
    for original in (encoder(), encoder(max_length=7, keep="both"), IdEncoder(9, 3, "tail")):
        assert encoder_from_config(json.loads(json.dumps(original.to_config()))) == original
        assert encoder_from_config(original.to_json()) == original
    text = TextEncoder.build(["naïve 我 👍"]).to_json()
    assert "我" in text  # readable UTF-8, not escapes


def broken(**changes):
    config = encoder().to_config() | changes
    return {key: value for key, value in config.items() if value != "leave out"}


@pytest.mark.parametrize(
    "config",
    [
        None,
        "{",
        "[" * 100_000,
        {"kind": "other"},
        broken(keep="leave out"),
        broken(more=1),
        broken(tokens=["<unknown>", 3]),
        broken(tokens=["a"]),
        broken(tokens=["<unknown>", "a", "a"]),
        broken(tokens="<unknown>"),
        broken(max_length=0),
        broken(max_length=True),
        broken(max_length="3"),
        broken(keep="all"),
        broken(tokenizer={"kind": "words"}),
        {"kind": "ids", "vocabulary_size": 0, "max_length": None, "keep": "head"},
        {"kind": "ids", "vocabulary_size": 2.5, "max_length": None, "keep": "head"},
    ],
    ids=lambda config: str(config)[:40],
)
def test_the_schema_is_closed(config):
    with pytest.raises(ModelFolderError):
        encoder_from_config(config)
