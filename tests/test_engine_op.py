"""The engine's torch operators against a float64 loop, torch's own layers, finite differences and themselves."""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm.errors import ShapeError, UsageError
from bilstm.layers import engine_call, engine_op
from bilstm.layers.engine_op import engine_can_run, has_fast_kernel, recurrent_layer, run_recurrent
from engine_cases import CELLS, Case, make_case, reference, relative_errors, run_torch, torch_module, weighted_sum

_REASON = engine_can_run(torch.float32)
pytestmark = pytest.mark.skipif(_REASON is not None, reason=f"the native engine does not run here: {_REASON}")


def kernels_of(precision: str) -> list[str]:
    """Every kernel that computes in that precision on this machine."""
    if _REASON is not None:
        return ["auto"]
    library = engine_op.library()
    number = engine_op.PRECISIONS[precision]
    return [
        name
        for name, kernel in engine_op.KERNELS.items()
        if kernel and library.bilstm_choose_kernel(kernel, number) >= 0
    ]


_EXACT: dict[tuple, tuple] = {}
FLOAT32 = pytest.mark.parametrize("kernel", kernels_of("float32"))
BFLOAT16 = pytest.mark.parametrize("kernel", kernels_of("bfloat16"))
# lengths: one step, equal, strongly ragged, with empty sequences first, amid and last, a single one, only empty ones
LENGTHS = {
    "one": [1, 1, 1],
    "equal": [7] * 5,
    "ragged": [1, 40, 3, 17, 2, 5],
    "empty": [0, 4, 0, 9, 1, 0],
    "single": [12],
    "nothing": [0, 0],
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(case: Case, **options):
    """Run a case through the operator."""
    cell, nonlinearity = (case.cell, "tanh") if not case.cell.startswith("rnn") else ("rnn", case.cell[4:])
    return run_recurrent(
        case.offsets,
        cell,
        case.weights,
        values=case.values,
        h_0=case.h_0,
        c_0=case.c_0,
        recurrent_mask=case.mask,
        nonlinearity=nonlinearity,
        **options,
    )


def results_and_gradients(case: Case, **options):
    result = run(case, **options)
    results = (result.outputs, result.h_n, result.c_n)
    weighted_sum(results).backward()
    return [r.detach() for r in results if r is not None], [leaf.grad for leaf in case.leaves()]


def exact(case: Case):
    """Results and gradients in float64, kept for the next kernel that runs the same numbers."""
    key = hash(tuple(tensor.detach().double().sum().item() for tensor in (*case.leaves(), case.offsets)))
    key = (case.cell, len(case.weights), case.mask is None, key)
    if key not in _EXACT:
        _EXACT[key] = _compute_exact(case.to(torch.float64))
    return _EXACT[key]


def _compute_exact(case: Case):
    results = reference(case)
    total = weighted_sum(results)
    if total.requires_grad:  # nothing depends on anything when there are no steps and no states
        total.backward()
    gradients = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in case.leaves()]
    return [r.detach() for r in results if r is not None], gradients


@FLOAT32
@pytest.mark.parametrize("sizes", [(1, 5), (5, 1), (13, 19), (32, 64)])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_error_at_most_twice_torchs(kernel, cell, directions, sizes):
    """Mean relative error of the results and of the gradients over some draws, against torch's."""
    errors = {"results": [], "gradients": []}
    for seed in range(8 if min(sizes) < 8 else 2):  # in a tensor of few numbers torch may be exact by luck
        case = make_case(cell, LENGTHS["ragged"], *sizes, directions=directions, seed=seed).to(torch.float32)
        true_results, true_gradients = exact(case)
        results, gradients = results_and_gradients(case, kernel=kernel)
        of_torch, leaves = run_torch(case.to(torch.float32))
        weighted_sum(of_torch).backward()
        of_torch = [result.detach() for result in of_torch if result is not None]
        torch_gradients = [leaf.grad for leaf in leaves]
        for name, ours, others, true in (
            ("results", results, of_torch, true_results),
            ("gradients", gradients, torch_gradients, true_gradients),
        ):
            errors[name] += zip(relative_errors(ours, true), relative_errors(others, true), strict=True)
    for name, pairs in errors.items():
        ours, others = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        assert ours <= 2 * others, f"{name}: {ours:.2e}, torch {others:.2e}"


