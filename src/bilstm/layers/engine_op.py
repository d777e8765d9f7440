"""The native engine as torch operators: `bilstm::recurrent_forward` and `bilstm::recurrent_backward`.

One recurrent layer over a ragged batch, both directions, differentiable in the values (or the embedding), the weights
and the initial states. Tensors are handed over as raw pointers, nothing is copied. What the forward pass keeps for the
backward pass is an ordinary tensor (`saved`) over a buffer of the engine: it goes back when autograd drops it, whether
or not a backward pass ran. Imports torch, `engine`, `errors`.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bilstm.engine.library import CELLS, KERNELS, PRECISIONS, Call, Context, library, status
from bilstm.errors import ShapeError, UsageError

__all__ = ["Precision", "RecurrentResult", "engine_can_run", "has_fast_kernel", "recurrent_layer", "run_recurrent"]

Precision = Literal["float32", "bfloat16", "float64"]
DirectionWeights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


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
    if precision not in _DTYPES:
        return f"precision {precision!r} is unknown; allowed are {', '.join(map(repr, _DTYPES))}."
    if dtype != _DTYPES[precision]:
        return f"precision {precision!r} takes {_DTYPES[precision]} tensors, not {dtype}."
    if _cell_name(cell, nonlinearity) not in _GATES:
        return f"cell {cell!r} with nonlinearity {nonlinearity!r} is unknown."
    return _missing(precision)


@cache
def has_fast_kernel(precision: Precision) -> bool:
    """Whether a kernel made for this machine computes in that precision, not only the portable one."""
    if _missing(precision) is not None:
        return False
    return library().bilstm_choose_kernel(KERNELS["auto"], PRECISIONS[precision]) != KERNELS["portable"]


@cache
def _missing(precision: str) -> str | None:
    found = status()
    if not found.available:
        return f"{found.reason}."
    if library().bilstm_choose_kernel(KERNELS["auto"], PRECISIONS[precision]) < 0:
        return f"no kernel for {precision} runs on this machine."
    return None


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
        parts = _forward(*arguments, False)
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


# -- handing tensors over -----------------------------------------------------------------------------------------


class _Arguments(NamedTuple):
    """What forward and backward share, in the order of the operators' arguments."""

    values: Tensor | None
    offsets: Tensor
    token_ids: Tensor | None
    embedding: Tensor | None
    weights: list[Tensor]
    directions: int
    h_0: Tensor | None
    c_0: Tensor | None
    recurrent_mask: Tensor | None
    cell: str
    precision: str
    kernel: str
    threads: int

    @property
    def inputs(self) -> Tensor:
        """Values, or the embedding that stands for them."""
        source = self.values if self.values is not None else self.embedding
        assert source is not None
        return source

    @property
    def steps(self) -> Any:
        """Steps of all sequences (a symbol while tracing)."""
        source = self.values if self.values is not None else self.token_ids
        assert source is not None
        return source.shape[0]

    @property
    def batch(self) -> Any:
        """Sequences of the batch (a symbol while tracing)."""
        return self.offsets.shape[0] - 1

    @property
    def hidden_size(self) -> int:
        """Units of one direction."""
        return self.weights[1].shape[1]

    def direction_weights(self, direction: int) -> list[Tensor]:
        """Weights of one direction, in the engine's order; 2 or 4 of them."""
        count = len(self.weights) // self.directions
        return self.weights[direction * count : (direction + 1) * count]


_WEIGHT_FIELDS = ("w_ih", "w_hh", "b_ih", "b_hh")


