"""Weights that were learned elsewhere, changed with care: lower layers learn more slowly, and begin later.

Two of the three means of ULMFiT (Howard and Ruder 2018, arXiv:1801.06146): discriminative fine-tuning (section 3.2),
where the learning rate of each layer is that of the layer above it divided by 2.6, and gradual unfreezing (section
3.3), where the last layer learns alone in the first epoch and one more layer below joins it in each further epoch. The
third, a rate that rises and falls, is `schedule`. Imports nothing but the standard library and `errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bilstm.errors import UsageError

__all__ = ["LayerGroup", "layer_groups"]


@dataclass(frozen=True)
class LayerGroup:
    """Weights that learn at one pace.

    Parameters
    ----------
    names : tuple of str
        Of the parameters.
    rate : float
        Times the learning rate of the run.
    first_epoch : int
        Epoch, from 1, in which they begin to learn; before it they stay as they are.
    """

    names: tuple[str, ...]
    rate: float = 1.0
    first_epoch: int = 1


def layer_groups(
    levels: Sequence[Sequence[str]], *, decay: float = 1.0, is_gradual: bool = False
) -> tuple[LayerGroup, ...]:
    """Return how each level of a model learns.

    Parameters
    ----------
    levels : sequence of sequence of str
        Names of the parameters, lowest level first.
    decay : float, default=1.0
        How many times slower a level learns than the one above it, at least 1: rate = decay ** -(levels above it).
    is_gradual : bool
        Level l joins in epoch 1 + (levels above it); else all learn from the first epoch.

    Raises
    ------
    UsageError
        If `decay` is below 1.

    Examples
    --------
    >>> [(group.rate, group.first_epoch) for group in layer_groups([["a"], ["b"], ["c"]], decay=2.0, is_gradual=True)]
    [(0.25, 3), (0.5, 2), (1.0, 1)]
    """
    if decay < 1.0:
        raise UsageError(f"lower layers must not learn faster than those above them: decay {decay} is below 1.")
    top = len(levels) - 1
    return tuple(
        LayerGroup(tuple(names), decay ** -(top - at), 1 + (top - at) * is_gradual) for at, names in enumerate(levels)
    )
