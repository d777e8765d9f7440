"""Texts to word ids and n-gram margins in the native library: the same as the Python reference, several times faster.

Place in the way of the data: under `runtime.word_ids` and `runtime.ngram_linear`, which keep the reference. The
interface stands in `csrc/bilstm_words.h`. Imports numpy and the engine's library.
"""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from bilstm.engine.library import library, status
from bilstm.errors import ShapeError

__all__ = ["NgramMargins", "WordIds", "encode_words", "missing"]

VERSION = 1
NOT_HANDLED = 0xFFFF
MAX_COUNT = 4096  # a text in which an n-gram occurs more often is left to the reference
_pointer = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bilstm_words_version": (ctypes.c_int, ()),
    "bilstm_vocabulary_create": (_pointer, (_pointer, _pointer, _pointer, ctypes.c_int64, ctypes.c_int64)),
    "bilstm_vocabulary_free": (None, (_pointer,)),
    "bilstm_words_encode": (ctypes.c_int, (*[_pointer] * 5, ctypes.c_int64, *[_pointer] * 3)),
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
    return None if array is None else array.ctypes.data


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
    """A vocabulary in native form.

    Parameters
    ----------
    words : sequence of str
        All different, small letters.
    ids : ndarray of shape (words,), int64
    missing_id : int
        Of any other word.
    """

    def __init__(self, words: Sequence[str], ids: np.ndarray, missing_id: int):
        units, offsets = _units_of(words)
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        if len(ids) != len(words):
            raise ShapeError(f"{len(words)} words need as many ids, got {len(ids)}.")
        self.pointer = library().bilstm_vocabulary_create(
            _address(units), _address(offsets), _address(ids), len(words), missing_id
        )
        if not self.pointer:
            raise MemoryError("no memory for a vocabulary")
        weakref.finalize(self, library().bilstm_vocabulary_free, self.pointer)


def encode_words(texts: Sequence[str], vocabularies: Sequence[WordIds]) -> tuple[list[np.ndarray], np.ndarray, Any]:
    """Find the words of texts and their ids.

    Parameters
    ----------
    texts : sequence of str
    vocabularies : one or two WordIds

    Returns
    -------
    ids : list of ndarray of shape (words,), int64
        For each vocabulary.
    ends : ndarray of shape (texts,), int64
        How many words stand in the texts up to and with this one.
    handled : ndarray of shape (texts,), bool
        False for a text that is left to the reference; it has no words here.
    """
    lower, letters = _tables()
    units, offsets = _units_of(texts)
    ids = [np.empty(len(units), dtype=np.int64) for _ in vocabularies]
    ends, handled = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.bool_)
    pointers = (_pointer * 2)(*(vocabulary.pointer for vocabulary in vocabularies))
    rooms = (_pointer * 2)(*(array.ctypes.data for array in ids))
    code = library().bilstm_words_encode(
        _address(lower), _address(letters), pointers, _address(units), _address(offsets), len(texts), rooms,
        _address(ends), _address(handled),
    )  # fmt: skip
    if code:
        raise MemoryError("no memory to find words")
    count = int(ends[-1]) if len(ends) else 0
    return [array[:count] for array in ids], ends, handled


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
