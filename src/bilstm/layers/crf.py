"""Linear-chain conditional random field as a torch layer over `Ragged`.

Place in the way of the data: `linear -> emissions -> loss | decode`. The sums are those of `bilstm.runtime.crf`, in
float64 on the CPU; the gradient is written by hand: expected minus observed counts (Lafferty et al. 2001; Sutton and
McCallum, "An Introduction to Conditional Random Fields", 2012, section 4.1). That replaces a graph of thousands of
small operations by two passes over the batch.

Forbidden transitions are minus infinity in the loss as well as in decoding: a model is trained on the tag sequences
that it may answer, and on no others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bilstm.data.ragged import Ragged
from bilstm.errors import DataError, ShapeError
from bilstm.runtime.crf import CrfWeights, build_lattice, check_tags, decode, n_best, sequence_scores

__all__ = ["Crf"]


class Crf(nn.Module):
    """Score tag sequences by emissions, transitions, and where they start and end.

    Parameters
    ----------
    tags : int
        How many tags there are.
    allowed_transitions : ndarray of shape (tags, tags), bool, optional
        `[i, j]` says whether tag `j` may follow tag `i`. None allows all.
    allowed_start, allowed_end : ndarray of shape (tags,), bool, optional
        Which tags may open and close a sequence. None allows all.

    Attributes
    ----------
    transitions : Parameter of shape (tags, tags)
        Score of tag `j` after tag `i` at `[i, j]`; zero at first. Entries that are not allowed are never read.
    start, end : Parameter of shape (tags,)

    Examples
    --------
    >>> crf = Crf(2)
    >>> emissions = Ragged(torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 2, 3]))
    >>> [round(value, 4) for value in crf.log_partition(emissions).tolist()]  # log 4, log(1 + e^3)
    [1.3863, 3.0486]
    """

    def __init__(
        self,
        tags: int,
        allowed_transitions: np.ndarray | None = None,
        allowed_start: np.ndarray | None = None,
        allowed_end: np.ndarray | None = None,
    ):
        super().__init__()
        self.tags = tags
        self.transitions = nn.Parameter(torch.zeros(tags, tags))
        self.start = nn.Parameter(torch.zeros(tags))
        self.end = nn.Parameter(torch.zeros(tags))
        self._allowed = {
            "transitions": _mask(allowed_transitions, (tags, tags), "allowed_transitions"),
            "start": _mask(allowed_start, (tags,), "allowed_start"),
            "end": _mask(allowed_end, (tags,), "allowed_end"),
        }

    def weights(self) -> CrfWeights:
        """Give the scores as numpy arrays, minus infinity where a transition is not allowed."""
        arrays = {}
        for name, allowed in self._allowed.items():
            values = getattr(self, name).detach().cpu().numpy()
            arrays[name] = np.where(allowed, values, -np.inf)
        return CrfWeights(**arrays)

    def log_partition(self, emissions: Ragged) -> Tensor:
        """Log of the sum of exp(score) over all allowed tag sequences.

        Parameters
        ----------
        emissions : Ragged of Tensor, values of shape (steps, tags), float32 or float64

        Returns
        -------
        Tensor of shape (batch,), of the type of the emissions; 0 for a sequence without steps.
        """
        return _LogPartition.apply(
            emissions.values, self.transitions, self.start, self.end, _numpy(emissions.offsets), self.weights()
        )

    def score(self, emissions: Ragged, tags: Ragged) -> Tensor:
        """Score of the given tag sequences, shape (batch,).

        Parameters
        ----------
        emissions : Ragged of Tensor, values of shape (steps, tags)
        tags : Ragged of Tensor, int64, values of shape (steps,)

        Raises
        ------
        DataError
            If a tag sequence breaks a forbidden transition; the message names sequence, step and tags. Its loss would
            be infinite.
        """
        offsets = _numpy(emissions.offsets)
        given = Ragged(_numpy(tags.values), _numpy(tags.offsets))
        check_tags(given, offsets, self.tags)
        self._check_allowed(given)
        values, device = tags.values, emissions.values.device
        rows = torch.from_numpy(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))).to(device)
        total = emissions.values.new_zeros(len(offsets) - 1)
        total = total.index_add(0, rows, emissions.values[torch.arange(len(values), device=device), values])
        later = torch.nonzero(rows[1:] == rows[:-1])[:, 0] + 1
        pairs = self.transitions[values[later - 1], values[later]].to(total.dtype)
        total = total.index_add(0, rows[later], pairs)
        nonempty = torch.from_numpy(np.flatnonzero(np.diff(offsets) > 0)).to(device)
        ends = self.start[values[emissions.offsets[nonempty]]] + self.end[values[emissions.offsets[nonempty + 1] - 1]]
        return total.index_add(0, nonempty, ends.to(total.dtype))

    def loss(self, emissions: Ragged, tags: Ragged) -> Tensor:
        """Negative log-likelihood of the given tag sequences, shape (batch,), at least 0 up to rounding."""
        return self.log_partition(emissions) - self.score(emissions, tags)

    def marginals(self, emissions: Ragged) -> Tensor:
        """Probability of each tag at each step, shape (steps, tags); carries no gradient."""
        lattice = build_lattice(_detached(emissions), self.weights())
        return torch.from_numpy(lattice.marginals).to(emissions.values)

    def decode(self, emissions: Ragged) -> Ragged:
        """Best tag sequence of each sequence: Ragged of int64 tensors over the same offsets."""
        tags, _ = decode(_detached(emissions), self.weights())
        return emissions.with_values(torch.from_numpy(tags.values).to(emissions.values.device))

    def n_best(self, emissions: Ragged, n: int) -> list[list[tuple[np.ndarray, float]]]:
        """Give the `n` best tag sequences of each sequence with their scores, best first."""
        return n_best(_detached(emissions), self.weights(), n)

    def _check_allowed(self, tags: Ragged) -> None:
        """Raise DataError at the first place where `tags` breaks a forbidden transition."""
        values, offsets = tags.values, tags.offsets
        ones = np.zeros((len(values), 1), dtype=np.float32)
        broken = sequence_scores(Ragged(np.broadcast_to(ones, (len(values), self.tags)), offsets), tags, self.weights())
        wrong = np.flatnonzero(np.isneginf(broken))
        if not len(wrong):
            return
        row = int(wrong[0])
        sequence = tags[row]
        if not self._allowed["start"][sequence[0]]:
            raise DataError(f"Sequence {row} starts with tag {sequence[0]}, which may not open a sequence.")
        for step in range(1, len(sequence)):
            if not self._allowed["transitions"][sequence[step - 1], sequence[step]]:
                raise DataError(
                    f"Sequence {row}, step {step}: tag {sequence[step]} may not follow tag {sequence[step - 1]}."
                )
        raise DataError(f"Sequence {row} ends with tag {sequence[-1]}, which may not close a sequence.")

    def extra_repr(self) -> str:
        """Say the size, and how many transitions are forbidden."""
        forbidden = int((~self._allowed["transitions"]).sum())
        return f"tags={self.tags}, forbidden_transitions={forbidden}"


class _LogPartition(torch.autograd.Function):
    """Log partition whose gradient is the marginals (Sutton and McCallum 2012, eq. 4.9)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, transitions: Tensor, start: Tensor, end: Tensor, offsets, weights) -> Tensor:
        lattice = build_lattice(Ragged(_numpy(values), offsets), weights)
        ctx.lattice, ctx.offsets = lattice, offsets
        ctx.like = (values, transitions)
        return torch.from_numpy(lattice.log_partition).to(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, transitions = ctx.like
        lattice, offsets = ctx.lattice, ctx.offsets
        per_row = _numpy(gradient).astype(np.float64)
        lengths = np.diff(offsets)
        by_step = lattice.marginals * np.repeat(per_row, lengths)[:, None]
        nonempty = lengths > 0
        first, last = offsets[:-1][nonempty], offsets[1:][nonempty] - 1
        return (
            torch.from_numpy(by_step).to(values),
            torch.from_numpy(lattice.transition_expectations(per_row)).to(transitions),
            torch.from_numpy(by_step[first].sum(axis=0)).to(transitions),
            torch.from_numpy(by_step[last].sum(axis=0)).to(transitions),
            None,
            None,
        )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _detached(batch: Ragged) -> Ragged:
    return Ragged(_numpy(batch.values), _numpy(batch.offsets))


def _mask(allowed: np.ndarray | None, shape: tuple[int, ...], name: str) -> np.ndarray:
    if allowed is None:
        return np.ones(shape, dtype=bool)
    allowed = np.asarray(allowed)
    if allowed.shape != shape or allowed.dtype != bool:
        raise ShapeError(f"{name} must be bool of shape {shape}, got {allowed.dtype} of shape {allowed.shape}.")
    return allowed
