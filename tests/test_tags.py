"""Tag schemes against seqeval, hand-written tables, and round trips."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from bilstm.data.tags import (
    Span,
    allowed_tags,
    convert_tags,
    detect_scheme,
    illegal_tags,
    may_follow,
    spans_to_tags,
    split_tag,
    tags_to_spans,
)
from bilstm.errors import DataError

SCHEMES = ["IOB1", "IOB2", "IOBES", "BILOU", "BMES"]


def where(sentence, token):
    return f"x.conll:{sentence * 100 + token + 1}"


def as_seqeval(spans):
    return [(span.type, span.begin, span.end - 1) for span in spans]


@st.composite
def sentences_with_spans(draw, types=("A", "B", "long-type")):
    length = draw(st.integers(0, 9))
    spans, place = [], 0
    while place < length:
        size = draw(st.integers(1, 3))
        if draw(st.booleans()) and place + size <= length:
            spans.append(Span(place, place + size, draw(st.sampled_from(types))))
            place += size
        else:
            place += 1
    return length, spans


any_tags = st.lists(
    st.one_of(st.just("O"), st.builds("{}-{}".format, st.sampled_from("BIES"), st.sampled_from(["A", "B", "x-y"]))),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(any_tags)
def test_any_tags_are_read_as_seqeval_reads_them(tags):
    assert as_seqeval(tags_to_spans(tags)) == get_entities(tags)


def test_every_sequence_of_four_short_tags_is_read_as_seqeval_reads_it():
    names = ["O", "B-A", "I-A", "E-A", "S-A", "I-B", "B", "I"]
    for tags in itertools.product(names, repeat=4):
        assert as_seqeval(tags_to_spans(tags)) == get_entities(list(tags)), tags


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=150, deadline=None)
@given(case=sentences_with_spans())
def test_spans_survive_every_scheme_and_are_legal(scheme, case):
    length, spans = case
    tags = spans_to_tags(spans, length, scheme)
    assert len(tags) == length
    assert tags_to_spans(tags) == spans
    assert illegal_tags([tags], scheme) == []
    for other in SCHEMES:
        assert convert_tags(convert_tags(tags, other), scheme) == tags


@pytest.mark.parametrize(("scheme", "strict"), [("IOB1", IOB1), ("IOB2", IOB2), ("IOBES", IOBES), ("BILOU", BILOU)])
@settings(max_examples=100, deadline=None)
@given(case=sentences_with_spans(types=("A", "B")))
def test_written_tags_are_what_seqeval_reads_in_strict_mode(scheme, strict, case):
    length, spans = case
    if length == 0:
        return
    tags = spans_to_tags(spans, length, scheme)
    entities = Entities([tags], strict).entities[0]
    assert [(entity.tag, entity.start, entity.end) for entity in entities] == [(s.type, s.begin, s.end) for s in spans]


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("IOB1", ["I-P", "I-P", "B-P", "O", "I-L", "I-P"]),
        ("IOB2", ["B-P", "I-P", "B-P", "O", "B-L", "B-P"]),
        ("IOBES", ["B-P", "E-P", "S-P", "O", "S-L", "S-P"]),
        ("BILOU", ["B-P", "L-P", "U-P", "O", "U-L", "U-P"]),
        ("BMES", ["B-P", "E-P", "S-P", "O", "S-L", "S-P"]),
    ],
)
def test_schemes_by_hand(scheme, tags):
    spans = [Span(0, 2, "P"), Span(2, 3, "P"), Span(4, 5, "L"), Span(5, 6, "P")]
    assert spans_to_tags(spans, 6, scheme) == tags
    assert tags_to_spans(tags) == spans
    assert spans_to_tags([Span(0, 3, "P")], 3, "BMES") == ["B-P", "M-P", "E-P"]


@pytest.mark.parametrize(
    ("scheme", "sentences"),
    [
        ("IOB1", [["I-P", "I-P", "B-P", "O"], ["I-L", "O"]]),
        ("IOB2", [["B-P", "I-P", "B-P", "O"], ["B-L", "O"]]),
        ("IOB2", [["O", "O"], ["B-P", "O"]]),
        ("IOBES", [["B-P", "E-P", "S-P", "O"]]),
        ("BILOU", [["B-P", "L-P", "U-P", "O"]]),
        ("BMES", [["B-P", "M-P", "E-P", "O"]]),
        ("none", [["NOUN", "VERB", "X"], ["ADP"]]),
        ("none", [["O", "PER", "PER"]]),
    ],
)
def test_scheme_is_detected(scheme, sentences):
    finding = detect_scheme(sentences, where)
    assert finding.scheme == scheme
    assert finding.illegal == []
    assert finding.note(where) is None


def test_illegal_tags_are_counted_and_named_by_line():
    sentences = [["B-P", "I-P", "O"], ["O", "I-P", "O"], ["B-L", "I-P", "B-P", "I-P", "I-P"]]
    finding = detect_scheme(sentences, where)
    assert finding.scheme == "IOB2"
    note = finding.note(where, shown=1)
    assert note is not None
    assert note.startswith("2 tags break the scheme IOB2: x.conll:102 I-P after O; and 1 more.")
    assert "x.conll:202 I-P after B-L" in finding.note(where)


def test_mixed_schemes_are_read_and_counted():
    sentences = [["B-P", "E-P", "O", "S-L"], ["B-P", "I-P", "O", "B-L"]]  # IOBES, then IOB2
    finding = detect_scheme(sentences, where)
    assert finding.scheme == "IOBES"
    assert [str(tag) for tag in finding.illegal] == ["O after I-P", "B-L at the end of a sentence"]
    assert [convert_tags(tags, "IOB2") for tags in sentences] == [["B-P", "I-P", "O", "B-L"]] * 2


def test_given_scheme_is_taken_and_checked():
    finding = detect_scheme([["I-P", "O"]], where, "IOB2")
    assert (finding.scheme, len(finding.illegal)) == ("IOB2", 1)
    assert str(finding.illegal[0]) == "I-P at the start of a sentence"
    assert detect_scheme([["B-P", "PER"]], where, "none").scheme == "none"


def test_odd_tag_among_span_tags_is_named():
    with pytest.raises(DataError, match=r"x.conll:103: tag '0' is neither"):
        detect_scheme([["B-P"], ["O", "O", "0"]], where)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_masks_allow_exactly_what_can_be_written(scheme):
    """All legal sequences of three tags are those that spans_to_tags writes; none is missing, none too many."""
    letters = {"IOB1": "IB", "IOB2": "IB", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES"}[scheme]
    names = ["O", *(f"{letter}-{kind}" for letter in letters for kind in "XY")]
    masks = allowed_tags(names, scheme)
    allowed = set()
    for path in itertools.product(range(len(names)), repeat=3):
        inside = all(masks.transitions[a, b] for a, b in itertools.pairwise(path))
        if masks.start[path[0]] and masks.end[path[-1]] and inside:
            allowed.add(tuple(names[tag] for tag in path))
    written = {tuple(spans_to_tags(spans, 3, scheme)) for spans in all_spans(3, "XY")}
    assert allowed == written


def all_spans(length, types):
    """Every set of spans over `length` tokens."""
    if length == 0:
        return [[]]
    found = all_spans(length - 1, types)
    for size in range(1, length + 1):
        ends = [Span(length - size, length, kind) for kind in types]
        found = found + [[*spans, end] for spans in all_spans(length - size, types) for end in ends]
    return found


def test_plain_tags_are_never_forbidden():
    masks = allowed_tags(["NOUN", "VERB"], "none")
    assert masks.transitions.all()
    assert masks.start.all()
    assert masks.end.all()
    assert masks.transitions.dtype == np.bool_
    assert may_follow(None, "I-X", "none")


def test_spans_that_cannot_be_written_are_refused():
    with pytest.raises(DataError, match="not inside a sentence of 2 tokens"):
        spans_to_tags([Span(1, 3, "P")], 2, "IOB2")
    with pytest.raises(DataError, match="'P' and 'L' overlap at token 1"):
        spans_to_tags([Span(1, 2, "L"), Span(0, 2, "P")], 3, "IOB2")


def test_tags_without_type():
    assert split_tag("I") == ("I", "_")
    assert tags_to_spans(["B", "I", "O"]) == [Span(0, 2, "_")]
    assert convert_tags(["B", "I", "O", "B"], "IOBES") == ["B", "E", "O", "S"]
    assert detect_scheme([["B", "I", "O"]], where).scheme == "IOB2"
