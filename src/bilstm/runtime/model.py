"""A trained model without torch: description and weights to logits.

Place in the way of the data: what predict, evaluate, explain by occlusion and serve run, and so what was measured is
what ships. Imports numpy, `data.ragged`, `description`, `engine`,
`errors` and the layers of this folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bilstm import description
from bilstm.data.ragged import Ragged, check_offsets
from bilstm.errors import ModelFolderError, ShapeError, UsageError
from bilstm.runtime import steps
from bilstm.runtime.engine_recurrent import EngineRecurrent, engine_is_chosen, resolve_precision
from bilstm.runtime.recurrent import run_recurrent

__all__ = ["Model", "check_weights"]

# Steps that are run at once: bounds the memory of a large batch, and is far above what a core needs to be busy.
_BLOCK_STEPS = 65_536
_OF_TRAINING = (description.WordDropout, description.Dropout)  # layers that do nothing here


class Model:
    """A stack of layers over numpy batches.

    Parameters
    ----------
    layers : tuple of layer descriptions
        Or one `Average`: then every member runs over the batch, one after the other.
    weights : mapping of str to ndarray, float32
        Named `layers.<index>.<parameter>`, as `bilstm.description.weight_shapes` lists them.
    backend : {"auto", "engine", "numpy"}, default="auto"
        What runs recurrent layers; "auto" is the engine where it has a kernel made for this machine, else numpy.
    precision : {"auto", "float32", "bfloat16"}, default="float32"
        Of the products inside the engine; "auto" is bfloat16 where that is faster, else float32.
    threads : int, optional
        Of the engine; every processor that the process may use if left out.

    Attributes
    ----------
    description : tuple of layer descriptions
    backend : {"engine", "numpy"}
        What runs.
    precision : {"float32", "bfloat16"}
        In which it runs.

    Raises
    ------
    ModelFolderError
        If a weight is missing, unknown, or of another shape or dtype, or if a layer does not fit the one before it.
    UsageError
        If the backend or precision that is asked for cannot run.
    """

    def __init__(
        self,
        layers: tuple[description.Layer, ...],
        weights: Mapping[str, np.ndarray],
        *,
        backend: str = "auto",
        precision: str = "float32",
        threads: int | None = None,
    ):
        try:
            description.check_layers(tuple(layers))
        except UsageError as error:
            raise ModelFolderError(f"the model description is wrong: {error}") from error
        check_weights(layers, weights)
        self.description = tuple(layers)
        self.precision = resolve_precision(backend, precision)
        self.backend = "engine" if engine_is_chosen(backend, self.precision) else "numpy"
        self._threads = threads
        self._members = self._build_members(weights)
        self._weights = [
            {name: np.ascontiguousarray(weights[f"layers.{number}.{name}"]) for name in shapes}
            for number, shapes in enumerate(map(description.weight_shapes_of, layers))
        ]
        self._engine_layers = self._build_engine_layers() if self.backend == "engine" else {}

    @property
    def threads(self) -> int | None:
        """Threads of the engine; None: every processor that the process may use."""
        return self._threads

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy by description and weights: what the engine laid out belongs to one process."""
        return _rebuild, (self.description, self._weights, self.backend, self.precision, self._threads)

    def _build_members(self, weights: Mapping[str, np.ndarray]) -> list[Model]:
        """Open up an ensemble; no members where the model is none."""
        first = self.description[0] if self.description else None
        if not isinstance(first, description.Average):
            return []
        own = [description.member_weights(first, number, weights) for number in range(first.members)]
        options: dict[str, Any] = {"backend": self.backend, "precision": self.precision, "threads": self._threads}
        return [Model(first.layers, one, **options) for one in own]

    def _build_engine_layers(self) -> dict[int, EngineRecurrent]:
        built = {}
        for number, layer in enumerate(self.description):
            if isinstance(layer, description.Recurrent):
                before = self._neighbour(number, -1)
                table = self._weights[before]["weight"] if self._is(before, description.Embedding) else None
                built[number] = EngineRecurrent(
                    layer, self._weights[number], table, precision=self.precision, threads=self._threads
                )
        return built

    def _neighbour(self, number: int, step: int) -> int:
        """Index of the next layer in that direction that does something outside training."""
        number += step
        while self._is(number, description.Dropout):
            number += step
        return number

    def _is(self, number: int, kind: type) -> bool:
        return 0 <= number < len(self.description) and isinstance(self.description[number], kind)

    def run(self, batch: Ragged) -> np.ndarray | Ragged:
        """Compute logits.

        Parameters
        ----------
        batch : Ragged of token ids (total_steps,), any integer dtype
            Vectors (total_steps, size), float32, if the first layer is not an embedding.

        Returns
        -------
        ndarray of shape (batch, output_size), float32
            Or, if no layer pools, Ragged of values (total_steps, output_size).

        Raises
        ------
        ShapeError
            If offsets or ids are out of range.
        """
        check_offsets(batch.offsets, len(batch.values))
        if self._members:
            found = np.stack([np.asarray(member.run(batch)) for member in self._members])
            return found.mean(axis=0, dtype=np.float64).astype(np.float32)
        if len(batch.values) <= _BLOCK_STEPS:
            return self._run_block(batch)
        results = [self._run_block(block) for block in _blocks(batch)]
        parts = [part.values if isinstance(part, Ragged) else part for part in results]
        joined = np.concatenate(parts)
        return batch.with_values(joined) if isinstance(results[0], Ragged) else joined

    def _run_block(self, batch: Ragged) -> np.ndarray | Ragged:
        flow: Ragged | np.ndarray = batch
        known: dict[str, np.ndarray | None] = {}  # pooled values that a recurrent layer gave, while they hold
        for number, (layer, weights) in enumerate(zip(self.description, self._weights, strict=True)):
            if isinstance(layer, _OF_TRAINING):
                continue
            if isinstance(layer, description.Average):  # check_layers makes this impossible
                raise ShapeError("an average is run by `run`.")
            if isinstance(layer, description.Linear):
                mapped = steps.map_linear(flow.values if isinstance(flow, Ragged) else flow, layer, weights)
                flow, known = flow.with_values(mapped) if isinstance(flow, Ragged) else mapped, {}
                continue
            if not isinstance(flow, Ragged):  # check_layers makes this impossible
                raise ShapeError(f"{type(layer).__name__} reads sequences, got an array of shape {flow.shape}.")
            if isinstance(layer, description.Embedding):
                steps.check_ids(flow, layer)
                if self._neighbour(number, 1) not in self._engine_layers:  # else gathered inside the engine
                    flow = steps.embed(flow, weights)
            elif isinstance(layer, description.Convolution):
                flow, known = steps.convolve(flow, layer, weights), {}
            elif isinstance(layer, description.Recurrent):
                flow, known = self._run_recurrent(flow, number, layer)
            else:
                flow, known = steps.pool(flow, layer, weights, known), {}
        return flow

    def _run_recurrent(
        self, batch: Ragged, number: int, layer: description.Recurrent
    ) -> tuple[Ragged, dict[str, np.ndarray | None]]:
        after = self._neighbour(number, 1)
        if number in self._engine_layers:
            runner = self._engine_layers[number]
            pooling = self.description[after] if self._is(after, description.Pooling) else None
            pooled = isinstance(pooling, description.Pooling) and runner.can_pool(pooling.kinds)
            result = runner.run(batch, pooled=pooled)
        else:
            result = run_recurrent(batch, layer, self._weights[number])
        known = {"last": result.final, "max": result.max_values, "mean": result.mean_values}
        return batch if result.outputs is None else result.outputs, known


