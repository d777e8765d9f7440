"""Numbers for the words of tagged sentences: word ids, characters, and traits such as casing, endings and shape.

Step `encode` of the way of the data for tagging: `tokens -> WordBatch`. What depends on a word alone (its characters
and traits) is stored once per different word and computed once per batch and word, not once per step. Imports numpy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import Vocabulary
from bilstm.errors import DataError, ModelFolderError, UsageError

__all__ = ["TRAITS", "EncodedWords", "WordBatch", "WordEncoder", "shape_of", "traits_of", "word_key"]

AFFIX_LENGTHS = (1, 2, 3, 4)
# In this order in `WordBatch.traits`.
TRAITS = ("case", "shape", *(f"prefix-{n}" for n in AFFIX_LENGTHS), *(f"suffix-{n}" for n in AFFIX_LENGTHS))
_DIGIT = re.compile(r"\d")


def word_key(word: str) -> str:
    """Form under which a word is looked up: lower case, every digit a zero (Collobert et al. 2011, section 3.2).

    Examples
    --------
    >>> word_key("Boeing747")
    'boeing000'
    """
    return _DIGIT.sub("0", word.lower())


def case_of(word: str) -> str:
    """How a word is written: `lower`, `UPPER`, `Title`, `miXed`, `digits`, `some digits`, `uncased` or `symbols`."""
    if word.isdigit():
        return "digits"
    if any(character.isdigit() for character in word):
        return "some digits"
    if word.islower():
        return "lower"
    if word.isupper():
        return "UPPER"
    if word[:1].isupper():
        return "Title"
    if any(character.isupper() for character in word):
        return "miXed"
    return "uncased" if any(character.isalpha() for character in word) else "symbols"


def shape_of(word: str) -> str:
    """Write letters as X or x and digits as d, and runs of more than two of a kind as two.

    Examples
    --------
    >>> shape_of("McDonald's"), shape_of("1,000.50"), shape_of("iPhone12")
    ("XxXxx'x", 'd,dd.dd', 'xXxxdd')
    """
    kinds = ("X" if c.isupper() else "x" if c.islower() else "d" if c.isdigit() else c for c in word)
    return "".join("".join(list(run)[:2]) for _, run in groupby(kinds))


def traits_of(word: str) -> list[str]:
    """Traits of a word, in the order of `TRAITS`; affixes are lower-cased, those of a shorter word are the word.

    Examples
    --------
    >>> traits_of("Rome")
    ['Title', 'Xxx', 'r', 'ro', 'rom', 'rome', 'e', 'me', 'ome', 'rome']
    """
    lower = word.lower()
    prefixes = [lower[:length] for length in AFFIX_LENGTHS]
    return [case_of(word), shape_of(word), *prefixes, *(lower[-length:] for length in AFFIX_LENGTHS)]


@dataclass(frozen=True, eq=False)
class WordBatch:
    """Encoded sentences, ready for a model.

    Parameters
    ----------
    words : Ragged of int64, values of shape (steps,)
        Word ids.
    place : ndarray of shape (steps,), int64
        Which different word of the batch stands at each step.
    characters : Ragged of int64
        Character ids of each different word.
    traits : ndarray of shape (different words, traits), int64
        Rows of one table that holds all traits' entries one after another.
    """

    words: Ragged
    place: np.ndarray
    characters: Ragged
    traits: np.ndarray

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, eq=False)
class EncodedWords:
    """Encoded sentences of a whole data set, from which batches are taken.

    Parameters
    ----------
    types : Ragged of int64
        Which different word stands at each step.
    word_ids : ndarray of shape (different words,)
    characters : Ragged
    traits : ndarray of shape (different words, traits)
    """

    types: Ragged
    word_ids: np.ndarray
    characters: Ragged
    traits: np.ndarray

    def __len__(self) -> int:
        return len(self.types)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each sentence."""
        return self.types.lengths

    @property
    def words(self) -> Ragged:
        """Word ids of all sentences."""
        return self.types.with_values(self.word_ids[self.types.values])

    def batch(self, rows: Sequence[int] | np.ndarray) -> WordBatch:
        """Take some sentences."""
        chosen = self.types.select(rows)
        different, place = np.unique(chosen.values, return_inverse=True)
        words = chosen.with_values(self.word_ids[chosen.values])
        return WordBatch(words, place.reshape(-1), self.characters.select(different), self.traits[different])


