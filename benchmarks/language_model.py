"""Perplexity on a held-out tenth of the unlabelled IMDB reviews: language model and n-grams, same words, same text.

    python benchmarks/language_model.py --data IMDB --model kneser-ney
    python benchmarks/language_model.py --data IMDB --model bilstm [-- --hidden-size 256]
    python benchmarks/language_model.py --table

Both know the same words (built from the other nine tenths) and predict the same events forwards: every word of a
held-out review and its end. The n-gram model is interpolated with modified Kneser-Ney smoothing (`kneser_ney.py`). The
language model takes a small development part out of its nine tenths to choose the epoch by; nothing is chosen on the
held-out reviews.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bilstm.cli.settings_flags import given_settings
from bilstm.config import resolve, to_mapping
from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import TextEncoder, unknown_share
from bilstm.tasks.language_model import TASK, Config
from bilstm.tasks.language_training import build_encoder, fit
from bilstm.training.progress import ProgressPrinter
from kneser_ney import KneserNey
from text_runs import RESULTS, append_line, describe, read_lines, write_table

FILE = "unlabelled.csv.gz"
ORDERS = (1, 2, 3, 4, 5)


def read_parts(data: Path, texts: int | None, held_out: int | None) -> tuple[list[str], list[str]]:
    """Return training and held-out reviews; `texts` and `held_out` keep so many of them, drawn with a fixed seed."""
    csv.field_size_limit(2**31 - 1)
    with gzip.open(data / FILE, "rt", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        column = "review" if "review" in (rows.fieldnames or []) else (rows.fieldnames or [""])[0]
        reviews = [row[column] for row in rows]
    random.Random(0).shuffle(reviews)
    tenth = len(reviews) // 10
    return reviews[tenth:][:texts], reviews[:tenth][:held_out]


def measure_ngrams(train: Ragged, held_out: Ragged, size: int) -> dict[str, Any]:
    """Fit n-gram models of every order and measure them."""
    found = {}
    for order in ORDERS:
        started = time.process_time()
        model = KneserNey(train, size, order)
        seconds = time.process_time() - started
        found[str(order)] = {"perplexity": model.perplexity(held_out), "cpu_seconds": round(seconds, 1)}
        print(f"order {order}: perplexity {found[str(order)]['perplexity']:.2f}, {seconds:.0f} s", file=sys.stderr)
    best = min(found.values(), key=lambda row: row["perplexity"])
    return {"model": "Kneser-Ney", "perplexity": best["perplexity"], "orders": found}


def measure_bilstm(
    train: Ragged, held_out: Ragged, encoder: TextEncoder, config: Config, output: Path | None
) -> dict[str, Any]:
    """Train the language model and measure it."""
    wall, processor = time.perf_counter(), time.process_time()
    with ProgressPrinter("lines", None, "dev perplexity", "words", True) as progress:
        outcome = fit(train, config, encoder=encoder, progress=progress)
    seconds = {"train": time.perf_counter() - wall, "train_cpu": time.process_time() - processor}
    if output is not None:
        outcome.model.save(output, settings=outcome.config, overwrite=True)
    wall = time.perf_counter()
    scores = outcome.model.evaluate(held_out)
    seconds["evaluate"] = time.perf_counter() - wall
    history = outcome.result.history
    words = sum(row.sequences_per_second * row.seconds for row in history)
    return {
        "model": "BiLSTM",
        "perplexity": scores["forward"]["perplexity"],
        "backward_perplexity": scores["backward"]["perplexity"],
        "dev_perplexity": [round(float(np.exp(row.dev_loss or 0.0)), 2) for row in history],
        "words_trained_on": round(words),
        "steps": outcome.result.steps,
        "steps_per_second": round(outcome.result.steps / outcome.result.seconds, 3),
        "words_per_second": round(words / outcome.result.seconds),
        "words_per_cpu_second": round(words / seconds["train_cpu"]),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "settings": to_mapping(outcome.config),
    }


def table(path: Path) -> None:
    """Write the runs as a table."""
    rows = ["| model | perplexity, forwards | trained on | how long |", "|---|---|---|---|"]
    for line in sorted(read_lines(path, ("model", "config")), key=lambda line: line["perplexity"]):
        words = f"{line['train_words']:,} words"
        if line["model"] == "Kneser-Ney":
            for order, row in line["orders"].items():
                rows.append(
                    f"| Kneser-Ney, order {order} | {row['perplexity']:.1f} | {words} | {row['cpu_seconds']} s |"
                )
            continue
        size = f"{line['settings']['embedding_size']} / {line['settings']['hidden_size']} units"
        read = f"{line['words_trained_on']:,} words read, of {words}"
        long = f"{line['seconds']['train'] / 60:.1f} min ({line['seconds']['train_cpu'] / 60:.1f} of processor time)"
        rows.append(f"| BiLSTM, {size} ({line['config']}) | {line['perplexity']:.1f} | {read} | {long} |")
    write_table(
        path.with_suffix(".md"),
        "Language model, held-out IMDB reviews",
        [
            "Perplexity of the words and ends of held-out reviews, same vocabulary, same events; words outside the "
            "vocabulary count as one word. Lower is better. A line is one run; `language_model.jsonl` has its "
            "settings, its machine and what else ran there.",
            "\n".join(rows),
        ],
    )


def main() -> None:
    """Measure one model, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/imdb"))
    parser.add_argument("--model", choices=("bilstm", "kneser-ney"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--config", default="default", help="name of the settings in the table")
    parser.add_argument("--texts", type=int, help="training reviews; all by default")
    parser.add_argument("--held-out", type=int, help="held-out reviews; the whole tenth by default")
    parser.add_argument("--output", type=Path, help="model folder to write")
    parser.add_argument("--note", help="what a reader of the result must know, for example what else ran")
    parser.add_argument("--results", type=Path, default=RESULTS / "language_model.jsonl")
    parser.add_argument("flags", nargs="*", help="settings of bilstm pretrain, name=value, after --")
    options = parser.parse_args()
    if options.table:
        table(options.results)
        return
    if options.model is None:
        parser.error("--model or --table is needed")
    given = given_settings({TASK: Config}, TASK, dict(flag.split("=", 1) for flag in options.flags))
    config = resolve(Config, None, given)
    train_texts, held_out_texts = read_parts(options.data, options.texts, options.held_out)
    encoder = build_encoder(train_texts, config)
    train, held_out = encoder.encode(train_texts), encoder.encode(held_out_texts)
    size = len(encoder.vocabulary)
    if options.model == "kneser-ney":
        line = measure_ngrams(train, held_out, size)
    else:
        line = measure_bilstm(train, held_out, encoder, config, options.output)
    line |= {
        "config": options.config,
        "vocabulary_size": size,
        "train_words": len(train.values),
        "train_texts": len(train),
        "held_out_texts": len(held_out),
        "held_out_words": len(held_out.values),
        "held_out_unknown_share": unknown_share(held_out),
        "note": options.note,
        **describe(options.texts),
    }
    append_line(options.results, line)
    print(json.dumps({name: line[name] for name in ("model", "config", "perplexity", "held_out_words")}))


if __name__ == "__main__":
    main()