def _rebuild(
    layers: tuple[description.Layer, ...],
    weights: list[dict[str, np.ndarray]],
    backend: str,
    precision: str,
    threads: int | None,
) -> Model:
    named = {f"layers.{number}.{name}": value for number, part in enumerate(weights) for name, value in part.items()}
    return Model(layers, named, backend=backend, precision=precision, threads=threads)


def check_weights(layers: tuple[description.Layer, ...], weights: Mapping[str, np.ndarray]) -> None:
    """Raise ModelFolderError, naming the weight, unless names, shapes and dtypes are those of the description."""
    shapes = description.weight_shapes(tuple(layers))
    for name, shape in shapes.items():
        if name not in weights:
            raise ModelFolderError(f"weight {name!r} is missing.")
        if weights[name].shape != shape:
            raise ModelFolderError(f"weight {name!r} must have shape {shape}, got {weights[name].shape}.")
        if weights[name].dtype != np.float32:
            raise ModelFolderError(f"weight {name!r} must be float32, got {weights[name].dtype}.")
    if unknown := sorted(weights.keys() - shapes.keys()):
        raise ModelFolderError(f"weight {unknown[0]!r} belongs to no layer of the description.")


def _blocks(batch: Ragged) -> Iterator[Ragged]:
    """Cut a batch into runs of whole sequences of at most `_BLOCK_STEPS` steps, or one longer sequence."""
    offsets, row = batch.offsets, 0
    while True:
        end = int(np.searchsorted(offsets, offsets[row] + _BLOCK_STEPS, side="right")) - 1
        end = min(max(end, row + 1), len(batch))
        yield Ragged(batch.values[offsets[row] : offsets[end]], offsets[row : end + 1] - offsets[row])
        row = end
        if row >= len(batch):
            return
