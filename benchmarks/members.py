"""Networks of several seeds together: mean of logits or of probabilities, word vectors shared or each its own.

    python benchmarks/members.py --data TREC --name trec [--members 3] [--seeds 0,10]
    python benchmarks/members.py --data IMDB --name imdb
    python benchmarks/members.py --table

Rows of a training file alone: some train, some are the development part (epoch and temperature), the rest is scored.
Nothing is chosen on the scored rows, and no test file is read.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gzip
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bilstm.data.labels import LabelSet
from bilstm.metrics import apply_temperature, evaluate_classification, fit_temperature
from bilstm.tasks.text_classification import Config, TextModel
from bilstm.tasks.text_training import Outcome, fit
from text_runs import RESULTS, append_line, describe, read_lines, write_table

MOST_WORDS = 100  # of a text, so that a run takes seconds


def read_rows(folder: Path) -> list[tuple[str, str]]:
    """Return (text, label) of the training file of IMDB or TREC, in an order drawn with a fixed seed."""
    if (folder / "TREC.train").exists():
        lines = (folder / "TREC.train").read_text(encoding="latin-1").splitlines()
        rows = [(line.split(" ", 1)[1], line.split(":", 1)[0]) for line in lines]
    else:
        csv.field_size_limit(2**31 - 1)
        with gzip.open(folder / "train.csv.gz", "rt", encoding="utf-8", newline="") as file:
            rows = [(row["review"], row["sentiment"]) for row in csv.DictReader(file)]
    found = [(" ".join(text.split()[:MOST_WORDS]), label) for text, label in rows]
    random.Random(0).shuffle(found)
    return found


class Scored:
    """Scores of answers on the scored rows, at the temperature of the development part."""

    def __init__(self, labels: LabelSet, dev: np.ndarray, test: np.ndarray):
        self.labels, self.dev, self.test = labels, dev, test

    def of_logits(self, dev: np.ndarray, test: np.ndarray) -> dict[str, float]:
        """Score logits."""
        found = fit_temperature(dev[:, 0] if dev.shape[1] == 1 else dev, self.dev).value
        cooled = apply_temperature(test[:, 0] if test.shape[1] == 1 else test, found)
        probabilities = np.stack([1 - cooled, cooled], axis=1) if cooled.ndim == 1 else cooled
        scores = evaluate_classification(probabilities, self.test, self.labels.names)
        return {name: scores[name] for name in ("accuracy", "log_loss", "expected_calibration_error")}


def mean_probabilities(logits: list[np.ndarray]) -> np.ndarray:
    """Return logits whose softmax, or sigmoid, is the mean of the members' probabilities."""
    found = [apply_temperature(one[:, 0] if one.shape[1] == 1 else one) for one in logits]
    mean = np.mean(found, axis=0)
    return (np.log(mean) - np.log1p(-mean))[:, None] if mean.ndim == 1 else np.log(mean)


def measure(outcome: Outcome, parts: tuple[list[str], list[str]], scored: Scored) -> dict[str, Any]:
    """Score every member, and both ways to join them."""
    model = outcome.model
    ids = [model.encoder.encode(texts) for texts in parts]
    logits: list[list[np.ndarray]] = []
    for member in outcome.members:
        runtime = type(model.model)(member.layers, member.weights, threads=1)
        alone = TextModel(model.encoder, model.labels, runtime, member.weights)
        logits.append([alone.logits_of_ids(part).astype(np.float64) for part in ids])
    apart = [scored.of_logits(*one) for one in logits]
    by_part = list(zip(*logits, strict=True))
    return {
        "members": apart,
        "logits": scored.of_logits(*(np.mean(part, axis=0) for part in by_part)),
        "probabilities": scored.of_logits(*(mean_probabilities(list(part)) for part in by_part)),
    }


def run(rows: list[tuple[str, str]], options: argparse.Namespace, seed: int, shared: bool) -> dict[str, Any]:
    """Train an ensemble, with shared word vectors or not, and score it."""
    labels = LabelSet.build([label for _, label in rows])
    targets, texts = labels.encode([label for _, label in rows]), [text for text, _ in rows]
    train, dev = options.rows, options.rows + options.dev
    config = Config(
        seed=seed, threads=1, max_epochs=options.epochs, hidden_size=options.size, embedding_size=options.size,
        members=options.members, join_linear=False,
    )  # fmt: skip
    valid = (texts[train:dev], targets[train:dev])
    started = time.process_time()
    outcome = fit(texts[:train], targets[:train], labels, config, valid=valid, baseline=False)
    if not shared:
        own = [
            fit(
                texts[:train], targets[:train], labels, dataclasses.replace(config, members=1, seed=seed + number),
                valid=valid, baseline=False,
            ).members[0]
            for number in range(1, options.members)
        ]  # fmt: skip
        outcome = dataclasses.replace(outcome, members=[outcome.members[0], *own])
    seconds = time.process_time() - started
    scored = Scored(labels, targets[train:dev], targets[dev:])
    return {
        "data": options.name,
        "vectors": "shared" if shared else "own",
        "seed": seed,
        "rows": train,
        "scored_rows": len(texts) - dev,
        **measure(outcome, (texts[train:dev], texts[dev:]), scored),
        "cpu_seconds": round(seconds, 1),
    }


def table(path: Path) -> None:
    """Write the runs as a table."""
    head = "| data | word vectors | seeds | member: accuracy, log loss | mean of logits | mean of probabilities |"
    rows = [head, "|---|---|---|---|---|---|"]
    lines = read_lines(path, ("data", "vectors", "seed"))
    for data, vectors in dict.fromkeys((line["data"], line["vectors"]) for line in lines):
        own = [line for line in lines if (line["data"], line["vectors"]) == (data, vectors)]
        cells = []
        for name in ("members", "logits", "probabilities"):
            found = [one for line in own for one in (line[name] if name == "members" else [line[name]])]
            accuracy, loss = (float(np.mean([one[key] for one in found])) for key in ("accuracy", "log_loss"))
            cells.append(f"{100 * accuracy:.2f}, {loss:.4f}")
        first = own[0]
        seeds = ", ".join(f"{line['seed']} to {line['seed'] + len(line['members']) - 1}" for line in own)
        what = f"{data}, {first['rows']:,} rows, {first['scored_rows']:,} scored"
        rows.append(f"| {what} | {vectors} | {seeds} | {' | '.join(cells)} |")
    text = (
        f"Three networks a line, texts cut to {MOST_WORDS} words; accuracy in %, log loss at the temperature of the "
        "development part; rows of the training files alone."
    )
    write_table(path.with_suffix(".md"), "Networks of several seeds together", [text, "\n".join(rows)])


def main() -> None:
    """Measure, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--dev", type=int, default=500)
    parser.add_argument("--scored", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--seeds", default="0,10")
    parser.add_argument("--vectors", default="shared,own")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--note", help="what a reader of the result must know")
    parser.add_argument("--results", type=Path, default=RESULTS / "members.jsonl")
    options = parser.parse_args()
    if options.table:
        table(options.results)
        return
    if options.data is None or options.name is None:
        parser.error("--data and --name, or --table, are needed")
    rows = read_rows(options.data)[: options.rows + options.dev + options.scored]
    for seed in map(int, options.seeds.split(",")):
        for vectors in options.vectors.split(","):
            line = run(rows, options, seed, vectors == "shared")
            print(line, file=sys.stderr)
            append_line(options.results, {**line, "note": options.note, **describe(None)})


if __name__ == "__main__":
    main()