@dataclass(frozen=True)
class WordEncoder:
    """From tokens to ids, built from the training part alone.

    Parameters
    ----------
    words : Vocabulary
        Of `word_key` forms; id 0 is the unknown word.
    characters : Vocabulary
    traits : tuple of Vocabulary
        One for each of `TRAITS`.
    max_characters : int
        Of a longer word the first and last characters are read, half of each.
    """

    words: Vocabulary
    characters: Vocabulary
    traits: tuple[Vocabulary, ...]
    max_characters: int = 40

    def __post_init__(self) -> None:
        if len(self.traits) != len(TRAITS):
            raise UsageError(f"a word encoder needs {len(TRAITS)} trait vocabularies, got {len(self.traits)}.")
        if self.max_characters < 1:
            raise UsageError(f"max_characters must be at least 1, got {self.max_characters}.")

    @classmethod
    def build(
        cls,
        sentences: Sequence[Sequence[str]],
        *,
        max_size: int | None = None,
        min_count: int = 2,
        trait_min_count: int = 3,
        extra_words: Iterable[Sequence[str]] = (),
        max_characters: int = 40,
    ) -> WordEncoder:
        """Build the vocabularies.

        Parameters
        ----------
        sentences : sequence of token lists
        max_size : int, optional
            Most words.
        min_count, trait_min_count : int
            Rarer words and traits are unknown.
        extra_words : iterable of token lists
            Unlabelled sentences whose words are known too.

        Raises
        ------
        DataError
            If there are no tokens.
        """
        if not any(sentences):
            raise DataError("the sentences hold no token.")

        def keys() -> Iterator[list[str]]:
            for tokens in (*sentences, *extra_words):
                yield [word_key(token) for token in tokens]

        words = Vocabulary.build(keys(), max_size, min_count)
        tokens = [token for sentence in sentences for token in sentence]
        known = {token: traits_of(token) for token in set(tokens)}
        traits = tuple(
            Vocabulary.build([[known[token][at] for token in tokens]], min_count=trait_min_count)
            for at in range(len(TRAITS))
        )
        return cls(words, Vocabulary.build(tokens), traits, max_characters)

    @property
    def trait_rows(self) -> int:
        """Rows of the one table that holds the entries of all traits."""
        return sum(len(vocabulary) for vocabulary in self.traits)

    def encode(self, sentences: Sequence[Sequence[str]]) -> EncodedWords:
        """Encode sentences; a sentence may have no tokens."""
        number: dict[str, int] = {}
        types = Ragged.of([[number.setdefault(token, len(number)) for token in tokens] for tokens in sentences])
        word_ids = np.array(self.words.encode(word_key(word) for word in number), dtype=np.int64)
        characters = Ragged.of([self.characters.encode(self._shortened(word)) for word in number])
        starts = np.cumsum([0, *(len(vocabulary) for vocabulary in self.traits)])[:-1]
        rows = [
            [vocabulary.id_of.get(trait, 0) for vocabulary, trait in zip(self.traits, traits_of(word), strict=True)]
            for word in number
        ]
        traits = np.array(rows, dtype=np.int64).reshape(len(number), len(TRAITS)) + starts
        return EncodedWords(types, word_ids, characters, traits)

    def is_known(self, word: str) -> bool:
        """Whether a word has an id of its own."""
        return word_key(word) in self.words.id_of

    def _shortened(self, word: str) -> str:
        if len(word) <= self.max_characters:
            return word
        head = (self.max_characters + 1) // 2
        return word[:head] + word[len(word) - (self.max_characters - head) :]

    def to_json(self) -> str:
        """Write as the text of a UTF-8 JSON file."""
        config = {
            "kind": "words",
            "words": list(self.words.tokens),
            "characters": list(self.characters.tokens),
            "traits": [list(vocabulary.tokens) for vocabulary in self.traits],
            "max_characters": self.max_characters,
        }
        return json.dumps(config, ensure_ascii=False, indent=0)

    @classmethod
    def from_json(cls, text: str) -> WordEncoder:
        """Read what `to_json` wrote; the schema is closed.

        Raises
        ------
        ModelFolderError
            For anything else.
        """
        try:
            config = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ModelFolderError(f"vocabulary: not valid JSON ({error}).") from error
        keys = {"kind", "words", "characters", "traits", "max_characters"}
        if not isinstance(config, dict) or config.keys() != keys or config["kind"] != "words":
            raise ModelFolderError(f"vocabulary: expected the keys {', '.join(sorted(keys))} of kind 'words'.")
        traits, most = config["traits"], config["max_characters"]
        if not isinstance(traits, list) or not isinstance(most, int) or isinstance(most, bool):
            raise ModelFolderError("vocabulary: traits must be lists and max_characters a number.")
        try:
            return cls(
                _vocabulary(config["words"]), _vocabulary(config["characters"]), tuple(map(_vocabulary, traits)), most
            )
        except UsageError as error:
            raise ModelFolderError(f"vocabulary: {error.message}") from error


def _vocabulary(tokens: Any) -> Vocabulary:
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ModelFolderError("vocabulary: entries must be texts.")
    return Vocabulary(tuple(tokens))
