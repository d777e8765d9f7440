"""What the report of a text model says about its explanations: telling words, explained examples, how far to trust it.

All of it on a sample of the scored part, small enough to add seconds to a training. Imports `evaluation.page`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bilstm.evaluation.charts import word_chart
from bilstm.evaluation.drawing import decimal, percent
from bilstm.evaluation.page import Html, bullets, columns, figure, isolated, join, paragraph, section, table, tag
from bilstm.evaluation.report import Section
from bilstm.explanation.explaining import explain_many, subject_of
from bilstm.explanation.explanation import Explanation
from bilstm.explanation.faithfulness import Faithfulness, measure_faithfulness, pointing_game
from bilstm.explanation.methods import attribute_all, default_method
from bilstm.explanation.overview import Overview
from bilstm.explanation.pages import STYLE, legend, shown_explanation
from bilstm.explanation.subject import TextSubject
from bilstm.explanation.words import TextWords

__all__ = [
    "STYLE",
    "MeasuredMethod",
    "ReportExplanations",
    "examples_section",
    "explain_for_report",
    "sections_of",
    "trust_section",
    "trust_sentence",
]

MOST_WORDS = 20_000  # of all sampled texts together
MOST_TEXTS = 300
FAITHFUL_TEXTS = 100
EXAMPLES = 2  # of each group
TEXT_LIMIT = 700  # characters of an example
MOST_CLASSES = 8


@dataclass(frozen=True)
class MeasuredMethod:
    """One row of the table of faithfulness."""

    name: str
    faithfulness: Faithfulness
    milliseconds: float
    gap: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "comprehensiveness": self.faithfulness.comprehensiveness,
            "sufficiency": self.faithfulness.sufficiency,
            "milliseconds": round(self.milliseconds, 2),
            "completeness_gap": self.gap,
        }


@dataclass(frozen=True)
class ReportExplanations:
    """What the sections show.

    Parameters
    ----------
    overview : Overview
    examples : tuple of (group, explanation, true label)
    measured : tuple of MeasuredMethod
        The default method first, random attribution last; empty for numbers.
    pointing : (share, questions), optional
    """

    overview: Overview
    examples: tuple[tuple[str, Explanation, str], ...]
    measured: tuple[MeasuredMethod, ...] = field(default=())
    pointing: tuple[float, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what metrics.json keeps."""
        found = {one.name: one.to_json() for one in self.measured}
        share, questions = self.pointing or (None, 0)
        texts = self.measured[0].faithfulness.texts if self.measured else 0
        return {"texts": texts, "methods": found, "pointing_game": share, "pointing_questions": questions}


def explain_for_report(
    model: Any, texts: Sequence[str], outputs: np.ndarray, targets: np.ndarray, truths: Sequence[str], seed: int
) -> ReportExplanations:
    """Explain a sample of scored texts and measure the explanations.

    Parameters
    ----------
    model : TextModel
    texts : sequence of str
    outputs, targets : ndarray
        Of the model, and the truth, as `TextModel.measure` takes them.
    truths : sequence of str
        True labels as a person reads them.
    seed : int
        Of the sample.
    """
    subject = subject_of(model)
    rows = _sample(texts, seed)
    overview = Overview(subject.target_names)
    for one in explain_many(model, [texts[row] for row in rows]):
        overview.add(one)
    groups = _example_rows(subject, texts, outputs, targets)
    shown = list(explain_many(model, [texts[row] for _, row in groups]))
    examples = tuple((name, one, truths[row]) for (name, row), one in zip(groups, shown, strict=True))
    if subject.labels.kind == "regression":
        return ReportExplanations(overview, examples)
    chosen = subject.words([texts[row] for row in rows[:FAITHFUL_TEXTS]])
    measured = _measured(subject, [one for one in chosen if len(one)], seed)
    return ReportExplanations(overview, examples, measured, _pointing(subject, texts, outputs, rows))


def _sample(texts: Sequence[str], seed: int) -> list[int]:
    """Return rows in a seeded order, until there are texts or words enough."""
    found, words = [], 0
    for row in np.random.default_rng(seed).permutation(len(texts)).tolist():
        words += texts[row].count(" ") + 1
        if found and (words > MOST_WORDS or len(found) == MOST_TEXTS):
            break
        found.append(row)
    return found


