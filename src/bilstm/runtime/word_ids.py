"""From texts to the ids of a model, natively where that is possible: one pass for the network and the n-gram models.

Place in the way of the data: `texts -> ids`. The reference is `TextEncoder.encode` and `NgramIndex.occurrences`; what
the native library does not handle (see `csrc/bilstm_words.h`) goes there, text by text, and both give the same ids.
Imports numpy, `data`, `engine`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged, shortened
from bilstm.data.tokenizers import Tokenizer, WordTokenizer
from bilstm.data.vocabulary import UNKNOWN_ID, IdEncoder, TextEncoder, checked_texts
from bilstm.engine import words as native

__all__ = ["WordReader", "count_tokens", "encode_texts"]

# Tables for the library take as long to make as this many texts take to read without them, so that a single answer on
# the command line is not delayed.
_TEXTS_WORTH_TABLES = 64
_CHUNK_TEXTS = 512


class WordReader:
    """Reads texts for one model.

    Parameters
    ----------
    encoder : TextEncoder
    ngram_words : sequence of str, optional
        Words of the n-gram models beside the network, in the order of their numbers.
    """

    def __init__(self, encoder: TextEncoder, ngram_words: Sequence[str] | None = None):
        self._encoder = encoder
        self._words = ngram_words
        self._number_of: dict[str, int] | None = None
        self._texts_read = 0
        self._tables: native.WordIds | None = None
        self.is_possible = encoder.tokenizer == WordTokenizer(True) and native.missing() is None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy by what it was made of: tables of the library belong to one process."""
        return WordReader, (self._encoder, self._words)

    def read(self, texts: Sequence[str]) -> tuple[Ragged, Ragged | None]:
        """Return the ids of the network, and the numbers of the words of the n-gram models (-1: none) if it has some.

        Raises
        ------
        UsageError
            If an entry is no text.
        """
        texts = list(checked_texts(texts))
        self._texts_read += len(texts)
        if not self.is_possible or self._texts_read < _TEXTS_WORTH_TABLES:
            return self._encoder.encode(texts), self._reference_words(texts)
        if self._tables is None:
            self._tables = self._made()
        parts = [
            self._read_natively(texts[start : start + _CHUNK_TEXTS]) for start in range(0, len(texts), _CHUNK_TEXTS)
        ]
        if len(parts) == 1:
            return parts[0]
        ids = _joined([part[0] for part in parts])
        return ids, None if self._words is None else _joined([part[1] for part in parts])

    def _made(self) -> native.WordIds:
        tokens = self._encoder.vocabulary.tokens
        vocabularies: list[tuple[Sequence[str], np.ndarray]] = [(tokens[1:], np.arange(1, len(tokens)))]
        if self._words is not None:
            vocabularies.append((self._words, np.arange(len(self._words))))
        return native.WordIds(vocabularies, (UNKNOWN_ID, -1)[: len(vocabularies)])

    def _reference_words(self, texts: Sequence[str]) -> Ragged | None:
        if self._words is None:
            return None
        if self._number_of is None:
            self._number_of = {word: number for number, word in enumerate(self._words)}
        find = self._number_of.get
        return Ragged.of([[find(word, -1) for word in words] for words in WordTokenizer().tokens_of(texts)])

    def _read_natively(self, texts: Sequence[str]) -> tuple[Ragged, Any]:
        assert self._tables is not None
        found, offsets, handled = native.encode_words(texts, self._tables)
        batches = [Ragged(ids, offsets) for ids in found]
        if not handled.all():
            left_out = np.flatnonzero(~handled)
            rest = [texts[row] for row in left_out.tolist()]
            batches[0] = _filled(batches[0], left_out, self._encoder.encode(rest))
            if len(batches) > 1:
                batches[1] = _filled(batches[1], left_out, self._reference_words(rest))
        most = self._encoder.max_length
        if most is not None and bool((batches[0].lengths > most).any()):
            batches[0] = shortened(batches[0], most, self._encoder.keep)
        return batches[0], batches[1] if len(batches) > 1 else None


def encode_texts(encoder: TextEncoder | IdEncoder, texts: Sequence[str] | Ragged) -> Ragged:
    """Return what `encoder.encode` returns, values int64, read natively where that is possible.

    For many texts at once; who answers text by text keeps a `WordReader`.
    """
    if isinstance(encoder, IdEncoder) or isinstance(texts, Ragged):
        return encoder.encode(texts)  # type: ignore[arg-type]
    return WordReader(encoder).read(texts)[0]


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Counter[str]:
    """Count the tokens of texts, natively where that is possible; what a vocabulary is made of."""
    texts = list(checked_texts(texts))
    counts: Counter[str] = Counter()
    if tokenizer == WordTokenizer(True) and native.missing() is None:
        chunks = (texts[start : start + _CHUNK_TEXTS] for start in range(0, len(texts), _CHUNK_TEXTS))
        found, texts = native.count_words(chunks)
        counts.update(found)
    for tokens in tokenizer.tokens_of(texts):
        counts.update(tokens)
    return counts


def _joined(parts: list[Ragged]) -> Ragged:
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(part.lengths for part in parts)])
    values = np.concatenate([np.zeros(0, dtype=np.int64), *(part.values for part in parts)])
    return Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))


def _filled(batch: Ragged, rows: np.ndarray, given: Any) -> Ragged:
    """Put `given` sequences in the place of the empty ones at `rows`."""
    lengths = batch.lengths.copy()
    lengths[rows] = given.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    is_given = np.zeros(len(lengths), dtype=bool)
    is_given[rows] = True
    values = np.empty(offsets[-1], dtype=np.int64)
    of_given = np.repeat(is_given, lengths)
    values[of_given], values[~of_given] = given.values, batch.values
    return Ragged(values, offsets)
