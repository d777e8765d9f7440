"""Read labelled or unlabelled texts from files, folders and standard input into `Records`.

Step `read` of the way of the data: `files -> read -> Records -> encode`. The format is told by content and name: CSV,
TSV, JSONL, Parquet (each also gzipped), a folder of classes (`pos/*.txt`, `neg/*.txt`), Keras' `imdb.npz` of word ids.
Nothing is changed on the way: a text `NA`, `None` or `007` stays what it is. Imports numpy; polars only for Parquet.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from bilstm.data.byte_streams import STANDARD_INPUT, ByteStream, Source, TextStream, quoted
from bilstm.data.columns import LABEL_NAMES, LabelsWanted, choose_columns
from bilstm.data.folders import FILE_COLUMN, FolderOfClasses
from bilstm.data.json_lines import LIST_SEPARATOR, open_json_lines
from bilstm.data.keras_ids import is_ids_path, read_ids
from bilstm.data.parquet import PARQUET_MAGIC, open_parquet
from bilstm.data.ragged import Ragged
from bilstm.data.tables import BadRows, Table, open_delimited, open_lines
from bilstm.errors import DataError, UsageError

__all__ = ["Records", "Source", "iter_records", "read_records"]

GUESSED_FROM_ROWS = 1000


@dataclass(frozen=True)
class Records:
    """Texts with what belongs to them, as read: one entry a record in every list.

    Parameters
    ----------
    texts : list of str
        Empty where the input holds ids (`ids`).
    labels : list of str or None
        As written in the file; None if there is no label column.
    rows : ndarray of shape (records, 2), int64
        Position of the input in `sources`, and line (CSV, JSONL), record number (Parquet, ids) or file number (folder),
        counted from 1.
    sources : tuple of Source
    text_column, label_column : str or None
    extras : dict of str to list of str
        The other columns, for the output of predictions; a missing value is an empty string.
    notes : tuple of str
        Lines a user should see: what was guessed, passed over or left out.
    ids : Ragged of int64, optional
        Sequences of word ids instead of texts (Keras' form).
    label_separator : str or None
        What separates labels where the file held lists of labels, else None.
    share_read : float, optional
        How much of its input was read when a chunk of `iter_records` was given out; None where that is not known.
    """

    texts: list[str]
    labels: list[str] | None
    rows: np.ndarray
    sources: tuple[Source, ...] = ()
    text_column: str | None = None
    label_column: str | None = None
    extras: dict[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ids: Ragged | None = None
    label_separator: str | None = None
    share_read: float | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, record: int) -> str:
        """Say where a record stands, for messages: `reviews.csv:12`, or the file of a folder."""
        number, line = self.rows[record]
        source = self.sources[number]
        if source.is_folder:
            return os.path.join(source.path, self.extras[FILE_COLUMN][record])
        return f"{source.name}:{line}"

    def select(self, records: Sequence[int] | np.ndarray) -> Records:
        """Take some records, in the given order; sources and notes stay those of the whole."""
        chosen = np.asarray(records, dtype=np.int64)
        return Records(
            texts=[self.texts[record] for record in chosen] if self.texts else [],
            labels=None if self.labels is None else [self.labels[record] for record in chosen],
            rows=self.rows[chosen],
            sources=self.sources,
            text_column=self.text_column,
            label_column=self.label_column,
            extras={name: [values[record] for record in chosen] for name, values in self.extras.items()},
            notes=self.notes,
            ids=None if self.ids is None else self.ids.select(chosen),
            label_separator=self.label_separator,
        )


def read_records(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    text: str | None = None,
    label: str | None = None,
    labels: LabelsWanted = "required",
    encoding: str | None = None,
    skip_bad_rows: bool = False,
    keep_empty_labels: bool = False,
    keep_extras: bool = True,
    has_quotes: bool = True,
    max_bytes: int | None = None,
) -> Records:
    """Read one or several inputs with the same columns into one `Records`.

    Parameters
    ----------
    paths : path or sequence of paths
        CSV, TSV, JSONL, Parquet (each may be gzipped), `.txt` or "-" with one text a line (only where no labels are
        wanted; otherwise "-" is a CSV or JSONL table), a folder of classes, or Keras' `imdb.npz` (`imdb.npz:test` for
        its test part).
    text, label : str, optional
        Names of the columns. None: well-known names, else the longest texts and the fewest different values; said in
        `notes`.
    labels : {"required", "optional", "none"}
        "optional" takes labels where a column was named or has a well-known name; "none" leaves them among the extras.
    encoding : str, optional
        Text encoding of the files. None: UTF-8, or what a byte order mark or zero bytes show.
    skip_bad_rows : bool
        Leave out, and count in `notes`, rows of another width and rows without label; else they are errors.
    keep_empty_labels : bool
        An empty label is a label (an empty set in multi-label data), not a missing one.
    keep_extras : bool
        Keep the other columns.
    has_quotes : bool
        Whether double quotes enclose fields in delimited tables.
    max_bytes : int, optional
        Most unpacked bytes an input may hold. None: only gzip bombs are stopped (see `ByteStream`).

    Raises
    ------
    InputNotFoundError
        An input that is not there or may not be read.
    DataError
        Everything that cannot be read as what it should be; the message names file and line.
    UsageError
        An unknown encoding, no input, or the same input twice.
    """
    options = _Options(
        text, label, labels, encoding, skip_bad_rows, keep_empty_labels, keep_extras, has_quotes, max_bytes
    )
    names = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not names:
        raise UsageError("No input was given.", "Name at least one file.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]}: the same input was given twice.")
    if is_ids_path(names[0]):
        if len(names) > 1:
            raise UsageError(f"{names[0]}: a file of ids is read alone, {len(names)} inputs were given.")
        return _records_of_ids(names[0], options)
    gathered = _Gathered(options)
    for name in names:
        with _opened(name, options, gathered.bad_rows) as (table, source):
            gathered.start(table)
            gathered.take(gathered.rows_of_table)
            gathered.finish(source)
    return gathered.records()


def iter_records(
    path: str | os.PathLike[str],
    *,
    chunk_rows: int = 10_000,
    text: str | None = None,
    label: str | None = None,
    labels: LabelsWanted = "none",
    encoding: str | None = None,
    skip_bad_rows: bool = False,
    keep_empty_labels: bool = False,
    keep_extras: bool = True,
    has_quotes: bool = True,
    max_bytes: int | None = None,
) -> Iterator[Records]:
    """Read one input in chunks of at most `chunk_rows` records, in constant memory; parameters as `read_records`.

    Notes stand in the chunk during which they arose; the hash of the input (`sources`) is known in the last chunk only.
    That a file changed while it was read shows at its end, after all other chunks.
    """
    if chunk_rows < 1:
        raise UsageError(f"chunk_rows must be at least 1, got {chunk_rows}.")
    options = _Options(
        text, label, labels, encoding, skip_bad_rows, keep_empty_labels, keep_extras, has_quotes, max_bytes
    )
    name = os.fspath(path)
    if is_ids_path(name):
        yield _records_of_ids(name, options)
        return
    gathered = _Gathered(options)
    with _opened(name, options, gathered.bad_rows) as (table, source):
        gathered.start(table)
        while True:
            gathered.take(islice(gathered.rows_of_table, chunk_rows))
            # the next row decides whether this chunk is the last, which carries hash and closing notes
            following = next(gathered.rows_of_table, None)
            if following is None:
                break
            gathered.rows_of_table = chain([following], gathered.rows_of_table)
            gathered.check_labels()
            yield gathered.records()
            gathered.clear()
        gathered.finish(source)
    yield gathered.records()


@dataclass(frozen=True)
class _Options:
    text: str | None
    label: str | None
    labels: LabelsWanted
    encoding: str | None
    skip_bad_rows: bool
    keep_empty_labels: bool
    keep_extras: bool
    has_quotes: bool
    max_bytes: int | None


def _records_of_ids(path: str, options: _Options) -> Records:
    ids, labels, source, notes = read_ids(path, options.max_bytes)
    if labels is None and options.labels == "required":
        raise DataError(f"{path}: holds no labels (y_train, y_test, or labels).", "Add them to the file.")
    rows = np.stack([np.zeros(len(ids), dtype=np.int64), np.arange(1, len(ids) + 1)], axis=1)
    labels = None if options.labels == "none" else labels
    return Records([], labels, rows, (source,), notes=tuple(notes), ids=ids)


@contextmanager
def _opened(path: str, options: _Options, bad_rows: BadRows) -> Iterator[tuple[Table, Callable[[int], Source]]]:
    """Open one input in the format that its content and name show."""
    if path != STANDARD_INPUT and os.path.isdir(path):
        folder = FolderOfClasses(path, options.encoding, options.max_bytes)
        yield folder.table, folder.source
        return
    with ByteStream(path, options.max_bytes) as stream:
        yield _table_of(stream, options, bad_rows), stream.source


def _table_of(stream: ByteStream, options: _Options, bad_rows: BadRows) -> Table:
    name = stream.path.lower().removesuffix(".gz")
    head = stream.head()
    if head.startswith(PARQUET_MAGIC):
        return open_parquet(stream, options.max_bytes)
    if head.startswith(b"PK\x03\x04"):
        is_workbook = name.endswith((".xlsx", ".xlsm"))
        hint = "Save the table as CSV (UTF-8)." if is_workbook else "Unpack it first (unzip) and give the file in it."
        raise DataError(f"{stream.name}: this is {'an Excel workbook' if is_workbook else 'a zip archive'}.", hint)
    if name.endswith((".parquet", ".pq")):
        raise DataError(f"{stream.name}: not a Parquet file (it does not begin with PAR1).", "Is it complete?")
    text = TextStream(stream, options.encoding)
    is_line_list = name.endswith(".txt") or stream.path == STANDARD_INPUT
    if is_line_list and options.labels == "none" and options.text is None:
        table = open_lines(text)
    elif name.endswith((".jsonl", ".ndjson", ".json")) or text.head()[0].lstrip().startswith('{"'):
        table = open_json_lines(text, bad_rows)
    else:
        wanted = [column for column in (options.text, options.label) if column is not None]
        table = open_delimited(text, bad_rows, wanted, has_quotes=options.has_quotes)
    table.notes[:0] = stream.notes
    table.share_read = stream.share_read
    return table


class _Gathered:
    """Records while they are read: lists that grow row by row, checked against what is wanted."""

    def __init__(self, options: _Options):
        self.bad_rows = BadRows(options.skip_bad_rows)
        self.rows_of_table: Iterator[tuple[int, list[str | None]]] = iter(())
        self._options = options
        self._columns: list[str] = []
        self._text_column: str | None = None
        self._label_column: str | None = None
        self._first_table = ""
        self._sources: list[Source] = []
        self._notes: list[str] = []
        self.clear()

    def clear(self) -> None:
        """Forget the records and notes given out; what is known of columns and inputs stays."""
        self._texts: list[str] = []
        self._labels: list[str] = []
        self._extras: dict[str, list[str]] = {}
        self._inputs = array("q")
        self._lines = array("q")
        self._missing: list[int] = []
        self._notes.clear()

    def start(self, table: Table) -> None:
        """Choose the columns of a table, or check that it has those of the first."""
        options = self._options
        sample = list(islice(table.rows, GUESSED_FROM_ROWS))
        self._table = table
        self._given = self._missing_count = self._empty_count = self._first_empty = 0
        if not sample:
            if self.bad_rows.count:
                raise DataError(f"{table.name}: no usable rows.", " ".join(self.bad_rows.notes()))
            raise DataError(f"{table.name}: there are no data rows, only a header.", "Is this the right file?")
        self.rows_of_table = chain(sample, table.rows)
        is_first = not self._columns
        if is_first:
            self._columns, self._first_table = table.columns, table.name
            self._text_column, self._label_column = options.text, options.label
        else:
            self._check_same_columns(table)
        rows = [values for _, values in sample]
        self._text_at, self._label_at = choose_columns(
            table.columns,
            rows,
            table.name,
            text=self._text_column,
            label=self._label_column,
            labels=options.labels if is_first or self._label_column is not None else "none",
            notes=table.notes,
        )
        if table.has_header_line and is_first:
            _check_header(
                table, rows, None if options.text else self._text_at, None if options.label else self._label_at
            )
        self._text_column = table.columns[self._text_at]
        self._label_column = None if self._label_at is None else table.columns[self._label_at]
        self._extra_at = {
            column: position
            for position, column in enumerate(table.columns)
            if position not in (self._text_at, self._label_at) and (options.keep_extras or column == FILE_COLUMN)
        }

    def _check_same_columns(self, table: Table) -> None:
        missing = [column for column in self._columns if column not in table.columns]
        added = [column for column in table.columns if column not in self._columns]
        if missing or added:
            differences = [f"lacks {', '.join(map(quoted, missing))}"] if missing else []
            differences += [f"has {', '.join(map(quoted, added))} in addition"] if added else []
            raise DataError(
                f"{table.name}: other columns than {self._first_table}: it {' and '.join(differences)}.",
                "Inputs that are read together must have the same columns.",
            )

    def take(self, rows: Iterator[tuple[int, list[str | None]]]) -> None:
        """Append rows; rows without text are bad, rows without label are counted."""
        text_at, label_at, name = self._text_at, self._label_at, self._table.name
        # an empty list of labels is an empty set, not a missing label
        keep_empty = self._options.keep_empty_labels or self._label_column in self._table.list_columns
        extras = [(position, self._extras.setdefault(column, [])) for column, position in self._extra_at.items()]
        texts, labels, lines, before = self._texts, self._labels, self._lines, len(self._texts)
        for line, values in rows:
            text = values[text_at]
            if text is None:
                problem = f"no text in column {self._text_column!r} (a missing value)."
                self.bad_rows.reject(name, line, problem, 'Fill it in; an empty text is written "".')
                continue
            if label_at is not None:
                label = values[label_at]
                if label is None or (not keep_empty and (not label or label.isspace())):
                    self._missing.append(line)
                    continue
                labels.append(label)
            if not text or text.isspace():
                self._empty_count += 1
                self._first_empty = self._first_empty or line
            texts.append(text)
            lines.append(line)
            for position, column in extras:
                column.append(values[position] or "")
        taken = len(texts) - before
        self._given += taken
        self._inputs.extend(array("q", [len(self._sources)]) * taken)

    def check_labels(self) -> None:
        """Raise DataError if rows had no label and may not be left out."""
        self._missing_count += len(self._missing)
        if self._missing and not self._options.skip_bad_rows:
            first = ", ".join(map(str, self._missing[:5]))
            rows = self._given + len(self._missing)
            raise DataError(
                f"{self._table.name}:{self._missing[0]}: {len(self._missing)} of {rows} rows "
                f"have no label in column {self._label_column!r} (first at line {first}).",
                "Fill them in, or leave these rows out with --skip-bad-rows.",
            )
        self._missing = []

    def finish(self, source: Callable[[int], Source]) -> None:
        """Close the account of one table: missing labels, notes, source."""
        self.check_labels()
        name = self._table.name
        if self._missing_count:
            self._table.notes.append(f"{name}: {_counted(self._missing_count, 'row')} without a label left out.")
        if self._empty_count:
            empty = _counted(self._empty_count, "empty text")
            self._table.notes.append(f"{name}: {empty} kept (first at line {self._first_empty}).")
        if not self._given:
            raise DataError(f"{name}: no usable rows.", " ".join([*self.bad_rows.notes(), *self._table.notes]))
        self._sources.append(source(self._given))
        self._notes += self._table.notes
        self._table.notes = []

    def records(self) -> Records:
        """Return what was gathered since the last `clear`."""
        sources = list(self._sources)
        notes = [*self._notes, *self._table.notes]
        self._table.notes.clear()
        if len(self._inputs) and self._inputs[-1] >= len(sources):
            is_folder = os.path.isdir(self._table.name)
            sources.append(Source(self._table.name, None, 0, len(self._texts), is_folder))
        else:
            notes += self.bad_rows.notes()
        return Records(
            texts=self._texts,
            labels=self._labels if self._label_at is not None else None,
            rows=np.stack([np.array(self._inputs, dtype=np.int64), np.array(self._lines, dtype=np.int64)], axis=1),
            sources=tuple(sources),
            text_column=self._text_column,
            label_column=self._label_column,
            extras=self._extras,
            notes=tuple(notes),
            label_separator=LIST_SEPARATOR if self._label_column in self._table.list_columns else None,
            share_read=self._table.share_read(),
        )


def _check_header(table: Table, rows: list[list[str | None]], text_at: int | None, label_at: int | None) -> None:
    """Raise DataError if the first line is most likely a row: a file without names of columns would lose it.

    Only for columns that were guessed by their content (others are None or have a well-known name).
    """
    text_name = "" if text_at is None else table.columns[text_at]
    label_name = "" if label_at is None else table.columns[label_at]
    is_value = label_name.casefold() not in LABEL_NAMES and any(row[label_at or 0] == label_name for row in rows)
    if (label_name and is_value) or len(text_name.split()) > 6:
        shown = label_name if label_name and is_value else text_name
        raise DataError(
            f"{table.name}:1: the first line looks like a row, not like names of columns ({quoted(shown)}).",
            "Add a first line with names, for example text,label; or name the columns with --text and --label.",
        )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
