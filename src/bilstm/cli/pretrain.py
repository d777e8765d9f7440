"""`bilstm pretrain`: from files of texts to a language model, which other models can begin with."""

from __future__ import annotations

import os
import shlex
from typing import Annotated, Any

import typer

from bilstm.cli.options import (
    AsJson,
    Encoding,
    MaxBytes,
    OverwriteModel,
    Quiet,
    Resume,
    SettingsFile,
    SkipBadRows,
    TextColumn,
)
from bilstm.cli.output import note, print_json, print_line, print_table
from bilstm.cli.settings_flags import given_settings, with_settings
from bilstm.cli.train import arguments_to_repeat, interruption_told, panel_of
from bilstm.config import resolve
from bilstm.tasks.language_model import TASK, Config, LanguageModel

__all__ = ["command", "evaluate", "print_perplexity"]

_READING, _RUN = "Reading the data", "The run"
_TYPES: dict[str, type] = {TASK: Config}


@with_settings(_TYPES, panel_of)
def command(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="CSV, TSV, JSONL, Parquet (also .gz), or .txt, one text a line; labels are not read.",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", help="Model folder to write.", rich_help_panel=_RUN)
    ],
    text: TextColumn = None,
    valid: Annotated[
        str | None,
        typer.Option(
            "--valid",
            metavar="FILE",
            help="Development part, which chooses the epoch; by default a share of the data.",
            rich_help_panel=_READING,
        ),
    ] = None,
    encoding: Encoding = None,
    skip_bad_rows: SkipBadRows = False,
    max_bytes: MaxBytes = None,
    config: SettingsFile = None,
    resume: Resume = False,
    overwrite: OverwriteModel = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    flags: dict[str, str] | None = None,
) -> None:
    """Learn a language model from texts without labels.

    One layer reads each text forwards and backwards and learns to predict the next word. Its word vectors and layer
    are a better start than chance for a classifier of the same kind of text: bilstm train --start-from FOLDER.

    [bold]Examples[/bold]

      bilstm pretrain more.csv -o language

      bilstm train labelled.csv --start-from language -o model

      bilstm evaluate language other.csv
    """
    from bilstm.tasks.language_run import LanguageJob, run
    from bilstm.training.progress import ProgressPrinter

    job = LanguageJob(
        data=data,
        output=output,
        config=resolve(Config, config, given_settings(_TYPES, TASK, flags or {})),
        text=text,
        encoding=encoding,
        skip_bad_rows=skip_bad_rows,
        max_bytes=max_bytes,
        valid=valid,
        resume=resume,
        overwrite=overwrite,
        command=shlex.join(["bilstm", *arguments_to_repeat()]),
    )
    shown: Any = ProgressPrinter("silent" if quiet else "auto", None, "dev perplexity", "words", True)
    with interruption_told(output), shown as progress:
        result = run(job, progress)
    if as_json:
        print_json({"folder": str(result.folder), **result.summary})
        return
    print_perplexity(result.summary["dev"])
    print_line()
    print_line(f"model:  {result.folder}")
    print_line(f"report: {result.folder / 'report.html'}")
    note(f"next:   bilstm train labelled.csv --start-from {shlex.quote(output)} -o model")


def print_perplexity(scores: dict[str, Any]) -> None:
    """Print perplexities and what they were counted on."""
    print_line(
        f"{scores['words']:,} words in {scores['rows']:,} texts, {100 * scores['unknown_share']:.2f} % of them outside "
        f"the vocabulary of {scores['vocabulary_size']:,}"
    )
    parts = (("both directions", scores), ("forwards", scores["forward"]), ("backwards", scores["backward"]))
    rows = [[name, f"{part['perplexity']:,.2f}", f"{part['cross_entropy']:.4f}"] for name, part in parts]
    print_table(["direction", "perplexity", "nats a word"], rows)


def evaluate(model: LanguageModel, folder: str, data: list[str], reading: dict[str, Any], as_json: bool) -> None:
    """Measure the perplexity of texts in files and print it.

    Parameters
    ----------
    model : LanguageModel
    folder : str
        Where it was loaded from.
    data : list of path
    reading : dict
        `text`, `encoding`, `skip_bad_rows`, `max_bytes` of `read_texts`.
    as_json : bool
    """
    from bilstm.cli.row_progress import RowProgress
    from bilstm.tasks.language_run import read_texts

    records = read_texts(data, **reading)
    for line in records.notes:
        note(line)
    with RowProgress() as progress:
        scores = model.evaluate(records.texts, lambda done, rows: progress.show(done, done / rows))
    if as_json:
        print_json({"model": folder, "data": [source.path for source in records.sources], **scores})
        return
    print_line(f"{len(records):,} rows of {', '.join(os.fspath(path) for path in data)}")
    print_perplexity(scores)
