"""The table that `bilstm predict --file` writes: the rows of the input with the answers beside them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bilstm.cli.output import flush_output, write_output
from bilstm.errors import BilstmError, OutputError, UsageError, WriteFailedError

__all__ = ["PredictedTable", "destination", "format_of", "line_of"]


def format_of(output: str | None) -> str:
    """Return csv, tsv or jsonl, by the ending; csv for standard output."""
    if output is None:
        return "csv"
    ending = Path(output).suffix.lower().lstrip(".")
    if ending not in ("csv", "tsv", "jsonl"):
        raise UsageError(f"--output {output}: the ending must be .csv, .tsv or .jsonl.")
    return ending


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
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="") as stream:
            yield stream
        partial.replace(path)
    except BilstmError:  # some of them are OSErrors too
        raise
    except OSError as error:
        kind = WriteFailedError if partial.exists() else OutputError
        raise kind(f"{output}: cannot be written: {error.strerror}.", "Nothing was written under that name.") from error
    finally:
        partial.unlink(missing_ok=True)


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
