"""Slot folder: `seq.in` (tokens), `seq.out` (tags), `label` (intent), one sentence a line in each.

Part of the step `read` for tagging. The layout in which ATIS and SNIPS are passed around (Goo et al. 2018). Tokens and
tags are separated by white space; `seq.out` and `label` may be absent where no labels are needed.
"""

from __future__ import annotations

import hashlib
import os

from bilstm.data.byte_streams import Source
from bilstm.data.tagged_sentences import TaggedSentence, TextLines
from bilstm.errors import DataError, InputNotFoundError

__all__ = ["INTENT_FILE", "TAG_FILE", "TOKEN_FILE", "is_slot_folder", "read_slot_folder"]

TOKEN_FILE, TAG_FILE, INTENT_FILE = "seq.in", "seq.out", "label"


def is_slot_folder(path: str) -> bool:
    """Whether `path` is a folder that holds `seq.in`."""
    return os.path.isdir(path) and _path_of(path, TOKEN_FILE) is not None


def _path_of(folder: str, name: str) -> str | None:
    """Path of a file of the folder, packed or not; None if there is none."""
    for ending in ("", ".gz"):
        if os.path.isfile(path := os.path.join(folder, name + ending)):
            return path
    return None


def read_slot_folder(
    folder: str, *, needs_tags: bool = True, encoding: str | None = None, max_bytes: int | None = None
) -> tuple[list[TaggedSentence], Source, list[str]]:
    """Read a slot folder.

    Parameters
    ----------
    folder : str
    needs_tags : bool
        Whether `seq.out` must be there. `label` is read where it is there.
    encoding, max_bytes
        As `TextLines`.

    Returns
    -------
    sentences : list of TaggedSentence
        Line numbers are those of `seq.in`, the same for all tokens of a sentence.
    source : Source
        Of the whole folder: its hash is that of the files' names and hashes.
    notes : list of str

    Raises
    ------
    InputNotFoundError
        A file that is needed and not there.
    DataError
        Files of different length, or a line with more or fewer tags than tokens; the message names file and line.
    """
    files: dict[str, TextLines] = {}
    for name in (TOKEN_FILE, TAG_FILE, INTENT_FILE):
        path = _path_of(folder, name)
        if path is not None:
            files[name] = TextLines(path, encoding, max_bytes)
        elif name == TOKEN_FILE or (name == TAG_FILE and needs_tags):
            raise InputNotFoundError(f"{folder}: the folder holds no {name}.", "It needs seq.in, seq.out and label.")
    tokens_file = files[TOKEN_FILE]
    for name, file in files.items():
        if len(file.lines) != len(tokens_file.lines):
            raise DataError(
                f"{file.name}: {len(file.lines)} lines where {tokens_file.name} has {len(tokens_file.lines)}.",
                f"Line n of {name} must belong to line n of {TOKEN_FILE}.",
            )
    notes = [note for file in files.values() for note in file.notes]
    sentences, empty = [], 0
    for at, line in enumerate(tokens_file.lines):
        tokens = line.split()
        if not tokens:
            empty += 1
            continue
        sentences.append(_sentence(tokens, at, files))
    if empty:
        notes.append(f"{tokens_file.name}: {empty} lines without tokens passed over.")
    if not sentences:
        raise DataError(f"{tokens_file.name}: there are no sentences.", "Is this the right folder?")
    return sentences, _source_of(folder, files, len(sentences)), notes


def _sentence(tokens: list[str], at: int, files: dict[str, TextLines]) -> TaggedSentence:
    tags = intent = None
    if TAG_FILE in files:
        tags = files[TAG_FILE].lines[at].split()
        if len(tags) != len(tokens):
            raise DataError(
                f"{files[TAG_FILE].name}:{at + 1}: {len(tags)} tags for the {len(tokens)} tokens of {TOKEN_FILE}.",
                "Each token needs one tag.",
            )
    if INTENT_FILE in files:
        intent = files[INTENT_FILE].lines[at].strip()
        if not intent:
            raise DataError(f"{files[INTENT_FILE].name}:{at + 1}: the label is empty.")
    return TaggedSentence(tokens=tokens, lines=[at + 1] * len(tokens), tags=tags, intent=intent)


def _source_of(folder: str, files: dict[str, TextLines], sentences: int) -> Source:
    parts = [(name, file.source(sentences)) for name, file in files.items()]
    digest = hashlib.sha256("".join(f"{name}\0{part.sha256}\n" for name, part in sorted(parts)).encode()).hexdigest()
    return Source(folder, digest, sum(part.bytes for _, part in parts), sentences)
