"""What chance decides in skip-gram training: which words are read, how wide each window is, which words are negatives.

Place in the way of the data: ids -> runs of words with windows and negatives -> steps of gradient descent (the engine's
or torch's). Everything is drawn from the raw 64-bit numbers of one PCG64 generator, which numpy promises not to change.
Imports numpy.

References
----------
.. [1] Mikolov, Sutskever, Chen, Corrado, Dean, "Distributed Representations of Words and Phrases and their
   Compositionality", NeurIPS 2013, arXiv:1310.4546: negatives from unigram^(3/4), section 2.2; subsampling of frequent
   words, section 2.3, by the formula of the authors' program, (sqrt(f / t) + 1) t / f.
.. [2] Walker, "An efficient method for generating discrete random variables with general distributions", ACM TOMS 1977:
   the alias table; built as in Vose 1991.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bilstm.data.ragged import Ragged

__all__ = ["RUN_WORDS", "AliasTable", "Draws", "Run", "keep_shares"]

RUN_WORDS = 100_000  # of a run, about: a fraction of a second of work, after which Python listens to Ctrl-C
NOISE_POWER = 0.75


@dataclass(frozen=True)
class Run:
    """A run of words as they are read in one pass over a part of the texts.

    Parameters
    ----------
    words : ndarray of shape (count,), int32
        Ids of the words that are read, text after text.
    before, after : ndarray of shape (count,), int32
        How many words to the left and right are context; never beyond the text.
    negatives : ndarray of shape (count, number), int32
    places : ndarray of shape (count,), int64
        Place of each word among the values of all texts.
    end : int
        Place after the last value of the run.
    """

    words: np.ndarray
    before: np.ndarray
    after: np.ndarray
    negatives: np.ndarray
    places: np.ndarray
    end: int


class AliasTable:
    """Draws ids in proportion to weights, in constant time (Walker 1977).

    Parameters
    ----------
    weights : ndarray of shape (size,)
        Not negative, some positive; ids of weight 0 are never drawn.
    """

    def __init__(self, weights: np.ndarray):
        self.ids = np.flatnonzero(weights).astype(np.int32)
        shares = (weights[self.ids] * (len(self.ids) / weights[self.ids].sum())).tolist()
        own = [1.0] * len(shares)  # share of a slot that belongs to its own id; the rest is its alias's
        alias = list(range(len(shares)))
        small = [slot for slot, share in enumerate(shares) if share < 1]
        large = [slot for slot, share in enumerate(shares) if share >= 1]
        while small and large:
            slot, giver = small.pop(), large[-1]
            own[slot], alias[slot] = shares[slot], giver
            shares[giver] -= 1 - shares[slot]
            if shares[giver] < 1:
                small.append(large.pop())
        self.own = np.array(own)
        self.alias = self.ids[alias]
        self._threshold = _threshold(self.own)

    def draw(self, raw: np.ndarray) -> np.ndarray:
        """Turn random uint64 numbers into ids of the same shape, int32: upper half the slot, lower half the side."""
        slots = ((raw >> np.uint64(32)) * np.uint64(len(self.ids)) >> np.uint64(32)).astype(np.int64)
        return np.where(raw.astype(np.uint32) < self._threshold[slots], self.ids[slots], self.alias[slots])


def keep_shares(counts: np.ndarray, threshold: float) -> np.ndarray:
    """Return how often a word is read, per occurrence: 1 for rare words, (sqrt(f / t) + 1) t / f for frequent ones."""
    frequent = threshold * counts.sum() / np.maximum(counts, 1)  # t / f
    return np.where(counts > 0, np.minimum(np.sqrt(frequent) + frequent, 1.0), 0.0)


class Draws:
    """All random decisions of a training, in a fixed order.

    Parameters
    ----------
    ids : Ragged of int64
        Id 0 is never read.
    vocabulary_size : int
    window : int
        Each word's window is 1 to this many words to either side, drawn evenly.
    negatives : int
        Negative words of each word.
    subsampling : float
        Threshold t of [1], section 2.3.
    seed : int
    """

    def __init__(
        self, ids: Ragged, vocabulary_size: int, *, window: int, negatives: int, subsampling: float, seed: int
    ):
        counts = np.bincount(ids.values, minlength=vocabulary_size)
        counts[0] = 0
        self._values, self._offsets = ids.values, _pieces(ids.offsets)
        self._window, self._negatives = window, negatives
        self._keep = _threshold(keep_shares(counts, subsampling))
        self._noise = AliasTable(counts**NOISE_POWER)
        self._bits = np.random.PCG64(seed % 2**64)

    def uniform(self, rows: int, columns: int) -> np.ndarray:
        """Return numbers of shape (rows, columns), evenly from -1/2 to 1/2, float32."""
        numbers = (self._halves(rows * columns) >> np.uint32(8)).astype(np.float32)  # 24 bits: exact in float32
        return (numbers * np.float32(2.0**-24) - np.float32(0.5)).reshape(rows, columns)

    def one_pass(self) -> Iterator[Run]:
        """Go over all texts once, in order."""
        offsets = self._offsets
        first = 0
        while first < len(offsets) - 1:
            last = int(np.searchsorted(offsets, offsets[first] + RUN_WORDS, side="right")) - 1
            last = max(last, first + 1)
            yield self._run(offsets[first : last + 1])
            first = last

    def _run(self, offsets: np.ndarray) -> Run:
        begin, end = int(offsets[0]), int(offsets[-1])
        values = self._values[begin:end]
        is_read = self._halves(len(values)) < self._keep[values]
        read_until = np.concatenate([[0], np.cumsum(is_read)])
        texts = read_until[offsets - begin]
        places = np.flatnonzero(is_read)
        count = len(places)
        reach = 1 + (self._halves(count).astype(np.uint64) * np.uint64(self._window) >> np.uint64(32)).astype(np.int64)
        lengths, own = np.diff(texts), np.arange(count)
        return Run(
            words=values[places].astype(np.int32),
            before=np.minimum(reach, own - np.repeat(texts[:-1], lengths)).astype(np.int32),
            after=np.minimum(reach, np.repeat(texts[1:], lengths) - 1 - own).astype(np.int32),
            negatives=self._noise.draw(self._bits.random_raw(count * self._negatives)).reshape(count, self._negatives),
            places=places + begin,
            end=end,
        )

    def _halves(self, count: int) -> np.ndarray:
        """Return random numbers of 32 bits, the lower half of each raw number first."""
        raw = self._bits.random_raw((count + 1) // 2).astype("<u8")
        return raw.view("<u4")[:count].astype(np.uint32, copy=False)


def _threshold(shares: np.ndarray) -> np.ndarray:
    """Return the number below which a share of all 32-bit numbers lies (a share of 1 misses one of 4 billion)."""
    return np.minimum(shares * 2.0**32, 2.0**32 - 1).astype(np.uint32)


def _pieces(offsets: np.ndarray) -> np.ndarray:
    """Return offsets in which texts longer than a run are cut, so that no run grows without bound."""
    lengths = np.diff(offsets)
    if lengths.max(initial=0) <= RUN_WORDS:
        return offsets
    cuts = [np.arange(begin, end, RUN_WORDS) for begin, end in itertools.pairwise(offsets)]
    return np.concatenate([*cuts, offsets[-1:]])
