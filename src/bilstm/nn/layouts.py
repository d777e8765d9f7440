"""Borders between torch's sequence layouts and ragged batches: padded, padded with lengths, packed.

Everything inside works on `values (total_steps, features)` and `offsets (batch + 1,)`; these functions cross over and
back. They are differentiable in the values, and none of them reads a padded step. Imports torch and `errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilstm.errors import ShapeError

__all__ = [
    "batch_sizes_of",
    "checked_lengths",
    "offsets_of_lengths",
    "packed_rows",
    "padded_rows",
    "place_rows",
    "take_permuted",
]


class _TakePermuted(torch.autograd.Function):
    """`values[rows]` for a permutation: its gradient is a gather too, never a scatter-add (6 times faster)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(rows, inverse)
        return values.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, inverse = ctx.saved_tensors
        return _TakePermuted.apply(gradients[0], inverse, rows), None, None


class _PlaceRows(torch.autograd.Function):
    """Write `values` to `rows` of a zero tensor with `total` rows; the gradient gathers them back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(rows)
        placed = values.new_zeros((total, *values.shape[1:]))
        placed[rows] = values
        return placed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return gradients[0].index_select(0, rows), None, None


def take_permuted(values: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """Reorder the first axis.

    Parameters
    ----------
    values : Tensor of shape (total, ...)
    rows, inverse : Tensor of shape (total,), int64
        A permutation and its inverse: `rows[inverse] == arange(total)`.
    """
    return _TakePermuted.apply(values, rows, inverse)


def place_rows(values: Tensor, rows: Tensor, total: int) -> Tensor:
    """Write `values` to the distinct positions `rows` of a tensor of `total` rows that is zero elsewhere."""
    return _PlaceRows.apply(values, rows, total)


def offsets_of_lengths(lengths: Tensor) -> Tensor:
    """Return where each sequence begins, shape (batch + 1,), for lengths of shape (batch,), int64."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def checked_lengths(lengths: Tensor | np.ndarray | Sequence[int], batch: int, steps: int) -> Tensor:
    """Return lengths as int64 on the CPU.

    Raises
    ------
    ShapeError
        If there are not `batch` of them, one is not an integer, or one is not in 0..steps.
    """
    lengths = torch.as_tensor(lengths, device="cpu")
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ShapeError(f"lengths must be integers, got {lengths.dtype}.")
    if lengths.shape != (batch,):
        raise ShapeError(f"lengths must have shape ({batch},), one for each sequence, got {tuple(lengths.shape)}.")
    lengths = lengths.to(torch.int64)
    wrong = torch.nonzero((lengths < 0) | (lengths > steps))
    if len(wrong):
        row = int(wrong[0])
        raise ShapeError(f"lengths[{row}] = {int(lengths[row])} is not in 0..{steps}, the steps of the padded input.")
    return lengths


def padded_rows(lengths: Tensor, steps: int) -> Tensor:
    """Say where the steps of a ragged batch lie in a padded one.

    Parameters
    ----------
    lengths : Tensor of shape (batch,), int64, on the CPU
    steps : int
        Time steps of the padded batch.

    Returns
    -------
    rows : Tensor of shape (total_steps,), int64
        Step `n` of the ragged batch is row `rows[n]` of the padded batch seen as (batch * steps, features).
    """
    offsets = offsets_of_lengths(lengths)
    shift = torch.arange(len(lengths)) * steps - offsets[:-1]
    return torch.repeat_interleave(shift, lengths) + torch.arange(int(offsets[-1]))


def batch_sizes_of(sorted_lengths: Tensor) -> Tensor:
    """Count the sequences that are alive at each time step, for positive lengths in falling order."""
    ended = torch.bincount(sorted_lengths)[1:]  # sequences whose last step is t
    return len(sorted_lengths) - offsets_of_lengths(ended)[:-1]


def packed_rows(batch_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Say where the steps of a packed batch lie in a ragged one with its sequences in the same (sorted) order.

    Parameters
    ----------
    batch_sizes : Tensor of shape (steps,), int64, on the CPU
        Sequences that are alive at each time step, never increasing (torch.nn.utils.rnn.PackedSequence).

    Returns
    -------
    offsets : Tensor of shape (batch + 1,), int64
        Of the ragged batch.
    rows : Tensor of shape (total_steps,), int64
        Packed step `n` is ragged step `rows[n]`.
    inverse : Tensor of shape (total_steps,), int64
        Ragged step `n` is packed step `inverse[n]`.
    """
    steps = len(batch_sizes)
    ended = batch_sizes - torch.nn.functional.pad(batch_sizes[1:], (0, 1))  # sequences whose last step is t
    lengths = torch.repeat_interleave(torch.arange(1, steps + 1), ended).flip(0)
    offsets = offsets_of_lengths(lengths)
    times = torch.repeat_interleave(torch.arange(steps), batch_sizes)
    sequences = torch.arange(len(times)) - offsets_of_lengths(batch_sizes)[times]
    rows = offsets[sequences] + times
    inverse = torch.empty_like(rows)
    inverse[rows] = torch.arange(len(rows))
    return offsets, rows, inverse
