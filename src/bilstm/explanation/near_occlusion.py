"""Near occlusion of an LSTM: each shortened text is run on until what is left to say can be read off a gradient.

Exact occlusion runs every direction from the gap to the end of the text (`occlusion`). Here a direction stops some
steps behind the gap. Its states then differ from those of the whole text by d, and what d still does to the score is
taken to be

    lambda . d,        lambda = gradient of the score by the states of the whole text at that step,

one way back through the text for all words together. What is neglected is of second order in d. A direction stops when
this rest is at most `REST_BOUND` of score for every target, or at the end of the text; so the neglected part is a part
of something small already, and words that matter to the end are run to the end. Its error is measured in
docs/explanations.md and held by a test. Steps run in bfloat16 where that is faster.

Source of the rest: a first-order Taylor expansion, as in saliency methods (Simonyan et al. 2013, arXiv 1312.6034), but
of the tail of the text alone. Short texts are run exactly, which costs less. Imports numpy, `engine`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.explanation.averaged_network import AveragedNetwork, mean_of
from bilstm.explanation.network import Network
from bilstm.explanation.occlusion import CutStates, Whole, advancing, head_of
from bilstm.explanation.pooled_pass import gradient_of_pooled, pools_one_layer, trace_pooled
from bilstm.explanation.recurrent_trace import Direction, directions_of

__all__ = ["FEWEST_STEPS", "REST_BOUND", "OpenedTexts", "open_texts", "scores_nearly_without"]

REST_BOUND = 0.005  # in the unit of the score
FIRST_STEPS = 8  # behind the gap, before the first look; then as many again, twice as many, and so on
FEWEST_STEPS = 64  # shorter texts are run exactly


@dataclass(frozen=True, eq=False)
class OpenedTexts:
    """Texts run once through each network that answers, with the states of every step.

    Parameters
    ----------
    members : tuple of _Opened
    """

    members: tuple[_Opened, ...]

    @property
    def logits(self) -> np.ndarray:
        """What the `run` of the network gives; in the engine with the same bits."""
        return mean_of([member.flows[-1] for member in self.members])


@dataclass(frozen=True, eq=False)
class _Opened:
    """Texts run once through one network.

    Parameters
    ----------
    network : Network
    batch : Ragged of vectors (steps, size), float32
    directions : list of Direction
    states : ndarray of shape (steps, directions * hidden)
    flows : tuple of ndarray
        Pooled states (batch, features), then what each linear layer gave.
    """

    network: Network
    batch: Ragged
    directions: list[Direction]
    states: np.ndarray
    flows: tuple[np.ndarray, ...]


def open_texts(network: Network | AveragedNetwork, batch: Ragged) -> OpenedTexts | None:
    """Run texts once; None for a network that is no single LSTM layer, pooled by last, max or mean."""
    first = network.layers[0]
    if not pools_one_layer(network.layers) or not isinstance(first, description.Recurrent) or first.cell != "lstm":
        return None
    return OpenedTexts(tuple(_open(first, member, own) for member, own in network.parts(batch)))


def _open(layer: description.Recurrent, network: Network, batch: Ragged) -> _Opened:
    directions = directions_of(layer, network.weights[0], 0)
    if network.context is None:
        trace = network.trace(batch)
        flows = tuple(one.outputs for one in trace.layers[1:])
        return _Opened(network, batch, directions, trace.layers[0].outputs, flows)
    found = trace_pooled(network.layers, network.weights, directions, batch, network.context, keeps_states=True)
    assert found.result.outputs is not None
    return _Opened(network, batch, directions, found.result.outputs, found.flows)


def scores_nearly_without(
    opened: OpenedTexts, row: int, contrasts: np.ndarray, cuts: np.ndarray, *, bound: float = REST_BOUND
) -> np.ndarray:
    """Return the scores of a text without some of its steps, nearly.

    Parameters
    ----------
    row : int
        Of the text.
    contrasts : ndarray of shape (targets, outputs)
        A score is the sum of contrast times logit.
    cuts : ndarray of shape (cuts, 2), int64
        First step left out, and the first one kept again.
    bound : float
        Largest rest of a direction that is taken to be linear, in the unit of the scores.

    Returns
    -------
    ndarray of shape (cuts, targets), float64
    """
    return mean_of([_member_without(member, row, contrasts, cuts, bound) for member in opened.members])


def _member_without(opened: _Opened, row: int, contrasts: np.ndarray, cuts: np.ndarray, bound: float) -> np.ndarray:
    """Do `scores_nearly_without` for one network."""
    start, end = int(opened.batch.offsets[row]), int(opened.batch.offsets[row + 1])
    if start == end or not len(cuts):
        return np.tile(opened.flows[-1][row].astype(np.float64) @ contrasts.T, (len(cuts), 1))
    x, h = opened.batch.values[start:end], opened.states[start:end]
    inside = _Inside.of(opened.directions, x, h)
    rests = _rests(opened, row, contrasts, inside)
    pooled, tails = [], np.zeros((len(cuts), len(contrasts)))
    for number, direction in enumerate(opened.directions):
        runs = _Direction(opened.network, direction, inside, number, x[::-1] if direction.is_backward else x)
        own = len(x) - cuts[:, ::-1] if direction.is_backward else cuts
        state, tail = runs.run(own, [rest[number] for rest in rests], bound)
        pooled.append(state.pooled(_kinds(opened.network), len(x) - (cuts[:, 1] - cuts[:, 0])))
        tails += tail
    return head_of(opened.network, pooled).astype(np.float64) @ contrasts.T + tails


def _kinds(network: Network) -> tuple[description.PoolingKind, ...]:
    pooling = network.layers[1]
    assert isinstance(pooling, description.Pooling)
    return pooling.kinds


@dataclass(frozen=True, eq=False)
class _Inside:
    """All steps of one text opened, each direction in the order of its reading; (steps, directions, hidden) each.

    c_t = f c_(t-1) + i g, h_t = o tanh(c_t). `by_c` and `by_o` are the derivatives of h_t by c_t and by what goes into
    o; `of_c` (steps, directions, 3, hidden) those of c_t by what goes into i, f, g.
    """

    h: np.ndarray
    c: np.ndarray
    f: np.ndarray
    by_c: np.ndarray
    by_o: np.ndarray
    of_c: np.ndarray
    w_hh: list[np.ndarray]

    @classmethod
    def of(cls, directions: list[Direction], x: np.ndarray, states: np.ndarray) -> _Inside:
        steps, count, size = len(x), len(directions), directions[0].hidden_size
        a = np.empty((4, steps, count, size), dtype=np.float32)
        h = np.empty((steps, count, size), dtype=np.float32)
        for number, one in enumerate(directions):
            way = slice(None, None, -1) if one.is_backward else slice(None)
            h[:, number] = states[way, number * size : (number + 1) * size]
            sums = (x @ one.w_ih.T)[way] + (one.b_ih + one.b_hh)
            sums[1:] += h[:-1, number] @ one.w_hh.T
            a[:, :, number] = sums.reshape(steps, 4, size).transpose(1, 0, 2)
        for gates in (a[:2], a[3]):  # sigmoid(x) = (1 + tanh(x / 2)) / 2
            gates *= np.float32(0.5)
        np.tanh(a, out=a)
        for gates in (a[:2], a[3]):
            gates += np.float32(1.0)
            gates *= np.float32(0.5)
        i, f, g, o = a
        c = i * g
        kept = np.empty_like(c[0])
        for now in range(1, steps):
            np.multiply(f[now], c[now - 1], out=kept)
            c[now] += kept
        c_before = np.concatenate([np.zeros_like(c[:1]), c[:-1]])
        tanh_c = np.tanh(c)
        of_c = np.stack([g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g)], axis=2)
        by_o = tanh_c * o * (1 - o)
        return cls(h, c, f, o * (1 - tanh_c * tanh_c), by_o, of_c, [one.w_hh for one in directions])


def _rests(
    opened: _Opened, row: int, contrasts: np.ndarray, inside: _Inside
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Return, by target and direction, the gradients of the score by h and c after each step, (steps, hidden) each.

    What the step itself adds to the pooled states is not in them.
    """
    steps, count, size = inside.h.shape
    flows = [flow[row : row + 1] for flow in opened.flows]
    found = []
    for contrast in contrasts:
        by_pooled = gradient_of_pooled(
            opened.network.layers, opened.network.weights, flows, contrast[None].astype(np.float32)
        )
        given = np.zeros_like(inside.h)
        for kind, part in zip(_kinds(opened.network), by_pooled.reshape(-1, count, size), strict=True):
            if kind == "mean":
                given += part / np.float32(max(steps - 1, 1))
            elif kind == "last":
                given[-1] += part
            else:
                numbers = np.arange(count)[:, None], np.arange(size)[None]
                given[(inside.h.argmax(axis=0), *numbers)] += part
        by_h, by_c = _back(inside, given)
        found.append([(by_h[:, number], by_c[:, number]) for number in range(count)])
    return found


