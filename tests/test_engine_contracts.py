"""What the engine promises beside its numbers: independence, errors instead of bad reads, threads, forks, memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from bilstm import engine
from bilstm.data.ragged import Ragged
from bilstm.engine import Call, Context, DirectionWeights
from bilstm.errors import ShapeError, UsageError

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
FAST = [name for name in ("avx2", "avx512", "neon") if engine.kernels()[name] is None]
RUNS = [(name, "float32") for name in (*FAST, "portable")]
if engine.kernels()["amx"] is None:
    RUNS += [("amx", "bfloat16"), ("amx", "float32")]
if engine.kernels()["avx512_bf16"] is None:
    RUNS += [("avx512_bf16", "bfloat16")]


def draw_weights(cell: str, inputs: int, hidden: int, directions: int = 2, seed: int = 0) -> list[DirectionWeights]:
    generator = np.random.default_rng(seed)
    rows = GATES[cell] * hidden
    sizes = ((rows, inputs), (rows, hidden), (rows,), (rows,))
    scale = np.float32(hidden**-0.5)
    return [
        DirectionWeights(*(scale * generator.standard_normal(size).astype(np.float32) for size in sizes))
        for _ in range(directions)
    ]


def draw_batch(lengths: list[int], inputs: int, seed: int = 0) -> Ragged:
    generator = np.random.default_rng(seed)
    return Ragged.of([generator.standard_normal((length, inputs)) for length in lengths], dtype=np.float32)


LENGTHS = [5, 0, 33, 1, 12, 12, 7, 0, 60, 2, 3, 18, 9, 41, 6, 6, 6, 25, 30, 4, 8, 11, 2, 1, 1, 50, 13, 29, 17, 5, 2, 44]


# ---- independence ----


def check_alone(cell, precision, found, right):
    """One sequence alone: the same bits, but an LSTM's in bfloat16 inference, whose factors are then of float16."""
    if (cell, precision) == ("lstm", "bfloat16"):
        np.testing.assert_allclose(found, right, atol=2.0**-8)  # states are below 1: a rounding of bfloat16
    else:
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_does_not_see_its_batch(cell, kernel, precision):
    """Alone, in the batch, and in the batch in another order: the same bits (but see `check_alone`)."""
    batch, weights = draw_batch(LENGTHS, 19), draw_weights(cell, 19, 21)
    options = {"kernel": kernel, "precision": precision, "pooling": ("max", "mean")}
    whole = engine.recurrent(cell, batch, weights, **options)
    order = np.random.default_rng(1).permutation(len(LENGTHS))
    mixed = engine.recurrent(cell, batch.select(order), weights, **options)
    np.testing.assert_array_equal(mixed.h_n, whole.h_n[:, order])
    np.testing.assert_array_equal(mixed.max_values, whole.max_values[order])
    np.testing.assert_array_equal(mixed.max_steps, whole.max_steps[order])
    np.testing.assert_array_equal(mixed.mean_values, whole.mean_values[order])
    np.testing.assert_array_equal(batch.with_values(whole.outputs).select(order).values, mixed.outputs)
    for row in range(len(LENGTHS)):
        alone = engine.recurrent(cell, batch.select([row]), weights, **options)
        check_alone(cell, precision, alone.h_n[:, 0], whole.h_n[:, row])
        right = whole.outputs[batch.offsets[row] : batch.offsets[row + 1]]
        check_alone(cell, precision, alone.outputs, right)
        saves = engine.recurrent(cell, batch.select([row]), weights, save=True, **options)
        np.testing.assert_array_equal(saves.outputs, right)


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
@pytest.mark.parametrize("cell", CELLS)
def test_threads_change_no_bit(cell, kernel, precision):
    """Outputs and every gradient, for 1 to 5 threads; enough rows that the work is really divided."""
    lengths = [(37 * k) % 61 + 20 for k in range(400)]
    batch, weights = draw_batch(lengths, 6), draw_weights(cell, 6, 10)
    d_h_n = np.random.default_rng(2).standard_normal((2, len(lengths), 10)).astype(np.float32)
    if kernel == "portable":
        batch, d_h_n = batch.select(range(20)), d_h_n[:, :20].copy()
    results = []
    for threads in (1, 2, 5):
        context = Context(threads)
        result = engine.recurrent(cell, batch, weights, save=True, kernel=kernel, precision=precision, context=context)
        gradients = result.gradients(d_h_n=d_h_n, d_outputs=np.ones_like(result.outputs))
        arrays = [result.outputs, result.h_n, gradients.values, gradients.h_0, *gradients.weights[0]]
        results.append(arrays + list(gradients.weights[1]))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_stays_in_its_sequence(cell, kernel, precision, poison):
    batch, weights = draw_batch(LENGTHS, 5), draw_weights(cell, 5, 18)
    options = {"kernel": kernel, "precision": precision, "save": True, "pooling": ("max", "mean")}
    clean = engine.recurrent(cell, batch, weights, **options)
    values = batch.values.copy()
    values[batch.offsets[2] + 3, 1] = poison
    dirty = engine.recurrent(cell, batch.with_values(values), weights, **options)
    others = np.arange(len(LENGTHS)) != 2
    np.testing.assert_array_equal(dirty.h_n[:, others], clean.h_n[:, others])
    np.testing.assert_array_equal(dirty.max_values[others], clean.max_values[others])
    rows = np.repeat(others, LENGTHS)
    np.testing.assert_array_equal(dirty.outputs[rows], clean.outputs[rows])
    if np.isnan(poison):
        assert np.isnan(dirty.h_n[:, 2]).all()
        assert np.isnan(dirty.max_values[2]).all()
        np.testing.assert_array_equal(dirty.max_steps[2, :18], 3)
        ones = np.ones_like(dirty.outputs)
        found, right = dirty.gradients(d_outputs=ones), clean.gradients(d_outputs=ones)
        np.testing.assert_array_equal(found.values[rows], right.values[rows])


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
def test_maxima_without_their_steps_are_the_same(kernel, precision):
    batch, weights = draw_batch(LENGTHS, 5), draw_weights("lstm", 5, 18)
    values = batch.values.copy()
    values[batch.offsets[2] + 3, 1] = np.nan
    options = {"kernel": kernel, "precision": precision, "pooling": ("max", "mean")}
    whole = engine.lstm(batch.with_values(values), weights, **options)
    without = engine.lstm(batch.with_values(values), weights, max_steps=False, **options)
    assert without.max_steps is None
    np.testing.assert_array_equal(without.max_values, whole.max_values)
    np.testing.assert_array_equal(without.mean_values, whole.mean_values)


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
def test_means_of_very_long_sequences_do_not_drift(kernel, precision):
    """Summed one after the other in float32, 30,000 states of like sign are off by more."""
    values = np.abs(np.random.default_rng(0).normal(size=(30_000, 2))).astype(np.float32)
    options = {"kernel": kernel, "precision": precision, "pooling": ("mean",)}
    found = engine.lstm(Ragged(values, np.array([0, 30_000])), draw_weights("lstm", 2, 16), **options)
    exact = found.outputs.astype(np.float64).mean(axis=0)
    one_by_one = np.cumsum(found.outputs, axis=0, dtype=np.float32)[-1] / np.float32(30_000)
    error = np.abs(found.mean_values[0] - exact).max()
    assert error < 1e-7
    assert np.abs(one_by_one - exact).max() > 4 * error


