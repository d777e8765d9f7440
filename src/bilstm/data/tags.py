"""Tag schemes: how spans are written as one tag a token, and read back.

Between `read` and `encode` of sequence labelling. A tag is `O` or a letter, a hyphen and a type (`B-LOC`). Schemes
differ in which letter stands where (Ramshaw and Marcus 1995; Sang and Veenstra 1999; Ratinov and Roth 2009):

| scheme | span of one token | span of three | two spans of one type side by side |
|---|---|---|---|
| IOB1  | I | I I I | I B |
| IOB2  | B | B I I | B B |
| IOBES | S | B I E | S S |

BILOU (`L` and `U`) and BMES (`M`) are IOBES with other letters. One function, `may_follow`, says which tag may stand
after which; validation and the forbidden transitions of the CRF both come from it. Imports numpy and `errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np

from bilstm.errors import DataError

__all__ = [
    "AllowedTags",
    "IllegalTag",
    "Scheme",
    "SchemeFinding",
    "Span",
    "allowed_tags",
    "convert_tags",
    "detect_scheme",
    "illegal_tags",
    "may_follow",
    "spans_to_tags",
    "split_tag",
    "tags_to_spans",
]

Scheme = Literal["IOB1", "IOB2", "IOBES", "BILOU", "BMES", "none"]

# Letters that differ from IOBES. `W` of some BMES files is a single token.
_TO_IOBES = {"L": "E", "U": "S", "M": "I", "W": "S"}
_FROM_IOBES = {"BILOU": {"E": "L", "S": "U"}, "BMES": {"I": "M"}}
_LETTERS = {"IOB1": "IB", "IOB2": "IB", "IOBES": "IBES", "BILOU": "IBLU", "BMES": "BMESW"}
_NO_TYPE = "_"


class Span(NamedTuple):
    """Tokens `begin` to `end` (excluded) that belong together, and their type."""

    begin: int
    end: int
    type: str


@lru_cache(maxsize=65536)
def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into its letter, as one of B I E S O, and its type.

    Examples
    --------
    >>> split_tag("B-LOC"), split_tag("L-PER"), split_tag("O"), split_tag("I")
    (('B', 'LOC'), ('E', 'PER'), ('O', ''), ('I', '_'))
    """
    if tag == "O":
        return "O", ""
    letter, _, kind = tag.partition("-")
    return _TO_IOBES.get(letter, letter), kind or _NO_TYPE


def _is_span_tag(tag: str) -> bool:
    letter, hyphen, kind = tag.partition("-")
    return tag == "O" or (len(letter) == 1 and letter in "BIESLUMW" and (bool(kind) or not hyphen))


def tags_to_spans(tags: Sequence[str]) -> list[Span]:
    """Read the spans of one sentence in any scheme, as the CoNLL-2000 evaluation does; illegal tags are read leniently.

    Parameters
    ----------
    tags : sequence of str

    Returns
    -------
    list of Span
        From left to right.

    Notes
    -----
    A span begins at B or S, and at I or E that do not continue a span of the same type; it ends after E or S, before
    B, S or O, and where the type changes (Sang and Buchholz 2000, `conlleval`; the same as seqeval's default mode).

    Examples
    --------
    >>> tags_to_spans(["B-PER", "I-PER", "O", "I-LOC"])
    [Span(begin=0, end=2, type='PER'), Span(begin=3, end=4, type='LOC')]
    """
    spans: list[Span] = []
    begin, before, before_type = 0, "O", ""
    for place, tag in enumerate(tags):
        letter, kind = split_tag(tag)
        is_new = letter in ("B", "S") or before in ("O", "E", "S") or kind != before_type
        if before != "O" and (is_new or letter == "O"):
            spans.append(Span(begin, place, before_type))
        if letter != "O" and is_new:
            begin = place
        before, before_type = letter, kind
    if before != "O":
        spans.append(Span(begin, len(tags), before_type))
    return spans