@FLOAT32
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("states", [True, False], ids=["states", "zero states"])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_the_loop_for_all_lengths(kernel, cell, states, lengths):
    case = make_case(cell, lengths, 6, 9, states=states).to(torch.float32)
    true_results, true_gradients = exact(case)
    results, gradients = results_and_gradients(case, kernel=kernel)
    for error in relative_errors(results + gradients, true_results + true_gradients):
        assert error < 5e-6  # some hundred roundings of float32


@FLOAT32
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_mask(kernel, cell):
    case = make_case(cell, [3, 11, 0, 6], 5, 21, mask=True).to(torch.float32)
    true_results, true_gradients = exact(case)
    results, gradients = results_and_gradients(case, kernel=kernel)
    for error in relative_errors(results + gradients, true_results + true_gradients):
        assert error < 5e-6


@pytest.mark.parametrize("cell", CELLS)
def test_without_biases(cell):
    with_zeros = make_case(cell, [3, 8, 5], 4, 6).to(torch.float32)
    for direction in with_zeros.weights:
        for bias in direction[2:]:
            bias.detach().zero_()
    without = [(w_ih, w_hh, None, None) for w_ih, w_hh, *_ in with_zeros.weights]
    expected = run(with_zeros)
    cell_name, nonlinearity = (cell, "tanh") if not cell.startswith("rnn") else ("rnn", cell[4:])
    found = run_recurrent(
        with_zeros.offsets,
        cell_name,
        without,
        values=with_zeros.values,
        h_0=with_zeros.h_0,
        c_0=with_zeros.c_0,
        nonlinearity=nonlinearity,
    )
    torch.testing.assert_close(found.outputs, expected.outputs)


def test_batch_of_a_thousand():
    lengths = torch.randint(0, 9, (1000,), generator=torch.Generator().manual_seed(3)).tolist()
    case = make_case("lstm", lengths, 8, 16, states=False).to(torch.float32)
    module = torch_module(case)
    kept = [row for row in range(1000) if lengths[row]]
    sequences = [case.values[case.offsets[row] : case.offsets[row + 1]] for row in kept]
    packed = torch.nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False)
    _, (h_n, _) = module(packed)
    torch.testing.assert_close(run(case).h_n[:, kept], h_n, rtol=1e-5, atol=1e-6)


@BFLOAT16
def test_bfloat16_error_at_most_twice_torchs(kernel):
    case = make_case("lstm", [30, 4, 17, 25], 64, 64, states=False).to(torch.float32)
    true_results, true_gradients = exact(case)
    results, gradients = results_and_gradients(case, precision="bfloat16", kernel=kernel)
    module = torch_module(case)
    errors = []
    values = case.values.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        parts = [module(values[s:e]) for s, e in zip(case.offsets[:-1], case.offsets[1:], strict=True)]
    outputs = torch.cat([part[0] for part in parts])
    states = [torch.stack([part[1][number] for part in parts], 1) for number in (0, 1)]
    weighted_sum((outputs, *states)).backward()
    errors = relative_errors([outputs, *states], true_results)
    errors += relative_errors([values.grad, *(p.grad for p in module.parameters())], true_gradients)
    found = relative_errors(results + gradients, true_results + true_gradients)
    for error, allowed in zip(found, errors, strict=True):
        assert error <= 2 * allowed


