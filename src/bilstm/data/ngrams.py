"""Exact n-grams of tokenized texts, and their counts as sparse matrices. Place: tokens -> linear model.

An n-gram can only be frequent if the one inside it is (Agrawal and Srikant 1994), so n-grams are built one order on top
of the other as pairs of integers, and no string is joined before somebody asks for its name. Imports numpy, and scipy
inside the functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.errors import MissingExtraError

__all__ = ["NgramIndex"]

TokenLists = Sequence[Sequence[str]]


class NgramIndex:
    """The n-grams that occur in enough training texts.

    Parameters
    ----------
    max_order : int
        Longest n-gram, in words; at least 1.
    min_rows : int
        Keep an n-gram that stands in at least this many texts; at least 1.
    """

    def __init__(self, max_order: int, min_rows: int):
        self.max_order = max_order
        self.min_rows = min_rows
        self._words: dict[str, int] = {}
        self._word_list: list[str] = []
        # _keys[n - 2] holds, sorted, (id of the first n - 1 words) * number of words + id of the last word
        self._keys: list[np.ndarray] = []

    @property
    def sizes(self) -> list[int]:
        """Number of n-grams of each order, from 1."""
        return [len(self._word_list), *(len(keys) for keys in self._keys)]

    @property
    def word_numbers(self) -> dict[str, int]:
        """Number of each single word."""
        return self._words

    def fit_transform(self, token_lists: TokenLists) -> list[Any]:
        """Learn the n-grams of training texts and count them.

        Parameters
        ----------
        token_lists : sequence of sequences of str
            One sequence of words a text; may be empty.

        Returns
        -------
        list of scipy.sparse.csr_matrix of shape (texts, n-grams of that order), float64
            One matrix an order.
        """
        provisional: dict[str, int] = {}
        lengths = np.array([len(tokens) for tokens in token_lists], dtype=np.int64)
        words = np.fromiter(
            (provisional.setdefault(word, len(provisional)) for tokens in token_lists for word in tokens),
            dtype=np.int64,
            count=int(lengths.sum()),
        )
        rows = np.repeat(np.arange(len(lengths)), lengths)
        kept, words, matrix = self._count_frequent(rows, words, len(provisional), len(lengths))
        names = list(provisional)
        self._word_list = [names[index] for index in kept]
        self._words = {word: index for index, word in enumerate(self._word_list)}
        matrices, grams = [matrix], words
        self._keys = []
        for order in range(2, self.max_order + 1):
            positions, keys = self._join(rows, words, grams, order)
            distinct, inverse = np.unique(keys, return_inverse=True)
            kept, found, matrix = self._count_frequent(rows[positions], inverse, len(distinct), len(lengths))
            self._keys.append(distinct[kept])
            grams = np.full(len(words), -1, dtype=np.int64)
            grams[positions] = found
            matrices.append(matrix)
        return matrices

    def transform(self, token_lists: TokenLists) -> list[Any]:
        """Count the learned n-grams in other texts; the same form as `fit_transform`."""
        return [_count(rows, grams, len(token_lists), size) for rows, grams, size in self.occurrences(token_lists)]

    def transform_numbers(self, numbers: Ragged) -> list[Any]:
        """Count the learned n-grams in texts of word numbers; as `transform` and `occurrences_of_numbers`."""
        found = self.occurrences_of_numbers(numbers)
        return [_count(rows, grams, len(numbers), size) for rows, grams, size in found]

    def occurrences(self, token_lists: TokenLists) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Find the learned n-grams in texts; numpy only.

        Yields
        ------
        rows, features : ndarray of shape (total words,), int64
            For each order from 1: the text of every word, and the number of the n-gram that starts (order 1: stands)
            there, counted within its order; -1 where none of the learned ones does.
        size : int
            Number of learned n-grams of that order.
        """
        lengths = np.array([len(tokens) for tokens in token_lists], dtype=np.int64)
        find = self._words.get
        words = np.fromiter(
            (find(word, -1) for tokens in token_lists for word in tokens), dtype=np.int64, count=int(lengths.sum())
        )
        yield from self.occurrences_of_numbers(Ragged(words, np.concatenate([[0], np.cumsum(lengths)])))

    def occurrences_of_numbers(self, numbers: Ragged) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Find the learned n-grams in texts of word numbers (in the order of `to_arrays`; -1: an unknown word).

        Yields
        ------
        As `occurrences`.
        """
        words = numbers.values
        rows = np.repeat(np.arange(len(numbers)), numbers.lengths)
        yield rows, words, len(self._word_list)
        grams = words
        for order, known in enumerate(self._keys, start=2):
            positions, keys = self._join(rows, words, grams, order)
            grams = np.full(len(words), -1, dtype=np.int64)
            if len(known):
                places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
                grams[positions] = np.where(known[places] == keys, places, -1)
            yield rows, grams, len(known)

    def to_arrays(self, max_order: int) -> tuple[list[str], list[np.ndarray]]:
        """Return the words, and the sorted int64 keys of each order from 2 to `max_order`."""
        return list(self._word_list), self._keys[: max_order - 1]

    @classmethod
    def from_arrays(cls, words: Sequence[str], keys: Sequence[np.ndarray]) -> NgramIndex:
        """Make an index from what `to_arrays` gave."""
        index = cls(1 + len(keys), 1)
        index._word_list = list(words)
        index._words = {word: number for number, word in enumerate(index._word_list)}
        index._keys = list(keys)
        return index

    def names(self, features: Iterable[int]) -> list[str]:
        """Return the words, joined by blanks, of feature numbers counted through all orders from 1."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        result = []
        for feature in features:
            order = int(np.searchsorted(starts, feature, side="right"))
            result.append(" ".join(self._spell(order, int(feature - starts[order - 1]))))
        return result

    def _spell(self, order: int, index: int) -> list[str]:
        if order == 1:
            return [self._word_list[index]]
        before, last = divmod(int(self._keys[order - 2][index]), len(self._word_list))
        return [*self._spell(order - 1, before), self._word_list[last]]

    def _join(self, rows: np.ndarray, words: np.ndarray, grams: np.ndarray, order: int) -> tuple[np.ndarray, ...]:
        """Return where an n-gram of known parts starts, and its key."""
        ends = np.arange(len(words))[order - 1 :]
        starts = ends - (order - 1)
        is_whole = (rows[starts] == rows[ends]) & (grams[starts] >= 0) & (words[ends] >= 0)
        starts, ends = starts[is_whole], ends[is_whole]
        return starts, grams[starts] * len(self._word_list) + words[ends]

    def _count_frequent(self, rows: np.ndarray, ids: np.ndarray, num_ids: int, num_rows: int) -> tuple[Any, ...]:
        """Return ids that stand in `min_rows` texts, every occurrence renumbered (-1: dropped), and the counts."""
        counts = _count(rows, ids, num_rows, num_ids)
        frequency = np.bincount(counts.indices, minlength=num_ids)
        kept = np.flatnonzero(frequency >= self.min_rows)
        renumbered = np.full(num_ids, -1, dtype=np.int64)
        renumbered[kept] = np.arange(len(kept))
        return kept, renumbered[ids], counts[:, kept]


def _count(rows: np.ndarray, ids: np.ndarray, num_rows: int, num_ids: int) -> Any:
    """Return how often each id >= 0 stands in each row, as csr (num_rows, num_ids) without repeated entries."""
    try:
        from scipy import sparse
    except ImportError as error:
        raise MissingExtraError(
            "The linear baseline needs scipy and scikit-learn.", "pip install 'bilstm[train]'"
        ) from error
    known = ids >= 0
    rows, ids = rows[known], ids[known]
    ends = np.cumsum(np.bincount(rows, minlength=num_rows))
    matrix = sparse.csr_matrix((np.ones(len(ids)), ids, np.concatenate([[0], ends])), shape=(num_rows, num_ids))
    matrix.sum_duplicates()
    return matrix
