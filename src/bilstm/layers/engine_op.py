"""The native engine as torch operators: `bilstm::recurrent_forward` and `bilstm::recurrent_backward`.

One recurrent layer over a ragged batch, both directions, differentiable in the values (or the embedding), the weights
and the initial states. Tensors are handed over as raw pointers, nothing is copied. What the forward pass keeps for the
backward pass is an ordinary tensor (`saved`) over a buffer of the engine: it goes back when autograd drops it, whether
or not a backward pass ran. Imports torch, `engine`, `errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bilstm.engine.library import KERNELS, PRECISIONS, library, status
from bilstm.engine.report import choose_precision
from bilstm.errors import ShapeError, UsageError
from bilstm.layers import engine_call
from bilstm.layers.engine_call import DTYPES, GATES, Arguments, result_shapes, saved_size

__all__ = [
    "Precision",
    "RecurrentResult",
    "engine_can_run",
    "has_fast_kernel",
    "prefers_bfloat16",
    "recurrent_layer",
    "run_recurrent",
]

Precision = Literal["float32", "bfloat16", "float64"]
DirectionWeights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


class RecurrentResult(NamedTuple):
    """What one layer computed; parts that were not asked for are None.

    Parameters
    ----------
    outputs : Tensor of shape (total_steps, directions * hidden_size) or None
        State after every step.
    h_n : Tensor of shape (directions, batch, hidden_size)
        State of each direction after the last step that it read; h_0 for an empty sequence.
    c_n : Tensor of shape (directions, batch, hidden_size) or None
        The same of the cell state; LSTM only.
    max_values, mean_values : Tensor of shape (batch, directions * hidden_size) or None
        Largest and mean output over the steps; 0 for an empty sequence.
    """

    outputs: Tensor | None
    h_n: Tensor
    c_n: Tensor | None
    max_values: Tensor | None
    mean_values: Tensor | None


def engine_can_run(
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    cell: str = "lstm",
    nonlinearity: str = "tanh",
    precision: Precision = "float32",
) -> str | None:
    """Say why the engine cannot run a layer here, or None if it can.

    Parameters
    ----------
    dtype : torch.dtype
        Of values, weights and states: float32 for precisions "float32" and "bfloat16".
    device : torch.device or str
    cell : {"lstm", "gru", "rnn"}
    nonlinearity : {"tanh", "relu"}
        Of the cell "rnn".
    precision : {"float32", "bfloat16", "float64"}

    Returns
    -------
    str or None
        One line: the reason.
    """
    if torch.device(device).type != "cpu":
        return f"the engine runs on the CPU, not on {torch.device(device).type}."
    if precision not in DTYPES:
        return f"precision {precision!r} is unknown; allowed are {', '.join(map(repr, DTYPES))}."
    if dtype != DTYPES[precision]:
        return f"precision {precision!r} takes {DTYPES[precision]} tensors, not {dtype}."
    if _cell_name(cell, nonlinearity) not in GATES:
        return f"cell {cell!r} with nonlinearity {nonlinearity!r} is unknown."
    return _missing(precision)


@torch.compiler.assume_constant_result
def has_fast_kernel(precision: Precision) -> bool:
    """Whether a kernel made for this machine computes in that precision, not only the portable one."""
    return _found_kernel(precision)[1]


@torch.compiler.assume_constant_result
def prefers_bfloat16() -> bool:
    """Whether the engine multiplies bfloat16 numbers faster than float32 ones on this machine."""
    return _prefers_bfloat16()


@cache  # asked at every pass of a layer in bfloat16
def _prefers_bfloat16() -> bool:
    return status().available and choose_precision("auto") == "bfloat16"


@torch.compiler.assume_constant_result
def _missing(precision: str) -> str | None:
    return _found_kernel(precision)[0]


@cache
def _found_kernel(precision: str) -> tuple[str | None, bool]:
    """Return why no kernel runs (or None), and whether the one that does is made for this machine."""
    found = status()
    if not found.available:
        return f"{found.reason}.", False
    kernel = library().bilstm_choose_kernel(KERNELS["auto"], PRECISIONS[precision])
    if kernel < 0:
        return f"no kernel for {precision} runs on this machine.", False
    return None, kernel != KERNELS["portable"]


def recurrent_layer(
    values: Tensor,
    offsets: Tensor,
    cell: str,
    weights: Sequence[DirectionWeights],
    h_0: Tensor | None = None,
    c_0: Tensor | None = None,
    *,
    recurrent_mask: Tensor | None = None,
    nonlinearity: str = "tanh",
    precision: Precision = "float32",
    threads: int | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run one recurrent layer over a ragged batch with the engine.

    Parameters
    ----------
    values : Tensor of shape (total_steps, input_size), float32
    offsets : Tensor of shape (batch + 1,), int64, on the CPU
        Sequence `b` is `values[offsets[b]:offsets[b + 1]]`; empty sequences are allowed.
    cell : {"lstm", "gru", "rnn"}
    weights : sequence of (w_ih, w_hh, b_ih, b_hh), one for each direction
        As torch stores them: (gates * hidden_size, input_size), (gates * hidden_size, hidden_size), and both biases
        (gates * hidden_size,), or None for both. The second direction reads each sequence from its last step.
    h_0, c_0 : Tensor of shape (directions, batch, hidden_size), optional
        Initial states, zeros by default; c_0 for the LSTM only.
    recurrent_mask : Tensor of shape (directions, batch, hidden_size), optional
        Multiplies the state before every recurrent product (variational dropout, Gal and Ghahramani 2016); not
        differentiated.
    nonlinearity : {"tanh", "relu"}
        Of the cell "rnn".
    precision : {"float32", "bfloat16"}
        Of the products; tensors, sums and cell state are float32 with both. ("float64" with float64 tensors runs the
        portable kernel, for checks.)
    threads : int, optional
        None follows `torch.get_num_threads()`.

    Returns
    -------
    outputs : Tensor of shape (total_steps, directions * hidden_size)
    h_n : Tensor of shape (directions, batch, hidden_size)
    c_n : Tensor of the same shape, or None if the cell is not an LSTM

    Raises
    ------
    ShapeError
        If shapes, dtypes or offsets do not fit.
    UsageError
        If the engine cannot run this; `engine_can_run` says why beforehand.
    """
    result = run_recurrent(
        offsets,
        cell,
        weights,
        values=values,
        h_0=h_0,
        c_0=c_0,
        recurrent_mask=recurrent_mask,
        nonlinearity=nonlinearity,
        precision=precision,
        threads=threads,
    )
    assert result.outputs is not None
    return result.outputs, result.h_n, result.c_n


