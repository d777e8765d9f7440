"""Recurrent layers on a GPU: one cuDNN call per layer over the whole `Ragged` batch, both directions, no padding.

cuDNN reads a batch step by step, the longest sequences first ("packed"); the values of a `Ragged` are brought into that
order and back by one index each way. Under `torch.autocast` the product runs in autocast's dtype, what goes in and
comes out stays float32. Imports torch, `padding` and the types of `recurrent_backends`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import _VF, Tensor

from bilstm.layers.padding import LiveOrder, live_order

if TYPE_CHECKING:
    from bilstm.layers.recurrent_backends import LayerCall

__all__ = ["plan_packed", "run_packed_layer"]


def run_packed_layer(call: LayerCall) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Run a layer without masks; sequences without steps keep their initial state.

    Parameters
    ----------
    call : LayerCall
        Without masks, embedding and pooling.

    Returns
    -------
    outputs : list of Tensor of shape (total_steps, hidden_size), one per direction
    h_n, c_n : Tensor of shape (directions, batch, hidden_size)
        c_n is None unless the cell is "lstm" and its state was asked for.
    """
    hidden_size = call.h_0.shape[2]
    needs_cell_state = call.cell == "lstm" and call.needs_cell_state
    plan = plan_packed(call.offsets.tobytes(), call.values.device)
    if not plan.counts:
        empty = [call.values.new_zeros(0, hidden_size) for _ in call.weights]
        return empty, call.h_0, call.c_0 if needs_cell_state else None
    read = plan.rows[: plan.counts[0]]  # rows with steps, the longest first
    given = (call.values.index_select(0, plan.order), call.h_0.index_select(1, read), call.c_0.index_select(1, read))
    outputs, h_last, c_last = _fused(call, *given, torch.tensor(plan.counts))
    outputs = outputs.index_select(0, plan.places)
    return (
        list(outputs.split(hidden_size, dim=1)),
        call.h_0.index_copy(1, read, h_last),
        call.c_0.index_copy(1, read, c_last) if needs_cell_state else None,
    )


@lru_cache(maxsize=8)  # the clean and the changed pass of a batch share their plan
def plan_packed(offsets: bytes, device: torch.device) -> LiveOrder:
    """Bring int64 offsets, given as bytes, into the order of packed sequences; may be called ahead of its use."""
    return live_order(np.frombuffer(offsets, dtype=np.int64), backward=False, device=device)


def _fused(call: LayerCall, packed: Tensor, h_0: Tensor, c_0: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Call torch's kernel on packed values; float32 (or the values' own dtype) comes back."""
    device, own = packed.device.type, packed.dtype
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else own
    flat = [w.to(dtype) for cell in call.weights for w in (cell.w_ih, cell.w_hh, cell.b_ih, cell.b_hh)]
    # bias, layers, dropout, train (cuDNN saves what the backward pass needs only then), both ways
    settings: tuple[Any, ...] = (True, 1, 0.0, torch.is_grad_enabled(), len(call.weights) == 2)
    packed, h_0, c_0 = packed.to(dtype), h_0.to(dtype).contiguous(), c_0.to(dtype).contiguous()
    with torch.autocast(device, enabled=False):
        if call.cell == "lstm":
            outputs, h_last, c_last = _VF.lstm(packed, counts, (h_0, c_0), flat, *settings)
        else:
            kernel = _VF.gru if call.cell == "gru" else _VF.rnn_relu if call.nonlinearity == "relu" else _VF.rnn_tanh
            outputs, h_last = kernel(packed, counts, h_0, flat, *settings)
            c_last = c_0
    return outputs.to(own), h_last.to(own), c_last.to(own)