def spans_to_tags(spans: Iterable[Span], length: int, scheme: Scheme) -> list[str]:
    """Write spans as the tags of a sentence of `length` tokens.

    Parameters
    ----------
    spans : iterable of Span
        In any order, not overlapping.
    length : int
    scheme : {"IOB1", "IOB2", "IOBES", "BILOU", "BMES"}

    Raises
    ------
    DataError
        For a span outside the sentence, or over another one.

    Examples
    --------
    >>> spans_to_tags([Span(0, 2, "PER"), Span(2, 3, "PER")], 4, "IOBES")
    ['B-PER', 'E-PER', 'S-PER', 'O']
    >>> spans_to_tags([Span(0, 2, "PER"), Span(2, 3, "PER")], 4, "IOB1")
    ['I-PER', 'I-PER', 'B-PER', 'O']
    """
    tags = ["O"] * length
    last: Span | None = None
    for span in sorted(spans):
        if not 0 <= span.begin < span.end <= length:
            raise DataError(f"Span {span.begin}-{span.end} {span.type!r} is not inside a sentence of {length} tokens.")
        if last is not None and span.begin < last.end:
            raise DataError(f"Spans {last.type!r} and {span.type!r} overlap at token {span.begin}.")
        touches = last is not None and last.end == span.begin and last.type == span.type
        ending = "" if span.type == _NO_TYPE else f"-{span.type}"
        for place, letter in enumerate(_letters_of(span.end - span.begin, scheme, touches), start=span.begin):
            tags[place] = letter + ending
        last = span
    return tags


def _letters_of(size: int, scheme: Scheme, touches_same: bool) -> str:
    """Letters of one span; `touches_same`: a span of the same type ends right before it."""
    if scheme == "IOB1":
        return ("B" if touches_same else "I") + "I" * (size - 1)
    if scheme == "IOB2":
        return "B" + "I" * (size - 1)
    letters = "S" if size == 1 else "B" + "I" * (size - 2) + "E"
    return "".join(_FROM_IOBES.get(scheme, {}).get(letter, letter) for letter in letters)


