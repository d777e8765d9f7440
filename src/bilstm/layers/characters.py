"""Vectors of words from what they are made of: word ids, characters, traits. Torch face, over Ragged of Ragged.

Place in the way of the data: `WordBatch -> WordFeatures -> recurrent layers`. Each source of features is an ordinary
stack of layers (`bilstm.description`), so the runtime runs the same. Character stacks:

- convolution and max pooling: Ma and Hovy 2016, "End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF",
  section 2.1, ACL, arXiv 1603.01354;
- a BiLSTM and its last states: Lample et al. 2016, "Neural Architectures for Named Entity Recognition", section 4.1,
  NAACL, arXiv 1603.01360.

Characters and traits are computed once for each different word of a batch, then looked up for each step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from bilstm.data.ragged import Ragged
from bilstm.data.word_encoder import WordBatch
from bilstm.description import Layer
from bilstm.layers.engine_op import Precision
from bilstm.layers.model import build_model
from bilstm.layers.randomness import Randomness

__all__ = ["WordFeatures"]


class WordFeatures(nn.Module):
    """One vector per step: word vector, character features and trait vectors side by side.

    Parameters
    ----------
    words : tuple of layer descriptions
        From word ids to vectors, one per step.
    characters : tuple of layer descriptions, or empty
        From character ids to one vector per different word (ends in pooling).
    traits : tuple of layer descriptions, or empty
        From trait rows to vectors; those of a word are put side by side.
    randomness : Randomness
    backend, precision, threads
        As `build_model`.
    """

    def __init__(
        self,
        words: tuple[Layer, ...],
        characters: tuple[Layer, ...],
        traits: tuple[Layer, ...],
        randomness: Randomness,
        *,
        backend: str = "auto",
        precision: Precision = "float32",
        threads: int | None = None,
    ):
        super().__init__()

        def built(layers: tuple[Layer, ...]) -> nn.Module | None:
            if not layers:
                return None
            return build_model(layers, randomness, backend=backend, precision=precision, threads=threads)

        self.words = built(words)
        self.characters = built(characters)
        self.traits = built(traits)

    def forward(self, batch: WordBatch) -> Ragged:
        """Give the features of all steps.

        Parameters
        ----------
        batch : WordBatch

        Returns
        -------
        Ragged of Tensor, values of shape (steps, features)
            Over the offsets of the sentences.
        """
        assert self.words is not None
        words = self.words(batch.words)  # Ragged, (steps, word_size)
        parts: list[Tensor] = []
        if self.characters is not None:
            parts.append(self.characters(batch.characters))  # (different words, character features)
        if self.traits is not None:
            count, kinds = batch.traits.shape
            as_steps = Ragged(batch.traits.reshape(-1), np.arange(0, count * kinds + 1, kinds))
            traits = self.traits(as_steps).values
            parts.append(traits.reshape(count, kinds * traits.shape[1]))  # (different words, kinds * trait_size)
        if not parts:
            return words
        place = torch.from_numpy(batch.place).to(words.values.device)
        return words.with_values(torch.cat([words.values, torch.cat(parts, dim=1).index_select(0, place)], dim=1))
