"""How many labels a text model needs: accuracy on IMDB from 20 to 25,000 labels, with and without unlabelled texts.

    python benchmarks/few_labels.py --data IMDB --cache ROOM --prepare                     # what needs no labels, once
    python benchmarks/few_labels.py --data IMDB --cache ROOM --row mixed --labels 100 --seed 0    # one cell, one line
    python benchmarks/few_labels.py --table                                                # results/few_labels.md

IMDB holds train.csv.gz, unlabelled.csv.gz and test.csv.gz. A draw takes as many labelled rows of each class, by its
seed; everything, the choice of epoch and of what is kept included, is chosen on a part of these rows. Unlabelled text
is the training texts and the unlabelled ones, never the test part, which is scored once a cell. Vocabulary, ids, word
and document vectors need no labels and are shared by the cells; so is a language model of the unlabelled texts alone,
which may not read what a cell labels. What --prepare finds in ROOM it keeps. A cell with up to 1,000 labels has five
minutes, one with more --budget.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.records import read_records
from bilstm.data.tokenizers import WordTokenizer
from bilstm.data.vocabulary import TextEncoder, encoder_from_config
from bilstm.tasks.language_model import Config as LanguageConfig
from bilstm.tasks.language_training import fit as fit_language
from bilstm.tasks.phase_documents import MOST_PASSES
from bilstm.tasks.starting_weights import read_start
from bilstm.tasks.text_classification import Config, for_data, words_of
from bilstm.tasks.text_parts import development_part, fit_baseline
from bilstm.tasks.text_pretraining import LEARNING_RATE
from bilstm.tasks.text_training import Unlabelled, fit
from bilstm.training.budget import Budget
from bilstm.training.document_vectors import train_document_vectors
from bilstm.training.progress import ProgressPrinter
from bilstm.training.word_vectors import train_word_vectors
from text_runs import RESULTS, append_line, describe, write_table

SIZES = (20, 100, 500, 1_000, 2_500, 25_000)
ROWS = {
    "tf-idf": "TF-IDF of 1-2-grams, linear",
    "nb-svm": "NB-SVM of 1-3-grams, linear",
    "bilstm": "BiLSTM, random start",
    "vectors": "+ word vectors of all texts",
    "language-model": "+ language model",
    "mixed": "vectors + mixed objective",
    "self-training": "vectors + mixed objective + self-training",
    "linear-teacher-without-documents": "vectors + linear teacher without document vectors",
    "without-language-model": "vectors + teachers (few labels: linear; many: joined)",
    "default": "the default: vectors + language model + teachers",
}
TEACHERS = ("linear-teacher", "joined-teacher", "mixed", "self-training")
PHASES = {
    "vectors": ("none",),
    "language-model": ("language-model",),
    "mixed": ("mixed",),
    "self-training": ("mixed", "self-training"),
    "linear-teacher-without-documents": TEACHERS,
    "without-language-model": TEACHERS,
}
LABELS = LabelSet("binary", ("negative", "positive"))
SMALL_CELL, SMALL_SECONDS = 1_000, 215.0  # of 300: reading, scoring, and a tenth that phases may overrun
LANGUAGE_UNITS, LANGUAGE_PASSES = 256, 2
LINES = RESULTS / "few_labels.jsonl"


def prepare(data: Path, cache: Path, size: int, epochs: int, threads: int | None) -> None:
    """Learn what needs no labels, and note what it took after each part; what is there is kept."""
    cache.mkdir(parents=True, exist_ok=True)
    stored = cache / "prepared.json"
    facts = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}

    def note(found: dict[str, Any]) -> None:
        facts.update(found)
        stored.write_text(json.dumps(facts), encoding="utf-8")

    if "seconds" not in facts:
        note(_words(data, cache, size, epochs))
    with np.load(cache / "ids.npz") as arrays:
        others = _ids(arrays, "unlabelled")
        every = all_texts(_ids(arrays, "train"), others)
    if "document_seconds" not in facts:
        began = time.perf_counter()
        with ProgressPrinter() as progress:
            documents = train_document_vectors(every, epochs=MOST_PASSES, threads=threads, progress=progress)
        np.save(cache / "documents.npy", documents)
        note({"document_seconds": round(time.perf_counter() - began, 1), "document_passes": MOST_PASSES})
    if "language_seconds" not in facts:
        encoder = encoder_from_config((cache / "vocabulary.json").read_text(encoding="utf-8"))
        assert isinstance(encoder, TextEncoder)  # as `_words` wrote it
        note(_language(others, encoder, np.load(cache / "vectors.npy"), cache / "language", threads))
    print(json.dumps(facts))


def _words(data: Path, cache: Path, size: int, epochs: int) -> dict[str, Any]:
    """Build the vocabulary, encode all texts and learn word vectors."""
    began = time.perf_counter()
    texts = {name: _read(data, name)[0] for name in ("train", "unlabelled", "test")}
    encoder = TextEncoder.build([*texts["train"], *texts["unlabelled"]], WordTokenizer(), max_size=30_000, min_count=2)
    (cache / "vocabulary.json").write_text(encoder.to_json(), encoding="utf-8")
    arrays = {}
    for name, own in texts.items():
        ids = encoder.encode(own)
        arrays[f"{name}_values"], arrays[f"{name}_offsets"] = ids.values.astype(np.uint16), ids.offsets
    np.savez(cache / "ids.npz", **arrays)  # type: ignore[arg-type]
    every = all_texts(_ids(arrays, "train"), _ids(arrays, "unlabelled"))
    with ProgressPrinter() as progress:
        vectors = train_word_vectors(every, len(encoder.vocabulary), size, epochs=epochs, progress=progress)
    np.save(cache / "vectors.npy", vectors)
    return {"seconds": round(time.perf_counter() - began, 1), "size": size, "epochs": epochs, "texts": len(every)}


def _language(
    texts: Ragged, encoder: TextEncoder, vectors: np.ndarray, folder: Path, threads: int | None
) -> dict[str, Any]:
    """Learn a language model and write it to a folder."""
    began = time.perf_counter()
    config = LanguageConfig(
        embedding_size=vectors.shape[1],
        hidden_size=LANGUAGE_UNITS,
        learning_rate=LEARNING_RATE,
        epoch_words=len(texts.values) // 4,
        max_epochs=4 * LANGUAGE_PASSES,
        threads=threads,
    )
    with ProgressPrinter(is_perplexity=True, rows_name="words") as progress:
        outcome = fit_language(texts, config, encoder=encoder, vectors=vectors, progress=progress)
    outcome.model.save(folder, settings=outcome.config, overwrite=True)
    return {
        "language_seconds": round(time.perf_counter() - began, 1),
        "language_passes": LANGUAGE_PASSES,
        "language_units": LANGUAGE_UNITS,
        "language_perplexity": outcome.dev_metrics["perplexity"],
    }


def _read(data: Path, name: str) -> tuple[list[str], np.ndarray]:
    records = read_records(str(data / f"{name}.csv.gz"), labels="none" if name == "unlabelled" else "required")
    return records.texts, np.array([label == "positive" for label in records.labels or ()], dtype=np.int64)


def _ids(arrays: Any, name: str) -> Ragged:
    return Ragged(arrays[f"{name}_values"].astype(np.int64), arrays[f"{name}_offsets"])


def all_texts(train: Ragged, rest: Ragged) -> Ragged:
    """Join the texts without their labels."""
    offsets = np.concatenate([train.offsets, rest.offsets[1:] + train.offsets[-1]])
    return Ragged(np.concatenate([train.values, rest.values]), offsets)


def draw(targets: np.ndarray, labels: int, seed: int) -> np.ndarray:
    """Draw rows, half of each class, or all of them."""
    if labels >= len(targets):
        return np.arange(len(targets))
    random = np.random.default_rng([seed, labels])
    parts = [random.permutation(np.flatnonzero(targets == k))[: labels // 2 + (labels % 2) * k] for k in (0, 1)]
    return np.sort(np.concatenate(parts))


def measure(options: Any) -> dict[str, Any]:
    """Run one cell; return its line."""
    began = time.perf_counter()
    texts, targets = _read(options.data, "train")
    test_texts, test_targets = _read(options.data, "test")
    rows = draw(targets, options.labels, options.seed)
    if options.row in ("tf-idf", "nb-svm"):
        chosen = [texts[row] for row in rows]
        answer = _linear(options.row, chosen, targets[rows], test_texts, test_targets, options.seed)
    else:
        answer = _network(options, rows, targets[rows], (test_texts, test_targets))
    return {
        "row": options.row,
        "labels": options.labels,
        "seed": options.seed,
        **answer,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "prepared": json.loads((options.cache / "prepared.json").read_text(encoding="utf-8")),
        **describe(None),
    }


def _linear(
    row: str, texts: list[str], targets: np.ndarray, test: list[str], test_targets: np.ndarray, seed: int
) -> dict[str, Any]:
    """Fit both linear families, each tuned on the development part; score one of them."""
    train, dev, _ = development_part(texts, targets, LABELS, Config(seed=seed), False)
    parts = [([texts[at] for at in part], targets[part]) for part in (train, dev)]
    found = fit_baseline(*parts[0], *parts[1], LABELS, seed)
    number = ["tf-idf", "nb-svm"].index(row)
    linear = found.to_runtime()

    def accuracy(own: list[str], expected: np.ndarray) -> float:
        return float(((linear.margins(words_of(own))[:, 0, number] > 0) == expected).mean())

    return {"test_accuracy": accuracy(test, test_targets), "dev_accuracy": accuracy(*parts[1])}


def _network(options: Any, rows: np.ndarray, targets: np.ndarray, test: tuple[list[str], np.ndarray]) -> dict[str, Any]:
    """Train a network on the drawn rows and, but for the first row of the table, on unlabelled texts."""
    cache: Path = options.cache
    with np.load(cache / "ids.npz") as stored:
        ids = {name: _ids(stored, name) for name in ("train", "unlabelled", "test")}
    encoder = encoder_from_config((cache / "vocabulary.json").read_text(encoding="utf-8"))
    vectors = np.load(cache / "vectors.npy")
    seconds = SMALL_SECONDS if options.labels <= SMALL_CELL else 60.0 * options.budget
    given: dict[str, Any] = {}
    texts: Any = ids["train"].select(rows)
    config = Config(
        seed=options.seed,
        embedding_size=vectors.shape[1],
        hidden_size=options.hidden_size,
        vectors="random" if options.row == "bilstm" else "in-domain",
        phases=PHASES.get(options.row, Config().phases),
        threads=options.threads,
    )
    if options.row != "bilstm":
        every = all_texts(ids["train"], ids["unlabelled"])
        documents = np.load(cache / "documents.npy")
        if options.row == "linear-teacher-without-documents":
            documents = np.zeros((len(documents), 1), dtype=np.float32)  # which say nothing
        language = None
        if "language-model" in config.phases:
            language = read_start(cache / "language")
            config = language.adopt(config)
        further = Unlabelled(every, Budget(seconds), (documents[rows], documents), language)
        given = {"encoder": encoder, "unlabelled": further, "vectors": vectors}
    else:
        given = {"encoder": encoder}
    with ProgressPrinter() as progress:
        outcome = fit(texts, targets, LABELS, config, baseline=False, progress=progress, **given)
    model = outcome.model
    words = None if model.joined is None else model.joined.linear.numbers_of(words_of(test[0]))
    positive = model.logits_of_encoded(ids["test"], words)[:, 0] > 0
    alone = model.logits_of_ids(ids["test"])[:, 0] > 0
    return {
        "test_accuracy": float((positive == test[1]).mean()),
        "test_accuracy_of_network": float((alone == test[1]).mean()),
        "is_joined": model.joined is not None,
        "dev_accuracy": outcome.dev_metrics["accuracy"],
        "dev_rows": len(outcome.dev_targets),
        "phases": [vars(phase) for phase in outcome.phases],
        "seconds_of_phases": {name: round(value, 1) for name, value in outcome.seconds.items()},
        "budget_seconds": seconds,
        "hidden_size": config.hidden_size,
        "max_epochs": for_data(config, ids["train"].lengths[rows]).max_epochs,
    }


def table(path: Path) -> None:
    """Write accuracy, minutes and memory of all cells that were run; others are marked."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    cells: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for line in lines:
        row = line["row"]
        if row == "default" and "language_units" not in line["prepared"]:  # from before there was a language model
            row = "without-language-model"
        cells.setdefault((row, line["labels"]), {})[line["seed"]] = line
    head = "| | " + " | ".join(f"{size:,} labels" for size in SIZES) + " |\n|---|" + "---|" * len(SIZES)

    def of(show: Any) -> str:
        rows = []
        for row, name in ROWS.items():
            found = [list(cells.get((row, size), {}).values()) for size in SIZES]
            rows.append(f"| {name} | " + " | ".join(show(cell) if cell else "not run" for cell in found) + " |")
        return "\n".join([head, *rows])

    write_table(
        path.with_suffix(".md"),
        "Accuracy by number of labels (IMDB)",
        [
            "Test accuracy in percent, mean ± standard deviation over draws (number of draws). Written by "
            "`python benchmarks/few_labels.py --table`; each cell is a line of few_labels.jsonl.",
            of(_accuracy),
            "Minutes of a cell and largest memory in GiB, means; what needs no labels is not counted in. With * "
            "measured on a machine without AMX.",
            of(_cost),
        ],
    )


