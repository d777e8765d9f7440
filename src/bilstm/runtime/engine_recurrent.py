"""Recurrent layers of a trained model in the native engine, with what the engine can fuse into them.

An embedding right before the layer is gathered inside it, or the input weights are multiplied with the whole vocabulary
instead: in float32 once a model has run long enough to be worth it, which gives the same numbers bit for bit; in
bfloat16, where it rounds differently, from the start, so that answers do not depend on what ran before. Pooling right
after it happens inside too, so that the states of single steps are never written. Imports numpy, `data.ragged`,
`description`, `engine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from bilstm import description, engine
from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError
from bilstm.runtime.recurrent import RecurrentResult, merge_directions

__all__ = ["EngineRecurrent", "engine_is_chosen", "resolve_precision"]

# The input part of the gates for every token. Measured (20,000 tokens, embedding 128, two directions of 128, one core):
# float32: 2.4 microseconds a token to make, 0.7 less a step in a batch of 32, 1.7 less in a batch of one text;
# bfloat16: 0.75 a token (15 ms in all), 0.06 less a step in a batch of 32, 2.0 less in a batch of one text.
_STEPS_A_TOKEN_WORTH_A_TABLE = 4
_LARGEST_TABLE_BYTES = 256 * 2**20
_LARGEST_TABLE_BYTES_AT_START = 64 * 2**20


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
        raise UsageError(f"precision {precision!r} is unknown; allowed are auto, float32, bfloat16.")
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


def resolve_precision(backend: str, precision: str) -> Literal["float32", "bfloat16"]:
    """Turn "auto" into "bfloat16" where the engine may run and is faster with it, else into "float32".

    Raises
    ------
    UsageError
        If the precision is unknown.
    """
    if precision == "auto":
        may_run = backend in ("auto", "engine") and engine.status().available
        return "bfloat16" if may_run and engine.choose_precision("auto") == "bfloat16" else "float32"
    if precision == "float32":
        return "float32"
    if precision == "bfloat16":
        return "bfloat16"
    raise UsageError(f"precision {precision!r} is unknown; allowed are auto, float32, bfloat16.")


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
        self._layer, self._precision = layer, precision
        self._cell: Literal["lstm", "gru", "rnn_tanh", "rnn_relu"] = (
            layer.cell if layer.cell != "rnn" else ("rnn_relu" if layer.nonlinearity == "relu" else "rnn_tanh")
        )
        self._context = None if threads is None else engine.Context(threads)
        self._directions = [_direction_weights(layer, weights, number) for number in range(layer.num_layers)]
        self._packed = [self._pack(directions) for directions in self._directions]
        limit = _LARGEST_TABLE_BYTES_AT_START if precision == "bfloat16" else 0
        if embedding is not None and self._table_bytes(embedding) <= limit:
            self._packed[0], embedding = self._pack(self._directions[0], embedding), None
        # Replaced as one, so that calls from other threads see either both or neither.
        self._first: tuple[engine.PackedWeights, np.ndarray | None] = (self._packed[0], embedding)
        self._steps_run = 0

    def _pack(
        self, directions: list[engine.DirectionWeights], embedding: np.ndarray | None = None
    ) -> engine.PackedWeights:
        return engine.pack(
            self._cell, directions, embedding=embedding, precision=self._precision, context=self._context
        )

    def _table_bytes(self, embedding: np.ndarray) -> int:
        size = 2 if self._precision == "bfloat16" else 4
        return sum(len(one.w_hh) for one in self._directions[0]) * len(embedding) * size

    def _count_steps(self, steps: int) -> None:
        """Make the vocabulary table when enough steps have run to pay for it."""
        embedding = self._first[1]
        self._steps_run += steps
        if embedding is None or self._precision != "float32":
            return
        is_worth_it = self._steps_run >= _STEPS_A_TOKEN_WORTH_A_TABLE * len(embedding)
        if is_worth_it and self._table_bytes(embedding) <= _LARGEST_TABLE_BYTES:
            self._first = (self._pack(self._directions[0], embedding), None)

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
        if batch.values.ndim == 1:
            batch = batch.with_values(batch.values.astype(np.int64, copy=False))
        self._count_steps(len(batch.values))
        calls = [self._first, *((packed, None) for packed in self._packed[1:])]
        for packed, embedding in calls[:-1]:
            result = self._call(batch, packed, embedding, pooled=False)
            batch = batch.with_values(self._merge(result.outputs))
        result = self._call(batch, *calls[-1], pooled=pooled)
        final = merge_directions(list(result.h_n), self._layer.merge_mode or "concat")
        outputs = None if pooled else batch.with_values(self._merge(result.outputs))
        return RecurrentResult(outputs, final, result.max_values, result.mean_values)

    def _merge(self, outputs: np.ndarray | None) -> np.ndarray:
        assert outputs is not None  # they were asked for
        directions = 1 + self._layer.bidirectional
        return merge_directions(np.split(outputs, directions, axis=1), self._layer.merge_mode or "concat")

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
            max_steps=False,
            precision=self._precision,
            context=self._context,
        )


def _direction_weights(
    layer: description.Recurrent, weights: Mapping[str, np.ndarray], number: int
) -> list[engine.DirectionWeights]:
    suffixes = [f"l{number}", f"l{number}_reverse"][: 1 + layer.bidirectional]
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [engine.DirectionWeights(*(weights[f"{name}_{suffix}"] for name in names)) for suffix in suffixes]