@BFLOAT16
@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_is_close(kernel, cell):
    case = make_case(cell, LENGTHS["ragged"], 33, 40).to(torch.float32)
    if cell == "rnn_relu":  # nothing bounds its state; weights that shrink it keep the roundings from growing
        with torch.no_grad():
            for direction in case.weights:
                direction[1].mul_(0.3)
    true_results, true_gradients = exact(case)
    results, gradients = results_and_gradients(case, precision="bfloat16", kernel=kernel)
    # bfloat16 has 8 bits: every factor is off by up to 1/512; a relu whose input is near zero may flip altogether
    allowed = 0.1 if cell == "rnn_relu" else 0.02
    assert max(relative_errors(results + gradients, true_results + true_gradients)) < allowed


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_against_finite_differences(cell):
    case = make_case(cell, [3, 0, 4, 1], 2, 3, mask=True).to(torch.float64)

    def layer(*leaves):
        values, h_0, *rest = leaves
        c_0, rest = (rest[0], rest[1:]) if cell == "lstm" else (None, rest)
        moved = Case(cell, case.offsets, values, [tuple(rest[:4]), tuple(rest[4:])], h_0, c_0, case.mask)
        return tuple(part for part in run(moved, precision="float64", pooling=True) if part is not None)

    assert torch.autograd.gradcheck(layer, case.leaves())


@pytest.mark.parametrize("pooling", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_opcheck(monkeypatch, cell, tokens, pooling):
    case = make_case(cell, [3, 0, 5], 4, 6).to(torch.float32)
    flat = [tensor for direction in case.weights for tensor in direction]
    ids = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1]) if tokens else None
    embedding = torch.randn(3, 4, requires_grad=True) if tokens else None
    values = None if tokens else case.values
    arguments = (values, case.offsets, ids, embedding, flat, 2, case.h_0, case.c_0, None, cell, "float32")
    acquire = engine_call.Context.acquire

    def zeroed(context, size):  # the opaque buffer has gaps, which the check would compare
        pointer = acquire(context, size)
        ctypes.memset(pointer, 0, size)
        return pointer

    monkeypatch.setattr(engine_call.Context, "acquire", zeroed)
    forward = torch.ops.bilstm.recurrent_forward.default
    torch.library.opcheck(forward, (*arguments, "auto", 1, True, pooling, True))
    with torch.no_grad():
        torch.library.opcheck(forward, (*arguments, "auto", 1, False, pooling, False))


def test_saved_bytes_are_linear_in_steps_and_batch():
    """The fake kernel adds up per-step and per-sequence bytes; it must give what the library asks for."""
    for precision in ("float32", "bfloat16", "float64"):
        for cell in CELLS:
            for lengths in ([1], [5, 9, 0, 200], [3] * 33, [0, 0]):
                case = make_case(cell, lengths, 3, 17).to(torch.float64 if precision == "float64" else torch.float32)
                flat = [tensor for direction in case.weights for tensor in direction]
                tensors = (case.values, case.offsets, None, None, flat, 2, case.h_0, case.c_0, None)
                arguments = engine_call.Arguments(*tensors, cell, precision, "auto", 1)
                saved = engine_call.forward(*arguments, True, False, True)[-1]
                assert saved.numel() == engine_call.saved_size(arguments)


def _saved_size(cell: str, precision: str, directions: int, hidden: int, steps: int) -> int:
    tensors = (torch.zeros(steps, 1), torch.zeros(2), None, None, [torch.zeros(1), torch.zeros(1, hidden)])
    arguments = engine_call.Arguments(*tensors, directions, None, None, None, cell, precision, "auto", 1)
    return engine_call.saved_size(arguments)


@pytest.mark.parametrize("cell", CELLS)
def test_bytes_a_step_are_as_documented(cell):
    """docs/engine.md states them: numbers of 4 or 2 bytes for each unit, units rounded up to 16."""
    numbers = 5 if cell in ("lstm", "gru") else 1
    for precision, size in (("float32", 4), ("bfloat16", 2)):
        if not has_fast_kernel(precision):
            continue
        for directions, hidden, rounded in ((1, 64, 64), (2, 40, 48), (2, 1, 16)):
            grown = _saved_size(cell, precision, directions, hidden, 1000)
            grown -= _saved_size(cell, precision, directions, hidden, 0)
            assert grown == 1000 * directions * numbers * rounded * size


