"""A trained tagger without torch: word features, recurrent layers, one score a tag and step, the CRF's weights.

Place in the way of the data: `WordBatch -> emissions -> decode`. The torch face is `bilstm.layers.tagger`; both read
`TaggerLayers`. Imports numpy, `data`, `description`, `errors` and the runtime models that its parts are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.tags import AllowedTags
from bilstm.data.word_encoder import WordBatch
from bilstm.description import Layer, layers_from_config, layers_to_config
from bilstm.errors import ModelFolderError
from bilstm.runtime.crf import CrfWeights
from bilstm.runtime.model import Model
from bilstm.runtime.word_features import WordFeatures, weights_under

__all__ = ["CRF_WEIGHTS", "Tagger", "TaggerLayers"]

CRF_WEIGHTS = ("transitions", "start", "end")


@dataclass(frozen=True)
class TaggerLayers:
    """The parts of a tagger, each a stack of layers.

    Parameters
    ----------
    words, characters, traits : tuple of layer descriptions
        Sources of features, see `layers.characters`; the last two may be empty.
    encoder : tuple of layer descriptions
        From the features of a sentence to one vector a step.
    tags : tuple of layer descriptions
        From that vector to one score a tag.
    intent : tuple of layer descriptions
        From the vectors of a sentence to one score an intent; empty where there are none.
    crf : bool
        Whether neighbouring tags are scored too.
    """

    words: tuple[Layer, ...]
    characters: tuple[Layer, ...]
    traits: tuple[Layer, ...]
    encoder: tuple[Layer, ...]
    tags: tuple[Layer, ...]
    intent: tuple[Layer, ...] = ()
    crf: bool = True

    def to_config(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: part if name == "crf" else layers_to_config(part) for name, part in parts.items()}

    @classmethod
    def from_config(cls, config: Any) -> TaggerLayers:
        """Read what `to_config` wrote; the schema is closed.

        Raises
        ------
        ModelFolderError
            For anything else.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(config, dict) or config.keys() != names or not isinstance(config["crf"], bool):
            raise ModelFolderError(f"config.json: layers of a tagger must have the parts {', '.join(sorted(names))}.")
        parts = {name: layers_from_config(config[name]) for name in names if name != "crf"}
        for name in ("words", "encoder", "tags"):
            if not parts[name]:
                raise ModelFolderError(f"config.json: the part {name!r} of the tagger has no layers.")
        return cls(**parts, crf=config["crf"])


class Tagger:
    """From encoded sentences to scores.

    Parameters
    ----------
    layers : TaggerLayers
    weights : mapping of str to ndarray, float32
        `features.<source>.layers...`, `encoder.layers...`, `tags.layers...`, `intent.layers...`, `crf.<name>`.
    allowed : AllowedTags
        Which tags may follow each other; without a CRF all may.
    backend, precision, threads
        As `runtime.Model`.

    Attributes
    ----------
    crf : CrfWeights
        Minus infinity where a tag is not allowed; zeros without a CRF.

    Raises
    ------
    ModelFolderError
        If weights do not fit the layers.
    """

    def __init__(
        self,
        layers: TaggerLayers,
        weights: Mapping[str, np.ndarray],
        allowed: AllowedTags,
        *,
        backend: str = "auto",
        precision: str = "float32",
        threads: int | None = None,
    ):
        self.layers = layers
        prefixes = ("features.", "encoder.", "tags.", "intent.", "crf.")
        if strangers := sorted(name for name in weights if not name.startswith(prefixes)):
            raise ModelFolderError(f"weight {strangers[0]!r} belongs to no part of the tagger.")
        features = weights_under(weights, "features")
        options: dict[str, Any] = {"backend": backend, "precision": precision, "threads": threads}
        self._features = WordFeatures(layers.words, layers.characters, layers.traits, features, **options)
        self._encoder = Model(layers.encoder, weights_under(weights, "encoder"), **options)
        self._tags = Model(layers.tags, weights_under(weights, "tags"))
        self._intent = Model(layers.intent, weights_under(weights, "intent")) if layers.intent else None
        self.crf = _crf_weights(weights_under(weights, "crf"), layers.crf, allowed)

    def features(self, batch: WordBatch) -> Ragged:
        """Return what the encoder reads: one vector a step, (steps, features)."""
        return self._features.run(batch)

    @property
    def backend(self) -> str:
        """What runs the encoder: "engine" or "numpy"."""
        return self._encoder.backend

    @property
    def threads(self) -> int | None:
        """Threads of the engine; None: every processor that the process may use."""
        return self._encoder.threads

    def run(self, batch: WordBatch) -> tuple[Ragged, np.ndarray | None]:
        """Score tags and intents.

        Parameters
        ----------
        batch : WordBatch

        Returns
        -------
        emissions : Ragged, values of shape (steps, tags), float32
        intent : ndarray of shape (batch, intents), float32, or None
        """
        hidden = self._encoder.run(self._features.run(batch))
        assert isinstance(hidden, Ragged)
        emissions = self._tags.run(hidden)
        assert isinstance(emissions, Ragged)
        intent = self._intent.run(hidden) if self._intent is not None else None
        assert not isinstance(intent, Ragged)
        return emissions, intent


def _crf_weights(weights: Mapping[str, np.ndarray], has_crf: bool, allowed: AllowedTags) -> CrfWeights:
    tags = len(allowed.start)
    if not has_crf:
        if weights:
            raise ModelFolderError("weights of a CRF are there, but the layers have none.")
        zeros = np.zeros(tags, dtype=np.float32)
        return CrfWeights(np.zeros((tags, tags), dtype=np.float32), zeros, zeros)
    masks = dict(zip(CRF_WEIGHTS, allowed, strict=True))
    if weights.keys() != masks.keys():
        raise ModelFolderError(f"the weights of the CRF must be {', '.join(CRF_WEIGHTS)}.")
    for name, mask in masks.items():
        if weights[name].shape != mask.shape:
            raise ModelFolderError(f"weight 'crf.{name}' must have shape {mask.shape}, got {weights[name].shape}.")
    return CrfWeights(**{name: np.where(mask, weights[name], -np.inf) for name, mask in masks.items()})
