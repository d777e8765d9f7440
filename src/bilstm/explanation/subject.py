"""A text model as explanation methods see it: words in, a score of each class out, split into its parts.

The score of a class is linear in the logits z of the whole model (network and joined linear models), so that every
method can take it apart:

    two classes      z / T for the second class, -z / T for the first: the log-odds
    many classes     (z_k - mean of the other logits) / T: the log of p_k over the geometric mean of the others
    several labels   z_k / T: the log-odds of the label
    numbers          the number itself

T is the temperature of the model. Imports numpy, `data`, `explanation`'s network; no torch, no `tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bilstm import description
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import UNKNOWN_ID
from bilstm.errors import UsageError
from bilstm.explanation.averaged_network import AveragedNetwork
from bilstm.explanation.linear_part import word_shares
from bilstm.explanation.network import Network
from bilstm.explanation.words import TextWords, words_of_texts
from bilstm.metrics import apply_temperature

__all__ = ["TextSubject"]


class TextSubject:
    """A text classifier opened up.

    Parameters
    ----------
    model : TextModel
        As `bilstm.load` gives it. Nothing of it is changed, and it is not kept alive.
    """

    def __init__(self, model: Any):
        self.encoder = model.encoder
        self.labels: LabelSet = model.labels
        self.temperature, self.shift, self.scale = model.temperature, model.shift, model.scale
        self.threads: int | None = model.model.threads
        layers, weights = model.model.description, model.weights
        backend = model.model.backend
        self.table: np.ndarray
        self.network: Network | AveragedNetwork
        if isinstance(ensemble := layers[0], description.Average):
            members = [description.member_weights(ensemble, at, weights) for at in range(ensemble.members)]
            self.table = np.concatenate([_table_of(ensemble.layers, own) for own in members], axis=1)
            self.network = AveragedNetwork(
                [
                    Network.behind_embedding(ensemble.layers, own, backend=backend, threads=self.threads)
                    for own in members
                ]
            )
        else:
            self.table = _table_of(layers, weights)
            self.network = Network.behind_embedding(layers, weights, backend=backend, threads=self.threads)
        self.linear = None if model.joined is None else model.joined.linear
        self.joining = None if model.joined is None else model.joined.joining
        self.outputs = 1 if self.labels.kind in ("binary", "regression") else len(self.labels.names)

    # ---- words and vectors ------------------------------------------------------------------------------------------

    def words(self, texts: Sequence[str] | Ragged) -> list[TextWords]:
        """Cut texts into words."""
        return words_of_texts(self.encoder, texts)

    def vectors(self, words: Sequence[TextWords]) -> Ragged:
        """Return the vectors that the network reads; those of an ensemble's members side by side."""
        ids = Ragged.of([one.ids for one in words])
        return Ragged(self.table[ids.values], ids.offsets)

    @property
    def baseline(self) -> np.ndarray:
        """The vector of the unknown word: a step without information, which training has shown to the network."""
        return self.table[UNKNOWN_ID]

    # ---- logits -----------------------------------------------------------------------------------------------------

    @property
    def network_weight(self) -> float:
        """Weight of the network's logits in those of the model."""
        return 1.0 if self.joining is None else self.joining.network

    @property
    def linear_weights(self) -> tuple[float, ...]:
        """Weights of the linear models' margins."""
        return () if self.joining is None else self.joining.linear

    def constant(self) -> np.ndarray:
        """Return what a text without words gets beside the network, shape (outputs,)."""
        if self.linear is None or self.joining is None:
            return np.zeros(self.outputs)
        heads = zip(self.joining.linear, self.linear.heads, strict=True)
        return sum((weight * head.intercepts for weight, head in heads), np.zeros(self.outputs)) + self.joining.shift

    def logits(self, words: Sequence[TextWords], vectors: Ragged | None = None) -> np.ndarray:
        """Return the logits of the whole model, shape (texts, outputs), float64."""
        network = self.network.run(self.vectors(words) if vectors is None else vectors)
        return self.joined(network, [one.keys for one in words])

    def joined(self, network: np.ndarray, keys: Sequence[Sequence[str]]) -> np.ndarray:
        """Add the linear models to the network's logits."""
        if self.linear is None or self.joining is None:
            return network.astype(np.float64)
        return self.joining.join(network, self.linear.margins_of_numbers(self.linear.numbers_of(keys)))

    def logits_of_kept(self, words: Sequence[TextWords], kept: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logits of texts of which only some words are kept (bool, one a word)."""
        ids = Ragged.of([one.ids[keep[one.word_of_step]] for one, keep in zip(words, kept, strict=True)])
        keys = [
            [key for key, is_kept in zip(one.keys, keep.tolist(), strict=True) if is_kept]
            for one, keep in zip(words, kept, strict=True)
        ]
        return self.joined(self.network.run(Ragged(self.table[ids.values], ids.offsets)), keys)

    def word_shares(self, words: TextWords) -> np.ndarray:
        """Return what the words add through the linear models, shape (words, outputs)."""
        if self.linear is None:
            return np.zeros((len(words), self.outputs))
        return word_shares(self.linear, self.linear_weights, words.keys)

    # ---- scores -----------------------------------------------------------------------------------------------------

    @property
    def target_names(self) -> tuple[str, ...]:
        """What can be explained: classes or labels, or the number."""
        return ("number",) if self.labels.kind == "regression" else self.labels.names

    @property
    def unit(self) -> str:
        """Unit of scores and attributions."""
        return "number" if self.labels.kind == "regression" else "log-odds"

    def contrasts(self) -> np.ndarray:
        """Return the score of each target as weights of the logits, shape (targets, outputs)."""
        if self.labels.kind == "regression":
            return np.array([[self.scale]])
        if self.labels.kind == "binary":
            return np.array([[-1.0], [1.0]]) / self.temperature
        if self.labels.kind == "multilabel":
            return np.eye(self.outputs) / self.temperature
        count = self.outputs
        return (np.eye(count) * count - 1.0) / max(count - 1, 1) / self.temperature

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability of each class or label, shape (texts, classes), float64."""
        if self.labels.kind == "binary":
            positive = apply_temperature(logits[:, 0], self.temperature)
            return np.stack([1.0 - positive, positive], axis=1)
        return apply_temperature(logits, self.temperature, multilabel=self.labels.kind == "multilabel")

    def score_constant(self) -> float:
        """Return what is added to a score whatever the text: the shift of numbers."""
        return self.shift if self.labels.kind == "regression" else 0.0

    def chosen_targets(self, logits: np.ndarray, target: str | Sequence[str] | None) -> np.ndarray:
        """Return the numbers of the targets of each text, shape (texts, targets).

        Parameters
        ----------
        logits : ndarray of shape (texts, outputs)
        target : str, sequence of str, "all" or None
            None: the most probable class or label of each text.

        Raises
        ------
        UsageError
            For a class that the model does not know.
        """
        names = self.target_names
        if target is None:
            scores = logits @ self.contrasts().T
            return scores.argmax(axis=1)[:, None]
        if isinstance(target, str):
            wanted = names if target == "all" and "all" not in names else (target,)
        else:
            wanted = tuple(target)
        for one in wanted:
            if one not in names:
                shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise UsageError(f"the model knows no class {one!r}.", f"Its classes are: {shown}.")
        if not wanted:
            raise UsageError("no class is given to explain.", "Leave target out for the predicted class.")
        return np.tile([names.index(one) for one in wanted], (len(logits), 1))


def _table_of(layers: Sequence[description.Layer], weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the word vectors of a stack.

    Raises
    ------
    UsageError
        If it has none.
    """
    at = next((at for at, layer in enumerate(layers) if isinstance(layer, description.Embedding)), None)
    if at is None:
        raise UsageError("this model has no embedding: it does not read words.")
    return weights[f"layers.{at}.weight"]
