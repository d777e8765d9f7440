"""Plans for crossing from `Ragged` to libraries that want steps side by side, and back.

The only place of the layers where padding exists. Two plans: padded groups for torch's fused kernels, and the live
prefix for a loop over steps. Both are index arrays computed once per batch. Imports numpy and torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bilstm.data.ragged import Ragged, check_offsets

__all__ = ["LiveOrder", "PaddedGroup", "host_offsets", "length_groups", "live_order", "padded_groups"]

# A group may hold this many times the steps that it really has; below FREE_CELLS nothing is worth a second call.
_LARGEST_WASTE = 1.5
_FREE_CELLS = 4096


def host_offsets(batch: Ragged) -> np.ndarray:
    """Return the offsets of a batch as a checked numpy array.

    Raises
    ------
    ShapeError
        If the offsets do not describe the values.
    """
    offsets = batch.offsets
    offsets = offsets.detach().cpu().numpy() if isinstance(offsets, Tensor) else np.asarray(offsets)
    check_offsets(offsets, len(batch.values))
    return offsets


def length_groups(lengths: np.ndarray) -> list[np.ndarray]:
    """Divide a batch into groups of similar length, so that padding each to its longest wastes little.

    Parameters
    ----------
    lengths : ndarray of shape (batch,), int64

    Returns
    -------
    list of ndarray
        Rows of each group. Together they name every row with at least one step once. Padded, a group has at most 1.5
        times its real steps, unless the whole batch is small; its longest length falls by at least a third from
        group to group, so the groups' lengths add up to at most three times the longest.
    """
    rows = np.flatnonzero(lengths)
    if len(rows) == 0:
        return []
    longest = int(lengths.max())
    if len(rows) * longest <= max(_FREE_CELLS, _LARGEST_WASTE * int(lengths.sum())):
        return [rows]
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    groups = []
    while len(rows):
        real = np.cumsum(lengths[rows])
        padded = lengths[rows[0]] * np.arange(1, len(rows) + 1)
        too_empty = np.flatnonzero(padded > _LARGEST_WASTE * real)
        end = int(too_empty[0]) if len(too_empty) else len(rows)
        groups.append(np.sort(rows[:end]))
        rows = rows[end:]
    return groups


@dataclass(frozen=True)
class PaddedGroup:
    """Where the steps of some sequences stand in a padded, time-major array of (longest, len(rows)) cells.

    Parameters
    ----------
    rows : Tensor of shape (group,), int64
        Sequences of the batch, each with at least one step.
    longest : int
    steps : Tensor of shape (group_steps,), int64
        Index of each step in the values of the batch.
    forward, backward : Tensor of shape (group_steps,), int64
        Cell of each step, counted time-major, read from the first step on or from the last step back.
    last_cells : Tensor of shape (group,), int64
        Cell where each sequence ends; the same in both directions.
    """

    rows: Tensor
    longest: int
    steps: Tensor
    forward: Tensor
    backward: Tensor
    last_cells: Tensor

    def pad(self, values: Tensor, cells: Tensor) -> Tensor:
        """Put steps into their cells, zeros elsewhere: (group_steps, size) -> (longest, group, size)."""
        padded = values.new_zeros(self.longest * len(self.rows), values.shape[1]).index_copy(0, cells, values)
        return padded.view(self.longest, len(self.rows), values.shape[1])


def padded_groups(offsets: np.ndarray, device: torch.device) -> list[PaddedGroup]:
    """Plan the padded groups of a batch with these offsets."""
    lengths = np.diff(offsets)
    groups = []
    for rows in length_groups(lengths):
        counts, size = lengths[rows], len(rows)
        ends = np.cumsum(counts)
        time = np.arange(ends[-1]) - np.repeat(ends - counts, counts)  # step within its sequence
        column = np.repeat(np.arange(size), counts)
        arrays = (
            np.repeat(offsets[rows], counts) + time,
            time * size + column,
            (np.repeat(counts, counts) - 1 - time) * size + column,
            (counts - 1) * size + np.arange(size),
        )
        steps, forward, backward, last_cells = (torch.from_numpy(array).to(device) for array in arrays)
        groups.append(
            PaddedGroup(torch.from_numpy(rows).to(device), int(counts.max()), steps, forward, backward, last_cells)
        )
    return groups


@dataclass(frozen=True)
class LiveOrder:
    """Time-major order without padding: step t of all sequences that are longer than t, longest sequence first.

    Parameters
    ----------
    rows : Tensor of shape (batch,), int64
        Sequences from longest to shortest.
    row_places : Tensor of shape (batch,), int64
        Inverse of `rows`.
    counts : list of int
        Sequences still alive at each step; never increasing.
    order : Tensor of shape (total_steps,), int64
        Index in the values of each step in this order.
    places : Tensor of shape (total_steps,), int64
        Inverse of `order`.
    """

    rows: Tensor
    row_places: Tensor
    counts: list[int]
    order: Tensor
    places: Tensor


def live_order(offsets: np.ndarray, *, backward: bool, device: torch.device) -> LiveOrder:
    """Plan a loop over steps, from each sequence's first step on or from its own last step back."""
    lengths = np.diff(offsets)
    rows = np.argsort(-lengths, kind="stable")
    row_places = np.argsort(rows, kind="stable")
    longest = int(lengths.max()) if len(lengths) else 0
    counts = len(lengths) - np.searchsorted(np.sort(lengths), np.arange(longest), side="right")
    starts = np.cumsum(counts) - counts
    time = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    if backward:
        time = np.repeat(lengths, lengths) - 1 - time
    places = starts[time] + np.repeat(row_places, lengths)
    order = np.empty_like(places)
    order[places] = np.arange(len(places))
    tensors = (torch.from_numpy(array).to(device) for array in (rows, row_places, order, places))
    rows_t, row_places_t, order_t, places_t = tensors
    return LiveOrder(rows_t, row_places_t, counts.tolist(), order_t, places_t)
