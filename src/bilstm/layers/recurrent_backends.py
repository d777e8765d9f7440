"""Ways to run one recurrent layer over a `Ragged` batch, and the table that chooses between them.

Every function here takes the same arguments and gives the same results up to rounding:

`run_reference`
    Steps of `cells.py` in a loop; obvious, slow, any dtype.
`run_torch`
    Torch's fused kernels, one call per direction and length group. The backward direction is the same kernel over
    sequences read from their own last step back; packed sequences, 100 times slower on a CPU, are used on a GPU alone
    (`packed.py`). With a mask on the recurrent state, which torch's kernels do not know, it is the loop of
    `run_reference`.
`run_engine`
    The native engine.

Imports torch, `cells`, `engine_op` and `padding`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import _VF, Tensor

from bilstm import description
from bilstm.errors import UsageError
from bilstm.layers import cells
from bilstm.layers.engine_op import Precision, engine_can_run, has_fast_kernel, run_recurrent
from bilstm.layers.packed import run_packed_layer
from bilstm.layers.padding import PaddedGroup, live_order, padded_groups

__all__ = ["BACKENDS", "Backend", "CellWeights", "LayerCall", "LayerResult", "choose_backend"]

Backend = Literal["auto", "engine", "torch", "reference"]

# Far inside the flat ends of the sigmoid, also in float32 and with large weights beside it.
_SATURATED = 1e4


@dataclass(frozen=True)
class CellWeights:
    """Weights of one layer in one direction, stacked by gate as torch stacks them."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor
    b_hh: Tensor


@dataclass(frozen=True)
class LayerCall:
    """Everything one recurrent layer needs; `directions` is 1 or 2, the second reads backwards.

    Parameters
    ----------
    values : Tensor of shape (total_steps, input_size)
        Or, with an embedding, token ids (total_steps,).
    offsets : ndarray of shape (batch + 1,), int64
    cell : {"lstm", "gru", "rnn"}
    nonlinearity : {"tanh", "relu"}
        Of the cell "rnn".
    weights : list of CellWeights, one per direction
    h_0, c_0 : Tensor of shape (directions, batch, hidden_size)
        `c_0` is only read by the LSTM.
    masks : Tensor of shape (directions, batch, hidden_size) or None
        Scaled dropout mask on the state that enters the gates.
    needs_cell_state : bool
        False allows a backend to leave the last cell state out.
    precision : {"float32", "bfloat16"}
        Of the products inside the engine.
    threads : int or None
    groups : tuple of PaddedGroup
        Plan for `run_torch`, computed once per batch; empty for the others.
    embedding : Tensor of shape (vocabulary_size, input_size) or None
        Rows to gather inside; for `run_engine` only.
    outputs : bool
        False allows `run_engine` to leave the outputs out.
    pools : bool
        Give the largest and mean output of each sequence; for `run_engine` only.
    """

    values: Tensor
    offsets: np.ndarray
    cell: str
    nonlinearity: str
    weights: list[CellWeights]
    h_0: Tensor
    c_0: Tensor
    masks: Tensor | None
    needs_cell_state: bool
    precision: Precision
    threads: int | None
    groups: tuple[PaddedGroup, ...] = ()
    embedding: Tensor | None = None
    outputs: bool = True
    pools: bool = False


@dataclass(frozen=True)
class LayerResult:
    """What a layer gives.

    Parameters
    ----------
    outputs : list of Tensor of shape (total_steps, hidden_size), one per direction
        Empty if they were not asked for, or are given as `joined_outputs`.
    h_n, c_n : Tensor of shape (directions, batch, hidden_size)
    max_values, mean_values : Tensor of shape (batch, directions * hidden_size) or None
    joined_outputs : Tensor of shape (total_steps, directions * hidden_size) or None
        Outputs of all directions side by side, from a backend that writes them so.
    """

    outputs: list[Tensor]
    h_n: Tensor
    c_n: Tensor | None
    max_values: Tensor | None = None
    mean_values: Tensor | None = None
    joined_outputs: Tensor | None = None


def run_reference(call: LayerCall) -> LayerResult:
    """Run the layer as a loop over steps with the functions of `cells.py`."""
    runs = [_run_steps(call, direction) for direction in range(len(call.weights))]
    has_cell_state = call.cell == "lstm"
    return LayerResult(
        [outputs for outputs, _, _ in runs],
        torch.stack([h for _, h, _ in runs]),
        torch.stack([c for _, _, c in runs]) if has_cell_state else None,
    )


