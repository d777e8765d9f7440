"""Scores of tagged sentences: spans, tokens, sentences, and what was never seen in training.

Place: `decode -> score`. A span counts as found only if begin, end and type are all right (Sang and Buchholz 2000,
CoNLL-2000 shared task; the same numbers as seqeval's default mode). Surface-form scores: Derczynski et al. 2017,
"Results of the WNUT2017 Shared Task on Novel and Emerging Entity Recognition". Imports numpy, `errors`, `data.tags`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.data.tags import Span
from bilstm.errors import ShapeError

__all__ = [
    "Counts",
    "SpanScores",
    "known_spans",
    "score_spans",
    "sentence_accuracy",
    "surface_scores",
    "token_accuracy",
    "type_confusion",
    "unseen_span_scores",
    "unseen_token_accuracy",
]

Sentences = Sequence[Sequence[Span]]
NO_SPAN = "(none)"


@dataclass(frozen=True)
class Counts:
    """How many spans were right, answered and true; the scores follow from them.

    Parameters
    ----------
    correct, predicted, gold : int
    """

    correct: int
    predicted: int
    gold: int

    @property
    def precision(self) -> float:
        """Share of the answered spans that are right; 0 if none was answered."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the true spans that were found; 0 if there are none."""
        return self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 2 correct / (predicted + gold); 0 if there is no span at all."""
        return 2 * self.correct / (self.predicted + self.gold) if self.predicted + self.gold else 0.0

    def to_mapping(self) -> dict[str, Any]:
        """Give scores and counts as plain values."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "correct": self.correct,
            "predicted": self.predicted,
            "support": self.gold,
        }


@dataclass(frozen=True)
class SpanScores:
    """Scores over all spans and for each type.

    Parameters
    ----------
    micro : Counts
        Over all spans.
    per_type : dict of str to Counts
        For each type that occurs among the true or the answered spans, sorted by name.
    """

    micro: Counts
    per_type: dict[str, Counts]

    @property
    def macro_f1(self) -> float:
        """Mean of the types' F1; 0 if there is no type."""
        return float(np.mean([counts.f1 for counts in self.per_type.values()])) if self.per_type else 0.0

    def to_mapping(self) -> dict[str, Any]:
        """Give all scores as plain nested values."""
        per_type = {name: counts.to_mapping() for name, counts in self.per_type.items()}
        return {**self.micro.to_mapping(), "macro_f1": self.macro_f1, "per_type": per_type}


def _check_same_length(gold: Sequence[Any], predicted: Sequence[Any]) -> None:
    if len(gold) != len(predicted):
        raise ShapeError(f"There are {len(gold)} true and {len(predicted)} predicted sentences; they must be equal.")


def score_spans(gold: Sentences, predicted: Sentences) -> SpanScores:
    """Compare spans sentence by sentence.

    Parameters
    ----------
    gold, predicted : sequence of span lists
        One list a sentence, in the same order.

    Examples
    --------
    >>> scores = score_spans([[Span(0, 2, "PER"), Span(3, 4, "LOC")]], [[Span(0, 2, "PER"), Span(3, 5, "LOC")]])
    >>> scores.micro.f1, scores.per_type["LOC"].f1
    (0.5, 0.0)
    """
    _check_same_length(gold, predicted)
    counts: dict[str, list[int]] = {}
    for true, answered in zip(gold, predicted, strict=True):
        true_set, answered_set = set(true), set(answered)
        for place, spans in enumerate((true_set & answered_set, answered_set, true_set)):
            for span in spans:
                counts.setdefault(span.type, [0, 0, 0])[place] += 1
    per_type = {name: Counts(*counts[name]) for name in sorted(counts)}
    return SpanScores(_total(per_type.values()), per_type)


def _total(parts: Iterable[Counts]) -> Counts:
    parts = list(parts)
    return Counts(*(sum(getattr(part, name) for part in parts) for name in ("correct", "predicted", "gold")))


