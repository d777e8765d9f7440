"""Linear n-gram models beside a network: what a text classifier and the intents of a tagger may add to their logits.

Place in the way of the data: `tokens -> margins`, added to the network's logits with weights fitted on the development
part (`evaluation.joining`). Imports numpy and the runtime models; torch and scikit-learn are not needed to predict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.errors import ModelFolderError
from bilstm.evaluation.joining import Joining
from bilstm.runtime.ngram_linear import NgramLinear

__all__ = ["JoinedLinear"]


@dataclass(frozen=True)
class JoinedLinear:
    """Linear n-gram models whose margins are added to the network's logits."""

    linear: NgramLinear
    joining: Joining

    def join(self, network_logits: np.ndarray, token_lists: Sequence[Sequence[str]]) -> np.ndarray:
        """Return joined logits, shape (rows, outputs), float64."""
        return self.joining.join(network_logits, self.linear.margins(token_lists))

    def without_unused(self) -> JoinedLinear:
        """Leave out linear models whose weight is 0: the answers stay as they are, and come sooner."""
        used = [number for number, weight in enumerate(self.joining.linear) if weight != 0]
        if not used or len(used) == len(self.joining.linear):
            return self
        weights = tuple(self.joining.linear[number] for number in used)
        return JoinedLinear(self.linear.taking(used), dataclasses.replace(self.joining, linear=weights))

    @classmethod
    def from_folder(
        cls, config: Any, arrays: dict[str, np.ndarray], files: dict[str, bytes], outputs: int
    ) -> JoinedLinear | None:
        """Read back what a model folder holds; None where nothing is joined.

        Raises
        ------
        ModelFolderError
            If the parts do not fit each other.
        """
        if config is None and not arrays:
            return None
        names = {"network", "linear", "shift", "loss"}
        if not isinstance(config, dict) or config.keys() != names or "ngrams.json" not in files:
            raise ModelFolderError(
                "config.json: joined, the linear weights and ngrams.json must all be there, or none."
            )
        numbers = [config["network"], config["shift"], config["loss"], *_listed(config["linear"])]
        if not all(isinstance(value, float | int) and not isinstance(value, bool) for value in numbers):
            raise ModelFolderError("config.json: joined must hold numbers.")
        linear = NgramLinear.from_folder(arrays, files["ngrams.json"], outputs)
        if len(linear.heads) != len(config["linear"]):
            raise ModelFolderError("config.json: joined must have one weight for each linear model.")
        weights = tuple(float(weight) for weight in config["linear"])
        joining = Joining(float(config["network"]), weights, float(config["shift"]), float(config["loss"]))
        return cls(linear, joining).without_unused()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]
