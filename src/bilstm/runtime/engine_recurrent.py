"""Recurrent layers of a trained model in the native engine, with what the engine can fuse into them.

An embedding right before the layer is gathered inside it, or, if the table is small enough, multiplied with the input
weights once for the whole vocabulary. Pooling right after it happens inside too, so that the states of single steps are
never written. Imports numpy, `data.ragged`, `description`, `engine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from bilstm import description, engine
from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError
from bilstm.runtime.recurrent import RecurrentResult, merge_directions

__all__ = ["EngineRecurrent", "engine_is_chosen"]

# A vocabulary table above this is not made: it costs memory, and time when the model is loaded.
_LARGEST_TABLE_BYTES = 64 * 2**20


def engine_is_chosen(backend: str, precision: str) -> bool:
    """Whether recurrent layers run in the engine; otherwise they run as a loop with numpy.

    "auto" takes the engine where it has a kernel made for this machine: its portable one is slower than numpy. For
    bfloat16, which numpy does not have, the engine is the only choice.

    Raises
    ------
    UsageError
        If the choice is unknown or cannot run.
    """
    if backend not in ("auto", "engine", "numpy"):
        raise UsageError(f"backend {backend!r} is unknown; without torch allowed are auto, engine, numpy.")
    if precision not in ("float32", "bfloat16"):
        raise UsageError(f"precision {precision!r} is unknown; allowed are float32, bfloat16.")
    if backend == "numpy":
        if precision == "bfloat16":
            raise UsageError("precision 'bfloat16' needs the engine, not backend 'numpy'.", "Use backend 'auto'.")
        return False
    found = engine.status()
    if not found.available:
        if backend == "engine" or precision == "bfloat16":
            raise UsageError(f"the engine cannot run: {found.reason}.", "Use backend 'auto' and precision 'float32'.")
        return False
    return backend == "engine" or precision == "bfloat16" or engine.choose_kernel("auto", precision) != "portable"


class EngineRecurrent:
    """All layers of one recurrent description, their weights laid out for the kernel of this machine.

    Parameters
    ----------
    layer : description.Recurrent
    weights : mapping of parameter name to ndarray, float32
    embedding : ndarray of shape (vocabulary_size, input_size), float32, optional
        The batch then holds token ids.
    precision : {"float32", "bfloat16"}
    threads : int, optional
        Every processor that the process may use if left out.
    """

    def __init__(
        self,
        layer: description.Recurrent,
        weights: Mapping[str, np.ndarray],
        embedding: np.ndarray | None = None,
        *,
        precision: str = "float32",
        threads: int | None = None,
    ):
        self._layer, self._embedding, self._precision = layer, embedding, precision
        self._cell: Literal["lstm", "gru", "rnn_tanh", "rnn_relu"] = (
            layer.cell if layer.cell != "rnn" else ("rnn_relu" if layer.nonlinearity == "relu" else "rnn_tanh")
        )
        self._context = None if threads is None else engine.Context(threads)
        self._packed = []
        for number in range(layer.num_layers):
            suffixes = [f"l{number}", f"l{number}_reverse"][: 1 + layer.bidirectional]
            directions = [
                engine.DirectionWeights(
                    *(weights[f"{name}_{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
                )
                for suffix in suffixes
            ]
            table = self._embedding if number == 0 and self._table_is_small(directions) else None
            self._packed.append(
                engine.pack(self._cell, directions, embedding=table, precision=precision, context=self._context)
            )
            if table is not None:
                self._embedding = None  # the packed weights hold it, multiplied

    def _table_is_small(self, directions: list[engine.DirectionWeights]) -> bool:
        rows = 0 if self._embedding is None else len(self._embedding)
        return 0 < rows * len(directions) * len(directions[0].w_hh) * 4 <= _LARGEST_TABLE_BYTES

    def can_pool(self, kinds: tuple[description.PoolingKind, ...]) -> bool:
        """Whether pooling of these kinds can happen inside: a merged maximum is not the maximum of each direction."""
        keeps_directions = not self._layer.bidirectional or self._layer.merge_mode in ("concat", None)
        return keeps_directions and "attention" not in kinds

    def run(self, batch: Ragged, *, pooled: bool = False) -> RecurrentResult:
        """Run all layers.

        Parameters
        ----------
        batch : Ragged of values (steps, input_size), float32, or, with an embedding, ids (steps,)
        pooled : bool
            Give the largest and mean state of each sequence in place of the states of single steps.
        """
        mode = self._layer.merge_mode or "concat"
        embedding = self._embedding
        if batch.values.ndim == 1:
            batch = batch.with_values(batch.values.astype(np.int64, copy=False))
        for packed in self._packed[:-1]:
            result = self._call(batch, packed, embedding, pooled=False)
            assert result.outputs is not None
            halves = np.split(result.outputs, packed.directions, axis=1)
            batch, embedding = batch.with_values(merge_directions(halves, mode)), None
        result = self._call(batch, self._packed[-1], embedding, pooled=pooled)
        final = merge_directions(list(result.h_n), mode)
        if result.outputs is None:
            return RecurrentResult(None, final, result.max_values, result.mean_values)
        halves = np.split(result.outputs, self._packed[-1].directions, axis=1)
        return RecurrentResult(batch.with_values(merge_directions(halves, mode)), final)

    def _call(
        self, batch: Ragged, packed: engine.PackedWeights, embedding: np.ndarray | None, *, pooled: bool
    ) -> engine.Result:
        return engine.recurrent(
            self._cell,
            batch,
            packed,
            embedding=embedding,
            outputs=not pooled,
            pooling=("max", "mean") if pooled else (),
            precision=self._precision,
            context=self._context,
        )
