"""Accuracy on the TREC questions (Li and Roth 2002), six classes: short texts, a second domain for the same defaults.

    python benchmarks/trec.py --data FOLDER --labels all --seed 0     # `bilstm train` on all 5,452 questions
    python benchmarks/trec.py --data FOLDER --labels 500 --seed 0     # 500 with labels, all questions without
    python benchmarks/trec.py --table                                 # results/trec.md

FOLDER holds TREC.train and TREC.test. Each run trains with the default settings (with --unlabelled and a budget of five
minutes where labels are few), fits the linear models on the same rows, and scores both on the test part once.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from text_runs import RESULTS, append_line, describe, read_lines, run_child, shown, write_table

BUDGET = "5m"


def questions(path: Path) -> list[tuple[str, str]]:
    """Read (question, class) of a file of lines `CLASS:fine question`."""
    if not path.is_file():
        raise SystemExit(f"{path} is not there: --data names the folder with TREC.train and TREC.test")
    rows = []
    for line in path.read_text(encoding="latin-1").splitlines():
        label, _, question = line.partition(" ")
        rows.append((question, label.partition(":")[0]))
    return rows


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write a table of texts and labels."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def measure(data: Path, labels: int | None, seed: int) -> dict[str, Any]:
    """Train on all or on some labels, score the test part; return the line of results."""
    train = questions(data / "TREC.train")
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        chosen = train if labels is None else random.Random(seed).sample(train, labels)
        write(room / "train.csv", chosen)
        write(room / "test.csv", questions(data / "TREC.test"))
        (room / "more.txt").write_text("\n".join(question for question, _ in train), encoding="utf-8")
        flags = [] if labels is None else ["--unlabelled", "more.txt", "--budget", BUDGET]
        trained = run_child(["train", "train.csv", "-o", "model", "--seed", str(seed), *flags], room)
        evaluated = run_child(["evaluate", "model", "test.csv"], room)
        compared = ["compare", "train.csv", "--test", "test.csv", "--models", "linear", "--seeds", "1"]
        run_child([*compared, "--seed", str(seed)], room)
        linear = json.loads((room / "comparison" / "results.jsonl").read_text(encoding="utf-8").splitlines()[1])
    return {
        "labels": "all" if labels is None else labels,
        "seed": seed,
        "test_accuracy": evaluated.answer["accuracy"],
        "linear_test_accuracy": linear["score"],
        "model": trained.answer["model"],
        "dev_accuracy": trained.answer["dev"]["accuracy"],
        "phases": trained.answer.get("phases"),
        "seconds": trained.seconds,
        "peak_memory_bytes": trained.peak_memory_bytes,
        **describe(None),
    }


def table(path: Path) -> None:
    """Write means, deviations and what became of each phase."""
    lines = sorted(read_lines(path, ("labels", "seed")), key=lambda line: (str(line["labels"]), line["seed"]))
    rows = ["| labels | default | linear, the same rows | minutes, most |", "|---|---|---|---|"]
    for labels in dict.fromkeys(line["labels"] for line in lines):
        own = [line for line in lines if line["labels"] == labels]
        rows.append(
            f"| {labels} | {shown([line['test_accuracy'] for line in own])} "
            f"| {shown([line['linear_test_accuracy'] for line in own])} "
            f"| {max(line['seconds'] for line in own) / 60:.1f} |"
        )
    phases = ["| labels | seed | phase | development score before | after | |", "|---|---|---|---|---|---|"]
    for line in lines:
        for phase in line["phases"] or ():
            before = "-" if phase["score_before"] is None else f"{phase['score_before']:.4f}"
            verdict = "kept" if phase["is_kept"] else "turned off"
            phases.append(
                f"| {line['labels']} | {line['seed']} | {phase['name']} | {before} | {phase['score_after']:.4f} "
                f"| {verdict} |"
            )
    write_table(
        path.with_suffix(".md"),
        "TREC questions, six classes",
        [
            "Test accuracy in percent, mean ± standard deviation over seeds, then every value. With fewer labels the "
            "default reads all questions of the training part without their labels.",
            "\n".join(rows),
            *(["Phases with unlabelled texts:", "\n".join(phases)] if len(phases) > 2 else []),
            "Made by:",
            "\n".join(f"    {command}" for command in sorted({line["command"] for line in lines}))
            + "\n    python benchmarks/trec.py --table",
        ],
    )


def main() -> None:
    """Measure one run, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/trec"))
    parser.add_argument("--labels", default="all", help="a number, or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS / "trec.jsonl")
    options = parser.parse_args()
    if options.table:
        table(options.results)
        return
    line = measure(options.data, None if options.labels == "all" else int(options.labels), options.seed)
    append_line(options.results, line)
    print(
        f"{line['labels']} labels, seed {line['seed']}: test accuracy {line['test_accuracy']:.4f}, "
        f"linear {line['linear_test_accuracy']:.4f}, {line['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
