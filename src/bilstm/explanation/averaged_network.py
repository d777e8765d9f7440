"""The networks of an ensemble as one: each reads its own word vectors, and their logits are averaged.

Logits are averaged, so whatever is linear in them is the mean of what it is for each member: gradients, attributions,
what leaving a word out changes. The vectors of a step stand side by side, those of the first member first. Imports
numpy and `explanation.network`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.explanation.network import Network, Trace
from bilstm.explanation.pooled_pass import PooledTrace

__all__ = ["AveragedNetwork", "AveragedTrace", "mean_of"]


@dataclass(frozen=True, eq=False)
class AveragedTrace:
    """A pass through all members.

    Parameters
    ----------
    members : tuple of Trace or PooledTrace
    """

    members: tuple[Trace | PooledTrace, ...]

    @property
    def outputs(self) -> np.ndarray:
        """Mean logits (batch, outputs), float32."""
        return mean_of([trace.outputs for trace in self.members])


class AveragedNetwork:
    """Several networks of the same layers that answer together.

    Parameters
    ----------
    members : sequence of Network
    """

    def __init__(self, members: Sequence[Network]):
        self.members = tuple(members)

    @property
    def layers(self) -> tuple:
        """Layers of each member."""
        return self.members[0].layers

    @property
    def is_pooled(self) -> bool:
        """As `Network.is_pooled`."""
        return self.members[0].is_pooled

    @property
    def has_gradients(self) -> bool:
        """As `Network.has_gradients`."""
        return self.members[0].has_gradients

    def parts(self, batch: Ragged) -> list[tuple[Network, Ragged]]:
        """Return each member with the vectors that it reads."""
        own = np.split(batch.values, len(self.members), axis=1)
        return [
            (member, batch.with_values(np.ascontiguousarray(values)))
            for member, values in zip(self.members, own, strict=True)
        ]

    def run(self, batch: Ragged) -> np.ndarray:
        """Return mean logits of vectors (steps, members * size): (batch, outputs), float32."""
        return mean_of([member.run(own) for member, own in self.parts(batch)])

    def hidden(self, batch: Ragged) -> np.ndarray:
        """Return what the members' last linear layers read, side by side: (batch, members * features)."""
        return np.concatenate([member.hidden(own) for member, own in self.parts(batch)], axis=1)

    def trace(self, batch: Ragged, *, for_gradients: bool = False) -> AveragedTrace:
        """Run all members and keep what every layer read and gave."""
        return AveragedTrace(tuple(member.trace(own, for_gradients=for_gradients) for member, own in self.parts(batch)))

    def gradient(self, trace: Any, d_outputs: np.ndarray) -> np.ndarray:
        """Return the gradient by the vectors (steps, members * size), float32."""
        found = [one.gradient(own, d_outputs) for one, own in zip(self.members, trace.members, strict=True)]
        return np.concatenate(found, axis=1) / np.float32(len(found))


def mean_of(values: Sequence[np.ndarray]) -> np.ndarray:
    """Average what the members give, in its type, as `runtime.Model` does to the last bit; one value stays as it is."""
    if len(values) == 1:
        return values[0]
    return np.stack(values).mean(axis=0, dtype=np.float64).astype(values[0].dtype)
