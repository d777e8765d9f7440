"""Ways to go on from a language model with few labels: all layers alike, slower below, unfrozen one by one, both.

    python benchmarks/fine_tuning.py --data IMDB --room FOLDER [--rows 1000] [--seeds 0,1,2]
    python benchmarks/fine_tuning.py --table

A language model is learned from unlabelled reviews (kept at FOLDER and used again), then a classifier begins with it
and learns from the first rows of the training half, drawn with a fixed seed. Every way is scored on other rows of the
training half, which choose nothing; the test half is not read.
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
from bilstm.model_folder import load_model
from bilstm.tasks import language_model, language_training
from bilstm.tasks.starting_weights import read_start
from bilstm.tasks.text_classification import Config
from bilstm.tasks.text_training import fit
from text_runs import RESULTS, append_line, describe, read_lines, write_table

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "slower below": {"layer_decay": 2.6},
    "unfrozen one by one": {"gradual_unfreezing": True},
    "both": {"layer_decay": 2.6, "gradual_unfreezing": True},
}
MOST_WORDS = 200  # of a review, so that a run takes seconds


def read_reviews(path: Path) -> list[tuple[str, str]]:
    """Return (text, label or "") of all rows, in an order drawn with a fixed seed."""
    csv.field_size_limit(2**31 - 1)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    found = [(max(row, key=len), min(row, key=len) if len(row) > 1 else "") for row in rows]
    random.Random(0).shuffle(found)
    return found


def make_language(data: Path, folder: Path, texts: int, size: int) -> dict[str, Any]:
    """Learn a language model, or read the one that is there; return what it scores."""
    if folder.exists():
        return load_model(folder).metrics
    config = language_model.Config(
        embedding_size=size, hidden_size=size, threads=1, max_epochs=1, epoch_words=10**9, vocabulary_size=20_000
    )
    reviews = [text for text, _ in read_reviews(data / "unlabelled.csv.gz")[:texts]]
    started = time.process_time()
    outcome = language_training.fit(reviews, config)
    metrics = {
        "dev_perplexity": outcome.dev_metrics["perplexity"],
        "words": len(outcome.train_ids.values),
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    outcome.model.save(folder, settings=outcome.config, metrics=metrics)
    return metrics


def measure(rows: list[tuple[str, str]], options: argparse.Namespace, way: str, seed: int) -> dict[str, Any]:
    """Train one classifier and score it on rows that chose nothing."""
    labels = LabelSet.build([label for _, label in rows])
    targets = labels.encode([label for _, label in rows])
    texts = [" ".join(text.split()[:MOST_WORDS]) for text, _ in rows]
    train, dev = options.rows, options.rows + options.dev
    config = dataclasses.replace(
        Config(seed=seed, threads=1, max_epochs=options.epochs, join_linear=False, warmup=options.warmup),
        embedding_size=options.size,
        hidden_size=options.size,
        **WAYS.get(way, {}),
    )
    started = time.process_time()
    outcome = fit(
        texts[:train],
        targets[:train],
        labels,
        config,
        valid=(texts[train:dev], targets[train:dev]),
        baseline=False,
        start=None if way == "from scratch" else read_start(options.room),
    )
    seconds = time.process_time() - started
    scores = outcome.model.measure(outcome.model.predict_proba(texts[dev:]), targets[dev:])
    return {
        "way": way,
        "seed": seed,
        "rows": train,
        "scored_rows": len(texts) - dev,
        "accuracy": scores["accuracy"],
        "log_loss": scores["log_loss"],
        "dev_accuracy": outcome.dev_metrics["accuracy"],
        "best_epoch": outcome.result.best_epoch,
        "epochs": options.epochs,
        "warmup": options.warmup,
        "cpu_seconds": round(seconds, 1),
    }


def table(path: Path) -> None:
    """Write the runs as a table."""
    rows = [
        "| way | seeds | accuracy, % | log loss | processor time of a run |",
        "|---|---|---|---|---|",
    ]
    lines = read_lines(path, ("way", "seed", "rows", "epochs", "warmup"))
    for way in dict.fromkeys(line["way"] for line in lines):
        own = [line for line in lines if line["way"] == way]
        scores = [100 * line["accuracy"] for line in own]
        spread = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
        loss, seconds = (float(np.mean([line[key] for line in own])) for key in ("log_loss", "cpu_seconds"))
        listed = ", ".join(f"{score:.2f}" for score in scores)
        rows.append(f"| {way} | {len(own)} | {np.mean(scores):.2f}{spread} ({listed}) | {loss:.4f} | {seconds:.0f} s |")
    last = lines[-1]
    write_table(
        path.with_suffix(".md"),
        "Going on from a language model",
        [
            f"{last['rows']:,} labelled reviews of IMDB's training half, {last['epochs']} epochs at most, reviews cut "
            f"to {MOST_WORDS} words, scored on {last['scored_rows']:,} other reviews of the training half. The "
            f"language model read {last['language']['words']:,} words.",
            "\n".join(rows),
        ],
    )


def main() -> None:
    """Measure, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/imdb"))
    parser.add_argument("--room", type=Path, help="folder of the language model; made if it is not there")
    parser.add_argument("--language-texts", type=int, default=6000)
    parser.add_argument("--size", type=int, default=64, help="features of word vectors and units of a direction")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--dev", type=int, default=500)
    parser.add_argument("--scored", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--warmup", type=float, default=0.1)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ways", default=",".join([*WAYS, "from scratch"]))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--note", help="what a reader of the result must know")
    parser.add_argument("--results", type=Path, default=RESULTS / "fine_tuning.jsonl")
    options = parser.parse_args()
    if options.table:
        table(options.results)
        return
    if options.room is None:
        parser.error("--room or --table is needed")
    language = make_language(options.data, options.room, options.language_texts, options.size)
    print(language, file=sys.stderr)
    rows = read_reviews(options.data / "train.csv.gz")[: options.rows + options.dev + options.scored]
    for seed in map(int, options.seeds.split(",")):
        for way in options.ways.split(","):
            line = measure(rows, options, way, seed)
            print(line, file=sys.stderr)
            append_line(options.results, {**line, "language": language, "note": options.note, **describe(None)})


if __name__ == "__main__":
    main()
