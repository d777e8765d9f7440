"""The table of methods: each takes a subject and a batch of texts and gives what every word adds to the scores.

A score is network part + linear part; the linear part is explained exactly whatever the method (`linear_part`), the
network by the method named. Imports the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError
from bilstm.explanation.averaged_network import mean_of
from bilstm.explanation.decomposition import phrase_logits
from bilstm.explanation.gradients import (
    Path,
    StepAttribution,
    gradient_times_input,
    integrated_gradients,
    quick_gradients,
    run_path,
)
from bilstm.explanation.linear_part import margins_without, occurrences_of, phrase_values
from bilstm.explanation.near_occlusion import FEWEST_STEPS, OpenedTexts, open_texts, scores_nearly_without
from bilstm.explanation.network import attention_of
from bilstm.explanation.occlusion import AGREEMENT, NEAR_AGREEMENT, can_reuse_states, logits_without
from bilstm.explanation.relevance import relevance
from bilstm.explanation.subject import TextSubject
from bilstm.explanation.words import TextWords

__all__ = [
    "BATCH_STEPS",
    "BATCH_TEXTS",
    "DEFAULT",
    "METHODS",
    "Attributed",
    "Method",
    "Start",
    "attribute_all",
    "default_method",
    "method_named",
    "scores_without",
    "start",
]

BATCH_TEXTS, BATCH_STEPS = 32, 16_384  # explained at once: little memory, and long enough for the cores to be busy

# Measured (docs/explanations.md): as faithful as with as many points as completeness asks for, at a fixed small price.
DEFAULT = "quick-gradients"


@dataclass(frozen=True, eq=False)
class Attributed:
    """What a method says about one text.

    Parameters
    ----------
    values : ndarray of shape (words, targets), float64
    baseline_score : ndarray of shape (targets,), or None
    gap : float or None
    is_weights : bool
        The values are weights of attention.
    """

    values: np.ndarray
    baseline_score: np.ndarray | None = None
    gap: float | None = None
    is_weights: bool = False


@dataclass(frozen=True, eq=False)
class Start:
    """What is run before it is known what to explain.

    Parameters
    ----------
    logits : ndarray of shape (texts, outputs)
        Of the network.
    first : Path, OpenedTexts or None
        What the method's `first` gave.
    """

    logits: np.ndarray
    first: Any = None


# subject, words of the texts, their vectors, contrasts (texts, targets, outputs), start -> one entry a text
Attribute = Callable[[TextSubject, Sequence[TextWords], Ragged, np.ndarray, Start], list[Attributed]]


@dataclass(frozen=True)
class Method:
    """A way to explain.

    Parameters
    ----------
    name : str
    baseline : str
        In words, what the text is compared with.
    attribute : function
    first : function, optional
        What can be run before it is known what to explain, for all texts of a batch; it gives their `logits` too, or
        None where it is of no use.
    """

    name: str
    baseline: str
    attribute: Attribute
    first: Callable[[TextSubject, Ragged], Path | OpenedTexts | None] | None = None


def start(subject: TextSubject, method: Method, vectors: Ragged) -> Start:
    """Run what a method needs first, and with it the logits of the network."""
    first = None if method.first is None else method.first(subject, vectors)
    return Start(subject.network.run(vectors) if first is None else first.logits, first)


# ---- methods that take the network's score apart step by step ----


def _by_steps(run: Callable[[TextSubject, Ragged, np.ndarray, np.ndarray], StepAttribution]) -> Attribute:
    """Make a method of a function that explains one contrast of logits a text."""

    def attribute(
        subject: TextSubject, words: Sequence[TextWords], vectors: Ragged, contrasts: np.ndarray, begun: Start
    ) -> list[Attributed]:
        texts, targets, _ = contrasts.shape
        repeated = vectors.select(np.repeat(np.arange(texts), targets)) if targets > 1 else vectors
        flat = contrasts.reshape(texts * targets, -1)
        found = run(subject, repeated, flat * subject.network_weight, np.repeat(begun.logits, targets, axis=0))
        return _of_words(subject, words, repeated.offsets, contrasts, found)

    return attribute


def _of_words(
    subject: TextSubject,
    words: Sequence[TextWords],
    offsets: np.ndarray,
    contrasts: np.ndarray,
    found: StepAttribution,
) -> list[Attributed]:
    """Add up steps by word, and add the linear part; `found` holds the targets of each text one after another."""
    targets = contrasts.shape[1]
    constant = (contrasts @ subject.constant() + subject.score_constant()).reshape(-1)
    result = []
    for row, one in enumerate(words):
        rows = slice(row * targets, (row + 1) * targets)
        steps = found.values[offsets[row * targets] : offsets[(row + 1) * targets]].reshape(targets, -1)
        values = np.stack([np.bincount(one.word_of_step, part, minlength=len(one)) for part in steps], axis=1)
        values = values + subject.word_shares(one) @ contrasts[row].T
        result.append(Attributed(values, found.baseline_score[rows] + constant[rows], float(found.gap[rows].max())))
    return result


def _integrated(subject: TextSubject, batch: Ragged, contrasts: np.ndarray, logits: np.ndarray) -> StepAttribution:
    return integrated_gradients(subject.network, batch, subject.baseline, contrasts, logits=logits)


def _path(subject: TextSubject, vectors: Ragged) -> Path | None:
    return run_path(subject.network, vectors, subject.baseline)


def _quick(
    subject: TextSubject, words: Sequence[TextWords], vectors: Ragged, contrasts: np.ndarray, begun: Start
) -> list[Attributed]:
    """Run the path once and go back once a target."""
    targets, found = contrasts.shape[1], []
    for target in range(targets):
        wanted = contrasts[:, target] * subject.network_weight
        if begun.first is not None:
            found.append(begun.first.attribute(wanted))
        else:
            found.append(quick_gradients(subject.network, vectors, subject.baseline, wanted, logits=begun.logits))
    if targets == 1:
        return _of_words(subject, words, vectors.offsets, contrasts, found[0])
    places = [slice(*pair) for pair in pairwise(vectors.offsets)]
    values = np.concatenate([one.values[place] for place in places for one in found])
    offsets = np.concatenate([[0], np.cumsum(np.repeat(vectors.lengths, targets))])
    rest = [np.stack(parts, axis=1).reshape(-1) for parts in list(zip(*found, strict=True))[1:]]
    return _of_words(subject, words, offsets, contrasts, StepAttribution(values, *rest))


def _gradient(subject: TextSubject, batch: Ragged, contrasts: np.ndarray, logits: np.ndarray) -> StepAttribution:
    return gradient_times_input(subject.network, batch, subject.baseline, contrasts)


def _relevance(subject: TextSubject, batch: Ragged, contrasts: np.ndarray, logits: np.ndarray) -> StepAttribution:
    found = [relevance(member, own, contrasts) for member, own in subject.network.parts(batch)]
    return StepAttribution(*(mean_of(list(parts)) for parts in zip(*found, strict=True)))


# ---- methods that leave words out ----


def scores_without(
    subject: TextSubject,
    words: Sequence[TextWords],
    vectors: Ragged,
    contrasts: np.ndarray,
    cuts: Sequence[np.ndarray],
    logits: np.ndarray,
    *,
    agreement: float = AGREEMENT,
    precision: str = "float32",
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for each text, its scores (targets,) and its scores without each run of words (cuts, targets).

    Parameters
    ----------
    cuts : sequence of ndarray of shape (cuts, 2), int64
        For each text: first word left out, and the first one kept again.
    logits : ndarray of shape (texts, outputs)
        Of the network, for the whole texts.
    agreement, precision
        As `occlusion.logits_without` takes them.
    """
    step_cuts = [
        np.searchsorted(one.word_of_step, part).astype(np.int64).reshape(-1, 2)
        for one, part in zip(words, cuts, strict=True)
    ]
    rows = np.repeat(np.arange(len(words)), [len(part) for part in cuts])
    without = logits_without(
        subject.network,
        vectors,
        rows,
        np.concatenate([np.zeros((0, 2), np.int64), *step_cuts]),
        agreement=agreement,
        precision=precision,
    )
    result, first = [], 0
    for row, (one, part) in enumerate(zip(words, cuts, strict=True)):
        both = np.concatenate([logits[row : row + 1], without[first : first + len(part)]])
        joined = subject.network_weight * both.astype(np.float64)
        first += len(part)
        if subject.linear is not None and subject.joining is not None:
            linear = margins_without(subject.linear, subject.linear_weights, one.keys, part)
            joined += np.concatenate([linear[0][None], linear[1]]) + subject.joining.shift
        scores = joined @ contrasts[row].T + subject.score_constant()
        result.append((scores[0], scores[1:]))
    return result


