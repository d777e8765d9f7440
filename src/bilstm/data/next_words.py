"""What each step of a text must predict: the word after it and the word before it.

Step between encoding and the layers of a language model: `Ragged ids -> pieces -> NextWords`. A text of n words has
n + 1 predictions a direction: forwards its words from the first on and then its end, backwards its words from the last
on and then its beginning. The end and the beginning are one more class, `boundary = vocabulary size`; it is only
predicted, never read, so the layers read a text exactly as a classifier's layers do. Imports numpy and `Ragged`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError

__all__ = ["NextWords", "Pieces"]


@dataclass(frozen=True, eq=False)
class NextWords:
    """Some sequences, and what is to be predicted from their steps.

    Parameters
    ----------
    ids : Ragged of int64 (steps,)
    forward_targets, backward_targets : ndarray of shape (steps,), int64
        Word after and before each step; the boundary at the end and the beginning of a text.
    first_words, last_words : ndarray of int64
        Of the texts that begin, and that end, in these sequences: predicted before anything is read.
    """

    ids: Ragged
    forward_targets: np.ndarray
    backward_targets: np.ndarray
    first_words: np.ndarray
    last_words: np.ndarray

    @cached_property
    def targets(self) -> np.ndarray:
        """All targets: after each step, first words, before each step, last words; the order of the predictions."""
        return np.concatenate([self.forward_targets, self.first_words, self.backward_targets, self.last_words])


@dataclass(frozen=True, eq=False)
class Pieces:
    """Texts cut into pieces that are read on their own; nothing is left out of what is predicted.

    Parameters
    ----------
    ids : Ragged of int64 (steps,)
        Pieces in the order of the texts.
    forward_targets, backward_targets : ndarray of shape (steps,), int64
        Of the whole text: the last step of a piece predicts the first word of the next.
    begins, ends : ndarray of shape (pieces,), bool
        Whether a text begins, or ends, with the piece.

    Examples
    --------
    >>> pieces = Pieces.of(Ragged.of([[5, 6, 7]]), boundary=9, longest=2)
    >>> pieces.ids.lengths.tolist(), pieces.forward_targets.tolist(), pieces.backward_targets.tolist()
    ([2, 1], [6, 7, 9], [9, 5, 6])
    >>> pieces.select(np.array([0])).targets.tolist()
    [6, 7, 5, 9, 5]
    """

    ids: Ragged
    forward_targets: np.ndarray
    backward_targets: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, ids: Ragged, boundary: int, longest: int | None = None) -> Pieces:
        """Cut texts into the fewest pieces of nearly equal length, at most `longest` steps each; None: one a text.

        Parameters
        ----------
        ids : Ragged of int64 (steps,)
            A text without words is left out: there is nothing to read in it.
        boundary : int
            Class of the beginning and the end.
        longest : int, optional
            At least 1.
        """
        if longest is not None and longest < 1:
            raise UsageError(f"a piece must have at least 1 step, got {longest}.")
        lengths = ids.lengths[ids.lengths > 0]
        starts, ends = np.cumsum(lengths) - lengths, np.cumsum(lengths)
        forward, backward = np.empty_like(ids.values), np.empty_like(ids.values)
        forward[:-1], backward[1:] = ids.values[1:], ids.values[:-1]
        forward[ends - 1], backward[starts] = boundary, boundary
        counts = np.ones_like(lengths) if longest is None else -(-lengths // longest)  # pieces of each text
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        of_text = np.repeat(counts, counts)
        cuts = np.repeat(starts, counts) + number * np.repeat(lengths, counts) // of_text
        offsets = np.append(cuts, len(ids.values)).astype(np.int64)
        return cls(Ragged(ids.values, offsets), forward, backward, number == 0, number == of_text - 1)

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: np.ndarray) -> NextWords:
        """Take the pieces named by `rows`, in that order."""
        places = self.ids.places_of(rows)
        first = self.ids.offsets[:-1][rows[self.begins[rows]]]
        last = self.ids.offsets[1:][rows[self.ends[rows]]] - 1
        values = self.ids.values
        return NextWords(
            places.with_values(values[places.values]),
            self.forward_targets[places.values],
            self.backward_targets[places.values],
            values[first],
            values[last],
        )