def convert_tags(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Write the tags of one sentence, in whatever scheme, in another; spans stay what they are.

    Examples
    --------
    >>> convert_tags(["I-PER", "I-PER", "B-PER"], "IOBES")
    ['B-PER', 'E-PER', 'S-PER']
    """
    return list(tags) if scheme == "none" else spans_to_tags(tags_to_spans(tags), len(tags), scheme)


@lru_cache(maxsize=1 << 18)
def may_follow(before: str | None, tag: str | None, scheme: Scheme) -> bool:
    """Say whether `tag` may stand after `before`; None is the border of the sentence.

    Examples
    --------
    >>> may_follow("O", "I-LOC", "IOB2"), may_follow("B-LOC", "I-LOC", "IOB2"), may_follow("B-LOC", None, "IOBES")
    (False, True, False)
    """
    if scheme == "none":
        return True
    letter_before, type_before = split_tag(before) if before is not None else ("O", "")
    letter, kind = split_tag(tag) if tag is not None else ("O", "")
    same = kind == type_before
    if scheme in ("IOB1", "IOB2"):
        if letter in ("E", "S") or letter_before in ("E", "S"):
            return False
        needs_same = "I" if scheme == "IOB2" else "B"
        return letter != needs_same or (letter_before in ("B", "I") and same)
    if letter_before in ("B", "I"):
        return letter in ("I", "E") and same
    return letter in ("O", "B", "S")


class IllegalTag(NamedTuple):
    """A tag that may not stand where it stands: `sentence` and `token` count from 0, `token` may be the end."""

    sentence: int
    token: int
    before: str | None
    tag: str | None

    def __str__(self) -> str:
        if self.tag is None:
            return f"{self.before} at the end of a sentence"
        return f"{self.tag} at the start of a sentence" if self.before is None else f"{self.tag} after {self.before}"


def illegal_tags(sentences: Iterable[Sequence[str]], scheme: Scheme) -> list[IllegalTag]:
    """List every place where the tags break the scheme, in order."""
    found = []
    for number, tags in enumerate(sentences):
        before: str | None = None
        for place, tag in enumerate(tags):
            if not may_follow(before, tag, scheme):
                found.append(IllegalTag(number, place, before, tag))
            before = tag
        if tags and not may_follow(before, None, scheme):
            found.append(IllegalTag(number, len(tags) - 1, before, None))
    return found


@dataclass(frozen=True)
class SchemeFinding:
    """The scheme that a file is written in, and where it breaks it.

    Parameters
    ----------
    scheme : Scheme
        "none" for tags that do not write spans, such as parts of speech.
    illegal : list of IllegalTag
    """

    scheme: Scheme
    illegal: list[IllegalTag]

    def note(self, where: Callable[[int, int], str], shown: int = 5) -> str | None:
        """Say how many illegal tags there are and where the first stand; None if there are none.

        Parameters
        ----------
        where : callable of (sentence, token)
            Gives `file:line`.
        shown : int
            Places named.
        """
        if not self.illegal:
            return None
        places = "; ".join(f"{where(tag.sentence, tag.token)} {tag}" for tag in self.illegal[:shown])
        more = f"; and {len(self.illegal) - shown} more" if len(self.illegal) > shown else ""
        return (
            f"{len(self.illegal)} tags break the scheme {self.scheme}: {places}{more}. "
            "They were read as the CoNLL evaluation reads them."
        )


def detect_scheme(
    sentences: Sequence[Sequence[str]], where: Callable[[int, int], str], scheme: Scheme | None = None
) -> SchemeFinding:
    """Find the scheme of tags: the one that they break least often.

    Parameters
    ----------
    sentences : sequence of tag sequences
    where : callable of (sentence, token)
        Gives `file:line`, for messages.
    scheme : Scheme, optional
        Take this one, and only look where it is broken.

    Raises
    ------
    DataError
        If some tags write spans and others do not (`PER` beside `B-LOC`, or `0` beside `O`); the message names the
        first. `scheme="none"` reads such tags as plain classes.
    """
    kinds = {tag for tags in sentences for tag in tags}
    span_tags = {tag for tag in kinds if _is_span_tag(tag)}
    has_spans = any("-" in tag for tag in span_tags) or (kinds <= {"B", "I", "E", "S", "O"} and len(kinds) > 1)
    if scheme == "none" or (scheme is None and not has_spans):
        return SchemeFinding("none", [])
    if kinds - span_tags:
        _refuse_odd_tag(sentences, kinds - span_tags, where)
    if scheme is not None:
        return SchemeFinding(scheme, illegal_tags(sentences, scheme))
    letters = {tag.partition("-")[0] for tag in kinds} - {"O"}
    fitting: list[Scheme] = [name for name in get_args(Scheme) if name != "none" and letters <= set(_LETTERS[name])]
    # IOB2 first: where several schemes are never broken (no two spans touch, none has ...), it is the usual one.
    order: list[Scheme] = ["IOB2", "IOB1", "IOBES", "BILOU", "BMES"]
    fitting = [name for name in order if name in fitting] or ["IOBES"]
    findings = [SchemeFinding(name, illegal_tags(sentences, name)) for name in fitting]
    return min(findings, key=lambda finding: len(finding.illegal))


def _refuse_odd_tag(sentences: Sequence[Sequence[str]], odd: set[str], where: Callable[[int, int], str]) -> None:
    for number, tags in enumerate(sentences):
        for place, tag in enumerate(tags):
            if tag in odd:
                raise DataError(
                    f"{where(number, place)}: tag {tag!r} is neither O nor a letter and a type (B-LOC), as others are.",
                    "Correct it, or read all tags as plain classes with --scheme none.",
                )


class AllowedTags(NamedTuple):
    """Which tags may stand where, as masks for a CRF: bool, shapes (tags, tags), (tags,), (tags,)."""

    transitions: np.ndarray
    start: np.ndarray
    end: np.ndarray


def allowed_tags(names: Sequence[str], scheme: Scheme) -> AllowedTags:
    """Make the masks of allowed transitions, starts and ends for a list of tags.

    Parameters
    ----------
    names : sequence of str
        Tag of each index.
    scheme : Scheme
    """
    pairs = [[may_follow(before, tag, scheme) for tag in names] for before in names]
    return AllowedTags(
        np.array(pairs, dtype=bool).reshape(len(names), len(names)),
        np.array([may_follow(None, tag, scheme) for tag in names], dtype=bool),
        np.array([may_follow(tag, None, scheme) for tag in names], dtype=bool),
    )
