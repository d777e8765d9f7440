"""Labels: what kind they are taken for, and that encoding and decoding undo each other."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm.data.labels import LabelSet
from bilstm.errors import DataError, ModelFolderError, UsageError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(st.lists(NAMES, min_size=2, max_size=19).filter(lambda labels: len(set(labels)) > 1))
def test_classes_round_trip(labels):
    known = LabelSet.build(labels)
    assert known.kind == ("binary" if len(set(labels)) == 2 else "multiclass")
    assert set(known.names) == set(labels)
    encoded = known.encode(labels)
    assert encoded.dtype == np.int64
    assert known.decode(encoded) == labels
    assert LabelSet.from_config(json.loads(json.dumps(known.to_config()))) == known


@given(st.lists(st.sets(st.sampled_from(["a", "b", "long name", "ü"])), min_size=1, max_size=10).filter(any))
def test_sets_round_trip(sets):
    raw = ["|".join(sorted(names)) for names in sets]
    known = LabelSet.build(raw, separator="|")
    assert known.kind == "multilabel"
    targets = known.encode(raw)
    assert targets.dtype == np.float32
    assert targets.sum(axis=1).tolist() == [len(names) for names in sets]
    assert known.decode(targets) == raw
    assert LabelSet.from_config(known.to_config()) == known


def test_sets_ignore_spaces_order_and_repetition():
    known = LabelSet.build(["x , y", "y,x,x", ""], kind="multilabel", separator=",")
    assert known.names == ("x", "y")
    assert known.encode(["x , y", "y,x,x", ""]).tolist() == [[1, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["positive", "negative"], ("negative", "positive")),
        (["yes", "no"], ("no", "yes")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["4.5", "-1", "4"], ("-1", "4", "4.5")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["nan", "1"], ("1", "nan")),
        (["1", "1.0"], ("1", "1.0")),
    ],
)
def test_order_of_names(labels, names):
    assert LabelSet.build(labels).names == names


def test_decisions_are_said():
    assert "2 classes: 'a' (2), 'b' (1)" in LabelSet.build(["a", "b", "a"]).decision
    assert "differ only in case or spaces" in LabelSet.build(["a", "A ", "b"]).decision
    assert "21 different numbers" in LabelSet.build([f"{n}.5" for n in range(21)]).decision
    assert "sets of 2 labels, 1.50 a row" in LabelSet.build(["a;b", "a"], separator=";").decision


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([f"{n}.5" for n in range(30)], "regression"),
        ([f"{n}" for n in range(30)] * 3, "multiclass"),  # whole numbers are classes
        (["0.5", "1.5"] * 30, "binary"),  # few different numbers are classes
        ([f"{n}.5" for n in range(30)] * 3 + ["x"] * 3, "multiclass"),
        ([f"{n}.5" for n in range(30)] * 3 + ["nan"] * 3, "multiclass"),
    ],
)
def test_kind_is_decided(labels, kind):
    assert LabelSet.build(labels).kind == kind


def test_numbers():
    known = LabelSet.build(["1", "2e3", " -0.25 "], kind="regression")
    values = known.encode(["1", "2e3", " -0.25 "])
    assert values.dtype == np.float32
    assert known.decode(values) == [1.0, 2000.0, -0.25]
    assert LabelSet.from_config(known.to_config()) == known


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "1e39", "", "x", "3,5", "1_000"])
def test_numbers_that_are_none_name_the_row(bad):
    with pytest.raises(DataError, match=r"^t\.csv:3: the label .* is not a (finite )?number"):
        LabelSet.build(["1", bad], kind="regression", where=lambda row: f"t.csv:{row + 2}")
    with pytest.raises(DataError, match=r"^row 1: "):
        LabelSet("regression").encode(["1", bad])


def test_unknown_labels_name_the_row_and_the_nearest():
    known = LabelSet.build(["positive", "negative"])
    with pytest.raises(DataError, match=r"^t\.csv:7: the label 'postive' was not .* Did you mean 'positive'\?"):
        known.encode(["positive", "postive"], where=lambda row: f"t.csv:{row + 6}")
    sets = LabelSet.build(["a|b"], separator="|")
    with pytest.raises(DataError, match=r"^row 1: the label 'c' was not in the training data"):
        sets.encode(["a", "a|c"])


def test_one_class_only():
    with pytest.raises(DataError, match="all 3 rows have the same label 'x'"):
        LabelSet.build(["x"] * 3)


def test_labels_that_are_no_classes():
    with pytest.raises(DataError, match="30 different labels in 30 rows"):
        LabelSet.build([f"user {n}" for n in range(30)])
    assert LabelSet.build([f"user {n}" for n in range(30)], kind="multiclass").kind == "multiclass"


def test_other_mistakes():
    with pytest.raises(DataError, match="needs two classes, found 3"):
        LabelSet.build(["a", "b", "c"], kind="binary")
    with pytest.raises(UsageError, match="needs a separator"):
        LabelSet.build(["a"], kind="multilabel")
    with pytest.raises(UsageError, match="does not go with"):
        LabelSet.build(["a"], kind="binary", separator="|")
    with pytest.raises(UsageError, match="is not known"):
        LabelSet.build(["a"], kind="ordinal")
    with pytest.raises(DataError, match="no labels"):
        LabelSet.build([])
    with pytest.raises(DataError, match="no row has any label"):
        LabelSet.build(["", "|"], separator="|")
    assert LabelSet.build(["a", "b"], kind="multiclass").kind == "multiclass"


def test_messages_stay_short():
    with pytest.raises(DataError) as caught:
        LabelSet.build(["x" * 10_000_000, "y\n"]).encode(["z" * 10_000_000])
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"kind": "binary", "names": ["a", "b"]},
        {"kind": "binary", "names": ["a", "b"], "separator": None, "more": 1},
        {"kind": "other", "names": ["a", "b"], "separator": None},
        {"kind": ["binary"], "names": ["a", "b"], "separator": None},
        {"kind": "binary", "names": ["a", "b", "c"], "separator": None},
        {"kind": "binary", "names": ["a", "a"], "separator": None},
        {"kind": "binary", "names": ["a", 1], "separator": None},
        {"kind": "binary", "names": "ab", "separator": None},
        {"kind": "binary", "names": ["a", "b"], "separator": "|"},
        {"kind": "multiclass", "names": ["a"], "separator": None},
        {"kind": "multilabel", "names": ["a"], "separator": None},
        {"kind": "multilabel", "names": ["a"], "separator": ""},
        {"kind": "regression", "names": ["a"], "separator": None},
    ],
)
def test_the_schema_is_closed(config):
    with pytest.raises(ModelFolderError, match="labels"):
        LabelSet.from_config(config)