def _expected_shapes(arguments: _Arguments) -> list[tuple[str, Tensor | None, tuple[int, ...]]]:
    """Every real tensor with its name and the shape that it must have."""
    size, hidden, gates = arguments.inputs.shape[-1], arguments.hidden_size, _GATES[arguments.cell]
    state = (arguments.directions, arguments.batch, hidden)
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("values", arguments.values, (arguments.steps, size)),
        ("embedding", arguments.embedding, (*arguments.inputs.shape[:1], size)),
        ("h_0", arguments.h_0, state),
        ("c_0", arguments.c_0, state),
        ("recurrent_mask", arguments.recurrent_mask, state),
    ]
    shapes = ((gates * hidden, size), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,))
    for direction in range(arguments.directions):
        mine = arguments.direction_weights(direction)
        expected += [
            (f"{name} of direction {direction}", tensor, shape)
            for name, tensor, shape in zip(_WEIGHT_FIELDS, mine, shapes, strict=False)
        ]
    return expected


def _check(arguments: _Arguments) -> None:
    """Raise unless every tensor has the type, shape and device that the engine will read it with."""
    if arguments.cell not in _GATES or arguments.precision not in _DTYPES:
        raise UsageError(f"cell {arguments.cell!r} or precision {arguments.precision!r} is unknown to the engine.")
    if (arguments.values is None) == (arguments.token_ids is None or arguments.embedding is None):
        raise UsageError("a recurrent layer takes either values, or token_ids together with an embedding.")
    if arguments.c_0 is not None and arguments.cell != "lstm":
        raise UsageError("c_0 is a state of the LSTM only.")
    dtype = _DTYPES[arguments.precision]
    for name, tensor, shape in _expected_shapes(arguments):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ShapeError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}.")
        if tensor.dtype != dtype or tensor.device.type != "cpu":
            raise ShapeError(f"{name} must be {dtype} on the CPU, got {tensor.dtype} on {tensor.device}.")
    for name, tensor in (("offsets", arguments.offsets), ("token_ids", arguments.token_ids)):
        if tensor is not None and (tensor.dim() != 1 or tensor.dtype != torch.int64 or tensor.device.type != "cpu"):
            raise ShapeError(
                f"{name} must be int64 of one axis on the CPU, got {tensor.dtype} of shape {tuple(tensor.shape)} "
                f"on {tensor.device}."
            )
    if len(arguments.offsets) == 0:
        raise ShapeError("offsets must have shape (batch + 1,), got an empty tensor.")


class _Handover:
    """A filled call together with the tensors whose memory it points to."""

    def __init__(self, arguments: _Arguments):
        _check(arguments)
        self.kept: list[Tensor] = []
        self.call = call = Call()
        call.cell = CELLS[arguments.cell]
        call.precision = PRECISIONS[arguments.precision]
        call.kernel = KERNELS[arguments.kernel]
        call.directions = arguments.directions
        call.input_size = arguments.inputs.shape[-1]
        call.hidden_size = arguments.hidden_size
        call.batch = arguments.batch
        call.total_steps = arguments.steps
        call.offsets = self.pointer(arguments.offsets)
        call.values = self.pointer(arguments.values)
        if arguments.token_ids is not None:
            call.token_ids = self.pointer(arguments.token_ids)
            call.embedding = self.pointer(arguments.embedding)
            call.vocabulary_size = arguments.inputs.shape[0]
        for direction in range(arguments.directions):
            for name, tensor in zip(_WEIGHT_FIELDS, arguments.direction_weights(direction), strict=False):
                getattr(call, name)[direction] = self.pointer(tensor)
        call.h_0 = self.pointer(arguments.h_0)
        call.c_0 = self.pointer(arguments.c_0)
        call.recurrent_mask = self.pointer(arguments.recurrent_mask)
        self.context = _context(arguments.threads or torch.get_num_threads())

    def pointer(self, tensor: Tensor | None) -> int | None:
        """Return the address of a dense tensor and keep it alive; None stays None."""
        if tensor is None:
            return None
        tensor = tensor.contiguous()
        self.kept.append(tensor)
        # torch gives empty tensors the address 0, which the engine reads as "not given"
        return tensor.data_ptr() or ctypes.addressof(_NOTHING)


_LOCAL = threading.local()  # calls on one context wait for each other, so every thread of Python has its own


