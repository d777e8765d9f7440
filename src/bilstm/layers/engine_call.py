"""One call of the native engine from torch tensors: checked, handed over as raw pointers, nothing copied.

What stands here knows nothing of autograd; `engine_op` makes torch operators of `forward` and `backward`. The buffer
that a forward pass keeps for its backward pass is lent by the engine and wrapped in a tensor, so it goes back when the
last reference to it does. Imports torch, `engine`, `errors`.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilstm.engine.library import CELLS, KERNELS, PRECISIONS, Call, Context, library
from bilstm.errors import ShapeError, UsageError

__all__ = ["DTYPES", "GATES", "Arguments", "backward", "forward", "result_shapes", "saved_size"]

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


class Arguments(NamedTuple):
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


def _expected_shapes(arguments: Arguments) -> list[tuple[str, Tensor | None, tuple[int, ...]]]:
    """Every real tensor with its name and the shape that it must have."""
    size, hidden, gates = arguments.inputs.shape[-1], arguments.hidden_size, GATES[arguments.cell]
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


def _check(arguments: Arguments) -> None:
    """Raise unless every tensor has the type, shape and device that the engine will read it with."""
    if arguments.cell not in GATES or arguments.precision not in DTYPES:
        raise UsageError(f"cell {arguments.cell!r} or precision {arguments.precision!r} is unknown to the engine.")
    if (arguments.values is None) == (arguments.token_ids is None or arguments.embedding is None):
        raise UsageError("a recurrent layer takes either values, or token_ids together with an embedding.")
    if arguments.c_0 is not None and arguments.cell != "lstm":
        raise UsageError("c_0 is a state of the LSTM only.")
    for name, tensor in (("offsets", arguments.offsets), ("token_ids", arguments.token_ids)):
        if tensor is not None and (tensor.dim() != 1 or tensor.dtype != torch.int64 or tensor.device.type != "cpu"):
            raise ShapeError(
                f"{name} must be int64 of one axis on the CPU, got {tensor.dtype} of shape {tuple(tensor.shape)} "
                f"on {tensor.device}."
            )
    if len(arguments.offsets) == 0:
        raise ShapeError("offsets must have shape (batch + 1,), got an empty tensor.")
    dtype = DTYPES[arguments.precision]
    for name, tensor, shape in _expected_shapes(arguments):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ShapeError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}.")
        if tensor.dtype != dtype or tensor.device.type != "cpu":
            raise ShapeError(f"{name} must be {dtype} on the CPU, got {tensor.dtype} on {tensor.device}.")


class _Handover:
    """A filled call together with the tensors whose memory it points to."""

    def __init__(self, arguments: Arguments):
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


def _borrowed_buffer(context: Context, size: int) -> Tensor:
    """Return a byte tensor over a buffer of the engine, which gets it back when the tensor's storage goes."""
    pointer = context.acquire(size)
    array = (ctypes.c_uint8 * size).from_address(pointer)
    weakref.finalize(array, library().bilstm_buffer_release, pointer).atexit = False
    return torch.frombuffer(array, dtype=torch.uint8)


# From here on the allocator fetches fresh pages from the system each time; touching them costs more than a pass
_LARGE_BYTES = 1 << 20


