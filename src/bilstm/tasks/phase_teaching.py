"""Unlabelled texts with the answers of a linear teacher: what the network learns from when labels are few.

The teacher stands in `training/linear_teacher.py`. It is asked once; with a checkpoint its answers are stored, so that
a run that was cut goes on with the same ones. Imports numpy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bilstm.data.ngrams import NgramIndex
from bilstm.data.ragged import Ragged
from bilstm.runtime.ngram_linear import LinearHead, NgramLinear
from bilstm.tasks.phase_documents import Documents
from bilstm.tasks.text_network import Part

if TYPE_CHECKING:
    from bilstm.training.linear_teacher import TaughtNgrams

__all__ = ["Lesson", "lesson_of", "runtime_linear", "teacher_texts_within"]

_ARRAYS = ("words", "pairs", "inverse_frequency", "weights", "intercepts")

TEACHER_SHARE = 0.15  # of the time that is left
WORDS_A_SECOND = 400_000  # that a teacher reads, all its rounds together, on a slow machine
MOST_TEACHER_TEXTS = 100_000


def teacher_texts_within(seconds: float, lengths: np.ndarray) -> int:
    """Return of how many texts, of these lengths, the teacher learns in a share of the time that is left."""
    if np.isinf(seconds):
        return min(len(lengths), MOST_TEACHER_TEXTS)
    words = max(float(lengths.sum()), 1.0)
    part = min(TEACHER_SHARE * seconds * WORDS_A_SECOND / words, 1.0)
    return min(int(part * len(lengths)), MOST_TEACHER_TEXTS)


@dataclass(frozen=True)
class Lesson:
    """What the network learns from, and the linear model that said so.

    Parameters
    ----------
    taught : Part
        Texts with the surer part of the teacher's answers, each class in its share.
    model : TaughtNgrams
    """

    taught: Part
    model: TaughtNgrams


def lesson_of(
    train: Part,
    texts: Ragged,
    read: Ragged,
    classes: int,
    vectors: np.ndarray,
    documents: Documents | None,
    seed: int,
    stored: Path | None,
) -> Lesson:
    """Ask the teacher, or read what it said before a cut.

    Parameters
    ----------
    train : Part
        Labelled texts; every class occurs.
    texts, read : Ragged
        Unlabelled texts as the teacher reads them, and the same as the network does.
    classes : int
    vectors : ndarray of shape (vocabulary, size)
    documents : Documents, optional
        Of the labelled texts and of these.
    seed : int
    stored : Path, optional
        File that the answers are kept in, and read from if it is there.
    """
    from bilstm.training.linear_teacher import TaughtNgrams, ask_linear_teacher, pseudo_labels
    from bilstm.training.unlabelled import joined_rows

    if stored is not None and stored.exists():
        with np.load(stored) as kept:
            model = TaughtNgrams(**{name: kept[name] for name in _ARRAYS})
            return Lesson(Part(read.select(kept["rows"]), kept["targets"]), model)
    targets = train.targets.astype(np.int64)
    own = None if documents is None else np.concatenate([documents.train, documents.unlabelled])
    every = joined_rows(train.ids, texts)
    said = ask_linear_teacher(every, targets, classes, vectors, documents=own, seed=seed)
    shares = np.bincount(targets, minlength=classes) / len(targets)
    found = pseudo_labels(said.answers[len(targets) :], shares)
    if stored is not None:
        waiting = stored.with_suffix(".part")
        with open(waiting, "wb") as file:
            np.savez(file, rows=found.rows, targets=found.targets, **vars(said.model))
        os.replace(waiting, stored)
    return Lesson(Part(read.select(found.rows), found.targets), said.model)


def runtime_linear(model: TaughtNgrams, word_of: Callable[[int], str]) -> NgramLinear:
    """Return the teacher's last model as one that reads words."""
    words = [word_of(int(number)) for number in model.words]
    head = LinearHead(2, model.weights, model.intercepts, model.inverse_frequency)
    return NgramLinear(NgramIndex.from_arrays(words, [model.pairs]), (head,))
