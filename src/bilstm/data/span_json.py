"""JSON Lines for tagging: tokens with tags, or text with character spans, one object a line.

Part of the step `read` for tagging. Two forms, which may carry an `intent` too:

    {"tokens": ["Paris", "is", "big"], "tags": ["B-LOC", "O", "O"]}
    {"text": "Paris is big", "spans": [{"start": 0, "end": 5, "label": "LOC"}]}

Spans count characters (code points, as Python and doccano do), end excluded; `[0, 5, "LOC"]` is a span too. Text is cut
into tokens by `word_spans`, and also where a span begins or ends inside a token, so that no span is changed.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from bilstm.data.tagged_sentences import TaggedSentence, TextLines
from bilstm.data.tags import Span, spans_to_tags
from bilstm.data.word_spans import cut_at, token_spans
from bilstm.errors import DataError

__all__ = ["read_json_lines"]

_TOKENS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "ner", "pos_tags")
_SPANS = ("spans", "entities", "labels", "label")
_INTENTS = ("intent",)


def read_json_lines(source: TextLines, label: str | None = None, *, needs_tags: bool = True) -> list[TaggedSentence]:
    """Read the lines of a JSONL file.

    Parameters
    ----------
    source : TextLines
        Notes are appended to `source.notes`.
    label : str, optional
        Key of the tags or spans; None takes the first well-known one: `tags`, `ner_tags`, `spans`, `entities`, ...
    needs_tags : bool
        Whether an object without tags is an error.

    Raises
    ------
    DataError
        A line that is no JSON object, tokens and tags of different length, a span outside the text or over another
        one; the message names file and line.
    """
    reader = _Objects(source, label, needs_tags)
    sentences = [reader.sentence(line, number) for number, line in enumerate(source.lines, start=1) if line.strip()]
    if not sentences:
        raise DataError(f"{source.name}: there are no sentences.", "Is this the right file?")
    if reader.cut:
        source.notes.append(f"{source.name}: {reader.cut} tokens cut where a span begins or ends inside of them.")
    if reader.trimmed:
        source.notes.append(f"{source.name}: {reader.trimmed} spans without the white space at their ends.")
    return [sentence for sentence in sentences if sentence.tokens]


class _Objects:
    """The objects of one file, with counts of what had to be repaired."""

    def __init__(self, source: TextLines, label: str | None, needs_tags: bool):
        self._name = source.name
        self._label = label
        self._needs_tags = needs_tags
        self.cut = 0
        self.trimmed = 0

    def sentence(self, line: str, number: int) -> TaggedSentence:
        """Read one line."""
        where = f"{self._name}:{number}"
        try:
            given = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON ({error}).", "One JSON object a line is expected.") from error
        if not isinstance(given, dict):
            raise DataError(f"{where}: {type(given).__name__} where a JSON object is expected.")
        intent = _first(given, _INTENTS)[1]
        if intent is not None and (not isinstance(intent, str) or not intent):
            raise DataError(f"{where}: the intent must be a text, got {intent!r}.")
        tokens = _first(given, _TOKENS)[1]
        if tokens is not None:
            return self._of_tokens(given, tokens, intent, number, where)
        if not isinstance(given.get("text"), str):
            raise DataError(f"{where}: neither 'tokens' nor 'text'; keys are {', '.join(map(repr, given)) or 'none'}.")
        return self._of_text(given, given["text"], intent, number, where)

    def _labels(self, given: dict[str, Any], keys: tuple[str, ...], where: str) -> Any:
        key, value = (self._label, given.get(self._label)) if self._label else _first(given, keys)
        if value is None and self._needs_tags:
            wanted = repr(self._label) if self._label else " or ".join(map(repr, keys[:2]))
            raise DataError(f"{where}: no {wanted}; keys are {', '.join(map(repr, given))}.")
        if value is not None and not isinstance(value, list):
            raise DataError(f"{where}: {key!r} must be a list, got {type(value).__name__}.")
        return value

    def _of_tokens(self, given: dict[str, Any], tokens: Any, intent: Any, number: int, where: str) -> TaggedSentence:
        if not isinstance(tokens, list) or not all(isinstance(token, str) and token for token in tokens):
            raise DataError(f"{where}: tokens must be a list of texts that are not empty.")
        tags = self._labels(given, _TAGS, where)
        if tags is not None:
            if not all(isinstance(tag, str) and tag for tag in tags):
                raise DataError(f"{where}: tags must be texts that are not empty.", "Numbers: write their names.")
            if len(tags) != len(tokens):
                raise DataError(f"{where}: {len(tags)} tags for {len(tokens)} tokens.")
        return TaggedSentence(tokens=tokens, lines=[number] * len(tokens), tags=tags, intent=intent)

    def _of_text(self, given: dict[str, Any], text: str, intent: Any, number: int, where: str) -> TaggedSentence:
        raw = self._labels(given, _SPANS, where)
        places = token_spans(text)
        tags = None
        if raw is not None:
            spans = sorted(self._span(entry, text, where) for entry in raw)
            for (_, end, label), (begin, _, other) in pairwise(spans):
                if begin < end:
                    raise DataError(
                        f"{where}: spans {label!r} and {other!r} overlap at character {begin}.",
                        "Only spans beside each other can be written as tags.",
                    )
            places, cut = cut_at(places, [border for begin, end, _ in spans for border in (begin, end)])
            self.cut += cut
            first = {begin: at for at, (begin, _) in enumerate(places)}
            last = {end: at for at, (_, end) in enumerate(places)}
            as_tokens = [Span(first[begin], last[end] + 1, label) for begin, end, label in spans]
            tags = spans_to_tags(as_tokens, len(places), "IOB2")
        return TaggedSentence(
            tokens=[text[begin:end] for begin, end in places],
            lines=[number] * len(places),
            tags=tags,
            intent=intent,
            text=text,
            offsets=places,
        )

    def _span(self, entry: Any, text: str, where: str) -> tuple[int, int, str]:
        """Check one span; cut white space off its ends."""
        if isinstance(entry, dict):
            entry = [entry.get("start"), entry.get("end"), entry.get("label", entry.get("type"))]
        is_span = isinstance(entry, list) and len(entry) == 3 and all(type(part) is int for part in entry[:2])
        if not is_span or not isinstance(entry[2], str) or not entry[2]:
            raise DataError(f"{where}: {entry!r} is no span; expected start, end and label.")
        begin, end, label = entry
        if not 0 <= begin < end <= len(text):
            raise DataError(f"{where}: span {begin}-{end} {label!r} is not inside the text of {len(text)} characters.")
        covered = text[begin:end]
        if not covered.strip():
            raise DataError(f"{where}: span {begin}-{end} {label!r} covers only white space.")
        if covered != covered.strip():
            self.trimmed += 1
            begin += len(covered) - len(covered.lstrip())
            end -= len(covered) - len(covered.rstrip())
        return begin, end, label


def _first(given: dict[str, Any], keys: tuple[str, ...]) -> tuple[str, Any]:
    """Return the first key that is there, with its value; None as value if none is."""
    for key in keys:
        if given.get(key) is not None:
            return key, given[key]
    return keys[0], None
