"""Occlusion: what the score loses when a word or a phrase is left out, with the states of the BiLSTM reused.

Source: Zeiler and Fergus 2014 (arXiv 1311.2901); for words Li et al. 2016 (arXiv 1612.08220), equation 1.

Leaving out steps s to e - 1 changes no forward state before s and no backward state from e on. Each direction therefore
goes on from the state that it had before the gap, for all cuts of a batch at once as one ragged batch of continuing
sequences; the input part of the gates is computed once a step. A cell forgets: where the new state has come back to
the old one, to `AGREEMENT` in every unit of h and c, the rest of the sequence is taken from the whole text. Pooling
joins what stands before the gap, what was run anew, and what was taken.

Exact means: every cut gives the logits of the text without these steps, run from the start, up to the rounding of
float32. `AGREEMENT` is of the size of that rounding; `agreement=0` runs every sequence to its end.

This holds for one recurrent layer right behind the embedding with directions side by side, and pooling by last, max,
mean: the default model. Other networks are run anew for every cut, all cuts as one batch, which gives the same numbers
later.

Near occlusion is faster and not exact: it runs on in bfloat16 where that is faster, and stops where the states
have come back to `NEAR_AGREEMENT`. Its error is measured in docs/explanations.md. Imports numpy, `engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bilstm import description, engine
from bilstm.data.ragged import Ragged
from bilstm.explanation.averaged_network import AveragedNetwork, mean_of
from bilstm.explanation.network import DirectionTrace, Network
from bilstm.explanation.pooled_pass import pools_one_layer
from bilstm.explanation.recurrent_trace import Clock, Direction, cells_of, run_states
from bilstm.runtime import steps

__all__ = ["AGREEMENT", "NEAR_AGREEMENT", "can_reuse_states", "logits_without", "run_without"]

AGREEMENT = 1e-6  # float32 has 24 bits: 6e-8 of a state near 1, times what some hundred steps of rounding add up to
NEAR_AGREEMENT = 0.02  # of states between -1 and 1: about what rounding to bfloat16 adds up to
CHUNK_STEPS = 32  # run before states are compared for the first time, twice as many each time after
BLOCK_STEPS = 65_536  # run at once where nothing is reused


def can_reuse_states(network: Network | AveragedNetwork) -> bool:
    """Whether the states of the whole text serve the text without some words."""
    return pools_one_layer(network.layers)


def logits_without(
    network: Network | AveragedNetwork,
    batch: Ragged,
    rows: np.ndarray,
    cuts: np.ndarray,
    *,
    agreement: float = AGREEMENT,
    precision: str = "float32",
) -> np.ndarray:
    """Return the logits of texts without some of their steps.

    Parameters
    ----------
    network : Network or AveragedNetwork
        With pooling; of an ensemble the mean over its members.
    batch : Ragged of vectors (steps, size), float32
    rows : ndarray of shape (cuts,), int64
        Text of each cut.
    cuts : ndarray of shape (cuts, 2), int64
        First step left out, counted in its text, and the first one kept again.
    agreement : float
        Largest difference of a state from that of the whole text at which the rest is taken from there; 0: never.
    precision : {"float32", "bfloat16", "auto"}
        Of what the engine runs anew; "auto" is bfloat16 where that is faster. Without the engine always float32.

    Returns
    -------
    ndarray of shape (cuts, outputs), float32
    """
    if not len(cuts):
        return np.zeros((0, _outputs(network)), dtype=np.float32)
    return mean_of(
        [_member_without(member, own, rows, cuts, agreement, precision) for member, own in network.parts(batch)]
    )


def _member_without(
    network: Network, batch: Ragged, rows: np.ndarray, cuts: np.ndarray, agreement: float, precision: str
) -> np.ndarray:
    """Do `logits_without` for one network."""
    if not can_reuse_states(network):
        return run_without(network, batch, rows, cuts)
    trace = network.trace(batch).layers[0]
    texts = Texts(batch, rows, cuts)
    pooled = [_pool_without(network, one, texts, agreement, precision) for one in trace.stacked[0]]
    return head_of(network, pooled)


def head_of(network: Network, pooled: list[list[np.ndarray]]) -> np.ndarray:
    """Return logits from what each direction pooled, kind by kind."""
    flow = np.concatenate([np.concatenate(parts, axis=1) for parts in zip(*pooled, strict=True)], axis=1)
    for layer, weights in zip(network.layers[2:], network.weights[2:], strict=True):
        assert isinstance(layer, description.Linear)
        flow = steps.map_linear(flow, layer, weights)
    return flow


def run_without(network: Network, batch: Ragged, rows: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return what `logits_without` does by running every shortened text from its start, in blocks."""
    lengths = batch.lengths[rows] - (cuts[:, 1] - cuts[:, 0])
    block = np.cumsum(lengths) // BLOCK_STEPS
    found = []
    for number in np.unique(block):
        here = block == number
        found.append(network.run(_shortened(batch, rows[here], cuts[here])))
    return np.concatenate(found)