def _accuracy(cell: list[dict[str, Any]]) -> str:
    values = [100 * line["test_accuracy"] for line in cell]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread} ({len(values)})"


def _cost(cell: list[dict[str, Any]]) -> str:
    minutes = statistics.fmean(line["seconds"] for line in cell) / 60
    mark = "" if all("amx_bf16" in line["machine"]["instructions"] for line in cell) else "*"
    return f"{minutes:.1f}{mark}, {statistics.fmean(line['peak_memory_bytes'] for line in cell) / 2**30:.1f}"


def main() -> None:
    """Prepare, run a cell, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache", type=Path, help="folder of what is shared by the cells")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--row", choices=list(ROWS))
    parser.add_argument("--labels", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=60.0, help="minutes of a cell with more than 1,000 labels")
    parser.add_argument("--size", type=int, default=128, help="features of a word vector")
    parser.add_argument("--epochs", type=int, default=5, help="passes that learn word vectors")
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--results", type=Path, default=LINES)
    parser.add_argument("--table", action="store_true")
    options: Any = parser.parse_args()
    if options.table:
        table(options.results)
        return
    if (
        options.data is None
        or options.cache is None
        or (not options.prepare and (not options.row or not options.labels))
    ):
        parser.error("--data and --cache are needed, and --prepare or --row and --labels")
    if options.prepare:
        prepare(options.data, options.cache, options.size, options.epochs, options.threads)
        return
    line = measure(options)
    append_line(options.results, line)
    print(
        json.dumps({name: line[name] for name in ("row", "labels", "seed", "test_accuracy", "dev_accuracy", "seconds")})
    )


if __name__ == "__main__":
    main()