@FLOAT32
@settings(max_examples=40, deadline=None)
@given(
    cell=st.sampled_from(CELLS),
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=20),
    input_size=st.integers(1, 40),
    hidden_size=st.integers(1, 40),
    directions=st.sampled_from([1, 2]),
    states=st.booleans(),
    mask=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_shape(kernel, cell, lengths, input_size, hidden_size, directions, states, mask, seed):
    options = {"directions": directions, "states": states, "mask": mask, "seed": seed}
    case = make_case(cell, lengths, input_size, hidden_size, **options).to(torch.float32)
    true_results, true_gradients = exact(case)
    results, gradients = results_and_gradients(case, kernel=kernel)
    # relu states may grow a thousandfold in 20 steps of a random matrix, and the roundings with them
    allowed = 1e-3 if cell == "rnn_relu" else 1e-5
    for found, true in ((results, true_results), (gradients, true_gradients)):
        # all together: a tensor of one number may be a sum that cancels
        joined = [torch.cat([tensor.double().flatten() for tensor in group]) for group in (found, true)]
        assert relative_errors(joined[:1], joined[1:])[0] < allowed


@FLOAT32
@pytest.mark.parametrize("cell", CELLS)
def test_batch_mates_row_order_and_threads_change_nothing(kernel, cell):
    case = make_case(cell, [5, 33, 0, 1, 33, 8, 21, 2, 40], 7, 24)
    whole = run(case, threads=1, kernel=kernel)
    for threads in (2, 3):
        again = run(case, threads=threads, kernel=kernel)
        assert torch.equal(again.outputs, whole.outputs)
        assert torch.equal(again.h_n, whole.h_n)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(5)).tolist()
    for rows in (order, *([row] for row in range(9))):
        pieces = [slice(int(case.offsets[row]), int(case.offsets[row + 1])) for row in rows]
        part = Case(
            cell,
            torch.tensor([0, *(piece.stop - piece.start for piece in pieces)]).cumsum(0),
            torch.cat([case.values[piece] for piece in pieces]),
            case.weights,
            case.h_0[:, rows],
            None if case.c_0 is None else case.c_0[:, rows],
        )
        result = run(part, kernel=kernel)
        assert torch.equal(result.outputs, torch.cat([whole.outputs[piece] for piece in pieces]))
        assert torch.equal(result.h_n, whole.h_n[:, rows])


@FLOAT32
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_equal_for_any_thread_count(kernel, cell):
    lengths = [5, 33, 0, 1, 33, 8, 21, 2, 40] * 4
    expected = results_and_gradients(make_case(cell, lengths, 7, 24).to(torch.float32), threads=1, kernel=kernel)[1]
    for threads in (2, 4):
        found = results_and_gradients(
            make_case(cell, lengths, 7, 24).to(torch.float32), threads=threads, kernel=kernel
        )[1]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@FLOAT32
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("cell", CELLS)
def test_bad_numbers_stay_in_their_sequence(kernel, cell, bad):
    lengths = [4, 9, 6, 1]
    clean, dirty = (make_case(cell, lengths, 5, 18).to(torch.float32) for _ in range(2))
    with torch.no_grad():
        dirty.values[7] = bad  # a step of sequence 1
    results = [run(case, kernel=kernel) for case in (clean, dirty)]
    for result in results:
        torch.cat([result.outputs[:4], result.outputs[13:]]).sum().backward()
    others = [*range(4), *range(13, 20)]
    assert torch.equal(results[0].outputs[others], results[1].outputs[others])
    assert torch.equal(results[0].h_n[:, [0, 2, 3]], results[1].h_n[:, [0, 2, 3]])
    assert torch.equal(clean.values.grad[others], dirty.values.grad[others])
    assert not torch.isfinite(results[1].outputs[7]).all() or bad == float("inf")


def test_states_carry_over():
    case = make_case("lstm", [30], 6, 11, directions=1).to(torch.float32)
    whole = run(case)
    first, second = case.values[:13], case.values[13:]
    one = recurrent_layer(first, torch.tensor([0, 13]), "lstm", case.weights, case.h_0, case.c_0)
    two = recurrent_layer(second, torch.tensor([0, 17]), "lstm", case.weights, *one[1:])
    assert torch.equal(torch.cat([one[0], two[0]]), whole.outputs)
    assert torch.equal(two[2], whole.c_n)