def _context(threads: int) -> Context:
    """Return this thread's context, set to that many threads; it survives a fork."""
    context = getattr(_LOCAL, "context", None)
    if context is None:
        context = _LOCAL.context = Context(threads)
    elif context.threads != threads:
        context.threads = threads
    return context


def _saved_bytes(call: Call) -> int:
    size = library().bilstm_saved_bytes(ctypes.byref(call))
    if size < 0:
        raise UsageError(f"engine: {call.error.decode(errors='replace')}.")
    return size


_NOTHING = ctypes.c_double()  # what an empty tensor points to: valid, never read


def _borrowed_buffer(pointer: int, size: int) -> Tensor:
    """Return a byte tensor over a buffer of the engine, which gets it back when the tensor's storage goes."""
    array = (ctypes.c_uint8 * size).from_address(pointer)
    weakref.finalize(array, library().bilstm_buffer_release, pointer).atexit = False
    return torch.frombuffer(array, dtype=torch.uint8)


def _result_shapes(arguments: _Arguments, outputs: bool, pooling: bool) -> list[tuple[Any, ...]]:
    """Shapes of outputs, h_n, c_n, max_values, max_steps and mean_values; (0,) for what is not wanted."""
    width = arguments.directions * arguments.hidden_size
    state = (arguments.directions, arguments.batch, arguments.hidden_size)
    pooled = (arguments.batch, width) if pooling else (0,)
    whole = (arguments.steps, width) if outputs else (0,)
    return [whole, state, state if arguments.cell == "lstm" else (0,), pooled, pooled, pooled]


