"""Intents of a tagger: what its tags and a linear n-gram model say, joined to the network's scores of intents.

The tagger's layers are trained for tags first, an intent has a tenth of the loss. Two further opinions cost little: the
tags that the CRF expects in a sentence (where it finds a film's name and a cinema, a showing is asked for), and a
linear model over the words. Their scores are added to the network's with weights fitted on the development part, as
text classification does; tags stay as they are. Imports scikit-learn only through `evaluation.baseline`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.errors import ModelFolderError
from bilstm.evaluation.baseline import fit_linear_baseline
from bilstm.evaluation.joining import fit_joining
from bilstm.runtime.ngram_linear import PREFIX, NgramLinear
from bilstm.tasks.joined_linear import JoinedLinear

__all__ = ["JoinedIntents", "expected_counts", "join_intents", "tag_log_shares"]

TAG_SCORES = "joined.tag_scores"  # name among the weights of a model folder
MIN_ROWS = 100  # fewer development rows say little about the weights
MIN_GAIN = 0.02  # of the log loss; less is not worth further models in the folder
SMOOTHING = 0.5  # added to every count of a tag


@dataclass(frozen=True, eq=False)
class JoinedIntents:
    """What is added to a network's scores of intents.

    Parameters
    ----------
    words : JoinedLinear
        Linear n-gram model, and the weight of the network.
    tag_scores : ndarray of shape (intents, tags), float32
        What each expected occurrence of a tag adds to each intent.
    """

    words: JoinedLinear
    tag_scores: np.ndarray

    def join(self, logits: np.ndarray, tokens: Sequence[Sequence[str]], counts: np.ndarray) -> np.ndarray:
        """Return joined scores (sentences, intents), float64; `counts` as `expected_counts` gives them."""
        joined = self.words.join(logits, _lower_case(tokens))
        for tag, scores in enumerate(self.tag_scores.T):  # one by one: a matrix product rounds rows by their place
            joined += counts[:, tag, None] * scores
        return joined

    def to_folder(self) -> tuple[dict[str, np.ndarray], str]:
        """Return the arrays, by name, and the content of ngrams.json."""
        arrays, words = self.words.linear.to_folder()
        return {**arrays, TAG_SCORES: self.tag_scores}, words

    @classmethod
    def from_folder(
        cls, config: Any, weights: Mapping[str, np.ndarray], files: dict[str, bytes], intents: int, tags: int
    ) -> tuple[JoinedIntents | None, dict[str, np.ndarray]]:
        """Read back what a model folder holds; None where nothing is joined. Beside it stand all other weights.

        Raises
        ------
        ModelFolderError
            If the parts do not fit each other.
        """
        rest = {name: array for name, array in weights.items() if not name.startswith((PREFIX, TAG_SCORES))}
        arrays = {name: array for name, array in weights.items() if name.startswith(PREFIX)}
        words, scores = JoinedLinear.from_folder(config, arrays, files, intents), weights.get(TAG_SCORES)
        if words is None and scores is None:
            return None, rest
        if words is None or scores is None or scores.shape != (intents, tags):
            raise ModelFolderError(
                f"config.json: joined and the weights {TAG_SCORES} of shape {(intents, tags)} must both be there."
            )
        return cls(words, scores), rest


def expected_counts(marginals: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sum the probabilities of tags (steps, tags) over the steps of each sentence. -> (sentences, tags), float64."""
    counts = np.zeros((len(offsets) - 1, marginals.shape[1]))
    np.add.at(counts, np.repeat(np.arange(len(counts)), np.diff(offsets)), marginals)
    return counts


def tag_log_shares(tags: Ragged, targets: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the log of the share that each tag has of the steps of an intent: naive Bayes with tags as words.

    Parameters
    ----------
    tags : Ragged of int
        Number of the tag of each step of the training sentences.
    targets : ndarray of shape (sentences,)
        Number of each sentence's intent.
    shape : (int, int)
        Numbers of intents and of tags.

    Returns
    -------
    ndarray of `shape`, float64
    """
    counts = np.full(shape, SMOOTHING)
    np.add.at(counts, (np.repeat(targets, tags.lengths), tags.values), 1)
    return np.log(counts / counts.sum(axis=1, keepdims=True))


def join_intents(
    train: tuple[Sequence[Sequence[str]], np.ndarray],
    dev: tuple[Sequence[Sequence[str]], np.ndarray],
    logits: np.ndarray,
    counts: np.ndarray,
    log_shares: np.ndarray,
    loss_alone: float,
    seed: int,
) -> tuple[JoinedIntents | None, str]:
    """Fit a linear model of the intents, and weigh it and the tags beside the network.

    Parameters
    ----------
    train, dev : (token lists, ndarray of shape (sentences,) integer)
        Sentences and the number of each one's intent.
    logits : ndarray of shape (dev sentences, intents)
        Scores of the network on the development part.
    counts : ndarray of shape (dev sentences, tags)
        Expected tags there, see `expected_counts`.
    log_shares : ndarray of shape (intents, tags)
        See `tag_log_shares`.
    loss_alone : float
        Mean negative log likelihood of the network alone there, at its best temperature, in nats.
    seed : int
        Of the solver's order.

    Returns
    -------
    JoinedIntents or None
        None where the development part has less than `MIN_ROWS` sentences, or gains less than `MIN_GAIN` by it.
    note : str
        What was done, in a sentence.

    Notes
    -----
    The linear model is NB-SVM (Wang and Manning 2012): which words stand in a sentence matters here, not how often. Its
    setting is chosen by the loss on the development part, which tells more of a few hundred sentences than the count
    of mistakes.
    """
    if len(dev[1]) < MIN_ROWS:
        return None, f"Intents: nothing is joined to the network, {len(dev[1])} development sentences are too few."
    words = _lower_case(dev[0])
    found = fit_linear_baseline(
        _lower_case(train[0]), train[1], words, dev[1], "classification", logits.shape[1], seed,
        families=("nb-svm",), choose_by="loss",
    )  # fmt: skip
    linear = _one_score_an_intent(found.to_runtime())
    margins = np.concatenate([linear.margins(words), (counts @ log_shares.T)[..., None]], axis=-1)
    joining = fit_joining(logits, margins, dev[1])
    if joining.network <= 0 or not any(joining.linear) or joining.loss > loss_alone * (1 - MIN_GAIN):
        return None, "Intents: nothing is joined to the network, the development part gains nothing by it."
    *of_words, of_tags = joining.linear
    joined = JoinedLinear(linear, dataclasses.replace(joining, linear=tuple(of_words)))
    note = (
        "Intents: tags and an n-gram model are joined to the network, development log loss "
        f"{loss_alone:.4f} -> {joining.loss:.4f}."
    )
    return JoinedIntents(joined, (of_tags * log_shares).astype(np.float32)), note


def _lower_case(sentences: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[token.lower() for token in tokens] for tokens in sentences]


def _one_score_an_intent(linear: NgramLinear) -> NgramLinear:
    """Turn the one score of two classes, which speaks for the second, into two with the same difference."""
    heads = tuple(
        head
        if len(head.intercepts) > 1
        else dataclasses.replace(
            head,
            weights=np.concatenate([-head.weights, head.weights]) / 2,
            intercepts=np.concatenate([-head.intercepts, head.intercepts]) / 2,
        )
        for head in linear.heads
    )
    return NgramLinear(linear.index, heads)
