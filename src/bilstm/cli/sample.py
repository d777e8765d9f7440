"""`bilstm sample`: the bundled data of the demo as files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from bilstm.cli.options import AsJson
from bilstm.cli.output import note, print_json, print_line
from bilstm.data.sample import write_sample

__all__ = ["command"]


def command(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where train.csv and test.csv are written.")],
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the generator.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write the bundled data of the demo as files to try things on.

    The reviews are generated: short texts in which the order of words decides.
    """
    train, test = write_sample(folder, seed=seed)
    if as_json:
        print_json({"train": str(train), "test": str(test), "data": "generated"})
        return
    for path in (train, test):
        print_line(str(path))
    note(f"next:   bilstm train {shlex.quote(str(train))} -o {shlex.quote(str(Path(folder) / 'model'))}")
