"""In-domain word vectors: skip-gram with negative sampling over the user's own texts.

Place in the way of the data: Ragged of token ids -> initial weights of the embedding layer. Words that stand in similar
contexts start near each other, so that a rare word is read like the frequent ones it resembles. Steps are taken by the
native engine, or by torch where it is not built; what is drawn is the same. Imports numpy; torch inside the function.

References
----------
.. [1] Mikolov, Sutskever, Chen, Corrado, Dean, "Distributed Representations of Words and Phrases and their
   Compositionality", NeurIPS 2013, arXiv:1310.4546, equations 1 to 5. The word in the middle is predicted from each
   word around it, and windows are of random width, as in the authors' program.
.. [2] Ji, Satish, Li, Dubey, "Parallelizing Word2Vec in Shared and Distributed Memory", 2016, arXiv:1604.04661: the
   negatives of a word serve all its context words. BIDMach (Canny, Zhao and others, UC Berkeley) reuses negatives for
   groups of context words in its own word2vec.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from bilstm.data.ragged import Ragged, check_offsets
from bilstm.engine import skipgram
from bilstm.engine.library import Context
from bilstm.errors import ShapeError, UsageError
from bilstm.training import events, skipgram_torch
from bilstm.training.events import Listener
from bilstm.training.skipgram_draws import Draws

__all__ = ["Memory", "remembered_word_vectors", "train_word_vectors"]

NEGATIVE_SAMPLES = 5
SUBSAMPLING = 1e-4  # threshold t of [1], section 2.3: frequent words are read less often
FIRST_RATE, LAST_RATE = 0.025, 0.0001
STEP_WORDS = 32  # words of a step of gradient descent
PHASE = "word vectors"

_Step = Callable[..., None]


@dataclass
class Memory:
    """Vectors that were learned, by what they depend on; see `remembered_word_vectors`.

    Attributes
    ----------
    seconds : float
        What learning the vectors took that were asked for last, also where they were remembered.
    """

    seconds: float = 0.0
    kept: dict[str, tuple[np.ndarray, float]] = field(default_factory=dict, repr=False)


_memory: ContextVar[Memory | None] = ContextVar("word vectors", default=None)
_MOST_KEPT = 4  # tables of vectors


@contextmanager
def remembered_word_vectors() -> Iterator[Memory]:
    """Within the block, vectors that were learned before from the same ids with the same settings are given again."""
    token = _memory.set(Memory())
    try:
        memory = _memory.get()
        assert memory is not None
        yield memory
    finally:
        _memory.reset(token)


def train_word_vectors(
    ids: Ragged,
    vocabulary_size: int,
    size: int,
    *,
    window: int = 8,
    epochs: int = 5,
    scale: float = 0.3,
    seed: int = 0,
    backend: str = "auto",
    threads: int | None = 1,
    progress: Listener | None = None,
) -> np.ndarray:
    """Train one vector per token id.

    Parameters
    ----------
    ids : Ragged of int64 (total_steps,)
        Token ids of the training texts; id 0, the unknown word, is skipped.
    vocabulary_size : int
        Ids are below it.
    size : int
        Features of a vector.
    window : int, default=8
        Words to either side that count as context, at most.
    epochs : int, default=5
        Passes over the texts.
    scale : float, default=0.3
        Standard deviation over all numbers of the result: with the vectors' own, smaller scale the recurrent layers
        start almost linear and learn slowly.
    seed : int, default=0
    backend : {"auto", "engine", "torch"}, default="auto"
        "auto" takes the engine where it is built, else torch with a note.
    threads : int or None, default=1
        Of the engine; None takes 1. They do not change the result.
    progress : callable, optional
        Gets `PhaseAdvanced` and notes.

    Returns
    -------
    ndarray of shape (vocabulary_size, size), float32
        Zero for id 0 and for ids that do not occur. Equal arguments give equal vectors, bit for bit.

    Raises
    ------
    ShapeError
        If an id or a size is out of range.
    UsageError
        If the backend is unknown, or is the engine where it is not built.
    """
    tell = progress or (lambda event: None)
    values = _checked_ids(ids, vocabulary_size)
    for name, number, most in (("size", size, 2**16), ("window", window, 1000), ("epochs", epochs, 2**20)):
        if not 1 <= number <= most:
            raise ShapeError(f"{name} of word vectors must be 1 to {most}, got {number}.")
    counts = np.bincount(values, minlength=vocabulary_size)
    counts[0] = 0
    known = np.flatnonzero(counts)
    if len(known) < 2:  # no context to learn from
        return np.zeros((vocabulary_size, size), dtype=np.float32)
    step = _step_function(backend, threads, tell)
    own = Ragged(values, np.asarray(ids.offsets))
    memory = _memory.get()
    key = _key(own, vocabulary_size, size, window, epochs, scale, seed, step is skipgram_torch.run)
    if memory is not None and key in memory.kept:
        vectors, memory.seconds = memory.kept[key]
        tell(events.Note("Word vectors: those that were learned before from these texts."))
        return vectors.copy()
    started = time.perf_counter()
    draws = Draws(own, vocabulary_size, window=window, negatives=NEGATIVE_SAMPLES, subsampling=SUBSAMPLING, seed=seed)
    learned = _learn(draws, step, len(values), vocabulary_size, size, epochs, tell)
    vectors = np.zeros((vocabulary_size, size), dtype=np.float32)
    vectors[known] = learned[known]
    vectors *= np.float32(scale / max(float(vectors[known].std()), 1e-12))
    if memory is not None:
        memory.seconds = time.perf_counter() - started
        while len(memory.kept) >= _MOST_KEPT:
            del memory.kept[next(iter(memory.kept))]
        memory.kept[key] = vectors.copy(), memory.seconds
    return vectors


def _learn(
    draws: Draws, step: _Step, total: int, vocabulary_size: int, size: int, epochs: int, tell: Listener
) -> np.ndarray:
    """Take all steps; the rate falls linearly with the place in the texts."""
    inputs, outputs = (skipgram.aligned_table(vocabulary_size, size) for _ in range(2))
    inputs[:, :size] = draws.uniform(vocabulary_size, size) / np.float32(size)  # as Mikolov's program begins
    for epoch in range(epochs):
        for run in draws.one_pass():
            share = (epoch * total + run.places[::STEP_WORDS]) / (epochs * total)
            rates = (FIRST_RATE - (FIRST_RATE - LAST_RATE) * share).astype(np.float32)
            step(inputs, outputs, run.words, run.before, run.after, run.negatives, rates, STEP_WORDS)
            tell(events.PhaseAdvanced(PHASE, epoch * total + run.end, epochs * total, "words"))
    return inputs[:, :size]


def _checked_ids(ids: Ragged, vocabulary_size: int) -> np.ndarray:
    values = np.asarray(ids.values)
    check_offsets(np.asarray(ids.offsets), len(values))
    if vocabulary_size < 1:
        raise ShapeError(f"vocabulary_size must be at least 1, got {vocabulary_size}.")
    if len(values) and not 0 <= values.min() <= values.max() < vocabulary_size:
        wrong = int(np.flatnonzero((values < 0) | (values >= vocabulary_size))[0])
        raise ShapeError(
            f"token ids must be at least 0 and below {vocabulary_size}, got {values[wrong]} at step {wrong}."
        )
    return values


def _step_function(backend: str, threads: int | None, tell: Listener) -> _Step:
    """Return what takes the steps."""
    if backend not in ("auto", "engine", "torch", "reference"):
        raise UsageError(f"backend of word vectors must be auto, engine or torch, got {backend!r}.")
    missing = skipgram.missing()
    if backend == "auto" and missing is not None:
        tell(events.Note(f"Word vectors are learned by torch, which takes about ten times as long: {missing}."))
    if backend in ("torch", "reference") or (backend == "auto" and missing is not None):
        return skipgram_torch.run
    if missing is not None:
        raise UsageError(f"The engine cannot learn word vectors: {missing}.", "Use --backend torch.")
    context = Context(threads or 1)
    return lambda *arguments: skipgram.run(*arguments, context=context)


def _key(ids: Ragged, *settings: object) -> str:
    digest = hashlib.sha256(repr(settings).encode())
    for array in (ids.values, ids.offsets):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