def run_recurrent(
    offsets: Tensor,
    cell: str,
    weights: Sequence[DirectionWeights],
    *,
    values: Tensor | None = None,
    token_ids: Tensor | None = None,
    embedding: Tensor | None = None,
    h_0: Tensor | None = None,
    c_0: Tensor | None = None,
    recurrent_mask: Tensor | None = None,
    outputs: bool = True,
    pooling: bool = False,
    nonlinearity: str = "tanh",
    precision: Precision = "float32",
    threads: int | None = None,
    kernel: str = "auto",
) -> RecurrentResult:
    """Run one recurrent layer with everything that the engine can fuse into it.

    Parameters are those of `recurrent_layer`, and

    token_ids, embedding : Tensor of shape (total_steps,), int64, and (vocabulary_size, input_size), optional
        In place of `values`: row `token_ids[n]` of the embedding is the input of step `n`, gathered inside.
    outputs : bool
        Whether the state after every step is wanted.
    pooling : bool
        Whether largest and mean output of each sequence are wanted; computed inside.
    kernel : str
        "auto", or the name of the kernel that must run ("portable", "avx2", "avx512", "amx", "neon").
    """
    flat = [tensor for direction in weights for tensor in direction if tensor is not None]
    if len(flat) not in (2 * len(weights), 4 * len(weights)) or len(weights) not in (1, 2):
        raise ShapeError("weights must hold 1 or 2 directions of (w_ih, w_hh, b_ih, b_hh), all biases None or none.")
    arguments = (
        values,
        offsets,
        token_ids,
        embedding,
        flat,
        len(weights),
        h_0,
        c_0,
        recurrent_mask,
        _cell_name(cell, nonlinearity),
        precision,
        kernel,
        threads or 0,  # asked again at every call, so that a compiled graph follows torch.set_num_threads
        outputs,
        pooling,
    )
    if _needs_dispatch(values, embedding, h_0, c_0, flat):
        parts = _forward_op(*arguments, _wants_gradient(values, embedding, h_0, c_0, *flat))
    else:
        parts = engine_call.forward(*arguments, False)
    out, h_n, c_n, max_values, _, mean_values, _ = parts
    return RecurrentResult(
        out if outputs else None,
        h_n,
        c_n if cell == "lstm" else None,
        max_values if pooling else None,
        mean_values if pooling else None,
    )


