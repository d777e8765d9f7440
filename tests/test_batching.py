"""Batches: every row once, both budgets kept, the order a function of seed and epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm.data.batching import epoch_batches, ordered_batches
from bilstm.errors import UsageError

LENGTHS = st.lists(st.integers(0, 60), max_size=80)


@given(LENGTHS, st.integers(1, 10), st.integers(1, 120), st.integers(0, 5), st.integers(0, 5))
def test_every_row_once_within_both_budgets(lengths, max_rows, max_steps, seed, epoch):
    budgets = {"max_rows": max_rows, "max_steps": max_steps}
    for batches in (epoch_batches(lengths, seed=seed, epoch=epoch, **budgets), ordered_batches(lengths, **budgets)):
        assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
        for batch in batches:
            assert batch.dtype == np.int64
            assert 1 <= len(batch) <= max_rows
            longest = max(lengths[row] for row in batch)
            assert len(batch) * longest <= max_steps or len(batch) == 1


def test_the_order_follows_from_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 500, 1000)

    def order(seed, epoch):
        batches = epoch_batches(lengths, max_rows=16, max_steps=4000, seed=seed, epoch=epoch)
        return np.concatenate(batches).tolist()

    assert order(3, 4) == order(3, 4)
    assert order(3, 4) != order(3, 5)
    assert order(3, 4) != order(4, 4)
    assert order(3, 4) != order(4, 3)
    np.random.seed(7)  # noqa: NPY002 (the global generator must play no part)
    assert order(3, 4) == order(3, 4)


def test_rows_of_similar_length_meet_and_batches_come_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 1000, 2000)
    batches = epoch_batches(lengths, max_rows=32, max_steps=10**6, seed=1, epoch=0)
    spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
    assert spread < 50  # random batches of 32 out of 1..999 spread over more than 900
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4  # not from short to long


def test_prediction_order_is_by_length():
    batches = ordered_batches([5, 1, 3, 1], max_rows=2, max_steps=100)
    assert [batch.tolist() for batch in batches] == [[1, 3], [2, 0]]


def test_a_long_sequence_is_alone():
    batches = ordered_batches([3, 500, 4], max_rows=10, max_steps=20)
    assert [batch.tolist() for batch in batches] == [[0, 2], [1]]


def test_budgets_must_be_positive():
    for budgets in ({"max_rows": 0, "max_steps": 5}, {"max_rows": 5, "max_steps": 0}):
        with pytest.raises(UsageError, match="at least one row"):
            ordered_batches([1], **budgets)
