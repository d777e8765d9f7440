"""Delimited text tables (CSV, TSV and the like), read strictly: every text stays what it is, or there is an error.

Step `read` of the way of the data. Built on the standard library's `csv` parser; around it stand the guards that every
table library lacks somewhere: the delimiter is recognised, rows must have as many fields as the header, a quote that is
never closed is reported where it opened, nothing is taken for a number or a missing value. Imports the standard
library.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from bilstm.data.byte_streams import TextStream, quoted
from bilstm.errors import DataError

__all__ = ["DELIMITERS", "BadRows", "Table", "open_delimited"]

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "TAB", "|": "bar"}
# Longest text of one field. The parser needs four bytes a character; beyond this a quote was most likely not closed.
MAX_FIELD_CHARACTERS = 32 << 20
SNIFFED_RECORDS = 200


class BadRows:
    """Rows that cannot be used: an error at the first one, or, when asked for, left out and counted.

    Parameters
    ----------
    is_skipping : bool
        What `--skip-bad-rows` says.
    """

    def __init__(self, is_skipping: bool):
        self.is_skipping = is_skipping
        self.count = 0
        self._first: dict[str, tuple[int, str]] = {}

    def reject(self, name: str, line: int, problem: str, hint: str) -> None:
        """Count the row at `line` of the input `name`, or raise DataError."""
        if not self.is_skipping:
            raise DataError(f"{name}:{line}: {problem}", f"{hint} To leave such rows out, add --skip-bad-rows.")
        self.count += 1
        number, first = self._first.get(name, (0, f"{name}:{line}: {problem}"))
        self._first[name] = (number + 1, first)

    def notes(self) -> list[str]:
        """One line an input: how many rows were left out, and the first of them."""
        return [
            f"{name}: {number} bad row{'s' if number > 1 else ''} left out; the first is {first}"
            for name, (number, first) in self._first.items()
        ]


@dataclass
class Table:
    """One opened input: names of the columns, and its rows, to be read once.

    Parameters
    ----------
    name : str
        For messages.
    columns : list of str
    rows : iterator of (int, list of str or None)
        Line (or record) number, counted from 1, and one value a column; None only where the format knows missing
        values.
    notes : list of str
        What a user should be told; may grow while rows are read.
    has_header_line : bool
        Whether the names of the columns stood in the first line, where a row without names could be mistaken for them.
    list_columns : set of str
        Columns that hold lists of texts, joined into one; may grow while rows are read.
    share_read : function without arguments, optional
        How much of the input was read so far, 0 to 1; None where that is not known.
    """

    name: str
    columns: list[str]
    rows: Iterator[tuple[int, list[str | None]]]
    notes: list[str] = field(default_factory=list)
    has_header_line: bool = False
    list_columns: set[str] = field(default_factory=set)
    share_read: Callable[[], float | None] = lambda: None


def open_lines(text: TextStream) -> Table:
    """Read one text a line (LF or CRLF); an empty line is an empty text."""
    if not text.head(1)[0]:
        raise DataError(f"{text.name}: the input is empty.", "It needs one text a line.")
    rows = ((number, [line.removesuffix("\n").removesuffix("\r")]) for number, line in enumerate(text.lines(), 1))
    return Table(text.name, ["text"], rows)  # type: ignore[arg-type]


def open_delimited(text: TextStream, bad_rows: BadRows, wanted: list[str], *, has_quotes: bool = True) -> Table:
    """Read the header of a delimited table; its rows follow as the result is iterated.

    Parameters
    ----------
    text : TextStream
    bad_rows : BadRows
        Told of rows that have another number of fields than the header.
    wanted : list of str
        Names of columns the caller will ask for; a delimiter under which they exist is preferred.
    has_quotes : bool
        Whether `"` encloses fields (RFC 4180). False: it is a character like others.

    Raises
    ------
    DataError
        Empty file, two columns of the same name, a quote that is not closed or closed too early (line where it opened),
        a field too long; while reading, the same and rows of another width.
    """
    head, is_all = text.head()
    if not head.strip():
        what = "is empty" if not head else "holds only blank lines"
        raise DataError(f"{text.name}: the file {what}.", "It needs a line with the names of the columns, then rows.")
    line_end = _line_end(head)
    delimiter = _sniffed_delimiter(head, is_all, line_end, wanted, text.name, has_quotes)
    parser = _StrictParser(text, delimiter, line_end, has_quotes)
    records = parser.records()
    header_line, header = next(((line, fields) for line, fields in records if any(map(str.strip, fields))), (1, []))
    if not header:
        raise DataError(f"{text.name}: the file has no line with the names of the columns.")
    notes: list[str] = []
    columns = _column_names(header, text.name, header_line, notes)
    if delimiter != ("\t" if ".tsv" in text.name.lower() else ",") and len(columns) > 1:
        notes.append(f"{text.name}: columns are separated by {DELIMITERS[delimiter]}.")
    table = Table(text.name, columns, iter(()), notes, has_header_line=True)
    table.rows = _checked_rows(records, table, bad_rows, DELIMITERS[delimiter])
    return table


def _checked_rows(
    records: Iterator[tuple[int, list[str]]], table: Table, bad_rows: BadRows, delimiter: str
) -> Iterator[tuple[int, list[str | None]]]:
    """Yield the rows as wide as the header; blank lines are counted, other rows are bad."""
    width = len(table.columns)
    blank = 0
    for line, fields in records:
        if len(fields) == width:
            yield line, fields  # type: ignore[misc] (a list of str is a list of str or None as long as nobody writes)
        elif not fields or (len(fields) == 1 and not fields[0].strip()):
            blank += 1
        else:
            names = ", ".join(map(quoted, table.columns[:6])) + (", ..." if width > 6 else "")
            bad_rows.reject(
                table.name,
                line,
                f"{len(fields)} field{'s' if len(fields) > 1 else ''} where the header has {width} ({names}).",
                f'A text that contains the separator ({delimiter}) must stand in double quotes ("...").',
            )
    if blank:
        table.notes.append(f"{table.name}: {blank} blank line{'s' if blank > 1 else ''} passed over.")


def _column_names(header: list[str], name: str, line: int, notes: list[str]) -> list[str]:
    """Return the names without surrounding spaces, unnamed columns numbered; raise for a name that stands twice."""
    columns = [cell.strip() or f"unnamed_{number}" for number, cell in enumerate(header, 1)]
    unnamed = [str(number) for number, cell in enumerate(header, 1) if not cell.strip()]
    if unnamed:
        notes.append(f"{name}: column {', '.join(unnamed)} has no name in the header; called unnamed_<number>.")
    for number, column in enumerate(columns, 1):
        first = columns.index(column) + 1
        if first != number:
            raise DataError(
                f"{name}:{line}: two columns are called {quoted(column)} (columns {first} and {number}).",
                "Rename one of them in the header.",
            )
    return columns


class _StrictParser:
    """The standard library's parser, with the line of each record and errors that say where a quote opened."""

    def __init__(self, text: TextStream, delimiter: str, line_end: str, has_quotes: bool):
        self._text = text
        self._delimiter = delimiter
        self._line_end = line_end
        self._has_quotes = has_quotes
        self._lines_of_record: list[str] = []

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line where each record begins and its fields; no fields for a blank line."""
        # The limit belongs to the whole process. It is only ever raised, so no other reader can fail through us.
        if csv.field_size_limit() < MAX_FIELD_CHARACTERS:
            csv.field_size_limit(MAX_FIELD_CHARACTERS)
        quoting = csv.QUOTE_MINIMAL if self._has_quotes else csv.QUOTE_NONE
        reader = csv.reader(self._lines(), delimiter=self._delimiter, quoting=quoting, strict=True)
        lines_of_record = self._lines_of_record
        line = 1
        while True:
            try:
                for fields in reader:
                    lines_of_record.clear()
                    yield line, fields
                    line = reader.line_num + 1
            except csv.Error as error:
                raise self._explained(error, line) from error
            return

    def _lines(self) -> Iterator[str]:
        """Yield lines, keeping those of the record that is being read: an error must say where its quote opened."""
        keep = self._lines_of_record.append
        for line in self._text.lines(self._line_end):
            keep(line)
            yield line

    def _explained(self, error: csv.Error, line: int) -> DataError:
        """Turn a parser's complaint about the record that begins at `line` into one that can be acted on."""
        name, reason = self._text.name, str(error)
        record = "".join(self._lines_of_record)
        if "new-line character" in reason:
            return DataError(
                f"{name}:{line}: a line end (CR) inside a field without quotes.",
                'Line ends are mixed in this file; make them all the same, or put the text in double quotes ("...").',
            )
        opened, closed = _quote_that_fails(record, self._delimiter, self._line_end)
        at = line + record.count(self._line_end, 0, opened)
        if "field larger" in reason:
            problem = f"{name}:{at}: a text longer than {MAX_FIELD_CHARACTERS} characters begins here"
            return DataError(f"{problem}.", 'Most likely a double quote (") opens here and is never closed.')
        hint = 'Inside a quoted text write each quote twice (""); if quotes mean nothing in this file, add --no-quotes.'
        if closed is None:
            return DataError(f'{name}:{at}: the double quote (") that opens here is never closed.', hint)
        end = line + record.count(self._line_end, 0, closed)
        follows = record[closed + 1 : closed + 21]
        return DataError(
            f'{name}:{at}: the quoted text that begins here is closed at line {end} by a quote (") '
            f"that {follows!r} follows instead of the separator.",
            hint,
        )


