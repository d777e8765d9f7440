"""Texts to word ids and n-gram margins in the native library: the same as the Python reference, several times faster.

Place in the way of the data: under `runtime.word_ids` and `runtime.ngram_linear`, which keep the reference. The
interface stands in `csrc/bilstm_words.h`. Imports numpy and the engine's library.
"""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from bilstm.engine.library import library, status
from bilstm.errors import ShapeError

__all__ = ["NgramMargins", "WordIds", "count_words", "encode_words", "missing"]

VERSION = 3
NOT_HANDLED = 0xFFFF
MAX_COUNT = 4096  # a text in which an n-gram occurs more often is left to the reference
_pointer = ctypes.c_void_p
_PointerPair = _pointer * 2
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bilstm_words_version": (ctypes.c_int, ()),
    "bilstm_vocabulary_create": (_pointer, (_pointer, _pointer, _pointer, ctypes.c_int64, _pointer)),
    "bilstm_vocabulary_free": (None, (_pointer,)),
    "bilstm_words_encode": (ctypes.c_int, (*[_pointer] * 5, ctypes.c_int64, *[_pointer] * 3)),
    "bilstm_word_counts_create": (_pointer, ()),
    "bilstm_word_counts_free": (None, (_pointer,)),
    "bilstm_word_counts_add": (ctypes.c_int, (*[_pointer] * 5, ctypes.c_int64, _pointer)),
    "bilstm_word_counts_sizes": (None, (_pointer,) * 3),
    "bilstm_word_counts_read": (None, (_pointer,) * 4),
    "bilstm_ngrams_create": (_pointer, (ctypes.c_int64, ctypes.c_int, _pointer, _pointer)),
    "bilstm_ngrams_add": (ctypes.c_int, (_pointer, ctypes.c_int64, ctypes.c_int64, _pointer, _pointer, _pointer)),
    "bilstm_ngrams_free": (None, (_pointer,)),
    "bilstm_ngrams_margins": (
        ctypes.c_int,
        (_pointer, _pointer, _pointer, ctypes.c_int64, _pointer, ctypes.c_int64, _pointer),
    ),
}


@cache
def _loaded(path: str | None) -> str | None:
    """Declare the functions of the loaded library; return what is missing, or None."""
    found = library()
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError:
        return f"{path} is of an older version, which has no words: rebuild it"
    if found.bilstm_words_version() != VERSION:
        return f"{path} has words of version {found.bilstm_words_version()}, this package needs {VERSION}: rebuild it"
    return None


