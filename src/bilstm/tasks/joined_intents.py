"""Intents of a tagger: a linear n-gram model beside the network, joined where the development part gains by it.

The tagger's layers are trained for tags first, an intent has a tenth of the loss; and the words that tell an intent
("find the schedule", "add ... to my playlist") are few and frequent. A linear model over the same words sees them as
well and errs elsewhere. Its margins are added to the network's scores of intents with weights fitted on the development
part, as text classification does; tags stay as they are. Imports scikit-learn only through `evaluation.baseline`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bilstm.evaluation.baseline import fit_linear_baseline
from bilstm.evaluation.joining import fit_joining
from bilstm.runtime.ngram_linear import NgramLinear
from bilstm.tasks.joined_linear import JoinedLinear

__all__ = ["join_intents", "lower_case"]

MIN_ROWS = 100  # fewer development rows say little about the weights
MIN_GAIN = 0.02  # of the log loss; less is not worth a second model in the folder


def lower_case(sentences: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the words as the linear model reads them."""
    return [[token.lower() for token in tokens] for tokens in sentences]


def join_intents(
    train: tuple[Sequence[Sequence[str]], np.ndarray],
    dev: tuple[Sequence[Sequence[str]], np.ndarray],
    logits: np.ndarray,
    loss_alone: float,
    seed: int,
) -> tuple[JoinedLinear | None, str]:
    """Fit a linear model of the intents and its weight beside the network.

    Parameters
    ----------
    train, dev : (token lists, ndarray of shape (sentences,) integer)
        Sentences and the number of each one's intent.
    logits : ndarray of shape (dev sentences, intents)
        Scores of the network on the development part.
    loss_alone : float
        Mean negative log likelihood of the network alone there, at its best temperature, in nats.
    seed : int
        Of the solver's order.

    Returns
    -------
    JoinedLinear or None
        None where the development part has less than `MIN_ROWS` sentences, or gains less than `MIN_GAIN` by it.
    note : str
        What was done, in a sentence.

    Notes
    -----
    NB-SVM (Wang and Manning 2012): which words stand in a sentence matters here, not how often. The setting is chosen
    by the loss on the development part, which tells more of a few hundred sentences than the count of mistakes.
    """
    if len(dev[1]) < MIN_ROWS:
        return None, f"Intents: no n-gram model is joined, {len(dev[1])} development sentences are too few."
    dev_words = lower_case(dev[0])
    found = fit_linear_baseline(
        lower_case(train[0]), train[1], dev_words, dev[1], "classification", logits.shape[1], seed,
        families=("nb-svm",), choose_by="loss",
    )  # fmt: skip
    linear = _one_score_an_intent(found.to_runtime())
    margins = linear.margins(dev_words)
    joining = fit_joining(logits, margins, dev[1])
    if joining.network <= 0 or not any(joining.linear) or joining.loss > loss_alone * (1 - MIN_GAIN):
        return None, "Intents: no n-gram model is joined, the development part gains nothing by it."
    note = f"Intents: an n-gram model is joined, development log loss {loss_alone:.4f} -> {joining.loss:.4f}."
    return JoinedLinear(linear, joining), note


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
