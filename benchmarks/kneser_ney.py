"""An interpolated n-gram model with modified Kneser-Ney smoothing, over word ids, in numpy.

What a language model must beat: counts alone. Used by `language_model.py`.

References
----------
.. [1] S. F. Chen, J. Goodman, An empirical study of smoothing techniques for language modeling, Computer Speech and
   Language 13, 1999, section 3.3: interpolated, three discounts an order, continuation counts below the highest order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm.data.ragged import Ragged

__all__ = ["KneserNey"]


@dataclass(frozen=True)
class _Order:
    """Tables of one order: n-grams and contexts by number, in the order of their keys."""

    gram_keys: np.ndarray  # (grams,)
    gram_discounted: np.ndarray  # count less its discount, (grams,)
    context_keys: np.ndarray  # (contexts,)
    context_totals: np.ndarray  # (contexts,)
    context_left: np.ndarray  # share of the total that goes to the lower order, (contexts,)


class KneserNey:
    """Probabilities of the words of texts and of their ends, each from the words before it.

    Parameters
    ----------
    ids : Ragged of int64
        Training texts; those without words are left out.
    vocabulary_size : int
        Ids are below it; the end of a text is one more word.
    order : int, default=5
        Words of the longest n-gram.
    """

    def __init__(self, ids: Ragged, vocabulary_size: int, order: int = 5):
        self.order, self.words = order, vocabulary_size + 1
        history = _history(ids, vocabulary_size, order)
        targets = history[-1]
        grams, contexts = targets, np.zeros_like(targets)
        gram_keys, context_keys = np.arange(self.words), np.zeros(1, dtype=np.int64)
        levels = [(gram_keys, grams, context_keys, contexts)]
        for n in range(2, order + 1):
            first = history[order - n]
            gram_keys, grams = np.unique(first * len(levels[-1][0]) + grams, return_inverse=True)
            context_keys, contexts = np.unique(first * len(levels[-1][2]) + contexts, return_inverse=True)
            levels.append((gram_keys, grams, context_keys, contexts))
        self.tables = [self._table(n, levels, history) for n in range(1, order + 1)]

    def _table(self, n: int, levels: list, history: list[np.ndarray]) -> _Order:
        keys, grams, context_keys, contexts = levels[n - 1]
        counts = np.bincount(grams, minlength=len(keys)).astype(np.float64)
        context_of = np.zeros(len(keys), dtype=np.int64)
        context_of[grams] = contexts
        if n < self.order:
            above = levels[n]
            shorter = np.zeros(len(above[0]), dtype=np.int64)
            shorter[above[1]] = grams
            continued = np.bincount(shorter, minlength=len(keys)).astype(np.float64)
            begins = np.zeros(len(keys), dtype=bool)
            if n > 1:
                begins[grams] = history[self.order - n] == self.words - 1  # a text begins here: nothing stands before
            counts = np.where(begins, counts, continued)
        discounts = _discounts(counts)
        kind = np.minimum(counts, 3).astype(np.int64)
        total = np.bincount(context_of, weights=counts, minlength=len(context_keys))
        held = np.bincount(context_of, weights=discounts[kind], minlength=len(context_keys))
        return _Order(keys, counts - discounts[kind], context_keys, total, held / np.maximum(total, 1e-300))

    def log_probabilities(self, ids: Ragged) -> np.ndarray:
        """Return log p of every word and end, text after text, shape (words + texts,)."""
        history = _history(ids, self.words - 1, self.order)
        grams, contexts = history[-1], np.zeros_like(history[-1])
        result = np.full(len(grams), 1.0 / self.words)
        for n, table in enumerate(self.tables, 1):
            if n > 1:
                first, below = history[self.order - n], self.tables[n - 2]
                grams = _find(table.gram_keys, first, grams, len(below.gram_keys))
                contexts = _find(table.context_keys, first, contexts, len(below.context_keys))
            seen = contexts >= 0
            place = np.where(seen, contexts, 0)
            own = np.where(grams >= 0, table.gram_discounted[np.where(grams >= 0, grams, 0)], 0.0)
            mixed = own / np.maximum(table.context_totals[place], 1e-300) + table.context_left[place] * result
            result = np.where(seen & (table.context_totals[place] > 0), mixed, result)
        return np.log(result)

    def perplexity(self, ids: Ragged) -> float:
        """Return exp of the mean of -log p."""
        return float(np.exp(-self.log_probabilities(ids).mean()))


def _history(ids: Ragged, boundary: int, order: int) -> list[np.ndarray]:
    """Return, for each word and end, the words that stand order - 1, ..., 1, 0 places before it."""
    lengths = ids.lengths[ids.lengths > 0]
    padded = np.full(int(lengths.sum()) + order * len(lengths), boundary, dtype=np.int64)
    starts = np.cumsum(lengths + order) - (lengths + order)  # each text behind order - 1 boundaries, before one
    row = np.repeat(np.arange(len(lengths)), lengths)
    padded[np.arange(len(row)) + row * order + order - 1] = ids.values
    targets = np.concatenate([np.arange(s + order - 1, s + order + n) for s, n in zip(starts, lengths, strict=True)])
    return [padded[targets - back] for back in range(order - 1, -1, -1)]


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Return what is taken from counts of 0, 1, 2 and more: equation 26 of [1]."""
    n1, n2, n3, n4 = (max(float(np.count_nonzero(counts == c)), 1e-9) for c in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(found, 0.0, [0.0, 1.0, 2.0, 3.0])  # tiny texts may lack a count of counts


def _find(keys: np.ndarray, first: np.ndarray, below: np.ndarray, size: int) -> np.ndarray:
    """Return the number of each longer n-gram; -1 where training lacks it, or lacks its shorter part."""
    wanted = first * size + below
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((below >= 0) & (keys[place] == wanted), place, -1)
