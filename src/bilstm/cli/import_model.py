"""`bilstm import`: a model folder of a model that another library trained."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bilstm.cli.options import AsJson
from bilstm.cli.output import note, print_json, print_line
from bilstm.errors import UsageError
from bilstm.model_folder import check_output

__all__ = ["command"]


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .keras file (Keras 3).")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the model is written.")],
    label_kind: Annotated[
        str | None,
        typer.Option(
            "--label-kind",
            metavar="KIND",
            help="What the outputs mean, where the file does not say: binary, multiclass, multilabel, regression.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="A,B,...", help="Names of the classes in the order of their numbers."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that stands there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a model folder of a text classifier that Keras trained.

    Known are chains of Embedding, Conv1D, LSTM, GRU, SimpleRNN, Bidirectional, pooling, Dropout and Dense, with or
    without TextVectorization. Other layers are refused by name; no code in the file is ever run.

    [bold]Examples[/bold]

      bilstm import old.keras -o model --labels negative,positive
    """
    if label_kind not in (None, "binary", "multiclass", "multilabel", "regression"):
        raise UsageError(f"--label-kind {label_kind}: allowed are binary, multiclass, multilabel, regression.")
    check_output(output, overwrite=overwrite)
    from bilstm.export.keras_import import import_keras

    kind: Any = label_kind
    found = import_keras(file, label_kind=kind, labels=None if labels is None else labels.split(","))
    card = _card(file, found.notes)
    found.model.save(output, metrics={}, files={"README.md": card}, overwrite=overwrite)
    for line in found.notes:
        note(line)
    facts = {"kind": found.model.labels.kind, "labels": list(found.model.labels.names), "notes": found.notes}
    if as_json:
        print_json({"file": file, "output": output, **facts})
        return
    print_line(f"model:  {output} ({facts['kind']}; labels {', '.join(facts['labels']) or 'numbers'})")
    print_line(f'next:   bilstm evaluate {output} test.csv   |   bilstm predict {output} "a text"')


def _card(file: str, notes: list[str]) -> str:
    lines = ["---", "library_name: bilstm", "pipeline_tag: text-classification", "---", "", "# Imported model", ""]
    lines += [
        f"Imported from `{file.rpartition('/')[2]}` (Keras 3). Its scores are not known here: measure them with",
        "",
    ]
    lines += ["    bilstm evaluate MODEL test.csv", ""]
    return "\n".join([*lines, *(f"- {line}" for line in notes), ""])
