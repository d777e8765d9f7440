"""Weighed rows by hand."""

import numpy as np
import pytest
from scipy import sparse

from bilstm.data import weighed_rows
from bilstm.data.weighed_rows import to_unit_length, weigh

COUNTS = np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 5.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_weighed_and_of_length_one(dtype):
    inverse = np.array([2.0, 0.5, 1.5], dtype=dtype)
    found = weigh(sparse.csr_matrix(COUNTS.astype(dtype)), inverse)
    assert found.dtype == dtype
    first = np.array([2.0, 0.5 * (1 + np.log(3)), 0.0])
    last = np.array([0.0, 0.5 * (1 + np.log(2)), 1.5 * (1 + np.log(5))])
    expected = [first / np.linalg.norm(first), np.zeros(3), last / np.linalg.norm(last)]
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)


def test_rows_of_zeros_stay():
    rows = sparse.csr_matrix(np.array([[3.0, 4.0], [0.0, 0.0]]))
    rows.data[0] = rows.data[1] = 0.0
    np.testing.assert_array_equal(to_unit_length(rows).toarray(), np.zeros((2, 2)))
    np.testing.assert_allclose(to_unit_length(sparse.csr_matrix([[3.0, 4.0]])).toarray(), [[0.6, 0.8]])


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_a_few_numbers_at_a_time_give_the_same(chunk, monkeypatch):
    """Rows of 0 to 4 numbers, chunks smaller and larger than a row."""
    random = np.random.default_rng(0)
    dense = random.integers(1, 5, (20, 9)) * (random.random((20, 9)) < 0.25)
    counts, inverse = sparse.csr_matrix(dense.astype(np.float32)), random.random(9) + 0.5
    weights = np.where(dense > 0, (1 + np.log(np.maximum(dense, 1))) * inverse, 0.0)
    norms = np.sqrt((weights**2).sum(axis=1, keepdims=True))
    monkeypatch.setattr(weighed_rows, "CHUNK", chunk)
    found = weigh(counts, inverse)
    np.testing.assert_allclose(found.toarray(), weights / np.where(norms > 0, norms, 1.0), rtol=1e-6)
    assert found.dtype == np.float64
