"""The torch face of a language model: layers over texts, and a head that predicts the words around each step.

Place in the way of the data: `NextWords -> layers -> head -> loss`. One bidirectional layer whose directions never meet
before the loss: the state that has read words 1..t predicts word t + 1, the state that has read n..t predicts word
t - 1 (Peters et al. 2018, arXiv:1802.05365, section 3.1). Weights are named as in a text classifier, so a classifier
can begin with them. Imports torch, `description` and the layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilstm import description
from bilstm.data.next_words import NextWords
from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError
from bilstm.layers.embedding import Embedding
from bilstm.layers.engine_op import Precision
from bilstm.layers.model import Model, build_model
from bilstm.layers.randomness import Randomness
from bilstm.runtime.next_word_head import head_shapes

__all__ = ["LanguageNet", "build_language_net"]


class _Head(nn.Module):
    """Parameters of `runtime.next_word_head`: projections Glorot uniform, all else 0."""

    def __init__(self, vocabulary_size: int, size: int, hidden_size: int, randomness: Randomness):
        super().__init__()
        for name, shape in head_shapes(vocabulary_size, size, hidden_size).items():
            self.register_parameter(name.removeprefix("head."), nn.Parameter(torch.zeros(shape)))
        for projection in self.get_parameter("projection"):
            nn.init.xavier_uniform_(projection, generator=randomness.generator)


class LanguageNet(Model):
    """Layers and head; made by :func:`build_language_net`.

    Parameters
    ----------
    model : Model
        Layers from ids to the states of both directions side by side.
    word_dropout : float
        Share of the vocabulary whose vectors are zero in a batch, the others scaled up (Gal and Ghahramani 2016,
        arXiv:1512.05287; Merity, Keskar, Socher 2018, arXiv:1708.02182, section 4.3). Only what is read, not what is
        predicted.
    """

    def __init__(self, model: Model, word_dropout: float = 0.0):
        super().__init__(model.description, list(model.layers), model.randomness)
        table, recurrent = _parts(model.description)
        self.hidden_size = recurrent.hidden_size
        self.word_dropout = word_dropout
        self.head = _Head(table.vocabulary_size, table.size, recurrent.hidden_size, model.randomness)

    @property
    def table(self) -> Tensor:
        """Word vectors, shape (vocabulary_size, size)."""
        number = next(n for n, layer in enumerate(self.description) if isinstance(layer, description.Embedding))
        return self.get_parameter(f"layers.{number}.weight")

    def features(self, words: NextWords) -> Tensor:
        """Return what is compared with word vectors, shape (predictions, size), in the order of `words.targets`."""
        if self.training and self.word_dropout > 0:
            return self._projected(words, self._run_dropped(self._as_tensors(words.ids), self.embed(words.ids).values))
        return self._projected(words, self(words.ids))

    def step_parts(self, words: NextWords, sampled: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what a training step compares, with one gather from the table: one dense gradient instead of three.

        Parameters
        ----------
        words : NextWords
        sampled : Tensor of shape (sampled,), int64
            Words in ascending order, the boundary included.

        Returns
        -------
        features, target_logits, weight, bias : Tensor
            As `features`, `target_logits` and `output_rows` give them.
        """
        ids = self._as_tensors(words.ids)
        next(layer for layer in self.layers if isinstance(layer, Embedding)).check_ids(ids)
        targets = torch.as_tensor(words.targets, device=self.table.device)
        is_boundary = targets == len(self.table)
        output = sampled[: int((sampled < len(self.table)).sum())]
        known = targets.masked_fill(is_boundary, 0)
        rows = self.table.index_select(0, torch.cat([ids.values, known, output]))
        read, own, compared = rows.split([len(ids.values), len(known), len(output)])
        features = self._projected(words, self._run_dropped(ids, read))
        return (
            features,
            self._target_logits(features, targets, own, is_boundary),
            *self._with_boundary(compared, sampled),
        )

    def _run_dropped(self, ids: Ragged, vectors: Tensor) -> Ragged:
        """Run the layers on vectors (steps, size) of words, some of which are dropped in training."""
        if self.training and self.word_dropout > 0:
            table = self.table
            mask = self.randomness.mask((len(table), 1), self.word_dropout, table)
            vectors = vectors * mask.index_select(0, ids.values)
        flow = self.run_from_embedded(ids.with_values(vectors))
        assert isinstance(flow, Ragged)
        return flow

    def _projected(self, words: NextWords, flow: Tensor | Ragged) -> Tensor:
        """Map the states of both directions to what is compared with word vectors."""
        assert isinstance(flow, Ragged)
        states = flow.values.split(self.hidden_size, dim=1)
        projection, bias = self.head.get_parameter("projection"), self.head.get_parameter("projection_bias")
        start = self.head.get_parameter("start")
        parts = []
        for direction, begun in enumerate((words.first_words, words.last_words)):
            parts.append(nn.functional.linear(states[direction], projection[direction], bias[direction]))
            parts.append(start[direction].expand(len(begun), -1))
        return torch.cat(parts)

    def output_rows(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return output vectors (rows, size) and biases (rows,) of words in ascending order, boundary included."""
        count = int((words < len(self.table)).sum())
        return self._with_boundary(self.table.index_select(0, words[:count]), words)

    def _with_boundary(self, rows: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        boundary = self.head.get_parameter("boundary").expand(len(words) - len(rows), -1)
        return torch.cat([rows, boundary]), self.head.get_parameter("bias").index_select(0, words)

    def target_logits(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the logit of each row's target, shape (rows,)."""
        is_boundary = targets == len(self.table)
        rows = self.table.index_select(0, targets.masked_fill(is_boundary, 0))
        return self._target_logits(features, targets, rows, is_boundary)

    def _target_logits(self, features: Tensor, targets: Tensor, rows: Tensor, is_boundary: Tensor) -> Tensor:
        own = (features * rows).sum(dim=1)
        ended = features @ self.head.get_parameter("boundary")
        return torch.where(is_boundary, ended, own) + self.head.get_parameter("bias").index_select(0, targets)


def build_language_net(
    layers: tuple[description.Layer, ...],
    randomness: Randomness,
    *,
    word_dropout: float = 0.0,
    backend: str = "auto",
    precision: Precision = "float32",
    threads: int | None = None,
) -> LanguageNet:
    """Make the torch face of a language model; parameters as `layers.model.build_model` and `LanguageNet`."""
    _parts(layers)
    model = build_model(layers, randomness, backend=backend, precision=precision, threads=threads)
    return LanguageNet(model, word_dropout)


def _parts(layers: tuple[description.Layer, ...]) -> tuple[description.Embedding, description.Recurrent]:
    """Return the embedding and the recurrent layer; raise UsageError where a direction could see what it predicts."""
    tables = [layer for layer in layers if isinstance(layer, description.Embedding)]
    recurrent = [layer for layer in layers if isinstance(layer, description.Recurrent)]
    mixing = description.Convolution | description.Pooling | description.Linear
    others = [layer for layer in layers if isinstance(layer, mixing)]
    fits = len(tables) == len(recurrent) == 1 and not others
    if not fits or not recurrent[0].bidirectional or recurrent[0].num_layers != 1:
        raise UsageError("a language model has one embedding and one bidirectional recurrent layer of one level.")
    if recurrent[0].merge_mode != "concat":
        raise UsageError(f"a language model keeps its directions apart, got merge_mode {recurrent[0].merge_mode!r}.")
    return tables[0], recurrent[0]
