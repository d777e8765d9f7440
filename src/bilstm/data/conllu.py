"""CoNLL-U: ten tab-separated columns of the Universal Dependencies project.

Part of the step `read` for tagging. As the format says (universaldependencies.org/format.html, version 2): words are
numbered 1, 2, ... in each sentence; a line `3-4` is the surface form of words 3 and 4 and is no word itself; a line
`8.1` is an empty node, which is no word either; `# text` and `# sent_id` belong to the sentence; `SpaceAfter=No` in
MISC says that no space follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bilstm.data.conll import resolve_column
from bilstm.data.tagged_sentences import TaggedSentence, TextLines
from bilstm.errors import DataError

__all__ = ["COLUMNS", "is_conllu", "read_conllu_lines"]

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_ID = re.compile(r"(?P<word>[1-9]\d*)|(?P<first>[1-9]\d*)-(?P<last>[1-9]\d*)|(?P<empty>\d+\.[1-9]\d*)")
_COMMENT = re.compile(r"#\s*(?P<key>[\w.]+)\s*=\s*(?P<value>.*)")
# Columns in which an underscore is a value ("no features"), not a missing label.
_MAY_BE_EMPTY = ("xpos", "feats", "deprel", "deps", "misc", "lemma")


def is_conllu(source: TextLines) -> bool:
    """Tell by name or by the first token line: ten tab-separated columns that begin with an id."""
    if source.path.lower().removesuffix(".gz").endswith(".conllu"):
        return True
    first = next((line for line in source.lines if line.strip() and not line.startswith("#")), "")
    fields = first.split("\t")
    return len(fields) == len(COLUMNS) and _ID.fullmatch(fields[0]) is not None and fields[6].strip("_0123456789") == ""


def read_conllu_lines(
    source: TextLines, label: str | int | None = None, *, needs_tags: bool = True
) -> tuple[list[TaggedSentence], str]:
    """Read the lines of a CoNLL-U file.

    Parameters
    ----------
    source : TextLines
        Notes are appended to `source.notes`.
    label : str or int, optional
        Column of the tag, by name (`COLUMNS`) or number counted from 1; default `upos`.
    needs_tags : bool
        Whether missing tags are an error. If not, a file whose column holds only underscores has no tags.

    Returns
    -------
    sentences : list of TaggedSentence
        Tokens are the words; other columns under their names.
    tag_column : str

    Raises
    ------
    DataError
        A line that has not ten columns, an id out of order, an unfinished range, a missing tag.
    UsageError
        A column that is not there.
    """
    tag_column = COLUMNS[resolve_column("upos" if label is None else label, COLUMNS, source.name, "--label")]
    drafts: list[_Draft] = []
    draft = _Draft()
    for number, line in enumerate([*source.lines, ""], start=1):
        if not line.strip(" "):
            if draft.rows:
                draft.check_finished(source.name)
                drafts.append(draft)
            draft = _Draft()
        elif line.startswith("#"):
            if (match := _COMMENT.match(line)) and match["key"] in ("text", "sent_id"):
                draft.comments[match["key"]] = match["value"]
        else:
            draft.add(line, number, source.name)
    if not drafts:
        raise DataError(f"{source.name}: there are no sentences.", "Is this the right file?")
    if ranges := sum(len(draft.ranges) for draft in drafts):
        source.notes.append(f"{source.name}: {ranges} multi-word tokens; their words are tagged.")
    if empty := sum(draft.empty_nodes for draft in drafts):
        source.notes.append(f"{source.name}: {empty} empty nodes passed over.")
    at = COLUMNS.index(tag_column)
    has_tags = any(fields[at] != "_" for draft in drafts for _, fields in draft.rows)
    if needs_tags and not has_tags:
        raise DataError(
            f"{source.name}: column {tag_column} holds no tag, only underscores.",
            f"Columns with values: {', '.join(_filled_columns(drafts)) or 'none'}.",
        )
    return [draft.sentence(tag_column if has_tags else None, source.name) for draft in drafts], tag_column


def _filled_columns(drafts: list[_Draft]) -> list[str]:
    rows = [fields for draft in drafts for _, fields in draft.rows]
    return [name for at, name in enumerate(COLUMNS) if at > 1 and any(fields[at] != "_" for fields in rows)]


@dataclass
class _Draft:
    """A sentence while its lines are read."""

    rows: list[tuple[int, list[str]]] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    ranges: list[tuple[int, int, str, bool]] = field(default_factory=list)  # first word, last word, form, space after
    empty_nodes: int = 0

    def add(self, line: str, number: int, file: str) -> None:
        """Take one line that is neither blank nor a comment."""
        fields = line.split("\t")
        if len(fields) != len(COLUMNS):
            raise DataError(
                f"{file}:{number}: {len(fields)} tab-separated columns where CoNLL-U has 10, in {line[:60]!r}.",
                "For other column files use another ending than .conllu.",
            )
        match = _ID.fullmatch(fields[0])
        if match is None:
            raise DataError(f"{file}:{number}: {fields[0]!r} is no CoNLL-U id (allowed: 3, 3-4, 3.1).")
        if match["empty"]:
            self.empty_nodes += 1
        elif match["word"]:
            if int(match["word"]) != len(self.rows) + 1:
                raise DataError(f"{file}:{number}: word {match['word']} after word {len(self.rows)}.")
            if not fields[1]:
                raise DataError(f"{file}:{number}: the form is empty.")
            self.rows.append((number, fields))
        else:
            first, last = int(match["first"]), int(match["last"])
            if first != len(self.rows) + 1 or last <= first or (self.ranges and first <= self.ranges[-1][1]):
                raise DataError(f"{file}:{number}: range {fields[0]} does not fit after word {len(self.rows)}.")
            self.ranges.append((first, last, fields[1], "SpaceAfter=No" not in fields[9].split("|")))

    def check_finished(self, file: str) -> None:
        """Raise DataError if a range reaches beyond the last word."""
        if self.ranges and self.ranges[-1][1] > len(self.rows):
            first, last, _, _ = self.ranges[-1]
            number = self.rows[-1][0]
            raise DataError(f"{file}:{number}: range {first}-{last} in a sentence of {len(self.rows)} words.")

    def sentence(self, tag_column: str | None, file: str) -> TaggedSentence:
        """Finish the sentence."""
        columns = {name: [fields[at] for _, fields in self.rows] for at, name in enumerate(COLUMNS) if at > 1}
        tags = None if tag_column is None else columns.pop(tag_column)
        if tags is not None and tag_column not in _MAY_BE_EMPTY and "_" in tags:
            number, fields = self.rows[tags.index("_")]
            raise DataError(f"{file}:{number}: word {fields[1]!r} has no {tag_column} ('_').")
        text, offsets = self._text()
        return TaggedSentence(
            tokens=[fields[1] for _, fields in self.rows],
            lines=[number for number, _ in self.rows],
            tags=tags,
            columns=columns,
            text=text,
            offsets=offsets,
            name=self.comments.get("sent_id"),
        )

    def _text(self) -> tuple[str, list[tuple[int, int]]]:
        """Text and place of each word: in `# text` where the forms stand in it in order, else composed from MISC.

        The words of a multi-word token share its place: they have none of their own in the text.
        """
        units = self._surface_units()
        given = self.comments.get("text")
        places = None if given is None else _places_in(given, [form for form, _, _ in units])
        if given is None or places is None:
            given, places = "", []
            for form, _, has_space in units:
                places.append((len(given), len(given) + len(form)))
                given += form + (" " if has_space else "")
            given = given.rstrip(" ")
        return given, [place for place, (_, words, _) in zip(places, units, strict=True) for _ in range(words)]

    def _surface_units(self) -> list[tuple[str, int, bool]]:
        """Form, number of words, and whether a space follows, of each word or multi-word token."""
        ranges = {first: (form, last - first + 1, has_space) for first, last, form, has_space in self.ranges}
        units, word = [], 1
        while word <= len(self.rows):
            fields = self.rows[word - 1][1]
            units.append(ranges.get(word, (fields[1], 1, "SpaceAfter=No" not in fields[9].split("|"))))
            word += units[-1][1]
        return units


def _places_in(text: str, forms: list[str]) -> list[tuple[int, int]] | None:
    """Place of each form in `text`, one after another with only white space between them; None if they do not fit."""
    places, end = [], 0
    for form in forms:
        begin = text.find(form, end)
        if begin < 0 or text[end:begin].strip():
            return None
        end = begin + len(form)
        places.append((begin, end))
    return places
