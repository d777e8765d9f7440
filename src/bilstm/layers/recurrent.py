"""Recurrent layers over `Ragged`: LSTM, GRU and simple RNN, stacked, in one direction or both.

Place in the way of the data: after the embedding, before pooling or a linear layer per step. Weights have torch's names
and gate order, so state dicts go to and from `torch.nn.LSTM`, `GRU` and `RNN`. How a layer is computed is chosen in
`recurrent_backends.py`; what it computes is written in `cells.py`.

Always true: a batch gives what each sequence alone gives, the order of rows does not matter, the backward direction
starts at each sequence's own last step, a sequence without steps keeps its initial state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.errors import ShapeError
from bilstm.layers.engine_op import Precision
from bilstm.layers.padding import host_offsets
from bilstm.layers.randomness import Randomness
from bilstm.layers.recurrent_backends import (
    BACKENDS,
    CellWeights,
    LayerCall,
    LayerResult,
    choose_backend,
    gather_weights,
    plan_groups,
)

__all__ = ["Recurrent", "RecurrentOutput", "merge_directions"]


@dataclass(frozen=True)
class RecurrentOutput:
    """What a recurrent layer gives.

    Parameters
    ----------
    outputs : Ragged of values (total_steps, output_size), or None if only pooled values were asked for
        State after each step of the last layer, both directions merged. With merge mode None the directions keep an
        axis of their own: (total_steps, 2, hidden_size).
    final : Tensor of shape (batch, output_size)
        Last state of each direction of the last layer, merged like the outputs: the forward direction ends at the last
        step, the backward one at the first. With merge mode None (batch, 2, hidden_size).
    h_n : Tensor of shape (num_layers * directions, batch, hidden_size)
        Last states of all layers, in torch's order.
    c_n : Tensor of the same shape, or None
        Last cell states; None unless the cell is "lstm" and the cell state was asked for.
    max_values, mean_values : Tensor of shape (batch, output_size), or None
        Largest and mean output of each sequence, in place of `outputs` where only those were asked for.
    """

    outputs: Ragged | None
    final: Tensor
    h_n: Tensor
    c_n: Tensor | None
    max_values: Tensor | None = None
    mean_values: Tensor | None = None


class Recurrent(nn.Module):
    """Read each sequence forwards, and backwards too if `bidirectional`.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn"}
    input_size, hidden_size : int
    num_layers : int, default=1
        Each further layer reads the merged outputs of the one before.
    bidirectional : bool, default=True
    merge_mode : {"concat", "sum", "mul", "ave"} or None, default="concat"
        How the two directions are joined after every layer (Keras' names). None keeps the last layer's directions
        apart; between layers it is "concat".
    dropout : float, default=0.0
        Between stacked layers, on single features of single steps.
    variational_dropout : float, default=0.0
        On the state that enters the gates, one mask per sequence for all steps (Gal and Ghahramani 2016,
        arXiv 1512.05287).
    weight_dropout : float, default=0.0
        On the recurrent weights, one mask per batch (Merity et al. 2018, arXiv 1708.02182).
    nonlinearity : {"tanh", "relu"}, default="tanh"
        Of the cell "rnn".
    randomness : Randomness, optional
        Where initial weights and masks are drawn; a generator of its own with seed 0 if left out.
    backend : {"auto", "engine", "torch", "reference"}, default="auto"
    precision : {"float32", "bfloat16"}, default="float32"
        Of the products inside the engine.
    threads : int, optional
        Of the engine; its own default if left out.

    Notes
    -----
    Initial weights: input weights of each gate Glorot uniform and recurrent weights of each gate orthogonal, as in
    Keras (Glorot and Bengio 2010; Saxe et al. 2014); biases 0, except the LSTM's forget gate, whose `bias_ih` is 1
    (Jozefowicz et al. 2015; Keras' `unit_forget_bias`).

    Masks are drawn in this order: layer by layer; in a layer weight dropout of the forward and backward direction, then
    variational masks of both, then dropout after the layer. Nothing is drawn in evaluation mode.
    """

    def __init__(
        self,
        cell: description.Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = True,
        merge_mode: description.MergeMode = "concat",
        dropout: float = 0.0,
        variational_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        nonlinearity: str = "tanh",
        *,
        randomness: Randomness | None = None,
        backend: str = "auto",
        precision: Precision = "float32",
        threads: int | None = None,
    ):
        super().__init__()
        self.description = description.Recurrent(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bidirectional,
            merge_mode,
            dropout,
            variational_dropout,
            weight_dropout,
            nonlinearity,  # type: ignore[arg-type]
        )
        description.check_layer(self.description)
        self.backend, self.threads = backend, threads
        self.precision: Precision = precision
        self.randomness = Randomness() if randomness is None else randomness
        for name, shape in description.weight_shapes_of(self.description).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights from the layer's randomness."""
        hidden_size = self.description.hidden_size
        generator = self.randomness.generator
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith("bias"):
                    parameter.zero_()
                    if self.description.cell == "lstm" and name.startswith("bias_ih"):
                        parameter[hidden_size : 2 * hidden_size] = 1.0
                    continue
                draw = nn.init.xavier_uniform_ if name.startswith("weight_ih") else nn.init.orthogonal_
                for gate in parameter.split(hidden_size):
                    draw(gate, generator=generator)

    def forward(
        self,
        batch: Ragged,
        h_0: Tensor | None = None,
        c_0: Tensor | None = None,
        *,
        with_cell_state: bool = True,
        embedding: Tensor | None = None,
        pooled_kinds: tuple[description.PoolingKind, ...] | None = None,
    ) -> RecurrentOutput:
        """Run all layers.

        Parameters
        ----------
        batch : Ragged of values (total_steps, input_size)
            With an embedding, of token ids (total_steps,).
        h_0, c_0 : Tensor of shape (num_layers * directions, batch, hidden_size), optional
            Initial states, zeros if left out; `c_0` for the LSTM only.
        with_cell_state : bool, default=True
            False leaves `c_n` out, which spares torch's kernel an extra input.
        embedding : Tensor of shape (vocabulary_size, input_size), optional
            The first layer reads its rows, gathered inside the engine where that runs.
        pooled_kinds : tuple of {"last", "max", "mean"}, optional
            Allow what pooling of these kinds reads (`final`, `max_values`, `mean_values`) in place of `outputs`, which
            is then None. Where the backend or the merge mode cannot, the outputs are given all the same.

        Raises
        ------
        ShapeError
            If values, offsets or initial states do not fit.
        UsageError
            If the backend cannot run; the message says why.
        """
        offsets = host_offsets(batch)
        source = batch.values if embedding is None else embedding
        chosen = choose_backend(self.backend, source, self.description, self.precision)
        if embedding is not None and chosen != "engine":
            batch, embedding = batch.with_values(embedding.index_select(0, batch.values)), None
        states = self._initial_states(len(batch), source, h_0, c_0)
        masked = self.training and self.description.variational_dropout > 0
        groups = plan_groups(chosen, offsets, batch.values, masked)
        values, results = batch.values, []
        pools = pooled_kinds is not None and chosen == "engine" and self._keeps_directions()
        for layer in range(self.description.num_layers):
            is_last = layer == self.description.num_layers - 1
            call = LayerCall(
                values=values,
                offsets=offsets,
                cell=self.description.cell,
                nonlinearity=self.description.nonlinearity,
                weights=self._layer_weights(layer),
                h_0=states[0][layer],
                c_0=states[1][layer],
                masks=self._recurrent_masks(len(batch), source),
                needs_cell_state=with_cell_state,
                precision=self.precision,
                threads=self.threads,
                groups=groups,
                embedding=embedding if layer == 0 else None,
                outputs=not (pools and is_last),
                pools=pools and is_last and pooled_kinds != ("last",),
            )
            results.append(BACKENDS[chosen](call))
            if not is_last:
                values = self._dropped(self._merge_outputs(results[-1], keep_apart=False))
        return self._output(batch, results)

    def _output(self, batch: Ragged, results: list[LayerResult]) -> RecurrentOutput:
        last = results[-1]
        cell_states = [result.c_n for result in results if result.c_n is not None]
        return RecurrentOutput(
            None
            if not last.outputs and last.joined_outputs is None
            else batch.with_values(self._merge_outputs(last, keep_apart=True)),
            self._merge(list(last.h_n), keep_apart=True),
            torch.cat([result.h_n for result in results]),
            torch.cat(cell_states) if cell_states else None,
            last.max_values,
            last.mean_values,
        )

    def _keeps_directions(self) -> bool:
        """Whether pooling each direction alone is pooling the merged outputs."""
        return not self.description.bidirectional or self.description.merge_mode in ("concat", None)

    def _dropped(self, values: Tensor) -> Tensor:
        rate = self.description.dropout
        if not self.training or rate == 0:
            return values
        return values * self.randomness.mask(tuple(values.shape), rate, values)

    def _merge(self, directions: list[Tensor], *, keep_apart: bool) -> Tensor:
        mode = self.description.merge_mode
        return merge_directions(directions, "concat" if mode is None and not keep_apart else mode)

    def _merge_outputs(self, result: LayerResult, *, keep_apart: bool) -> Tensor:
        joined, mode = result.joined_outputs, self.description.merge_mode
        if joined is None:
            return self._merge(result.outputs, keep_apart=keep_apart)
        if not self.description.bidirectional or mode == "concat" or (mode is None and not keep_apart):
            return joined  # taking it apart and joining it again would cost a tenth of a training step
        return self._merge(list(joined.chunk(2, dim=1)), keep_apart=keep_apart)

    def _directions(self, layer: int) -> list[str]:
        return [f"l{layer}", f"l{layer}_reverse"] if self.description.bidirectional else [f"l{layer}"]

    def _layer_weights(self, layer: int) -> list[CellWeights]:
        weights = [gather_weights(self, suffix) for suffix in self._directions(layer)]
        rate = self.description.weight_dropout
        if not self.training or rate == 0:
            return weights
        masks = [self.randomness.mask(tuple(w.w_hh.shape), rate, w.w_hh) for w in weights]
        return [replace(w, w_hh=w.w_hh * mask) for w, mask in zip(weights, masks, strict=True)]

    def _recurrent_masks(self, batch_size: int, like: Tensor) -> Tensor | None:
        rate = self.description.variational_dropout
        if not self.training or rate == 0:
            return None
        shape = (1 + self.description.bidirectional, batch_size, self.description.hidden_size)
        return self.randomness.mask(shape, rate, like)

    def _initial_states(
        self, batch_size: int, source: Tensor, h_0: Tensor | None, c_0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Check shapes and return both states as (num_layers, directions, batch, hidden_size)."""
        directions = 1 + self.description.bidirectional
        flat = (self.description.num_layers * directions, batch_size, self.description.hidden_size)
        if source.ndim != 2 or source.shape[1] != self.description.input_size:
            raise ShapeError(
                f"the recurrent layer reads {self.description.input_size} features a step, "
                f"got values of shape {tuple(source.shape)}."
            )
        states = []
        for name, state in (("h_0", h_0), ("c_0", c_0)):
            if state is None:
                state = source.new_zeros(flat)
            elif name == "c_0" and self.description.cell != "lstm":
                raise ShapeError(f"the cell {self.description.cell!r} has no cell state, but c_0 was given.")
            elif tuple(state.shape) != flat:
                raise ShapeError(f"{name} must have shape {flat}, got {tuple(state.shape)}.")
            states.append(state.reshape(self.description.num_layers, directions, *flat[1:]))
        return states[0], states[1]

    def extra_repr(self) -> str:
        """Show the description in `print(model)`."""
        fields = self.description
        return f"{fields.cell}, {fields.input_size}, {fields.hidden_size}, num_layers={fields.num_layers}, " + (
            f"bidirectional={fields.bidirectional}, merge_mode={fields.merge_mode!r}, backend={self.backend!r}"
        )


def merge_directions(directions: list[Tensor], mode: description.MergeMode) -> Tensor:
    """Join forward and backward features as Keras' `Bidirectional` does.

    Parameters
    ----------
    directions : list of one or two Tensors of shape (..., hidden_size)
    mode : {"concat", "sum", "mul", "ave"} or None
        None stacks them on an axis of their own: (..., 2, hidden_size).
    """
    if len(directions) == 1:
        return directions[0]
    forward, backward = directions
    if mode == "concat":
        return torch.cat([forward, backward], dim=-1)
    if mode == "sum":
        return forward + backward
    if mode == "mul":
        return forward * backward
    if mode == "ave":
        return (forward + backward) / 2
    return torch.stack([forward, backward], dim=-2)
