"""Vectors of texts, learned without labels: each predicts the n-grams of its text by cosine.

Place in the way of the data: Ragged of word ids -> one vector a text -> a linear model. What makes texts alike is which
words and short phrases they use, so few labels say much about such vectors. Where labels are many they may choose what
is read: n-grams that stand in all classes alike are skipped ([5]_), which leaves a fifth of the work. The native engine
takes the steps; its header `csrc/bilstm_document_vectors.h` has the equations. Imports numpy.

References
----------
.. [1] T. Thongtan, T. Phienthrakul, Sentiment Classification Using Document Embeddings Trained with Cosine Similarity,
   ACL 2019 student research workshop: the probability of an n-gram is the logistic function of 6 times the cosine.
.. [2] B. Li, T. Liu, X. Du, D. Zhang, Z. Zhao, Learning Document Embeddings by Predicting N-grams for Sentiment
   Classification of Long Movie Reviews, 2016, arXiv:1512.08183: n-grams of one to three words.
.. [3] Q. Le, T. Mikolov, Distributed Representations of Sentences and Documents, ICML 2014, arXiv:1405.4053: PV-DBOW.
.. [4] T. Mikolov and others, Distributed Representations of Words and Phrases and their Compositionality, NeurIPS 2013,
   arXiv:1310.4546: negatives from counts^(3/4), section 2.2; frequent items are read less often, section 2.3.
.. [5] B. Zhang, N. Arefyev, The Document Vectors Using Cosine Similarity Revisited, Insights from Negative Results in
   NLP 2022, arXiv:2205.13357: items are drawn by their naive Bayes weights. The power below is our own.
.. [6] S. Wang, C. Manning, Baselines and Bigrams: Simple, Good Sentiment and Topic Classification, ACL 2012: those
   weights, log-count ratios of binary counts with one added, equation 2.
"""

from __future__ import annotations

import time
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
from bilstm.training.frequent_ngrams import FrequentNgrams, frequent_ngrams
from bilstm.training.skipgram_draws import AliasTable

__all__ = ["PHASE", "DocumentTraining", "train_document_vectors"]

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
TIMED_CHUNKS = 6  # show how long a pass takes
# Power of the naive Bayes weight of an n-gram; least share of the times that it is read, so that something is.
TELLING_POWER, LEAST_TELLING = 2, 1e-3


def train_document_vectors(
    texts: Ragged,
    targets: np.ndarray | None = None,
    *,
    size: int = 256,
    epochs: int = 20,
    rate: float = 0.06,
    seed: int = 0,
    threads: int | None = None,
    progress: Listener | None = None,
) -> np.ndarray:
    """Train one vector per text: `DocumentTraining` and its `run` in one call."""
    _check_plan(epochs, rate)  # before n-grams are counted, which takes a while
    return DocumentTraining(texts, targets, size=size, seed=seed, threads=threads).run(epochs, rate, progress)


