"""Options that several verbs share, each written once. Imports typer."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "Backend",
    "Encoding",
    "LabelColumn",
    "MaxBytes",
    "ModelFolder",
    "OverwriteModel",
    "Precision",
    "Quiet",
    "Resume",
    "SettingsFile",
    "SkipBadRows",
    "TextColumn",
    "Threads",
]

_READING, _RUN = "Reading the data", "The run"

ModelFolder = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder that `train` wrote.")]
TextColumn = Annotated[
    str | None,
    typer.Option("--text", metavar="COLUMN", help="Column of the texts; guessed and said.", rich_help_panel=_READING),
]
LabelColumn = Annotated[
    str | None,
    typer.Option("--label", metavar="COLUMN", help="Column of the labels; guessed and said.", rich_help_panel=_READING),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        "--encoding", metavar="NAME", help="Of the files, where it is not UTF-8: latin-1, cp1252, ...",
        rich_help_panel=_READING,
    ),
]  # fmt: skip
SkipBadRows = Annotated[
    bool,
    typer.Option(
        "--skip-bad-rows", help="Leave out, and count, rows that cannot be used.", rich_help_panel=_READING
    ),
]  # fmt: skip
MaxBytes = Annotated[
    int | None,
    typer.Option("--max-bytes", metavar="N", help="Most unpacked bytes of a file.", rich_help_panel=_READING),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.", rich_help_panel=_RUN)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.", rich_help_panel=_RUN)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint of a run that was cut.", rich_help_panel=_RUN)
]
OverwriteModel = Annotated[
    bool, typer.Option("--overwrite", help="Replace a model that stands there.", rich_help_panel=_RUN)
]
SettingsFile = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="TOML file of settings; flags go before it.", rich_help_panel=_RUN),
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="CPU threads; all by default.", rich_help_panel=_RUN)
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="What computes the model: auto, engine, numpy.",
        rich_help_panel=_RUN,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="Numbers inside the recurrent layers: float32, bfloat16, or auto (bfloat16 where that is faster).",
        rich_help_panel=_RUN,
    ),
]