def test_tokens_equal_gathered_rows():
    case = make_case("gru", [5, 0, 12], 9, 16).to(torch.float32)
    ids = torch.randint(0, 6, (17,), generator=torch.Generator().manual_seed(2))
    table = torch.randn(6, 9, generator=torch.Generator().manual_seed(3), requires_grad=True)
    own = table.detach().clone().requires_grad_()
    shared = {"h_0": case.h_0, "pooling": True}
    fused = run_recurrent(case.offsets, "gru", case.weights, token_ids=ids, embedding=table, **shared)
    plain = run_recurrent(case.offsets, "gru", case.weights, values=own[ids], **shared)
    for a, b in zip(fused, plain, strict=True):
        assert a is b is None or torch.equal(a, b)
    weighted_sum(fused).backward()
    weighted_sum(plain).backward()
    torch.testing.assert_close(table.grad, own.grad, rtol=1e-5, atol=1e-6)  # sums in another order


def test_pooling_equals_its_formula():
    case = make_case("lstm", [5, 0, 12, 1], 9, 16, states=False).to(torch.float32)
    fused = run(case, pooling=True)
    pieces = [fused.outputs[s:e] for s, e in zip(case.offsets[:-1], case.offsets[1:], strict=True)]
    largest = torch.stack([p.amax(0) if len(p) else p.new_zeros(32) for p in pieces])
    mean = torch.stack([p.mean(0) if len(p) else p.new_zeros(32) for p in pieces])
    assert torch.equal(fused.max_values, largest)
    torch.testing.assert_close(fused.mean_values, mean, rtol=1e-5, atol=1e-7)
    alone = run(case, outputs=False, pooling=True)
    assert alone.outputs is None
    assert torch.equal(alone.max_values, fused.max_values)


def test_inference_keeps_nothing(monkeypatch):
    case = make_case("lstm", [5, 3], 4, 6)
    expected = run(case.to(torch.float32)).outputs
    monkeypatch.setattr(engine_call, "_borrowed_buffer", lambda *_: pytest.fail("saved for a backward pass"))
    assert torch.equal(run(case).outputs, expected)
    with torch.no_grad():
        assert torch.equal(run(case.to(torch.float32)).outputs, expected)
    with torch.inference_mode():
        assert torch.equal(run(case).outputs, expected)


@pytest.mark.parametrize("backward", [True, False])
def test_saved_buffer_goes_back_at_once(monkeypatch, backward):
    lent: list[int] = []
    given_back: list[int] = []
    acquire = engine_call.Context.acquire

    def recording(context, size):
        lent.append(acquire(context, size))
        return lent[-1]

    library = engine_call.library()
    release = library.bilstm_buffer_release

    class Library:
        def __getattr__(self, name):
            return getattr(library, name)

        @staticmethod
        def bilstm_buffer_release(pointer):
            given_back.append(pointer)
            release(pointer)

    monkeypatch.setattr(engine_call, "library", lambda: Library())
    monkeypatch.setattr(engine_call.Context, "acquire", recording)
    gc.disable()  # the count of references alone has to do it
    try:
        result = run(make_case("lstm", [5, 3], 4, 6).to(torch.float32))
        assert len(lent) == 1
        assert given_back == []
        if backward:
            result.outputs.sum().backward()
            assert given_back == lent
        del result
        assert given_back == lent
    finally:
        gc.enable()


def test_large_results_lie_in_lent_memory_and_outlive_everything():
    """More results alive than the engine keeps buffers; each keeps its own numbers after the others are gone."""
    case = make_case("lstm", [4000] * 2, 8, 32, states=False).to(torch.float32)
    assert case.values.shape[0] * 64 * 4 > engine_call._LARGE_BYTES
    first = run(case).outputs
    expected = first.detach().clone()
    others = [run(case).outputs for _ in range(12)]
    del others
    assert torch.equal(first, expected)
    first.sum().backward()
    view = first.detach()[5:7]
    del first
    run(case)
    assert torch.equal(view, expected[5:7])


