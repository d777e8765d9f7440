"""`bilstm train`: from labelled files to a model folder."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields
from typing import Annotated, Any, Optional

import typer

from bilstm.cli import tagging
from bilstm.cli.output import note, print_json, print_line, print_table
from bilstm.cli.settings_flags import with_settings
from bilstm.errors import UsageError
from bilstm.tasks import TASKS
from bilstm.tasks.presets import PRESETS
from bilstm.tasks.sequence_tagging import TASK as TAGGING
from bilstm.tasks.sequence_tagging import Config as TaggingConfig
from bilstm.tasks.text_classification import Config

__all__ = ["command", "panel_of", "print_scores"]

_READING, _RUN, _MODEL, _TRAINING = "Reading the data", "The run", "The model", "Training"
_MODEL_SETTINGS = {
    "tokenizer", "lowercase", "vocabulary_size", "min_count", "max_length", "keep", "embedding_size", "vectors",
    "vector_epochs", "convolution_size", "kernel_size", "cell", "hidden_size", "num_layers", "layer_sizes",
    "bidirectional", "merge_mode", "pooling", "dense_size",
}  # fmt: skip
_TAGGING_PANEL = "Sequence tagging only"
_TAGGING_SETTINGS = {field.name for field in fields(TaggingConfig)} - {field.name for field in fields(Config)}


def panel_of(name: str) -> str:
    """Return the heading of `--help` under which a setting stands."""
    if name in _TAGGING_SETTINGS:
        return _TAGGING_PANEL
    return _MODEL if name in _MODEL_SETTINGS else _TRAINING


@with_settings((Config, TaggingConfig), panel_of)
def command(
    data: Annotated[
        list[str],
        typer.Argument(
            help="CSV, TSV, JSONL, Parquet (also .gz), or a folder with a folder a class; "
            "for tagging CoNLL columns, CoNLL-U, JSONL, or a folder with seq.in, seq.out, label."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Model folder to write.", rich_help_panel=_RUN)],
    task: Annotated[
        str, typer.Option("--task", help=f"One of {', '.join(TASKS)}.", rich_help_panel=_RUN)
    ] = "text-classification",
    text: Annotated[
        Optional[str], typer.Option("--text", help="Column of the texts.", rich_help_panel=_READING)  # noqa: UP045
    ] = None,
    label: Annotated[
        Optional[str], typer.Option("--label", help="Column of the labels.", rich_help_panel=_READING)  # noqa: UP045
    ] = None,
    label_kind: Annotated[
        str,
        typer.Option(
            "--label-kind", help="auto, binary, multiclass, multilabel or regression.", rich_help_panel=_READING
        ),
    ] = "auto",
    label_separator: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--label-separator", help="Between several labels of a row.", rich_help_panel=_READING),
    ] = None,
    valid: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--valid", help="Development part; by default a share of the data.", rich_help_panel=_READING),
    ] = None,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--split",
            help="train:test or train:dev:test in rows (45000:5000) or shares (0.9:0.1); test is scored once.",
            rich_help_panel=_READING,
        ),
    ] = None,
    encoding: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--encoding", help="Of the files, where it is not UTF-8.", rich_help_panel=_READING),
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used.", rich_help_panel=_READING)
    ] = False,
    max_bytes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--max-bytes", help="Most unpacked bytes of a file.", rich_help_panel=_READING),
    ] = None,
    unlabelled: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--unlabelled", help="Tagging: text for --vectors in-domain.", rich_help_panel=_READING),
    ] = None,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--preset", help=f"Start from the settings of {', '.join(PRESETS)}.", rich_help_panel=_RUN),
    ] = None,
    config: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--config", help="TOML file of settings; flags go before it.", rich_help_panel=_RUN),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Fit the linear baseline too.", rich_help_panel=_RUN)
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint of a run that was cut.", rich_help_panel=_RUN)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that stands there.", rich_help_panel=_RUN)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.", rich_help_panel=_RUN)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress on standard error.", rich_help_panel=_RUN)
    ] = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Train a text classifier on labelled files.

    Writes a model folder with weights, vocabulary, scores, a report (report.html) and a model card. A linear n-gram
    model is fitted beside it and printed, so that you see what the network is worth.
    """
    from bilstm.tasks import task_module
    from bilstm.tasks.presets import resolve_settings
    from bilstm.tasks.text_run import Job, ReadOptions, run
    from bilstm.training.progress import ProgressPrinter

    task_module(task)
    reading = ReadOptions(text, label, label_kind, label_separator, encoding, skip_bad_rows, max_bytes)
    shared: dict[str, Any] = {
        "data": data,
        "output": output,
        "reading": reading,
        "valid": valid,
        "split": split,
        "baseline": baseline,
        "resume": resume,
        "overwrite": overwrite,
        "command": shlex.join(["bilstm", *_arguments()]),
    }
    if task == TAGGING:
        for flag, is_given in (
            ("--preset", preset is not None),
            ("--label-kind", label_kind != "auto"),
            ("--label-separator", label_separator is not None),
        ):
            if is_given:
                raise UsageError(f"{flag} does not go with --task {TAGGING}.")
        tagging.train(shared, config, settings or {}, unlabelled or (), as_json, quiet)
        return
    if unlabelled:
        raise UsageError(f"--unlabelled does not go with --task {task} yet.")
    job = Job(config=resolve_settings(preset, config, settings or {}), **shared)
    with ProgressPrinter("silent" if quiet else "auto", score_name="dev score") as progress:
        result = run(job, progress)
    if as_json:
        print_json({"folder": str(result.folder), **result.summary})
        return
    print_scores(result.summary)
    print_line()
    print_line(f"model:  {result.folder}")
    print_line(f"report: {result.folder / 'report.html'}")
    note(f'next:   bilstm predict {shlex.quote(output)} "a text"   |   bilstm evaluate {shlex.quote(output)} test.csv')


