"""Split texts into tokens: words, characters or byte pairs; each token knows where it stands in the original text.

Step `encode` of the way of the data: `Records -> tokens -> ids`. A tokenizer is a small frozen object that is written
into the model folder and read back through a closed schema. Imports the standard library; `BytePairTokenizer` needs the
extra `text` (Hugging Face tokenizers), imported when it is trained or loaded.

Speed: a text is prepared by whole-string operations and its words are found by one compiled expression; 12,000 to
18,000 film reviews (240 tokens each) a second on one core, ids included. What makes results equal, should a native
tokenizer replace this: the steps of `_prepare` in their order, then the expression for ASCII or for other texts; both
agree on ASCII.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, islice
from typing import Any, Literal, Protocol
from unicodedata import category

from bilstm.errors import MissingExtraError, ModelFolderError

__all__ = [
    "BytePairTokenizer",
    "CharacterTokenizer",
    "KerasTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "tokenizer_for",
    "tokenizer_from_config",
]


class Tokenizer(Protocol):
    """What every tokenizer can do."""

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text in their order."""
        ...

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of each token in the original text, in characters."""
        ...

    def tokens_of(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the tokens of each text."""
        ...

    def to_config(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        ...


# --- preparing a text: the same length-changing steps for tokens (fast) and for spans (with positions) ----------------

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_BREAK = re.compile("<br />")
# Only tags that mark up prose: "<3" and "a <b and c> d" must stay.
_TAG = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|br|center|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|img|li|ol|p|pre|q|s|small|span|strike"
    r"|strong|sub|sup|table|tbody|td|th|tr|tt|u|ul)"
    r"(?:\s+[a-z-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))*\s*/?>",
    re.IGNORECASE,
)
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'", "\uff07": "'"})
# Scripts written without spaces whose characters are close to words: Han, Hiragana, Katakana.
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_NOT = re.compile("n't", re.IGNORECASE)


def _unescaped(match: re.Match[str]) -> str:
    return html.unescape(match.group())


def _blank(match: re.Match[str]) -> str:
    return " "


def _spaced(match: re.Match[str]) -> str:
    return f" {match.group()} "


def _detached(match: re.Match[str]) -> str:
    return " " + match.group()


def _prepare(text: str, is_lowercased: bool) -> str:
    """Undo HTML, join apostrophes, set `n't` and unspaced scripts apart; lower letters if asked.

    `_prepare_with_positions` does the same steps slowly; a test holds the two equal.
    """
    if "&" in text:
        text = _ENTITY.sub(_unescaped, text)
    if "<" in text:
        text = text.replace("<br />", " ")
        if "<" in text:
            text = _TAG.sub(_blank, text)
    if is_lowercased:
        text = text.lower()
    if not text.isascii():
        text = _UNSPACED.sub(_spaced, text.translate(_APOSTROPHES))
    if is_lowercased:
        return text.replace("n't", " n't")
    return _NOT.sub(_detached, text)


def _prepare_with_positions(text: str, is_lowercased: bool) -> tuple[str, list[int], list[int]]:
    """Prepare a text; return also, for each of its characters, start and end of what it stands for in the original."""
    starts, ends = list(range(len(text))), list(range(1, len(text) + 1))
    for expression, replacement in ((_ENTITY, _unescaped), (_BREAK, _blank), (_TAG, _blank)):
        text, starts, ends = _substituted(text, starts, ends, expression, replacement)
    if is_lowercased:
        text, starts, ends = _lowered(text, starts, ends)
    text = text.translate(_APOSTROPHES)
    for expression, replacement in ((_UNSPACED, _spaced), (_NOT, _detached)):
        text, starts, ends = _substituted(text, starts, ends, expression, replacement)
    return text, starts, ends


def _lowered(text: str, starts: list[int], ends: list[int]) -> tuple[str, list[int], list[int]]:
    lowered = text.lower()  # of the whole text: the form of a Greek sigma depends on its neighbours
    if len(lowered) != len(text):  # the one letter that becomes two characters is the dotted capital I
        repeats = [len(character.lower()) for character in text]
        starts = [start for start, repeat in zip(starts, repeats, strict=True) for _ in range(repeat)]
        ends = [end for end, repeat in zip(ends, repeats, strict=True) for _ in range(repeat)]
    return lowered, starts, ends


