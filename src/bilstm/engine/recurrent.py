"""Recurrent layers over numpy arrays, run by the native engine; no torch.

Place in the way of the data: `Ragged` values or token ids in, `Ragged` values and states out. Everything is checked
here, before the library is called; the library checks sizes, offsets and ids again. Weights have torch's shapes and
gate order (i, f, g, o; r, z, n).
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from bilstm.data.ragged import Ragged, check_offsets
from bilstm.engine.library import CELLS, KERNELS, PRECISIONS, Call, Context, check, library
from bilstm.engine.report import available_threads, choose_kernel, choose_precision
from bilstm.errors import ShapeError, UsageError

__all__ = [
    "DirectionWeights",
    "Gradients",
    "PackedWeights",
    "Result",
    "default_context",
    "gru",
    "lstm",
    "pack",
    "recurrent",
    "rnn",
]

CellName = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
Pool = Literal["max", "mean"]
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


class DirectionWeights(NamedTuple):
    """Weights of one direction; G gates (4 LSTM, 3 GRU, 1 RNN).

    `w_ih` (G * hidden_size, input_size), `w_hh` (G * hidden_size, hidden_size), both biases (G * hidden_size,) or None.
    """

    w_ih: np.ndarray
    w_hh: np.ndarray
    b_ih: np.ndarray | None = None
    b_hh: np.ndarray | None = None


@cache
def default_context() -> Context:
    """Return the context that functions use when none is given: one thread per available processor."""
    return Context(available_threads())


class PackedWeights:
    """Weights laid out for one kernel, made by `pack` once and used by any number of calls and threads."""

    def __init__(self, cell: str, precision: str, kernel: str, reverse: bool, call: Call, pointer: int):
        self.cell, self.precision, self.kernel, self.reverse = cell, precision, kernel, reverse
        self.directions, self.input_size, self.hidden_size = call.directions, call.input_size, call.hidden_size
        self.vocabulary_size = call.vocabulary_size if call.embedding else 0
        self.pointer = pointer
        self.nbytes: int = library().bilstm_weights_bytes(pointer)
        weakref.finalize(self, library().bilstm_weights_free, pointer)


@dataclass
class Result:
    """What a forward pass gives; a field not asked for is None.

    Parameters
    ----------
    outputs : ndarray of shape (total_steps, directions * hidden_size)
    h_n, c_n : ndarray of shape (directions, batch, hidden_size)
        States after the last step each direction read; the initial ones for an empty sequence.
    max_values, mean_values : ndarray of shape (batch, directions * hidden_size)
        Over the steps of each sequence; zero for an empty one.
    max_steps : ndarray of shape (batch, directions * hidden_size), int32
        Step of the maximum in its sequence, -1 for an empty one.
    """

    h_n: np.ndarray
    c_n: np.ndarray | None = None
    outputs: np.ndarray | None = None
    max_values: np.ndarray | None = None
    max_steps: np.ndarray | None = None
    mean_values: np.ndarray | None = None
    _pass: _Pass | None = None

    def gradients(
        self,
        *,
        d_outputs: np.ndarray | None = None,
        d_h_n: np.ndarray | None = None,
        d_c_n: np.ndarray | None = None,
        d_max: np.ndarray | None = None,
        d_mean: np.ndarray | None = None,
        embedding: Literal["dense", "unique"] | None = None,
        weights: bool = True,
    ) -> Gradients:
        """Run the backward pass; may be called more than once.

        Parameters
        ----------
        d_outputs, d_h_n, d_c_n, d_max, d_mean : ndarray, optional
            Gradient of the loss by each result, of that result's shape; missing ones count as zero.
        embedding : {"dense", "unique"}, optional
            With token input: also the gradient of the embedding, whole or for the tokens present only.
        weights : bool, default=True
            Give the gradient of the weights, which is half of the work; else `Gradients.weights` is empty.

        Raises
        ------
        UsageError
            If the forward pass did not save (`save=True`).
        ShapeError
            If a gradient has another shape or type than its result.
        """
        if self._pass is None:
            raise UsageError("This result keeps nothing for a backward pass.", "Call the layer with save=True.")
        given = {"d_outputs": d_outputs, "d_h_n": d_h_n, "d_c_n": d_c_n, "d_max": d_max, "d_mean": d_mean}
        return self._pass.backward(given, embedding, weights)


@dataclass
class Gradients:
    """What a backward pass gives: the gradient of every input, each of its shape.

    `values` has one row per step (of the gathered rows, with token input); `weights` one entry per direction, biases
    included even where none were given, or none at all if not asked for. `unique_ids` and `unique_rows` name the tokens
    present, ascending.
    """

    values: np.ndarray
    weights: list[DirectionWeights]
    h_0: np.ndarray
    c_0: np.ndarray | None
    embedding: np.ndarray | None = None
    unique_ids: np.ndarray | None = None
    unique_rows: np.ndarray | None = None


class _Buffer:
    """A `saved` buffer of a context, given back when nobody holds it any more."""

    def __init__(self, context: Context, nbytes: int):
        self.address = context.acquire(nbytes)
        weakref.finalize(self, context.release, self.address)


def _array(array: Any, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return `array` dense; raise ShapeError unless it has this dtype and shape."""
    array = np.asarray(array)
    if array.dtype != dtype or array.shape != shape:
        raise ShapeError(
            f"{name} must be {np.dtype(dtype)} of shape {shape}, got {array.dtype} of shape {array.shape}."
        )
    return np.ascontiguousarray(array)


