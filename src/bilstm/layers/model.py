"""From a description to torch modules: the training face of a model.

Place in the way of the data: takes a `Ragged` of token ids, gives logits. Parameters are named as the weights of a
model folder, `layers.<index>.<parameter>`. Imports torch, `description` and the layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.errors import ShapeError, UsageError
from bilstm.layers.convolution import Convolution
from bilstm.layers.dropout import Dropout
from bilstm.layers.embedding import Embedding, WordDropout
from bilstm.layers.engine_op import Precision
from bilstm.layers.linear import Linear
from bilstm.layers.padding import host_offsets
from bilstm.layers.pooling import Pooling
from bilstm.layers.randomness import Randomness
from bilstm.layers.recurrent import Recurrent

__all__ = ["Model", "build_model", "load_weights", "weights_of"]


class Model(nn.Module):
    """A stack of layers over `Ragged`; made by :func:`build_model`.

    Attributes
    ----------
    description : tuple of layer descriptions
    randomness : Randomness
        Shared by all layers; `randomness.start_step(seed, step)` names the masks of a training step.
    layers : ModuleList
        One module per description, at the same index.
    """

    def __init__(self, layers: tuple[description.Layer, ...], modules: list[nn.Module], randomness: Randomness):
        super().__init__()
        self.description = layers
        self.randomness = randomness
        self.layers = nn.ModuleList(modules)

    def forward(self, batch: Ragged) -> Tensor | Ragged:
        """Run the whole model.

        Parameters
        ----------
        batch : Ragged of token ids (total_steps,), numpy or torch
            Vectors (total_steps, size) if the first layer is not an embedding.

        Returns
        -------
        Tensor of shape (batch, output_size), or, without a pooling layer, Ragged of (total_steps, output_size)
        """
        return self._run(self._as_tensors(batch), 0)

    def embed(self, batch: Ragged) -> Ragged:
        """Run the layers up to and with the embedding: ids (total_steps,) -> vectors (total_steps, size)."""
        batch = self._as_tensors(batch)
        for layer in self.layers[: self._embedding_end]:
            batch = layer(batch)
        return batch

    def run_from_embedded(self, batch: Ragged) -> Tensor | Ragged:
        """Run the layers after the embedding on given vectors, as adversarial training and attribution need it.

        Parameters
        ----------
        batch : Ragged of values (total_steps, size)
            Output of :meth:`embed`, or any other vectors in its place, for example a leaf that requires gradients.

        Returns
        -------
        As :meth:`forward`.
        """
        return self._run(batch, self._embedding_end)

    def parameters_from_embedded(self) -> list[nn.Parameter]:
        """Return the weights that :meth:`run_from_embedded` reads and that are trained."""
        layers = self.layers[self._embedding_end :]
        return [weight for layer in layers for weight in layer.parameters() if weight.requires_grad]

    def _run(self, batch: Ragged, start: int) -> Tensor | Ragged:
        flow: Ragged | Tensor = batch
        table: Tensor | None = None  # an embedding whose rows the next recurrent layer gathers itself
        known: dict[str, Tensor | None] = {}  # pooled values that a recurrent layer gave, until the features change
        for number, layer in enumerate(self.layers[start:], start):
            if isinstance(layer, Embedding) and isinstance(flow, Ragged) and isinstance(self._fed(number), Recurrent):
                layer.check_ids(flow)
                table = layer.weight
            elif isinstance(layer, Recurrent):
                pooling = self._fed(number)
                kinds = pooling.description.kinds if isinstance(pooling, Pooling) else ("attention",)
                pooled_kinds = None if "attention" in kinds else kinds
                result = layer(flow, with_cell_state=False, embedding=table, pooled_kinds=pooled_kinds)
                flow, table = (flow if result.outputs is None else result.outputs), None
                known = {"last": result.final, "max": result.max_values, "mean": result.mean_values}
            elif isinstance(layer, Dropout):
                flow, known["last"] = layer(flow, known.get("last"))
            elif isinstance(layer, Pooling):
                flow, known = layer(flow, known), {}
            else:
                flow, known = layer(flow), {}
        return flow

    def _fed(self, number: int) -> nn.Module | None:
        """Return the next layer, leaving out dropout that does nothing now."""
        for layer in self.layers[number + 1 :]:
            if not (isinstance(layer, Dropout) and not layer.is_active):
                return layer
        return None

    @property
    def _embedding_end(self) -> int:
        ends = [number + 1 for number, layer in enumerate(self.layers) if isinstance(layer, Embedding | WordDropout)]
        return max(ends, default=0)

    def _as_tensors(self, batch: Ragged) -> Ragged:
        device = next(iter(self.parameters())).device
        offsets = torch.from_numpy(host_offsets(batch))
        return Ragged(torch.as_tensor(batch.values, device=device), offsets)


def build_model(
    layers: tuple[description.Layer, ...],
    randomness: Randomness,
    *,
    backend: str = "auto",
    precision: Precision = "float32",
    threads: int | None = None,
) -> Model:
    """Make torch modules of a description.

    Parameters
    ----------
    layers : tuple of layer descriptions
    randomness : Randomness
        Draws the initial weights, layer by layer, from where it stands; then the layers share it for their masks.
    backend : {"auto", "engine", "torch", "reference"}, default="auto"
        How recurrent layers are computed.
    precision : {"float32", "bfloat16"}, default="float32"
    threads : int, optional

    Returns
    -------
    Model

    Raises
    ------
    UsageError
        If a layer does not fit the one before it.
    """
    description.check_layers(layers)
    if any(isinstance(layer, description.Average) for layer in layers):
        raise UsageError("an ensemble is not trained as one: its members are.", "Build each member by itself.")
    modules = [_build_layer(layer, randomness, backend, precision, threads) for layer in layers]
    return Model(tuple(layers), modules, randomness)


def _build_layer(
    layer: description.Layer, randomness: Randomness, backend: str, precision: Precision, threads: int | None
) -> nn.Module:
    if isinstance(layer, description.WordDropout):
        return WordDropout(layer.rate, layer.unknown_id, randomness=randomness)
    if isinstance(layer, description.Embedding):
        return Embedding(layer.vocabulary_size, layer.size, randomness=randomness)
    if isinstance(layer, description.Dropout):
        return Dropout(layer.rate, layer.variational, randomness=randomness)
    if isinstance(layer, description.Convolution):
        return Convolution(
            layer.input_size, layer.output_size, layer.kernel_size, layer.activation, randomness=randomness
        )
    if isinstance(layer, description.Pooling):
        return Pooling(layer.input_size, layer.kinds, randomness=randomness)
    if isinstance(layer, description.Linear):
        return Linear(layer.input_size, layer.output_size, layer.activation, randomness=randomness)
    assert isinstance(layer, description.Recurrent)  # `build_model` refuses ensembles
    return Recurrent(
        layer.cell,
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        layer.bidirectional,
        layer.merge_mode,
        layer.dropout,
        layer.variational_dropout,
        layer.weight_dropout,
        layer.nonlinearity,
        randomness=randomness,
        backend=backend,
        precision=precision,
        threads=threads,
    )


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Copy the weights of a model to numpy, named `layers.<index>.<parameter>`."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}


def load_weights(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Copy weights into a model, in place.

    Raises
    ------
    ShapeError
        If a weight is missing, unknown or of another shape; nothing is copied then.
    """
    own = model.state_dict()
    for name in own:
        if name not in weights:
            raise ShapeError(f"weight {name!r} is missing.")
        if tuple(weights[name].shape) != tuple(own[name].shape):
            raise ShapeError(f"weight {name!r} must have shape {tuple(own[name].shape)}, got {weights[name].shape}.")
    if unknown := sorted(weights.keys() - own.keys()):
        raise UsageError(f"weight {unknown[0]!r} belongs to no layer of this model.")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))
