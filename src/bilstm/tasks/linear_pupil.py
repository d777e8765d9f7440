"""The linear baseline beside a network that learns from unlabelled texts: first a teacher, in the end a pupil too.

Place in the way of the data: words of all texts -> margins of the baseline's models, for `joined_teaching`; and what
the joined teacher answers -> one more linear model over the baseline's n-grams, which is joined to the network beside
them. The labelled texts alone show most n-grams a few times; with the answered ones each is seen several times as
often, and an n-gram model errs in other places than the network that the same teacher taught (Blum and Mitchell
1998). Imports numpy; scipy inside the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.weighed_rows import weigh
from bilstm.runtime.ngram_linear import LinearHead, NgramLinear
from bilstm.tasks.joined_teaching import TeacherMargins
from bilstm.tasks.text_classification import Texts, words_of

if TYPE_CHECKING:
    from bilstm.evaluation.baseline import LinearBaseline

__all__ = ["LinearPupil"]

CHUNK_TEXTS = 4096  # whose words are held as strings at once
MOST_WORDS = 20_000_000  # of all texts that the pupil reads: about a gigabyte
RIDGE, SOLVER_STEPS = 0.3, 30
LABEL_LOGIT, MOST_SURE = 3.0, 5.0  # what a label counts as (0.95), and the surest answer (0.993)


class LinearPupil:
    """The baseline's models, and one that learns from a joined teacher.

    Parameters
    ----------
    baseline : LinearBaseline
        Of classes.
    train : texts
        That the baseline learned from.
    targets : ndarray of shape (train texts,)
        Their classes.
    classes : int
        At least 2; with 2 there is one output, the logit of class 1.
    dev, unlabelled : texts
    """

    def __init__(
        self,
        baseline: LinearBaseline,
        train: Texts,
        targets: np.ndarray,
        classes: int,
        dev: Texts,
        unlabelled: Texts,
    ):
        self._models = baseline.to_runtime()
        self._train, self._targets, self._classes = train, targets, classes
        self._dev, self._unlabelled = dev, unlabelled
        self._numbers: Ragged | None = None
        self._margins: TeacherMargins | None = None
        self._heard: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def margins(self) -> TeacherMargins:
        """Return what the baseline's models say of the development texts and of the unlabelled ones."""
        if self._margins is None:
            dev = self._models.margins(words_of(self._dev))
            self._margins = TeacherMargins(dev, self._models.margins_of_numbers(self._unlabelled_numbers()))
        return self._margins

    def hear(self, rows: np.ndarray, answers: np.ndarray, is_kept_apart: np.ndarray) -> None:
        """Take note of a teacher's answers to some of the unlabelled texts, in place of earlier ones.

        A later round knows more, and members of an ensemble ask alike: the last answers count.

        Parameters
        ----------
        rows : ndarray of int64
        answers : ndarray of shape (rows, classes)
        is_kept_apart : ndarray of bool, shape (rows,)
            From these nobody learns; they show how far to trust whom.
        """
        self._heard = rows, answers, is_kept_apart

    def kept_apart(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the unlabelled texts from which nobody learned, by number, and their answers (rows, classes)."""
        if self._heard is None:
            return np.zeros(0, dtype=np.int64), np.zeros((0, self._classes))
        rows, answers, is_apart = self._heard
        return rows[is_apart], answers[is_apart]

    def models(self) -> NgramLinear:
        """Return the baseline's models, and behind them the one that learned from the answers, if there were any."""
        if self._heard is None:
            return self._models
        rows, answers, is_apart = self._heard
        head = self._learned(rows[~is_apart], answers[~is_apart])
        return NgramLinear(self._models.index, (*self._models.heads, head))

    def margins_of(self, models: NgramLinear, rows: np.ndarray) -> np.ndarray:
        """Return what models over the baseline's n-grams say of unlabelled texts, (rows, outputs, models)."""
        return models.margins_of_numbers(self._unlabelled_numbers().select(rows))

    def _learned(self, rows: np.ndarray, answers: np.ndarray) -> LinearHead:
        """Fit least squares with a ridge to logits: those of the answers, and a fixed one for a label."""
        from bilstm.training.ridge import sparse_ridge

        wanted = np.arange(self._classes) if self._classes > 2 else np.array([1])
        labels = np.where(self._targets[:, None] == wanted, LABEL_LOGIT, -LABEL_LOGIT)
        likely = np.clip(answers[:, wanted].astype(np.float64), 1e-9, 1 - 1e-9)
        taught = np.clip(np.log(likely / (1 - likely)), -MOST_SURE, MOST_SURE)
        own, others = self._numbers_of(self._train), self._unlabelled_numbers().select(rows)
        kept = _within(others.lengths, MOST_WORDS - len(own.values))
        targets = np.concatenate([labels, taught[kept]])
        features, frequency = self._features(own, others.select(kept))
        middle = targets.mean(axis=0)
        weights = sparse_ridge(features, targets - middle, np.ones(len(targets)), RIDGE, SOLVER_STEPS)
        return LinearHead(self._models.index.max_order, weights.astype(np.float32), middle, frequency)

    def _features(self, *parts: Ragged) -> tuple[Any, np.ndarray]:
        """Return TF-IDF rows, csr, as `LinearHead` weighs them, norm 1, and the inverse frequency of each n-gram.

        ln((1 + texts) / texts with it): an n-gram that stands everywhere still counts a little, so no norm is 0.
        """
        from scipy import sparse

        index = self._models.index
        blocks: list[Any] = []
        for numbers in parts:
            for start in range(0, len(numbers), CHUNK_TEXTS):
                chosen = numbers.select(np.arange(start, min(start + CHUNK_TEXTS, len(numbers))))
                blocks.append(sparse.hstack(index.transform_numbers(chosen), format="csr", dtype=np.float32))
        matrix = _stacked(blocks)
        found = np.bincount(matrix.indices, minlength=matrix.shape[1])
        frequency = np.log((1 + matrix.shape[0]) / np.maximum(found, 1))
        return weigh(matrix, frequency.astype(np.float32)), frequency

    def _unlabelled_numbers(self) -> Ragged:
        if self._numbers is None:
            self._numbers = self._numbers_of(self._unlabelled)
        return self._numbers

    def _numbers_of(self, texts: Texts) -> Ragged:
        """Return the baseline's number of each word, -1 where it has none, without holding all words as strings."""
        parts = []
        for start in range(0, len(texts), CHUNK_TEXTS):
            chosen = slice(start, start + CHUNK_TEXTS)
            some = texts.select(np.arange(len(texts))[chosen]) if isinstance(texts, Ragged) else texts[chosen]
            parts.append(self._models.numbers_of(words_of(some)))
        lengths = np.concatenate([part.lengths for part in parts] or [np.zeros(0, dtype=np.int64)])
        values = np.concatenate([part.values for part in parts] or [np.zeros(0, dtype=np.int64)])
        return Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))


def _stacked(blocks: list[Any]) -> Any:
    """Put csr blocks on top of each other, and use them up: only one of their arrays is ever held twice."""
    from scipy import sparse

    shape = sum(block.shape[0] for block in blocks), blocks[0].shape[1]
    lengths = np.concatenate([np.diff(block.indptr) for block in blocks])
    data = np.concatenate([block.data for block in blocks])
    for block in blocks:
        block.data = block.data[:0]
    indices = np.concatenate([block.indices for block in blocks])
    blocks.clear()
    return sparse.csr_array((data, indices, np.concatenate([[0], np.cumsum(lengths)])), shape=shape)


def _within(lengths: np.ndarray, words: int) -> np.ndarray:
    """Choose texts, rising, that together hold at most so many words; the same ones each time."""
    order = np.random.default_rng(0).permutation(len(lengths))
    return np.sort(order[np.cumsum(lengths[order]) <= words])
