"""Sentences whose every token has a tag: what the readers of sequence labelling give.

Step `read` of the way of the data for tagging: `files -> TaggedSentences -> encode`. Each reader (`conll`, `conllu`,
`slot_files`, `span_json`) makes `TaggedSentence` objects; `tagged_files.read_tagged` joins them. Imports numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bilstm.data.byte_streams import ByteStream, Source, TextStream

__all__ = ["TaggedSentence", "TaggedSentences", "TextLines", "joined_text"]


@dataclass(frozen=True)
class TaggedSentence:
    """One sentence as read.

    Parameters
    ----------
    tokens : list of str
    lines : list of int
        Line of each token in its file, counted from 1.
    tags : list of str or None
        As written; None where the file has none.
    columns : dict of str to list of str
        Further columns of the file, one value a token.
    intent : str or None
        Label of the whole sentence.
    text : str or None
        The running text, where the file gives it.
    offsets : list of (int, int) or None
        Place of each token in `text`, in characters, end excluded.
    name : str or None
        Name of the sentence (`sent_id`).
    """

    tokens: list[str]
    lines: list[int]
    tags: list[str] | None = None
    columns: dict[str, list[str]] = field(default_factory=dict)
    intent: str | None = None
    text: str | None = None
    offsets: list[tuple[int, int]] | None = None
    name: str | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def running_text(self) -> tuple[str, list[tuple[int, int]]]:
        """Text and place of each token in it; tokens joined by single spaces where the file had no text."""
        if self.text is not None and self.offsets is not None:
            return self.text, self.offsets
        return joined_text(self.tokens)


def joined_text(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Join tokens with single spaces; give the text and each token's place in it.

    Examples
    --------
    >>> joined_text(["Angela", "Merkel"])
    ('Angela Merkel', [(0, 6), (7, 13)])
    """
    offsets, begin = [], 0
    for token in tokens:
        offsets.append((begin, begin + len(token)))
        begin += len(token) + 1
    return " ".join(tokens), offsets


@dataclass(frozen=True)
class TaggedSentences:
    """Sentences of one or several files, in order.

    Parameters
    ----------
    sentences : list of TaggedSentence
    inputs : ndarray of shape (sentences,), int64
        Position in `sources` of the file a sentence came from.
    sources : tuple of Source
        Path, hash, size and number of sentences of each file.
    token_column, tag_column, intent_column : str or None
        Where tokens, tags and intents stood.
    format : str
        "conll", "conllu", "slots" or "jsonl".
    notes : tuple of str
        Lines a user should see: what was guessed, passed over or repaired.
    """

    sentences: list[TaggedSentence]
    inputs: np.ndarray
    sources: tuple[Source, ...] = ()
    token_column: str | None = None
    tag_column: str | None = None
    intent_column: str | None = None
    format: str = "conll"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sentences)

    @property
    def tokens(self) -> list[list[str]]:
        """Tokens of each sentence."""
        return [sentence.tokens for sentence in self.sentences]

    @property
    def tags(self) -> list[list[str]] | None:
        """Tags of each sentence as written; None if any sentence has none."""
        tags = [sentence.tags for sentence in self.sentences if sentence.tags is not None]
        return tags if len(tags) == len(self.sentences) else None

    @property
    def intents(self) -> list[str] | None:
        """Label of each sentence; None if any has none."""
        intents = [sentence.intent for sentence in self.sentences if sentence.intent is not None]
        return intents if len(intents) == len(self.sentences) and intents else None

    def where(self, sentence: int, token: int = 0) -> str:
        """Say where a token stands, for messages: `train.conll:12`."""
        lines = self.sentences[sentence].lines
        line = lines[token] if token < len(lines) else (lines[-1] if lines else 0)
        path = self.sources[self.inputs[sentence]].path if self.sources else "given sentences"
        return f"{'standard input' if path == '-' else path}:{line}" if self.sources else f"sentence {sentence}:{token}"

    def select(self, rows: Sequence[int] | np.ndarray) -> TaggedSentences:
        """Take some sentences, in the given order; sources and notes stay those of the whole."""
        chosen = np.asarray(rows, dtype=np.int64)
        return TaggedSentences(
            [self.sentences[row] for row in chosen],
            self.inputs[chosen],
            self.sources,
            self.token_column,
            self.tag_column,
            self.intent_column,
            self.format,
            self.notes,
        )


class TextLines:
    """All lines of one input, without their ends, decoded strictly.

    Parameters
    ----------
    path : str
        File, or "-" for standard input; gzip is unpacked.
    encoding : str, optional
        None: UTF-8, or what a byte order mark shows.
    max_bytes : int, optional
        Most unpacked bytes.

    Attributes
    ----------
    lines : list of str
        Split at LF, CR LF and CR only: other characters that Unicode calls line ends may stand in a token.
    name : str
        For messages.
    notes : list of str
    """

    def __init__(self, path: str, encoding: str | None = None, max_bytes: int | None = None):
        with ByteStream(path, max_bytes) as stream:
            text = "".join(TextStream(stream, encoding))
            self._stream = stream
            self._source = stream.source(0)
        self.name = stream.name
        self.path = path
        self.notes = list(stream.notes)
        self.lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if self.lines and not self.lines[-1]:
            self.lines.pop()

    def source(self, sentences: int) -> Source:
        """Describe the input, with the number of sentences taken from it."""
        return Source(self._source.path, self._source.sha256, self._source.bytes, sentences)