def _shortened(batch: Ragged, rows: np.ndarray, cuts: np.ndarray) -> Ragged:
    copies = batch.select(rows)
    step = np.arange(len(copies.values)) - np.repeat(copies.offsets[:-1], copies.lengths)
    first, last = np.repeat(cuts, copies.lengths, axis=0).T
    kept = (step < first) | (step >= last)
    offsets = np.concatenate([[0], np.cumsum(copies.lengths - (cuts[:, 1] - cuts[:, 0]))]).astype(np.int64)
    return Ragged(copies.values[kept], offsets)


def _outputs(network: Network | AveragedNetwork) -> int:
    last = network.layers[-1]
    assert not isinstance(last, description.WordDropout | description.Dropout | description.Embedding)
    return last.output_size


# ---- reuse of states -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts and their cuts."""

    batch: Ragged
    rows: np.ndarray
    cuts: np.ndarray

    def as_read(self, is_backward: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the order in which a direction reads the steps, and the cuts counted in that order."""
        lengths, starts = self.batch.lengths, self.batch.offsets[:-1]
        order = np.arange(len(self.batch.values))
        if not is_backward:
            return order, self.cuts
        row = np.repeat(np.arange(len(lengths)), lengths)
        mirrored = starts[row] + lengths[row] - 1 - (order - starts[row])
        return mirrored, lengths[self.rows][:, None] - self.cuts[:, ::-1]


@dataclass(frozen=True, eq=False)
class Whole:
    """One direction over the whole texts, in the order of its reading: states, and pooling up to and from each step."""

    h: np.ndarray
    c: np.ndarray | None
    max_to: np.ndarray
    sum_to: np.ndarray
    max_from: np.ndarray
    sum_from: np.ndarray

    @classmethod
    def of(cls, h: np.ndarray, c: np.ndarray | None, offsets: np.ndarray) -> Whole:
        """Pool up to and from each step of texts one after another."""
        max_to, max_from = np.empty_like(h), np.empty_like(h)
        sum_to, sum_from = np.empty(h.shape), np.empty(h.shape)
        for start, end in pairwise(offsets):
            part = slice(start, end)
            np.maximum.accumulate(h[part], axis=0, out=max_to[part])
            max_from[part] = np.maximum.accumulate(h[part][::-1], axis=0)[::-1]
            np.cumsum(h[part], axis=0, dtype=np.float64, out=sum_to[part])
            sum_from[part] = sum_to[part][-1:] - sum_to[part] + h[part]
        return cls(h, c, max_to, sum_to, max_from, sum_from)


def _whole(one: DirectionTrace, batch: Ragged, order: np.ndarray) -> Whole:
    c = None
    if one.direction.cell == "lstm":
        gather = one.clock.gather
        c = one.clock.scatter(cells_of(one.direction, one.clock, gather(one.inputs), gather(one.states)))[order]
    return Whole.of(one.states[order], c, batch.offsets)


def _pool_without(
    network: Network, one: DirectionTrace, texts: Texts, agreement: float, precision: str
) -> list[np.ndarray]:
    """Run one direction over all cuts; return (cuts, hidden) for each kind of pooling."""
    pooling = network.layers[1]
    assert isinstance(pooling, description.Pooling)
    order, cuts = texts.as_read(one.direction.is_backward)
    whole = _whole(one, texts.batch, order)
    starts, lengths = texts.batch.offsets[:-1][texts.rows], texts.batch.lengths[texts.rows]
    state = CutStates.before_cuts(whole, starts + cuts[:, 0] - 1, cuts[:, 0] > 0)
    position, alive = cuts[:, 1].copy(), np.flatnonzero(cuts[:, 1] < lengths)
    advance = advancing(network, one.direction, texts.batch.values[order], precision)
    chunk = CHUNK_STEPS if agreement > 0 else int(lengths.max(initial=0))
    while len(alive):
        count = np.minimum(lengths[alive] - position[alive], chunk)
        state.take(alive, advance(starts[alive] + position[alive], count, state.h[alive], state.c[alive]))
        position[alive] += count
        alive = alive[position[alive] < lengths[alive]]
        at = starts[alive] + position[alive]
        same = np.abs(state.h[alive] - whole.h[at - 1]).max(axis=1, initial=0.0) < agreement
        if whole.c is not None:
            same &= np.abs(state.c[alive] - whole.c[at - 1]).max(axis=1, initial=0.0) < agreement
        done = alive[same]
        state.finish(done, whole, at[same], (starts + lengths - 1)[done])
        alive = alive[~same]
        chunk *= 2  # a comparison ends a batch, and small batches are slow
    left = lengths - (cuts[:, 1] - cuts[:, 0])
    return state.pooled(pooling.kinds, left)


@dataclass(eq=False)
class CutStates:
    """Where the cuts are: states, and pooling over what was kept so far; (cuts, hidden) each."""

    h: np.ndarray
    c: np.ndarray
    largest: np.ndarray
    sums: np.ndarray

    @classmethod
    def before_cuts(cls, whole: Whole, before: np.ndarray, has_before: np.ndarray) -> CutStates:
        """Start from the step before each gap."""
        shape = (len(before), whole.h.shape[1])
        state = cls(
            np.zeros(shape, dtype=np.float32),
            np.zeros(shape, dtype=np.float32),
            np.full(shape, -np.inf, dtype=np.float32),
            np.zeros(shape),
        )
        at = before[has_before]
        state.h[has_before], state.largest[has_before], state.sums[has_before] = (
            whole.h[at],
            whole.max_to[at],
            whole.sum_to[at],
        )
        if whole.c is not None:
            state.c[has_before] = whole.c[at]
        return state

    def take(self, rows: np.ndarray, ran: _Ran) -> None:
        """Add steps that were run."""
        self.h[rows], self.c[rows] = ran.h, ran.c
        self.largest[rows] = np.maximum(self.largest[rows], ran.largest)
        self.sums[rows] += ran.sums

    def finish(self, rows: np.ndarray, whole: Whole, first: np.ndarray, last: np.ndarray) -> None:
        """Take the steps from `first` on from the whole text."""
        self.h[rows] = whole.h[last]
        self.largest[rows] = np.maximum(self.largest[rows], whole.max_from[first])
        self.sums[rows] += whole.sum_from[first]

    def pooled(self, kinds: Sequence[str], left: np.ndarray) -> list[np.ndarray]:
        """Return (cuts, hidden) of each kind of pooling over the `left` steps that each cut leaves; zero for none."""
        self.largest[left == 0] = 0.0
        means = (self.sums / np.maximum(left, 1)[:, None]).astype(np.float32)
        return [{"last": self.h, "max": self.largest, "mean": means}[kind] for kind in kinds]


@dataclass(frozen=True, eq=False)
class _Ran:
    """States after some further steps, and pooling over them; (sequences, hidden) each."""

    h: np.ndarray
    c: np.ndarray
    largest: np.ndarray
    sums: np.ndarray


def advancing(network: Network, direction: Direction, values: np.ndarray, precision: str) -> Callable[..., _Ran]:
    """Return a function that runs sequences on: (first step, number of steps, h, c) -> _Ran.

    `values` are the vectors in the order of reading, whole texts one after another; steps are numbered so.
    """
    if network.context is None:
        table = values @ direction.w_ih.T + direction.b_ih

        def in_numpy(first: np.ndarray, count: np.ndarray, h: np.ndarray, c: np.ndarray) -> _Ran:
            offsets, ids = _runs(first, count)
            clock = Clock(offsets, False)
            states, cells = run_states(direction, clock, clock.gather(table[ids]), h, c)
            states, cells = clock.scatter(states), clock.scatter(cells)
            last, begins = offsets[1:] - 1, offsets[:-1]
            return _Ran(states[last], cells[last], np.maximum.reduceat(states, begins), np.add.reduceat(states, begins))

        return in_numpy

    cell: Any = direction.cell if direction.cell != "rnn" else f"rnn_{direction.nonlinearity}"
    plain = engine.DirectionWeights(direction.w_ih, direction.w_hh, direction.b_ih, direction.b_hh)
    # the vocabulary table of the engine: here each step of the texts is a word of its own
    packed = engine.pack(
        cell, [plain], embedding=np.ascontiguousarray(values), precision=precision, context=network.context
    )

    def in_engine(first: np.ndarray, count: np.ndarray, h: np.ndarray, c: np.ndarray) -> _Ran:
        offsets, ids = _runs(first, count)
        result = engine.recurrent(
            cell,
            Ragged(ids, offsets),
            packed,
            h_0=h[None],
            c_0=c[None] if cell == "lstm" else None,
            outputs=False,
            pooling=("max", "mean"),
            precision=precision,
            context=network.context,
        )
        assert result.max_values is not None
        assert result.mean_values is not None
        cells = result.c_n[0] if result.c_n is not None else c
        return _Ran(result.h_n[0], cells, result.max_values, result.mean_values * count[:, None].astype(np.float64))

    return in_engine


def _runs(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets and numbers of the steps of runs."""
    offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    return offsets, np.repeat(first - offsets[:-1], count) + np.arange(offsets[-1])