class _Pass:
    """One call with the arrays it points into, kept alive as long as it is."""

    def __init__(self, cell: str, precision: str, kernel: str, reverse: bool, context: Context | None):
        if cell not in CELLS:
            raise UsageError(f"cell must be one of {', '.join(CELLS)}; got {cell!r}.")
        self.call = Call()
        self.context = context if context is not None else default_context()
        self.precision = choose_precision(precision)
        self.dtype = np.dtype(np.float64 if self.precision == "float64" else np.float32)
        self.kernel = choose_kernel(kernel, self.precision)
        self.cell, self.reverse = cell, reverse
        self.call.cell, self.call.precision = CELLS[cell], PRECISIONS[self.precision]
        self.call.kernel, self.call.reverse = KERNELS[kernel], int(reverse)  # "auto" trains with another one
        self.arrays: dict[str, Any] = {}
        self.lock = threading.Lock()

    def point(self, name: str, array: np.ndarray | None, direction: int | None = None) -> None:
        """Let a field of the call point to `array` and keep it alive."""
        # half the time of `array.ctypes.data`
        address = None if array is None else array.__array_interface__["data"][0]
        if direction is None:
            setattr(self.call, name, address)
            self.arrays[name] = array
        else:
            getattr(self.call, name)[direction] = address
            self.arrays[f"{name}[{direction}]"] = array

    def set_weights(self, weights: Sequence[DirectionWeights]) -> None:
        """Check and attach plain weights; sets the sizes."""
        if len(weights) not in (1, 2):
            raise ShapeError(f"weights must hold 1 or 2 directions, got {len(weights)}.")
        if self.reverse and len(weights) == 2:
            raise UsageError("reverse=True is for one direction; with two, the second one reads backwards.")
        rows, gates = np.shape(weights[0].w_hh), GATES[self.cell]
        if len(rows) != 2 or rows[1] < 1 or rows[0] != gates * rows[1]:
            raise ShapeError(f"w_hh of {self.cell} must have shape ({gates} * hidden, hidden), got {rows}.")
        columns = np.shape(weights[0].w_ih)
        if len(columns) != 2 or columns[1] < 1:
            raise ShapeError(f"w_ih must have shape ({gates} * hidden, input_size >= 1), got {columns}.")
        hidden, inputs = rows[1], columns[1]
        shapes = {"w_ih": (gates * hidden, inputs), "w_hh": rows, "b_ih": (gates * hidden,), "b_hh": (gates * hidden,)}
        for direction, one in enumerate(weights):
            for name, shape in shapes.items():
                array = getattr(one, name)
                if array is not None or name.startswith("w"):
                    self.point(name, _array(array, f"{name} of direction {direction}", self.dtype, shape), direction)
        self.call.directions, self.call.hidden_size, self.call.input_size = len(weights), hidden, inputs

    def set_packed(self, packed: PackedWeights) -> None:
        """Attach packed weights; they must have been made for this cell, precision and kernel."""
        wanted = (self.cell, self.precision, self.kernel, self.reverse)
        found = (packed.cell, packed.precision, packed.kernel, packed.reverse)
        if wanted != found:
            raise UsageError(
                f"Packed weights are for (cell, precision, kernel, reverse) {found}, the call is {wanted}."
            )
        self.call.packed = packed.pointer
        self.arrays["packed"] = packed
        self.call.directions, self.call.hidden_size = packed.directions, packed.hidden_size
        self.call.input_size = packed.input_size

    def set_embedding(self, embedding: Any) -> None:
        """Check and attach an embedding table."""
        size = self.call.input_size
        if np.ndim(embedding) != 2 or len(embedding) < 1:
            raise ShapeError(f"embedding must have shape (vocabulary >= 1, {size}), got {np.shape(embedding)}.")
        self.point("embedding", _array(embedding, "embedding", self.dtype, (len(embedding), size)))
        self.call.vocabulary_size = len(embedding)

    def set_input(self, batch: Ragged, embedding: Any) -> None:
        """Check and attach the batch: rows of features, or token ids."""
        values, offsets = np.asarray(batch.values), np.asarray(batch.offsets)
        is_one_sequence = offsets.dtype == np.int64 and offsets.shape == (2,)
        if not (is_one_sequence and offsets[0] == 0 and offsets[1] == len(values)):  # the whole check takes 8 us
            check_offsets(offsets, len(values))
        self.point("offsets", np.ascontiguousarray(offsets))
        self.call.batch, self.call.total_steps = len(offsets) - 1, len(values)
        packed = self.arrays.get("packed")
        vocabulary = packed.vocabulary_size if packed is not None else 0
        if embedding is not None:
            self.set_embedding(embedding)
            vocabulary = len(embedding)
        if values.ndim == 1 and values.dtype == np.int64:
            if vocabulary == 0:
                raise ShapeError("token ids need an embedding, or packed weights with a vocabulary table.")
            if len(values) and int(values.view(np.uint64).max()) >= vocabulary:  # a negative id is a very large one
                step = int(np.flatnonzero((values < 0) | (values >= vocabulary))[0])
                raise ShapeError(f"token ids must be 0 to {vocabulary - 1}; step {step} has {values[step]}.")
            self.call.vocabulary_size = vocabulary
            self.point("token_ids", np.ascontiguousarray(values))
            return
        if embedding is not None:
            raise ShapeError(
                f"with an embedding, values must be int64 token ids of shape (steps,), got {values.dtype}."
            )
        self.point("values", _array(values, "values", self.dtype, (len(values), self.call.input_size)))

    def state_shape(self) -> tuple[int, int, int]:
        """(directions, batch, hidden)."""
        return self.call.directions, self.call.batch, self.call.hidden_size

    def pooled_shape(self) -> tuple[int, int]:
        """(batch, directions * hidden)."""
        return self.call.batch, self.call.directions * self.call.hidden_size

    def set_states(self, h_0: Any, c_0: Any, recurrent_mask: Any) -> None:
        """Check and attach initial states and the recurrent mask."""
        if c_0 is not None and self.cell != "lstm":
            raise UsageError(f"c_0 exists for the LSTM only, not for {self.cell}.")
        for name, array in {"h_0": h_0, "c_0": c_0, "recurrent_mask": recurrent_mask}.items():
            if array is not None:
                self.point(name, _array(array, name, self.dtype, self.state_shape()))

    def result(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        """Make an array for a result and let the call write it."""
        self.point(name, np.empty(shape, self.dtype if dtype is None else dtype))
        return self.arrays[name]

    def forward(self, outputs: bool, pooling: Sequence[str], max_steps: bool, save: bool) -> Result:
        """Run the call."""
        if unknown := set(pooling) - {"max", "mean"}:
            raise UsageError(f"pooling may hold 'max' and 'mean', got {sorted(unknown)[0]!r}.")
        result = Result(h_n=self.result("h_n", self.state_shape()))
        if self.cell == "lstm":
            result.c_n = self.result("c_n", self.state_shape())
        if outputs:
            result.outputs = self.result("outputs", (self.call.total_steps, self.pooled_shape()[1]))
        if "max" in pooling:
            result.max_values = self.result("max_values", self.pooled_shape())
            if max_steps or save:
                result.max_steps = self.result("max_steps", self.pooled_shape(), np.int32)
        if "mean" in pooling:
            result.mean_values = self.result("mean_values", self.pooled_shape())
        if save:
            nbytes = library().bilstm_saved_bytes(ctypes.byref(self.call))
            buffer = _Buffer(self.context, nbytes)
            self.arrays["saved"] = buffer
            self.call.saved, self.call.saved_bytes = buffer.address, nbytes
            result._pass = self
        self.context.forward(self.call)
        return result

    def backward(self, given: dict[str, np.ndarray | None], embedding: str | None, weights: bool) -> Gradients:
        """Run the backward call for these gradients of the results."""
        shapes = {
            "d_outputs": (self.call.total_steps, self.pooled_shape()[1]),
            "d_h_n": self.state_shape(),
            "d_c_n": self.state_shape(),
            "d_max": self.pooled_shape(),
            "d_mean": self.pooled_shape(),
        }
        if given["d_c_n"] is not None and self.cell != "lstm":
            raise UsageError(f"d_c_n exists for the LSTM only, not for {self.cell}.")
        if given["d_max"] is not None and "max_steps" not in self.arrays:
            raise UsageError("d_max needs a forward pass with pooling 'max'.")
        if embedding is not None and "token_ids" not in self.arrays:
            raise UsageError("The gradient of an embedding needs token input.")
        with self.lock:
            for name, array in given.items():
                self.point(name, None if array is None else _array(array, name, self.dtype, shapes[name]))
            return self._backward(embedding, weights)

    def _weight_gradients(self, wanted: bool) -> list[DirectionWeights]:
        """Make the arrays that the call writes the gradients of the weights to."""
        rows, size = GATES[self.cell] * self.call.hidden_size, self.call.input_size
        shapes = {"d_w_ih": (rows, size), "d_w_hh": (rows, self.call.hidden_size), "d_b_ih": (rows,), "d_b_hh": (rows,)}
        found = []
        for direction in range(self.call.directions):
            arrays = {name: np.empty(shape, self.dtype) if wanted else None for name, shape in shapes.items()}
            for name, array in arrays.items():
                self.point(name, array, direction)
            if wanted:
                found.append(DirectionWeights(*arrays.values()))  # type: ignore[arg-type]
        return found

    def _backward(self, embedding: str | None, weights: bool) -> Gradients:
        size = self.call.input_size
        gradients = Gradients(
            values=self.result("d_values", (self.call.total_steps, size)),
            weights=self._weight_gradients(weights),
            h_0=self.result("d_h_0", self.state_shape()),
            c_0=self.result("d_c_0", self.state_shape()) if self.cell == "lstm" else None,
        )
        most = min(self.call.total_steps, self.call.vocabulary_size)
        for name in ("d_embedding", "unique_ids", "d_unique"):
            self.point(name, None)
        if embedding == "dense":
            gradients.embedding = self.result("d_embedding", (self.call.vocabulary_size, size))
        elif embedding == "unique":
            gradients.unique_ids = self.result("unique_ids", (most,), np.int64)
            gradients.unique_rows = self.result("d_unique", (most, size))
        elif embedding is not None:
            raise UsageError(f"embedding must be 'dense', 'unique' or None, got {embedding!r}.")
        self.context.backward(self.call)
        if gradients.unique_ids is not None and gradients.unique_rows is not None:
            gradients.unique_ids = gradients.unique_ids[: self.call.unique_count]
            gradients.unique_rows = gradients.unique_rows[: self.call.unique_count]
        return gradients


def pack(
    cell: CellName,
    weights: Sequence[DirectionWeights],
    *,
    embedding: np.ndarray | None = None,
    reverse: bool = False,
    precision: str = "float32",
    kernel: str = "auto",
    context: Context | None = None,
    for_single: bool = False,
) -> PackedWeights:
    """Lay weights out for one kernel, once, for many inference calls.

    Parameters
    ----------
    weights : sequence of 1 or 2 DirectionWeights
    embedding : ndarray of shape (vocabulary, input_size), optional
        Build a vocabulary table too: the input part of the gates for every token. Calls then take token ids alone.
    for_single : bool, default=False
        Weights for calls of one sequence each: in bfloat16 an LSTM is then faster, but a sequence has other last bits
        than in a batch. Else a sequence has the same bits alone and in any batch.

    Raises
    ------
    ShapeError, UsageError
    """
    one = _Pass(cell, precision, kernel, reverse, context)
    one.set_weights(weights)
    if embedding is not None:
        one.set_embedding(embedding)
    one.call.batch = 1 if for_single else 0
    pointer = library().bilstm_weights_pack(one.context.pointer, ctypes.byref(one.call))
    if not pointer:
        check(3, one.call)
    return PackedWeights(cell, one.precision, one.kernel, reverse, one.call, pointer)


def recurrent(
    cell: CellName,
    batch: Ragged,
    weights: Sequence[DirectionWeights] | PackedWeights,
    *,
    embedding: np.ndarray | None = None,
    h_0: np.ndarray | None = None,
    c_0: np.ndarray | None = None,
    recurrent_mask: np.ndarray | None = None,
    reverse: bool = False,
    outputs: bool = True,
    pooling: Sequence[Pool] = (),
    max_steps: bool = True,
    save: bool = False,
    precision: str = "float32",
    kernel: str = "auto",
    context: Context | None = None,
) -> Result:
    """Run one recurrent layer over a ragged batch.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn_tanh", "rnn_relu"}
    batch : Ragged
        Values (total_steps, input_size) float32, or int64 token ids (total_steps,) with `embedding` or packed weights
        that hold a vocabulary table. Empty sequences are allowed.
    weights : sequence of 1 or 2 DirectionWeights, or PackedWeights
        Two: the second reads every sequence from its own last step.
    embedding : ndarray of shape (vocabulary, input_size), optional
    h_0, c_0 : ndarray of shape (directions, batch, hidden_size), optional
        Initial states; zero by default.
    recurrent_mask : ndarray of shape (directions, batch, hidden_size), optional
        Multiplies h_{t-1} before the recurrent product, the same at every step (Gal and Ghahramani 2016).
    reverse : bool, default=False
        With one direction: read each sequence from its end.
    outputs : bool, default=True
        Give h at every step.
    pooling : subset of ("max", "mean")
    max_steps : bool, default=True
        With "max", give the step of each maximum too; the values alone are found faster. `save` always gives them.
    save : bool, default=False
        Keep what `Result.gradients` needs.
    precision : {"float32", "bfloat16", "float64", "auto"}
        float64 arrays go with "float64" (portable kernel); all other precisions take and give float32 arrays.
    kernel : {"auto", "portable", "avx2", "avx512", "amx", "neon"}
    context : Context, optional
        Threads and memory; by default one for the process with all processors.

    Raises
    ------
    ShapeError
        Shapes, types, offsets or ids that do not fit.
    UsageError
        A kernel or precision that cannot run here.
    """
    one = _Pass(cell, precision, kernel, reverse, context)
    if isinstance(weights, PackedWeights):
        if save:
            raise UsageError("Packed weights serve inference; save=True needs plain weights.")
        one.set_packed(weights)
    else:
        one.set_weights(weights)
    one.set_input(batch, embedding)
    one.set_states(h_0, c_0, recurrent_mask)
    return one.forward(outputs, pooling, max_steps, save)


def lstm(batch: Ragged, weights: Sequence[DirectionWeights] | PackedWeights, **options: Any) -> Result:
    """Run an LSTM layer; options as in `recurrent`."""
    return recurrent("lstm", batch, weights, **options)


def gru(batch: Ragged, weights: Sequence[DirectionWeights] | PackedWeights, **options: Any) -> Result:
    """Run a GRU layer; options as in `recurrent`."""
    return recurrent("gru", batch, weights, **options)


def rnn(
    batch: Ragged,
    weights: Sequence[DirectionWeights] | PackedWeights,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    **options: Any,
) -> Result:
    """Run an Elman RNN layer; other options as in `recurrent`."""
    return recurrent("rnn_tanh" if nonlinearity == "tanh" else "rnn_relu", batch, weights, **options)
