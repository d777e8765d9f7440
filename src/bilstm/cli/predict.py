"""`bilstm predict`: labels for texts given as arguments, in a file, or on standard input."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional, TextIO

import typer

from bilstm.cli import tagging
from bilstm.cli.output import note, print_json, print_line
from bilstm.errors import OutputError, UsageError, WriteFailedError
from bilstm.tasks.sequence_tagging import TaggerModel

__all__ = ["command", "destination"]

CHUNK_ROWS = 4096


def command(
    model: Annotated[str, typer.Argument(help="Model folder.")],
    texts: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Texts, or - to read standard input, one text a line.", show_default=False),
    ] = None,
    file: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--file", "-f", help="File of texts, in the formats that `train` reads."),
    ] = None,
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--output", "-o", help="With --file: write here (.csv, .tsv or .jsonl) instead of printing."),
    ] = None,
    text: Annotated[Optional[str], typer.Option("--text", help="Column of the texts.")] = None,  # noqa: UP045
    encoding: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--encoding", help="Of the file, where it is not UTF-8."),
    ] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used.")] = False,
    max_bytes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--max-bytes", help="Most unpacked bytes of the file."),
    ] = None,
    form: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--format", help=f"Tagging: how answers are written, {', '.join(tagging.FORMATS)}."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Predict labels of texts.

    With --file the result is a table: the columns of the file, then `prediction` and a probability for each class.
    """
    from bilstm.tasks import load

    loaded = load(model)
    is_tagger = isinstance(loaded, TaggerModel)
    if is_tagger and not texts and file is None and not sys.stdin.isatty():
        texts = ["-"]
    given = [name for name, value in (("TEXT", texts), ("--file", file)) if value]
    if len(given) != 1:
        raise UsageError(f"give texts, - or --file, one of them; got {' and '.join(given) or 'none'}.")
    if is_tagger:
        options = {"token": text, "encoding": encoding, "skip_bad_rows": skip_bad_rows, "max_bytes": max_bytes}
        tagging.predict(loaded, model, texts, file, output, form, options, as_json)
        return
    if form is not None:
        raise UsageError("--format is for models of sequence tagging.")
    if output is not None and file is None:
        raise UsageError("--output needs --file.")
    if file is not None:
        options = {"text": text, "encoding": encoding, "skip_bad_rows": skip_bad_rows, "max_bytes": max_bytes}
        _predict_file(loaded, file, output, options, as_json)
        return
    assert texts is not None
    if texts == ["-"]:
        if as_json:
            print_json({"model": model, "predictions": _described(loaded, [*_lines(sys.stdin)])})
        else:
            for chunk in _chunks(_lines(sys.stdin)):
                _print(loaded, chunk)
        return
    if as_json:
        print_json({"model": model, "predictions": _described(loaded, texts)})
    else:
        _print(loaded, texts)


def _lines(stream: TextIO) -> Iterator[str]:
    for line in stream:
        yield line.rstrip("\r\n")


def _chunks(lines: Iterator[str]) -> Iterator[list[str]]:
    """Gather lines; a person at a terminal gets an answer to each line at once."""
    size = 1 if sys.stdin.isatty() else CHUNK_ROWS
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _print(model: Any, texts: list[str]) -> None:
    for text, found in zip(texts, _described(model, texts), strict=True):
        shown = text if len(text) <= 100 else text[:99] + "…"
        label = found["prediction"]
        sure = "" if "probability" not in found else f"{found['probability']:.4f}\t"
        label = f"{label:.6g}" if isinstance(label, float) else label
        print_line(f"{label}\t{sure}{' '.join(shown.split())}")
    sys.stdout.flush()


def _described(model: Any, texts: list[str]) -> list[dict[str, Any]]:
    """Return prediction and probabilities of each text."""
    outputs = model.predict_proba(texts)
    labels = model.labels_of(outputs)
    if model.labels.kind == "regression":
        return [{"text": text, "prediction": label} for text, label in zip(texts, labels, strict=True)]
    found = []
    for text, label, row in zip(texts, labels, outputs.tolist(), strict=True):
        probabilities = dict(zip(model.labels.names, row, strict=True))
        entry = {"text": text, "prediction": label}
        if model.labels.kind != "multilabel":
            entry["probability"] = max(row)
        found.append({**entry, "probabilities": probabilities})
    return found


def _predict_file(model: Any, file: str, output: str | None, options: dict[str, Any], as_json: bool) -> None:
    """Read in chunks and write in chunks: constant memory, however long the file."""
    from bilstm.data.records import iter_records
    from bilstm.tasks.labelled_files import texts_for_model

    kind = "jsonl" if as_json and output is None else _format_of(output)
    rows = 0
    with destination(output) as stream:
        writer: _Writer | None = None
        for records in iter_records(file, chunk_rows=CHUNK_ROWS, labels="none", **options):
            for line in records.notes:
                note(line)
            outputs = model.predict_proba(texts_for_model(model, records))
            if writer is None:
                writer = _Writer(stream, kind, [*records.extras], records.text_column, model.labels)
            writer.write(records, model.labels_of(outputs), outputs)
            rows += len(records)
            if output is not None and sys.stderr.isatty():
                note(f"\033[1A\033[2K{rows:,} rows" if rows > CHUNK_ROWS else f"{rows:,} rows")
    note(f"{rows:,} rows predicted{'' if output is None else f', written to {output}'}.")


def _format_of(output: str | None) -> str:
    if output is None:
        return "csv"
    ending = Path(output).suffix.lower().lstrip(".")
    if ending not in ("csv", "tsv", "jsonl"):
        raise UsageError(f"--output {output}: the ending must be .csv, .tsv or .jsonl.")
    return ending


@contextmanager
def destination(output: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name only when it is whole."""
    if output is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    path = Path(output)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="") as stream:
            yield stream
        partial.replace(path)
    except OSError as error:
        if error.errno is None:  # one of ours, on its way out
            raise
        kind = OutputError if isinstance(error, FileNotFoundError | PermissionError) else WriteFailedError
        raise kind(f"{output}: cannot be written: {error.strerror}.", "Nothing was written under that name.") from error
    finally:
        partial.unlink(missing_ok=True)


class _Writer:
    """Rows of a table: the columns of the input, the text, the prediction, the probabilities."""

    def __init__(self, stream: TextIO, kind: str, extras: list[str], text_column: str | None, labels: Any):
        self._stream, self._kind, self._extras = stream, kind, extras
        self._text = text_column
        added = ["prediction", *(f"probability {name}" for name in labels.names)]
        taken = {*extras, text_column}
        self._added = [name if name not in taken else f"{name} (bilstm)" for name in added]
        columns = [*([text_column] if text_column else []), *extras, *self._added]
        self._table = csv.writer(stream, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n")
        self._columns = columns
        if kind != "jsonl":
            self._table.writerow(columns)

    def write(self, records: Any, predictions: list[Any], outputs: Any) -> None:
        """Write the rows of a chunk."""
        for row, prediction in enumerate(predictions):
            values: list[Any] = [records.texts[row]] if self._text else []
            values += [records.extras[name][row] for name in self._extras]
            values.append(prediction)
            if outputs.ndim == 2:
                values += [round(float(value), 6) for value in outputs[row]]
            if self._kind == "jsonl":
                self._stream.write(json.dumps(dict(zip(self._columns, values, strict=True)), ensure_ascii=False) + "\n")
            else:
                self._table.writerow(values)
