"""Numbers for tokens: the vocabulary of the training part, and the encoder from texts to `Ragged` ids.

Step `encode` of the way of the data: `texts -> tokens -> ids`. Id 0 is the unknown token; there is no padding, so no id
for it. Imports numpy.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, get_args

import numpy as np

from bilstm.data.ragged import Keep, Ragged, shortened
from bilstm.data.tokenizers import Tokenizer, WordTokenizer, tokenizer_from_config
from bilstm.errors import DataError, ModelFolderError, UsageError

__all__ = [
    "UNKNOWN_ID",
    "UNKNOWN_TOKEN",
    "IdEncoder",
    "TextEncoder",
    "Vocabulary",
    "checked_texts",
    "encoder_from_config",
    "rows_without_known_tokens",
    "unknown_share",
]

UNKNOWN_ID = 0
UNKNOWN_TOKEN = "<unknown>"


@dataclass(frozen=True)
class Vocabulary:
    """Known tokens, the most frequent first; `tokens[0]` stands for all others.

    Parameters
    ----------
    tokens : tuple of str
        All different; the first is "<unknown>".

    Examples
    --------
    >>> Vocabulary.build([["b", "a"], ["b"]]).tokens
    ('<unknown>', 'b', 'a')
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.tokens or self.tokens[0] != UNKNOWN_TOKEN:
            raise UsageError(f"the first token of a vocabulary must be {UNKNOWN_TOKEN!r}.")
        if len(self.id_of) != len(self.tokens):
            twice = Counter(self.tokens).most_common(1)[0][0]
            raise UsageError(f"the token {twice!r} stands twice in the vocabulary.")

    @classmethod
    def build(cls, token_lists: Iterable[Iterable[str]], max_size: int | None = None, min_count: int = 1) -> Vocabulary:
        """Count tokens and keep the most frequent; equal counts in the order of their characters, so always the same.

        Parameters
        ----------
        token_lists : iterable of iterables of str
            The training part, nothing else. Read once.
        max_size : int, optional
            Most entries, the unknown one included. None: no limit.
        min_count : int
            Tokens that are rarer are unknown.
        """
        counts: Counter[str] = Counter()
        for tokens in token_lists:
            counts.update(tokens)
        return cls.of_counts(counts, max_size, min_count)

    @classmethod
    def of_counts(cls, counts: Mapping[str, int], max_size: int | None = None, min_count: int = 1) -> Vocabulary:
        """Do the same from how often each token occurs."""
        if (max_size is not None and max_size < 1) or min_count < 1:
            raise UsageError(f"max_size and min_count must be at least 1, got {max_size} and {min_count}.")
        kept = sorted(
            (-count, token) for token, count in counts.items() if count >= min_count and token != UNKNOWN_TOKEN
        )
        last = None if max_size is None else max_size - 1
        return cls((UNKNOWN_TOKEN, *(token for _, token in kept[:last])))

    @cached_property
    def id_of(self) -> dict[str, int]:
        """Id of each token."""
        return {token: number for number, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the id of each token, 0 for unknown ones."""
        return list(map(self.id_of.get, tokens, repeat(UNKNOWN_ID)))


@dataclass(frozen=True)
class TextEncoder:
    """From texts to ids: tokenizer, vocabulary and the longest length.

    Parameters
    ----------
    tokenizer : Tokenizer
    vocabulary : Vocabulary
    max_length : int, optional
        Most tokens a text keeps. None: all.
    keep : {"head", "tail", "both"}
        Which tokens a longer text keeps: the first, the last, or half of each (one more at the head if odd).
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    max_length: int | None = None
    keep: Keep = "head"

    def __post_init__(self) -> None:
        _check_length(self.max_length, self.keep)

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        tokenizer: Tokenizer | None = None,
        *,
        max_size: int | None = None,
        min_count: int = 1,
        max_length: int | None = None,
        keep: Keep = "head",
    ) -> TextEncoder:
        """Build the vocabulary of `texts` (the training part alone); `tokenizer` None means words.

        Raises
        ------
        DataError
            If the texts hold no token at all.
        """
        tokenizer = WordTokenizer() if tokenizer is None else tokenizer
        counts: Counter[str] = Counter()
        for tokens in tokenizer.tokens_of(checked_texts(texts)):
            counts.update(tokens)
        return cls.of_counts(
            counts, tokenizer, max_size=max_size, min_count=min_count, max_length=max_length, keep=keep
        )

    @classmethod
    def of_counts(
        cls,
        counts: Mapping[str, int],
        tokenizer: Tokenizer,
        *,
        max_size: int | None = None,
        min_count: int = 1,
        max_length: int | None = None,
        keep: Keep = "head",
    ) -> TextEncoder:
        """Do the same from how often each token occurs in the texts."""
        vocabulary = Vocabulary.of_counts(counts, max_size, min_count)
        if len(vocabulary) == 1 and max_size != 1:
            raise DataError(
                f"the texts hold no word that occurs at least {min_count} times.", "Is the text column the right one?"
            )
        return cls(tokenizer, vocabulary, max_length, keep)

    def encode(self, texts: Iterable[str]) -> Ragged:
        """Return the ids of all texts, values int64 of shape (total_tokens,).

        An empty text has no steps; a text of unknown words only has zeros.
        """
        id_of = self.vocabulary.id_of.get
        values = array("q")
        lengths = array("q")
        for tokens in self.tokenizer.tokens_of(checked_texts(texts)):
            if self.max_length is not None and len(tokens) > self.max_length:
                tokens = _shortened(tokens, self.max_length, self.keep)
            values.extend(map(id_of, tokens, repeat(UNKNOWN_ID)))
            lengths.append(len(tokens))
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(np.frombuffer(lengths, dtype=np.int64) if lengths else [], out=offsets[1:])
        return Ragged(np.array(values, dtype=np.int64), offsets)

    def tokens(self, text: str) -> list[str]:
        """Return the tokens that `encode` keeps of a text."""
        return self._kept(self.tokenizer.tokens(text))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where the kept tokens stand in the original text, (start, end) in characters."""
        return self._kept(self.tokenizer.spans(text))

    def _kept(self, items: list[Any]) -> list[Any]:
        if self.max_length is None or len(items) <= self.max_length:
            return items
        return _shortened(items, self.max_length, self.keep)

    def to_config(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {
            "kind": "text",
            "tokenizer": self.tokenizer.to_config(),
            "tokens": list(self.vocabulary.tokens),
            "max_length": self.max_length,
            "keep": self.keep,
        }

    def to_json(self) -> str:
        """Write as the text of a UTF-8 JSON file."""
        return json.dumps(self.to_config(), ensure_ascii=False, indent=0)


@dataclass(frozen=True)
class IdEncoder:
    """For inputs that are word ids already (Keras' form): ids outside the vocabulary become unknown, lengths are cut.

    Parameters
    ----------
    vocabulary_size : int
        Ids from 0 to `vocabulary_size - 1` are known.
    max_length, keep
        As in `TextEncoder`.
    """

    vocabulary_size: int
    max_length: int | None = None
    keep: Keep = "head"

    def __post_init__(self) -> None:
        if self.vocabulary_size < 1:
            raise UsageError(f"vocabulary_size must be at least 1, got {self.vocabulary_size}.")
        _check_length(self.max_length, self.keep)

    def encode(self, ids: Ragged) -> Ragged:
        """Return the ids that a model of this vocabulary knows, others 0."""
        if self.max_length is not None:
            ids = shortened(ids, self.max_length, self.keep)
        is_known = (ids.values >= 0) & (ids.values < self.vocabulary_size)
        return ids.with_values(np.where(is_known, ids.values, UNKNOWN_ID))

    def to_config(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {
            "kind": "ids",
            "vocabulary_size": self.vocabulary_size,
            "max_length": self.max_length,
            "keep": self.keep,
        }

    def to_json(self) -> str:
        """Write as the text of a UTF-8 JSON file."""
        return json.dumps(self.to_config())


def encoder_from_config(config: Any) -> TextEncoder | IdEncoder:
    """Read an encoder from JSON values (of `to_config`) or from the text of its JSON file; the schema is closed.

    Raises
    ------
    ModelFolderError
        For anything that `to_config` does not write.
    """
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ModelFolderError(f"vocabulary: not valid JSON ({error}).") from error
    keys = {
        "text": {"kind", "tokenizer", "tokens", "max_length", "keep"},
        "ids": {"kind", "vocabulary_size", "max_length", "keep"},
    }
    kind = config.get("kind") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in keys:
        raise ModelFolderError(f"vocabulary: unknown kind {kind!r}; known are {', '.join(keys)}.")
    if differing := sorted(config.keys() ^ keys[kind]):
        raise ModelFolderError(f"vocabulary: key {differing[0]!r} is missing or unknown.")
    try:
        if kind == "ids":
            if not _is_count(config["vocabulary_size"]):
                raise ModelFolderError("vocabulary: vocabulary_size must be a whole number of at least 1.")
            return IdEncoder(config["vocabulary_size"], config["max_length"], config["keep"])
        tokens = config["tokens"]
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ModelFolderError("vocabulary: tokens must be a list of texts.")
        tokenizer = tokenizer_from_config(config["tokenizer"])
        return TextEncoder(tokenizer, Vocabulary(tuple(tokens)), config["max_length"], config["keep"])
    except UsageError as error:
        raise ModelFolderError(f"vocabulary: {error.message}") from error


def _check_length(max_length: Any, keep: Any) -> None:
    if max_length is not None and not _is_count(max_length):
        raise UsageError(f"max_length must be None or a whole number of at least 1, got {max_length!r}.")
    if keep not in get_args(Keep):
        raise UsageError(f"keep must be one of {', '.join(get_args(Keep))}, got {keep!r}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _shortened(items: list[Any], max_length: int, keep: Keep) -> list[Any]:
    """Keep `max_length` items of a longer list."""
    if keep == "head":
        return items[:max_length]
    if keep == "tail":
        return items[-max_length:]
    head = (max_length + 1) // 2
    return [*items[:head], *items[len(items) - (max_length - head) :]]


def checked_texts(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts; raise UsageError for a single string or an entry that is no text."""
    if isinstance(texts, str):
        raise UsageError("expected a list of texts, got one text.", "Put it in a list: [text].")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"texts[{number}] is {type(text).__name__}, not a text.")
        yield text


def unknown_share(ids: Ragged) -> float:
    """Return the share of tokens that are unknown (0.0 for no tokens)."""
    return float(np.mean(ids.values == UNKNOWN_ID)) if len(ids.values) else 0.0


def rows_without_known_tokens(ids: Ragged) -> Sequence[int]:
    """Return the rows in which every token is unknown, or that have none."""
    known = np.concatenate([[0], np.cumsum(ids.values != UNKNOWN_ID)])
    return np.flatnonzero(known[ids.offsets[1:]] == known[ids.offsets[:-1]]).tolist()