def test_backward_twice_with_retained_graph():
    case = make_case("gru", [5, 3], 4, 6).to(torch.float32)
    loss = weighted_sum(run(case))
    loss.backward(retain_graph=True)
    first = [leaf.grad.clone() for leaf in case.leaves()]
    loss.backward()
    assert all(torch.equal(leaf.grad, 2 * one) for leaf, one in zip(case.leaves(), first, strict=True))


def test_only_the_gradients_asked_for():
    case = make_case("lstm", [5, 3], 4, 6)
    case.values.requires_grad_()
    run(case).h_n.sum().backward()
    full = case.to(torch.float32)
    run(full).h_n.sum().backward()
    assert torch.equal(case.values.grad, full.values.grad)
    assert all(tensor.grad is None for tensor in case.weights[0])


def test_second_derivatives_are_refused():
    case = make_case("lstm", [3], 2, 2).to(torch.float32)
    (gradient,) = torch.autograd.grad(run(case).h_n.sum(), case.values, create_graph=True)
    with pytest.raises(UsageError, match="no second derivatives"):
        gradient.sum().backward()


def test_changed_input_is_noticed():
    case = make_case("lstm", [3], 2, 2).to(torch.float32)
    values = case.values.detach().clone()
    case.values = values
    result = run(case)
    values.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.h_n.sum().backward()


def test_non_contiguous_input():
    case = make_case("lstm", [4, 6], 5, 7)
    expected = run(case).outputs
    case.values = torch.stack([case.values, case.values], 2)[:, :, 0]
    case.weights = [tuple(tensor.t().contiguous().t() for tensor in direction) for direction in case.weights]
    assert not case.values.is_contiguous()
    assert torch.equal(run(case).outputs, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": torch.tensor([0, 9, 8])}, "offsets"),
        ({"offsets": torch.tensor([0, 3, 9])}, "offsets"),
        ({"offsets": torch.tensor([0, 3, 7])}, "offsets"),
        ({"offsets": torch.tensor([-1, 3, 8])}, "offsets"),
        ({"offsets": torch.tensor([0, 3, 8], dtype=torch.int32)}, "int64"),
        ({"offsets": torch.zeros(0, dtype=torch.int64)}, "offsets"),
        ({"offsets": torch.tensor([[0, 3, 8]])}, "offsets"),
        ({"values": torch.zeros(8, 3)}, "w_ih of direction 0"),
        ({"values": torch.zeros(8, 4, dtype=torch.float64)}, "values must be torch.float32"),
        ({"values": torch.zeros(8)}, "shape"),
        ({"h_0": torch.zeros(2, 3, 6)}, r"h_0 must have shape \(2, 2, 6\)"),
        ({"c_0": torch.zeros(1, 2, 6)}, "c_0 must have shape"),
        ({"mask": torch.zeros(2, 2, 5)}, "recurrent_mask must have shape"),
    ],
)
def test_wrong_input_is_an_error(change, message):
    case = make_case("lstm", [3, 5], 4, 6)
    for name, value in change.items():
        setattr(case, name, value)
    with pytest.raises(ShapeError, match=message):
        run(case)


@pytest.mark.parametrize("ids", [[0, 1, 6], [0, -1, 2]])
def test_wrong_ids_are_an_error(ids):
    case = make_case("lstm", [3], 4, 6)
    with pytest.raises(ShapeError, match="token"):
        run_recurrent(
            case.offsets, "lstm", case.weights, token_ids=torch.tensor(ids), embedding=torch.zeros(6, 4), h_0=case.h_0
        )


def test_what_cannot_run_is_refused():
    assert engine_can_run(torch.float32, "cuda") == "the engine runs on the CPU, not on cuda."
    assert "not torch.float64" in engine_can_run(torch.float64)
    assert "unknown" in engine_can_run(torch.float32, precision="float8")
    assert "unknown" in engine_can_run(torch.float32, cell="peephole")
    case = make_case("gru", [3], 4, 6)
    with pytest.raises(UsageError, match="c_0 is a state of the LSTM only"):
        recurrent_layer(case.values, case.offsets, "gru", case.weights, None, case.h_0)
    with pytest.raises(UsageError, match="either values, or token_ids"):
        run_recurrent(case.offsets, "gru", case.weights)
    with pytest.raises(ShapeError, match="1 or 2 directions"):
        recurrent_layer(case.values, case.offsets, "gru", case.weights * 2)


