"""Activations that a linear or convolution layer may end in. Imports torch only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ACTIVATIONS"]


def _unchanged(values: Tensor) -> Tensor:
    return values


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": _unchanged,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
