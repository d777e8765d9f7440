"""Affine maps of single steps or pooled vectors. Imports torch and `description`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.layers.activation import ACTIVATIONS
from bilstm.layers.randomness import Randomness

__all__ = ["Linear"]


class Linear(nn.Module):
    """Map the last axis: activation(W x + b).

    Parameters
    ----------
    input_size, output_size : int
    activation : {"none", "relu", "tanh", "sigmoid"}, default="none"
    randomness : Randomness, optional
        Initial weights are Glorot uniform (Glorot and Bengio 2010), biases 0, as in Keras' `Dense`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        activation: description.Activation = "none",
        *,
        randomness: Randomness | None = None,
    ):
        super().__init__()
        self.description = description.Linear(input_size, output_size, activation)
        description.check_layer(self.description)
        self.randomness = Randomness() if randomness is None else randomness
        self.weight = nn.Parameter(torch.empty(output_size, input_size))
        self.bias = nn.Parameter(torch.zeros(output_size))
        nn.init.xavier_uniform_(self.weight, generator=self.randomness.generator)

    def forward(self, batch: Ragged | Tensor) -> Ragged | Tensor:
        """Map every step of a Ragged, or every row of a Tensor; the same kind comes back."""
        if isinstance(batch, Ragged):
            return batch.with_values(self._map(batch.values))
        return self._map(batch)

    def _map(self, values: Tensor) -> Tensor:
        return ACTIVATIONS[self.description.activation](nn.functional.linear(values, self.weight, self.bias))
