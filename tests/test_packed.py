"""The path of recurrent layers and pooling on a GPU, run on the CPU, against the loop over steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bilstm.layers.packed import run_packed_layer
from bilstm.layers.pooling import fused_segment_max
from bilstm.layers.recurrent_backends import CellWeights, LayerCall, run_reference

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def _call(cell: str, lengths: list[int], directions: int) -> LayerCall:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    gates, hidden, size = GATES[cell], 5, 3
    weights = [
        CellWeights(
            draw(gates * hidden, size), draw(gates * hidden, hidden), draw(gates * hidden), draw(gates * hidden)
        )
        for _ in range(directions)
    ]
    for part in weights:
        for tensor in (part.w_ih, part.w_hh, part.b_ih, part.b_hh):
            tensor.requires_grad_()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return LayerCall(
        values=draw(int(offsets[-1]), size).requires_grad_(),
        offsets=offsets,
        cell=cell,
        nonlinearity="tanh",
        weights=weights,
        h_0=draw(directions, len(lengths), hidden),
        c_0=draw(directions, len(lengths), hidden),
        masks=None,
        needs_cell_state=True,
        precision="float32",
        threads=None,
    )


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [[2, 0, 7, 1], [0, 0], [4]])
def test_packed_is_the_loop(cell: str, directions: int, lengths: list[int]) -> None:
    call = _call(cell, lengths, directions)
    expected = run_reference(call)
    outputs, h_n, c_n = run_packed_layer(call)
    assert all(torch.allclose(a, b) for a, b in zip(outputs, expected.outputs, strict=True))
    assert torch.allclose(h_n, expected.h_n)
    assert (c_n is None) == (cell != "lstm")
    if c_n is not None:
        assert torch.allclose(c_n, expected.c_n)
    if sum(lengths) == 0:
        return
    leaves = [call.values, *(getattr(w, name) for w in call.weights for name in ("w_ih", "w_hh", "b_ih", "b_hh"))]
    own = torch.autograd.grad(sum(o.square().sum() for o in outputs), leaves)
    loop = torch.autograd.grad(sum(o.square().sum() for o in expected.outputs), leaves)
    assert all(torch.allclose(a, b) for a, b in zip(own, loop, strict=True))


def test_autocast_rounds_inside_alone() -> None:
    call = _call("lstm", [3, 5], 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, h_n, _ = run_packed_layer(call)
    expected = run_reference(call)
    assert outputs[0].dtype == h_n.dtype == torch.float64
    difference = (outputs[0] - expected.outputs[0]).abs().max()
    assert 1e-4 < difference < 0.1  # rounded, and still the same numbers


def test_largest_value_of_each_sequence() -> None:
    values = torch.tensor([[1.0, -5.0], [3.0, -2.0], [-4.0, -7.0]], requires_grad=True)
    largest = fused_segment_max(values, torch.tensor([2, 0, 1]))
    assert largest.tolist() == [[3.0, -2.0], [0.0, 0.0], [-4.0, -7.0]]
    (gradient,) = torch.autograd.grad(largest.sum(), values)
    assert gradient.tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
