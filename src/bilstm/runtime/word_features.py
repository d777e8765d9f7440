"""Vectors of words from word ids, characters and traits, without torch: the runtime face of `layers.characters`.

Imports numpy, `data`, `description`, and the runtime model that each stack of layers is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.word_encoder import WordBatch
from bilstm.description import Layer
from bilstm.runtime.model import Model

__all__ = ["WordFeatures", "weights_under"]


def weights_under(weights: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Take the weights whose names begin with `prefix` and a point, without it."""
    start = prefix + "."
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}


class WordFeatures:
    """One vector per step: word vector, character features and trait vectors side by side.

    Parameters
    ----------
    words, characters, traits : tuple of layer descriptions
        As `bilstm.layers.characters.WordFeatures`; the last two may be empty.
    weights : mapping of str to ndarray, float32
        Named `words.layers.<index>.<parameter>`, `characters.layers...`, `traits.layers...`.
    backend, precision, threads
        As `runtime.Model`; they matter where characters are read by a recurrent layer.

    Raises
    ------
    ModelFolderError
        If weights do not fit the descriptions.
    """

    def __init__(
        self,
        words: tuple[Layer, ...],
        characters: tuple[Layer, ...],
        traits: tuple[Layer, ...],
        weights: Mapping[str, np.ndarray],
        *,
        backend: str = "auto",
        precision: str = "float32",
        threads: int | None = None,
    ):
        self._words = Model(words, weights_under(weights, "words"))
        self._characters = None
        if characters:
            options: dict[str, Any] = {"backend": backend, "precision": precision, "threads": threads}
            self._characters = Model(characters, weights_under(weights, "characters"), **options)
        self._traits = Model(traits, weights_under(weights, "traits")) if traits else None

    def run(self, batch: WordBatch) -> Ragged:
        """Give the features of all steps: Ragged of values (steps, features), float32."""
        words = self._words.run(batch.words)
        assert isinstance(words, Ragged)
        parts = [words.values]
        if self._characters is not None:
            characters = self._characters.run(batch.characters)  # (different words, character features)
            assert isinstance(characters, np.ndarray)
            parts.append(characters[batch.place])
        if self._traits is not None:
            count, kinds = batch.traits.shape
            traits = self._traits.run(Ragged(batch.traits.reshape(-1), np.arange(0, count * kinds + 1, kinds)))
            assert isinstance(traits, Ragged)
            side_by_side = traits.values.reshape(count, kinds * traits.values.shape[1])
            parts.append(side_by_side[batch.place])  # (steps, kinds * trait_size)
        return words.with_values(np.concatenate(parts, axis=1))