def _substituted(
    text: str,
    starts: list[int],
    ends: list[int],
    expression: re.Pattern[str],
    replacement: Callable[[re.Match[str]], str],
) -> tuple[str, list[int], list[int]]:
    """Substitute as `re.sub` does; kept characters of a match stand for themselves, new ones for the whole match."""
    pieces: list[str] = []
    new_starts: list[int] = []
    new_ends: list[int] = []
    position = 0
    for match in expression.finditer(text):
        begin, end = match.span()
        pieces += [text[position:begin], new := replacement(match)]
        new_starts += starts[position:begin]
        new_ends += ends[position:begin]
        kept = new.find(match.group())
        for index in range(len(new)):
            if kept == -1:
                new_starts.append(starts[begin])
                new_ends.append(ends[end - 1])
            else:  # what is put around a kept match stands for its first or last character
                old = min(max(begin + index - kept, begin), end - 1)
                new_starts.append(starts[old])
                new_ends.append(ends[old])
        position = end
    pieces.append(text[position:])
    return "".join(pieces), new_starts + starts[position:], new_ends + ends[position:]


# --- words ------------------------------------------------------------------------------------------------------------


@cache
def _word_expression(is_ascii: bool, is_lowercased: bool) -> re.Pattern[str]:
    """Build the expression that finds tokens in a prepared text; for ASCII the same without what cannot occur."""
    if is_ascii:
        letter, word, emoji = "[a-z0-9]", "[a-z0-9]+", []
    else:
        # `\w` lacks combining marks (vowels of many scripts); joiners stand inside Persian and Indic words
        letter, word = r"[^\W_]", rf"(?:[^\W_]+[{_combining_marks()}\u200c\u200d]*)+"
        symbols = "\u231a-\u23ff\u25aa-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b55\u3030\u303d\u3297\u3299"
        base = f"[{symbols}\U0001f000-\U0001faff]"
        modifiers = "[\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
        emoji = ["[\U0001f1e6-\U0001f1ff]{2}", f"{base}{modifiers}(?:\u200d{base}{modifiers})*"]
    alternatives = [
        f"n't(?!{letter})",
        rf"[0-9]+(?:[.,/][0-9]+)+(?!{letter})",  # 3.5, 1,000 and the 7/10 that says all
        word,
        f"'(?:s|re|ve|ll|d|m)(?!{letter})",
        "[!?]",
        rf"[:;=][-^o']?(?:\)+|\(+|[\]\[|\\*]|/(?!/)|[dpo](?!{letter}))",  # :-) ;( =D :'(
        r"</?3(?![0-9])",
        r"\^_+\^|-_+-",
        *emoji,
    ]
    return re.compile("|".join(alternatives), 0 if is_lowercased else re.IGNORECASE)


