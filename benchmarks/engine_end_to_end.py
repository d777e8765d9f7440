"""W6: the tutorial's whole program through `bilstm train` against the same program in Keras, to the same dev accuracy.

    python benchmarks/engine_end_to_end.py IMDB/train.csv.gz --peers-python /path/to/other/venv/bin/python

Splits the file once (2,500 rows for development, stratified, from a seed), then runs the programs in turns. Time counts
from the start of the process, reading and vocabulary included; a program has arrived when an epoch's dev accuracy is at
least the lower of the two programs' best. Writes `results/engine_end_to_end.json`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine_machine import describe_machine

HERE = Path(__file__).resolve().parent
_EPOCH = re.compile(r"epoch +(\d+)/\d+ .*?dev \S+ ([0-9.]+)")


def split(source: Path, folder: Path, dev_rows: int, seed: int) -> tuple[Path, Path]:
    """Write train.csv and dev.csv, the same share of each label in both."""
    content = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
    labels = np.array([row[-1] for row in rows])
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(rows), dtype=bool)
    for label in np.unique(labels):
        mine = generator.permutation(np.flatnonzero(labels == label))
        chosen[mine[: round(dev_rows * len(mine) / len(rows))]] = True
    paths = folder / "train.csv", folder / "dev.csv"
    for path, wanted in zip(paths, (~chosen, chosen), strict=True):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows[number] for number in np.flatnonzero(wanted))
    return paths


def run(command: list[str], threads: int) -> dict[str, Any]:
    """Run one program; return the seconds at which each epoch was reported, and its dev accuracy."""
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **counts}
    )
    assert process.stderr is not None
    epochs, tail = [], []
    for line in process.stderr:
        tail = [*tail[-5:], line]
        if found := _EPOCH.search(line):
            epochs.append({"seconds": time.perf_counter() - start, "dev_accuracy": float(found[2])})
    if process.wait() or not epochs:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}:\n{''.join(tail)}")
    return {"epochs": epochs, "total_s": time.perf_counter() - start}


def arrival(result: dict[str, Any], accuracy: float) -> float:
    """Seconds until an epoch has at least this dev accuracy."""
    return next(epoch["seconds"] for epoch in result["epochs"] if epoch["dev_accuracy"] >= accuracy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--peers", nargs="+", default=["tensorflow", "tensorflow-jit"], help="tensorflow, jax, *-jit")
    parser.add_argument("--precision", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dev-rows", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "engine_end_to_end.json")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, dev = split(options.source, folder, options.dev_rows, seed=1)
        for turn in range(options.rounds):
            for precision in options.precision:
                command = [sys.executable, "-m", "bilstm", "train", str(train), "--valid", str(dev)]
                command += ["--preset", "imdb-64", "--max-epochs", str(options.epochs), "--no-baseline"]
                command += ["--precision", precision, "--seed", str(turn), "-o", str(folder / f"{precision}-{turn}")]
                runs.setdefault(f"bilstm-{precision}", []).append(run(command, options.threads))
            for peer in options.peers:
                command = [options.peers_python, str(HERE / "peers_keras_imdb.py"), str(train), str(dev)]
                command += ["--backend", peer.removesuffix("-jit"), "--threads", str(options.threads)]
                command += ["--epochs", str(options.epochs), "--seed", str(turn)]
                command += ["--jit"] if peer.endswith("-jit") else []
                runs.setdefault(f"keras-{peer}", []).append(run(command, options.threads))
    head = "| program | best dev accuracy | seconds, all epochs | times slower than ours to the same accuracy |"
    lines = [head, "|---|---|---|---|"]
    ours = f"bilstm-{options.precision[0]}"
    for program, results in runs.items():
        ratios = []
        for mine, other in zip(runs[ours], results, strict=True):
            accuracy = min(max(e["dev_accuracy"] for e in result["epochs"]) for result in (mine, other))
            ratios.append(arrival(other, accuracy) / arrival(mine, accuracy))
        best = [max(e["dev_accuracy"] for e in result["epochs"]) for result in results]
        total = statistics.median(result["total_s"] for result in results)
        ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
        lines.append(f"| {program} | {statistics.mean(best):.4f} | {total:.0f} | {ratio} |")
    options.out.parent.mkdir(exist_ok=True)
    document = {**describe_machine(), "threads": options.threads, "runs": runs}
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    options.out.with_suffix(".md").write_text("\n".join(["# W6: whole programs", "", *lines]) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
