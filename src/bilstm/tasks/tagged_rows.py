"""What a tagger is given and what it answers: sentences as tokens or text, spans with their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bilstm.data.tagged_sentences import joined_text
from bilstm.data.word_spans import token_spans
from bilstm.errors import UsageError

__all__ = ["FoundSpan", "Sentence", "TaggedRow", "prepared_sentences"]

Sentence = Sequence[str] | str  # tokens, or running text


@dataclass(frozen=True)
class FoundSpan:
    """A span that a model found: place in the text in characters, end excluded, type, probability, and its words."""

    start: int
    end: int
    label: str
    score: float
    text: str


@dataclass(frozen=True)
class TaggedRow:
    """What a model says about one sentence.

    Parameters
    ----------
    tokens, tags : list of str
        Tags in the scheme of the training files.
    offsets : list of (int, int)
        Place of each token in `text`.
    text : str
    spans : list of FoundSpan
        Empty if the tags write no spans.
    intent : str or None
    intent_score : float or None
        Probability of the intent.
    """

    tokens: list[str]
    tags: list[str]
    offsets: list[tuple[int, int]]
    text: str
    spans: list[FoundSpan]
    intent: str | None = None
    intent_score: float | None = None


def prepared_sentences(sentences: Sequence[Sentence]) -> list[tuple[list[str], str, list[tuple[int, int]]]]:
    """Tokens, text and places of each sentence."""
    if isinstance(sentences, str):
        raise UsageError("Expected a list of sentences, got one text.", "Put it in a list: [text].")
    rows = []
    for sentence in sentences:
        if isinstance(sentence, str):
            offsets = token_spans(sentence)
            rows.append(([sentence[begin:end] for begin, end in offsets], sentence, offsets))
        else:
            tokens = list(sentence)
            rows.append((tokens, *joined_text(tokens)))
    return rows
