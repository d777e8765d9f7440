"""Frequent n-grams: by hand, against plain counting, and what is refused."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm.data.ragged import Ragged
from bilstm.errors import ShapeError
from bilstm.training.frequent_ngrams import frequent_ngrams


def test_by_hand():
    found = frequent_ngrams(Ragged.of([[5, 7, 5, 7], [], [5, 7, 0, 7, 9]]), 2)
    # 5 and 7 are 0 and 1, the pair 5 7 is 2; 7 5, 7 9 and both triples stand only once, and 0 cuts 7 0 7
    assert [found.items[text].tolist() for text in range(3)] == [[0, 2, 1, 0, 2, 1], [], [0, 2, 1, 1]]
    assert found.counts.tolist() == [3, 4, 3]


def by_counting(texts, needed):
    """N-grams as tuples of words, counted in a dictionary; triples only where both pairs are frequent."""

    def runs(text, length):
        return [tuple(text[i : i + length]) for i in range(len(text) - length + 1) if 0 not in text[i : i + length]]

    counts = Counter(run for text in texts for length in (1, 2, 3) for run in runs(text, length))
    return {
        run: count
        for run, count in counts.items()
        if count >= needed and (len(run) < 3 or min(counts[run[:2]], counts[run[1:]]) >= needed)
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=12), max_size=6), st.integers(1, 4))
def test_against_plain_counting(texts, needed):
    counts = by_counting(texts, needed)
    number = {run: place for place, run in enumerate(sorted(counts, key=lambda run: (len(run), run)))}
    found = frequent_ngrams(Ragged.of(texts), needed)
    assert found.counts.tolist() == [counts[run] for run in number]
    assert len(found.items) == len(texts)
    for text, items in zip(texts, (found.items[row] for row in range(len(texts))), strict=True):
        runs = [tuple(text[i : i + n]) for i in range(len(text)) for n in (1, 2, 3) if i + n <= len(text)]
        assert items.tolist() == [number[run] for run in runs if run in number]
        assert items.dtype == np.int32


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="word ids must be at least 0, got -3 at step 1"):
        frequent_ngrams(Ragged.of([[1, -3]]), 1)
    with pytest.raises(ShapeError, match="the last offset must equal"):
        frequent_ngrams(Ragged(np.arange(3), np.array([0, 2])), 1)
