"""Accuracy, time and memory of `bilstm train` on the IMDB reviews (Maas et al. 2011), official split.

    python benchmarks/imdb.py --data FOLDER --seed 0      # one seed: train, evaluate, one line of results
    python benchmarks/imdb.py --data FOLDER --linear      # the linear baseline, fitted once, scored on the test part
    python benchmarks/imdb.py --table                     # mean, deviation and every value, as results/imdb.md

FOLDER holds train.csv.gz and test.csv.gz. The command under test is the one a user types; it sees the training file
alone, and the test file is scored once by `bilstm evaluate`. Other settings: `--config NAME -- FLAGS OF TRAIN`, among
them `--unlabelled unlabelled.csv.gz`, which FOLDER holds then too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from text_runs import (
    RESULTS,
    TEST,
    TRAIN,
    UNLABELLED,
    append_line,
    data_room,
    describe,
    read_lines,
    run_child,
    shown,
    write_table,
)


def measure(data: Path, seed: int, config: str, flags: list[str], rows: int | None) -> dict[str, Any]:
    """Train with one seed, score the test part; return the line of results."""
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        data_room(data, room, rows, (TRAIN, TEST, UNLABELLED) if UNLABELLED in flags else (TRAIN, TEST))
        trained = run_child(["train", TRAIN, "-o", "model", "--seed", str(seed), *flags], room)
        evaluated = run_child(["evaluate", "model", TEST], room)
        stored = json.loads((room / "model" / "config.json").read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in (room / "model").iterdir())
    summary, linear = trained.answer, trained.answer.get("linear_baseline")
    return {
        "model": summary["model"],
        "config": config,
        "seed": seed,
        "test_accuracy": evaluated.answer["accuracy"],
        "dev_accuracy": summary["dev"]["accuracy"],
        "linear_dev_accuracy": None if linear is None else linear["dev"]["accuracy"],
        "linear": None if linear is None else linear["name"],
        "test": {name: value for name, value in evaluated.answer.items() if isinstance(value, float)},
        "rows": {**summary["rows"], "test": evaluated.answer["rows"]},
        "best_epoch": summary["best_epoch"],
        "stopped_because": summary["stopped_because"],
        "phases": summary.get("phases"),
        "seconds": {"train": trained.seconds, "evaluate": evaluated.seconds, "phases": summary["seconds"]},
        "peak_memory_bytes": {"train": trained.peak_memory_bytes, "evaluate": evaluated.peak_memory_bytes},
        "model_folder_bytes": size,
        "flags": flags,
        "settings": stored["settings"],
        "versions": _versions(),
        **describe(rows),
    }


def measure_linear(data: Path, rows: int | None) -> dict[str, Any]:
    """Fit the linear baseline on the training part, score the test part."""
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        data_room(data, room, rows)
        compared = run_child(["compare", TRAIN, "--test", TEST, "--models", "linear", "--seeds", "1"], room)
        line = json.loads((room / "comparison" / "results.jsonl").read_text(encoding="utf-8").splitlines()[1])
    return {
        "model": "linear",
        "config": "linear",
        "seed": None,
        "test_accuracy": line["score"],
        "dev_accuracy": line["dev_score"],
        "linear": line["name"],
        "test": line["scores"],
        "rows": compared.answer["rows"],
        "parameters": line["parameters"],
        "seconds": {"train": compared.seconds, "phases": {"linear baseline": line["seconds"]}},
        "peak_memory_bytes": {"train": compared.peak_memory_bytes},
        "versions": line["versions"],
        **describe(rows),
    }


def _versions() -> dict[str, str | None]:
    from bilstm.versions import environment

    return environment()


def table(results: Path) -> None:
    """Print what was measured and write it as Markdown."""
    lines = sorted(
        read_lines(results, ("config", "seed", "flags")), key=lambda line: (line["config"], line["seed"] or 0)
    )
    if not lines:
        raise SystemExit(f"{results} holds no run over all rows")
    configs = dict.fromkeys(line["config"] for line in lines)
    rows = []
    for config in configs:
        own = [line for line in lines if line["config"] == config]
        rows.append(
            f"| {config} | {own[0]['model']} | {shown([line['test_accuracy'] for line in own])} "
            f"| {shown([line['dev_accuracy'] for line in own])} | {_most(own, 'seconds') / 60:.1f} "
            f"| {_most(own, 'peak_memory_bytes') / 2**30:.2f} |"
        )
    head = [
        "| config | model | test accuracy, % | dev accuracy, % | minutes, most | GiB, most |",
        "|---|---|---|---|---|---|",
    ]
    each = [
        "| config | seed | test | dev | linear, dev | epoch | phases, s | commit | cpu |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        phases = ", ".join(f"{name} {seconds:.0f}" for name, seconds in line["seconds"]["phases"].items())
        changed = " + changes" if line["uncommitted_changes"] else ""
        each.append(
            f"| {line['config']} | {'-' if line['seed'] is None else line['seed']} | {100 * line['test_accuracy']:.2f} "
            f"| {100 * line['dev_accuracy']:.2f} | {_percent(line.get('linear_dev_accuracy'))} "
            f"| {line.get('best_epoch', '-')} | {phases} | {line['commit'][:10]}{changed} "
            f"| {line['machine']['cpu']}, {line['machine']['cores']} cores |"
        )
    steps = [
        "| config | seed | phase | minutes | dev before | after | log loss before | after | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        for phase in line.get("phases") or ():
            steps.append(
                f"| {line['config']} | {line['seed']} | {phase['name']} | {phase['seconds'] / 60:.1f} "
                f"| {_percent(phase['score_before'])} | {_percent(phase['score_after'])} "
                f"| {_loss(phase.get('loss_before'))} | {_loss(phase.get('loss_after'))} "
                f"| {'kept' if phase['is_kept'] else 'turned off'} |"
            )
    commands = sorted({line["command"] for line in lines})
    write_table(
        results.with_suffix(".md"),
        "IMDB, official split",
        [
            "Mean ± standard deviation over seeds, then every value. Minutes and memory are those of the whole command "
            "`bilstm train`, reading, the linear baseline and the report included.",
            "\n".join([*head, *rows]),
            "Each run:",
            "\n".join(each),
            *(["Phases with unlabelled texts:", "\n".join(steps)] if len(steps) > 2 else []),
            "Made by:",
            "\n".join(f"    {command}" for command in commands) + "\n    python benchmarks/imdb.py --table",
        ],
    )


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _most(lines: list[dict[str, Any]], key: str) -> float:
    return max(line[key]["train"] for line in lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def main() -> None:
    """Measure one seed, or the linear baseline, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/imdb"))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--config", default="default", help="name of the settings in the table")
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--rows", type=int, help="a sample of each part, to try this script; never in the table")
    parser.add_argument("--results", type=Path, default=RESULTS / "imdb.jsonl")
    parser.add_argument("flags", nargs="*", help="flags of bilstm train, after --")
    options = parser.parse_args()
    if options.table:
        table(options.results)
        return
    if (options.config == "default") != (not options.flags):
        parser.error("flags of train need a --config name of their own, and such a name needs flags")
    if options.linear:
        line = measure_linear(options.data, options.rows)
    elif options.seed is None:
        parser.error("one of --seed, --linear, --table is needed")
    else:
        line = measure(options.data, options.seed, options.config, options.flags, options.rows)
    append_line(options.results, line)
    print(
        f"{line['config']}, seed {line['seed']}: test accuracy {line['test_accuracy']:.4f}, "
        f"dev {line['dev_accuracy']:.4f}, {line['seconds']['train']:.0f} s, "
        f"{line['peak_memory_bytes']['train'] / 2**30:.2f} GiB"
        + (f"; PARTIAL, {options.rows} rows" if options.rows else "")
    )


if __name__ == "__main__":
    main()