# ---- other ways in ----


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
@pytest.mark.parametrize("cell", CELLS)
def test_tokens_packed_weights_and_table(cell, kernel, precision):
    """Gathered rows equal given rows; packed weights equal plain ones; in float32 the table changes no bit."""
    generator = np.random.default_rng(0)
    embedding = generator.standard_normal((150, 9)).astype(np.float32)
    ids = Ragged(generator.integers(0, 150, sum(LENGTHS)), draw_batch(LENGTHS, 1).offsets)
    weights, options = draw_weights(cell, 9, 20), {"kernel": kernel, "precision": precision}
    rows = engine.recurrent(cell, ids.with_values(embedding[ids.values]), weights, **options)
    packed = engine.pack(cell, weights, **options)
    table = engine.pack(cell, weights, embedding=embedding, **options)
    size = 2 if precision == "bfloat16" else 4  # bytes of a number of the table
    assert table.nbytes >= packed.nbytes + 150 * 2 * GATES[cell] * 20 * size
    for found in (
        engine.recurrent(cell, ids, weights, embedding=embedding, **options),
        engine.recurrent(cell, ids.with_values(embedding[ids.values]), packed, **options),
    ):
        np.testing.assert_array_equal(found.outputs, rows.outputs)
        np.testing.assert_array_equal(found.h_n, rows.h_n)
    by_table = engine.recurrent(cell, ids, table, **options)
    if precision == "float32":
        np.testing.assert_array_equal(by_table.outputs, rows.outputs)
    else:  # the table is rounded (bfloat16) and sums are added in another order: a few roundings of 2^-9
        assert np.linalg.norm(by_table.outputs - rows.outputs) <= 1e-2 * np.linalg.norm(rows.outputs)


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
@pytest.mark.parametrize("cell", CELLS)
def test_repeated_tokens_are_multiplied_once_and_change_nothing(cell, kernel, precision):
    """Few distinct tokens take another way through the float32 kernels; results and gradients keep their bits."""
    generator = np.random.default_rng(5)
    weights, options = draw_weights(cell, 40, 40), {"kernel": kernel, "precision": precision}
    offsets = draw_batch(LENGTHS, 1).offsets
    for vocabulary in (3, sum(LENGTHS) // 2, 8 * sum(LENGTHS), 100_000):
        embedding = generator.standard_normal((vocabulary, 40)).astype(np.float32)
        ids = Ragged(generator.integers(0, vocabulary, sum(LENGTHS)), offsets)
        rows = engine.recurrent(cell, ids.with_values(embedding[ids.values]), weights, save=True, **options)
        found = engine.recurrent(cell, ids, weights, embedding=embedding, save=True, **options)
        packed = engine.recurrent(cell, ids, engine.pack(cell, weights, **options), embedding=embedding, **options)
        np.testing.assert_array_equal(found.outputs, rows.outputs)
        np.testing.assert_array_equal(packed.outputs, rows.outputs)
        ones = np.ones_like(rows.outputs)
        left, right = found.gradients(d_outputs=ones), rows.gradients(d_outputs=ones)
        np.testing.assert_array_equal(left.values, right.values)
        np.testing.assert_array_equal(left.weights[1].w_ih, right.weights[1].w_ih)


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
@pytest.mark.parametrize(
    ("cell", "hidden_size"), [("lstm", 40), ("lstm", 70), ("gru", 40), ("gru", 90), ("rnn_tanh", 200)]
)
def test_one_sequence_alone_keeps_its_bits(cell, hidden_size, kernel, precision):
    """A single row goes through products of its own; any number of its panels may be left over at the end."""
    weights, options = draw_weights(cell, 12, hidden_size), {"kernel": kernel, "precision": precision}
    batch = draw_batch((6, 9, 9, 2), 12)
    whole = engine.recurrent(cell, batch, weights, **options)
    for row in range(4):
        alone = engine.recurrent(cell, Ragged.of([batch[row]], dtype=np.float32), weights, **options)
        check_alone(cell, precision, alone.outputs, whole.outputs[batch.offsets[row] : batch.offsets[row + 1]])


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
@pytest.mark.parametrize("cell", CELLS)
def test_packed_weights_give_a_sequence_alone_the_bits_of_a_batch(cell, kernel, precision):
    options = {"kernel": kernel, "precision": precision}
    weights = engine.pack(cell, draw_weights(cell, 12, 40), **options)
    batch = draw_batch([7] * 17, 12)  # the last row is alone in its shard
    whole = engine.recurrent(cell, batch, weights, **options)
    for row in (0, 16):
        alone = engine.recurrent(cell, Ragged.of([batch[row]], dtype=np.float32), weights, **options)
        np.testing.assert_array_equal(alone.outputs, whole.outputs[batch.offsets[row] : batch.offsets[row + 1]])


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
def test_weights_packed_for_single_sequences_are_those_of_a_plain_call(kernel, precision):
    options = {"kernel": kernel, "precision": precision}
    weights = draw_weights("lstm", 12, 40)
    batch = draw_batch([30], 12)
    packed = engine.recurrent("lstm", batch, engine.pack("lstm", weights, for_single=True, **options), **options)
    np.testing.assert_array_equal(packed.outputs, engine.recurrent("lstm", batch, weights, **options).outputs)


@pytest.mark.skipif(engine.kernels()["amx"] is not None, reason="needs AMX")
@pytest.mark.parametrize("cell", CELLS)
def test_auto_trains_with_amx_and_predicts_without(cell):
    """In float32 the hidden size, and whether a pass saves, decide which kernel runs: never the batch."""
    batch = draw_batch([9, 4, 0, 30], 12)
    for hidden, save, kernel in ((40, True, "avx512"), (70, False, "avx512"), (70, True, "amx")):
        weights, ones = draw_weights(cell, 12, hidden), np.ones((len(batch.values), 2 * hidden), np.float32)
        auto = engine.recurrent(cell, batch, weights, precision="float32", save=save)
        named = engine.recurrent(cell, batch, weights, precision="float32", save=save, kernel=kernel)
        np.testing.assert_array_equal(auto.outputs, named.outputs)
        if save:
            gradients = auto.gradients(d_outputs=ones), named.gradients(d_outputs=ones)
            np.testing.assert_array_equal(gradients[0].values, gradients[1].values)
    packed = engine.pack(cell, weights, precision="float32")
    assert packed.kernel == "avx512" == engine.choose_kernel("auto", "float32")


@pytest.mark.parametrize("kernel", [kernel for kernel, precision in RUNS if precision == "float32"])
def test_large_and_small_numbers_keep_their_digits(kernel):
    """Inputs over many magnitudes, the largest finite number and powers of two, whose smaller parts are zero."""
    generator = np.random.default_rng(2)
    values = generator.standard_normal((64, 33)) * 10.0 ** generator.integers(-12, 4, (64, 33))
    values[3], values[4, :5], values[5] = 2.0, 0.0, -(2.0**-30)
    weights = draw_weights("rnn_relu", 33, 40, directions=1)
    weights = [DirectionWeights(np.abs(weights[0].w_ih), np.zeros_like(weights[0].w_hh))]  # no sum cancels
    batch = Ragged(np.abs(values).astype(np.float32), np.arange(65))
    found = engine.rnn(batch, weights, nonlinearity="relu", precision="float32", kernel=kernel)
    right = batch.values.astype(np.float64) @ weights[0].w_ih.T.astype(np.float64)
    np.testing.assert_allclose(found.outputs, right, rtol=33 * 2.0**-24)


@pytest.mark.parametrize("kernel", [kernel for kernel, precision in RUNS if precision == "float32"])
def test_infinite_inputs_as_in_plain_arithmetic(kernel):
    """Infinity times any weight but zero is infinite, also where the weight's lower digits are all zero."""
    weight = np.array([[1.0], [-0.5], [1 / 3], [-1e-30], [2.0]], np.float32)
    weights = [DirectionWeights(weight, np.zeros((5, 5), np.float32))]
    batch = Ragged(np.array([[np.inf], [-np.inf], [np.finfo(np.float32).max]], np.float32), np.array([0, 1, 2, 3]))
    found = engine.rnn(batch, weights, nonlinearity="relu", precision="float32", kernel=kernel)
    infinite = np.array([np.inf, 0, np.inf, 0, np.inf])
    np.testing.assert_array_equal(found.outputs[0], infinite)
    np.testing.assert_array_equal(found.outputs[1], np.where(infinite == 0, np.inf, 0))
    np.testing.assert_allclose(found.outputs[2, :3:2], np.finfo(np.float32).max * weight[:3:2, 0], rtol=1e-6)


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
def test_gradient_of_the_embedding(kernel, precision):
    """Dense and by unique token against a sum in float64; absent tokens get zeros."""
    generator = np.random.default_rng(0)
    for vocabulary in (40, 100_000):  # few tokens: counted; many: sorted
        embedding = generator.standard_normal((vocabulary, 7)).astype(np.float32)
        ids = Ragged(generator.integers(0, vocabulary, sum(LENGTHS)), draw_batch(LENGTHS, 1).offsets)
        weights = draw_weights("gru", 7, 6)
        options = {"kernel": kernel, "precision": precision, "save": True, "embedding": embedding}
        result = engine.gru(ids, weights, **options)
        ones = np.ones_like(result.outputs)
        dense, unique = (result.gradients(d_outputs=ones, embedding=kind) for kind in ("dense", "unique"))
        right = np.zeros((vocabulary, 7))
        np.add.at(right, ids.values, dense.values.astype(np.float64))
        np.testing.assert_allclose(dense.embedding, right, atol=1e-5)  # tens of terms of order 1
        np.testing.assert_array_equal(unique.unique_ids, np.unique(ids.values))
        np.testing.assert_array_equal(unique.unique_rows, dense.embedding[unique.unique_ids])


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
def test_backward_twice_gives_the_same(kernel, precision):
    batch, weights = draw_batch(LENGTHS, 5), draw_weights("lstm", 5, 8)
    result = engine.lstm(batch, weights, save=True, kernel=kernel, precision=precision)
    once, again = (result.gradients(d_outputs=np.ones_like(result.outputs)) for _ in range(2))
    np.testing.assert_array_equal(once.values, again.values)
    np.testing.assert_array_equal(once.weights[1].w_hh, again.weights[1].w_hh)


@pytest.mark.parametrize(("kernel", "precision"), RUNS)
@pytest.mark.parametrize("cell", CELLS)
def test_empty_batches_and_sequences(cell, kernel, precision):
    weights, options = draw_weights(cell, 3, 4), {"kernel": kernel, "precision": precision, "save": True}
    nothing = engine.recurrent(cell, Ragged(np.zeros((0, 3), np.float32), np.zeros(1, np.int64)), weights, **options)
    assert nothing.outputs.shape == (0, 8)
    assert nothing.h_n.shape == (2, 0, 4)
    gradients = nothing.gradients(d_outputs=nothing.outputs)
    assert not any(array.any() for one in gradients.weights for array in one)
    h_0 = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    empty = Ragged(np.zeros((0, 3), np.float32), np.zeros(4, np.int64))
    found = engine.recurrent(cell, empty, weights, h_0=h_0, pooling=("max", "mean"), **options)
    np.testing.assert_array_equal(found.h_n, h_0)
    assert not found.max_values.any()
    assert not found.mean_values.any()
    np.testing.assert_array_equal(found.max_steps, -1)
    np.testing.assert_array_equal(found.gradients(d_h_n=h_0).h_0, h_0)


def test_denormals_are_as_before_after_a_call():
    """The engine flushes denormals to zero while it computes and puts the mode back."""
    small = np.float32(1e-39)
    engine.lstm(draw_batch([3], 2), draw_weights("lstm", 2, 3))
    assert small * np.float32(0.5) != 0


# ---- errors ----


def good_call() -> tuple[Call, list[np.ndarray]]:
    """A call straight to the library that runs, and the arrays it points into."""
    call = Call()
    call.cell, call.directions, call.input_size, call.hidden_size, call.batch, call.total_steps = 0, 1, 2, 3, 2, 4
    arrays = [np.array([0, 1, 4]), *(np.ones(size, np.float32) for size in (8, 24, 36, 12))]
    call.offsets, call.values = arrays[0].ctypes.data, arrays[1].ctypes.data
    call.w_ih[0], call.w_hh[0] = arrays[2].ctypes.data, arrays[3].ctypes.data
    arrays.append(np.zeros((1, 2, 3), np.float32))
    call.h_n = arrays[-1].ctypes.data
    return call, arrays


def test_good_call_runs():
    call, arrays = good_call()
    engine.default_context().forward(call)
    assert arrays[-1].all()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("cell", 7, "cell must be"),
        ("precision", 9, "precision must be"),
        ("directions", 3, "directions must be"),
        ("reverse", 2, "reverse must be"),
        ("input_size", 0, "input_size must be"),
        ("hidden_size", -4, "hidden_size must be"),
        ("hidden_size", 2**40, "hidden_size must be"),
        ("kernel", 17, "kernel must be"),
        ("batch", -1, "batch and total_steps"),
        ("total_steps", 5, "must equal total_steps"),
        ("total_steps", 3, "offsets must rise"),
        ("offsets", None, "offsets must be given"),
        ("values", None, "exactly one of"),
        ("saved_bytes", 8, "saved needs"),
        ("struct_size", 8, "engine: "),
    ],
)
def test_library_refuses_what_does_not_fit(field, value, words):
    call, _arrays = good_call()
    buffer = np.zeros(64, np.uint8)
    if field == "saved_bytes":
        call.saved = buffer.ctypes.data
    setattr(call, field, value)
    with pytest.raises(ShapeError, match=words):
        engine.default_context().forward(call)