def test_threads_follow_torch(monkeypatch):
    seen = []
    original = engine_call._context
    monkeypatch.setattr(engine_call, "_context", lambda threads: seen.append(threads) or original(threads))
    case = make_case("lstm", [3], 2, 2)
    for threads in (2, 1):
        torch.set_num_threads(threads)
        run(case)
    run(case, threads=3)
    assert seen == [2, 1, 3]


def _in_worker(_):
    return run(make_case("lstm", [7, 3], 4, 6), threads=2).outputs.clone()


def test_works_in_forked_loader_workers():
    expected = _in_worker(0)  # the parent has used its context, threads and all, before the fork
    torch.set_num_threads(2)
    loader = torch.utils.data.DataLoader([0, 1, 2, 3], batch_size=None, num_workers=2, collate_fn=_in_worker)
    loader.multiprocessing_context = "fork"
    found = list(loader)
    assert len(found) == 4
    assert all(torch.equal(one, expected) for one in found)


def test_a_thousand_random_training_steps_leak_nothing():
    """Resident memory after a thousand steps of random shapes; in a process of its own, whose memory is its own."""
    program = """
import random, torch
from engine_cases import CELLS, make_case
from test_engine_op import run
torch.set_num_threads(1)
draw = random.Random(7)

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

def steps(count):
    for number in range(count):
        lengths = [draw.randrange(0, 30) for _ in range(draw.randrange(1, 12))]
        case = make_case(draw.choice(CELLS), lengths, draw.randrange(1, 30), draw.randrange(1, 40)).to(torch.float32)
        result = run(case, pooling=True, precision=draw.choice(["float32", "bfloat16"]), threads=draw.choice([1, 2]))
        if number % 3:
            (result.outputs.sum() + result.max_values.sum()).backward()

steps(300)
before = resident()
steps(1000)
print(resident() - before)
"""
    folder = os.path.dirname(__file__)
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=200, check=True
    )
    assert int(finished.stdout) < 4 << 20  # a leaked buffer of each step would be 50 MB


def test_compiles_without_graph_break():
    case = make_case("lstm", [4, 0, 6], 5, 7).to(torch.float32)

    def loss(values, offsets, weights):
        outputs, h_n, c_n = recurrent_layer(values, offsets, "lstm", weights)
        return outputs.sin().sum() + (h_n * c_n).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = loss(case.values, case.offsets, case.weights)
    expected.backward()
    gradients = [leaf.grad.clone() for leaf in case.leaves() if leaf.grad is not None]
    for leaf in case.leaves():
        leaf.grad = None
    found = compiled(case.values, case.offsets, case.weights)
    found.backward()
    torch.testing.assert_close(found, expected)
    again = [leaf.grad for leaf in case.leaves() if leaf.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(again, gradients, strict=True))


def test_deepcopy_of_a_result_graph_is_refused_by_torch_as_ever():
    """A copy of leaves trains on its own."""
    case = make_case("lstm", [4], 3, 3).to(torch.float32)
    other = copy.deepcopy(case)
    run(case).h_n.sum().backward()
    assert other.values.grad is None
    run(other).h_n.sum().backward()
    assert torch.equal(other.values.grad, case.values.grad)


def test_random_seed_of_python_is_left_alone():
    random.seed(3)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    run(make_case("lstm", [4], 3, 3))
    assert torch.equal(torch.get_rng_state(), state)


def test_fast_kernel_is_named_only_where_one_runs():
    for precision in ("float32", "bfloat16"):
        kernel = engine_op.library().bilstm_choose_kernel(0, engine_op.PRECISIONS[precision])
        assert has_fast_kernel(precision) == (kernel > 1)
    assert not has_fast_kernel("float64")
