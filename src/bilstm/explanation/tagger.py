"""Explanations of a tagger: which words of the sentence made a span what it is.

What is explained is the mean over the words of the span of (score of its tag - mean score of the other tags), as the
network gives them; the CRF's scores of neighbouring tags are the same for every sentence and not part of it. A word is
compared with an unknown word without letters, and occlusion puts that in its place: a sentence keeps its steps. Imports
the methods that work step by step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.data.word_encoder import WordBatch
from bilstm.errors import UsageError
from bilstm.explanation.explanation import Explanation, Explanations
from bilstm.explanation.gradients import StepAttribution, gradient_times_input, integrated_gradients, quick_gradients
from bilstm.explanation.methods import DEFAULT
from bilstm.explanation.network import Network
from bilstm.explanation.relevance import relevance

__all__ = [
    "TAGGER_METHODS",
    "Place",
    "attribute_span",
    "empty_word",
    "explain_places",
    "explain_spans",
    "network_of_tagger",
    "span_contrasts",
]

Place = tuple[int, int, str, float | None]  # first word, the one after the last, label, probability

_UNKNOWN = "a sentence of as many unknown words"
TAGGER_METHODS = {
    "quick-gradients": _UNKNOWN,
    "integrated-gradients": _UNKNOWN,
    "gradient-x-input": _UNKNOWN,
    "relevance": "what biases give",
    "occlusion": "the same sentence with an unknown word in its place",
}


def explain_spans(
    model: Any, sentence: str | Sequence[str], span: str | None = None, method: str = "auto"
) -> Explanations:
    """Explain the spans of one sentence.

    Parameters
    ----------
    model : TaggerModel
    sentence : str, or sequence of str
        A text, or its tokens.
    span : str, optional
        Part of the text whose tags are explained, found or not; by default every span that the model finds.
    method : {"auto", "quick-gradients", "integrated-gradients", "gradient-x-input", "relevance", "occlusion"}

    Returns
    -------
    Explanations
        One a span, in the order of the sentence.

    Raises
    ------
    UsageError
        For an unknown method, or a span that the sentence does not hold.
    """
    name = DEFAULT if method == "auto" else method
    if name not in TAGGER_METHODS:
        raise UsageError(f"a tagger has no method {name!r}.", f"Its methods are {', '.join(TAGGER_METHODS)}.")
    row = model.annotate([sentence])[0]
    return explain_places(model, row, _wanted(row, row.text, [tuple(one) for one in row.offsets], span), name)


def explain_places(model: Any, row: Any, places: Sequence[Place], name: str) -> Explanations:
    """Explain the tags of some places of one annotated sentence.

    Parameters
    ----------
    model : TaggerModel
    row : TaggedRow
    places : sequence of (first word, the one after the last, label, probability)
    name : str
        Of `TAGGER_METHODS`.
    """
    tokens, text, offsets = list(row.tokens), row.text, [tuple(one) for one in row.offsets]
    network = network_of_tagger(model)
    encoded = model.encode([tokens])
    vectors = model.tagger.features(encoded.batch([0]))
    empty = empty_word(model)
    best = _inner_tags(model, network.run(vectors))
    found = []
    for first, last, label, probability in places:
        started = time.perf_counter()
        contrasts = span_contrasts(best, first, last, len(model.tags))
        result = attribute_span(network, vectors, empty, contrasts, name)
        found.append(
            Explanation(
                text=text,
                tokens=tuple(tokens),
                spans=tuple(offsets),  # type: ignore[arg-type]
                targets=(f"{label}: {text[offsets[first][0] : offsets[last - 1][1]]}",),
                attributions=result.values[:, None],
                prediction=label,
                probability=probability,
                score=result.score,
                unit="log-odds",
                method=name,
                baseline=TAGGER_METHODS[name],
                baseline_score=None if name == "occlusion" else result.baseline_score,
                gap=None if name == "occlusion" else float(result.gap[0]),
                milliseconds=(time.perf_counter() - started) * 1e3,
            )
        )
    return Explanations(found)


def _wanted(row: Any, text: str, offsets: list[tuple[int, ...]], span: str | None) -> list[Place]:
    """Return first word, the one after the last, label and probability of each span to explain."""
    found = []
    for one in row.spans:
        places = [at for at, (start, end) in enumerate(offsets) if start < one.end and end > one.start]
        found.append((places[0], places[-1] + 1, one.label, one.score, one.start, one.end))
    if span is None:
        return [one[:4] for one in found]
    start = text.find(span)
    if not span or start < 0:
        raise UsageError(f"the sentence does not hold the span {span!r}.", "Give words as they stand in the text.")
    chosen = [one[:4] for one in found if one[4] < start + len(span) and one[5] > start]
    if chosen:
        return chosen
    places = [at for at, (begin, end) in enumerate(offsets) if begin < start + len(span) and end > start]
    if not places:
        raise UsageError(f"the span {span!r} holds no word.", "Give words as they stand in the text.")
    return [(places[0], places[-1] + 1, " ".join(row.tags[at] for at in places), None)]


def network_of_tagger(model: Any) -> Network:
    """Return the layers from the features of words to the scores of tags."""
    layers: list[description.Layer] = []
    parts = []
    for name in ("encoder", "tags"):
        for number, layer in enumerate(getattr(model.tagger.layers, name)):
            if isinstance(layer, description.Dropout | description.WordDropout):
                continue
            layers.append(layer)
            shapes = description.weight_shapes_of(layer)
            parts.append({key: model.weights[f"{name}.layers.{number}.{key}"] for key in shapes})
    return Network(layers, parts, backend=model.tagger.backend, threads=model.tagger.threads)


def empty_word(model: Any) -> np.ndarray:
    """Return the features of an unknown word without letters and traits, shape (features,)."""
    starts = np.cumsum([0, *(len(vocabulary) for vocabulary in model.encoder.traits)])[:-1]
    nothing = Ragged(np.zeros(0, dtype=np.int64), np.zeros(2, dtype=np.int64))
    word = Ragged(np.zeros(1, dtype=np.int64), np.array([0, 1]))
    return model.tagger.features(WordBatch(word, np.zeros(1, dtype=np.int64), nothing, starts[None])).values[0]


def _inner_tags(model: Any, emissions: np.ndarray) -> np.ndarray:
    """Return the number of the best tag of each word."""
    from bilstm.runtime.crf import decode

    batch = Ragged(emissions, np.array([0, len(emissions)], dtype=np.int64))
    return np.asarray(decode(batch, model.tagger.crf)[0][0])


def span_contrasts(tags: np.ndarray, first: int, last: int, count: int) -> np.ndarray:
    """Return what the score of a span is of the emissions: (words, tags), to be multiplied and added up."""
    contrasts = np.zeros((len(tags), count))
    for at in range(first, last):
        contrasts[at] = -1.0 / max(count - 1, 1)
        contrasts[at, tags[at]] = 1.0
    return contrasts / (last - first)


def attribute_span(
    network: Network, vectors: Ragged, empty: np.ndarray, contrasts: np.ndarray, name: str
) -> StepAttribution:
    """Attribute the score of a span of one sentence (steps, features) to its words."""
    if name == "relevance":
        return relevance(network, vectors, contrasts)
    if name == "gradient-x-input":
        return gradient_times_input(network, vectors, empty, contrasts)
    if name == "quick-gradients":
        return quick_gradients(network, vectors, empty, contrasts)
    if name != "occlusion":
        return integrated_gradients(network, vectors, empty, contrasts)
    count = len(vectors.values)
    copies = np.tile(vectors.values, (count, 1, 1))
    copies[np.arange(count), np.arange(count)] = empty
    offsets = np.arange(count + 1, dtype=np.int64) * count
    logits = network.run(Ragged(copies.reshape(count * count, -1), offsets)).reshape(count, count, -1)
    score = np.array([(network.run(vectors) * contrasts).sum()])
    values = score - np.einsum("cso,so->c", logits, contrasts)
    return StepAttribution(values, score, np.zeros(1), np.zeros(1))