def type_confusion(gold: Sentences, predicted: Sentences) -> tuple[list[str], np.ndarray]:
    """Count what became of the true spans, and what the answered spans were.

    Returns
    -------
    types : list of str
        Sorted; the last one, `(none)`, stands for "no span with these borders".
    counts : ndarray of shape (types, types), int64
        True type (row) against answered type (column), over spans with the same begin and end. The last column counts
        true spans whose borders were not answered, the last row answered spans whose borders are not true.
    """
    _check_same_length(gold, predicted)
    types = sorted({span.type for part in (gold, predicted) for spans in part for span in spans})
    place = {name: at for at, name in enumerate(types)}
    counts = np.zeros((len(types) + 1, len(types) + 1), dtype=np.int64)
    for true, answered in zip(gold, predicted, strict=True):
        true_at = {(span.begin, span.end): place[span.type] for span in true}
        answered_at = {(span.begin, span.end): place[span.type] for span in answered}
        for borders in true_at.keys() | answered_at.keys():
            counts[true_at.get(borders, -1), answered_at.get(borders, -1)] += 1
    return [*types, NO_SPAN], counts


def token_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Share of tokens with the right tag; 0 if there are no tokens.

    Raises
    ------
    ShapeError
        If a sentence has another number of predicted than of true tags; the message names it.
    """
    right, total = _count_tokens(gold, predicted, None)
    return right / total if total else 0.0


def unseen_token_accuracy(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], is_unseen: Sequence[Sequence[bool]]
) -> tuple[float, int]:
    """Share of the tokens marked unseen that have the right tag, and their number; the share is 0 if there are none."""
    right, total = _count_tokens(gold, predicted, is_unseen)
    return (right / total if total else 0.0), total


def _count_tokens(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], chosen: Sequence[Sequence[bool]] | None
) -> tuple[int, int]:
    _check_same_length(gold, predicted)
    right = total = 0
    for row, (true, answered) in enumerate(zip(gold, predicted, strict=True)):
        if len(true) != len(answered):
            raise ShapeError(f"Sentence {row} has {len(true)} true tags and {len(answered)} predicted ones.")
        marks = chosen[row] if chosen is not None else [True] * len(true)
        for tag, answer, mark in zip(true, answered, marks, strict=True):
            right += bool(mark) and tag == answer
            total += bool(mark)
    return right, total


def known_spans(tokens: Sequence[Sequence[str]], spans: Sentences) -> set[tuple[str, ...]]:
    """Surface forms (lower-cased tokens) of all spans, for `unseen_span_scores`."""
    return {_surface(words, span) for words, found in zip(tokens, spans, strict=True) for span in found}


def _surface(words: Sequence[str], span: Span) -> tuple[str, ...]:
    return tuple(word.lower() for word in words[span.begin : span.end])


def unseen_span_scores(
    tokens: Sequence[Sequence[str]], gold: Sentences, predicted: Sentences, known: AbstractSet[tuple[str, ...]]
) -> Counts:
    """Score only spans whose words never were a span in training.

    Parameters
    ----------
    tokens : sequence of token lists
    gold, predicted : sequence of span lists
    known : set of tuple of str
        From `known_spans` of the training data. Spans with a known surface form are left out on both sides.
    """
    _check_same_length(gold, predicted)

    def unseen(part: Sentences) -> list[list[Span]]:
        return [
            [span for span in spans if _surface(words, span) not in known]
            for words, spans in zip(tokens, part, strict=True)
        ]

    return score_spans(unseen(gold), unseen(predicted)).micro


def surface_scores(tokens: Sequence[Sequence[str]], gold: Sentences, predicted: Sentences) -> Counts:
    """Score the set of different (surface form, type) pairs instead of every mention (WNUT 2017, "surface forms")."""
    _check_same_length(gold, predicted)

    def forms(part: Sentences) -> set[tuple[tuple[str, ...], str]]:
        return {
            (tuple(words[span.begin : span.end]), span.type)
            for words, spans in zip(tokens, part, strict=True)
            for span in spans
        }

    true, answered = forms(gold), forms(predicted)
    return Counts(len(true & answered), len(answered), len(true))


def sentence_accuracy(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    gold_intents: Sequence[str] | None = None,
    predicted_intents: Sequence[str] | None = None,
) -> float:
    """Share of sentences whose tags are all right, and whose intent is right too where intents are given.

    0 if there are no sentences. Also called semantic frame accuracy (Goo et al. 2018).
    """
    _check_same_length(gold, predicted)
    right = [list(true) == list(answered) for true, answered in zip(gold, predicted, strict=True)]
    if gold_intents is not None and predicted_intents is not None:
        _check_same_length(gold_intents, predicted_intents)
        same = [true == answer for true, answer in zip(gold_intents, predicted_intents, strict=True)]
        right = [a and b for a, b in zip(right, same, strict=True)]
    return float(np.mean(right)) if right else 0.0
