"""Linear-chain conditional random field with numpy: partition, marginals, best and n best tag sequences.

Place in the way of the data: `... -> linear -> emissions -> decode`. The same functions stand behind the torch layer
`bilstm.layers.crf`, so what is trained is what is decoded. A batch is a `Ragged`; steps are walked time-major over the
sequences that are still alive, longest first, so there is no padding and no mask. All sums are float64, whatever the
type of the emissions. Imports numpy, `errors` and `data.ragged` only.

Sources
-------
Lafferty, McCallum and Pereira, "Conditional Random Fields", ICML 2001; Rabiner, "A Tutorial on Hidden Markov Models",
Proc. IEEE 1989, section V (scaling); Nilsson and Goldberger, "Sequentially Finding the N-Best List", IJCAI 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm.data.ragged import Ragged, check_offsets
from bilstm.errors import DataError, ShapeError

__all__ = ["CrfWeights", "Lattice", "build_lattice", "decode", "n_best", "sequence_scores"]

# A forward probability below this may have lost a path to underflow: the batch is then summed again in log space.
SMALLEST_SAFE = 1e-200
# Largest (rows, to, from) block of scores that the search holds at once, in numbers.
SEARCH_BLOCK = 1 << 21


@dataclass(frozen=True, eq=False)
class CrfWeights:
    """Scores of a linear chain; minus infinity forbids.

    Parameters
    ----------
    transitions : ndarray of shape (tags, tags)
        Score of going from tag `i` to tag `j` at `[i, j]`.
    start, end : ndarray of shape (tags,)
        Score of a sequence that starts, or ends, with a tag.

    Raises
    ------
    ShapeError
        If the shapes do not fit, or a score is NaN or plus infinity.
    """

    transitions: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def __post_init__(self):
        tags = len(self.start)
        if self.transitions.shape != (tags, tags) or self.start.shape != (tags,) or self.end.shape != (tags,):
            raise ShapeError(
                f"CRF weights must be (tags, tags), (tags,), (tags,), got {self.transitions.shape}, "
                f"{self.start.shape}, {self.end.shape}."
            )
        for name in ("transitions", "start", "end"):
            values = getattr(self, name)
            if np.isnan(values).any() or np.isposinf(values).any():
                raise ShapeError(f"CRF weight {name!r} holds NaN or plus infinity.")

    @property
    def tags(self) -> int:
        """How many tags there are."""
        return len(self.start)


@dataclass(frozen=True, eq=False)
class _TimeMajor:
    """Order of the steps of a batch by time, longest sequence first.

    `index[k]` is the place in `values` of the k-th step in time order; steps of time `t` are
    `starts[t]:starts[t + 1]`, and the rows alive at `t` are the first `starts[t + 1] - starts[t]` of `order`.
    """

    order: np.ndarray  # (batch,) rows, longest first
    index: np.ndarray  # (steps,)
    row: np.ndarray  # (steps,) row of each step, as a place in `order`
    starts: np.ndarray  # (longest + 1,)
    lengths: np.ndarray  # (batch,) in the order of `order`

    @classmethod
    def of(cls, offsets: np.ndarray) -> _TimeMajor:
        lengths = np.diff(offsets)
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
        longest = int(lengths[0]) if len(lengths) else 0
        live = np.searchsorted(-lengths, -np.arange(longest), side="left")  # rows with length > t
        starts = np.zeros(longest + 1, dtype=np.int64)
        np.cumsum(live, out=starts[1:])
        row = np.arange(starts[-1]) - np.repeat(starts[:-1], live)
        time = np.repeat(np.arange(longest), live)
        return cls(order, offsets[:-1][order][row] + time, row, starts, lengths)

    @property
    def nonempty(self) -> int:
        """How many sequences have a step; they come first in `order`."""
        return int(self.starts[1]) if len(self.starts) > 1 else 0

    @property
    def last(self) -> np.ndarray:
        """Place in time order of the last step of each sequence that has one."""
        rows = np.arange(self.nonempty)
        return self.starts[self.lengths[: self.nonempty] - 1] + rows


@dataclass(frozen=True, eq=False)
class Lattice:
    """All tag sequences of a batch, summed: what training and confidences need.

    Attributes
    ----------
    log_partition : ndarray of shape (batch,), float64
        Log of the sum of exp(score) over all allowed tag sequences; 0 for a sequence without steps.
    marginals : ndarray of shape (steps, tags), float64
        Probability of each tag at each step; every row sums to one.
    follow : ndarray of shape (steps, tags), float64
        Log of the summed future of each tag: the probability of tag `j` after tag `i` is
        `exp(transitions[i, j] + emission[t, j] + follow[t, j] - follow[t - 1, i])`.
    """

    log_partition: np.ndarray
    marginals: np.ndarray
    follow: np.ndarray
    _emissions: Ragged
    _weights: CrfWeights

    def transition_expectations(self, row_weights: np.ndarray) -> np.ndarray:
        """Sum over all neighbouring steps of P(tag i, then tag j), each sequence times its weight.

        Parameters
        ----------
        row_weights : ndarray of shape (batch,)

        Returns
        -------
        ndarray of shape (tags, tags), float64
        """
        offsets = self._emissions.offsets
        later = np.ones(len(self.marginals), dtype=bool)
        later[offsets[:-1][np.diff(offsets) > 0]] = False
        later = np.flatnonzero(later)
        weight = np.repeat(row_weights, np.diff(offsets))[later]
        transitions = self._weights.transitions.astype(np.float64)
        shift = _finite_max(transitions, axis=None)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # P(i, j) = [P(i) exp(-follow_i)] exp(transition_ij) [exp(emission_j + follow_j)], both brackets shifted by
            # the same number of the step so that neither leaves the range of float64.
            future = self._emissions.values[later].astype(np.float64) + self.follow[later]
            level = _finite_max(future, axis=1)
            future = np.exp(future - level[:, None])
            past = np.log(self.marginals[later - 1]) - self.follow[later - 1]
            past = np.exp(np.where(self.marginals[later - 1] > 0, past + (level + shift)[:, None], -np.inf))
            if (past < 1 / SMALLEST_SAFE).all():  # also false for NaN
                return (past * weight[:, None]).T @ future * np.exp(transitions - shift)
        return self._expectations_step_by_step(later, weight)

    def _expectations_step_by_step(self, later: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Same sum where scores are too far apart for one matrix product."""
        total = np.zeros_like(self._weights.transitions, dtype=np.float64)
        for step, share in zip(later, weight, strict=True):
            total += share * self.marginals[step - 1][:, None] * self.conditional(int(step))
        return total

    def conditional(self, step: int) -> np.ndarray:
        """P(tag j at `step` | tag i at `step - 1`), shape (tags, tags); zero from a tag that has no future."""
        with np.errstate(invalid="ignore"):
            log = self._weights.transitions + self._emissions.values[step].astype(np.float64) + self.follow[step]
            log = log - self.follow[step - 1][:, None]
        return np.exp(np.where(np.isnan(log), -np.inf, log))

    def path_probability(self, row: int, begin: int, tags: np.ndarray) -> float:
        """Probability that sequence `row` has `tags` at its steps `begin`, `begin + 1`, ..."""
        first = int(self._emissions.offsets[row]) + begin
        probability = float(self.marginals[first, tags[0]])
        for place in range(1, len(tags)):
            if probability == 0.0:
                return 0.0
            probability *= float(self.conditional(first + place)[tags[place - 1], tags[place]])
        return min(probability, 1.0)


