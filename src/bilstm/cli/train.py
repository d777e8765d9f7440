"""`bilstm train`: from labelled files to a model folder."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from bilstm.cli import tagging
from bilstm.cli.options import (
    AsJson,
    Encoding,
    LabelColumn,
    MaxBytes,
    OverwriteModel,
    Quiet,
    Resume,
    SettingsFile,
    SkipBadRows,
    TextColumn,
)
from bilstm.cli.output import note, print_json, print_line
from bilstm.cli.scores import print_training_scores
from bilstm.cli.settings_flags import given_settings, with_settings
from bilstm.errors import DataError, InterruptedTrainingError, UsageError
from bilstm.tasks import TASKS, Task, task_named
from bilstm.tasks.presets import PRESETS, resolve_settings, wide_settings
from bilstm.training.budget import Budget, parse_budget
from bilstm.training.progress import ProgressPrinter

__all__ = ["arguments_to_repeat", "command", "guessed_task", "interruption_told", "panel_of", "print_outcome"]

DEFAULT_BUDGET = "1h"
_READING, _RUN, _MODEL, _TRAINING = "Reading the data", "The run", "The model", "Training"
_TASKS = [name for name, task in TASKS.items() if task.verb == "train"]
_SETTINGS = {name: TASKS[name].config_type for name in _TASKS}
_TRAINING_SETTINGS = {
    "seed", "max_epochs", "batch_size", "batch_steps", "learning_rate", "schedule", "warmup", "optimizer", "betas",
    "epsilon", "weight_decay", "clip_norm", "patience", "average_decay", "adversarial_norm", "class_weights",
    "label_smoothing", "threads", "backend", "precision", "checkpoint_minutes", "checkpoint_steps", "dev_share",
    "dev_groups", "word_dropout", "embedding_dropout", "dropout", "variational_dropout", "weight_dropout",
    "auxiliary_weight", "intent_weight", "phases", "members", "layer_decay", "gradual_unfreezing",
}  # fmt: skip


def panel_of(name: str) -> str:
    """Return the heading of `--help` under which a setting stands."""
    return _TRAINING if name in _TRAINING_SETTINGS else _MODEL


@with_settings(_SETTINGS, panel_of)
def command(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="CSV, TSV, JSONL, Parquet (also .gz) or a folder with a folder a class; for tagging CoNLL, CoNLL-U, "
            "JSONL or a slot folder.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FOLDER", help="Model folder to write.", rich_help_panel=_RUN),
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            metavar="NAME",
            help=f"auto, {', '.join(_TASKS)}. auto: tagging for .conll and .conllu files and slot folders, else "
            "text-classification, which is regression and multi-label too.",
            rich_help_panel=_RUN,
        ),
    ] = "auto",
    text: TextColumn = None,
    label: LabelColumn = None,
    label_kind: Annotated[
        str,
        typer.Option(
            "--label-kind",
            metavar="NAME",
            help="auto, binary, multiclass, multilabel or regression; auto: told from the labels, and said.",
            rich_help_panel=_READING,
        ),
    ] = "auto",
    label_separator: Annotated[
        str | None,
        typer.Option(
            "--label-separator", metavar="TEXT", help="Between several labels of a row.", rich_help_panel=_READING
        ),
    ] = None,
    valid: Annotated[
        str | None,
        typer.Option(
            "--valid",
            metavar="FILE",
            help="Development part, which chooses the epoch; by default a share of the data.",
            rich_help_panel=_READING,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="SIZES",
            help="train:test or train:dev:test in rows (45000:5000) or shares (0.9:0.1); test is scored once.",
            rich_help_panel=_READING,
        ),
    ] = None,
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(
            "--unlabelled",
            metavar="FILE",
            help="Further texts without labels to learn from; may be given several times.",
            rich_help_panel=_READING,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="Time for a training with --unlabelled, for example 20m or 1.5h, or none. [default: 1h]",
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--start-from",
            metavar="FOLDER",
            help="Begin with the words, word vectors and recurrent layers of a language model (bilstm pretrain) or of "
            "another text classifier.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    encoding: Encoding = None,
    skip_bad_rows: SkipBadRows = False,
    max_bytes: MaxBytes = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help=f"Start from the settings of a tutorial's program: {', '.join(PRESETS)}.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    config: SettingsFile = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Fit the linear baseline too.", rich_help_panel=_RUN)
    ] = True,
    resume: Resume = False,
    overwrite: OverwriteModel = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    flags: dict[str, str] | None = None,
) -> None:
    """Train a model on labelled files.

    Writes a model folder with weights, vocabulary, scores, a report (report.html) and a model card. A simple baseline
    is fitted beside it and printed, so that you see what the network is worth.

    [bold]Examples[/bold]

      bilstm train reviews.csv -o model

      bilstm train reviews.csv --text review --label sentiment --split 0.9:0.1 -o model

      bilstm train labelled.csv --unlabelled more.csv --budget 90m -o model

      bilstm train train.conll --valid dev.conll -o tagger
    """
    from bilstm.tasks.text_run import Job, ReadOptions, run

    chosen = guessed_task(data) if task == "auto" else task_named(task)
    if chosen.name not in _SETTINGS:
        raise UsageError(
            f"--task {chosen.name}: is not trained by this command.", f"Use bilstm {chosen.verb}; see its --help."
        )
    settings = given_settings(_SETTINGS, chosen.name, flags or {})
    job: dict[str, Any] = {
        "data": data,
        "output": output,
        "reading": ReadOptions(text, label, label_kind, label_separator, encoding, skip_bad_rows, max_bytes),
        "valid": valid,
        "split": split,
        "baseline": baseline,
        "resume": resume,
        "overwrite": overwrite,
        "command": shlex.join(["bilstm", *arguments_to_repeat()]),
    }
    if chosen.name == "sequence-tagging":
        kind = None if label_kind == "auto" else label_kind
        _refuse(
            chosen,
            {
                "--preset": preset,
                "--label-kind": kind,
                "--label-separator": label_separator,
                "--start-from": start_from,
                "--budget": budget,
            },
        )
        with interruption_told(output), _table_told(data):
            tagging.train(job, config, settings, unlabelled or (), as_json, quiet)
        return
    if budget is not None and not unlabelled:
        raise UsageError("--budget is for a training with --unlabelled.", "Give such a file, or set --max-epochs.")
    seconds = parse_budget(budget if budget is not None else DEFAULT_BUDGET)
    base = wide_settings(seconds) if unlabelled and not start_from else {}
    text_job = Job(
        config=resolve_settings(preset, config, settings, base),
        start_from=start_from,
        unlabelled=unlabelled or (),
        budget=Budget(seconds),
        **job,
    )
    with interruption_told(output), ProgressPrinter("silent" if quiet else "auto") as progress:
        result = run(text_job, progress)
    if as_json:
        print_json({"folder": str(result.folder), **result.summary})
        return
    print_outcome(result)
    folder = shlex.quote(output)
    note(f'next:   bilstm predict {folder} "a text"   |   bilstm evaluate {folder} test.csv')
    note(f'also:   bilstm explain {folder} "a text"   |   bilstm serve {folder}')


def guessed_task(data: Sequence[str]) -> Task:
    """Return the task that the names of the files stand for: text classification unless they say otherwise."""
    from bilstm.data.slot_files import is_slot_folder

    for name, task in TASKS.items():
        if data[0].lower().removesuffix(".gz").endswith(task.endings or ("\0",)):
            note(f"Task: {name} (by the name {os.path.basename(data[0])}); --task chooses another.")
            return task
    if os.path.isdir(data[0]) and is_slot_folder(data[0]):
        note(f"Task: sequence-tagging ({data[0]} is a slot folder); --task chooses another.")
        return TASKS["sequence-tagging"]
    return TASKS["text-classification"]


def _refuse(task: Task, options: dict[str, Any]) -> None:
    """Raise UsageError for options that another task has."""
    for flag, value in options.items():
        if value:
            raise UsageError(f"{flag} has no meaning for the task {task.name}.", "Leave it out, or choose --task.")


@contextmanager
def interruption_told(output: str) -> Iterator[None]:
    """Say what Ctrl-C left behind where the training itself could not."""
    from bilstm.tasks.text_run import checkpoint_of

    try:
        yield
    except InterruptedTrainingError:
        raise
    except KeyboardInterrupt as error:
        checkpoint = checkpoint_of(output)
        if os.path.isdir(checkpoint):
            raise InterruptedTrainingError(
                f"Interrupted; no model was written, the checkpoint {checkpoint} is kept.",
                "Add --resume to the same command to go on.",
            ) from error
        raise InterruptedTrainingError(
            "Interrupted before there was anything to keep; nothing was written.", "Start the same command again."
        ) from error


@contextmanager
def _table_told(data: Sequence[str]) -> Iterator[None]:
    """Where a tagger was asked for and a table was given, say which task is for tables."""
    try:
        yield
    except DataError as error:
        if not data[0].lower().removesuffix(".gz").endswith((".csv", ".tsv", ".parquet")):
            raise
        advice = "A table of texts and labels is for --task text-classification."
        raise DataError(error.message, f"{error.hint} {advice}" if error.hint else advice) from error


def arguments_to_repeat() -> list[str]:
    """Arguments as typed, less those that only say how to show or to go on."""
    return [argument for argument in sys.argv[1:] if argument not in ("--resume", "--json", "--quiet", "-q")]


def print_outcome(result: Any) -> None:
    """Print the scores and where model and report are."""
    print_training_scores(result.summary)
    print_line()
    print_line(f"model:  {result.folder}")
    print_line(f"report: {result.folder / 'report.html'}")