@pytest.mark.parametrize(
    ("offsets", "words"),
    [([1, 1, 4], r"offsets\[0\] must be 0"), ([0, 3, 2], "offsets must rise"), ([0, 9, 4], "offsets must rise")],
)
def test_library_refuses_bad_offsets(offsets, words):
    call, arrays = good_call()
    arrays[0][:] = offsets
    with pytest.raises(ShapeError, match=words):
        engine.default_context().forward(call)


@pytest.mark.parametrize("token", [-1, 5, 2**62])
def test_library_refuses_bad_tokens(token):
    call, _arrays = good_call()
    ids, embedding = np.array([0, 1, token, 2]), np.ones((5, 2), np.float32)
    call.values, call.token_ids, call.embedding = None, ids.ctypes.data, embedding.ctypes.data
    call.vocabulary_size = 5
    with pytest.raises(ShapeError, match=rf"token_ids\[2\] = {token}"):
        engine.default_context().forward(call)


def test_backward_refuses_a_bad_place_of_the_maximum():
    result = engine.lstm(draw_batch([2, 3], 4), draw_weights("lstm", 4, 3), save=True, pooling=("max",))
    result.max_steps[0, 0] = 2
    with pytest.raises(ShapeError, match=r"max_steps\[0\]\[0\] = 2"):
        result.gradients(d_max=np.ones((2, 6), np.float32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"batch": Ragged(np.zeros((4, 3), np.float32), np.array([0, 4]))},
            r"values must be float32 of shape \(4, 2\)",
        ),
        ({"batch": Ragged(np.zeros((4, 2)), np.array([0, 4]))}, "got float64"),
        ({"batch": Ragged(np.zeros((4, 2), np.float32), np.array([0, 3]))}, "last offset"),
        ({"batch": Ragged(np.zeros((4, 2), np.float32), np.array([0, 3, 1, 4]))}, "never decrease"),
        ({"batch": Ragged(np.zeros(4, np.int64), np.array([0, 4]))}, "token ids need an embedding"),
        ({"h_0": np.zeros((1, 1, 3), np.float32)}, "h_0 must be"),
        ({"recurrent_mask": np.zeros((2, 1, 4), np.float32)}, "recurrent_mask must be"),
        ({"weights": []}, "1 or 2 directions"),
        ({"weights": [DirectionWeights(np.zeros((12, 2), np.float32), np.zeros((11, 3), np.float32))]}, "w_hh of lstm"),
        ({"weights": [DirectionWeights(np.zeros((11, 2), np.float32), np.zeros((12, 3), np.float32))]}, "w_ih of"),
    ],
)
def test_shapes_that_do_not_fit(change, words):
    given = {
        "batch": Ragged(np.zeros((4, 2), np.float32), np.array([0, 4])),
        "weights": draw_weights("lstm", 2, 3),
        **change,
    }
    with pytest.raises(ShapeError, match=words):
        engine.lstm(**given)


