"""What a model scores in each precision that this machine can run it in: for metrics.json and the model card.

Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bilstm.data.tagged_sentences import TaggedSentences
from bilstm.data.tags import allowed_tags
from bilstm.eight_bit_weights import round_to_int8
from bilstm.runtime.engine_recurrent import resolve_precision
from bilstm.runtime.model import Model as RuntimeModel
from bilstm.runtime.ngram_linear import NgramLinear
from bilstm.runtime.tagger import Tagger
from bilstm.tasks.joined_intents import JoinedIntents
from bilstm.tasks.joined_linear import JoinedLinear
from bilstm.tasks.sequence_tagging import TaggerModel
from bilstm.tasks.tagging_scores import main_score
from bilstm.tasks.text_classification import TextModel, Texts

__all__ = ["INT8", "precision_lines", "precision_scores", "tagger_precision_scores"]

SCORES = {"regression": "root_mean_squared_error", "multilabel": "micro_f1"}
INT8 = "int8_weights"
_TITLES = {INT8: "float32, weights stored in int8 (`bilstm export --int8`)"}


def precision_scores(model: TextModel, texts: Texts, targets: np.ndarray) -> dict[str, Any]:
    """Score labelled texts in every precision.

    Returns
    -------
    dict
        `score`, the name of what is measured; then its value by precision: `float32`, `bfloat16` where this machine
        has instructions for it, and `int8_weights`: float32 with weights rounded as `bilstm export --int8` does.
    """
    name = SCORES.get(model.labels.kind, "accuracy")

    def score(precision: str, is_rounded: bool) -> float | None:
        other = model
        if is_rounded or model.model.precision != precision:
            weights = round_to_int8(model.weights) if is_rounded else model.weights
            runtime = RuntimeModel(model.model.description, weights, precision=precision, threads=model.model.threads)
            joined = _rounded_linear(model.joined) if is_rounded and model.joined else model.joined
            other = dataclasses.replace(model, model=runtime, weights=weights, joined=joined)
        return other.measure(other.predict_proba(texts), targets)[name]

    return {"score": name, **_by_precision(score)}


def tagger_precision_scores(model: TaggerModel, part: TaggedSentences) -> dict[str, Any]:
    """Score tagged sentences in every precision; result as that of `precision_scores`."""
    names = []

    def score(precision: str, is_rounded: bool) -> float | None:
        weights = round_to_int8(model.weights) if is_rounded else model.weights
        allowed = allowed_tags(model.tags, model.inner_scheme)
        tagger = Tagger(model.tagger.layers, weights, allowed, precision=precision, threads=model.tagger.threads)
        joined = _rounded_intents(model.joined) if is_rounded and model.joined else model.joined
        other = dataclasses.replace(model, tagger=tagger, weights=weights, joined=joined)
        intents = other.predict_intents(part.tokens) if model.intents else None
        name, value = main_score(other.measure(part, other.predict(part.tokens), intents))
        names.append(name)
        return value

    found = _by_precision(score)
    return {"score": names[0], **found}


def _by_precision(score: Callable[[str, bool], float | None]) -> dict[str, float | None]:
    precisions = ["float32"] + (["bfloat16"] if resolve_precision("auto", "auto") == "bfloat16" else [])
    return {precision: score(precision, False) for precision in precisions} | {INT8: score("float32", True)}


def _rounded_linear(joined: JoinedLinear) -> JoinedLinear:
    """Return linear models with rounded weights."""
    heads = tuple(dataclasses.replace(head, weights=_rounded(head.weights)) for head in joined.linear.heads)
    return dataclasses.replace(joined, linear=NgramLinear(joined.linear.index, heads))


def _rounded_intents(joined: JoinedIntents) -> JoinedIntents:
    """Return what is added to the scores of intents, rounded."""
    words, tag_scores = _rounded_linear(joined.words), _rounded(joined.tag_scores)
    return dataclasses.replace(joined, words=words, tag_scores=tag_scores)


def _rounded(array: np.ndarray) -> np.ndarray:
    return round_to_int8({"": array})[""]


def precision_lines(precisions: Mapping[str, Any] | None) -> list[str]:
    """Write the scores as a table of the model card."""
    if not precisions:
        return []
    name = precisions["score"]
    lines = ["", f"| `--precision` | {name.replace('_', ' ')} on the development part |", "|---|---|"]
    values = {key: "-" if value is None else f"{value:.4f}" for key, value in precisions.items() if key != "score"}
    return lines + [f"| {_TITLES.get(key, key)} | {value} |" for key, value in values.items()]
