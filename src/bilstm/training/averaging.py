"""A running mean of the weights, which often generalises better than the last weights. Imports torch only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Exponential moving average of a model's parameters, with bias correction.

    m_t = decay m_{t-1} + (1 - decay) w_t from m_0 = 0, and the average after t steps is m_t / (1 - decay^t): the mean
    of w_1..w_t with weights proportional to decay^(t-i) (Polyak and Juditsky 1992 for the idea; the correction as in
    Kingma and Ba 2015, section 3).

    Parameters
    ----------
    model : Module
        Its trainable parameters are averaged; buffers are not.
    decay : float
        Between 0 and 1; about 1 / (1 - decay) steps are remembered.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.steps = 0
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.sums: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        self.steps += 1
        parameters = [p.detach() for p in self._parameters.values()]
        averages = list(self.sums.values())
        torch._foreach_lerp_(averages, parameters, 1.0 - self.decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model for as long as the context lasts (nothing changes before the first update)."""
        if self.steps == 0:
            yield
            return
        correction = 1.0 - self.decay**self.steps
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self.sums[name] / correction)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(own[name])
