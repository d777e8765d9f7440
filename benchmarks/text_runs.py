"""What the benchmarks of text models share: children with their own peak memory, samples of the data, lines of results.

Imports the standard library.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_machine import describe_machine, without_folder

__all__ = [
    "RESULTS",
    "Child",
    "append_line",
    "data_room",
    "describe",
    "read_lines",
    "run_child",
    "shown",
    "write_table",
]

RESULTS = Path(__file__).resolve().parent / "results"
TRAIN, TEST, UNLABELLED = "train.csv.gz", "test.csv.gz", "unlabelled.csv.gz"


@dataclass(frozen=True)
class Child:
    """A command that has ended: the JSON object it printed, its wall time and its own peak of resident memory."""

    answer: dict[str, Any]
    seconds: float
    peak_memory_bytes: int


def run_child(arguments: Sequence[str], room: Path) -> Child:
    """Run `bilstm ARGUMENTS --json` in a folder; its progress stays visible. Ends this program if it fails."""
    output = room / "answer.json"
    started = time.perf_counter()
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "bilstm", *arguments, "--json"], cwd=room, stdout=file)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone, not of all so far
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise SystemExit(f"bilstm {' '.join(arguments)}: exit code {process.returncode}; nothing was recorded")
    return Child(json.loads(output.read_text(encoding="utf-8")), round(seconds, 2), usage.ru_maxrss * 1024)


def data_room(data: Path, room: Path, rows: int | None, names: Sequence[str] = (TRAIN, TEST)) -> None:
    """Put the files into `room` under their own names: as links, or as a random sample of so many rows each."""
    for name in names:
        source, target = (data / name).resolve(), room / name
        if not source.is_file():
            raise SystemExit(f"{data / name} is not there: --data names the folder with {' and '.join(names)}")
        if rows is None:
            if not target.exists():
                target.symlink_to(source)
            continue
        with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        text = io.StringIO()
        csv.writer(text).writerows([header, *random.Random(0).sample(lines, rows)])
        target.write_bytes(gzip.compress(text.getvalue().encode("utf-8"), mtime=0))  # the same bytes every time


def describe(partial_rows: int | None) -> dict[str, Any]:
    """Return where a result comes from; the folder of the data is left out of the command."""
    machine = describe_machine()
    arguments = iter(sys.argv[1:])
    words = []
    for word in arguments:
        words.append(without_folder(word))
        if word in ("--data", "--cache", "--results", "--room", "--output"):
            next(arguments)
            words.append("FOLDER" if word != "--results" else "FILE")
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
    commit, is_changed = machine.pop("commit"), machine.pop("uncommitted_changes")
    del machine["command"]
    when = machine.pop("when")
    return {
        "partial_rows": partial_rows,
        "command": command,
        "commit": commit,
        "uncommitted_changes": is_changed,
        "when": when,
        "machine": machine,
    }


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add one run to a file of results, and have it on the disk before going on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Return the runs over all rows; of several with the same `keys` the last one."""
    if not path.exists():
        raise SystemExit(f"{path} is not there: run the benchmark first")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    last = {
        tuple(str(line.get(key)) for key in keys): line for line in lines if line["partial_rows"] is None
    }  # a later run replaces an earlier one
    return list(last.values())


def shown(values: Sequence[float]) -> str:
    """Write shares as percent: mean, standard deviation over seeds (n - 1) and every value."""
    if not values:
        return "not measured"
    mean = f"{100 * statistics.fmean(values):.2f}"
    if len(values) == 1:
        return f"{mean} (one seed)"
    each = ", ".join(f"{100 * value:.2f}" for value in values)
    return f"{mean} ± {100 * statistics.stdev(values):.2f} ({each})"


def write_table(path: Path, title: str, paragraphs: Sequence[str]) -> None:
    """Print the tables and write them as Markdown."""
    text = "\n\n".join([f"# {title}", *paragraphs]) + "\n"
    path.write_text(text, encoding="utf-8")
    print(text)