def _back(inside: _Inside, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Go back through all steps, both directions at once; the way of `recurrent_trace._lstm_back`."""
    steps, count, size = given.shape
    by_h, by_c = np.zeros_like(given), np.zeros_like(given)
    d_a = np.empty((count, 4, size), dtype=given.dtype)
    rows = [d_a[number].reshape(-1) for number in range(count)]
    of_rest, of_o = d_a[:, :3], d_a[:, 3]
    d_h, d_c = np.empty_like(given[0]), np.empty_like(given[0])
    for now in range(steps - 1, 0, -1):
        np.add(by_h[now], given[now], out=d_h)
        np.multiply(d_h, inside.by_c[now], out=d_c)
        np.add(d_c, by_c[now], out=d_c)
        np.multiply(inside.of_c[now], d_c[:, None], out=of_rest)
        np.multiply(d_h, inside.by_o[now], out=of_o)
        for number, row in enumerate(rows):
            np.dot(row, inside.w_hh[number], out=by_h[now - 1, number])
        np.multiply(d_c, inside.f[now], out=by_c[now - 1])
    return by_h, by_c


class _Direction:
    """One direction of one text, ready to be run on from its gaps; everything in the order of its reading."""

    def __init__(self, network: Network, direction: Direction, inside: _Inside, number: int, x: np.ndarray):
        self.steps = len(x)
        h, c = (np.ascontiguousarray(part[:, number]) for part in (inside.h, inside.c))
        self.whole = Whole.of(h, c, np.array([0, self.steps]))
        self.advance = advancing(network, direction, x, "auto")

    def run(
        self, cuts: np.ndarray, rests: list[tuple[np.ndarray, np.ndarray]], bound: float
    ) -> tuple[CutStates, np.ndarray]:
        """Run all cuts on; return where they are with the rest of the text taken from the whole, and what is linear.

        Parameters
        ----------
        rests : list of (ndarray, ndarray)
            Of each target: gradients by h and c after each step.
        """
        whole = self.whole
        assert whole.c is not None  # near-occlusion is for LSTM models
        state = CutStates.before_cuts(whole, cuts[:, 0] - 1, cuts[:, 0] > 0)
        position, alive = cuts[:, 1].copy(), np.flatnonzero(cuts[:, 1] < self.steps)
        tails, chunk, done_steps = np.zeros((len(cuts), len(rests))), FIRST_STEPS, 0
        while len(alive):
            count = np.minimum(self.steps - position[alive], chunk)
            state.take(alive, self.advance(position[alive], count, state.h[alive], state.c[alive]))
            position[alive] += count
            alive = alive[position[alive] < self.steps]
            at = position[alive]
            d_h, d_c = state.h[alive] - whole.h[at - 1], state.c[alive] - whole.c[at - 1]
            tail = np.stack(
                [np.einsum("kh,kh->k", d_h, by_h[at - 1]) + np.einsum("kh,kh->k", d_c, by_c[at - 1])
                 for by_h, by_c in rests], axis=1,
            )  # fmt: skip
            small = (np.abs(tail) <= bound).all(axis=1)
            done = alive[small]
            tails[done] = tail[small]
            state.finish(done, whole, at[small], np.full(len(done), self.steps - 1))
            alive = alive[~small]
            done_steps += chunk
            chunk = done_steps
        return state, tails
