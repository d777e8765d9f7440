"""What the report of a tagger says about its explanations: explained spans, and how far to trust them.

A word is taken away by putting an unknown word without letters in its place, as occlusion does: a sentence keeps its
steps. Measured is the probability of the span's tags under the whole model, the CRF included. All of it on a sample of
the scored part. Shares its sections with `report`; imports `evaluation.page` through it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.tags import tags_to_spans
from bilstm.evaluation.report import Section
from bilstm.explanation.explanation import Explanation
from bilstm.explanation.faithfulness import SHARES, Faithfulness
from bilstm.explanation.methods import DEFAULT
from bilstm.explanation.network import Network
from bilstm.explanation.report import MeasuredMethod, examples_section, trust_section
from bilstm.explanation.tagger import Place, attribute_span, empty_word, explain_places, network_of_tagger
from bilstm.explanation.tagger import span_contrasts as contrasts_of

__all__ = ["TaggerReportExplanations", "explain_tagger_for_report", "tagger_sections_of"]

MOST_SENTENCES = 200
MEASURED_SPANS = 80
EXAMPLES = 3  # of each group
LONGEST = 60  # words of an example, where there are shorter ones


@dataclass(frozen=True)
class TaggerReportExplanations:
    """What the sections show.

    Parameters
    ----------
    examples : tuple of (group, explanation, truth)
    measured : tuple of MeasuredMethod
        The default method first, random attribution last.
    """

    examples: tuple[tuple[str, Explanation, str], ...]
    measured: tuple[MeasuredMethod, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what metrics.json keeps."""
        spans = self.measured[0].faithfulness.texts if self.measured else 0
        return {"spans": spans, "methods": {one.name: one.to_json() for one in self.measured}}


@dataclass(frozen=True)
class _Found:
    """A span that the model answered: sentence of the sample, place, and what is true there."""

    row: int
    place: Place
    is_right: bool
    truth: str

    @property
    def probability(self) -> float:
        """Of its tags."""
        return self.place[3] or 0.0


def explain_tagger_for_report(
    model: Any, tokens: Sequence[Sequence[str]], tags: Sequence[Sequence[str]], seed: int
) -> TaggerReportExplanations:
    """Explain spans of a sample of scored sentences and measure the explanations.

    Parameters
    ----------
    model : TaggerModel
        Of plain tags without spans, every word is a span.
    tokens, tags : sequence of sequence of str
        Sentences and their true tags.
    seed : int
        Of the sample.
    """
    chosen = [int(at) for at in np.random.default_rng(seed).permutation(len(tokens))[:MOST_SENTENCES]]
    rows = model.annotate([list(tokens[at]) for at in chosen])
    found = [one for at, row in enumerate(rows) for one in _found(model, at, row, tags[chosen[at]])]
    examples = tuple(
        (name, explain_places(model, rows[one.row], [one.place], DEFAULT)[0], one.truth)
        for name, one in _example_spans(found, rows)
    )
    order = np.random.default_rng(seed + 1).permutation(len(found))[:MEASURED_SPANS]
    return TaggerReportExplanations(examples, _measured(model, rows, [found[at] for at in order], seed))


def _found(model: Any, at: int, row: Any, truth: Sequence[str]) -> list[_Found]:
    """List what the model answered in one sentence, beside the truth."""
    if model.scheme == "none":
        lattice, numbers = _lattice_of(model, [row])
        return [
            _Found(at, (word, word + 1, tag, lattice.path_probability(0, word, numbers[0][word : word + 1])),
                   tag == truth[word], truth[word])
            for word, tag in enumerate(row.tags)
        ]  # fmt: skip
    gold = tags_to_spans(truth)
    found = []
    for one in row.spans:
        words = [word for word, (start, end) in enumerate(row.offsets) if start < one.end and end > one.start]
        first, last = words[0], words[-1] + 1
        near = [
            f"{span.type}: {' '.join(row.tokens[span.begin : span.end])}"
            for span in gold
            if span.begin < last and span.end > first
        ]
        is_right = any((span.begin, span.end, span.type) == (first, last, one.label) for span in gold)
        found.append(_Found(at, (first, last, one.label, one.score), is_right, ", ".join(near) or "no span here"))
    return found


def _example_spans(found: Sequence[_Found], rows: Sequence[Any]) -> list[tuple[str, _Found]]:
    """Choose spans that are right, wrong and least sure; each sentence once, those of middling length first."""
    used: set[int] = set()

    def first(candidates: list[_Found]) -> list[_Found]:
        taken = []
        for one in sorted(candidates, key=lambda one: not 5 <= len(rows[one.row].tokens) <= LONGEST):
            if one.row not in used and len(taken) < EXAMPLES:
                used.add(one.row)
                taken.append(one)
        return taken

    sure = sorted(found, key=lambda one: -one.probability)
    groups = (
        ("Right and sure", [one for one in sure if one.is_right]),
        ("Wrong, though sure", [one for one in sure if not one.is_right]),
        ("Least sure", sure[::-1]),
    )
    return [(name, one) for name, candidates in groups for one in first(candidates)]


