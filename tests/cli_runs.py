"""Run the command in this process, and small labelled files for it."""

import csv
import json
from dataclasses import dataclass

from bilstm.cli import main

FAST = [
    "--max-epochs", "3", "--embedding-size", "8", "--hidden-size", "8", "--batch-size", "16", "--learning-rate", "0.03",
    "--vectors", "random", "--adversarial-norm", "none", "--average-decay", "none", "--word-dropout", "0",
    "--patience", "none", "--threads", "1", "--join-linear", "no",
]  # fmt: skip


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one JSON object on standard output."""
        return json.loads(self.out)

    @property
    def error(self):
        """The one line on standard error, of a command that failed before it said anything else."""
        assert self.err.count("\n") == 1, self.err
        return self.err.rstrip("\n")


def run(capsys, *arguments):
    """Run `bilstm ARGUMENTS`."""
    code = main([str(argument) for argument in arguments])
    return Done(code, *capsys.readouterr())


def write_csv(path, rows, header=("text", "label")):
    """Write a table; return its path."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def labelled_rows(count):
    """Rows of texts whose label is the word they hold."""
    return [(f"film {number} was {['bad', 'good'][number % 2]}", ["neg", "pos"][number % 2]) for number in range(count)]