def _example_rows(
    subject: TextSubject, texts: Sequence[str], outputs: np.ndarray, targets: np.ndarray
) -> list[tuple[str, int]]:
    """Choose rows that are right, wrong and least sure, those of middling length first."""
    if subject.labels.kind == "regression":
        order = np.argsort(np.abs(outputs - targets), kind="stable").tolist()
        return [("Nearest to the truth", row) for row in order[:EXAMPLES]] + [
            ("Furthest from the truth", row) for row in order[::-1][:EXAMPLES]
        ]
    if subject.labels.kind == "multilabel":
        is_right = ((outputs > 0.5) == (targets > 0.5)).all(axis=1)
        sureness = np.abs(outputs - 0.5).min(axis=1)
    else:
        is_right = outputs.argmax(axis=1) == targets
        sureness = outputs.max(axis=1)
    lengths = np.array([len(text) for text in texts])
    is_long = lengths > max(2 * TEXT_LIMIT, int(np.median(lengths)))
    order = np.lexsort((-sureness, is_long))  # sure and short enough to be shown whole first
    right = [row for row in order.tolist() if is_right[row]][:EXAMPLES]
    wrong = [row for row in order.tolist() if not is_right[row]][:EXAMPLES]
    used = {*right, *wrong}
    unsure = [row for row in np.lexsort((sureness, is_long)).tolist() if row not in used][:EXAMPLES]
    groups = (("Right and sure", right), ("Wrong, though sure", wrong), ("Least sure", unsure))
    return [(name, row) for name, rows in groups for row in rows]


def _measured(subject: TextSubject, words: Sequence[TextWords], seed: int) -> tuple[MeasuredMethod, ...]:
    if not words:
        return ()
    logits = subject.logits(words)
    targets = subject.chosen_targets(logits, None)
    found = []
    names = [default_method(subject)]
    if subject.network.has_gradients:
        names.append("gradient-x-input")
    for name in names:
        started = time.perf_counter()
        attributed = attribute_all(subject, words, targets, name)
        milliseconds = (time.perf_counter() - started) / len(words) * 1e3
        values = [one.values[:, 0] for one in attributed]
        gaps = [one.gap for one in attributed if one.gap is not None]
        faithfulness = measure_faithfulness(subject, words, targets[:, 0], values)
        found.append(MeasuredMethod(name, faithfulness, milliseconds, float(np.median(gaps)) if gaps else None))
    random = np.random.default_rng(seed)
    values = [random.random(len(one)) for one in words]
    found.append(MeasuredMethod("random", measure_faithfulness(subject, words, targets[:, 0], values), 0.0, None))
    return tuple(found)


def _pointing(
    subject: TextSubject, texts: Sequence[str], outputs: np.ndarray, rows: Sequence[int]
) -> tuple[float, int] | None:
    if subject.labels.kind == "multilabel":
        return None
    surest = sorted(rows, key=lambda row: -float(outputs[row].max()))[:FAITHFUL_TEXTS]
    name = default_method(subject)

    def attribute(words: Sequence[TextWords], targets: np.ndarray) -> list[np.ndarray]:
        return [one.values for one in attribute_all(subject, words, targets, name)]

    answers = outputs[surest].argmax(axis=1)
    return pointing_game(subject, [texts[row] for row in surest], answers, attribute, pairs=25)


# ---- what a reader sees ----


def sections_of(explanations: ReportExplanations) -> tuple[Section, ...]:
    """Return the sections of a report; give `STYLE` to the page."""
    return (
        ("explained", "Explanations", lambda _, key: _examples(explanations, key)),
        ("telling", "What mattered", lambda _, key: _telling(explanations, key)),
        ("trust", "Trust", lambda _, key: _trust(explanations, key)),
    )


def _examples(explanations: ReportExplanations, key: str) -> Html | None:
    return examples_section(key, explanations.examples)


