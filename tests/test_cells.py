"""The readable cells against numbers worked by hand with `math`, torch's cells, and finite differences."""

import math

import pytest
import torch

from bilstm.layers.cells import GATES, gru_step, lstm_step, project, rnn_step

# Two units, one input feature, three steps: small enough to follow on paper.
INPUTS = [0.5, -1.0, 2.0]
UNITS = 2


def _numbers(count: int, start: float) -> list[float]:
    """Distinct weights without a pattern that could hide a swapped index."""
    return [round(math.sin(start + 1.7 * n), 3) for n in range(count)]


def _weights(gates: int) -> tuple[list[list[float]], list[list[float]], list[float], list[float]]:
    rows = gates * UNITS
    flat = _numbers(rows * UNITS, 0.9)
    w_hh = [flat[row * UNITS : (row + 1) * UNITS] for row in range(rows)]
    return [[w] for w in _numbers(rows, 0.3)], w_hh, _numbers(rows, 2.1), _numbers(rows, 4.4)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _sums(x: float, h: list[float], weights) -> tuple[list[float], list[float]]:
    """Input part and recurrent part of every row, each with its bias."""
    w_ih, w_hh, b_ih, b_hh = weights
    from_input = [w_ih[row][0] * x + b_ih[row] for row in range(len(w_ih))]
    from_state = [sum(w * s for w, s in zip(w_hh[row], h, strict=True)) + b_hh[row] for row in range(len(w_hh))]
    return from_input, from_state


def _hand_lstm(weights):
    h, c = [0.1, -0.2], [0.3, 0.4]
    for x in INPUTS:
        a, b = _sums(x, h, weights)
        new_h, new_c = [], []
        for unit in range(UNITS):
            i, f, g, o = (a[gate * UNITS + unit] + b[gate * UNITS + unit] for gate in range(4))
            new_c.append(_sigmoid(f) * c[unit] + _sigmoid(i) * math.tanh(g))
            new_h.append(_sigmoid(o) * math.tanh(new_c[unit]))
        h, c = new_h, new_c
    return h, c


def _hand_gru(weights):
    h = [0.1, -0.2]
    for x in INPUTS:
        a, b = _sums(x, h, weights)
        new_h = []
        for unit in range(UNITS):
            r = _sigmoid(a[unit] + b[unit])
            z = _sigmoid(a[UNITS + unit] + b[UNITS + unit])
            n = math.tanh(a[2 * UNITS + unit] + r * b[2 * UNITS + unit])
            new_h.append(z * h[unit] + (1 - z) * n)
        h = new_h
    return h


def _hand_rnn(weights, nonlinearity):
    h = [0.1, -0.2]
    for x in INPUTS:
        a, b = _sums(x, h, weights)
        sums = [p + q for p, q in zip(a, b, strict=True)]
        h = [max(s, 0.0) if nonlinearity == "relu" else math.tanh(s) for s in sums]
    return h


def _tensors(weights):
    return tuple(torch.tensor(part, dtype=torch.float64) for part in weights)


def test_lstm_is_what_the_equations_give_by_hand():
    w_ih, w_hh, b_ih, b_hh = _tensors(_weights(4))
    h = torch.tensor([[0.1, -0.2]], dtype=torch.float64)
    c = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    for x in INPUTS:
        h, c = lstm_step(project(torch.tensor([[x]], dtype=torch.float64), w_ih, b_ih), h, c, w_hh, b_hh)
    expected_h, expected_c = _hand_lstm(_weights(4))
    assert h[0].tolist() == pytest.approx(expected_h, abs=1e-14)
    assert c[0].tolist() == pytest.approx(expected_c, abs=1e-14)


def test_gru_is_what_the_equations_give_by_hand():
    w_ih, w_hh, b_ih, b_hh = _tensors(_weights(3))
    h = torch.tensor([[0.1, -0.2]], dtype=torch.float64)
    for x in INPUTS:
        h = gru_step(project(torch.tensor([[x]], dtype=torch.float64), w_ih, b_ih), h, w_hh, b_hh)
    assert h[0].tolist() == pytest.approx(_hand_gru(_weights(3)), abs=1e-14)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_rnn_is_what_the_equation_gives_by_hand(nonlinearity):
    w_ih, w_hh, b_ih, b_hh = _tensors(_weights(1))
    h = torch.tensor([[0.1, -0.2]], dtype=torch.float64)
    for x in INPUTS:
        x_gates = project(torch.tensor([[x]], dtype=torch.float64), w_ih, b_ih)
        h = rnn_step(x_gates, h, w_hh, b_hh, nonlinearity=nonlinearity)
    assert h[0].tolist() == pytest.approx(_hand_rnn(_weights(1), nonlinearity), abs=1e-14)


TORCH_CELLS = {
    ("lstm", "tanh"): torch.nn.LSTMCell(5, 4, dtype=torch.float64),
    ("gru", "tanh"): torch.nn.GRUCell(5, 4, dtype=torch.float64),
    ("rnn", "tanh"): torch.nn.RNNCell(5, 4, nonlinearity="tanh", dtype=torch.float64),
    ("rnn", "relu"): torch.nn.RNNCell(5, 4, nonlinearity="relu", dtype=torch.float64),
}


def _step(cell, nonlinearity, x, h, c, w_ih, w_hh, b_ih, b_hh, mask=None):
    x_gates = project(x, w_ih, b_ih)
    if cell == "lstm":
        return lstm_step(x_gates, h, c, w_hh, b_hh, mask)
    if cell == "gru":
        return (gru_step(x_gates, h, w_hh, b_hh, mask),)
    return (rnn_step(x_gates, h, w_hh, b_hh, mask, nonlinearity),)


@pytest.mark.parametrize(("cell", "nonlinearity"), TORCH_CELLS)
def test_cells_equal_torch_in_float64(cell, nonlinearity):
    generator = torch.Generator().manual_seed(5)
    module = TORCH_CELLS[cell, nonlinearity]
    x, h, c = (torch.randn(3, size, generator=generator, dtype=torch.float64) for size in (5, 4, 4))
    expected = module(x, (h, c)) if cell == "lstm" else (module(x, h),)
    weights = (module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)
    for ours, theirs in zip(_step(cell, nonlinearity, x, h, c, *weights), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_gradients_equal_finite_differences(cell, masked):
    generator = torch.Generator().manual_seed(8)
    rows = 2 * GATES[cell]
    shapes = [(3, 2), (3, 2), (3, 2), (rows, 2), (rows, 2), (rows,), (rows,)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    mask = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 2.0]], dtype=torch.float64) if masked else None
    used = [number for number in range(7) if cell == "lstm" or number != 2]

    def step(*given):
        arguments = list(tensors)
        for number, tensor in zip(used, given, strict=True):
            arguments[number] = tensor
        return _step(cell, "tanh", *arguments, mask=mask)

    assert torch.autograd.gradcheck(step, [tensors[number] for number in used])


def test_a_mask_hides_the_state_from_the_gates_but_not_from_what_the_gru_carries_over():
    w_ih, w_hh = torch.zeros(6, 1, dtype=torch.float64), torch.ones(6, 2, dtype=torch.float64)
    b_ih = torch.zeros(6, dtype=torch.float64)
    h = torch.tensor([[0.5, -0.25]], dtype=torch.float64)
    hidden = gru_step(project(torch.zeros(1, 1, dtype=torch.float64), w_ih, b_ih), h, w_hh, b_ih, torch.zeros_like(h))
    # All gates read 0: r = z = 1/2, n = 0, so h' = h / 2.
    assert hidden.tolist() == [[0.25, -0.125]]
