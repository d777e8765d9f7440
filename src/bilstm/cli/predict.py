"""`bilstm predict`: answers for texts given as arguments, in files, or on standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from bilstm.cli import tagging
from bilstm.cli.options import (
    AsJson,
    Backend,
    Encoding,
    MaxBytes,
    ModelFolder,
    Precision,
    SkipBadRows,
    TextColumn,
    Threads,
)
from bilstm.cli.output import flush_output, note, print_json, print_line
from bilstm.cli.predicted_table import PredictedTable, TableWriter, format_of, table_destination
from bilstm.cli.row_progress import RowProgress
from bilstm.data.records import Records, iter_records
from bilstm.data.vocabulary import rows_without_known_tokens
from bilstm.errors import DataError, InputNotFoundError, UsageError
from bilstm.tasks import load
from bilstm.tasks.labelled_files import texts_for_model
from bilstm.tasks.language_model import LanguageModel
from bilstm.tasks.sequence_tagging import TaggerModel

__all__ = ["command"]

CHUNK_ROWS = 4096


def command(
    model: ModelFolder,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...", help="Texts, or - to read standard input, one text a line.", show_default=False
        ),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="File of texts, as `train` reads them; quoted, * stands for any letters.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="With --file: write here (.csv, .tsv, .jsonl, each also .gz; .parquet).",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="|".join(tagging.FORMATS), help="How the answers of a tagger are written."),
    ] = None,
    text: TextColumn = None,
    encoding: Encoding = None,
    skip_bad_rows: SkipBadRows = False,
    max_bytes: MaxBytes = None,
    backend: Backend = "auto",
    precision: Precision = "float32",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Answer for texts given as arguments, in files, or on standard input.

    A text prints as a line: prediction, probability, text. With --file the result is a table: the columns of the file,
    then `prediction` and a probability for each class.

    [bold]Examples[/bold]

      bilstm predict model "Not bad at all."

      cat texts.txt | bilstm predict model -

      bilstm predict model --file new.csv -o answers.csv

      bilstm predict model --file ten_million.parquet -o answers.parquet
    """
    if not texts and not file and not sys.stdin.isatty():
        texts = ["-"]
    given = [name for name, value in (("TEXT", texts), ("--file", file)) if value]
    if len(given) != 1:
        raise UsageError(
            f"give texts, - (standard input) or --file, one of them; got {' and '.join(given) or 'none'}.",
            f'For example: bilstm predict {model} "a text"',
        )
    if output is not None and not file:
        raise UsageError("--output needs --file.")
    files = _expanded(file or [])
    loaded = load(model, backend=backend, precision=precision, threads=threads)
    if isinstance(loaded, LanguageModel):
        raise UsageError(
            f"{model} is a language model: it has no labels to answer with.",
            f"Measure texts with bilstm evaluate {model} FILE, or train with --start-from {model}.",
        )
    if isinstance(loaded, TaggerModel):
        if len(files) > 1:
            raise UsageError(f"a tagger reads one --file at a time, got {len(files)}.")
        options = {"token": text, "encoding": encoding, "skip_bad_rows": skip_bad_rows, "max_bytes": max_bytes}
        tagging.predict(loaded, model, texts, files[0] if files else None, output, form, options, as_json)
        return
    if form is not None:
        raise UsageError("--format is for taggers; this model classifies texts.", "Use --output with an ending.")
    if file:
        format_of(output)  # a wrong ending is said before anything is read
        options = {"text": text, "encoding": encoding, "skip_bad_rows": skip_bad_rows, "max_bytes": max_bytes}
        _predict_files(model, loaded, files, output, options, as_json)
        return
    lines = iter(texts or []) if texts != ["-"] else _lines()
    if as_json:
        print_json({"model": model, "predictions": _described(loaded, [*lines])})
        return
    for chunk in _chunks(lines):
        _print(loaded, chunk)


def _lines() -> Iterator[str]:
    """Yield the lines of standard input.

    Raises
    ------
    DataError
        If it is not UTF-8; the message names the line.
    """
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"standard input:{number}: not UTF-8 text (byte {error.start + 1} of the line).",
                "Convert it: iconv -f latin1 -t utf-8",
            ) from error


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


