"""`bilstm evaluate`: scores of a trained model on labelled files."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bilstm.cli import pretrain, tagging
from bilstm.cli.options import (
    AsJson,
    Backend,
    Encoding,
    LabelColumn,
    MaxBytes,
    ModelFolder,
    Precision,
    SkipBadRows,
    TextColumn,
    Threads,
)
from bilstm.cli.output import note, print_json
from bilstm.cli.scores import print_evaluation
from bilstm.errors import UsageError
from bilstm.tasks import load
from bilstm.tasks.labelled_files import read_for_model
from bilstm.tasks.language_model import LanguageModel
from bilstm.tasks.sequence_tagging import TaggerModel

__all__ = ["command"]


def command(
    model: ModelFolder,
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Labelled files, in the formats that `train` reads.")
    ],
    text: TextColumn = None,
    label: LabelColumn = None,
    encoding: Encoding = None,
    skip_bad_rows: SkipBadRows = False,
    max_bytes: MaxBytes = None,
    backend: Backend = "auto",
    precision: Precision = "float32",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Score a trained model on labelled files, a language model on texts.

    [bold]Examples[/bold]

      bilstm evaluate model test.csv

      bilstm evaluate model test.csv --json
    """
    loaded = load(model, backend=backend, precision=precision, threads=threads)
    reading: dict[str, Any] = {
        "label": label, "encoding": encoding, "skip_bad_rows": skip_bad_rows, "max_bytes": max_bytes,
    }  # fmt: skip
    if isinstance(loaded, TaggerModel):
        tagging.evaluate(loaded, model, data, {"token": text, **reading}, as_json)
        return
    if isinstance(loaded, LanguageModel):
        if reading.pop("label") is not None:
            raise UsageError("--label: a language model reads no labels.", "Leave it out.")
        pretrain.evaluate(loaded, model, data, {"text": text, **reading}, as_json)
        return
    records, texts, targets = read_for_model(loaded, data, text=text, tell=note, **reading)
    scores = loaded.measure(loaded.predict_proba(texts), targets)
    if as_json:
        print_json({"model": model, "data": [source.path for source in records.sources], **scores})
    else:
        print_evaluation(scores, len(records), data)
