"""Read files of tagged sentences in any known format: CoNLL columns, CoNLL-U, JSONL, slot folders.

The door of the step `read` for tagging: `files -> TaggedSentences`. The format is told by content and name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from bilstm.data.byte_streams import STANDARD_INPUT, Source
from bilstm.data.conll import read_conll_lines
from bilstm.data.conllu import is_conllu, read_conllu_lines
from bilstm.data.slot_files import INTENT_FILE, TAG_FILE, TOKEN_FILE, is_slot_folder, read_slot_folder
from bilstm.data.span_json import read_json_lines
from bilstm.data.tagged_sentences import TaggedSentence, TaggedSentences, TextLines
from bilstm.errors import InputNotFoundError, UsageError

__all__ = ["read_tagged", "sentences_of"]


def read_tagged(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    label: str | int | None = None,
    token: str | int | None = None,
    needs_tags: bool = True,
    encoding: str | None = None,
    skip_bad_rows: bool = False,
    max_bytes: int | None = None,
) -> TaggedSentences:
    """Read one or several files of tagged sentences.

    Parameters
    ----------
    paths : path or sequence of paths
        CoNLL columns, CoNLL-U (`.conllu`, or ten columns that begin with an id), JSONL (lines that begin with `{`),
        each may be gzipped; a folder with `seq.in`, `seq.out`, `label`; "-" for standard input.
    label : str or int, optional
        Column (or JSON key) of the tags. None: the last column, `upos` in CoNLL-U.
    token : str or int, optional
        Column of the tokens, CoNLL only.
    needs_tags : bool
        Whether sentences without tags are an error.
    encoding, max_bytes
        As `TextLines`.
    skip_bad_rows : bool
        Leave out sentences with a bad line, CoNLL only.

    Raises
    ------
    InputNotFoundError, DataError, UsageError
        The message names file and line.
    """
    names = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not names:
        raise UsageError("No input was given.", "Name at least one file.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]}: the same input was given twice.")
    sentences: list[TaggedSentence] = []
    inputs: list[int] = []
    sources: list[Source] = []
    notes: list[str] = []
    part = None
    for position, name in enumerate(names):
        part = _read_one(name, label, token, needs_tags, encoding, skip_bad_rows, max_bytes)
        sentences += part.sentences
        inputs += [position] * len(part)
        sources += part.sources
        notes += part.notes
    assert part is not None
    return TaggedSentences(
        sentences,
        np.array(inputs, dtype=np.int64),
        tuple(sources),
        part.token_column,
        part.tag_column,
        part.intent_column,
        part.format,
        tuple(notes),
    )


def _read_one(
    name: str,
    label: str | int | None,
    token: str | int | None,
    needs_tags: bool,
    encoding: str | None,
    skip_bad_rows: bool,
    max_bytes: int | None,
) -> TaggedSentences:
    if name != STANDARD_INPUT and os.path.isdir(name):
        if not is_slot_folder(name):
            raise InputNotFoundError(f"{name}: this folder holds no {TOKEN_FILE}.", "Give the files in it.")
        found, source, notes = read_slot_folder(name, needs_tags=needs_tags, encoding=encoding, max_bytes=max_bytes)
        has_tags, has_intents = found[0].tags is not None, found[0].intent is not None
        columns = TOKEN_FILE, TAG_FILE if has_tags else None, INTENT_FILE if has_intents else None
        return _joined(found, source, columns, "slots", notes)
    lines = TextLines(name, encoding, max_bytes)
    first = next((line for line in lines.lines if line.strip()), "")
    if first.lstrip().startswith("{") and first.rstrip().endswith("}"):
        found = read_json_lines(lines, None if label is None else str(label), needs_tags=needs_tags)
        has_intents = found[0].intent is not None
        columns = "tokens", "tags" if label is None else str(label), "intent" if has_intents else None
        return _joined(found, lines.source(len(found)), columns, "jsonl", lines.notes)
    if is_conllu(lines):
        found, tag_column = read_conllu_lines(lines, label, needs_tags=needs_tags)
        return _joined(found, lines.source(len(found)), ("form", tag_column, None), "conllu", lines.notes)
    found, token_column, tag = read_conll_lines(lines, label, token, needs_tags=needs_tags, skip_bad_rows=skip_bad_rows)
    return _joined(found, lines.source(len(found)), (token_column, tag, None), "conll", lines.notes)


def _joined(
    found: list[TaggedSentence],
    source: Source,
    columns: tuple[str | None, str | None, str | None],
    kind: str,
    notes: list[str],
) -> TaggedSentences:
    return TaggedSentences(found, np.zeros(len(found), dtype=np.int64), (source,), *columns, kind, tuple(notes))


def sentences_of(
    tokens: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]] | None = None,
    intents: Sequence[str] | None = None,
) -> TaggedSentences:
    """Make `TaggedSentences` of lists, as given from Python.

    Raises
    ------
    UsageError
        If the lists do not fit together, a sentence is a string, or a token or tag is no text; the message names it.
    """
    for name, other in (("tags", tags), ("intents", intents)):
        if other is not None and len(other) != len(tokens):
            raise UsageError(f"{len(tokens)} sentences but {len(other)} {name}.")
    sentences = []
    for row, words in enumerate(tokens):
        if isinstance(words, str):
            raise UsageError(f"Sentence {row} is a text; expected a list of tokens.", "Split it into tokens first.")
        labels = None if tags is None else list(tags[row])
        if labels is not None and len(labels) != len(words):
            raise UsageError(f"Sentence {row} has {len(words)} tokens but {len(labels)} tags.")
        for value in [*words, *(labels or [])]:
            if not isinstance(value, str) or not value:
                raise UsageError(f"Sentence {row}: {value!r} is not a token or tag; expected texts that are not empty.")
        intent = None if intents is None else str(intents[row])
        sentences.append(TaggedSentence(list(words), list(range(len(words))), labels, intent=intent))
    return TaggedSentences(sentences, np.zeros(len(sentences), dtype=np.int64), format="lists")