def _expanded(patterns: list[str]) -> list[str]:
    """Replace patterns such as `new/*.csv` by the files they stand for, in the order of their names."""
    files = []
    for pattern in patterns:
        if pattern == "-" or os.path.exists(pattern) or not glob.has_magic(pattern):
            files.append(pattern)
        elif found := sorted(glob.glob(pattern)):
            files += found
        else:
            raise InputNotFoundError(f"{pattern}: no file has such a name.")
    return files


def _print(model: Any, texts: list[str]) -> None:
    for text, found in zip(texts, _described(model, texts), strict=True):
        words = " ".join(text.split())
        label = found["prediction"]
        sure = "" if "probability" not in found else f"{found['probability']:.4f}\t"
        label = f"{label:.6g}" if isinstance(label, float) else label
        print_line(f"{label}\t{sure}{words if len(words) <= 100 else words[:99] + '…'}")
    flush_output()


def _outputs(model: Any, texts: Any) -> Any:
    """Return decoded outputs; say how many texts hold nothing that the model knows."""
    ids, words = model.encode(texts)
    if unknown := len(rows_without_known_tokens(ids)):
        note(f"{unknown:,} of {len(texts):,} texts hold no known word: their answers say nothing about them.")
    return model.decode(model.logits_of_encoded(ids, words))


def _described(model: Any, texts: list[str]) -> list[dict[str, Any]]:
    """Return prediction and probabilities of each text."""
    outputs = _outputs(model, texts)
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


def _predict_files(
    folder: str, model: Any, files: list[str], output: str | None, options: dict[str, Any], as_json: bool
) -> None:
    """Read in chunks and write in chunks: constant memory, however long the files (unless one JSON object is asked)."""
    gathered: list[dict[str, Any]] = []
    rows = unknown = 0
    is_gathering = as_json and output is None
    with RowProgress() as progress, table_destination(output) as open_table:
        columns: list[str] | None = None
        writer: TableWriter | None = None
        for number, (file, records, table) in _numbered(_chunks_of_files(files, model, options)):
            if columns is None:
                columns = table.columns
                writer = None if is_gathering else open_table(columns, table.numbers)
            elif columns != table.columns:
                raise DataError(f"{file}: other columns than {files[0]}.", "Predict such files one by one.")
            texts = texts_for_model(model, records)
            ids, words = model.encode(texts)
            unknown += len(rows_without_known_tokens(ids))
            outputs = model.decode(model.logits_of_encoded(ids, words))
            found = table.rows(records, model.labels_of(outputs), outputs)
            if writer is None:
                gathered += [dict(zip(columns, values, strict=True)) for values in found]
            else:
                writer.write(found)
            rows += len(records)
            share = None if records.share_read is None else (number + records.share_read) / len(files)
            progress.show(rows, share)
    if unknown:
        note(f"{unknown:,} of {rows:,} texts hold no known word: their answers say nothing about them.")
    if as_json:
        answer: dict[str, Any] = {"predictions": gathered} if output is None else {"output": output}
        print_json({"model": folder, "files": files, "rows": rows, **answer})
    note(f"{rows:,} rows predicted{'' if output is None else f', written to {output}'}.")


def _numbered(
    chunks: Iterator[tuple[str, Records, PredictedTable]],
) -> Iterator[tuple[int, tuple[str, Records, PredictedTable]]]:
    """Number the files that chunks come from, from 0."""
    names: list[str] = []
    for chunk in chunks:
        if not names or names[-1] != chunk[0]:
            names.append(chunk[0])
        yield len(names) - 1, chunk


def _chunks_of_files(
    files: list[str], model: Any, options: dict[str, Any]
) -> Iterator[tuple[str, Records, PredictedTable]]:
    for file in files:
        for records in iter_records(file, chunk_rows=CHUNK_ROWS, labels="none", **options):
            for line in records.notes:
                note(line)
            yield file, records, PredictedTable(records.text_column, [*records.extras], model.labels.names)