def missing() -> str | None:
    """Say why texts are not read natively here; None if they are."""
    found = status()
    return _loaded(found.path) if found.available else found.reason


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return what each UTF-16 unit becomes in small letters, and which are letters or digits of a word.

    Handled are Latin letters (up to U+024F) and the dashes and quotation marks around U+2019; what can become two
    characters, or is written without spaces, is not.
    """
    lower = np.full(65_536, NOT_HANDLED, dtype=np.uint16)
    letters = np.zeros(65_536, dtype=np.uint8)
    letter = re.compile(r"[^\W_]")
    for code in (*range(0x250), *range(0x2010, 0x2028)):
        small = "'" if code == 0x2019 else chr(code).lower()
        if len(small) == 1:
            lower[code] = ord(small)
            letters[ord(small)] = letter.match(small) is not None
    return lower, letters


def _address(array: np.ndarray | None) -> int | None:
    # half the time of `array.ctypes.data`
    return None if array is None else array.__array_interface__["data"][0]


def _units_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the texts as UTF-16 one after another, and where each begins (and the last ends)."""
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    data = "".join(texts).encode("utf-16-le", "surrogatepass")
    lengths = list(map(len, texts))
    if len(data) != 2 * sum(lengths):  # code points beyond U+FFFF take two units
        lengths = [len(text.encode("utf-16-le", "surrogatepass")) // 2 for text in texts]
    np.cumsum(lengths, out=offsets[1:])
    return np.frombuffer(data, dtype=np.uint16), offsets


class WordIds:
    """One or two vocabularies in native form, as one table: a word is looked up once for both.

    Parameters
    ----------
    vocabularies : sequence of (words, ids)
        Words (small letters, all different in a vocabulary) and their ids, integers of at most 31 bits.
    missing_ids : sequence of int
        Of any other word, for each vocabulary.
    """

    def __init__(self, vocabularies: Sequence[tuple[Sequence[str], np.ndarray]], missing_ids: Sequence[int]):
        self.count = len(vocabularies)
        if self.count not in (1, 2) or len(missing_ids) != self.count:
            raise ShapeError(f"one or two vocabularies with a missing id each, got {self.count}, {len(missing_ids)}.")
        for words, ids in vocabularies:
            if len(ids) != len(words):
                raise ShapeError(f"{len(words)} words need as many ids, got {len(ids)}.")
        rows = {word: row for row, word in enumerate(dict.fromkeys(w for words, _ in vocabularies for w in words))}
        table = np.empty((len(rows), 2), dtype=np.int32)
        missing = np.zeros(2, dtype=np.int32)
        missing[: self.count] = missing_ids
        table[:] = missing
        for column, (words, ids) in enumerate(vocabularies):
            table[[rows[word] for word in words], column] = ids
        units, offsets = _units_of([*rows])
        if len(units) + 2 * len(rows) >= 2**32:
            raise ShapeError(f"words of {len(units):,} letters together are too many for the native library.")
        self.pointer = library().bilstm_vocabulary_create(
            _address(units), _address(offsets), _address(table), len(rows), _address(missing)
        )
        if not self.pointer:
            raise MemoryError("no memory for a vocabulary")
        weakref.finalize(self, library().bilstm_vocabulary_free, self.pointer)


def encode_words(texts: Sequence[str], vocabularies: WordIds) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Find the words of texts and their ids.

    Parameters
    ----------
    texts : sequence of str
    vocabularies : WordIds

    Returns
    -------
    ids : list of ndarray of shape (words,), int64
        For each vocabulary.
    offsets : ndarray of shape (texts + 1,), int64
        Where the words of each text begin, and the last end.
    handled : ndarray of shape (texts,), bool
        False for a text that is left to the reference; it has no words here.
    """
    lower, letters = _tables()
    units, starts = _units_of(texts)
    ids = [np.empty(len(units), dtype=np.int64) for _ in range(vocabularies.count)]
    offsets, handled = np.zeros(len(texts) + 1, dtype=np.int64), np.zeros(len(texts), dtype=np.bool_)
    code = library().bilstm_words_encode(
        _address(lower), _address(letters), vocabularies.pointer, _address(units), _address(starts), len(texts),
        _PointerPair(*map(_address, ids)), _address(offsets[1:]), _address(handled),
    )  # fmt: skip
    if code:
        raise MemoryError("no memory to find words")
    count = int(offsets[-1])
    return [array[:count] for array in ids], offsets, handled


def count_words(chunks: Iterable[Sequence[str]]) -> tuple[dict[str, int], list[str]]:
    """Count the words of texts.

    Parameters
    ----------
    chunks : iterable of sequences of str
        Each is held in native form while it is read.

    Returns
    -------
    counts : dict of str to int
        How often each word comes, in the order in which they come first.
    left_out : list of str
        Texts that are left to the reference; their words are not among the counts.
    """
    lower, letters = _tables()
    left_out: list[str] = []
    pointer = library().bilstm_word_counts_create()
    if not pointer:
        raise MemoryError("no memory to count words")
    try:
        for texts in chunks:
            units, starts = _units_of(texts)
            handled = np.zeros(len(texts), dtype=np.bool_)
            if library().bilstm_word_counts_add(
                pointer, _address(lower), _address(letters), _address(units), _address(starts), len(texts),
                _address(handled),
            ):  # fmt: skip
                raise MemoryError("no memory to count words")
            left_out += [texts[row] for row in np.flatnonzero(~handled).tolist()]
        words, size = ctypes.c_int64(), ctypes.c_int64()
        library().bilstm_word_counts_sizes(pointer, ctypes.byref(words), ctypes.byref(size))
        units, ends = np.empty(size.value, dtype=np.uint16), np.empty(words.value, dtype=np.int64)
        often = np.empty(words.value, dtype=np.int64)
        library().bilstm_word_counts_read(pointer, _address(units), _address(ends), _address(often))
    finally:
        library().bilstm_word_counts_free(pointer)
    text = units.tobytes().decode("utf-16-le", "surrogatepass")  # what is handled has one unit a character
    begins = [0, *ends.tolist()]
    counts = {text[begins[word] : begins[word + 1]]: count for word, count in enumerate(often.tolist())}
    return counts, left_out


class NgramMargins:
    """Linear models over n-grams in native form.

    Parameters
    ----------
    words : int
        How many single words the index has.
    keys : list of ndarray, int64
        Of each order from pairs on, ascending.
    heads : sequence of (weights, intercepts, inverse_frequency or None)
        float32 (outputs, features), float64 (outputs,), float64 (features,).
    """

    def __init__(self, words: int, keys: Sequence[np.ndarray], heads: Sequence[tuple[Any, Any, Any]]):
        arrays = [np.ascontiguousarray(one, dtype=np.int64) for one in keys]
        if words + sum(map(len, arrays)) >= 2**32:
            raise ShapeError(f"{words + sum(map(len, arrays)):,} n-grams are too many for the native library.")
        sizes = np.array([len(one) for one in arrays], dtype=np.int64)
        pointers = (_pointer * max(len(arrays), 1))(*(one.ctypes.data for one in arrays))
        self.pointer = library().bilstm_ngrams_create(words, len(arrays), pointers, _address(sizes))
        if not self.pointer:
            raise MemoryError("no memory for n-grams")
        weakref.finalize(self, library().bilstm_ngrams_free, self.pointer)
        self._levels = 1 + np.log(np.arange(MAX_COUNT, dtype=np.float64).clip(min=1))
        self._kept: list[Any] = []  # the library reads these arrays in place
        for weights, intercepts, frequency in heads:
            own = [np.ascontiguousarray(weights, np.float32), np.ascontiguousarray(intercepts, np.float64)]
            own.append(None if frequency is None else np.ascontiguousarray(frequency, np.float64))
            self._kept.append(own)
            if library().bilstm_ngrams_add(self.pointer, *weights.shape, *map(_address, own)):
                raise MemoryError("no memory for a linear model")
        self.outputs, self.count = len(heads[0][0]), len(heads)

    def margins(self, words: np.ndarray, offsets: np.ndarray) -> np.ndarray | None:
        """Return margins (texts, outputs, heads), float64, of word numbers (-1: unknown).

        None if an n-gram occurs too often in a text for the table of logarithms.
        """
        words, offsets = np.ascontiguousarray(words, np.int64), np.ascontiguousarray(offsets, np.int64)
        result = np.empty((len(offsets) - 1, self.outputs, self.count))
        code = library().bilstm_ngrams_margins(
            self.pointer, _address(words), _address(offsets), len(result), _address(self._levels), MAX_COUNT,
            _address(result),
        )  # fmt: skip
        if code == 3:
            raise MemoryError("no memory for n-grams of a text")
        return None if code else result
