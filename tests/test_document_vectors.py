"""Document vectors: steps against a plain float64 implementation, n-grams by hand, the whole on planted topics."""

import numpy as np
import pytest

from bilstm.engine import document_vectors as engine
from bilstm.engine.library import Context
from bilstm.engine.report import kernels
from bilstm.engine.skipgram import aligned_table
from bilstm.errors import ShapeError, UsageError

needs_engine = pytest.mark.skipif(engine.missing() is not None, reason=f"no engine: {engine.missing()}")
KERNELS = [name for name in ("portable", "avx2", "avx512", "neon") if kernels()[name] is None]
# float32 steps on numbers of about the largest: some hundred sums of rounding errors of 6e-8
CLOSE = 5e-6


def reference(documents, ngrams, rows, offsets, items, negatives, rates, batch, *, sharpness, negative_weight):
    """The equations of csrc/bilstm_document_vectors.h, n-gram by n-gram in float64."""
    x_all, w_all = documents.astype(np.float64), ngrams.astype(np.float64)
    for step, rate in enumerate(rates.astype(np.float64)):
        changes = []
        for d in range(step * batch, min((step + 1) * batch, len(rows))):
            own_items, own_negatives = (part[offsets[d] : offsets[d + 1]] for part in (items, negatives))
            for first in range(0, len(own_items), 16):
                x = x_all[rows[d]].copy()
                x_hat = x / np.sqrt(x @ x + 1e-12)
                pairs = [(k, 1) for k in own_items[first : first + 16]]
                pairs += [(k, 0) for k in own_negatives[first : first + 16]]
                for k, is_item in pairs:
                    length = np.sqrt(w_all[k] @ w_all[k] + 1e-12)
                    cosine = w_all[k] @ x_hat / length
                    chance = 1 / (1 + np.exp(-sharpness * cosine))
                    error = rate * sharpness * (1 - chance if is_item else -negative_weight * chance)
                    x_all[rows[d]] += error * (w_all[k] / length - cosine * x_hat)
                    changes.append((k, error, x_hat, cosine / length))
        for k, error, x_hat, shrink in changes:
            w_all[k] += error * (x_hat - shrink * w_all[k])
    return x_all, w_all


def case(seed, texts, count, most_items, ngrams, size, batch):
    random = np.random.default_rng(seed)
    tables = aligned_table(texts, size), aligned_table(ngrams, size)
    for table in tables:
        table[:, :size] = random.normal(0, size**-0.5, (len(table), size))
    lengths = random.integers(0, most_items + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return (
        *tables,
        random.permutation(texts)[:count].astype(np.int64),
        offsets,
        random.integers(0, ngrams, offsets[-1]).astype(np.int32),
        random.integers(0, ngrams, offsets[-1]).astype(np.int32),
        random.uniform(0.01, 0.03, -(-count // batch)).astype(np.float32),
        batch,
    )


CASES = [  # texts, documents, most items of one, n-grams, size, documents of a batch
    (7, 7, 40, 30, 3, 3),
    (20, 9, 70, 500, 100, 4),
    (5, 5, 17, 200, 256, 5),
    (3, 3, 100, 1, 16, 1),
    (4, 4, 0, 5, 20, 2),
    (6, 0, 5, 5, 20, 2),
]
SETTINGS = [(6.0, 5.0), (1.5, 0.5), (40.0, 0.0)]


@needs_engine
@pytest.mark.parametrize(("sharpness", "negative_weight"), SETTINGS)
@pytest.mark.parametrize("numbers", CASES)
def test_steps_against_float64(numbers, sharpness, negative_weight):
    arguments = case(1, *numbers)
    x, w = reference(*arguments, sharpness=sharpness, negative_weight=negative_weight)
    engine.run(*arguments, sharpness=sharpness, negative_weight=negative_weight)
    for found, right in zip(arguments[:2], (x, w), strict=True):
        np.testing.assert_allclose(found, right, atol=CLOSE * max(1, np.abs(right).max(initial=0)), rtol=0)


@needs_engine
@pytest.mark.parametrize("numbers", CASES)
def test_same_bits_for_every_kernel_and_number_of_threads(numbers):
    found = set()
    for kernel in KERNELS:
        for threads in (1, 2, 3):
            arguments = case(2, *numbers)
            engine.run(*arguments, kernel=kernel, context=Context(threads))
            found.add(arguments[0].tobytes() + arguments[1].tobytes())
    assert len(found) == 1