def _run_steps(call: LayerCall, direction: int) -> tuple[Tensor, Tensor, Tensor]:
    """Advance all sequences that still have steps together; a sequence that ends keeps its state."""
    weights = call.weights[direction]
    plan = live_order(call.offsets, backward=direction == 1, device=call.values.device)
    x_gates = cells.project(call.values, weights.w_ih, weights.b_ih).index_select(0, plan.order)
    h = call.h_0[direction].index_select(0, plan.rows)
    c = call.c_0[direction].index_select(0, plan.rows)
    mask = None if call.masks is None else call.masks[direction].index_select(0, plan.rows)
    outputs, ended_h, ended_c = [], [], []
    for x_step in x_gates.split(plan.counts):
        alive = len(x_step)
        if alive < len(h):
            ended_h.append(h[alive:])
            ended_c.append(c[alive:])
            h, c, mask = h[:alive], c[:alive], None if mask is None else mask[:alive]
        if call.cell == "lstm":
            h, c = cells.lstm_step(x_step, h, c, weights.w_hh, weights.b_hh, mask)
        elif call.cell == "gru":
            h = cells.gru_step(x_step, h, weights.w_hh, weights.b_hh, mask)
        else:
            h = cells.rnn_step(x_step, h, weights.w_hh, weights.b_hh, mask, call.nonlinearity)
        outputs.append(h)
    steps = torch.cat(outputs) if outputs else call.values.new_zeros(0, call.h_0.shape[-1])
    h_n = torch.cat([h, *reversed(ended_h)]).index_select(0, plan.row_places)
    c_n = torch.cat([c, *reversed(ended_c)]).index_select(0, plan.row_places)
    return steps.index_select(0, plan.places), h_n, c_n


def run_torch(call: LayerCall) -> LayerResult:
    """Run the layer with torch's fused kernels, padded to the longest sequence of each length group."""
    if call.masks is not None:
        return run_reference(call)
    if call.values.is_cuda:
        return LayerResult(*run_packed_layer(call))
    outputs, h_n, c_n = [], [], []
    for direction in range(len(call.weights)):
        direction_outputs, h, c = _run_fused_groups(call, direction)
        outputs.append(direction_outputs)
        h_n.append(h)
        c_n.append(c)
    has_cell_state = call.cell == "lstm" and call.needs_cell_state
    return LayerResult(outputs, torch.stack(h_n), torch.stack(c_n) if has_cell_state else None)


def _run_fused_groups(call: LayerCall, direction: int) -> tuple[Tensor, Tensor, Tensor]:
    h_n, c_n = call.h_0[direction], call.c_0[direction]
    if not call.groups:  # no sequence has a step
        return call.values.new_zeros(0, h_n.shape[-1]), h_n, c_n
    group_outputs = []
    for group in call.groups:
        cell_of_step = group.backward if direction else group.forward
        values = call.values if len(call.groups) == 1 else call.values.index_select(0, group.steps)
        h_0, c_0 = h_n.index_select(0, group.rows), c_n.index_select(0, group.rows)
        padded, last_c = _run_fused(call, direction, group, group.pad(values, cell_of_step), (h_0, c_0))
        padded = padded.flatten(0, 1)  # (longest * group, hidden)
        group_outputs.append(padded.index_select(0, cell_of_step))
        h_n = h_n.index_copy(0, group.rows, padded.index_select(0, group.last_cells))
        c_n = c_n.index_copy(0, group.rows, last_c)
    if len(group_outputs) == 1:
        return group_outputs[0], h_n, c_n
    steps = torch.cat([group.steps for group in call.groups])
    return torch.cat(group_outputs).index_select(0, torch.argsort(steps)), h_n, c_n