def test_tokens_out_of_range():
    ids = Ragged(np.array([0, 3, -1]), np.array([0, 3]))
    with pytest.raises(ShapeError, match="step 2 has -1"):
        engine.lstm(ids, draw_weights("lstm", 2, 3), embedding=np.zeros((4, 2), np.float32))


def test_choices_that_cannot_run():
    batch, weights = draw_batch([2], 2), draw_weights("gru", 2, 3)
    with pytest.raises(UsageError, match="kernel must be one of"):
        engine.gru(batch, weights, kernel="fastest")
    with pytest.raises(UsageError, match="precision must be"):
        engine.gru(batch, weights, precision="float16")
    missing = next(name for name, reason in engine.kernels().items() if reason is not None)
    precision = "bfloat16" if missing in ("amx", "avx512_bf16") else "float32"
    with pytest.raises(UsageError, match=f"Kernel {missing} cannot run: "):
        engine.gru(batch, weights, kernel=missing, precision=precision)
    for name in FAST:
        with pytest.raises(UsageError, match="does not compute in bfloat16"):
            engine.gru(batch, weights, kernel=name, precision="bfloat16")
    with pytest.raises(UsageError, match="c_0 exists for the LSTM only"):
        engine.gru(batch, weights, c_0=np.zeros((2, 1, 3), np.float32))
    with pytest.raises(UsageError, match="save=True"):
        engine.gru(batch, weights).gradients(d_h_n=np.zeros((2, 1, 3), np.float32))


