"""CoNLL columns: one token a line, a blank line between sentences, spaces or tabs between columns.

Part of the step `read` for tagging. The form has no standard beyond that; what this reader takes: 1 to any number of
columns, `-DOCSTART-` lines, comments, CR LF, no final blank line, and column names from a `# global.columns = ...`
line (CoNLL-U Plus). A line with another number of columns is an error that names it, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bilstm.data.byte_streams import nearest_names
from bilstm.data.tagged_sentences import TaggedSentence, TextLines
from bilstm.errors import DataError, UsageError

__all__ = ["read_conll_lines", "resolve_column", "write_conll"]

_SPACES = re.compile(r"[ \t]+")
_SPAN_TAG = re.compile(r"O|[BIESLU]-.+")
_DOCUMENT_START = "-DOCSTART-"
# Names that columns have where a file does not name them. Four columns are those of the CoNLL-2003 shared task.
_KNOWN_COLUMNS = {1: ("token",), 2: ("token", "tag"), 3: ("token", "pos", "tag"), 4: ("token", "pos", "chunk", "ner")}
_TOKEN_NAMES = ("token", "form", "word", "text", "tokens")


def read_conll_lines(
    source: TextLines,
    label: str | int | None = None,
    token: str | int | None = None,
    *,
    needs_tags: bool = True,
    skip_bad_rows: bool = False,
) -> tuple[list[TaggedSentence], str, str | None]:
    """Read the lines of a CoNLL file.

    Parameters
    ----------
    source : TextLines
        Notes are appended to `source.notes`.
    label, token : str or int, optional
        Column of the tag and of the token: a name, or a number counted from 1. None: the last and the first column
        (the second if the first counts 1, 2, 3, ...).
    needs_tags : bool
        Whether a file of one column is an error.
    skip_bad_rows : bool
        Leave out, and count, sentences that hold a line with a wrong number of columns; else that is an error.

    Returns
    -------
    sentences : list of TaggedSentence
    token_column : str
    tag_column : str or None

    Raises
    ------
    DataError
        A line with another number of columns than the first, an empty token, no sentence at all.
    UsageError
        A column that is not there; the message lists those that are.
    """
    reader = _Columns(source)
    token_at, tag_at = reader.choose(label, token, needs_tags)
    sentences: list[TaggedSentence] = []
    skipped: list[int] = []
    current: list[tuple[int, list[str]]] = []
    broken: int | None = None
    for number, line in enumerate([*source.lines, ""], start=1):
        if not line.strip(" \t"):
            if broken is not None:
                skipped.append(broken)
            elif current:
                sentences.append(_sentence(current, reader.names, token_at, tag_at))
            current, broken = [], None
            continue
        fields = reader.fields_of(line, number, is_first=not current and broken is None)
        if fields is None:
            continue
        if problem := reader.problem(fields, token_at, tag_at):
            if not skip_bad_rows:
                raise DataError(
                    f"{source.name}:{number}: {problem} in {line.strip()[:60]!r}.",
                    "Complete the line, or leave out such sentences with --skip-bad-rows.",
                )
            broken = number if broken is None else broken
            continue
        current.append((number, fields))
    if skipped:
        where = ", ".join(str(number) for number in skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        source.notes.append(f"{source.name}: left out {len(skipped)} sentences with a bad line (lines {where}).")
    if not sentences:
        raise DataError(f"{source.name}: there are no sentences.", "Is this the right file?")
    return sentences, reader.names[token_at], None if tag_at is None else reader.names[tag_at]


def _sentence(
    rows: list[tuple[int, list[str]]], names: Sequence[str], token_at: int, tag_at: int | None
) -> TaggedSentence:
    values = list(zip(*(fields for _, fields in rows), strict=True))
    return TaggedSentence(
        tokens=list(values[token_at]),
        lines=[number for number, _ in rows],
        tags=None if tag_at is None else list(values[tag_at]),
        columns={name: list(values[at]) for at, name in enumerate(names) if at not in (token_at, tag_at)},
    )


class _Columns:
    """How the lines of one file are cut: separator, number and names of the columns."""

    def __init__(self, source: TextLines):
        self._name = source.name
        self._notes = source.notes
        self._lines = source.lines
        first = next((line for line in source.lines if self._is_certainly_data(line)), None)
        if first is None:  # a file whose only tokens begin with a hash sign, or an empty one
            first = next((line for line in source.lines if line.strip(" \t")), None)
        if first is None:
            raise DataError(f"{source.name}: the file is empty.", "Is this the right file?")
        self.has_tabs = "\t" in first.strip("\t")
        self.count = len(self._cut(first))
        self.names = self._names_of(source.lines)

    @staticmethod
    def _is_certainly_data(line: str) -> bool:
        return bool(line.strip(" \t")) and not line.startswith(("#", _DOCUMENT_START))

    def _cut(self, line: str) -> list[str]:
        if self.has_tabs and "\t" in line:
            return [field.strip(" ") for field in line.split("\t")]
        return _SPACES.split(line.strip(" \t"))

    def _names_of(self, lines: Iterable[str]) -> list[str]:
        for line in lines:
            if line.startswith("# global.columns"):
                names = line.partition("=")[2].split()
                if len(names) == self.count:
                    return [name.lower() for name in names]
                raise DataError(
                    f"{self._name}: '# global.columns' names {len(names)} columns, the first line has {self.count}."
                )
            if self._is_certainly_data(line):
                break
        known = _KNOWN_COLUMNS.get(self.count)
        return list(known) if known else ["token", *(str(at) for at in range(2, self.count)), "tag"]

    def choose(self, label: str | int | None, token: str | int | None, needs_tags: bool) -> tuple[int, int | None]:
        """Find the columns of token and tag."""
        if token is not None:
            token_at = resolve_column(token, self.names, self._name, "--text")
        elif self.count > 1 and self._counts_tokens():
            token_at = 1
            self.names[0], self.names[1] = "id", "token"
            self._notes.append(f"{self._name}: column 1 counts the tokens; tokens are taken from column 2.")
        else:
            token_at = next((self.names.index(name) for name in _TOKEN_NAMES if name in self.names), 0)
        if label is not None:
            tag_at: int | None = resolve_column(label, self.names, self._name, "--label")
            if tag_at == token_at:
                raise UsageError(f"{self._name}: column {label!r} cannot be both the token and the tag.")
        elif self.count - 1 > token_at:
            tag_at = self.count - 1
        else:
            tag_at = None
        if tag_at is None and needs_tags:
            raise DataError(
                f"{self._name}: the lines have one column, there are no tags.",
                "Each line needs a token and its tag, with a space or a tab between them.",
            )
        return token_at, tag_at

    def _counts_tokens(self) -> bool:
        """Whether the first column is 1, 2, 3, ... in every one of the first sentences."""
        expected, seen = 1, 0
        for line in self._lines[:2000]:
            if not line.strip(" \t"):
                expected = 1
            elif self._is_certainly_data(line):
                if self._cut(line)[0] != str(expected):
                    return False
                expected += 1
                seen += 1
        return seen > 1

    def fields_of(self, line: str, number: int, is_first: bool) -> list[str] | None:
        """Cut a line; None for a comment or the start of a document."""
        fields = self._cut(line)
        if fields[0] == _DOCUMENT_START:
            return None
        if line.startswith("#") and is_first and self._is_comment(line, fields):
            return None
        while len(fields) > self.count and not fields[-1]:  # tabs at the end of a line
            fields.pop()
        return fields

    def _is_comment(self, line: str, fields: list[str]) -> bool:
        """Tell a comment from a token that begins with a hash sign; only asked before the first token of a sentence."""
        if self.has_tabs:
            return "\t" not in line
        if len(fields) != self.count:
            return True
        # "# O" is a token with its tag; "# 17" before a sentence of two columns is a comment.
        return self.count > 1 and fields[0] == "#" and not _SPAN_TAG.fullmatch(fields[-1]) and fields[-1].isdigit()

    def problem(self, fields: list[str], token_at: int, tag_at: int | None) -> str | None:
        """Say what is wrong with the fields of a line."""
        if len(fields) != self.count:
            unit = "column" if len(fields) == 1 else "columns"
            return f"{len(fields)} {unit} where the file has {self.count}"
        if not fields[token_at]:
            return "the token is empty"
        if tag_at is not None and not fields[tag_at]:
            return "the tag is empty"
        return None


def resolve_column(wanted: str | int, names: Sequence[str], file: str, option: str) -> int:
    """Find a column by name (letter case ignored) or by number, counted from 1.

    Raises
    ------
    UsageError
        Listing the columns that are there, the nearest first.
    """
    folded = [name.casefold() for name in names]
    if isinstance(wanted, str) and wanted.casefold() in folded:
        return folded.index(wanted.casefold())
    if isinstance(wanted, int) or wanted.isdecimal():
        if 1 <= int(wanted) <= len(names):
            return int(wanted) - 1
        raise UsageError(f"{file}: {option} {wanted}: the file has columns 1 to {len(names)}.")
    near = nearest_names(wanted, list(names))
    hint = f"Did you mean {near[0]!r}?" if near else None
    raise UsageError(f"{file}: {option}: there is no column {wanted!r}; columns are {', '.join(names)}.", hint)


def write_conll(sentences: Iterable[Sequence[Sequence[str]]], separator: str = "\t") -> str:
    r"""Write sentences as CoNLL columns: one token a line, a blank line after each sentence.

    Parameters
    ----------
    sentences : iterable of sentences
        A sentence is a sequence of columns (tokens, then further columns), all of the same length.
    separator : str
        Between columns.

    Examples
    --------
    >>> write_conll([[["Paris", "."], ["B-LOC", "O"]]], " ")
    'Paris B-LOC\n. O\n\n'
    """
    blocks = []
    for columns in sentences:
        blocks.append("".join(separator.join(row) + "\n" for row in zip(*columns, strict=True)) + "\n")
    return "".join(blocks)
