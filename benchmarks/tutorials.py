"""The tutorials' programs on the IMDB reviews: what they report, what they reach here, what our settings reach.

    python benchmarks/tutorials.py --data FOLDER --program imdb-16-lstm --seed 0         # the program as it is
    python benchmarks/tutorials.py --data FOLDER --program imdb-16-lstm --seed 0 --ours  # its sizes, our settings
    python benchmarks/tutorials.py --data FOLDER --compare --seeds 3                     # bilstm compare
    python benchmarks/tutorials.py --table                                               # results/tutorials.md

Each call of the first two adds one line to results/tutorials.jsonl. A program as it is is scored on the test part after
every epoch, to show where it peaks and where it ends; the test part chooses nothing. `--compare` goes on after a cut:
`--models lstm --seeds 1` first and more of both later is the same as all at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from text_runs import RESULTS, TEST, TRAIN, append_line, data_room, describe, read_lines, run_child, shown, write_table


@dataclasses.dataclass(frozen=True)
class Program:
    """A tutorial's program: the preset, the model in the words of `bilstm compare`, and what its author reports."""

    preset: str
    model: str
    reported: str
    what: str


PROGRAMS = {
    "imdb-16-feedforward": Program("imdb-16", "feedforward", "88", "vectors of 16, mean, relu layer of 16"),
    "imdb-16-lstm": Program("imdb-16", "lstm", "86.2", "vectors of 16, LSTM of 16"),
    "imdb-16-bilstm": Program("imdb-16", "bilstm", "85.3", "vectors of 16, BiLSTM of 16"),
    "imdb-16-deep": Program("imdb-16-deep", "bilstm-2", "85.2", "vectors of 64, BiLSTM of 32, BiLSTM of 16"),
    "imdb-64": Program("imdb-64", "bilstm", "-", "last 200 words, vectors of 128, BiLSTM of 64"),
    "keras-docs": Program("keras-docs", "bilstm-2", "84.3 to 86.8", "last 200 words, vectors of 128, 2 BiLSTM of 64"),
}
SIZES = ("vocabulary_size", "max_length", "keep", "embedding_size", "hidden_size", "layer_sizes")


def settings_of_program(name: str, is_ours: bool, seed: int, flags: dict[str, Any]) -> Any:
    """Return the settings: the program's own, or our defaults with its sizes."""
    from bilstm.tasks.compared_models import settings_of
    from bilstm.tasks.presets import resolve_settings
    from bilstm.tasks.text_classification import Config

    program = PROGRAMS[name]
    config = resolve_settings(program.preset, None, {})
    if is_ours:
        config = dataclasses.replace(Config(), **{size: getattr(config, size) for size in SIZES})
    return dataclasses.replace(settings_of(program.model, config), **flags, seed=seed)


class TestScores:
    """Hears the training loop; scores the test part with the weights that each epoch ended with."""

    def __init__(self, checkpoint: Path, layers: Any, ids: Any, targets: Any, printer: Any):
        self.checkpoint, self.layers, self.ids, self.targets, self.printer = checkpoint, layers, ids, targets, printer
        self.epochs: list[float] = []
        self.seconds = 0.0

    def __call__(self, event: Any) -> None:
        """Score when an epoch and its checkpoint are done: at the start of the next one, or at the end."""
        from bilstm.training import events

        self.printer(event)
        if isinstance(event, events.TrainingEnded) or (isinstance(event, events.EpochStarted) and event.epoch > 1):
            started = time.perf_counter()
            self.epochs.append(self._score())
            self.seconds += time.perf_counter() - started
            self.printer(events.Note(f"test accuracy after epoch {len(self.epochs)}: {self.epochs[-1]:.4f}"))

    def _score(self) -> float:
        import numpy as np

        from bilstm.data.batching import ordered_batches
        from bilstm.model_folder import load_model
        from bilstm.runtime.model import Model

        model = Model(self.layers, load_model(self.checkpoint).weights)
        right = 0
        for rows in ordered_batches(self.ids.lengths, max_rows=256, max_steps=32_768):
            right += int(np.sum((model.run(self.ids.select(rows))[:, 0] > 0) == (self.targets[rows] == 1)))
        return right / len(self.targets)