def _occlusion(
    subject: TextSubject, words: Sequence[TextWords], vectors: Ragged, contrasts: np.ndarray, begun: Start
) -> list[Attributed]:
    found = scores_without(subject, words, vectors, contrasts, [_single_words(one) for one in words], begun.logits)
    return [Attributed(whole - without) for whole, without in found]


def _near_occlusion(
    subject: TextSubject, words: Sequence[TextWords], vectors: Ragged, contrasts: np.ndarray, begun: Start
) -> list[Attributed]:
    if not can_reuse_states(subject.network):
        raise UsageError(
            "near-occlusion is for one recurrent layer with pooling by last, max or mean.", "Choose occlusion."
        )
    if begun.first is None:
        cuts = [_single_words(one) for one in words]
        found = scores_without(
            subject, words, vectors, contrasts, cuts, begun.logits, agreement=NEAR_AGREEMENT, precision="auto"
        )
        return [Attributed(whole - without) for whole, without in found]
    result, opened = [], begun.first
    for row, one in enumerate(words):
        own, logits = contrasts[row : row + 1], begun.logits[row : row + 1]
        if len(one.ids) < FEWEST_STEPS:
            begins = Start(logits)
            result += _occlusion(subject, [one], vectors.select([row]), own, begins)
            continue
        cuts = np.searchsorted(one.word_of_step, _single_words(one)).astype(np.int64).reshape(-1, 2)
        weighted = contrasts[row] * subject.network_weight
        values = logits @ weighted.T - scores_nearly_without(opened, row, weighted, cuts)
        if subject.linear is not None:
            whole, without = margins_without(subject.linear, subject.linear_weights, one.keys, _single_words(one))
            values = values + (whole - without) @ contrasts[row].T
        result.append(Attributed(values))
    return result