def examples_section(key: str, examples: Sequence[tuple[str, Explanation, str]]) -> Html | None:
    """Return explained examples, given as (group, explanation, true label), group by group."""
    if not examples:
        return None
    parts: list[object] = []
    group = None
    for name, one, truth in examples:
        if name != group:
            parts.append(tag("h3", name))
            group = name
        parts.append(shown_explanation(one, truth=truth, limit=TEXT_LIMIT))
    return section(key, "Why it answered so", legend(), *parts)


def _telling(explanations: ReportExplanations, key: str) -> Html | None:
    overview = explanations.overview
    parts = []
    for number, name in enumerate(overview.classes[:MOST_CLASSES]):
        words = [(entry.text, entry.total / overview.texts) for entry in overview.telling(name, 12)]
        if not words:
            continue
        phrases = [
            join(isolated(entry.text), f" {entry.mean:+.2f} in {entry.texts:,} texts")
            for entry in overview.telling(name, 8, phrases=True)
        ]
        drawing = word_chart(words, title=f"Words that speak for {name}", key=f"telling-{number}")
        parts.append(
            join(
                tag("h3", "for ", isolated(name)),
                figure(drawing),
                join(tag("h3", "phrases"), bullets(phrases)) if phrases else None,
            )
        )
    if not parts:
        return None
    lead = paragraph(
        f"What words added to the answers of the whole model, over {overview.texts:,} texts of the scored part: the "
        "sum of their attributions, divided by the number of texts."
    )
    return section(key, "What mattered over many texts", lead, columns(*parts))


def _trust(explanations: ReportExplanations, key: str) -> Html | None:
    pointing = None
    if explanations.pointing is not None:
        share, questions = explanations.pointing
        pointing = paragraph(
            f"Two texts of different answers joined: in {percent(share)} of {questions} questions the strongest word "
            "for an answer stood in the text that gave it (by chance about one half)."
        )
    return trust_section(key, explanations.measured, "text", pointing)


def trust_section(key: str, measured: Sequence[MeasuredMethod], unit: str, further: Html | None = None) -> Html | None:
    """Return the table of faithfulness with its plain sentence.

    Parameters
    ----------
    measured : sequence of MeasuredMethod
        The default method first, random attribution last.
    unit : str
        What is explained, in the singular: "text", "span".
    further : Html, optional
        Put last.
    """
    if not measured:
        return None
    rows = [
        (
            one.name,
            decimal(one.faithfulness.comprehensiveness),
            decimal(one.faithfulness.sufficiency),
            "–" if one.gap is None else decimal(one.gap),
            f"{one.milliseconds:.1f}" if one.milliseconds else "–",
        )
        for one in measured
    ]
    headers = ("Method", "Comprehensiveness", "Sufficiency", "Completeness gap", f"Milliseconds a {unit}")
    return section(
        key,
        "How far to trust the explanations",
        paragraph(trust_sentence(measured[0], measured[-1]), class_="lead"),
        table(headers, rows),
        paragraph(
            f"Over {measured[0].faithfulness.texts:,} {unit}s. Comprehensiveness: how far the probability of the "
            "answer falls without the strongest words; larger is better. Sufficiency: how far it falls when only they "
            "are kept; smaller is better. Both are means over the strongest 1, 5, 10, 20 and 50 % of the words "
            "(ERASER). "
            "The gap says how far the words' numbers are from adding up.",
            class_="hint",
        ),
        further,
    )


def trust_sentence(method: MeasuredMethod, random: MeasuredMethod) -> str:
    """Say in plain words how far the explanations can be trusted, from the two measures beside random ones."""
    falls, chance = method.faithfulness.comprehensiveness, random.faithfulness.comprehensiveness
    keeps = method.faithfulness.sufficiency < random.faithfulness.sufficiency
    points, by_chance = (round(100 * max(value, 0.0)) for value in (falls, chance))
    figures = (
        f"Without the words they name the probability of the answer falls by {points} points on average, without "
        f"random words by {by_chance}."
    )
    if falls >= max(3 * chance, 0.05) and keeps:
        return f"The explanations name words on which the answers rest. {figures}"
    if falls > chance and keeps:
        return f"The explanations say something, but not all: take them as hints. {figures}"
    return f"Do not trust the explanations of this model: they are no better than random words. {figures}"
