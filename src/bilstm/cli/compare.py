"""`bilstm compare`: several models on the same rows, as one table and one figure."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Any

import typer

from bilstm.cli.options import AsJson, Encoding, LabelColumn, MaxBytes, Quiet, SettingsFile, SkipBadRows, TextColumn
from bilstm.cli.output import note, print_json, print_line, print_table
from bilstm.cli.settings_flags import given_settings, with_settings
from bilstm.cli.train import panel_of
from bilstm.tasks.compared_models import DEFAULT_MODELS, NOT_SHARED
from bilstm.tasks.presets import PRESETS
from bilstm.tasks.text_classification import Config

__all__ = ["command", "print_comparison"]

_READING, _RUN = "Reading the data", "The run"
_TASK = "text-classification"
_TYPES: dict[str, type] = {_TASK: Config}


@with_settings(_TYPES, panel_of)
def command(
    data: Annotated[
        list[str], typer.Argument(help="Training data: CSV, TSV, JSONL, Parquet (also .gz), or a folder of classes.")
    ],
    test: Annotated[
        str | None,
        typer.Option("--test", help="File whose rows are scored, in the same form.", rich_help_panel=_READING),
    ] = None,
    models: Annotated[
        str,
        typer.Option(
            "--models",
            help="linear, feedforward, rnn, gru, lstm; bi... reads backwards too; ...-2 has two layers.",
            rich_help_panel=_RUN,
        ),
    ] = ",".join(DEFAULT_MODELS),
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Trainings of each model, from --seed on.", rich_help_panel=_RUN)
    ] = 3,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder of results, table and figure.", rich_help_panel=_RUN)
    ] = "comparison",
    text: TextColumn = None,
    label: LabelColumn = None,
    label_kind: Annotated[
        str,
        typer.Option("--label-kind", help="auto, binary, multiclass or multilabel.", rich_help_panel=_READING),
    ] = "auto",
    label_separator: Annotated[
        str | None,
        typer.Option("--label-separator", help="Between several labels of a row.", rich_help_panel=_READING),
    ] = None,
    valid: Annotated[
        str | None,
        typer.Option("--valid", help="Development part; by default a share of the data.", rich_help_panel=_READING),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="Without --test: train:test or train:dev:test in rows (45000:5000) or shares (0.9:0.1).",
            rich_help_panel=_READING,
        ),
    ] = None,
    encoding: Encoding = None,
    skip_bad_rows: SkipBadRows = False,
    max_bytes: MaxBytes = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help=f"Start from the settings of {', '.join(PRESETS)}.", rich_help_panel=_RUN),
    ] = None,
    config: SettingsFile = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start again where results stand already.", rich_help_panel=_RUN)
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    flags: dict[str, str] | None = None,
) -> None:
    """Train several models on the same texts with the same seeds, and put them in one table and one figure.

    Every result is written to results.jsonl as soon as it is there. After Ctrl-C or a crash the same command goes on;
    so it does with more --models or more --seeds.
    """
    from bilstm.errors import UsageError
    from bilstm.tasks.presets import resolve_settings
    from bilstm.tasks.text_comparison import ComparisonJob, compare
    from bilstm.tasks.text_run import ReadOptions
    from bilstm.training.progress import ProgressPrinter

    given = given_settings(_TYPES, _TASK, flags or {})
    for name, reason in NOT_SHARED.items():
        if name in given:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag}: not a setting of a comparison: {reason}.", "Leave it out, and see --models.")
    job = ComparisonJob(
        data=data,
        output=output,
        config=resolve_settings(preset, config, given),
        models=[name.strip() for name in models.split(",") if name.strip()],
        seeds=seeds,
        reading=ReadOptions(text, label, label_kind, label_separator, encoding, skip_bad_rows, max_bytes),
        test=test,
        valid=valid,
        split=split,
        overwrite=overwrite,
        command=shlex.join(["bilstm", *_arguments()]),
    )
    with ProgressPrinter("silent" if quiet else "auto", score_name="dev score") as progress:
        result = compare(job, progress)
    if as_json:
        print_json({"folder": str(result.folder), **result.summary})
        return
    print_comparison(result.summary)
    print_line()
    print_line(f"table and figure: {result.folder / 'index.html'}, {result.folder / 'comparison.svg'}")
    note(f"next:             bilstm train {shlex.join(data)} -o model   # the settings that you choose, as one model")


def _arguments() -> list[str]:
    """Arguments as typed, less those that only say how to show."""
    return [argument for argument in sys.argv[1:] if argument not in ("--json", "--quiet", "-q", "--overwrite")]


def print_comparison(summary: dict[str, Any]) -> None:
    """Print the table, and say plainly which models do not beat the linear one."""
    score = summary["score"].replace("_", " ")
    part = summary["scored_on"]
    print_line(f"{summary['rows'][part[:3] if part == 'development' else part]:,} {part} rows")
    header = ["model", f"{part} {score}", "spread", "seeds", "dev score", "parameters", "seconds"]
    rows = []
    for line in summary["models"]:
        spread = line["standard_deviation"]
        rows.append(
            [
                line["model"],
                f"{line['mean']:.4f}",
                "-" if spread is None else f"{spread:.4f}",
                str(line["seeds"]),
                f"{line['dev_mean']:.4f}",
                f"{line['parameters']:,}",
                f"{line['seconds']:,.1f}",
            ]
        )
    print_table(header, rows)
    print_line()
    if (verdict := _verdict(summary["models"], score)) is not None:
        print_line(verdict)
    for line in summary["notes"]:
        print_line(line)


def _verdict(models: list[dict[str, Any]], score: str) -> str | None:
    linear = next((model["mean"] for model in models if model["model"] == "linear"), None)
    others = [model for model in models if model["model"] != "linear"]
    if linear is None or not others:
        return None
    behind = [model["model"] for model in others if model["mean"] <= linear]
    if not behind:
        return f"Every model beats the linear baseline ({linear:.4f} {score})."
    if len(behind) == len(others):
        return f"No model beats the linear baseline ({linear:.4f} {score})."
    return f"Not better than the linear baseline ({linear:.4f} {score}): {', '.join(behind)}."