def build_lattice(emissions: Ragged, weights: CrfWeights) -> Lattice:
    """Run the forward and backward recursions over a batch.

    Parameters
    ----------
    emissions : Ragged of float32 or float64, values of shape (steps, tags)
        Score of each tag at each step. NaN or infinity makes the results NaN, in its own sequence only.
    weights : CrfWeights

    Raises
    ------
    DataError
        If a sequence has no tag sequence that the forbidden transitions allow; the message names the row.
    ShapeError
        If the emissions do not fit the weights.

    Notes
    -----
    Probabilities are scaled to sum to one at every step, which turns each step into one matrix product. Should a tag
    that can be reached fall under `SMALLEST_SAFE`, the batch is summed again with log-sum-exp over every pair of tags,
    which cannot underflow.
    """
    _check_emissions(emissions, weights)
    layout = _TimeMajor.of(emissions.offsets)
    scores = emissions.values[layout.index].astype(np.float64)
    result = _sum_scaled(scores, layout, weights)
    if result is None:
        result = _sum_log_space(scores, layout, weights)
    log_partition, marginals, follow = result
    dead = np.flatnonzero(np.isneginf(log_partition))
    if len(dead):
        row, length = int(layout.order[dead[0]]), int(layout.lengths[dead[0]])
        raise DataError(f"Sequence {row} of {length} steps has no tag sequence that the forbidden transitions allow.")
    in_order = np.empty_like(log_partition)
    in_order[layout.order] = log_partition
    unsorted_marginals, unsorted_follow = np.empty_like(marginals), np.empty_like(follow)
    unsorted_marginals[layout.index], unsorted_follow[layout.index] = marginals, follow
    return Lattice(in_order, unsorted_marginals, unsorted_follow, emissions, weights)


