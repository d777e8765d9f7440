"""Tokenizers: what is kept, where it stands, and that the fast way and the way with positions agree."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bilstm.data.tokenizers import (
    BytePairTokenizer,
    CharacterTokenizer,
    WordTokenizer,
    _prepare,
    _prepare_with_positions,
    _word_expression,
    tokenizer_from_config,
)
from bilstm.errors import MissingExtraError, ModelFolderError

WORDS = WordTokenizer()
# pieces that meet the special rules of preparation, among any characters
PIECES = st.sampled_from(
    [
        "<br />",
        "<br",
        "<b>",
        "</i>",
        "<3",
        "&amp;",
        "&quot;",
        "&#39;",
        "&lt;br /&gt;",
        "&",
        ";",
        "n't",
        "N'T",
        "n\u2019t",
        "'s",
        "İ",
        *("Σ", "ΑΣ ", "我", "ー", "é", "e\u0301", "\u200d", "👍🏽", "7/10", "3.", ":-)", " ", "!", "don", "_", "1"),
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It wasn't BAD!!", ["it", "was", "n't", "bad", "!", "!"]),
        ("don\u2019t won't can't Ain't", ["do", "n't", "wo", "n't", "ca", "n't", "ai", "n't"]),
        (
            "I've it's we're you'll he'd I'm film's",
            ["i", "'ve", "it", "'s", "we", "'re", *("you", "'ll", "he", "'d", "i", "'m", "film", "'s")],
        ),
        ("one<br /><br />two<BR/>three <i>four</i> <a href='x'>five</a>", ["one", "two", "three", "four", "five"]),
        ("if a <b and c> d, then x < y", ["if", "a", "b", "and", "c", "d", "then", "x", "y"]),
        ("&quot;Good&quot; &amp; don&#39;t AT&T &bogus; x &#x41;", ["good", "do", "n't", "at", "t", "bogus", "x", "a"]),
        ("&lt;br /&gt;", []),
        ("7/10, 3.5 and 1,000. 8/10? 10/10!", ["7/10", "3.5", "and", "1,000", "8/10", "?", "10/10", "!"]),
        ("in 1980's, the 80s: v2.0a", ["in", "1980", "'s", "the", "80s", "v2", "0a"]),
        (":-) :) ;-( =D :'( <3 :P ^_^ -_-", [":-)", ":)", ";-(", "=d", ":'(", "<3", ":p", "^_^", "-_-"]),
        ("http://a.b note:please 3:30 f(x)", ["http", "a", "b", "note", "please", "3", "30", "f", "x"]),
        ("well-made, _very_ 'quoted' snake_case", ["well", "made", "very", "quoted", "snake", "case"]),
        ("naïve cafe\u0301 Ärger", ["naïve", "cafe\u0301", "ärger"]),
        ("שָׁלוֹם עולם مرحبا بالعالم", ["שָׁלוֹם", "עולם", "مرحبا", "بالعالم"]),
        ("हिन्दी में می‌خواهم", ["हिन्दी", "में", "می‌خواهم"]),
        ("我喜欢 カタ", ["我", "喜", "欢", "カ", "タ"]),
        ("ok👍🏽👨‍👩‍👧🇩🇪🇫🇷 ❤️!", ["ok", "👍🏽", "👨‍👩‍👧", "🇩🇪", "🇫🇷", "❤️", "!"]),
        ("ΑΣ ΟΔΥΣΣΕΥΣ", ["ας", "οδυσσευς"]),
        ("", []),
        (" .,;- ()\"' ", []),
    ],
)
def test_words(text, tokens):
    assert WORDS.tokens(text) == tokens
    assert list(WORDS.tokens_of([text])) == [tokens]


def test_case_may_be_kept():
    assert WordTokenizer(lowercase=False).tokens("DON'T it's OK :D") == ["DO", "N'T", "it", "'s", "OK", ":D"]


@settings(max_examples=500, deadline=None)
@given(TEXTS, st.booleans())
@example("<b<br />r />", True)
@example("İn't", True)
def test_preparing_with_positions_is_preparing(text, is_lowercased):
    prepared, starts, ends = _prepare_with_positions(text, is_lowercased)
    assert prepared == _prepare(text, is_lowercased)
    assert len(starts) == len(ends) == len(prepared)
    assert all(0 <= start < end <= len(text) for start, end in zip(starts, ends, strict=True))
    assert starts == sorted(starts)
    assert ends == sorted(ends)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.booleans())
def test_spans_belong_to_tokens(text, lowercase):
    tokenizer = WordTokenizer(lowercase)
    tokens, spans = tokenizer.tokens(text), tokenizer.spans(text)
    assert len(tokens) == len(spans)
    assert all(first[1] <= second[0] or first == second for first, second in pairwise(spans))
    if "&" not in text:  # an entity stands for another text
        for token, (start, end) in zip(tokens, spans, strict=True):
            written = text[start:end].replace("\u2019", "'").replace("\u02bc", "'").replace("\uff07", "'")
            assert (written.lower() if lowercase else written).replace("ς", "σ") == token.replace("ς", "σ")


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=40) | TEXTS.filter(str.isascii), st.booleans())
def test_both_expressions_agree_on_ascii(text, is_lowercased):
    prepared = _prepare(text, is_lowercased)
    if prepared.isascii():
        in_ascii = _word_expression(True, is_lowercased).findall(prepared)
        assert in_ascii == _word_expression(False, is_lowercased).findall(prepared)


def test_spans_point_into_the_original():
    text = "It wasn&#39;t &quot;bad&quot;<br />İstanbul 我!"
    assert [text[start:end] for start, end in WORDS.spans(text)] == [
        "It",
        "was",
        "n&#39;t",
        "bad",
        "İstanbul",
        "我",
        "!",
    ]


def test_characters():
    tokenizer = CharacterTokenizer()
    assert tokenizer.tokens("Aé <b>") == ["a", "é", " ", "<", "b", ">"]
    text = "xİy"
    assert tokenizer.tokens(text) == ["x", "i", "\u0307", "y"]
    assert tokenizer.spans(text) == [(0, 1), (1, 2), (1, 2), (2, 3)]
    assert CharacterTokenizer(lowercase=False).tokens("Ab") == ["A", "b"]
    assert list(tokenizer.tokens_of(["ab", ""])) == [["a", "b"], []]


@pytest.fixture(scope="module")
def byte_pairs():
    pytest.importorskip("tokenizers")
    return BytePairTokenizer.train(["the lower the newest", "lower widest newest", "don't lower it!"] * 20, size=60)


def test_byte_pairs(byte_pairs):
    assert byte_pairs.tokens("The lower") == ["the</w>", "lower</w>"]
    pieces = byte_pairs.tokens("lowest")
    assert len(pieces) > 1
    assert "".join(pieces) == "lowest</w>"
    assert byte_pairs.tokens("q") == ["<unk>"]
    assert byte_pairs.tokens("") == []


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.one_of(TEXTS, st.sampled_from(["lower lowest", "isn't it new!"])), max_size=3))
def test_byte_pairs_cover_the_words(byte_pairs, texts):
    assert list(byte_pairs.tokens_of(texts)) == [byte_pairs.tokens(text) for text in texts]
    for text in texts:
        spans = byte_pairs.spans(text)
        assert len(spans) == len(byte_pairs.tokens(text))
        words = WORDS.spans(text)
        assert {start for start, _ in words} <= {start for start, _ in spans}
        assert {end for _, end in words} <= {end for _, end in spans}


def test_training_twice_gives_the_same(byte_pairs):
    texts = [f"word{n % 7} other{n % 5} thing" for n in range(60)]
    assert BytePairTokenizer.train(texts, 50) == BytePairTokenizer.train(texts, 50)


def test_byte_pairs_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bilstm\[text\]'"):
        BytePairTokenizer.train(["a b"])


def test_config_round_trip(byte_pairs):
    for tokenizer in (WORDS, WordTokenizer(False), CharacterTokenizer(), byte_pairs):
        read = tokenizer_from_config(json.loads(json.dumps(tokenizer.to_config())))
        assert read == tokenizer
        assert read.tokens("The lowest, isn't it!") == tokenizer.tokens("The lowest, isn't it!")


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        {},
        {"kind": "os.system"},
        {"kind": ["words"]},
        {"kind": "words"},
        {"kind": "words", "lowercase": 1},
        {"kind": "words", "lowercase": True, "extra": 1},
        {"kind": "byte_pairs", "lowercase": True, "pieces": ["<unk>", "a"]},
        {"kind": "byte_pairs", "lowercase": True, "pieces": "<unk>", "merges": []},
        {"kind": "byte_pairs", "lowercase": True, "pieces": ["a"], "merges": []},
        {"kind": "byte_pairs", "lowercase": True, "pieces": ["<unk>", "a", "a"], "merges": []},
        {"kind": "byte_pairs", "lowercase": True, "pieces": ["<unk>", "a", "b"], "merges": [["a", "b"]]},
        {"kind": "byte_pairs", "lowercase": True, "pieces": ["<unk>", "a"], "merges": [["a"]]},
        {"kind": "byte_pairs", "lowercase": True, "pieces": ["<unk>", "a"], "merges": {}},
    ],
)
def test_the_schema_is_closed(config):
    with pytest.raises(ModelFolderError, match="tokenizer"):
        tokenizer_from_config(config)