class DocumentTraining:
    """A training of one vector per text.

    Texts that use the same words and phrases get vectors of small angle. Memory: 4 bytes for each feature of each text
    and of each different n-gram, 12 bytes for each word of the texts, and at the start, while n-grams are counted, 60.

    Parameters
    ----------
    texts : Ragged of int64
        Word ids, at least 0; 0 is the unknown word, which no n-gram contains. An n-gram of one to three words counts if
        it stands in the texts often enough: a 4,000th of the number of texts, at least 2 and at most 20 times.
    targets : ndarray of shape (labelled,), int64, optional
        Classes of the first texts, from 0, at least two of them. With them n-grams are read the less, the less they
        tell the classes apart: r^2 of the times, at least a thousandth, where r is the largest log-count ratio of [6]_
        of a class against the rest. That needs thousands of labels: an n-gram in few labelled texts has a ratio near 0.
    size : int, default=256
        Features of a vector, 1 to 65536.
    seed : int, default=0
    threads : int or None, default=None
        Of the engine; None takes 1. They do not change the result.

    Raises
    ------
    ShapeError
        If the ids, the offsets, the targets or a setting are out of range.
    UsageError
        If the engine is not there.
    """

    def __init__(
        self,
        texts: Ragged,
        targets: np.ndarray | None = None,
        *,
        size: int = 256,
        seed: int = 0,
        threads: int | None = None,
    ):
        if not 1 <= size <= 2**16:
            raise ShapeError(f"size of document vectors must be 1 to {2**16}, got {size}.")
        if reason := engine.missing():
            raise UsageError(f"The engine cannot train document vectors: {reason}.", "Install bilstm anew.")
        needed = int(np.clip(len(texts) * RARE_SHARE, FEWEST_TIMES, MOST_NEEDED))
        self._found = frequent_ngrams(texts, needed)
        self._shares = None if targets is None else _telling_shares(self._found, np.asarray(targets))
        self._size, self._seed, self._context = size, seed, Context(threads or 1)

    def seconds_a_pass(self) -> float:
        """Measure, on some of the texts, how long a pass over all takes."""
        if not len(self._found.counts):
            return 0.0
        draws = _Draws(self._found, self._shares, self._seed)
        tables = self._tables(draws)
        is_drawn = np.zeros(len(self._found.items), dtype=bool)
        started, begun = time.perf_counter(), 0.0
        for number, chunk in enumerate(draws.one_pass()):
            self._learn_chunk(tables, chunk, np.zeros(len(chunk.passed), dtype=np.float32), is_drawn)
            if number == TIMED_CHUNKS or chunk.share == 1:
                break
            if number == 0:  # it also brings the tables into memory
                started, begun = time.perf_counter(), chunk.share
        return (time.perf_counter() - started) / (chunk.share - begun)

    def run(self, epochs: int, rate: float = 0.06, progress: Listener | None = None) -> np.ndarray:
        """Train the vectors, from the start.

        Parameters
        ----------
        epochs : int
            Passes over the texts.
        rate : float, default=0.06
            Learning rate of the first step, above 0, at most 1; it falls linearly to 0.
        progress : callable, optional
            Gets `PhaseAdvanced`, counted in texts.

        Returns
        -------
        ndarray of shape (texts, size), float32
            Rows of norm 1; zeros for texts without a frequent n-gram, or of which chance never drew one. Equal
            arguments give equal vectors, bit for bit, for any number of threads.
        """
        _check_plan(epochs, rate)
        is_drawn = np.zeros(len(self._found.items), dtype=bool)
        if not len(self._found.counts):
            return np.zeros((len(is_drawn), self._size), dtype=np.float32)
        draws = _Draws(self._found, self._shares, self._seed)
        tables = self._tables(draws)
        tell = progress or (lambda event: None)
        for epoch in range(epochs):
            for chunk in draws.one_pass():
                rates = (rate * (1 - (epoch + chunk.passed) / epochs)).astype(np.float32)
                self._learn_chunk(tables, chunk, rates, is_drawn)
                done = epoch * draws.text_count + chunk.end
                tell(events.PhaseAdvanced(PHASE, done, epochs * draws.text_count, "texts"))
        documents = tables[0]
        documents[~is_drawn] = 0
        return _of_norm_one(documents[:, : self._size])

    def _tables(self, draws: _Draws) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors of texts and of n-grams as they are before the first step."""
        tables = aligned_table(len(self._found.items), self._size), aligned_table(draws.ngram_count, self._size)
        for table in tables:
            draws.fill(table[:, : self._size])
        return tables

    def _learn_chunk(
        self, tables: tuple[np.ndarray, np.ndarray], chunk: _Chunk, rates: np.ndarray, is_drawn: np.ndarray
    ) -> None:
        engine.run(
            *tables,
            chunk.rows,
            chunk.offsets,
            chunk.items,
            chunk.negatives,
            rates,
            BATCH_TEXTS,
            sharpness=SHARPNESS,
            negative_weight=NEGATIVE_WEIGHT,
            context=self._context,
        )
        is_drawn[chunk.rows[np.diff(chunk.offsets) > 0]] = True


def _check_plan(epochs: int, rate: float) -> None:
    if not 1 <= epochs <= 2**20:
        raise ShapeError(f"epochs of document vectors must be 1 to {2**20}, got {epochs}.")
    if not 0 < rate <= 1:
        raise ShapeError(f"rate of document vectors must be above 0, at most 1, got {rate}.")


def _telling_shares(found: FrequentNgrams, targets: np.ndarray) -> np.ndarray:
    """Return how often each n-gram is read, 0 to 1, by how well it tells the classes of the first texts apart."""
    if len(targets) > len(found.items) or (len(targets) and targets.min() < 0):
        raise ShapeError(f"targets must be classes from 0 of at most {len(found.items)} texts.")
    if len(np.unique(targets)) < 2:
        raise ShapeError("targets must be of two classes at least.")
    ngrams = len(found.counts)
    first = found.items.select(np.arange(len(targets)))
    rows = np.repeat(np.arange(len(targets)), first.lengths)
    stands = np.unique(rows * ngrams + first.values.astype(np.int64))  # an n-gram counts once a text
    of_class = targets[stands // ngrams]
    numbers = (stands % ngrams)[np.argsort(of_class, kind="stable")]
    ends = np.cumsum(np.unique(of_class, return_counts=True)[1])
    everywhere = np.bincount(numbers, minlength=ngrams)
    ratios = np.zeros(ngrams)
    for of_one in np.split(numbers, ends[:-1]):  # class after class: a table of all would be large
        own = np.bincount(of_one, minlength=ngrams)
        inside, outside = (np.log((part + 1) / (part.sum() + ngrams)) for part in (own, everywhere - own))
        np.maximum(ratios, np.abs(inside - outside), out=ratios)
    shares: np.ndarray = np.clip(ratios**TELLING_POWER, LEAST_TELLING, 1.0)
    return shares


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
    share : float
        Share of the pass that is done after this chunk, 1 for the last one.
    """

    rows: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    negatives: np.ndarray
    passed: np.ndarray
    end: int
    share: float


class _Draws:
    """All random decisions of a training, in a fixed order, from raw numbers of PCG64, which numpy does not change.

    Parameters
    ----------
    found : FrequentNgrams
    telling : ndarray of shape (ngrams,), float64, optional
        How often each n-gram is read, 0 to 1, beside what its frequency says.
    seed : int
    """

    def __init__(self, found: FrequentNgrams, telling: np.ndarray | None, seed: int):
        self._items, counts = found.items, found.counts
        self.ngram_count = len(counts)
        self._rows = np.flatnonzero(self._items.lengths)  # texts with something to learn from
        shares = counts / counts.sum()
        keep = np.minimum(1.0, np.sqrt(max(SUBSAMPLING, SUBSAMPLING_MEANS / len(counts)) / shares))
        if telling is not None:
            keep *= telling
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
            yield self._chunk(order[first:last], starts[::BATCH_TEXTS] / ends[-1], last, ends[last - 1] / ends[-1])
            first = last

    def _chunk(self, rows: np.ndarray, passed: np.ndarray, end: int, share: float) -> _Chunk:
        chosen = self._items.select(rows)
        is_read = self._halves(len(chosen.values)) < self._keep[chosen.values]
        offsets = np.concatenate([[0], np.cumsum(is_read)])[chosen.offsets]
        items = self._shuffled(chosen.values[is_read], offsets)
        negatives = self._noise.draw(self._bits.random_raw(len(items)))
        return _Chunk(rows, offsets, items, negatives, passed, end, share)

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
