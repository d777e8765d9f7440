"""The table that `bilstm predict --file` writes: the rows of the input with the answers beside them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bilstm.cli.output import flush_output, write_output
from bilstm.errors import BilstmError, OutputError, UsageError, WriteFailedError

__all__ = ["PredictedTable", "TableWriter", "destination", "format_of", "line_of", "table_destination"]


def format_of(output: str | None) -> str:
    """Return csv, tsv, jsonl or parquet, by the ending (without .gz); csv for standard output.

    Raises
    ------
    UsageError
        For another ending.
    """
    if output is None:
        return "csv"
    ending = Path(output.removesuffix(".gz")).suffix.lower().lstrip(".")
    if ending not in ENDINGS or (ending == "parquet" and output.endswith(".gz")):
        raise UsageError(
            f"--output {output}: the ending must be .csv, .tsv or .jsonl (each also with .gz) or .parquet."
        )
    return ending


ENDINGS = ("csv", "tsv", "jsonl", "parquet")


class _StandardOutput:
    """Standard output, with our errors."""

    write = staticmethod(write_output)
    flush = staticmethod(flush_output)


@contextmanager
def destination(output: str | None) -> Iterator[Any]:
    """Give standard output, or a file that appears under its name only when it is whole; both can `write` and `flush`.

    Raises
    ------
    OutputError, WriteFailedError
        What stood under the name before is then untouched.
    """
    if output is None:
        yield _StandardOutput
        flush_output()
        return
    path = Path(output)
    with _whole_or_not(path) as partial, _opened_text(partial, path.suffix == ".gz") as stream:
        yield stream


def _opened_text(path: Path, is_packed: bool) -> Any:
    # level 6: three times as fast as the default of this module, files 1 % larger
    if is_packed:
        return gzip.open(path, "wt", compresslevel=6, encoding="utf-8", newline="")
    return open(path, "w", encoding="utf-8", newline="")


@contextmanager
def _whole_or_not(path: Path) -> Iterator[Path]:
    """Give the name of a file beside `path` that takes its place if all goes well, and else is removed.

    Raises
    ------
    OutputError, WriteFailedError
        If the place or the disk does not allow it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BilstmError:  # some of them are OSErrors too
        raise
    except OSError as error:
        kind = WriteFailedError if partial.exists() else OutputError
        raise kind(f"{path}: cannot be written: {error.strerror}.", "Nothing was written under that name.") from error
    finally:
        partial.unlink(missing_ok=True)


class TableWriter:
    """Writes the table: its header with the first row, then row after row.

    Parameters
    ----------
    kind : {"csv", "tsv", "jsonl", "parquet"}
    columns : sequence of str
    numbers : set of str
        Columns that hold numbers, for Parquet.
    stream : text file, or the path of a Parquet file
    """

    def __init__(self, kind: str, columns: Sequence[str], numbers: set[str], stream: Any):
        self._kind, self._columns, self._stream = kind, list(columns), stream
        self.parquet: Any = None
        if kind == "parquet":
            from bilstm.cli.parquet_output import ParquetWriter

            self.parquet = ParquetWriter(str(stream), columns, numbers)
        elif kind != "jsonl":
            stream.write(line_of(kind, columns, columns))

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write a chunk of rows."""
        if self.parquet is not None:
            self.parquet.write(list(rows))
            return
        for values in rows:
            self._stream.write(line_of(self._kind, self._columns, values))


@contextmanager
def table_destination(output: str | None) -> Iterator[Callable[[Sequence[str], set[str]], TableWriter]]:
    """Give a function that makes the writer of the table from the names of its columns and of those with numbers.

    Raises
    ------
    OutputError, WriteFailedError
        What stood under the name before is then untouched.
    """
    kind = format_of(output)
    if kind != "parquet" or output is None:
        with destination(output) as stream:
            yield lambda columns, numbers: TableWriter(kind, columns, numbers, stream)
        return
    made: list[TableWriter] = []

    def make(columns: Sequence[str], numbers: set[str]) -> TableWriter:
        made.append(TableWriter(kind, columns, numbers, partial))
        return made[-1]

    with _whole_or_not(Path(output)) as partial:
        if not partial.parent.is_dir():
            raise OutputError(f"{output}: there is no folder {partial.parent}.", "Make it first.")
        is_whole = False
        try:
            yield make
            for writer in made:
                writer.parquet.close()
            is_whole = True
        finally:
            if not is_whole:
                for writer in made:
                    writer.parquet.abandon()


class PredictedTable:
    """Columns and rows of the table: the text, the other columns of the input, the prediction, the probabilities.

    Parameters
    ----------
    text_column : str or None
        None where the input holds word ids.
    extras : sequence of str
        Other columns of the input.
    names : sequence of str
        Classes or labels; empty for numbers.
    """

    def __init__(self, text_column: str | None, extras: Sequence[str], names: Sequence[str]):
        self._has_text, self._extras = text_column is not None, list(extras)
        taken = {*extras, text_column}
        added = ["prediction", *(f"probability {name}" for name in names)]
        own = [name if name not in taken else f"{name} (bilstm)" for name in added]
        self.columns = [*([text_column] if text_column is not None else []), *extras, *own]
        self.numbers = set(own if not names else own[1:])  # columns of floats: probabilities, or predicted numbers

    def rows(self, records: Any, predictions: Sequence[Any], outputs: Any) -> Iterator[list[Any]]:
        """Yield the values of each row of a chunk."""
        for row, prediction in enumerate(predictions):
            values: list[Any] = [records.texts[row]] if self._has_text else []
            values += [records.extras[name][row] for name in self._extras]
            values.append(prediction)
            if outputs.ndim == 2:
                values += [round(float(value), 6) for value in outputs[row]]
            yield values


def line_of(kind: str, columns: Sequence[str], values: Sequence[Any]) -> str:
    """Write a row as a line of CSV, TSV or JSONL."""
    if kind == "jsonl":
        return json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False) + "\n"
    line = io.StringIO()
    csv.writer(line, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n").writerow(values)
    return line.getvalue()
