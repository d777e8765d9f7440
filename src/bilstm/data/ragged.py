"""The one type that carries every batch of sequences: no padding, no mask.

Place in the way of the data: `encode -> Ragged -> layers -> head`. Works for numpy arrays and torch tensors alike and
imports neither torch nor anything above the standard library and numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bilstm.errors import ShapeError

__all__ = ["Keep", "Ragged", "check_offsets", "shortened"]

Keep = Literal["head", "tail", "both"]


@dataclass(frozen=True, eq=False)
class Ragged:
    """A batch of sequences, one after another.

    Parameters
    ----------
    values : ndarray or Tensor of shape (total_steps, ...)
        All steps of all sequences, sequence after sequence.
    offsets : ndarray or Tensor of shape (batch + 1,), int64
        Sequence `b` is `values[offsets[b]:offsets[b + 1]]`; `offsets[0] == 0`, never decreasing, last one equal to
        `len(values)`. A sequence may have no steps.

    Examples
    --------
    >>> batch = Ragged.of([[5, 6, 7], [], [8]])
    >>> batch.values.tolist(), batch.offsets.tolist()
    ([5, 6, 7, 8], [0, 3, 3, 4])
    >>> len(batch), batch.lengths.tolist(), batch[0].tolist()
    (3, [3, 0, 1], [5, 6, 7])
    """

    values: Any
    offsets: Any

    @classmethod
    def of(cls, sequences: Iterable[Sequence[Any] | np.ndarray], dtype: Any = np.int64) -> Ragged:
        """Join sequences into one batch; `dtype` is that of the values."""
        arrays = [np.asarray(sequence, dtype=dtype) for sequence in sequences]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        values = np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype)
        return cls(values, offsets)

    @property
    def lengths(self) -> Any:
        """Steps of each sequence, shape (batch,), int64."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Any:
        """Values of one sequence, shape (length, ...)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of a batch of {len(self)}")
        index %= len(self)
        return self.values[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def with_values(self, values: Any) -> Ragged:
        """Return other values over the same sequences."""
        return Ragged(values, self.offsets)

    def select(self, rows: Sequence[int] | np.ndarray) -> Ragged:
        """Take the sequences named by `rows`, in that order (numpy batches only)."""
        places = self.places_of(rows)
        return places.with_values(self.values[places.values])

    def places_of(self, rows: Sequence[int] | np.ndarray) -> Ragged:
        """Return where the steps of the sequences named by `rows` stand among the values (numpy batches only)."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        starts = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(starts + np.arange(offsets[-1]), offsets)


def shortened(ragged: Ragged, most: int, keep: Keep) -> Ragged:
    """Keep at most `most` steps of each sequence, at least 1 (numpy batches only).

    The first ones, the last ones, or as many of both, one more of the first where `most` is odd.
    """
    head = most if keep == "head" else 0 if keep == "tail" else (most + 1) // 2
    place = np.arange(len(ragged.values)) - np.repeat(ragged.offsets[:-1], ragged.lengths)
    from_end = np.repeat(ragged.lengths, ragged.lengths) - place
    is_kept = (place < head) | (from_end <= most - head)
    return Ragged(ragged.values[is_kept], np.concatenate([[0], np.cumsum(np.minimum(ragged.lengths, most))]))


def check_offsets(offsets: np.ndarray, total_steps: int) -> None:
    """Raise ShapeError unless `offsets` describes `total_steps` steps.

    Parameters
    ----------
    offsets : ndarray of shape (batch + 1,), int64
    total_steps : int
        Length of the values.

    Raises
    ------
    ShapeError
        Naming the first offset that is wrong and its value.
    """
    if offsets.ndim != 1 or len(offsets) == 0 or offsets.dtype != np.int64:
        raise ShapeError(f"offsets must be int64 of shape (batch + 1,), got {offsets.dtype} of shape {offsets.shape}.")
    if offsets[0] != 0:
        raise ShapeError(f"offsets[0] must be 0, got {offsets[0]}.")
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if len(falls):
        row = int(falls[0])
        raise ShapeError(f"offsets must never decrease: offsets[{row}] = {offsets[row]}, then {offsets[row + 1]}.")
    if offsets[-1] != total_steps:
        raise ShapeError(f"the last offset must equal the number of steps {total_steps}, got {offsets[-1]}.")
