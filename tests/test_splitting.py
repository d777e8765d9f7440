"""Splits: exact sizes, no row twice, classes in proportion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm.data.splitting import draw_groups, missing_classes, parse_split, part_sizes, split_rows
from bilstm.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("45000:5000", (45000, 5000)),
        ("1:2:3", (1, 2, 3)),
        ("0.8:0.1:0.1", (0.8, 0.1, 0.1)),
        ("0.75:0.25", (0.75, 0.25)),
    ],
)
def test_sizes_are_read(text, sizes):
    assert parse_split(text) == sizes


@pytest.mark.parametrize(
    "text", ["", "10", "1:2:3:4", "0.5:0.6", "0:10", "0.0:1.0", "a:b", "-1:5", "1.5:0.5", "nan:0.5", "0.5:", "0.3:0.3"]
)
def test_other_sizes_are_refused(text):
    with pytest.raises(UsageError, match="--split"):
        parse_split(text)


def test_part_sizes():
    assert part_sizes(10, (0.8, 0.1, 0.1)) == [8, 1, 1]
    assert part_sizes(11, (0.8, 0.1, 0.1)) == [9, 1, 1]
    assert part_sizes(3, (1, 1)) == [1, 1]
    with pytest.raises(DataError, match="needs 12 rows, there are 10"):
        part_sizes(10, (6, 6))
    with pytest.raises(DataError, match="part without rows"):
        part_sizes(3, (0.9, 0.1))


@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    sizes=st.sampled_from([(0.8, 0.2), (0.5, 0.5), (0.6, 0.2, 0.2)]),
    seed=st.integers(0, 100),
)
def test_parts_are_exact_apart_and_in_proportion(counts, sizes, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    if min(size * len(labels) for size in sizes) < 1:
        return
    parts = split_rows(labels, sizes, seed)
    assert [len(part) for part in parts] == part_sizes(len(labels), sizes)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for part, size in zip(parts, sizes, strict=True):
        assert part.tolist() == sorted(part.tolist())
        share = np.bincount(labels[part], minlength=len(counts)) / np.array(counts)
        # by largest remainder a class is off by less than one row a part cut before, and one moved row
        assert np.all(np.abs(share - size) * counts < 3.0)
    assert set(labels[parts[0]]) == set(range(len(counts))) or len(parts[0]) < len(counts)
    again = split_rows(labels, sizes, seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_balanced_classes_stay_balanced_and_rows_may_be_left():
    labels = np.array(["neg", "pos"] * 25_000)
    train, test = split_rows(labels, (45_000, 5_000), 1)
    assert np.sum(labels[train] == "pos") == 22_500
    assert np.sum(labels[test] == "pos") == 2_500
    assert sum(map(len, split_rows(labels, (100, 100), 1))) == 200
    assert not np.array_equal(split_rows(labels, (100, 100), 2)[0], split_rows(labels, (100, 100), 1)[0])


def test_rare_classes_go_to_the_first_part():
    labels = ["a"] * 50 + ["b"] * 49 + ["c"]
    for seed in range(20):
        first, second = split_rows(labels, (50, 50), seed)
        assert 99 in first
        notes = missing_classes(labels, [first, second], ["training", "test"])
        assert notes == ["the test part has no row of 1 of 3 classes ('c')."]


def test_label_sets_are_stratified_by_the_whole_set():
    sets = np.array([[0, 1], [1, 0], [1, 1], [0, 0]] * 25, dtype=np.float32)
    for part in split_rows(sets, (0.8, 0.2), 3):
        keys, counts = np.unique(sets[part], axis=0, return_counts=True)
        assert len(keys) == 4
        assert len(set(counts.tolist())) == 1


def test_numbers_are_not_stratified():
    values = np.linspace(0, 1, 100)
    first, second = split_rows(values, (0.7, 0.3), 5, is_stratified=False)
    assert (len(first), len(second)) == (70, 30)
    assert sorted([*first, *second]) == list(range(100))
    assert first.tolist() != list(range(70))


@given(st.integers(0, 100), st.integers(1, 6), st.integers(1, 30))
def test_drawn_groups_have_the_classes_of_drawn_rows(seed, classes, largest):
    random = np.random.default_rng(seed)
    labels, groups = random.integers(classes, size=120), random.integers(largest, size=120)
    groups = np.unique(groups, return_inverse=True)[1]
    rest, drawn = draw_groups(labels, groups, 30, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, drawn])), np.arange(120))
    alone = split_rows(labels, [90, 30], seed)[1]
    np.testing.assert_array_equal(np.bincount(labels[drawn]), np.bincount(labels[alone]))


def test_groups_are_drawn_whole_while_there_is_room():
    groups = np.repeat(np.arange(10), 4)
    rest, drawn = draw_groups(np.linspace(0, 1, 40), groups, 8, 3, is_stratified=False)
    assert len(set(groups[drawn].tolist())) == 2
    assert not set(groups[rest].tolist()) & set(groups[drawn].tolist())
    assert draw_groups(np.zeros(40), groups, 8, 3)[1].tolist() == drawn.tolist()
    assert any(draw_groups(np.zeros(40), groups, 8, seed)[1].tolist() != drawn.tolist() for seed in range(4, 9))
    cut = draw_groups(np.zeros(40), groups, 10, 3)[1]
    assert sorted(np.bincount(groups[cut]).tolist())[-3:] == [2, 4, 4]


def test_too_few_rows_to_draw_from():
    with pytest.raises(DataError, match="leaves a part without rows"):
        draw_groups([0, 1], np.array([0, 1]), 2, 0)
