"""Document vectors of a training's texts, learned within a share of its time.

Place in the way of the data: ids of labelled, development and unlabelled texts -> a vector each, which linear teachers
read. They are learned once; with a checkpoint they are stored, so that a run that was cut goes on with the same ones.
Imports numpy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm.data.ragged import Ragged

if TYPE_CHECKING:
    from bilstm.training.events import Listener

__all__ = ["Documents", "learn_documents", "passes_within"]

DOCUMENT_SHARE = 0.25  # of the time that is left
MOST_PASSES, FEWEST_PASSES = 20, 4  # over the texts; with fewer the vectors say less than means of word vectors
FEWEST_TEXTS = 1_000  # with fewer no n-gram is frequent enough to say much
SAMPLE_SHARE, FEWEST_SAMPLE = 50, 200  # one text in so many, but so many at least, show how fast it goes
SAMPLE_PASSES = 3  # over them, beside one that counts n-grams too
SLOWER = 1.5  # a pass over all texts, whose n-grams no cache holds, against what the sample lets expect


@dataclass(frozen=True)
class Documents:
    """Document vectors, rows of norm 1: of the texts that train, of those that choose, and of the unlabelled ones."""

    train: np.ndarray
    dev: np.ndarray
    unlabelled: np.ndarray

    def selected(self, rows: np.ndarray) -> Documents:
        """Keep some of the unlabelled texts."""
        return Documents(self.train, self.dev, self.unlabelled[rows])


def passes_within(seconds: float, texts: Ragged, threads: int | None) -> int:
    """Return how many passes over the texts fit into a share of the seconds that are left; 0 if too few."""
    from bilstm.training.document_vectors import train_document_vectors

    if np.isinf(seconds):
        return MOST_PASSES
    count = min(len(texts), max(FEWEST_SAMPLE, len(texts) // SAMPLE_SHARE))
    sample = texts.select(np.arange(count))
    taken = []
    for passes in (1, 1 + SAMPLE_PASSES):
        started = time.perf_counter()
        train_document_vectors(sample, epochs=passes, threads=threads)
        taken.append(time.perf_counter() - started)
    larger = len(texts.values) / max(len(sample.values), 1)
    of_sample = max(taken[1] - taken[0], 1e-6) / SAMPLE_PASSES
    counting = max(taken[0] - of_sample, 0.0) * larger  # of n-grams, once
    fitting = int((DOCUMENT_SHARE * seconds - counting) / (of_sample * larger * SLOWER))
    return min(fitting, MOST_PASSES) if fitting >= FEWEST_PASSES else 0


def learn_documents(
    parts: tuple[Ragged, Ragged, Ragged],
    seconds: float,
    *,
    seed: int,
    threads: int | None,
    stored: Path | None,
    planned: Callable[[str, Callable[[], Any]], Any],
    tell: Listener,
) -> Documents | None:
    """Learn the vectors of all texts, or read those of before a cut; None, said, where that cannot be done.

    Parameters
    ----------
    parts : three Ragged of int64
        Word ids of the texts that train, of those that choose, and of the unlabelled ones.
    seconds : float
        What is left of the budget.
    seed, threads
    stored : Path, optional
        File that the vectors are kept in.
    planned : callable
        Given a name and what chooses, returns what was chosen before under that name, or chooses.
    tell : callable
        Gets notes and the progress.
    """
    from bilstm.engine import document_vectors
    from bilstm.training import events
    from bilstm.training.document_vectors import train_document_vectors
    from bilstm.training.unlabelled import joined_rows

    every = joined_rows(joined_rows(parts[0], parts[1]), parts[2])
    ends = np.cumsum([len(part) for part in parts])

    def apart(vectors: np.ndarray) -> Documents:
        return Documents(vectors[: ends[0]], vectors[ends[0] : ends[1]], vectors[ends[1] :])

    missing = document_vectors.missing()
    if missing is not None:
        tell(events.Note(f"Document vectors: left out, {missing}."))
        return None
    if len(every) < FEWEST_TEXTS:
        tell(events.Note(f"Document vectors: left out, {len(every):,} texts are too few."))
        return None
    if stored is not None and stored.exists():
        found: np.ndarray = np.load(stored)
        return apart(found)
    passes = int(planned("document vectors", lambda: passes_within(seconds, every, threads)))
    if passes == 0:
        tell(events.Note(f"Document vectors: left out, there is no time for {FEWEST_PASSES} passes."))
        return None
    tell(events.Note(f"Document vectors: {passes} passes over {len(every):,} texts."))
    vectors = train_document_vectors(every, epochs=passes, seed=seed, threads=threads, progress=tell)
    if stored is not None:
        waiting = stored.with_suffix(".part")
        with open(waiting, "wb") as file:
            np.save(file, vectors)
        os.replace(waiting, stored)
    return apart(vectors)
