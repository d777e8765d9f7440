"""Span scores against seqeval and hand-worked numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

from bilstm.data.tags import Span, tags_to_spans
from bilstm.errors import ShapeError
from bilstm.metrics.spans import (
    Counts,
    known_spans,
    score_spans,
    sentence_accuracy,
    surface_scores,
    token_accuracy,
    type_confusion,
    unseen_span_scores,
    unseen_token_accuracy,
)

tag = st.one_of(st.just("O"), st.builds("{}-{}".format, st.sampled_from("BI"), st.sampled_from(["A", "B", "C"])))


@st.composite
def tagged_pairs(draw):
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    gold, predicted = ([[draw(tag) for _ in range(length)] for length in lengths] for _ in range(2))
    return gold, predicted


def spans_of(sentences):
    return [tags_to_spans(tags) for tags in sentences]


@settings(max_examples=150, deadline=None)
@given(tagged_pairs())
def test_scores_equal_seqeval(pair):
    gold, predicted = pair
    scores = score_spans(spans_of(gold), spans_of(predicted))
    assert scores.micro.precision == pytest.approx(precision_score(gold, predicted, zero_division=0), abs=1e-12)
    assert scores.micro.recall == pytest.approx(recall_score(gold, predicted, zero_division=0), abs=1e-12)
    assert scores.micro.f1 == pytest.approx(f1_score(gold, predicted, zero_division=0), abs=1e-12)
    if not scores.per_type:
        return
    assert scores.macro_f1 == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0), abs=1e-12)
    report = classification_report(gold, predicted, output_dict=True, zero_division=0)
    assert set(report) - {"micro avg", "macro avg", "weighted avg"} == set(scores.per_type)
    for name, counts in scores.per_type.items():
        assert counts.precision == pytest.approx(report[name]["precision"], abs=1e-12)
        assert counts.recall == pytest.approx(report[name]["recall"], abs=1e-12)
        assert counts.f1 == pytest.approx(report[name]["f1-score"], abs=1e-12)
        assert counts.gold == report[name]["support"]


TOKENS = [["Anna", "met", "Bo", "Li", "in", "Rome"], ["Rome", "!"]]
GOLD = [[Span(0, 1, "PER"), Span(2, 4, "PER"), Span(5, 6, "LOC")], [Span(0, 1, "LOC")]]
ANSWER = [[Span(0, 1, "LOC"), Span(2, 3, "PER"), Span(5, 6, "LOC")], [Span(0, 1, "LOC")]]


def test_scores_by_hand():
    scores = score_spans(GOLD, ANSWER)
    assert scores.micro == Counts(correct=2, predicted=4, gold=4)
    assert scores.per_type == {"LOC": Counts(2, 3, 2), "PER": Counts(0, 1, 2)}
    assert scores.per_type["LOC"].f1 == pytest.approx(0.8)
    assert scores.macro_f1 == pytest.approx(0.4)
    assert scores.to_mapping()["per_type"]["LOC"]["support"] == 2
    empty = score_spans([[]], [[]])
    assert (empty.micro.precision, empty.micro.recall, empty.micro.f1, empty.macro_f1) == (0, 0, 0, 0)


def test_confusion_by_hand():
    types, counts = type_confusion(GOLD, ANSWER)
    assert types == ["LOC", "PER", "(none)"]
    # LOC: two right. PER: one answered as LOC, one with wrong borders; that wrong answer was PER where nothing is.
    np.testing.assert_array_equal(counts, [[2, 0, 0], [1, 0, 1], [0, 1, 0]])


def test_unseen_and_surface_scores_by_hand():
    known = known_spans([["ROME", "x"]], [[Span(0, 1, "LOC")]])
    assert known == {("rome",)}
    # Left over: gold Anna, Bo Li; answered Anna (as LOC), Bo.
    assert unseen_span_scores(TOKENS, GOLD, ANSWER, known) == Counts(0, 2, 2)
    # Different forms: gold Anna/PER, Bo Li/PER, Rome/LOC; answered Anna/LOC, Bo/PER, Rome/LOC.
    assert surface_scores(TOKENS, GOLD, ANSWER) == Counts(1, 3, 3)


def test_token_and_sentence_accuracy_by_hand():
    gold, answer = [["A", "B"], ["C"], []], [["A", "A"], ["C"], []]
    assert token_accuracy(gold, answer) == pytest.approx(2 / 3)
    assert unseen_token_accuracy(gold, answer, [[False, True], [True], []]) == (0.5, 2)
    assert unseen_token_accuracy(gold, answer, [[False, False], [False], []]) == (0.0, 0)
    assert sentence_accuracy(gold, answer) == pytest.approx(2 / 3)
    assert sentence_accuracy(gold, answer, ["x", "y", "z"], ["x", "y", "q"]) == pytest.approx(1 / 3)
    assert token_accuracy([[]], [[]]) == 0.0


def test_wrong_lengths_are_named():
    with pytest.raises(ShapeError, match="2 true and 1 predicted sentences"):
        score_spans([[], []], [[]])
    with pytest.raises(ShapeError, match="Sentence 0 has 2 true tags and 1"):
        token_accuracy([["A", "B"]], [["A"]])
