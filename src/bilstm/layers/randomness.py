"""The project's own source of chance for layers: every dropout mask is drawn here.

A training step is named by (seed, step); the generator is seeded anew from that name at the start of each step. So
equal seeds repeat equal masks whatever happened before, and a resumed run needs no saved generator state. Masks are
always drawn on the CPU and then moved, so every device and every backend sees the same ones. Imports torch only.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["Randomness"]


class Randomness:
    """A seeded generator that layers share.

    Parameters
    ----------
    seed : int, default=0
        Names the initial weights that `build_model` draws. Training calls :meth:`start_step` before each step.

    Notes
    -----
    The 64-bit seed of the generator is the first 8 bytes, little endian, of
    ``sha256(f"bilstm {purpose} {seed} {step}")`` with purpose `weights` or `step`. Neighbouring seeds and steps thus
    give unrelated numbers, which adding or multiplying them would not.

    Examples
    --------
    >>> randomness = Randomness()
    >>> randomness.start_step(seed=7, step=3)
    >>> first = randomness.mask((4, 2), rate=0.5)
    >>> randomness.start_step(seed=7, step=3)
    >>> bool((randomness.mask((4, 2), rate=0.5) == first).all())
    True
    """

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator()
        self.start_weights(seed)

    def start_weights(self, seed: int) -> None:
        """Begin the numbers from which initial weights are drawn."""
        self.generator.manual_seed(_generator_seed("weights", seed, 0))

    def start_step(self, seed: int, step: int) -> None:
        """Begin the numbers of one training step.

        Parameters
        ----------
        seed : int
            Seed of the run.
        step : int
            Number of the optimizer step, counted over the whole run.
        """
        self.generator.manual_seed(_generator_seed("step", seed, step))

    def mask(self, shape: tuple[int, ...], rate: float, like: Tensor | None = None) -> Tensor:
        """Draw a dropout mask: 0 with probability `rate`, else 1 / (1 - rate).

        Parameters
        ----------
        shape : tuple of int
        rate : float, 0 <= rate < 1
        like : Tensor, optional
            Gives dtype and device; float32 on the CPU without it. The pattern does not depend on it.
        """
        kept = torch.rand(shape, generator=self.generator) >= rate
        scaled = kept * (1.0 / (1.0 - rate))
        return scaled if like is None else scaled.to(dtype=like.dtype, device=like.device)

    def chosen(self, shape: tuple[int, ...], rate: float, device: torch.device | None = None) -> Tensor:
        """Draw booleans that are true with probability `rate`."""
        return (torch.rand(shape, generator=self.generator) < rate).to(device)


def _generator_seed(purpose: str, seed: int, step: int) -> int:
    digest = hashlib.sha256(f"bilstm {purpose} {int(seed)} {int(step)}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=False)
