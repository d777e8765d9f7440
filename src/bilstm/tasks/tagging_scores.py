"""All scores of a tagger in one mapping, ready for JSON: spans or tags, tokens, unseen words, confusion, intents.

Step `score` of sequence tagging. Formulas and sources stand in `metrics.spans`. Imports numpy, `data`, `metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.data.tagged_sentences import TaggedSentences
from bilstm.data.tags import tags_to_spans
from bilstm.errors import ModelFolderError
from bilstm.metrics.spans import (
    Counts,
    known_spans,
    score_spans,
    sentence_accuracy,
    surface_scores,
    token_accuracy,
    type_confusion,
    unseen_span_scores,
    unseen_token_accuracy,
)

__all__ = ["KnownWords", "main_score", "score_tagging", "unknown_labels"]


@dataclass(frozen=True)
class KnownWords:
    """Lower-cased words and spans of the training part.

    Parameters
    ----------
    words : frozenset of str
    spans : frozenset of tuple of str
        Words of each span; empty if tags write no spans.
    """

    words: frozenset[str] = frozenset()
    spans: frozenset[tuple[str, ...]] = frozenset()

    @classmethod
    def of(cls, tokens: Sequence[Sequence[str]], tags: Sequence[Sequence[str]], has_spans: bool) -> KnownWords:
        """Collect them."""
        words = frozenset(token.lower() for sentence in tokens for token in sentence)
        spans = known_spans(tokens, [tags_to_spans(row) for row in tags]) if has_spans else set()
        return cls(words, frozenset(spans))

    def to_mapping(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {"words": sorted(self.words), "spans": sorted(list(span) for span in self.spans)}

    @classmethod
    def from_mapping(cls, given: Any) -> KnownWords:
        """Read what `to_mapping` wrote.

        Raises
        ------
        ModelFolderError
            For anything else.
        """
        if not isinstance(given, dict) or given.keys() != {"words", "spans"}:
            raise ModelFolderError("known_words.json: expected the keys spans and words.")
        words, spans = given["words"], given["spans"]
        rows = [words, *(spans if isinstance(spans, list) else [None])]
        if not all(isinstance(row, list) and all(isinstance(word, str) for word in row) for row in rows):
            raise ModelFolderError("known_words.json: words and spans must be lists of texts.")
        return cls(frozenset(words), frozenset(tuple(span) for span in spans))


def score_tagging(
    sentences: TaggedSentences,
    tags: list[list[str]],
    intents: list[str] | None,
    *,
    has_spans: bool,
    known: KnownWords,
    known_tags: AbstractSet[str],
    known_intents: AbstractSet[str] = frozenset(),
) -> dict[str, Any]:
    """Compare answers with tagged sentences.

    Parameters
    ----------
    sentences : TaggedSentences
        With tags; with intents if they are to be scored.
    tags : list of list of str
        Answered tags, one a token. Scheme and letters do not matter where tags write spans.
    intents : list of str or None
        Answered intents.
    has_spans : bool
        Whether tags write spans.
    known : KnownWords
        Of the training part.
    known_tags : set of str
        Types of spans, or tags, that training had. Others are counted under `unknown_tags`, and scored as wrong.
    known_intents : set of str
        Intents that training had; others likewise under `intent.unknown`.

    Returns
    -------
    dict
        `sentences`, `tokens`, `token_accuracy`, `sentence_accuracy`, `unseen_words`, `unknown_tags`, `confusion`; with
        spans `precision`, `recall`, `f1`, `macro_f1`, `per_type`, `unseen_spans`, `surface_forms`, else `per_tag`; with
        intents `intent`.
    """
    gold = sentences.tags
    assert gold is not None
    tokens = sentences.tokens
    unseen = [[token.lower() not in known.words for token in sentence] for sentence in tokens]
    scores: dict[str, Any] = {"sentences": len(sentences), "tokens": sum(map(len, tokens))}
    if has_spans:
        gold_spans, found = ([tags_to_spans(row) for row in part] for part in (gold, tags))
        scores |= score_spans(gold_spans, found).to_mapping()
        scores["unseen_spans"] = unseen_span_scores(tokens, gold_spans, found, known.spans).to_mapping()
        scores["surface_forms"] = surface_scores(tokens, gold_spans, found).to_mapping()
        names, counts = type_confusion(gold_spans, found)
        occurring = Counter(span.type for spans in gold_spans for span in spans)
        # Tokens and sentences are compared by what their tags mean: letters may differ between files.
        gold_rows, found_rows = _by_place(gold_spans, tokens), _by_place(found, tokens)
    else:
        gold_rows, found_rows = gold, tags
        names, counts = _tag_confusion(gold, tags)
        occurring = Counter(tag for row in gold for tag in row)
        scores["per_tag"] = _per_tag(names, counts)
    scores["token_accuracy"] = token_accuracy(gold_rows, found_rows)
    share, number = unseen_token_accuracy(gold_rows, found_rows, unseen)
    scores["unseen_words"] = {"accuracy": share, "tokens": number}
    scores["unknown_tags"] = {name: occurring[name] for name in sorted(occurring.keys() - known_tags)}
    scores["confusion"] = {"names": names, "counts": counts.tolist()}
    gold_intents = sentences.intents if intents is not None else None
    scores["sentence_accuracy"] = sentence_accuracy(gold_rows, found_rows, gold_intents, intents)
    if intents is not None and gold_intents is not None:
        right = [true == answer for true, answer in zip(gold_intents, intents, strict=True)]
        unknown = Counter(name for name in gold_intents if name not in known_intents)
        scores["intent"] = {
            "accuracy": float(np.mean(right)),
            "mistakes": len(right) - sum(right),
            "unknown": dict(sorted(unknown.items())),
        }
    return scores


def _by_place(rows: Sequence[Sequence[Any]], tokens: Sequence[Sequence[str]]) -> list[list[str]]:
    """One tag a token in IOB2, whatever the scheme the spans were written in."""
    written = []
    for spans, words in zip(rows, tokens, strict=True):
        tags = ["O"] * len(words)
        for span in spans:
            tags[span.begin : span.end] = [f"B-{span.type}"] + [f"I-{span.type}"] * (span.end - span.begin - 1)
        written.append(tags)
    return written


def _tag_confusion(gold: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    names = sorted({tag for part in (gold, tags) for row in part for tag in row})
    place = {name: at for at, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for true, answered in zip(gold, tags, strict=True):
        for tag, answer in zip(true, answered, strict=True):
            counts[place[tag], place[answer]] += 1
    return names, counts


def _per_tag(names: list[str], counts: np.ndarray) -> dict[str, Any]:
    columns, rows = counts.sum(axis=0), counts.sum(axis=1)
    return {
        name: Counts(int(counts[at, at]), int(columns[at]), int(rows[at])).to_mapping() for at, name in enumerate(names)
    }


def unknown_labels(scores: dict[str, Any]) -> list[str]:
    """Say which tags and intents of the scored sentences training lacks, with their counts; nothing if there are none.

    Examples
    --------
    >>> unknown_labels({"unknown_tags": {"SONG": 2}})
    ['tags that training lacks, scored as wrong: SONG (2)']
    """
    found = {"tags": scores["unknown_tags"], "intents": scores.get("intent", {}).get("unknown", {})}
    return [
        f"{what} that training lacks, scored as wrong: " + ", ".join(f"{name} ({n})" for name, n in counts.items())
        for what, counts in found.items()
        if counts
    ]


def main_score(scores: dict[str, Any]) -> tuple[str, float]:
    """Name and value of the score by which models are chosen: span F1 or token accuracy, its mean with the intents'.

    Examples
    --------
    >>> main_score({"f1": 0.5, "intent": {"accuracy": 1.0}})
    ('mean of span F1 and intent accuracy', 0.75)
    """
    name, value = ("span F1", scores["f1"]) if "f1" in scores else ("token accuracy", scores["token_accuracy"])
    if "intent" in scores:
        return f"mean of {name} and intent accuracy", (value + scores["intent"]["accuracy"]) / 2
    return name, value
