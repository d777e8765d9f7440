"""Dropout over `Ragged` or over pooled vectors. Imports torch, `description`, `randomness`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.layers.randomness import Randomness

__all__ = ["Dropout"]


class Dropout(nn.Module):
    """Zero features with probability `rate` while training and scale the others by 1 / (1 - rate).

    Parameters
    ----------
    rate : float, 0 <= rate < 1
    variational : bool, default=False
        One mask per sequence for all its steps (Gal and Ghahramani 2016, arXiv 1512.05287) instead of one per step.
    randomness : Randomness, optional

    References
    ----------
    .. [1] N. Srivastava et al.: Dropout: A Simple Way to Prevent Neural Networks from Overfitting. JMLR 15, 2014.
    """

    def __init__(self, rate: float, variational: bool = False, *, randomness: Randomness | None = None):
        super().__init__()
        self.description = description.Dropout(rate, variational)
        description.check_layer(self.description)
        self.randomness = Randomness() if randomness is None else randomness

    @property
    def is_active(self) -> bool:
        """Whether anything is dropped now."""
        return self.training and self.description.rate > 0

    def forward(self, batch: Ragged | Tensor, final: Tensor | None = None) -> tuple[Ragged | Tensor, Tensor | None]:
        """Drop features of steps and, where there are, of the final states that pooling "last" will read.

        Parameters
        ----------
        batch : Ragged of values (total_steps, ...) or Tensor of shape (batch, size)
        final : Tensor of shape (batch, ...), optional
            The variational mask of a sequence acts on its final state too; otherwise it gets a mask of its own.

        Returns
        -------
        batch, final : of the shapes given
        """
        if not self.is_active:
            return batch, final
        rate = self.description.rate
        if isinstance(batch, Tensor):
            return batch * self.randomness.mask(tuple(batch.shape), rate, batch), final
        values = batch.values
        if not self.description.variational:
            dropped = values * self.randomness.mask(tuple(values.shape), rate, values)
            if final is not None:
                final = final * self.randomness.mask(tuple(final.shape), rate, final)
            return batch.with_values(dropped), final
        masks = self.randomness.mask((len(batch), *values.shape[1:]), rate, values)
        lengths = torch.as_tensor(batch.lengths, device=values.device)
        dropped = values * masks.repeat_interleave(lengths, dim=0, output_size=len(values))
        return batch.with_values(dropped), None if final is None else final * masks
