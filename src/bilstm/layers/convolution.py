"""Convolution over time on `Ragged`. Imports torch and `description`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.layers.activation import ACTIVATIONS
from bilstm.layers.randomness import Randomness

__all__ = ["Convolution"]


class Convolution(nn.Module):
    """Convolve over time; as many steps come out as went in, and beyond both ends of a sequence stand zeros.

    Parameters
    ----------
    input_size, output_size : int
    kernel_size : int, default=3
        Steps of the window. An even one reaches one step further right than left, as torch's `padding="same"`.
    activation : {"none", "relu", "tanh", "sigmoid"}, default="relu"
    randomness : Randomness, optional
        Initial weights are Glorot uniform, biases 0, as in Keras' `Conv1D`.

    Notes
    -----
    Sequences are laid end to end with kernel_size // 2 zero steps around each, so that no window sees a neighbour. The
    convolution is then a sum of one matrix product per place in the window, without gathering windows. Weight and bias
    have the names and shapes of `torch.nn.Conv1d`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        kernel_size: int = 3,
        activation: description.Activation = "relu",
        *,
        randomness: Randomness | None = None,
    ):
        super().__init__()
        self.description = description.Convolution(input_size, output_size, kernel_size, activation)
        description.check_layer(self.description)
        self.randomness = Randomness() if randomness is None else randomness
        self.weight = nn.Parameter(torch.empty(output_size, input_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(output_size))
        nn.init.xavier_uniform_(self.weight, generator=self.randomness.generator)

    def forward(self, batch: Ragged) -> Ragged:
        """Values (total_steps, input_size) to (total_steps, output_size)."""
        values: Tensor = batch.values
        kernel_size = self.description.kernel_size
        gap, left = kernel_size // 2, (kernel_size - 1) // 2
        lengths = torch.as_tensor(batch.lengths, device=values.device)
        sequence = torch.arange(len(batch), device=values.device).repeat_interleave(lengths)
        places = torch.arange(len(values), device=values.device) + (sequence + 1) * gap
        spaced = values.new_zeros(len(values) + (len(batch) + 1) * gap, values.shape[1]).index_copy(0, places, values)
        windows = len(spaced) - kernel_size + 1  # the window that starts at place p is that of the step at p + left
        if windows <= 0 or not len(values):
            return batch.with_values(values.new_zeros(0, self.description.output_size))
        sums = self.bias.expand(windows, -1)
        for place in range(kernel_size):
            sums = torch.addmm(sums, spaced[place : place + windows], self.weight[:, :, place].T)
        return batch.with_values(ACTIVATIONS[self.description.activation](sums.index_select(0, places - left)))
