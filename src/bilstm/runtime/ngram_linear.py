"""Linear models over n-grams without scikit-learn: what a joined text model adds to its network's logits.

Place in the way of the data: tokens -> margins. Imports numpy and `data.ngrams`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.data.ngrams import NgramIndex
from bilstm.data.ragged import Ragged
from bilstm.engine import words as native_words
from bilstm.engine.words import NgramMargins
from bilstm.errors import ModelFolderError

__all__ = ["LinearHead", "NgramLinear"]

PREFIX = "linear."  # of its arrays among the weights of a model folder
CHUNK_ROWS = 4096
ROWS_WORTH_TABLES = 256  # rows that take as long without the native tables as making these takes


@dataclass(frozen=True)
class LinearHead:
    """One linear model over the n-grams of an index.

    Parameters
    ----------
    order : int
        Longest n-gram it reads.
    weights : ndarray of shape (outputs, n-grams up to that order), float32
    intercepts : ndarray of shape (outputs,), float64
    inverse_frequency : ndarray of shape (n-grams up to that order,), float64, or None
        None: an n-gram counts once however often it occurs (NB-SVM). Else TF-IDF: (1 + ln count) * inverse frequency,
        each text divided by its length.
    """

    order: int
    weights: np.ndarray
    intercepts: np.ndarray
    inverse_frequency: np.ndarray | None

    def margins(self, rows: np.ndarray, features: np.ndarray, counts: np.ndarray, num_rows: int) -> np.ndarray:
        """Return margins (num_rows, outputs) of n-grams that stand `counts` times in `rows`, sorted by row."""
        is_read = features < self.weights.shape[1]
        rows, features, counts = rows[is_read], features[is_read], counts[is_read]
        values = np.ones(len(rows))
        if self.inverse_frequency is not None:
            values = (1 + np.log(counts)) * self.inverse_frequency[features]
            length = np.sqrt(np.bincount(rows, values * values, minlength=num_rows))
            values /= length[rows]
        sums = [np.bincount(rows, values * row[features], minlength=num_rows) for row in self.weights]
        return np.stack(sums, axis=1) + self.intercepts


class NgramLinear:
    """Margins of texts: weights of the n-grams that occur, summed; several models over one index.

    Parameters
    ----------
    index : NgramIndex
    heads : tuple of LinearHead
    """

    def __init__(self, index: NgramIndex, heads: tuple[LinearHead, ...]):
        self.index = index
        self.heads = heads
        self._native: NgramMargins | None = None
        self._rows_run = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy by what it was made of: tables of the library belong to one process."""
        return NgramLinear, (self.index, self.heads)

    def taking(self, numbers: Sequence[int]) -> NgramLinear:
        """Return the models of these numbers, in this order, over the n-grams that they read."""
        heads = tuple(self.heads[number] for number in numbers)
        words, keys = self.index.to_arrays(max(head.order for head in heads))
        return NgramLinear(NgramIndex.from_arrays(words, keys), heads)

    @property
    def words(self) -> list[str]:
        """Single words of the index, in the order of their numbers."""
        return self.index.to_arrays(1)[0]

    def numbers_of(self, token_lists: Sequence[Sequence[str]]) -> Ragged:
        """Return the number of each word, -1 for those that the index lacks."""
        find = self.index.word_numbers.get
        return Ragged.of([[find(word, -1) for word in words] for words in token_lists])

    def margins_of_numbers(self, words: Ragged) -> np.ndarray:
        """Return margins (rows, outputs, heads), float64, as `margins`; texts are numbers of words here, -1: unknown.

        In the native library once enough rows have run to pay for its tables; both give the same bits.
        """
        self._rows_run += len(words)
        if self._rows_run >= ROWS_WORTH_TABLES and native_words.missing() is None:
            if self._native is None:
                names, keys = self.index.to_arrays(self.index.max_order)
                heads = [(head.weights, head.intercepts, head.inverse_frequency) for head in self.heads]
                self._native = NgramMargins(len(names), keys, heads)
            found = self._native.margins(words.values, words.offsets)
            if found is not None:
                return found
        starts = range(0, max(len(words), 1), CHUNK_ROWS)
        rows = np.arange(len(words))
        return np.concatenate([self._margins(words.select(rows[start : start + CHUNK_ROWS])) for start in starts])

    def margins(self, token_lists: Sequence[Sequence[str]]) -> np.ndarray:
        """Return margins (rows, outputs, heads), float64; a text without known n-grams gets the intercepts."""
        starts = range(0, max(len(token_lists), 1), CHUNK_ROWS)
        return np.concatenate([self._margins(token_lists[start : start + CHUNK_ROWS]) for start in starts])

    def _margins(self, token_lists: Sequence[Sequence[str]] | Ragged) -> np.ndarray:
        size = sum(self.index.sizes)
        keys = []
        start = 0
        is_numbers = isinstance(token_lists, Ragged)
        found_in = self.index.occurrences_of_numbers if is_numbers else self.index.occurrences
        for rows, features, count in found_in(token_lists):  # type: ignore[arg-type]
            is_known = features >= 0
            keys.append(rows[is_known] * size + (features[is_known] + start))
            start += count
        # sorted, so that sums are taken in one order whatever stands around a text
        pairs, counts = np.unique(np.concatenate(keys), return_counts=True)
        rows, features = np.divmod(pairs, max(size, 1))
        found = [head.margins(rows, features, counts, len(token_lists)) for head in self.heads]
        return np.stack(found, axis=-1)

    def to_folder(self) -> tuple[dict[str, np.ndarray], str]:
        """Return the arrays, by name, and the words as the text of a JSON file."""
        words, keys = self.index.to_arrays(self.index.max_order)
        arrays = {f"{PREFIX}keys_{order}": array for order, array in enumerate(keys, start=2)}
        for number, head in enumerate(self.heads):
            arrays[f"{PREFIX}{number}.weights"] = head.weights
            arrays[f"{PREFIX}{number}.intercepts"] = head.intercepts
            if head.inverse_frequency is not None:
                arrays[f"{PREFIX}{number}.inverse_frequency"] = head.inverse_frequency
        return arrays, json.dumps(words, ensure_ascii=False, indent=0)

    @classmethod
    def from_folder(cls, arrays: Mapping[str, np.ndarray], words: bytes, outputs: int) -> NgramLinear:
        """Read back what `to_folder` gave.

        Raises
        ------
        ModelFolderError
            If an array is missing or of a wrong shape or type, or the words are no list of texts.
        """
        try:
            names: Any = json.loads(words.decode("utf-8"))
        except ValueError as error:
            raise ModelFolderError(f"ngrams.json: not valid JSON ({error}).") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ModelFolderError("ngrams.json: must be a list of words.")
        given = {name.removeprefix(PREFIX): array for name, array in arrays.items()}
        keys = [given.pop(name) for name in sorted(given) if name.startswith("keys_")]
        for array in keys:
            if array.ndim != 1 or array.dtype != np.int64 or (np.diff(array) <= 0).any():
                raise ModelFolderError(f"{PREFIX}keys must be ascending int64 of one axis.")
        sizes = np.cumsum([len(names), *(len(array) for array in keys)]).tolist()
        heads = []
        while f"{len(heads)}.weights" in given:
            heads.append(_head_of(given, len(heads), sizes, outputs))
        if given or not heads:
            raise ModelFolderError(f"the linear models hold something unknown, or nothing: {sorted(given)[:3]}.")
        return cls(NgramIndex.from_arrays(names, keys), tuple(heads))


def _head_of(given: dict[str, np.ndarray], number: int, sizes: list[int], outputs: int) -> LinearHead:
    """Take the arrays of one head out of `given`; `sizes[k]` n-grams have at most k + 1 words."""
    weights = given.pop(f"{number}.weights")
    intercepts = given.pop(f"{number}.intercepts", np.zeros(0))
    frequency = given.pop(f"{number}.inverse_frequency", None)
    features = weights.shape[1] if weights.ndim == 2 else -1
    expected = [("weights", weights, (outputs, features)), ("intercepts", intercepts, (outputs,))]
    expected += [("inverse_frequency", frequency, (features,))] if frequency is not None else []
    for name, array, shape in expected:
        if array.shape != shape or not np.issubdtype(array.dtype, np.floating):
            raise ModelFolderError(f"{PREFIX}{number}.{name} must be floats of shape {shape}, got {array.shape}.")
    if features not in sizes:
        raise ModelFolderError(f"{PREFIX}{number}.weights fit no order of the n-grams: {features} columns.")
    return LinearHead(sizes.index(features) + 1, weights, intercepts, frequency)
