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

__all__ = ["Documents", "learn_documents"]

DOCUMENT_SHARE = 0.25  # of the time that is left
# Passes over the texts; with fewer the vectors say less than means of word vectors. Where labels choose what is read, a
# pass is a fifth of the work.
MOST_PASSES, MOST_TOLD_PASSES, FEWEST_PASSES = 20, 60, 4
FEWEST_TEXTS = 1_000  # with fewer no n-gram is frequent enough to say much


@dataclass(frozen=True)
class Documents:
    """Document vectors, rows of norm 1: of the texts that train, of those that choose, and of the unlabelled ones."""

    train: np.ndarray
    dev: np.ndarray
    unlabelled: np.ndarray

    def selected(self, rows: np.ndarray) -> Documents:
        """Keep some of the unlabelled texts."""
        return Documents(self.train, self.dev, self.unlabelled[rows])


def learn_documents(
    parts: tuple[Ragged, Ragged, Ragged],
    targets: np.ndarray | None,
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
    targets : ndarray of shape (texts that train,), int64, optional
        Their classes, if they are to choose the n-grams that are read; they need thousands of rows.
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
    from bilstm.training.document_vectors import DocumentTraining
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
    started = time.perf_counter()
    training = DocumentTraining(every, targets, seed=seed, threads=threads)

    def choose() -> int:
        most = MOST_PASSES if targets is None else MOST_TOLD_PASSES
        if np.isinf(seconds):
            return most
        a_pass = max(training.seconds_a_pass(), 1e-9)
        fitting = (DOCUMENT_SHARE * seconds - (time.perf_counter() - started)) / a_pass
        return int(min(fitting, most)) if fitting >= FEWEST_PASSES else 0

    passes = int(planned("document vectors", choose))
    if passes == 0:
        tell(events.Note(f"Document vectors: left out, there is no time for {FEWEST_PASSES} passes."))
        return None
    chosen = "" if targets is None else ", n-grams read as they tell the classes apart"
    tell(events.Note(f"Document vectors: {passes} passes over {len(every):,} texts{chosen}."))
    vectors = training.run(passes, progress=tell)
    if stored is not None:
        waiting = stored.with_suffix(".part")
        with open(waiting, "wb") as file:
            np.save(file, vectors)
        os.replace(waiting, stored)
    return apart(vectors)
