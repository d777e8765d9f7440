"""A trained model without torch: description and weights to logits.

Place in the way of the data: what predict, evaluate, explain by occlusion and serve run, and so what was measured is
what ships. Imports numpy, `data.ragged`, `description`, `errors` and the layers of this folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bilstm import description
from bilstm.data.ragged import Ragged, check_offsets
from bilstm.errors import ModelFolderError, ShapeError, UsageError
from bilstm.runtime import steps
from bilstm.runtime.recurrent import run_recurrent

__all__ = ["Model", "check_weights"]

# Steps that are run at once: bounds the memory of a large batch, and is far above what a core needs to be busy.
_BLOCK_STEPS = 65_536


class Model:
    """A stack of layers over numpy batches.

    Parameters
    ----------
    layers : tuple of layer descriptions
    weights : mapping of str to ndarray, float32
        Named `layers.<index>.<parameter>`, as `bilstm.description.weight_shapes` lists them.

    Attributes
    ----------
    description : tuple of layer descriptions

    Raises
    ------
    ModelFolderError
        If a weight is missing, unknown, or of another shape or dtype, or if a layer does not fit the one before it.
    """

    def __init__(self, layers: tuple[description.Layer, ...], weights: Mapping[str, np.ndarray]):
        try:
            description.check_layers(tuple(layers))
        except UsageError as error:
            raise ModelFolderError(f"the model description is wrong: {error}") from error
        check_weights(layers, weights)
        self.description = tuple(layers)
        self._weights = [
            {
                name: np.ascontiguousarray(weights[f"layers.{number}.{name}"])
                for name in description.weight_shapes_of(layer)
            }
            for number, layer in enumerate(layers)
        ]

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
        results = [self._run_block(block) for block in _blocks(batch)]
        if isinstance(results[0], Ragged):
            return batch.with_values(np.concatenate([part.values for part in results]))
        return np.concatenate(results)

    def _run_block(self, batch: Ragged) -> np.ndarray | Ragged:
        flow: Ragged | np.ndarray = batch
        final: np.ndarray | None = None  # last states of a recurrent layer, until a layer changes the features
        for layer, weights in zip(self.description, self._weights, strict=True):
            if isinstance(layer, description.WordDropout | description.Dropout):
                continue  # these act in training only
            if isinstance(layer, description.Linear):
                mapped = steps.map_linear(flow.values if isinstance(flow, Ragged) else flow, layer, weights)
                flow, final = flow.with_values(mapped) if isinstance(flow, Ragged) else mapped, None
                continue
            if not isinstance(flow, Ragged):  # check_layers makes this impossible
                raise ShapeError(f"{type(layer).__name__} reads sequences, got an array of shape {flow.shape}.")
            if isinstance(layer, description.Embedding):
                flow = steps.embed(flow, layer, weights)
            elif isinstance(layer, description.Convolution):
                flow, final = steps.convolve(flow, layer, weights), None
            elif isinstance(layer, description.Recurrent):
                flow, final = run_recurrent(flow, layer, weights)
            else:
                flow, final = steps.pool(flow, layer, weights, final), None
        return flow


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
