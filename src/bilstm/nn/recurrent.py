"""Drop-in `LSTM`, `GRU` and `RNN`: torch's constructor, state dict and results, computed by the native engine.

Input in any of torch's layouts (padded, unbatched, PackedSequence), padded with `lengths=`, or a `Ragged` batch;
inside, all of them run as ragged batches, so padding costs nothing and never reaches a state. What the engine cannot
run (float64, CUDA and other devices) goes through torch's own functions: on CUDA that is cuDNN. Imports torch,
`data.ragged`, `layers.engine_op`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from bilstm.data.ragged import Ragged
from bilstm.errors import ShapeError, UsageError
from bilstm.layers.engine_op import Precision, engine_can_run, prefers_bfloat16, recurrent_layer
from bilstm.nn import layouts

__all__ = ["GRU", "LSTM", "RNN", "Backend", "PrecisionChoice", "check_choices"]

Backend = Literal["auto", "engine", "torch"]
PrecisionChoice = Literal["auto", "float32", "bfloat16"]
Lengths = Tensor | np.ndarray | Sequence[int]

_BACKENDS = ("auto", "engine", "torch")
_PRECISIONS = ("auto", "float32", "bfloat16")
_TORCH_FUNCTIONS = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}


class _Result(NamedTuple):
    """Outputs (total_steps, directions * hidden_size) and the final states of all layers."""

    outputs: Tensor
    h_n: Tensor  # (layers * directions, batch, hidden_size)
    c_n: Tensor | None


def check_choices(backend: str, precision: str, threads: int | None) -> None:
    """Raise UsageError if one of the three choices is none of those allowed."""
    if backend not in _BACKENDS:
        raise UsageError(f"backend={backend!r} is unknown; allowed are {', '.join(map(repr, _BACKENDS))}.")
    if precision not in _PRECISIONS:
        raise UsageError(f"precision={precision!r} is unknown; allowed are {', '.join(map(repr, _PRECISIONS))}.")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads must be a whole number from 1 up, or None for torch's number, got {threads!r}.")


class _Recurrent(torch.nn.RNNBase):
    """What LSTM, GRU and RNN share. Derives from torch's base class, so parameters, names and `repr` are torch's own.

    It derives from RNNBase and not from torch.nn.LSTM because torch.compile refuses every subclass of the latter.
    """

    backend: Backend = "auto"  # class attributes, so that `accelerate` and old pickles need not set them
    precision: PrecisionChoice = "auto"
    threads: int | None = None

    def _choose(self, backend: Backend, precision: PrecisionChoice, threads: int | None) -> None:
        check_choices(backend, precision, threads)
        self.backend, self.precision, self.threads = backend, precision, threads

    @property
    def _cell(self) -> str:
        return {"LSTM": "lstm", "GRU": "gru"}.get(self.mode, "rnn")

    @property
    def _nonlinearity(self) -> str:
        return "relu" if self.mode == "RNN_RELU" else "tanh"

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    # -- layouts ------------------------------------------------------------------------------------------------

    def _forward(self, inputs: Any, hx: Any, lengths: Lengths | None) -> tuple[Any, Tensor, Tensor | None]:
        """Cross from the caller's layout to a ragged batch and back; states are (layers * directions, batch, H)."""
        if lengths is not None and (not isinstance(inputs, Tensor) or inputs.dim() != 3):
            raise UsageError(f"lengths go with a padded batch of three axes only, not with {_shown(inputs)}.")
        if isinstance(inputs, Ragged):
            h_0, c_0 = self._states(hx, len(inputs), batched=True)
            result = self._run(inputs.values, inputs.offsets, h_0, c_0)
            return inputs.with_values(result.outputs), result.h_n, result.c_n
        if isinstance(inputs, PackedSequence):
            return self._forward_packed(inputs, hx)
        if not isinstance(inputs, Tensor):
            raise UsageError(f"input must be a Tensor, PackedSequence or Ragged batch, got {_shown(inputs)}.")
        if inputs.dim() not in (2, 3):
            raise ShapeError(f"input must have 2 or 3 axes, got {_shown(inputs)}.")
        if inputs.dim() == 2:
            h_0, c_0 = self._states(hx, 1, batched=False)
            result = self._run(inputs, torch.tensor([0, len(inputs)]), h_0, c_0)
            return result.outputs, result.h_n.squeeze(1), None if result.c_n is None else result.c_n.squeeze(1)
        return self._forward_padded(inputs, hx, lengths)

    def _forward_padded(self, inputs: Tensor, hx: Any, lengths: Lengths | None) -> tuple[Tensor, Tensor, Tensor | None]:
        rows = inputs if self.batch_first else inputs.transpose(0, 1)  # (batch, time, feature)
        batch, steps = rows.shape[:2]
        h_0, c_0 = self._states(hx, batch, batched=True)
        flat = rows.reshape(batch * steps, rows.shape[2])
        if lengths is None:
            offsets = torch.arange(batch + 1) * steps
            result = self._run(flat, offsets, h_0, c_0)
            outputs = result.outputs
        else:
            lengths = layouts.checked_lengths(lengths, batch, steps)
            places = layouts.padded_rows(lengths, steps).to(inputs.device)
            values = flat.index_select(0, places)
            result = self._run(values, layouts.offsets_of_lengths(lengths), h_0, c_0)
            outputs = layouts.place_rows(result.outputs, places, batch * steps)
        outputs = outputs.view(batch, steps, outputs.shape[1])
        if not self.batch_first:
            outputs = outputs.transpose(0, 1).contiguous()
        return outputs, result.h_n, result.c_n

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Tensor, Tensor | None]:
        data, batch_sizes, order, restore = packed
        h_0, c_0 = self._states(hx, int(batch_sizes[0]), batched=True)
        if order is not None:
            h_0, c_0 = (None if state is None else state.index_select(1, order) for state in (h_0, c_0))
        offsets, rows, inverse = layouts.packed_rows(batch_sizes)
        rows, inverse = rows.to(data.device), inverse.to(data.device)
        result = self._run(layouts.take_permuted(data, inverse, rows), offsets, h_0, c_0)
        h_n, c_n = result.h_n, result.c_n
        if restore is not None:
            h_n = h_n.index_select(1, restore)
            c_n = None if c_n is None else c_n.index_select(1, restore)
        outputs = layouts.take_permuted(result.outputs, rows, inverse)
        return PackedSequence(outputs, batch_sizes, order, restore), h_n, c_n

    def _states(self, hx: Any, batch: int, *, batched: bool) -> tuple[Tensor | None, Tensor | None]:
        """Return the initial states as (layers * directions, batch, hidden_size), or None for zeros."""
        if hx is None:
            return None, None
        if self.mode == "LSTM":
            if not isinstance(hx, tuple | list) or len(hx) != 2:
                raise UsageError(f"an LSTM takes its initial state as a pair (h_0, c_0), got {_shown(hx)}.")
            h_0, c_0 = hx
        else:
            h_0, c_0 = hx, None
        expected = (self.num_layers * self._directions, *((batch,) if batched else ()), self.hidden_size)
        for name, state in (("h_0", h_0), ("c_0", c_0)):
            if state is not None and tuple(state.shape) != expected:
                raise ShapeError(f"{name} must have shape {expected}, got {tuple(state.shape)}.")
        if batched:
            return h_0, c_0
        return h_0.unsqueeze(1), None if c_0 is None else c_0.unsqueeze(1)

    # -- backends -----------------------------------------------------------------------------------------------

    def _run(self, values: Tensor, offsets: Tensor, h_0: Tensor | None, c_0: Tensor | None) -> _Result:
        if values.dim() != 2 or values.shape[1] != self.input_size:
            raise ShapeError(f"input must have {self.input_size} features a step, got {_shown(values)}.")
        if self.backend == "torch":
            return self._run_torch(values, offsets, h_0, c_0)
        precision, dtype = self._precision(values)
        reason = engine_can_run(
            dtype, values.device, cell=self._cell, nonlinearity=self._nonlinearity, precision=precision
        )
        if reason is None:
            return self._run_engine(values, offsets, h_0, c_0, precision)
        if self.backend == "engine":
            raise UsageError(f"backend='engine' cannot run here: {reason}", hint="Use backend='auto' or 'torch'.")
        return self._run_torch(values, offsets, h_0, c_0)

    def _precision(self, values: Tensor) -> tuple[Precision, torch.dtype]:
        """Return the engine's precision and the dtype that decides whether it can run."""
        autocast = values.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        low = values.dtype == torch.bfloat16 and self._weight_dtype() == torch.bfloat16
        if autocast and values.dtype in (torch.bfloat16, torch.float16):
            dtype = torch.float32  # a lower layer's output under autocast; the weights are what decides
        else:
            dtype = torch.float32 if low else values.dtype
        if self.precision != "auto":
            return self.precision, dtype
        low |= autocast and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if low and prefers_bfloat16():  # elsewhere float32 is faster, and closer
            return "bfloat16", dtype
        return "float32", dtype

    def _weight_dtype(self) -> torch.dtype:
        return getattr(self, self._flat_weights_names[0]).dtype

    def _run_engine(
        self, values: Tensor, offsets: Tensor, h_0: Tensor | None, c_0: Tensor | None, precision: Precision
    ) -> _Result:
        dtype, directions = values.dtype, self._directions
        current, h_n, c_n = _float32(values), [], []
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                current = torch.nn.functional.dropout(current, self.dropout)
            mine = slice(layer * directions, (layer + 1) * directions)
            current, h_last, c_last = recurrent_layer(
                current,
                offsets,
                self._cell,
                self._layer_weights(layer),
                None if h_0 is None else _float32(h_0[mine]),
                None if c_0 is None else _float32(c_0[mine]),
                nonlinearity=self._nonlinearity,
                precision=precision,
                threads=self.threads,
            )
            h_n.append(h_last)
            c_n.append(c_last)
        last_h = (h_n[0] if self.num_layers == 1 else torch.cat(h_n)).to(dtype)
        if self.mode != "LSTM":
            return _Result(current.to(dtype), last_h, None)
        return _Result(current.to(dtype), last_h, (c_n[0] if self.num_layers == 1 else torch.cat(c_n)).to(dtype))

    def _layer_weights(self, layer: int) -> list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """Return (w_ih, w_hh, b_ih, b_hh) of each direction, by name, so that re-assigned parameters are found."""
        weights = []
        for suffix in ("", "_reverse")[: self._directions]:
            names = [f"{kind}_l{layer}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            w_ih, w_hh = (_float32(getattr(self, name)) for name in names[:2])
            b_ih, b_hh = (_float32(getattr(self, name)) if self.bias else None for name in names[2:])
            weights.append((w_ih, w_hh, b_ih, b_hh))
        return weights

    def _run_torch(self, values: Tensor, offsets: Tensor, h_0: Tensor | None, c_0: Tensor | None) -> _Result:
        """Run torch's own function: padded if all lengths are equal, else packed at the border."""
        lengths = (offsets[1:] - offsets[:-1]).cpu()
        batch = len(lengths)
        h_0, c_0 = (self._state_or_zeros(state, values, batch) for state in (h_0, c_0))
        if len(values) == 0:
            width = self._directions * self.hidden_size
            return _Result(values.new_zeros((0, width)), h_0, c_0 if self.mode == "LSTM" else None)
        if bool((lengths == lengths[0]).all()):
            padded = values.view(batch, len(values) // batch, self.input_size)
            outputs, h_n, c_n = self._call_torch(padded, None, h_0, c_0)
            return _Result(outputs.reshape(len(values), outputs.shape[2]), h_n, c_n)
        kept = torch.nonzero(lengths).squeeze(1)  # torch cannot take a sequence without steps
        order = kept[torch.argsort(lengths[kept], descending=True, stable=True)]
        sorted_lengths = lengths[order]
        batch_sizes = layouts.batch_sizes_of(sorted_lengths)
        _, in_sorted, _ = layouts.packed_rows(batch_sizes)
        shift = offsets.cpu()[:-1][order] - layouts.offsets_of_lengths(sorted_lengths)[:-1]
        rows = (torch.repeat_interleave(shift, sorted_lengths) + torch.arange(len(values)))[in_sorted]
        inverse = torch.empty_like(rows)
        inverse[rows] = torch.arange(len(rows))
        rows, inverse, order = (index.to(values.device) for index in (rows, inverse, order))
        data = layouts.take_permuted(values, rows, inverse)
        h_sorted, c_sorted = h_0.index_select(1, order), c_0.index_select(1, order)
        outputs, h_last, c_last = self._call_torch(data, batch_sizes, h_sorted, c_sorted)
        h_n = h_0.to(h_last.dtype).index_copy(1, order, h_last)
        c_n = None if c_last is None else c_0.to(c_last.dtype).index_copy(1, order, c_last)
        return _Result(layouts.take_permuted(outputs, inverse, rows), h_n, c_n)

    def _state_or_zeros(self, state: Tensor | None, values: Tensor, batch: int) -> Tensor:
        if state is not None:
            return state
        return values.new_zeros((self.num_layers * self._directions, batch, self.hidden_size))

    def _call_torch(
        self, data: Tensor, batch_sizes: Tensor | None, h_0: Tensor, c_0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Call torch's function on (batch, time, feature) data, or on packed data with their batch sizes."""
        # cuDNN keeps what its backward needs in training mode only, so without dropout eval mode asks for that too
        train, dropout = (True, self.dropout) if self.training else (torch.is_grad_enabled(), 0.0)
        self._update_flat_weights()
        states = (h_0, c_0) if self.mode == "LSTM" else h_0
        sizes = (self.bias, self.num_layers, dropout, train, self.bidirectional)
        function = _TORCH_FUNCTIONS[self.mode]
        if batch_sizes is None:
            result = function(data, states, self._flat_weights, *sizes, True)
        else:
            result = function(data, batch_sizes, states, self._flat_weights, *sizes)
        return (*result, None) if len(result) == 2 else result


class LSTM(_Recurrent):
    """Long short-term memory, a drop-in for `torch.nn.LSTM`.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As in torch; gate order i, f, g, o; the state dict fits torch's both ways.
    proj_size : int, default=0
        Only 0: projections are not built here.
    backend : {"auto", "engine", "torch"}, default="auto"
        "auto" takes the engine where it can run (float32 and bfloat16 on a CPU it was built for) and torch's own
        function elsewhere (float64; on CUDA that is cuDNN). "engine" raises where the engine cannot run.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the engine's products. "auto" is float32; where the machine multiplies bfloat16 faster, it is bfloat16
        under `torch.autocast("cpu", torch.bfloat16)` or when input and weights are bfloat16. Sums and the cell state
        are float32 always.
    threads : int, optional
        Threads of the engine; None follows `torch.get_num_threads()` at each call.

    Raises
    ------
    UsageError
        For `proj_size` other than 0 or an unknown choice.

    Notes
    -----
    Outputs and states have the dtype of the input. Dropout between layers draws from torch's generator, in the order
    of the ragged batch, so its masks differ from torch.nn.LSTM's for the same seed.

    Examples
    --------
    >>> import torch
    >>> lstm = LSTM(3, 4, bidirectional=True, batch_first=True)
    >>> outputs, (h_n, c_n) = lstm(torch.zeros(2, 5, 3), lengths=[5, 0])
    >>> outputs.shape, h_n.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 2, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        backend: Backend = "auto",
        precision: PrecisionChoice = "auto",
        threads: int | None = None,
    ):
        if proj_size != 0:
            raise UsageError(
                f"proj_size={proj_size}: bilstm.nn.LSTM has no projection, only 0 is allowed.",
                hint="Use torch.nn.LSTM, or a torch.nn.Linear after this layer.",
            )
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self._choose(backend, precision, threads)

    def forward(self, input: Any, hx: Any = None, *, lengths: Lengths | None = None) -> Any:
        """Run the layers.

        Parameters
        ----------
        input : Tensor, PackedSequence or Ragged
            Tensor of shape (time, batch, feature), (batch, time, feature) with `batch_first`, or (time, feature).
        hx : pair of Tensor of shape (num_layers * directions, batch, hidden_size), optional
            Initial states (h_0, c_0), zeros by default; two axes for unbatched input.
        lengths : int64 of shape (batch,), optional
            Real steps of each sequence of a padded batch, 0 allowed. Steps beyond are never read; outputs there are 0.

        Returns
        -------
        outputs : Tensor, PackedSequence or Ragged
            As the input, with directions * hidden_size features.
        states : pair of Tensor
            (h_n, c_n), as `hx`: each direction's state after the last step that it read.

        Raises
        ------
        ShapeError
            If shapes, lengths or offsets do not fit.
        UsageError
            If `backend="engine"` cannot run.
        """
        outputs, h_n, c_n = self._forward(input, hx, lengths)
        return outputs, (h_n, c_n)


class GRU(_Recurrent):
    """Gated recurrent unit, a drop-in for `torch.nn.GRU` (gate order r, z, n).

    Parameters are those of `LSTM` without `proj_size`; the state is h alone.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        backend: Backend = "auto",
        precision: PrecisionChoice = "auto",
        threads: int | None = None,
    ):
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self._choose(backend, precision, threads)

    def forward(self, input: Any, hx: Tensor | None = None, *, lengths: Lengths | None = None) -> Any:
        """Run the layers; as `LSTM.forward`, with h_0 and h_n in place of the pairs."""
        outputs, h_n, _ = self._forward(input, hx, lengths)
        return outputs, h_n


class RNN(_Recurrent):
    """Elman network, a drop-in for `torch.nn.RNN`.

    Parameters are those of `GRU` and, after `num_layers`, `nonlinearity` {"tanh", "relu"}.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        backend: Backend = "auto",
        precision: PrecisionChoice = "auto",
        threads: int | None = None,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise UsageError(f"nonlinearity={nonlinearity!r} is unknown; allowed are 'tanh' and 'relu'.")
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(
            mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self.nonlinearity = nonlinearity
        self._choose(backend, precision, threads)

    def forward(self, input: Any, hx: Tensor | None = None, *, lengths: Lengths | None = None) -> Any:
        """Run the layers; as `LSTM.forward`, with h_0 and h_n in place of the pairs."""
        outputs, h_n, _ = self._forward(input, hx, lengths)
        return outputs, h_n


def _float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float32 else tensor.to(torch.float32)


def _shown(value: Any) -> str:
    return f"{type(value).__name__}{list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