def _arguments() -> list[str]:
    """Arguments as typed, less those that only say how to show or to go on."""
    return [argument for argument in sys.argv[1:] if argument not in ("--resume", "--json", "--quiet", "-q")]


MAIN_SCORE = {"regression": ("root_mean_squared_error", "RMSE"), "multilabel": ("micro_f1", "micro F1")}


def print_scores(summary: dict[str, Any]) -> None:
    """Print the model beside the linear baseline, and say plainly which is better."""
    key, title = MAIN_SCORE.get(summary["kind"], ("accuracy", "accuracy"))
    parts = [part for part in ("dev", "test") if part in summary]
    others = {"regression": ("mean_absolute_error", "r_squared"), "multilabel": ("subset_accuracy", "macro_f1")}
    columns = [key, *others.get(summary["kind"], ("macro_f1", "roc_auc", "log_loss", "expected_calibration_error"))]
    names = {key: title, "expected_calibration_error": "calibration error"}
    header = ["", *(f"{part} {names.get(name, name.replace('_', ' '))}" for part in parts for name in columns)]
    linear = summary.get("linear_baseline")
    rows = [[summary["model"], *(_shown(summary[part].get(name)) for part in parts for name in columns)]]
    if linear is not None:
        rows.append([linear["name"], *(_shown(linear[part].get(name)) for part in parts for name in columns)])
    print_table(header, rows)
    if linear is None:
        return
    part = parts[-1]
    ours, theirs = summary[part][key], linear[part][key]
    is_better = ours < theirs if summary["kind"] == "regression" else ours > theirs
    gap = abs(ours - theirs)
    by = f"{100 * gap:.2f} points of {title}" if summary["kind"] != "regression" else f"{gap:.4g} {title}"
    rows_of_part = summary["rows"][part]
    if is_better:
        print_line(f"The {summary['model']} beats the linear baseline by {by} on {rows_of_part:,} {part} rows.")
    else:
        print_line(
            f"The {summary['model']} does NOT beat the linear baseline: it is {by} behind on {rows_of_part:,} {part} "
            "rows. For these texts the linear model is the better choice."
        )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