def _cell_name(cell: str, nonlinearity: str) -> str:
    return f"rnn_{nonlinearity}" if cell == "rnn" else cell


def _wants_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _needs_dispatch(values: Any, embedding: Any, h_0: Any, c_0: Any, weights: list[Tensor]) -> bool:
    """Whether torch must see the operator; plain inference skips the dispatcher (60 us of a batch-1 call)."""
    if torch.compiler.is_compiling() or _wants_gradient(values, embedding, h_0, c_0, *weights):
        return True
    inputs = values if values is not None else embedding
    plain = type(inputs) in (Tensor, torch.nn.Parameter) and not torch._C._len_torch_dispatch_stack()
    return not plain


# -- the operators ------------------------------------------------------------------------------------------------

_forward_op = torch.library.custom_op(
    "bilstm::recurrent_forward", engine_call.forward, mutates_args=(), device_types="cpu"
)
_backward_op = torch.library.custom_op(
    "bilstm::recurrent_backward", engine_call.backward, mutates_args=(), device_types="cpu"
)


@_forward_op.register_fake
def _forward_fake(*inputs: Any) -> tuple[Tensor, ...]:
    arguments, (outputs, pooling, save) = Arguments(*inputs[:13]), inputs[13:]
    new = arguments.inputs.new_empty
    results = [new(shape) for shape in result_shapes(arguments, outputs, pooling)]
    results[4] = new(results[4].shape, dtype=torch.int32)
    return (*results, new((saved_size(arguments) if save else 0,), dtype=torch.uint8))


@_backward_op.register_fake
def _backward_fake(*inputs: Any) -> list[Tensor]:
    arguments, needed = Arguments(*inputs[5:18]), inputs[20]
    sources = (arguments.values, arguments.embedding, arguments.h_0, arguments.c_0, *arguments.weights)
    new = arguments.inputs.new_empty
    return [
        new(source.shape) if need and source is not None else new((0,))
        for source, need in zip(sources, needed, strict=True)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    arguments = Arguments(*inputs[:13])
    ctx.set_materialize_grads(False)  # a gradient of zeros for every step would cost as much as a real one
    tensors = (arguments.values, arguments.offsets, arguments.token_ids, arguments.embedding)
    states = (arguments.h_0, arguments.c_0, arguments.recurrent_mask)
    ctx.save_for_backward(*tensors, *states, output[4], output[6], *arguments.weights)
    ctx.plain = (arguments.directions, *arguments[9:13])


def _autograd(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    values, offsets, token_ids, embedding, h_0, c_0, mask, max_steps, saved, *weights = ctx.saved_tensors
    directions, cell, precision, kernel, threads = ctx.plain
    d_outputs, d_h_n, d_c_n, d_max, _, d_mean, _ = gradients
    wants = ctx.needs_input_grad
    needed = [wants[0], wants[3], wants[6], wants[7], *wants[4]]
    d_values, d_embedding, d_h_0, d_c_0, *d_weights = _backward_op(
        d_outputs, d_h_n, d_c_n if cell == "lstm" else None, d_max, d_mean,
        values, offsets, token_ids, embedding, weights, directions, h_0, c_0, mask, cell, precision, kernel, threads,
        max_steps, saved, needed,
    )  # fmt: skip
    wanted = [gradient if need else None for gradient, need in zip(d_weights, needed[4:], strict=True)]
    return (
        d_values if needed[0] else None, None, None, d_embedding if needed[1] else None, wanted, None,
        d_h_0 if needed[2] else None, d_c_0 if needed[3] else None, *(None,) * 8,
    )  # fmt: skip


def _refuse_second_derivative(ctx: Any, *gradients: Any) -> Any:
    raise UsageError(
        "the engine has no second derivatives (create_graph=True).", hint="Use backend='torch' or 'reference' for them."
    )


_forward_op.register_autograd(_autograd, setup_context=_setup_context)
_backward_op.register_autograd(_refuse_second_derivative)
