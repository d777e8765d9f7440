"""Batches in which labelled and unlabelled rows lie side by side. Imports numpy, `Ragged` and `batching`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm.data.batching import epoch_batches
from bilstm.data.ragged import Ragged

__all__ = ["MixedBatch", "MixedBatches", "joined_rows"]

UNLABELLED_SEED = 1  # added to the seed, so that both deals are independent


@dataclass(frozen=True)
class MixedBatch:
    """Row numbers of one training step; its length is that of the labelled rows, which the loop counts.

    Parameters
    ----------
    place : int
        Number of the step in the run, from 0.
    labelled, unlabelled : ndarray of int64
    """

    place: int
    labelled: np.ndarray
    unlabelled: np.ndarray

    def __len__(self) -> int:
        return len(self.labelled)


class MixedBatches:
    """Deals both kinds of rows into steps; each kind in epochs of its own, begun anew when it is through.

    Parameters
    ----------
    labelled_lengths, unlabelled_lengths : ndarray of int64
        Steps of each text; at least one text each.
    steps : int
        Steps of an epoch of the run, whatever the number of rows: between two looks at the development part.
    max_rows, max_steps, seed
        As in `epoch_batches`, for each kind.
    max_labelled_steps : int, optional
        That of the labelled kind, where it is another.
    """

    def __init__(
        self,
        labelled_lengths: np.ndarray,
        unlabelled_lengths: np.ndarray,
        *,
        steps: int,
        max_rows: int,
        max_steps: int,
        seed: int,
        max_labelled_steps: int | None = None,
    ):
        self.steps = steps
        limits = {"max_rows": max_rows, "max_steps": max_steps}
        self._labelled = _Dealt(labelled_lengths, seed, limits | {"max_steps": max_labelled_steps or max_steps})
        self._unlabelled = _Dealt(unlabelled_lengths, seed + UNLABELLED_SEED, limits)

    def epoch(self, number: int) -> list[MixedBatch]:
        """Return the steps of epoch 1, 2, ...: a function of that number and the seed only."""
        first = (number - 1) * self.steps
        places = range(first, first + self.steps)
        return [MixedBatch(place, self._labelled[place], self._unlabelled[place]) for place in places]


class _Dealt:
    """An endless row of batches, epoch after epoch; epochs may differ in their number of batches."""

    def __init__(self, lengths: np.ndarray, seed: int, limits: dict[str, int]):
        self._lengths, self._seed, self._limits = lengths, seed, limits
        self._ends: list[int] = []  # after each epoch, how many batches there have been
        self._batches: list[np.ndarray] = []  # of the epoch that was asked for last
        self._held = 0

    def __getitem__(self, place: int) -> np.ndarray:
        while not self._ends or place >= self._ends[-1]:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self._deal(len(self._ends) + 1)))
        epoch = int(np.searchsorted(self._ends, place, side="right")) + 1
        start = self._ends[epoch - 2] if epoch > 1 else 0
        return self._deal(epoch)[place - start]

    def _deal(self, epoch: int) -> list[np.ndarray]:
        if epoch != self._held:
            self._batches = epoch_batches(self._lengths, **self._limits, seed=self._seed, epoch=epoch)
            self._held = epoch
        return self._batches


def joined_rows(first: Ragged, second: Ragged) -> Ragged:
    """Put one numpy batch behind another."""
    offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    return Ragged(np.concatenate([first.values, second.values]), offsets)