def _run_fused(
    call: LayerCall, direction: int, group: PaddedGroup, padded: Tensor, state: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Call torch's kernel for one layer and direction: (longest, group, input) -> outputs and last cell state."""
    weights = call.weights[direction]
    w_ih, (h_0, c_0) = weights.w_ih, state
    if call.cell == "lstm" and call.needs_cell_state:
        padded, w_ih = _hold_cell_state(padded, w_ih, group)
    # cuDNN saves what the backward pass needs only in training mode; on the CPU the flag has no effect here.
    settings = (
        True,
        1,
        0.0,
        torch.is_grad_enabled(),
        False,
        False,
    )  # bias, layers, dropout, train, both ways, b. first
    flat = [w_ih, weights.w_hh, weights.b_ih, weights.b_hh]
    if call.cell == "lstm":
        outputs, _, last_c = _VF.lstm(padded, (h_0[None], c_0[None]), flat, *settings)
        return outputs, last_c[0]
    if call.cell == "gru":
        return _VF.gru(padded, h_0[None], flat, *settings)[0], c_0
    kernel = _VF.rnn_relu if call.nonlinearity == "relu" else _VF.rnn_tanh
    return kernel(padded, h_0[None], flat, *settings)[0], c_0


def _hold_cell_state(padded: Tensor, w_ih: Tensor, group: PaddedGroup) -> tuple[Tensor, Tensor]:
    """Add an input that is 1 on padding only and shuts the input gate and opens the forget gate there.

    Torch's kernel gives the cell state of the last padded step alone. With f = 1 and i = 0 on padding that is exactly
    the cell state of the sequence's own last step. On real steps the input is 0 and adds nothing.
    """
    is_padding = padded.new_ones(padded.shape[0] * padded.shape[1], 1)
    is_padding = is_padding.index_fill(0, group.forward, 0.0).view(*padded.shape[:2], 1)
    hidden_size = w_ih.shape[0] // cells.GATES["lstm"]
    per_gate = w_ih.new_tensor([-_SATURATED, _SATURATED, 0.0, 0.0])  # i, f, g, o
    column = per_gate.repeat_interleave(hidden_size)[:, None]
    return torch.cat([padded, is_padding], dim=2), torch.cat([w_ih, column], dim=1)


def run_engine(call: LayerCall) -> LayerResult:
    """Run the layer in the native engine."""
    has_ids = call.embedding is not None
    result = run_recurrent(
        torch.from_numpy(call.offsets),
        call.cell,
        [(w.w_ih, w.w_hh, w.b_ih, w.b_hh) for w in call.weights],
        values=None if has_ids else call.values,
        token_ids=call.values if has_ids else None,
        embedding=call.embedding,
        h_0=call.h_0,
        c_0=call.c_0 if call.cell == "lstm" else None,
        recurrent_mask=call.masks,
        outputs=call.outputs,
        pooling=call.pools,
        nonlinearity=call.nonlinearity,
        precision=call.precision,
        threads=call.threads,
    )
    return LayerResult([], result.h_n, result.c_n, result.max_values, result.mean_values, result.outputs)


BACKENDS: dict[str, Callable[[LayerCall], LayerResult]] = {
    "engine": run_engine,
    "torch": run_torch,
    "reference": run_reference,
}


def choose_backend(
    requested: str, values: Tensor, layer: description.Recurrent, precision: Precision = "float32"
) -> str:
    """Return the backend that runs a batch.

    What "auto" runs, first line that fits:

    ========= ====== ========= ====================================== =======
    precision device dtype     engine                                 backend
    ========= ====== ========= ====================================== =======
    bfloat16  CPU    float32   there                                  engine
    bfloat16  else                                                    error
    float32   CPU    float32   there, with a kernel for this machine  engine
    float32   CPU    float32   missing, or its portable kernel alone  torch
    float32   else                                                    torch
    ========= ====== ========= ====================================== =======

    Parameters
    ----------
    requested : {"auto", "engine", "torch", "reference"}
    values : Tensor
        Of the batch or of an embedding; gives dtype and device.
    layer : description.Recurrent
    precision : {"float32", "bfloat16"}

    Raises
    ------
    UsageError
        If the one that is asked for is unknown or cannot run; nothing else runs in its place.
    """
    if requested not in ("auto", *BACKENDS):
        raise UsageError(f"backend {requested!r} is unknown; allowed are auto, {', '.join(BACKENDS)}.")
    if precision not in ("float32", "bfloat16"):
        raise UsageError(f"precision {precision!r} is unknown; allowed are float32, bfloat16.")
    refusal = None
    if requested in ("auto", "engine"):
        refusal = engine_can_run(
            values.dtype, values.device, cell=layer.cell, nonlinearity=layer.nonlinearity, precision=precision
        )
    if requested == "engine" and refusal is not None:
        raise UsageError(f"backend 'engine' cannot run: {refusal}", "Use backend 'auto' or 'torch'.")
    if precision == "bfloat16" and requested != "engine":
        if requested == "auto" and refusal is None:
            return "engine"
        why = refusal or f"backend {requested!r} does not offer it."
        raise UsageError(f"precision 'bfloat16' needs the engine: {why}", "Use precision 'float32'.")
    if requested != "auto":
        return requested
    return "engine" if refusal is None and has_fast_kernel(precision) else "torch"


def plan_groups(chosen: str, offsets: np.ndarray, values: Tensor, masked: bool) -> tuple[PaddedGroup, ...]:
    """Plan the padded groups if the chosen backend will need them."""
    if chosen != "torch" or masked or values.is_cuda:
        return ()
    return tuple(padded_groups(offsets, values.device))


def gather_weights(parameters: Any, suffix: str) -> CellWeights:
    """Collect the four weights whose names end in `suffix`, such as `l0_reverse`."""
    return CellWeights(
        *(getattr(parameters, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    )
