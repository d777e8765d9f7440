"""`bilstm evaluate`: scores of a trained model on labelled files."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from bilstm.cli import tagging
from bilstm.cli.output import note, print_json, print_line, print_table
from bilstm.tasks.sequence_tagging import TaggerModel

__all__ = ["command"]


def command(
    model: Annotated[str, typer.Argument(help="Model folder.")],
    data: Annotated[list[str], typer.Argument(help="Labelled files, in the formats that `train` reads.")],
    text: Annotated[Optional[str], typer.Option("--text", help="Column of the texts.")] = None,  # noqa: UP045
    label: Annotated[Optional[str], typer.Option("--label", help="Column of the labels.")] = None,  # noqa: UP045
    encoding: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--encoding", help="Of the files, where it is not UTF-8."),
    ] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used.")] = False,
    max_bytes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--max-bytes", help="Most unpacked bytes of a file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Score a trained model on labelled files."""
    from bilstm.tasks import load
    from bilstm.tasks.labelled_files import read_for_model

    loaded = load(model)
    if isinstance(loaded, TaggerModel):
        options = {"token": text, "label": label, "encoding": encoding}
        options |= {"skip_bad_rows": skip_bad_rows, "max_bytes": max_bytes}
        tagging.evaluate(loaded, model, data, options, as_json)
        return
    records, texts, targets = read_for_model(
        loaded,
        data,
        text=text,
        label=label,
        encoding=encoding,
        skip_bad_rows=skip_bad_rows,
        max_bytes=max_bytes,
        tell=note,
    )
    scores = loaded.measure(loaded.predict_proba(texts), targets)
    if as_json:
        print_json({"model": model, "data": [source.path for source in records.sources], **scores})
        return
    print_line(f"{scores['rows']:,} rows of {', '.join(data)}")
    names = [name for name, value in scores.items() if isinstance(value, float) or value is None]
    print_table(["score", "value"], [[name.replace("_", " "), _shown(scores[name])] for name in names])
    for name, reason in scores.get("undefined", {}).items():
        note(f"{name}: {reason}")
    if "confusion_matrix" in scores:
        print_line()
        classes = scores["classes"]
        rows = [[f"true {name}", *map(str, row)] for name, row in zip(classes, scores["confusion_matrix"], strict=True)]
        print_table(["", *(f"pred. {name}" for name in classes)], rows)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