def _check_emissions(emissions: Ragged, weights: CrfWeights) -> None:
    check_offsets(emissions.offsets, len(emissions.values))
    if emissions.values.ndim != 2 or emissions.values.shape[1] != weights.tags:
        raise ShapeError(f"Emissions must be (steps, {weights.tags}), got {emissions.values.shape}.")


def _finite_max(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Maximum, with 0 where all values are minus infinity (nothing to shift then)."""
    largest = np.max(values, axis=axis)
    return np.where(np.isneginf(largest), 0.0, largest)


def _unreachable_steps(layout: _TimeMajor, weights: CrfWeights) -> int:
    """Count the (step, tag) pairs that no allowed path reaches: their forward probability is zero by right."""
    allowed = ~np.isneginf(weights.transitions)
    reached = ~np.isneginf(weights.start)
    live = np.diff(layout.starts)
    count = 0
    for time in range(len(live)):
        count += int(live[time]) * int((~reached).sum())
        following = (reached @ allowed).astype(bool)
        if np.array_equal(following, reached):
            return count + int(live[time + 1 :].sum()) * int((~reached).sum())
        reached = following
    return count


def _sum_scaled(
    scores: np.ndarray, layout: _TimeMajor, weights: CrfWeights
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Forward and backward with probabilities scaled at every step; None where that would underflow."""
    nonempty, starts = layout.nonempty, layout.starts
    levels = scores.max(axis=1) if len(scores) else np.zeros(0)
    shifts = [float(_finite_max(part, axis=None)) for part in (weights.start, weights.transitions, weights.end)]
    start = np.exp(weights.start.astype(np.float64) - shifts[0])
    transitions = np.exp(weights.transitions.astype(np.float64) - shifts[1])
    end = np.exp(weights.end.astype(np.float64) - shifts[2])
    with np.errstate(all="ignore"):  # NaN, zero totals and lost paths are looked for below
        likelihood = np.exp(scores - levels[:, None])
        forward, totals = np.empty_like(scores), np.empty(len(scores))
        for time in range(len(starts) - 1):
            here = slice(starts[time], starts[time + 1])
            before = slice(starts[time - 1], starts[time - 1] + here.stop - here.start)
            step = likelihood[here] * (forward[before] @ transitions if time else start)
            totals[here] = step.sum(axis=1)
            np.divide(step, totals[here, None], out=forward[here])
        final = forward[layout.last] @ end
        if (forward >= SMALLEST_SAFE).sum() != forward.size - _unreachable_steps(layout, weights):
            return None
        if not (final > SMALLEST_SAFE).all():
            return None
        backward = np.empty_like(scores)
        backward[layout.last] = end / final[:, None]
        for time in range(len(starts) - 2, 0, -1):
            here = slice(starts[time], starts[time + 1])
            before = slice(starts[time - 1], starts[time - 1] + here.stop - here.start)
            future = likelihood[here] * backward[here]
            future /= totals[here, None]
            np.matmul(future, transitions.T, out=backward[before])
        log_totals = np.log(totals) + levels
        log_totals[nonempty:] += shifts[1]
        follow = np.log(backward) + _later_sums(log_totals, layout)[:, None]
    log_partition = np.zeros(len(layout.lengths))
    log_partition[:nonempty] = np.bincount(layout.row, log_totals, nonempty) + np.log(final) + shifts[0] + shifts[2]
    follow += (np.log(final) + shifts[2])[layout.row][:, None]
    return log_partition, forward * backward, follow


def _later_sums(values: np.ndarray, layout: _TimeMajor) -> np.ndarray:
    """Sum of `values` over the later steps of the same sequence, for each step (time order)."""
    sums = np.zeros_like(values)
    starts = layout.starts
    for time in range(len(starts) - 2, 0, -1):
        here = slice(starts[time], starts[time + 1])
        before = slice(starts[time - 1], starts[time - 1] + here.stop - here.start)
        sums[before] = sums[here] + values[here]
    return sums


def _log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    shift = _finite_max(values, axis)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - np.expand_dims(shift, axis)).sum(axis=axis)) + shift


