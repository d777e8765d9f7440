"""Inputs and the float64 reference for the tests of the engine's torch operators."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bilstm.layers import cells

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
CELLS = tuple(GATES)


@dataclass
class Case:
    """One layer with everything that it reads."""

    cell: str
    offsets: Tensor
    values: Tensor
    weights: list[tuple[Tensor, ...]]
    h_0: Tensor | None
    c_0: Tensor | None
    mask: Tensor | None = None

    def leaves(self) -> list[Tensor]:
        """Every tensor that gets a gradient, in a fixed order."""
        states = [state for state in (self.h_0, self.c_0) if state is not None]
        return [self.values, *states, *(tensor for direction in self.weights for tensor in direction)]

    def to(self, dtype: torch.dtype) -> Case:
        """Return the same numbers as fresh leaves of another precision."""

        def fresh(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(dtype).requires_grad_()

        weights = [tuple(fresh(tensor) for tensor in direction) for direction in self.weights]
        mask = None if self.mask is None else self.mask.to(dtype)
        return replace(
            self, values=fresh(self.values), weights=weights, h_0=fresh(self.h_0), c_0=fresh(self.c_0), mask=mask
        )


def make_case(
    cell: str, lengths: list[int], input_size: int, hidden_size: int, *, directions: int = 2, states: bool = True,
    mask: bool = False, seed: int = 0,
) -> Case:  # fmt: skip
    """Draw a layer and a batch with these lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).float()

    gates = GATES[cell] * hidden_size
    weights = []
    for _ in range(directions):
        scale = hidden_size**-0.5
        shapes = ((gates, input_size), (gates, hidden_size), (gates,), (gates,))
        weights.append(tuple(scale * draw(*shape) for shape in shapes))
    shape = (directions, len(lengths), hidden_size)
    h_0 = draw(*shape) if states else None
    c_0 = draw(*shape) if states and cell == "lstm" else None
    keep = (torch.rand(shape, generator=generator) > 0.3).float() / 0.7 if mask else None
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Case(cell, offsets, draw(int(offsets[-1]), input_size), weights, h_0, c_0, keep)


def reference(case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a case one sequence, direction and step at a time with `layers.cells`, in the case's own precision."""
    outputs, h_last, c_last = [], [], []
    for direction, (w_ih, w_hh, b_ih, b_hh) in enumerate(case.weights):
        steps: dict[int, Tensor] = {}
        hs, cs = [], []
        for row in range(len(case.offsets) - 1):
            zeros = case.values.new_zeros(1, w_hh.shape[1])
            h = zeros if case.h_0 is None else case.h_0[direction, row][None]
            c = zeros if case.c_0 is None else case.c_0[direction, row][None]
            mask = None if case.mask is None else case.mask[direction, row][None]
            places = range(int(case.offsets[row]), int(case.offsets[row + 1]))
            for place in places if direction == 0 else reversed(places):
                x = cells.project(case.values[place][None], w_ih, b_ih)
                if case.cell == "lstm":
                    h, c = cells.lstm_step(x, h, c, w_hh, b_hh, mask)
                elif case.cell == "gru":
                    h = cells.gru_step(x, h, w_hh, b_hh, mask)
                else:
                    h = cells.rnn_step(x, h, w_hh, b_hh, mask, case.cell.removeprefix("rnn_"))
                steps[place] = h
            hs.append(h)
            cs.append(c)
        width = w_hh.shape[1]
        rows = [steps[place] for place in range(len(case.values))]
        outputs.append(torch.cat(rows) if rows else case.values.new_zeros(0, width))
        h_last.append(torch.cat(hs) if hs else case.values.new_zeros(0, width))
        c_last.append(torch.cat(cs) if cs else case.values.new_zeros(0, width))
    c_n = torch.stack(c_last) if case.cell == "lstm" else None
    return torch.cat(outputs, 1), torch.stack(h_last), c_n


def torch_module(case: Case) -> torch.nn.RNNBase:
    """Return torch's own layer with the weights of a case."""
    directions, (w_ih, w_hh) = len(case.weights), case.weights[0][:2]
    kinds = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    options = {"bidirectional": directions == 2}
    if case.cell.startswith("rnn"):
        options["nonlinearity"] = case.cell.removeprefix("rnn_")
    module = kinds.get(case.cell, torch.nn.RNN)(w_ih.shape[1], w_hh.shape[1], **options)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    with torch.no_grad():
        for suffix, direction in zip(("", "_reverse"), case.weights, strict=False):
            for name, tensor in zip(names, direction, strict=True):
                getattr(module, name + suffix).copy_(tensor)
    return module


def run_torch(case: Case) -> tuple[tuple[Tensor, Tensor, Tensor | None], list[Tensor]]:
    """Run torch's layer in float32, sequence by sequence; return results and the leaves, ordered as `Case.leaves`."""
    module = torch_module(case)
    outputs, hs, cs = [], [], []
    for row in range(len(case.offsets) - 1):
        steps = case.values[int(case.offsets[row]) : int(case.offsets[row + 1])]
        shape = (len(case.weights), case.weights[0][1].shape[1])
        h = case.h_0[:, row] if case.h_0 is not None else steps.new_zeros(shape)
        c = case.c_0[:, row] if case.c_0 is not None else steps.new_zeros(shape)
        if len(steps):
            output, state = module(steps, (h, c) if case.cell == "lstm" else h)
            outputs.append(output)
            h, c = state if case.cell == "lstm" else (state, c)
        hs.append(h)
        cs.append(c)
    leaves = [case.values, *(state for state in (case.h_0, case.c_0) if state is not None), *module.parameters()]
    c_n = torch.stack(cs, 1) if case.cell == "lstm" else None
    return (torch.cat(outputs), torch.stack(hs, 1), c_n), leaves


def weighted_sum(results: tuple[Tensor | None, ...], seed: int = 1) -> Tensor:
    """Sum of all results with random weights, so that every element has a gradient of its own."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for result in results:
        if result is not None:
            weights = torch.randn(result.shape, generator=generator, dtype=torch.float64)
            total = total + (result.double() * weights).sum()
    return total


def relative_errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """2-norm of the error of each tensor over the 2-norm of the exact one (over 1 if that is zero)."""
    errors = []
    for tensor, true in zip(found, exact, strict=True):
        scale = true.norm().item() or 1.0
        errors.append((tensor.double() - true).norm().item() / scale)
    return errors
