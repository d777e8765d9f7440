"""Nearest training examples: which training texts look most like this one to the network.

The network's last hidden vector is what its decision is made of; texts are near where the cosine of these vectors is
large (Papernot and McDaniel 2018, arXiv 1803.04765, use the same space). The training texts are not stored in the model
folder: they are given again. A near text is one the network treats alike; that it caused the answer is not proven.
Imports numpy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from bilstm.data.batching import ordered_batches
from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import IdEncoder
from bilstm.errors import DataError, UsageError
from bilstm.explanation.explanation import Explanation, Neighbour
from bilstm.explanation.subject import TextSubject

__all__ = ["Neighbourhood"]

BATCH_ROWS, BATCH_STEPS = 256, 32_768
CHUNK_TEXTS = 4096


class Neighbourhood:
    """Training texts in the space of the network's last hidden vector.

    Parameters
    ----------
    subject : TextSubject
    texts : sequence of str
    labels : sequence of str
        Of each text, as the file spells them.
    progress : function, optional
        Called with the texts that are done and all texts.

    Raises
    ------
    DataError
        If there are no texts.
    UsageError
        If the model reads word ids, or the network has no hidden vector behind its pooling.
    """

    def __init__(
        self,
        subject: TextSubject,
        texts: Sequence[str],
        labels: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ):
        if isinstance(subject.encoder, IdEncoder):
            raise UsageError("this model reads word ids: it has no training texts to compare with.")
        if not len(texts):
            raise DataError("there are no training texts to compare with.")
        network = subject.network
        if not network.is_pooled or len(network.layers) < 2:
            raise UsageError("this network has no hidden vector of a text to compare by.")
        self._subject, self._texts, self._labels = subject, texts, labels
        parts = []
        for first in range(0, len(texts), CHUNK_TEXTS):
            parts.append(self._represent(texts[first : first + CHUNK_TEXTS]))
            if progress is not None:
                progress(min(first + CHUNK_TEXTS, len(texts)), len(texts))
        self._vectors = np.concatenate(parts)

    def _represent(self, texts: Sequence[str]) -> np.ndarray:
        """Return hidden vectors of length one (zero where they have no length)."""
        ids: Ragged = self._subject.encoder.encode(texts)  # type: ignore[arg-type]
        found = None
        for rows in ordered_batches(ids.lengths, max_rows=BATCH_ROWS, max_steps=BATCH_STEPS):
            chosen = ids.select(rows)
            hidden = self._subject.network.hidden(Ragged(self._subject.table[chosen.values], chosen.offsets))
            if found is None:
                found = np.zeros((len(texts), hidden.shape[1]), dtype=np.float32)
            found[rows] = hidden
        assert found is not None
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.where(length > 0, length, 1)

    def nearest(self, texts: Sequence[str], count: int = 5) -> list[tuple[Neighbour, ...]]:
        """Return the nearest training texts of each text, nearest first; equal ones in the order of the file."""
        similarity = self._represent(texts) @ self._vectors.T
        found = []
        for row in similarity:
            order = [int(at) for at in np.argsort(-row, kind="stable")[:count]]
            found.append(tuple(Neighbour(self._texts[at], str(self._labels[at]), float(row[at]), at) for at in order))
        return found

    def add(self, explanation: Explanation, count: int = 5) -> Explanation:
        """Return the explanation with its nearest training texts."""
        return dataclasses.replace(explanation, neighbours=self.nearest([explanation.text], count)[0])
