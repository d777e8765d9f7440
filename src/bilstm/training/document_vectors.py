"""Vectors of texts, learned without labels: each predicts the n-grams of its text by cosine.

Place in the way of the data: Ragged of word ids -> one vector a text -> a linear model that sees few labels. What makes
texts alike is which words and short phrases they use, so few labels say much about such vectors. Steps are taken by the
native engine, whose header `csrc/bilstm_document_vectors.h` has the equations. Imports numpy.

References
----------
.. [1] T. Thongtan, T. Phienthrakul, Sentiment Classification Using Document Embeddings Trained with Cosine Similarity,
   ACL 2019 student research workshop: the probability of an n-gram is the logistic function of 6 times the cosine.
.. [2] B. Li, T. Liu, X. Du, D. Zhang, Z. Zhao, Learning Document Embeddings by Predicting N-grams for Sentiment
   Classification of Long Movie Reviews, 2016, arXiv:1512.08183: n-grams of one to three words.
.. [3] Q. Le, T. Mikolov, Distributed Representations of Sentences and Documents, ICML 2014, arXiv:1405.4053: PV-DBOW.
.. [4] T. Mikolov and others, Distributed Representations of Words and Phrases and their Compositionality, NeurIPS 2013,
   arXiv:1310.4546: negatives from counts^(3/4), section 2.2; frequent items are read less often, section 2.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.engine import document_vectors as engine
from bilstm.engine.library import Context
from bilstm.engine.skipgram import aligned_table
from bilstm.errors import ShapeError, UsageError
from bilstm.training import events
from bilstm.training.events import Listener
from bilstm.training.frequent_ngrams import frequent_ngrams
from bilstm.training.skipgram_draws import AliasTable

__all__ = ["PHASE", "train_document_vectors"]

PHASE = "document vectors"
RARE_SHARE, FEWEST_TIMES, MOST_NEEDED = 1 / 4_000, 2, 20  # an n-gram stands this often per text, within bounds
SHARPNESS = 6.0  # of [1]
NEGATIVE_WEIGHT = 5.0  # one negative an item that counts as five: as good, and a fifth of the memory traffic
NOISE_POWER = 0.75  # of [4]
# Threshold t of [4]: an n-gram of share f is read sqrt(t / f) of the times. With few different n-grams all have large
# shares; none below twice the mean share is left out then.
SUBSAMPLING, SUBSAMPLING_MEANS = 1e-4, 2.0
BATCH_TEXTS = 32  # texts that see the same n-grams: enough to share among threads, few enough to stay in the cache
CHUNK_ITEMS = 500_000  # of a call, about: half a second of work, after which Python listens to Ctrl-C
CHUNK_TEXTS = 4_096  # of a call, at most: `_shuffled` has 12 bits for them


def train_document_vectors(
    texts: Ragged,
    *,
    size: int = 256,
    epochs: int = 20,
    rate: float = 0.06,
    seed: int = 0,
    threads: int | None = None,
    progress: Listener | None = None,
) -> np.ndarray:
    """Train one vector per text.

    Texts that use the same words and phrases get vectors of small angle. Memory: 4 bytes for each feature of each text
    and of each different n-gram, 12 bytes for each word of the texts, and at the start, while n-grams are counted, 60.

    Parameters
    ----------
    texts : Ragged of int64
        Word ids, at least 0; 0 is the unknown word, which no n-gram contains. An n-gram of one to three words counts if
        it stands in the texts often enough: a 4,000th of the number of texts, at least 2 and at most 20 times.
    size : int, default=256
        Features of a vector, 1 to 65536.
    epochs : int, default=20
        Passes over the texts.
    rate : float, default=0.06
        Learning rate of the first step, above 0, at most 1; it falls linearly to 0.
    seed : int, default=0
    threads : int or None, default=None
        Of the engine; None takes 1. They do not change the result.
    progress : callable, optional
        Gets `PhaseAdvanced`, counted in texts.

    Returns
    -------
    ndarray of shape (texts, size), float32
        Rows of norm 1; zeros for texts without a frequent n-gram, or of which chance never drew one. Equal arguments
        give equal vectors, bit for bit, for any number of threads.

    Raises
    ------
    ShapeError
        If the ids, the offsets or a setting are out of range.
    UsageError
        If the engine is not there.
    """
    for name, number, most in (("size", size, 2**16), ("epochs", epochs, 2**20)):
        if not 1 <= number <= most:
            raise ShapeError(f"{name} of document vectors must be 1 to {most}, got {number}.")
    if not 0 < rate <= 1:
        raise ShapeError(f"rate of document vectors must be above 0, at most 1, got {rate}.")
    if reason := engine.missing():
        raise UsageError(f"The engine cannot train document vectors: {reason}.", "Install bilstm anew.")
    needed = int(np.clip(len(texts) * RARE_SHARE, FEWEST_TIMES, MOST_NEEDED))
    found = frequent_ngrams(texts, needed)
    documents = aligned_table(len(texts), size)
    is_drawn = np.zeros(len(texts), dtype=bool)
    if len(found.counts):
        draws = _Draws(found.items, found.counts, seed)
        _learn(documents, size, draws, epochs, rate, Context(threads or 1), is_drawn, progress or (lambda event: None))
    documents[~is_drawn] = 0
    return _of_norm_one(documents[:, :size])


def _learn(
    documents: np.ndarray,
    size: int,
    draws: _Draws,
    epochs: int,
    rate: float,
    context: Context,
    is_drawn: np.ndarray,
    tell: Listener,
) -> None:
    """Take all steps; the rate falls linearly with the place in the texts. Fills `documents` and `is_drawn`."""
    ngrams = aligned_table(draws.ngram_count, size)
    for table in (documents, ngrams):
        draws.fill(table[:, :size])
    for epoch in range(epochs):
        for chunk in draws.one_pass():
            rates = (rate * (1 - (epoch + chunk.passed) / epochs)).astype(np.float32)
            engine.run(
                documents,
                ngrams,
                chunk.rows,
                chunk.offsets,
                chunk.items,
                chunk.negatives,
                rates,
                BATCH_TEXTS,
                sharpness=SHARPNESS,
                negative_weight=NEGATIVE_WEIGHT,
                context=context,
            )
            is_drawn[chunk.rows[np.diff(chunk.offsets) > 0]] = True
            done = epoch * draws.text_count + chunk.end
            tell(events.PhaseAdvanced(PHASE, done, epochs * draws.text_count, "texts"))


@dataclass(frozen=True)
class _Chunk:
    """What one call of the engine reads.

    Parameters
    ----------
    rows, offsets, items, negatives : ndarray
        As `bilstm.engine.document_vectors.run` takes them.
    passed : ndarray of shape (batches,), float64
        Share of the pass that lies before each batch.
    end : int
        Texts of the pass that are done after this chunk.
    """

    rows: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    negatives: np.ndarray
    passed: np.ndarray
    end: int


class _Draws:
    """All random decisions of a training, in a fixed order, from raw numbers of PCG64, which numpy does not change.

    Parameters
    ----------
    items : Ragged of int32
        N-grams of each text.
    counts : ndarray of shape (ngrams,), int64
    seed : int
    """

    def __init__(self, items: Ragged, counts: np.ndarray, seed: int):
        self._items = items
        self.ngram_count = len(counts)
        self._rows = np.flatnonzero(items.lengths)  # texts with something to learn from
        shares = counts / counts.sum()
        keep = np.minimum(1.0, np.sqrt(max(SUBSAMPLING, SUBSAMPLING_MEANS / len(counts)) / shares))
        self._keep = np.minimum(keep * 2.0**32, 2.0**32 - 1).astype(np.uint32)
        self._noise = AliasTable((counts * keep) ** NOISE_POWER)
        self._bits = np.random.PCG64(seed % 2**64)

    @property
    def text_count(self) -> int:
        """Texts of a pass."""
        return len(self._rows)

    def fill(self, table: np.ndarray) -> None:
        """Fill a table (rows, columns) with rows of norm about 1, numbers evenly drawn."""
        width = table.shape[1]
        scale = np.float32(np.sqrt(12 / width) * 2.0**-24)
        for first in range(0, len(table), 10_000):  # so that the raw numbers take little memory
            part = table[first : first + 10_000]
            numbers = (self._halves(part.size) >> np.uint32(8)).astype(np.float32)  # 24 bits: exact in float32
            part[:] = (numbers.reshape(part.shape) - np.float32(2.0**23)) * scale

    def one_pass(self) -> Iterator[_Chunk]:
        """Go over all texts once, in a new order."""
        order = self._rows[np.argsort(self._bits.random_raw(self.text_count), kind="stable")]
        ends = np.cumsum(self._items.lengths[order])
        first = 0
        while first < len(order):
            before = int(ends[first - 1]) if first else 0
            last = int(np.searchsorted(ends, before + CHUNK_ITEMS, side="right"))
            last = min(max(last, first + 1), first + CHUNK_TEXTS)
            starts = np.concatenate([[before], ends[first : last - 1]])
            yield self._chunk(order[first:last], starts[::BATCH_TEXTS] / ends[-1], last)
            first = last

    def _chunk(self, rows: np.ndarray, passed: np.ndarray, end: int) -> _Chunk:
        chosen = self._items.select(rows)
        is_read = self._halves(len(chosen.values)) < self._keep[chosen.values]
        offsets = np.concatenate([[0], np.cumsum(is_read)])[chosen.offsets]
        items = self._shuffled(chosen.values[is_read], offsets)
        negatives = self._noise.draw(self._bits.random_raw(len(items)))
        return _Chunk(rows, offsets, items, negatives, passed, end)

    def _shuffled(self, items: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Mix the items of each document, so that a block is not a phrase.

        Document, chance and item make one number of 12 + 20 + 32 bits: sorting whole numbers is several times as fast
        as sorting by two keys. Items of equal chance are in the order of the n-grams.
        """
        keys = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64) << np.uint64(52), np.diff(offsets))
        keys |= (self._halves(len(items)) >> np.uint32(12)).astype(np.uint64) << np.uint64(32)
        keys |= items.astype(np.uint64)
        keys.sort()
        return keys.astype(np.uint32).astype(np.int32)

    def _halves(self, count: int) -> np.ndarray:
        """Return random numbers of 32 bits, the lower half of each raw number first."""
        raw = self._bits.random_raw((count + 1) // 2).astype("<u8")
        return raw.view("<u4")[:count].astype(np.uint32, copy=False)


def _of_norm_one(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (rows, columns) of length 1, in place where they are dense; zeros stay zeros."""
    vectors = np.ascontiguousarray(vectors)
    for first in range(0, len(vectors), 10_000):
        part = vectors[first : first + 10_000]
        # Of the largest number first: squares of very small ones would vanish.
        part /= np.maximum(np.abs(part).max(axis=1, keepdims=True), np.float32(1e-30))
        part /= np.maximum(np.sqrt((part**2).sum(axis=1, keepdims=True)), np.float32(1e-30))
    return vectors