def test_auto_precision_is_the_faster_one():
    """AMX always multiplies bfloat16 faster; without both instruction sets nothing does."""
    runs = {name for name, reason in engine.kernels().items() if reason is None}
    if "amx" in runs:
        assert engine.choose_precision("auto") == "bfloat16"
    elif "avx512_bf16" not in runs:
        assert engine.choose_precision("auto") == "float32"
    if engine.choose_precision("auto") == "bfloat16":
        assert engine.choose_kernel("auto", "bfloat16") == ("amx" if "amx" in runs else "avx512_bf16")


def test_description_names_what_runs():
    line = engine.describe("portable", "float32", threads=1)
    assert line == "portable float32, 1 thread (chosen explicitly)"
    assert f", {engine.available_threads()} thread" in engine.describe()
    if engine.kernels()["amx"] is None:
        of_parts = "layers of 64 to 384 hidden units: AMX, three bfloat16 parts a number"
        assert of_parts in engine.describe("auto", "float32", training=True)
        assert of_parts not in engine.describe("auto", "float32")
        assert engine.describe(threads=2) == "AMX bf16, 2 threads (fastest kernel that runs here)"
    elif engine.choose_precision("auto") == "bfloat16":
        assert engine.describe(threads=2) == "AVX512-BF16 bf16, 2 threads (fastest kernel that runs here)"