# ---- how true they are ----


def _measured(model: Any, rows: Sequence[Any], found: Sequence[_Found], seed: int) -> tuple[MeasuredMethod, ...]:
    if not found:
        return ()
    network, empty = network_of_tagger(model), empty_word(model)
    encoded = model.encode([list(row.tokens) for row in rows])
    vectors = [model.tagger.features(encoded.batch([one.row])).values for one in found]
    lengths = np.array([len(values) for values in vectors])
    emissions, best = _decoded(model, network, Ragged(np.concatenate(vectors), _offsets(lengths)))
    contrasts = [
        contrasts_of(best[at], one.place[0], one.place[1], emissions.values.shape[1]) for at, one in enumerate(found)
    ]
    measured = []
    for name in (DEFAULT, "gradient-x-input"):
        started = time.perf_counter()
        results = [
            attribute_span(network, Ragged(values, _offsets(np.array([len(values)]))), empty, contrast, name)
            for values, contrast in zip(vectors, contrasts, strict=True)
        ]
        milliseconds = (time.perf_counter() - started) / len(found) * 1e3
        faithfulness = _faithfulness(model, network, found, vectors, best, empty, [one.values for one in results])
        gap = float(np.median([one.gap[0] for one in results]))
        measured.append(MeasuredMethod(name, faithfulness, milliseconds, gap))
    random = np.random.default_rng(seed)
    values = [random.random(length) for length in lengths]
    measured.append(
        MeasuredMethod("random", _faithfulness(model, network, found, vectors, best, empty, values), 0.0, None)
    )
    return tuple(measured)


def _faithfulness(
    model: Any,
    network: Network,
    found: Sequence[_Found],
    vectors: Sequence[np.ndarray],
    best: Sequence[np.ndarray],
    empty: np.ndarray,
    attributions: Sequence[np.ndarray],
) -> Faithfulness:
    """Measure how the probability of each span falls without its strongest words, and with them alone."""
    orders = [np.argsort(-values, kind="stable") for values in attributions]

    def probabilities(share: float, keeps: bool) -> np.ndarray:
        changed = []
        for values, order in zip(vectors, orders, strict=True):
            strongest = np.zeros(len(values), dtype=bool)
            strongest[order[: max(1, int(np.ceil(share * len(values))))]] = True
            gone = ~strongest if keeps else strongest
            changed.append(np.where(gone[:, None], empty, values))
        lengths = np.array([len(values) for values in changed])
        return _span_probabilities(model, network, Ragged(np.concatenate(changed), _offsets(lengths)), found, best)

    lengths = np.array([len(values) for values in vectors])
    full = _span_probabilities(model, network, Ragged(np.concatenate(vectors), _offsets(lengths)), found, best)
    by_share = tuple(
        (
            share,
            float((full - probabilities(share, keeps=False)).mean()),
            float((full - probabilities(share, keeps=True)).mean()),
        )
        for share in SHARES
    )
    means = np.array(by_share)[:, 1:].mean(axis=0)
    return Faithfulness(float(means[0]), float(means[1]), len(found), by_share)


def _span_probabilities(
    model: Any, network: Network, batch: Ragged, found: Sequence[_Found], best: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the probability of the tags of each span in its own changed sentence."""
    from bilstm.runtime.crf import build_lattice

    lattice = build_lattice(batch.with_values(network.run(batch)), model.tagger.crf)
    return np.array(
        [
            lattice.path_probability(at, one.place[0], best[at][one.place[0] : one.place[1]])
            for at, one in enumerate(found)
        ]
    )


def _decoded(model: Any, network: Network, batch: Ragged) -> tuple[Ragged, list[np.ndarray]]:
    from bilstm.runtime.crf import decode

    emissions = batch.with_values(network.run(batch))
    return emissions, [np.asarray(path) for path in decode(emissions, model.tagger.crf)[0]]


def _lattice_of(model: Any, rows: Sequence[Any]) -> tuple[Any, list[np.ndarray]]:
    from bilstm.runtime.crf import build_lattice, decode

    emissions, _ = model.scores(model.encode([list(row.tokens) for row in rows]))
    return build_lattice(emissions, model.tagger.crf), [
        np.asarray(one) for one in decode(emissions, model.tagger.crf)[0]
    ]


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def tagger_sections_of(explanations: TaggerReportExplanations) -> tuple[Section, ...]:
    """Return the sections of a report; give `report.STYLE` to the page."""
    return (
        ("explained", "Explanations", lambda _, key: examples_section(key, explanations.examples)),
        ("trust", "Trust", lambda _, key: trust_section(key, explanations.measured, "span")),
    )