def _quote_that_fails(record: str, delimiter: str, line_end: str) -> tuple[int, int | None]:
    """Find the first quoted field of `record` that is not closed properly: where it opens, where it closes if it does.

    Only for a record that the parser refused; position 0 if its quotes are sound.
    """
    position = 0
    while position < len(record):
        if record[position] == '"':
            closing = record.find('"', position + 1)
            while closing != -1 and record.startswith('""', closing):
                closing = record.find('"', closing + 2)
            if closing == -1:
                return position, None
            if record[closing + 1 : closing + 2] not in ("", delimiter, "\r", "\n"):
                return position, closing
            position = closing + 1
        ends = [end for end in (record.find(delimiter, position), record.find(line_end, position)) if end != -1]
        if not ends:
            break
        position = min(ends) + 1
    return 0, None


def _line_end(head: str) -> str:
    """Return CR where the first line end outside of quotes is a lone CR (old Macintosh files), else LF."""
    is_quoted = False
    for position, character in enumerate(head):
        if character == '"':
            is_quoted = not is_quoted
        elif character == "\n" and not is_quoted:
            return "\n"
        elif character == "\r" and not is_quoted:
            return "\n" if head.startswith("\n", position + 1) else "\r"
    return "\n"


def _sniffed_delimiter(head: str, is_all: bool, line_end: str, wanted: list[str], name: str, has_quotes: bool) -> str:
    """Choose the delimiter under which the header has the wanted columns and most records are as wide as the header."""
    lines = [line + line_end for line in head.lstrip("\r\n").split(line_end)]
    if not is_all:
        lines.pop()
    usual = "\t" if ".tsv" in name.lower() else ","
    best, best_score = usual, (0, 0.0, 0, False)
    for delimiter in DELIMITERS:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE)
        records: list[list[str]] = []
        with contextlib.suppress(csv.Error):  # what is wrong will be said when the record is read strictly
            for fields in islice(reader, SNIFFED_RECORDS):
                if fields:
                    records.append(fields)
        if not records or (width := len(records[0])) < 2:
            continue
        found = sum(column.strip() in wanted for column in records[0])
        # the last record may be cut off by the end of the sample
        counted = records[1:] if is_all else records[1:-1]
        same = sum(len(fields) == width for fields in counted) / len(counted) if counted else 1.0
        score = (found, same, width, delimiter == usual)
        if score > best_score:
            best, best_score = delimiter, score
    return best