def measure(data: Path, name: str, is_ours: bool, seed: int, flags: dict[str, Any], rows: int | None) -> dict[str, Any]:
    """Train one program with one seed; return the line of results."""
    from bilstm.config import to_mapping
    from bilstm.data.labels import LabelSet
    from bilstm.data.vocabulary import TextEncoder
    from bilstm.tasks.text_classification import describe_model, output_count
    from bilstm.tasks.text_parts import build_encoder, development_part
    from bilstm.tasks.text_run import ReadOptions, read_part
    from bilstm.tasks.text_training import fit
    from bilstm.training.progress import ProgressPrinter
    from bilstm.versions import environment

    started = time.perf_counter()
    config = settings_of_program(name, is_ours, seed, flags)
    with tempfile.TemporaryDirectory() as folder, ProgressPrinter("auto") as printer:
        room = Path(folder)
        data_room(data, room, rows)
        train = read_part([str(room / TRAIN)], ReadOptions(), printer)
        test = read_part([str(room / TEST)], ReadOptions(), printer, columns=train)
        labels = LabelSet.build(train.labels or [])
        targets, test_targets = labels.encode(train.labels or []), labels.encode(test.labels or [])
        train_rows, dev_rows, _ = development_part(train.texts, targets, labels, config, False)
        encoder, train_ids = build_encoder([train.texts[row] for row in train_rows], config)
        assert isinstance(encoder, TextEncoder)  # the files hold texts
        dev_ids, test_ids = encoder.encode([train.texts[row] for row in dev_rows]), encoder.encode(test.texts)
        layers = describe_model(config, len(encoder.vocabulary), output_count(labels))
        heard = TestScores(room / "checkpoint", layers, test_ids, test_targets, printer)
        outcome = fit(
            train_ids, targets[train_rows], labels, config, valid=(dev_ids, targets[dev_rows]), baseline=False,
            encoder=encoder, checkpoint=None if is_ours else str(room / "checkpoint"),
            progress=printer if is_ours else heard,
        )  # fmt: skip
        if outcome.result.stopped_because == "interrupted":
            raise SystemExit("interrupted; nothing was recorded")
        model = outcome.model
        best = model.measure(model.decode(model.logits_of_ids(test_ids)), test_targets)["accuracy"]
    return {
        "program": name,
        "settings_are": "ours" if is_ours else "the program's",
        "seed": seed,
        "test_accuracy_best_dev_epoch": best,
        "test_accuracy_last_epoch": heard.epochs[-1] if heard.epochs else None,
        "test_accuracy_by_epoch": heard.epochs or None,
        "dev_accuracy": outcome.dev_metrics["accuracy"],
        "best_epoch": outcome.result.best_epoch,
        "epochs": len(outcome.result.history),
        "parameters": sum(weight.size for weight in model.weights.values()),
        "rows": {"train": len(train_rows), "dev": len(dev_rows), "test": len(test)},
        "seconds": {
            "training": round(sum(row.seconds for row in outcome.result.history), 2),
            "word vectors": round(outcome.seconds.get("word vectors", 0.0), 2),
            "scoring the test part after epochs": round(heard.seconds, 2),
            "all": round(time.perf_counter() - started, 2),
        },
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "settings": to_mapping(config),
        "versions": environment(),
        **describe(rows),
    }