def _forward(
    values: Tensor | None,
    offsets: Tensor,
    token_ids: Tensor | None,
    embedding: Tensor | None,
    weights: list[Tensor],
    directions: int,
    h_0: Tensor | None,
    c_0: Tensor | None,
    recurrent_mask: Tensor | None,
    cell: str,
    precision: str,
    kernel: str,
    threads: int,
    outputs: bool,
    pooling: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    arguments = _Arguments(
        values, offsets, token_ids, embedding, weights, directions, h_0, c_0, recurrent_mask, cell, precision, kernel,
        threads,
    )  # fmt: skip
    handover = _Handover(arguments)
    call, dtype = handover.call, _DTYPES[precision]
    shapes = _result_shapes(arguments, outputs, pooling)
    results = [torch.empty(shape, dtype=dtype) for shape in shapes]
    results[4] = torch.empty(shapes[4], dtype=torch.int32)
    wanted = (outputs, True, cell == "lstm", pooling, pooling, pooling)
    names = ("outputs", "h_n", "c_n", "max_values", "max_steps", "mean_values")
    for name, result, is_wanted in zip(names, results, wanted, strict=True):
        if is_wanted:
            setattr(call, name, handover.pointer(result))
    saved = torch.empty(0, dtype=torch.uint8)
    if save:
        size = _saved_bytes(call)
        if size:
            saved = _borrowed_buffer(handover.context.acquire(size), size)
        call.saved = saved.data_ptr() or ctypes.addressof(_NOTHING)
        call.saved_bytes = size
    handover.context.forward(call)
    return (*results, saved)


def _backward(
    d_outputs: Tensor | None,
    d_h_n: Tensor | None,
    d_c_n: Tensor | None,
    d_max: Tensor | None,
    d_mean: Tensor | None,
    values: Tensor | None,
    offsets: Tensor,
    token_ids: Tensor | None,
    embedding: Tensor | None,
    weights: list[Tensor],
    directions: int,
    h_0: Tensor | None,
    c_0: Tensor | None,
    recurrent_mask: Tensor | None,
    cell: str,
    precision: str,
    kernel: str,
    threads: int,
    max_steps: Tensor,
    saved: Tensor,
    needed: list[bool],
) -> list[Tensor]:
    arguments = _Arguments(
        values, offsets, token_ids, embedding, weights, directions, h_0, c_0, recurrent_mask, cell, precision, kernel,
        threads,
    )  # fmt: skip
    handover = _Handover(arguments)
    call = handover.call
    call.saved = saved.data_ptr() or ctypes.addressof(_NOTHING)
    call.saved_bytes = saved.numel()
    dtype = _DTYPES[precision]
    given = {"d_outputs": d_outputs, "d_h_n": d_h_n, "d_c_n": d_c_n, "d_max": d_max, "d_mean": d_mean}
    for name, gradient in given.items():
        setattr(call, name, handover.pointer(None if gradient is None else gradient.to(dtype)))
    if d_max is not None:
        call.max_steps = handover.pointer(max_steps)
    sources = (values, embedding, h_0, c_0, *weights)
    gradients = [
        torch.empty(source.shape, dtype=dtype) if need and source is not None else torch.empty(0, dtype=dtype)
        for source, need in zip(sources, needed, strict=True)
    ]
    for name, gradient, need in zip(("d_values", "d_embedding", "d_h_0", "d_c_0"), gradients, needed, strict=False):
        if need:
            setattr(call, name, handover.pointer(gradient))
    per_direction = len(weights) // directions
    for index, (gradient, need) in enumerate(zip(gradients[4:], needed[4:], strict=True)):
        if need:
            direction, field = divmod(index, per_direction)
            getattr(call, f"d_{_WEIGHT_FIELDS[field]}")[direction] = handover.pointer(gradient)
    handover.context.backward(call)
    return gradients


# -- the operators ------------------------------------------------------------------------------------------------

_forward_op = torch.library.custom_op("bilstm::recurrent_forward", _forward, mutates_args=(), device_types="cpu")
_backward_op = torch.library.custom_op("bilstm::recurrent_backward", _backward, mutates_args=(), device_types="cpu")


@cache
def _saved_bytes_formula(cell: str, precision: str, kernel: str, directions: int, hidden: int) -> tuple[int, int, int]:
    """Return the constant and the bytes for each sequence and each step that `bilstm_saved_bytes` adds up."""

    def size(batch: int, steps: int) -> int:
        call = Call()
        call.cell, call.precision, call.kernel = CELLS[cell], PRECISIONS[precision], KERNELS[kernel]
        call.directions, call.input_size, call.hidden_size = directions, 1, hidden
        call.batch, call.total_steps = batch, steps
        return _saved_bytes(call)

    constant, one_sequence = size(0, 0), size(1, 0)
    return constant, one_sequence - constant, size(1, 1) - one_sequence


def _saved_size(arguments: _Arguments) -> Any:
    """Bytes that forward keeps, for sizes that may be symbols: the engine's formula is linear in steps and batch."""
    constant, per_sequence, per_step = _saved_bytes_formula(
        arguments.cell, arguments.precision, arguments.kernel, arguments.directions, int(arguments.hidden_size)
    )
    return constant + per_sequence * arguments.batch + per_step * arguments.steps


@_forward_op.register_fake
def _forward_fake(*inputs: Any) -> tuple[Tensor, ...]:
    arguments, (outputs, pooling, save) = _Arguments(*inputs[:13]), inputs[13:]
    new = arguments.inputs.new_empty
    results = [new(shape) for shape in _result_shapes(arguments, outputs, pooling)]
    results[4] = new(results[4].shape, dtype=torch.int32)
    return (*results, new((_saved_size(arguments) if save else 0,), dtype=torch.uint8))


@_backward_op.register_fake
def _backward_fake(*inputs: Any) -> list[Tensor]:
    arguments, needed = _Arguments(*inputs[5:18]), inputs[20]
    sources = (arguments.values, arguments.embedding, arguments.h_0, arguments.c_0, *arguments.weights)
    new = arguments.inputs.new_empty
    return [
        new(source.shape) if need and source is not None else new((0,))
        for source, need in zip(sources, needed, strict=True)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    arguments = _Arguments(*inputs[:13])
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