def test_missing_library_is_said(tmp_path):
    code = (
        "from bilstm import engine\n"
        "assert not engine.status().available\n"
        "print(engine.describe())\n"
        "try:\n"
        "    engine.Context()\n"
        "except engine.library.__globals__['UsageError'] as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "BILSTM_ENGINE_LIBRARY": str(tmp_path / "none.so")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith(f"engine not available: no native library at {tmp_path}")
    assert "named by BILSTM_ENGINE_LIBRARY" in first
    assert second.startswith("The native engine is not available: ")


# ---- threads, forks, memory ----


def test_contexts_run_at_the_same_time():
    """Several contexts, and one shared context, from several threads: every result is right."""
    batch, weights = draw_batch(LENGTHS, 9), draw_weights("lstm", 9, 14)
    right = engine.lstm(batch, weights, save=True)
    d_outputs = np.ones_like(right.outputs)
    right_gradient = right.gradients(d_outputs=d_outputs).weights[0].w_hh
    shared, wrong = Context(2), []

    def work(context: Context) -> None:
        for _ in range(40):
            found = engine.lstm(batch, weights, save=True, context=context)
            gradient = found.gradients(d_outputs=d_outputs).weights[0].w_hh
            if not (np.array_equal(found.outputs, right.outputs) and np.array_equal(gradient, right_gradient)):
                wrong.append(context)

    threads = [threading.Thread(target=work, args=(c,)) for c in (Context(1), Context(2), Context(3), shared, shared)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_fork():
    """A child uses the parent's context and one of its own, also while another thread of the parent is in a call."""
    code = """
import os, sys, threading
import numpy as np
from bilstm import engine
from bilstm.data.ragged import Ragged
generator = np.random.default_rng(0)
weights = [engine.DirectionWeights(*(generator.standard_normal(s).astype(np.float32) * 0.1
           for s in ((64, 8), (64, 16)))) for _ in range(2)]
batch = Ragged.of([generator.standard_normal((50, 8)) for _ in range(100)], dtype=np.float32)
context = engine.Context(3)
right = engine.lstm(batch, weights, context=context).outputs
stop = threading.Event()
def busy():
    while not stop.is_set():
        engine.lstm(batch, weights, context=context)
thread = threading.Thread(target=busy)
thread.start()
failed = 0
for _ in range(8):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            same = all(np.array_equal(engine.lstm(batch, weights, context=c).outputs, right)
                       for c in (context, engine.Context(2)))
            code = 0 if same else 2
        finally:
            os._exit(code)
    failed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
stop.set()
thread.join()
sys.exit(failed)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_a_thousand_steps_leak_nothing():
    """Training steps and packed weights of random shapes: memory stays after the largest shapes were seen."""
    generator = np.random.default_rng(0)

    def step() -> None:
        cell, (kernel, precision) = CELLS[generator.integers(4)], RUNS[generator.integers(len(RUNS))]
        inputs, hidden = (int(n) for n in generator.integers(1, 24, 2))
        batch = draw_batch(list(generator.integers(0, 9, generator.integers(1, 20))), inputs)
        weights, options = draw_weights(cell, inputs, hidden), {"kernel": kernel, "precision": precision}
        result = engine.recurrent(cell, batch, weights, save=True, **options)
        result.gradients(d_outputs=result.outputs)
        engine.recurrent(cell, batch, engine.pack(cell, weights, **options), **options)

    for _ in range(300):
        step()
    before = resident_bytes()
    for _ in range(1000):
        step()
    # one leaked buffer or packing a step would be 10 MB and more
    assert resident_bytes() - before < 4e6


def test_buffer_outlives_its_context():
    context = Context(1)
    address = context.acquire(1 << 20)
    del context
    ctypes.memset(address, 1, 1 << 20)
    engine.library().bilstm_buffer_release(address)