def _new_tensor(context: Context, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an uninitialized tensor; a large one lies in a buffer that the engine lends and uses again."""
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE_BYTES:
        return torch.empty(shape, dtype=dtype)
    return _borrowed_buffer(context, size).view(dtype).view(shape)


def result_shapes(arguments: Arguments, outputs: bool, pooling: bool) -> list[tuple[Any, ...]]:
    """Shapes of outputs, h_n, c_n, max_values, max_steps and mean_values; (0,) for what is not wanted."""
    width = arguments.directions * arguments.hidden_size
    state = (arguments.directions, arguments.batch, arguments.hidden_size)
    pooled = (arguments.batch, width) if pooling else (0,)
    whole = (arguments.steps, width) if outputs else (0,)
    return [whole, state, state if arguments.cell == "lstm" else (0,), pooled, pooled, pooled]


def forward(
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
    """Run the layer; arguments as `Arguments`, then which results are wanted and whether to save for `backward`.

    Returns
    -------
    outputs, h_n, c_n, max_values, max_steps, mean_values : Tensor
        Empty, of shape (0,), where not wanted.
    saved : Tensor of shape (bytes,), uint8
        What `backward` needs; opaque.
    """
    arguments = Arguments(
        values, offsets, token_ids, embedding, weights, directions, h_0, c_0, recurrent_mask, cell, precision, kernel,
        threads,
    )  # fmt: skip
    handover = _Handover(arguments)
    call, dtype = handover.call, DTYPES[precision]
    shapes = result_shapes(arguments, outputs, pooling)
    dtypes = (dtype, dtype, dtype, dtype, torch.int32, dtype)
    results = [_new_tensor(handover.context, *kind) for kind in zip(shapes, dtypes, strict=True)]
    wanted = (outputs, True, cell == "lstm", pooling, pooling, pooling)
    names = ("outputs", "h_n", "c_n", "max_values", "max_steps", "mean_values")
    for name, result, is_wanted in zip(names, results, wanted, strict=True):
        if is_wanted:
            setattr(call, name, handover.pointer(result))
    saved = torch.empty(0, dtype=torch.uint8)
    if save:
        size = _saved_bytes(call)
        if size:
            saved = _borrowed_buffer(handover.context, size)
        call.saved = saved.data_ptr() or ctypes.addressof(_NOTHING)
        call.saved_bytes = size
    handover.context.forward(call)
    first, h_n, c_n, max_values, max_steps, mean_values = results
    return first, h_n, c_n, max_values, max_steps, mean_values, saved


def backward(
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
    """Run the layer backwards from the gradients of its results, those left out being zero.

    Parameters
    ----------
    d_outputs, d_h_n, d_c_n, d_max, d_mean : Tensor, optional
        Gradients of the results of `forward`, of their shapes.
    max_steps, saved : Tensor
        As `forward` gave them.
    needed : list of bool
        Whether the gradient of each is needed: values, embedding, h_0, c_0, then every weight.

    Returns
    -------
    list of Tensor
        In the order of `needed`; empty, of shape (0,), where not needed.
    """
    arguments = Arguments(
        values, offsets, token_ids, embedding, weights, directions, h_0, c_0, recurrent_mask, cell, precision, kernel,
        threads,
    )  # fmt: skip
    handover = _Handover(arguments)
    call = handover.call
    call.saved = saved.data_ptr() or ctypes.addressof(_NOTHING)
    call.saved_bytes = saved.numel()
    dtype = DTYPES[precision]
    shapes = result_shapes(arguments, True, True)
    given = {"d_outputs": d_outputs, "d_h_n": d_h_n, "d_c_n": d_c_n, "d_max": d_max, "d_mean": d_mean}
    for name, gradient, shape in zip(given, given.values(), (*shapes[:4], shapes[5]), strict=True):
        if gradient is None or gradient.numel() == 0:  # of a result that was not wanted, or has no elements
            continue
        if gradient.shape != shape:
            raise ShapeError(f"{name} must have shape {shape}, got {tuple(gradient.shape)}.")
        setattr(call, name, handover.pointer(gradient.to(dtype)))
    if call.d_max:
        call.max_steps = handover.pointer(max_steps)
    sources = (values, embedding, h_0, c_0, *weights)
    gradients = [
        _new_tensor(handover.context, tuple(source.shape) if need and source is not None else (0,), dtype)
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


def saved_size(arguments: Arguments) -> Any:
    """Bytes that forward keeps, for sizes that may be symbols: the engine's formula is linear in steps and batch."""
    constant, per_sequence, per_step = _saved_bytes_formula(
        arguments.cell, arguments.precision, arguments.kernel, arguments.directions, int(arguments.hidden_size)
    )
    return constant + per_sequence * arguments.batch + per_step * arguments.steps