def _opened(subject: TextSubject, vectors: Ragged) -> OpenedTexts | None:
    return open_texts(subject.network, vectors) if vectors.lengths.max(initial=0) >= FEWEST_STEPS else None


def _decomposition(
    subject: TextSubject, words: Sequence[TextWords], vectors: Ragged, contrasts: np.ndarray, begun: Start
) -> list[Attributed]:
    steps = [np.searchsorted(one.word_of_step, _single_words(one)).reshape(-1, 2) for one in words]
    rows = np.repeat(np.arange(len(words)), [len(one) for one in words])
    found = phrase_logits(subject.network, vectors, rows, np.concatenate([np.zeros((0, 2), np.int64), *steps]))
    result, first = [], 0
    for row, one in enumerate(words):
        values = found[first : first + len(one)] * subject.network_weight
        first += len(one)
        if subject.linear is not None:
            places = occurrences_of(subject.linear, one.keys)
            values = values + phrase_values(subject.linear, subject.linear_weights, places, _single_words(one))
        result.append(Attributed(values @ contrasts[row].T))
    return result


# ---- weights that explain nothing by themselves ----


def _attention(
    subject: TextSubject, words: Sequence[TextWords], vectors: Ragged, contrasts: np.ndarray, begun: Start
) -> list[Attributed]:
    found = []
    for member, own in subject.network.parts(vectors):
        pooling = [one for one in member.trace(own).layers if "attention_weight" in one.weights]
        if not pooling:
            raise UsageError("this model has no attention: it pools in another way.", "Choose another method.")
        found.append(attention_of(pooling[0], vectors.offsets)[0].astype(np.float64))
    shares = mean_of(found)
    result = []
    for row, one in enumerate(words):
        part = shares[vectors.offsets[row] : vectors.offsets[row + 1]]
        values = np.bincount(one.word_of_step, part, minlength=len(one))
        result.append(Attributed(np.tile(values[:, None], (1, contrasts.shape[1])), is_weights=True))
    return result


def _single_words(one: TextWords) -> np.ndarray:
    places = np.arange(len(one))
    return np.stack([places, places + 1], axis=1)


_UNKNOWN = "a text of as many unknown words, and no n-gram"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("quick-gradients", _UNKNOWN, _quick, _path),
        Method("occlusion", "the same text without the word", _occlusion),
        Method("near-occlusion", "the same text without the word, nearly", _near_occlusion, _opened),
        Method("integrated-gradients", _UNKNOWN, _by_steps(_integrated)),
        Method("relevance", "what biases and intercepts give", _by_steps(_relevance)),
        Method("contextual-decomposition", "the rest of the text, left to itself", _decomposition),
        Method("gradient-x-input", _UNKNOWN, _by_steps(_gradient)),
        Method("attention", "none: weights of pooling are no attribution", _attention),
    )
}


def attribute_all(subject: TextSubject, words: Sequence[TextWords], targets: np.ndarray, name: str) -> list[Attributed]:
    """Run a method over any number of texts, in batches.

    Parameters
    ----------
    targets : ndarray of shape (texts, targets), int
    name : str
    """
    method, contrasts, found = method_named(name), subject.contrasts()[targets], []
    first = 0
    while first < len(words):
        last, steps = first + 1, len(words[first].ids)
        while last < len(words) and last - first < BATCH_TEXTS and steps + len(words[last].ids) <= BATCH_STEPS:
            steps += len(words[last].ids)
            last += 1
        vectors = subject.vectors(words[first:last])
        begun = start(subject, method, vectors)
        found += method.attribute(subject, words[first:last], vectors, contrasts[first:last], begun)
        first = last
    return found


def default_method(subject: TextSubject) -> str:
    """Return the method that "auto" means for a model."""
    return DEFAULT if subject.network.has_gradients else "occlusion"


def method_named(name: str) -> Method:
    """Return a method.

    Raises
    ------
    UsageError
        If there is none of that name.
    """
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}.", f"The methods are {', '.join(METHODS)}.")
    return METHODS[name]