def _combining_marks() -> str:
    """Return all combining marks as the inside of a character class (this takes some 20 ms, hence on first need)."""
    marks = [code for code in chain(range(0x300, 0x1F000), range(0xE0100, 0xE01F0)) if category(chr(code))[0] == "M"]
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@dataclass(frozen=True)
class WordTokenizer:
    """Words and the signs that carry feeling.

    Tokens are words of any script, numbers (`7/10` is one), `n't` and other clitics apart (`do n't`, `it 's`), each `!`
    and `?`, emoticons and emoji. Other punctuation and HTML are left out; HTML entities are what they stand for.

    Parameters
    ----------
    lowercase : bool, default=True

    Examples
    --------
    >>> WordTokenizer().tokens("It wasn't bad<br />at all! 9/10 :-)")
    ['it', 'was', "n't", 'bad', 'at', 'all', '!', '9/10', ':-)']
    """

    lowercase: bool = True

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text in their order."""
        prepared = _prepare(text, self.lowercase)
        return _word_expression(prepared.isascii(), self.lowercase).findall(prepared)

    def tokens_of(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the tokens of each text."""
        is_lowercased = self.lowercase
        in_ascii = _word_expression(True, is_lowercased).findall
        for text in texts:
            prepared = _prepare(text, is_lowercased)
            yield in_ascii(prepared) if prepared.isascii() else _word_expression(False, is_lowercased).findall(prepared)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of each token in the original text, in characters."""
        prepared, starts, ends = _prepare_with_positions(text, self.lowercase)
        matches = _word_expression(prepared.isascii(), self.lowercase).finditer(prepared)
        return [(starts[match.start()], ends[match.end() - 1]) for match in matches]

    def to_config(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {"kind": "words", "lowercase": self.lowercase}


# --- characters -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CharacterTokenizer:
    """Every character (code point) is a token, spaces and signs too; nothing is left out.

    Parameters
    ----------
    lowercase : bool, default=True
    """

    lowercase: bool = True

    def tokens(self, text: str) -> list[str]:
        """Return the characters of a text."""
        return list(text.lower() if self.lowercase else text)

    def tokens_of(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the characters of each text."""
        return map(self.tokens, texts)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of each token in the original text, in characters."""
        starts, ends = list(range(len(text))), list(range(1, len(text) + 1))
        if self.lowercase:
            _, starts, ends = _lowered(text, starts, ends)
        return list(zip(starts, ends, strict=True))

    def to_config(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {"kind": "characters", "lowercase": self.lowercase}


# --- byte pairs -------------------------------------------------------------------------------------------------------

_WORD_END = "</w>"
_UNKNOWN_PIECE = "<unk>"


@dataclass(frozen=True)
class BytePairTokenizer:
    """Frequent words whole, rare words in pieces (byte-pair encoding, Sennrich et al. 2016), inside the words of
    `WordTokenizer`.

    Parameters
    ----------
    pieces : tuple of str
        All pieces; one that ends a word ends in `</w>`.
    merges : tuple of (str, str)
        Pairs of pieces that are joined, the first learned first.
    lowercase : bool, default=True

    References
    ----------
    .. [1] Sennrich, Haddow, Birch, Neural Machine Translation of Rare Words with Subword Units, ACL 2016, section 3.2.
    """  # noqa: D205

    pieces: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    lowercase: bool = True

    @classmethod
    def train(cls, texts: Iterable[str], size: int = 8000, lowercase: bool = True) -> BytePairTokenizer:
        """Learn at most `size` pieces from texts (of the training part).

        Raises
        ------
        MissingExtraError
            Hugging Face tokenizers is not installed.
        """
        library = _hugging_face()
        native = library.Tokenizer(library.models.BPE(unk_token=_UNKNOWN_PIECE, end_of_word_suffix=_WORD_END))
        native.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
        joined = [" ".join(tokens) for tokens in WordTokenizer(lowercase).tokens_of(texts)]
        # The library numbers pieces that end a word in the random order of its hash table, and equal counts are decided
        # by these numbers. Given beforehand they are always the same, and so is the result.
        last_characters = {text[at - 1] for text in joined for at in _word_ends(text)}
        fixed = [_UNKNOWN_PIECE, *(character + _WORD_END for character in sorted(last_characters))]
        trainer = library.trainers.BpeTrainer(
            vocab_size=size, show_progress=False, special_tokens=fixed, end_of_word_suffix=_WORD_END
        )
        native.train_from_iterator(joined, trainer)
        model = json.loads(native.to_str())["model"]
        pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
        return cls(tuple(pieces), tuple((first, second) for first, second in model["merges"]), lowercase)

    @cached_property
    def _native(self) -> Any:
        library = _hugging_face()
        ids = {piece: number for number, piece in enumerate(self.pieces)}
        model = library.models.BPE(
            vocab=ids, merges=list(self.merges), unk_token=_UNKNOWN_PIECE, end_of_word_suffix=_WORD_END
        )
        native = library.Tokenizer(model)
        native.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
        return native

    def tokens(self, text: str) -> list[str]:
        """Return the pieces of a text in their order."""
        return self._native.encode(" ".join(WordTokenizer(self.lowercase).tokens(text))).tokens

    def tokens_of(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the pieces of each text."""
        joined = map(" ".join, WordTokenizer(self.lowercase).tokens_of(texts))
        while block := list(islice(joined, 1000)):
            for encoding in self._native.encode_batch(block):
                yield encoding.tokens

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of each piece in the original text, in characters."""
        prepared, starts, ends = _prepare_with_positions(text, self.lowercase)
        matches = list(_word_expression(prepared.isascii(), self.lowercase).finditer(prepared))
        joined = " ".join(match.group() for match in matches)
        # position in the joined words -> position in the prepared text; the space after each word stands for its end
        position_of = [position for match in matches for position in range(match.start(), match.end() + 1)]
        spans = [(position_of[begin], position_of[end - 1]) for begin, end in self._native.encode(joined).offsets]
        return [(starts[first], ends[last]) for first, last in spans]

    def to_config(self) -> dict[str, Any]:
        """Write as plain JSON values; only the tables are stored, the rest of the tokenizer is fixed."""
        merges = [list(pair) for pair in self.merges]
        return {"kind": "byte_pairs", "lowercase": self.lowercase, "pieces": list(self.pieces), "merges": merges}


def _word_ends(joined: str) -> list[int]:
    """Return the position after each word of words joined by single spaces."""
    return [match.end() for match in re.finditer(r"[^ ]+", joined)]


def _hugging_face() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError(
            "Byte-pair tokens need Hugging Face tokenizers.", "Install it: pip install 'bilstm[text]'"
        ) from error
    return tokenizers


# --- as Keras does it -------------------------------------------------------------------------------------------------

_KERAS_PUNCTUATION = str.maketrans("", "", "!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'")
_KERAS_LOWER = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})
_KERAS_WORD = re.compile("[^ \\t\\n\\v\\f\\r]+")


@dataclass(frozen=True)
class KerasTokenizer:
    """Words as `keras.layers.TextVectorization` finds them: for models that come from there.

    Parameters
    ----------
    standardize : {"lower_and_strip_punctuation", "lower", "strip_punctuation", "none"}
        Capital letters of ASCII become small; signs of ASCII vanish and join what stood around them.
    """

    standardize: str = "lower_and_strip_punctuation"

    def tokens(self, text: str) -> list[str]:
        """Return the words of a text in their order."""
        if self.standardize in ("lower", "lower_and_strip_punctuation"):
            text = text.translate(_KERAS_LOWER)
        if self.standardize in ("strip_punctuation", "lower_and_strip_punctuation"):
            text = text.translate(_KERAS_PUNCTUATION)
        return _KERAS_WORD.findall(text)

    def tokens_of(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the words of each text."""
        return map(self.tokens, texts)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of each word in the original text, in characters; of signs alone there is none."""
        is_bare = self.standardize in ("lower", "none")
        spans = [match.span() for match in _KERAS_WORD.finditer(text)]
        return [span for span in spans if is_bare or text[slice(*span)].translate(_KERAS_PUNCTUATION)]

    def to_config(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {"kind": "keras", "standardize": self.standardize}


# --- reading back -----------------------------------------------------------------------------------------------------


def tokenizer_for(
    kind: Literal["words", "characters", "byte-pairs"], texts: Sequence[str], vocabulary_size: int, lowercase: bool
) -> Tokenizer:
    """Return the tokenizer that settings name; one of byte pairs is learned from the texts."""
    if kind == "words":
        return WordTokenizer(lowercase)
    if kind == "characters":
        return CharacterTokenizer(lowercase)
    return BytePairTokenizer.train(texts, vocabulary_size, lowercase)


def tokenizer_from_config(config: Any) -> Tokenizer:
    """Read a tokenizer from JSON values; the schema is closed.

    Raises
    ------
    ModelFolderError
        For an unknown kind, an unknown or missing key, or a value of the wrong type.
    """
    keys = {
        "words": {"lowercase"},
        "characters": {"lowercase"},
        "byte_pairs": {"lowercase", "pieces", "merges"},
        "keras": {"standardize"},
    }
    kind = config.get("kind") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in keys:
        raise ModelFolderError(f"tokenizer: unknown kind {kind!r}; known are {', '.join(keys)}.")
    if differing := sorted(config.keys() ^ (keys[kind] | {"kind"}), key=str):
        raise ModelFolderError(f"tokenizer ({kind}): key {differing[0]!r} is missing or unknown.")
    if kind == "keras":
        known = ("lower_and_strip_punctuation", "lower", "strip_punctuation", "none")
        if config["standardize"] not in known:
            raise ModelFolderError(f"tokenizer (keras): standardize must be one of {', '.join(known)}.")
        return KerasTokenizer(config["standardize"])
    lowercase = config["lowercase"]
    if not isinstance(lowercase, bool):
        raise ModelFolderError(f"tokenizer ({kind}): lowercase must be true or false, found {lowercase!r}.")
    if kind == "words":
        return WordTokenizer(lowercase)
    if kind == "characters":
        return CharacterTokenizer(lowercase)
    return BytePairTokenizer(*_checked_tables(config["pieces"], config["merges"]), lowercase)


def _checked_tables(pieces: Any, merges: Any) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise ModelFolderError("tokenizer (byte_pairs): pieces must be a list of texts.")
    known = set(pieces)
    if len(known) != len(pieces) or _UNKNOWN_PIECE not in known:
        raise ModelFolderError(f"tokenizer (byte_pairs): pieces must be different and hold {_UNKNOWN_PIECE!r}.")
    if not isinstance(merges, list):
        raise ModelFolderError("tokenizer (byte_pairs): merges must be a list of pairs.")
    for number, pair in enumerate(merges):
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(isinstance(piece, str) for piece in pair)
        if not is_pair or not known.issuperset((pair[0], pair[1], pair[0] + pair[1])):
            raise ModelFolderError(
                f"tokenizer (byte_pairs): merges[{number}] is not a pair of pieces that join to one."
            )
    return tuple(pieces), tuple((first, second) for first, second in merges)
