"""A tagger as torch modules: what `runtime.tagger` runs without torch, and the heads that only training needs.

Place in the way of the data: `WordBatch -> emissions -> loss`. Imports torch, `description` and the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from bilstm.data.ragged import Ragged
from bilstm.data.tags import AllowedTags
from bilstm.data.word_encoder import WordBatch
from bilstm.description import Linear
from bilstm.layers.characters import WordFeatures
from bilstm.layers.crf import Crf
from bilstm.layers.engine_op import Precision
from bilstm.layers.model import build_model
from bilstm.layers.randomness import Randomness
from bilstm.runtime.tagger import TaggerLayers

__all__ = ["Tagger", "TaggerScores", "runtime_weights"]

TRAINING_ONLY = "auxiliary."


@dataclass(frozen=True)
class TaggerScores:
    """What a tagger gives: emissions (steps, tags), intent (batch, intents) or None, auxiliary (steps, labels)."""

    emissions: Ragged
    intent: Tensor | None
    auxiliary: dict[str, Tensor]


class Tagger(nn.Module):
    """Word features, recurrent layers, a head for tags, and heads for intents and auxiliary labels.

    Parameters
    ----------
    layers : TaggerLayers
    allowed : AllowedTags
        Masks of the CRF.
    auxiliary : mapping of str to int
        Further label columns to predict while training, with their number of labels: what they teach the shared layers
        helps the tags (multi-task learning, Søgaard and Goldberg 2016). These heads are not part of a saved model.
    randomness : Randomness
    backend, precision, threads
        As `build_model`.
    """

    def __init__(
        self,
        layers: TaggerLayers,
        allowed: AllowedTags,
        randomness: Randomness,
        auxiliary: Mapping[str, int] | None = None,
        *,
        backend: str = "auto",
        precision: Precision = "float32",
        threads: int | None = None,
    ):
        super().__init__()
        how = {"backend": backend, "precision": precision, "threads": threads}
        self.layers = layers
        self.randomness = randomness
        self.features = WordFeatures(layers.words, layers.characters, layers.traits, randomness, **how)  # type: ignore[arg-type]
        self.encoder = build_model(layers.encoder, randomness, **how)  # type: ignore[arg-type]
        self.tags = build_model(layers.tags, randomness)
        self.intent = build_model(layers.intent, randomness) if layers.intent else None
        self.crf = Crf(len(allowed.start), *allowed) if layers.crf else None
        size = layers.tags[0].input_size  # type: ignore[union-attr]
        self.auxiliary = nn.ModuleDict(
            {name: build_model((Linear(size, count),), randomness) for name, count in (auxiliary or {}).items()}
        )

    def forward(self, batch: WordBatch) -> TaggerScores:
        """Score tags, intents and, while training, auxiliary labels."""
        return self.run_from_features(self.features(batch))

    def run_from_features(self, features: Ragged) -> TaggerScores:
        """Run everything after the word features, as adversarial training needs it; values (steps, features)."""
        hidden = self.encoder(features)
        intent = self.intent(hidden) if self.intent is not None else None
        auxiliary = {}
        if self.training:
            auxiliary = {name: head(hidden).values for name, head in self.auxiliary.items()}
        return TaggerScores(self.tags(hidden), intent, auxiliary)


def runtime_weights(tagger: Tagger) -> dict[str, np.ndarray]:
    """Copy the weights that a saved model needs to numpy."""
    return {
        name: value.detach().cpu().numpy().copy()
        for name, value in tagger.state_dict().items()
        if not name.startswith(TRAINING_ONLY)
    }