def _sum_log_space(
    scores: np.ndarray, layout: _TimeMajor, weights: CrfWeights
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forward and backward with log-sum-exp over every pair of tags: slow, and exact at any distance of scores."""
    starts, nonempty = layout.starts, layout.nonempty
    transitions, end = weights.transitions.astype(np.float64), weights.end.astype(np.float64)
    forward, follow = np.empty_like(scores), np.empty_like(scores)
    with np.errstate(invalid="ignore"):  # inf - inf of a sequence with infinite emissions: NaN is its result
        for time in range(len(starts) - 1):
            here = slice(starts[time], starts[time + 1])
            before = slice(starts[time - 1], starts[time - 1] + here.stop - here.start)
            past = _log_sum_exp(forward[before, :, None] + transitions, axis=1) if time else weights.start
            forward[here] = scores[here] + past
        follow[layout.last] = end
        for time in range(len(starts) - 2, 0, -1):
            here = slice(starts[time], starts[time + 1])
            before = slice(starts[time - 1], starts[time - 1] + here.stop - here.start)
            follow[before] = _log_sum_exp(transitions + (scores[here] + follow[here])[:, None, :], axis=2)
        log_partition = np.zeros(len(layout.lengths))
        log_partition[:nonempty] = _log_sum_exp(forward[layout.last] + end, axis=1)
        marginals = np.exp(forward + follow - log_partition[layout.row][:, None])
    return log_partition, marginals, follow


def sequence_scores(emissions: Ragged, tags: Ragged, weights: CrfWeights) -> np.ndarray:
    """Score of the given tag sequences: start + emissions + transitions + end, shape (batch,), float64.

    Parameters
    ----------
    emissions : Ragged, values of shape (steps, tags)
    tags : Ragged of int64, values of shape (steps,)
        One tag a step, 0 <= tag < tags.
    weights : CrfWeights

    Raises
    ------
    ShapeError
        If the two batches do not have the same offsets or a tag is out of range; the message names the step.
    """
    _check_emissions(emissions, weights)
    check_tags(tags, emissions.offsets, weights.tags)
    values, offsets = tags.values, emissions.offsets
    batch = len(emissions)
    rows = np.repeat(np.arange(batch), np.diff(offsets))
    total = np.bincount(rows, emissions.values[np.arange(len(values)), values], batch).astype(np.float64)
    later = np.flatnonzero(rows[1:] == rows[:-1]) + 1
    pairs = weights.transitions[values[later - 1], values[later]].astype(np.float64)
    total += np.bincount(rows[later], pairs, batch)
    nonempty = np.flatnonzero(np.diff(offsets) > 0)
    total[nonempty] += weights.start[values[offsets[nonempty]]]
    total[nonempty] += weights.end[values[offsets[nonempty + 1] - 1]]
    return total


def check_tags(tags: Ragged, offsets: np.ndarray, count: int) -> None:
    """Raise ShapeError unless `tags` holds one tag of 0..count-1 for each step that `offsets` describes."""
    if not np.array_equal(tags.offsets, offsets):
        raise ShapeError("Tags and emissions must describe the same sequences; their offsets differ.")
    wrong = np.flatnonzero((tags.values < 0) | (tags.values >= count))
    if len(wrong):
        raise ShapeError(f"Tag {tags.values[wrong[0]]} at step {wrong[0]} is not in 0..{count - 1}.")


def decode(emissions: Ragged, weights: CrfWeights) -> tuple[Ragged, np.ndarray]:
    """Find the best tag sequence of each sequence (Viterbi).

    Returns
    -------
    tags : Ragged of int64
        Over the offsets of the emissions. Of several best ones, the one with the lower tags at the later steps.
    scores : ndarray of shape (batch,), float64
        Score of each; minus infinity where no tag sequence is allowed.
    """
    _check_emissions(emissions, weights)
    layout = _TimeMajor.of(emissions.offsets)
    scores = emissions.values[layout.index].astype(np.float64)
    starts = layout.starts
    into = np.ascontiguousarray(weights.transitions.T.astype(np.float64))  # (to, from): the search runs along rows
    best = np.empty_like(scores)
    back = np.zeros(scores.shape, dtype=np.int32)
    rows_at_once = max(1, SEARCH_BLOCK // weights.tags**2)
    for time in range(len(starts) - 1):
        here = slice(starts[time], starts[time + 1])
        if time == 0:
            best[here] = scores[here] + weights.start
            continue
        for first in range(here.start, here.stop, rows_at_once):
            block = slice(first, min(first + rows_at_once, here.stop))
            shift = starts[time - 1] - starts[time]
            ways = best[block.start + shift : block.stop + shift, None, :] + into  # (rows, to, from)
            back[block] = ways.argmax(axis=2)
            best[block] = scores[block] + np.take_along_axis(ways, back[block, :, None], axis=2)[:, :, 0]
    finals = best[layout.last] + weights.end
    tag = finals.argmax(axis=1)
    totals = np.zeros(len(emissions))
    totals[layout.order[: layout.nonempty]] = finals[np.arange(layout.nonempty), tag]
    path = np.zeros(len(scores), dtype=np.int64)
    path[layout.last] = tag
    for time in range(len(starts) - 2, 0, -1):
        here = slice(starts[time], starts[time + 1])
        live = here.stop - here.start
        path[starts[time - 1] : starts[time - 1] + live] = back[np.arange(here.start, here.stop), path[here]]
    tags = np.empty(len(scores), dtype=np.int64)
    tags[layout.index] = path
    return Ragged(tags, emissions.offsets), totals


def n_best(emissions: Ragged, weights: CrfWeights, n: int) -> list[list[tuple[np.ndarray, float]]]:
    """Find the `n` best tag sequences of each sequence, best first (list Viterbi).

    Parameters
    ----------
    emissions : Ragged, values of shape (steps, tags)
    weights : CrfWeights
    n : int
        At least 1. A sequence with fewer allowed tag sequences gives fewer.

    Returns
    -------
    list of (tags, score) lists
        For each sequence; tags of shape (length,), int64. A sequence without steps gives one empty tagging of score 0.
    """
    if n < 1:
        raise ShapeError(f"n_best needs n of at least 1, got {n}.")
    _check_emissions(emissions, weights)
    return [_n_best_of_one(emissions[row].astype(np.float64), weights, n) for row in range(len(emissions))]


def _n_best_of_one(scores: np.ndarray, weights: CrfWeights, n: int) -> list[tuple[np.ndarray, float]]:
    steps, tags = scores.shape
    if steps == 0:
        return [(np.zeros(0, dtype=np.int64), 0.0)]
    transitions = weights.transitions.astype(np.float64)
    best = (scores[0] + weights.start)[:, None]  # (tags, ways), each row falling
    backs: list[np.ndarray] = []
    for step in range(1, steps):
        ways = transitions.T[:, :, None] + best  # (to, from, ways)
        ways = ways.reshape(tags, -1)
        keep = _largest(ways, n)
        backs.append(np.stack(np.divmod(keep, best.shape[1])))  # (2, to, ways): tag before, and its way
        best = np.take_along_axis(ways, keep, axis=1) + scores[step][:, None]
    finals = (best + weights.end.astype(np.float64)[:, None]).ravel()
    found = []
    for place in _largest(finals[None], n)[0]:
        if np.isneginf(finals[place]):
            break
        tag, way = divmod(int(place), best.shape[1])
        path = [tag]
        for back in reversed(backs):
            tag, way = int(back[0, tag, way]), int(back[1, tag, way])
            path.append(tag)
        found.append((np.array(path[::-1], dtype=np.int64), float(finals[place])))
    return found


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Places of the `n` largest values of each row, largest first."""
    width = values.shape[1]
    if n < width:
        places = np.argpartition(values, width - n, axis=1)[:, width - n :]
    else:
        places = np.broadcast_to(np.arange(width), values.shape)
    order = np.argsort(-np.take_along_axis(values, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)