def compare(options: argparse.Namespace) -> None:
    """Run `bilstm compare` in a room that stays; record every result that is new, and keep table and figure."""
    room = options.room / ("all" if options.rows is None else str(options.rows))
    room.mkdir(parents=True, exist_ok=True)
    data_room(options.data, room, options.rows)
    given = ["--models", options.models] if options.models else []
    if options.preset:
        given += ["--preset", options.preset]
    folder = "-".join(["comparison", *([options.preset] if options.preset else [])])
    child = run_child(
        ["compare", TRAIN, "--test", TEST, "-o", folder, "--seeds", str(options.seeds), *given, *options.flags], room
    )
    results = options.results.with_name("compare.jsonl")
    known = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    recorded = {json.dumps(json.loads(line)["result"], sort_keys=True) for line in known}
    _, *lines = (room / folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    for result in map(json.loads, lines):
        if json.dumps(result, sort_keys=True) not in recorded:
            source = {"model": result["model"], "seed": result["seed"], "preset": options.preset}
            append_line(results, {**source, "result": result, "flags": options.flags, **describe(options.rows)})
    if options.rows is None:
        shutil.copytree(room / folder, options.results.parent / folder, dirs_exist_ok=True)
    print(f"{len(child.answer['models'])} models in {child.seconds:.0f} s, {child.peak_memory_bytes / 2**30:.2f} GiB")


def programs_table(results: Path) -> str:
    """Write reported, reproduced and ours side by side."""
    lines = sorted(read_lines(results, ("program", "settings_are", "seed")), key=lambda line: line["seed"])
    rows = [
        "| program | layers | parameters | reported | reproduced, last epoch | reproduced, best dev epoch | ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, program in PROGRAMS.items():
        theirs = [line for line in lines if line["program"] == name and line["settings_are"] == "the program's"]
        ours = [line for line in lines if line["program"] == name and line["settings_are"] == "ours"]
        parameters = f"{theirs[0]['parameters']:,}" if theirs else "-"
        rows.append(
            f"| {name} | {program.what} | {parameters} | {program.reported} "
            f"| {shown([line['test_accuracy_last_epoch'] for line in theirs])} "
            f"| {shown([line['test_accuracy_best_dev_epoch'] for line in theirs])} "
            f"| {shown([line['test_accuracy_best_dev_epoch'] for line in ours])} |"
        )
    return "\n".join(rows)


def curves_table(results: Path) -> str:
    """Write the test accuracy of each program after each epoch."""
    rows = ["| program | seed | test accuracy after each epoch, % | seconds | commit |", "|---|---|---|---|---|"]
    for line in read_lines(results, ("program", "settings_are", "seed")):
        if line["test_accuracy_by_epoch"]:
            curve = " ".join(f"{100 * value:.1f}" for value in line["test_accuracy_by_epoch"])
            rows.append(
                f"| {line['program']} | {line['seed']} | {curve} | {line['seconds']['training']:.0f} "
                f"| {line['commit'][:10]}{' + changes' if line['uncommitted_changes'] else ''} |"
            )
    return "\n".join(rows)


def comparison_table(results: Path) -> str:
    """Write the table of `bilstm compare` from the recorded lines, one for each preset that was compared."""
    lines = read_lines(results, ("preset", "model", "seed", "flags"))
    rows = [
        "| settings | model | test accuracy, % | dev accuracy, % | parameters | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for settings, model in dict.fromkeys((line["preset"] or "default", line["model"]) for line in lines):
        own = [line["result"] for line in lines if (line["preset"] or "default", line["model"]) == (settings, model)]
        rows.append(
            f"| {settings} | {model} | {shown([line['score'] for line in own])} "
            f"| {shown([line['dev_score'] for line in own])} | {own[0]['parameters']:,} "
            f"| {sum(line['seconds'] for line in own) / len(own):.0f} |"
        )
    return "\n".join(rows)


def table(results: Path) -> None:
    """Print everything that was measured and write it as Markdown."""
    paragraphs = []
    if results.exists():
        paragraphs += [
            "Test accuracy in percent: mean ± standard deviation over seeds (every value). Reported: by the tutorial. "
            "Reproduced: its layers, sizes, batches and epochs; 90 % of the training rows train, the rest choose the "
            "best epoch. Ours: the default settings of `bilstm train` with the program's vocabulary, length and sizes, "
            "the network alone.",
            programs_table(results),
            "The test part after each epoch, for the programs as they are:",
            curves_table(results),
        ]
    compared = results.with_name("compare.jsonl")
    if compared.exists():
        paragraphs += ["`bilstm compare train.csv.gz --test test.csv.gz`:", comparison_table(compared)]
    if not paragraphs:
        raise SystemExit(f"{results} is not there: run the benchmark first")
    write_table(results.with_suffix(".md"), "The tutorials' programs on IMDB", paragraphs)


def main() -> None:
    """Measure one program with one seed, compare models, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/imdb"))
    parser.add_argument("--program", choices=PROGRAMS)
    parser.add_argument("--ours", action="store_true", help="our settings with the program's sizes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--models", help="of --compare, by default those of bilstm compare")
    parser.add_argument("--seeds", type=int, default=3, help="of --compare")
    parser.add_argument("--preset", help="of --compare")
    parser.add_argument("--room", type=Path, default=Path("build/comparison"), help="where --compare can go on")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--rows", type=int, help="a sample of each part, to try this script; never in a table")
    parser.add_argument("--epochs", type=int, help="fewer epochs, with --rows alone")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--results", type=Path, default=RESULTS / "tutorials.jsonl")
    parser.add_argument("flags", nargs="*", help="flags of bilstm compare, after --; with --rows alone")
    options = parser.parse_args()
    if (options.epochs or options.flags) and options.rows is None:
        parser.error("--epochs and further flags change the programs: they need --rows")
    if options.table:
        table(options.results)
    elif options.compare:
        compare(options)
    elif options.program is None:
        parser.error("one of --program, --compare, --table is needed")
    else:
        flags = {name: value for name, value in (("max_epochs", options.epochs), ("threads", options.threads)) if value}
        line = measure(options.data, options.program, options.ours, options.seed, flags, options.rows)
        append_line(options.results, line)
        last = line["test_accuracy_last_epoch"]
        print(
            f"{line['program']}, {line['settings_are']} settings, seed {line['seed']}: test accuracy "
            f"{line['test_accuracy_best_dev_epoch']:.4f} at the best dev epoch"
            + ("" if last is None else f", {last:.4f} at the last one")
            + (f"; PARTIAL, {options.rows} rows" if options.rows else "")
        )


if __name__ == "__main__":
    main()
