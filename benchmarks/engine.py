"""Speed of the engine against its peers: whole training steps and inference on the reference work W1 to W5.

    python benchmarks/engine.py --work W1 --mode train --threads 1
    python benchmarks/engine.py --peers-python /path/to/other/venv/bin/python     # everything

Every peer is a process of its own (an interpreter of its own where libraries conflict) that sleeps between its turns.
They take turns, A B C A B C ..., for at least 5 rounds; results are compared before anything is timed. Writes
`results/engine.json`, into which runs of other parts are merged, and `results/engine.md`. Exits with 1 if outputs
disagree or a peer of this project fails. A peer that cannot be imported is listed as "not run".
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine_ceilings import Ceilings, floor_seconds, measure_ceilings
from engine_machine import describe_machine
from engine_report import write_table
from engine_workloads import WORKS, Work, save_arrays

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

# variant -> script; "*" marks what needs the other interpreter
TRAIN = {
    "bilstm-bf16": "peers_bilstm.py",
    "bilstm-fp32": "peers_bilstm.py",
    "torch-fp32-default": "peers_torch.py",
    "torch-fp32-flush": "peers_torch.py",
    "torch-bf16-flush": "peers_torch.py",
    "torch-bf16-flush-compile": "peers_torch.py",
    "keras-tensorflow-jit-fp32": "peers_keras.py",
    "keras-tensorflow-graph-fp32": "peers_keras.py",
    "keras-jax-jit-fp32": "peers_keras.py",
    "keras-jax-jit-bf16": "peers_keras.py",
}
TRAIN_RAGGED = {
    "bilstm-bf16": "peers_bilstm.py",
    "bilstm-fp32": "peers_bilstm.py",
    "torch-fp32-default-packed": "peers_torch.py",
    "torch-fp32-flush-packed": "peers_torch.py",
    "torch-bf16-flush-packed": "peers_torch.py",
    "torch-fp32-flush-padded": "peers_torch.py",
    "torch-bf16-flush-padded": "peers_torch.py",
    "keras-tensorflow-graph-fp32": "peers_keras.py",
    "keras-jax-jit-fp32": "peers_keras.py",
}
INFER = {
    "bilstm-bf16": "peers_bilstm.py",
    "bilstm-bf16-table": "peers_bilstm.py",
    "bilstm-fp32": "peers_bilstm.py",
    "bilstm-fp32-table": "peers_bilstm.py",
    "torch-fp32-default": "peers_torch.py",
    "torch-bf16-flush": "peers_torch.py",
    "onnxruntime-fp32": "peers_onnx.py",
    "onnxruntime-int8": "peers_onnx.py",
    "openvino-fp32": "peers_onnx.py",
    "openvino-bf16": "peers_onnx.py",
    "keras-tensorflow-jit-fp32": "peers_keras.py",
    "keras-tensorflow-graph-fp32": "peers_keras.py",
    "keras-jax-jit-fp32": "peers_keras.py",
}
INFER_RAGGED = {
    **{name: script for name, script in INFER.items() if not name.startswith("torch")},
    "torch-fp32-default-packed": "peers_torch.py",
    "torch-bf16-flush-packed": "peers_torch.py",
    "torch-fp32-default-padded": "peers_torch.py",
    "torch-bf16-flush-padded": "peers_torch.py",
}
# largest relative error (2-norm) against the first float32 result that may pass; bfloat16 has 8 bits, int8 fewer
TOLERANCE = {"fp32": 2e-4, "bf16": 3e-2, "int8": 2e-1}


def variants_of(work: Work, mode: str) -> dict[str, str]:
    """Every peer that this work and mode is measured with, and its script."""
    if mode == "train":
        return TRAIN_RAGGED if work.ragged else TRAIN
    chosen = INFER_RAGGED if work.ragged else INFER
    return {name: script for name, script in chosen.items() if work.vocabulary_size or "table" not in name}


@dataclass
class Running:
    """A peer process that is ready."""

    variant: str
    process: subprocess.Popen
    step_s: float
    versions: dict[str, str]
    notes: str
    result: np.ndarray

    def run(self, count: int) -> dict[str, Any]:
        """Let it run `count` steps now; return wall and processor seconds and those of each step."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"run {count}\n")
        self.process.stdin.flush()
        return _reply(self.process)


def _reply(process: subprocess.Popen) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        raise ChildProcessError(f"ended with {process.returncode}")
    return json.loads(line)


def start(
    variant: str, script: str, work: Work, mode: str, threads: int, folder: Path, options: argparse.Namespace
) -> Running | str:
    """Start one peer and wait until it is ready; or say why it does not run."""
    own = script in ("peers_bilstm.py", "peers_torch.py")
    python = sys.executable if own or options.peers_python is None else options.peers_python
    cores = sorted(os.sched_getaffinity(0))
    spec = {
        "work": work.name,
        "mode": mode,
        "variant": variant,
        "threads": threads,
        "cores": cores[-threads:] if options.pin else None,
        "arrays": str(folder / f"{work.name}.npz"),
        "out": str(folder / f"{variant}.npy"),
    }
    (folder / f"{variant}.json").write_text(json.dumps(spec))
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    log = (folder / f"{variant}.log").open("w")
    process = subprocess.Popen(
        [str(python), str(HERE / script), str(folder / f"{variant}.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, **counts},
    )
    try:
        ready = _reply(process)
    except ChildProcessError:
        lines = (folder / f"{variant}.log").read_text().strip().splitlines() or ["no message"]
        return lines[-1][:200]
    result = np.load(folder / f"{variant}.npy")
    return Running(variant, process, ready["step_s"], ready["versions"], ready["notes"], result)


def compare(peers: list[Running]) -> dict[str, float]:
    """Relative error of each peer's first results against torch in float32 (else another float32 peer)."""
    exact = [peer for peer in peers if "fp32" in peer.variant and not peer.notes]
    exact.sort(key=lambda peer: (peer.variant.startswith("bilstm"), not peer.variant.startswith("torch")))
    reference = exact[0].result.astype(np.float64)
    scale = np.linalg.norm(reference)
    return {peer.variant: float(np.linalg.norm(peer.result - reference) / scale) for peer in peers}


def disagreements(peers: list[Running], errors: dict[str, float]) -> list[str]:
    """Name the peers whose results are further off than their precision explains."""
    wrong = []
    for peer in peers:
        precision = next(name for name in TOLERANCE if name in peer.variant)
        if not peer.notes and not errors[peer.variant] <= TOLERANCE[precision]:
            wrong.append(f"{peer.variant}: relative error {errors[peer.variant]:.2e}")
    return wrong


def measure(work: Work, mode: str, threads: int, ceilings: Ceilings | None, options: argparse.Namespace) -> dict:
    """Run all peers of one cell of the table in turn."""
    chosen = variants_of(work, mode)
    if options.only:
        chosen = {name: script for name, script in chosen.items() if any(word in name for word in options.only)}
    with tempfile.TemporaryDirectory(prefix="bilstm-bench-") as name:
        folder = Path(name)
        save_arrays(work, folder / f"{work.name}.npz")
        peers, not_run = [], {}
        for variant, script in chosen.items():
            started = start(variant, script, work, mode, threads, folder, options)
            if isinstance(started, str):
                not_run[variant] = started
                print(f"  {variant}: not run ({started})", file=sys.stderr)
            else:
                peers.append(started)
                print(f"  {variant}: {work.batch / started.step_s:.0f} sequences/s at first", file=sys.stderr)
        try:
            errors = compare(peers)
            wrong = disagreements(peers, errors)
            rounds = [
                {peer.variant: peer.run(max(1, round(options.block / peer.step_s))) for peer in peers}
                for _ in range(options.rounds)
            ]
        finally:
            for peer in peers:
                peer.process.kill()
                peer.process.wait()
    cell = {
        "work": work.name,
        "title": work.title,
        "mode": mode,
        "threads": threads,
        "batch": work.batch,
        "rounds": options.rounds,
        "load_average": os.getloadavg()[0],
        "peers": {peer.variant: summarize(peer, rounds, errors[peer.variant], work) for peer in peers},
        "not_run": not_run,
        "disagreements": wrong,
        "floor": {},
    }
    if ceilings is not None:
        kinds = {name: name for name in ("bf16", "fp32")} if mode == "train" else {}
        kinds |= {} if mode == "train" else {n: n for n in ("bf16", "fp32", "bf16-table", "fp32-table")}
        for kind in kinds:
            if work.vocabulary_size or "table" not in kind:
                seconds = floor_seconds(work, mode, kind, ceilings, threads)
                cell["floor"][kind] = None if seconds is None else 1 / seconds
    add_ratios(cell, rounds)
    return cell


def summarize(peer: Running, rounds: list[dict], error: float, work: Work) -> dict[str, Any]:
    """Sequences per second by wall clock and by processor time, and latencies of single steps."""
    mine = [one[peer.variant] for one in rounds]
    wall = [len(block["each"]) * work.batch / block["wall"] for block in mine]
    cpu = [len(block["each"]) * work.batch / max(block["cpu"], 1e-9) for block in mine]
    each = np.concatenate([block["each"] for block in mine])
    return {
        "sequences_per_s": {"median": statistics.median(wall), "min": min(wall), "max": max(wall)},
        "sequences_per_cpu_s": {"median": statistics.median(cpu), "min": min(cpu), "max": max(cpu)},
        "step_ms": {f"p{q}": float(np.percentile(each, q) * 1e3) for q in (50, 99)},
        "steps_timed": len(each),
        "relative_error": error,
        "versions": peer.versions,
        "notes": peer.notes,
    }


def add_ratios(cell: dict[str, Any], rounds: list[dict]) -> None:
    """Add how many times faster each of ours is than each peer, pair by pair within a round.

    By wall clock, and by processor time: on a machine that others use too, the latter is the steadier one for a
    single thread (with more threads it charges peers for waiting in a spin).
    """
    names = list(cell["peers"])
    for ours in (name for name in names if name.startswith("bilstm")):
        for field, clock in (("times_faster_than", "wall"), ("times_less_processor_than", "cpu")):
            cell["peers"][ours][field] = {
                other: _pairwise([(one[ours], one[other]) for one in rounds], clock)
                for other in names
                if not other.startswith("bilstm")
            }


def _pairwise(pairs: list[tuple[dict, dict]], clock: str) -> dict[str, float]:
    def cost(block: dict) -> float:
        return max(block[clock], 1e-9) / len(block["each"])

    ratios = [cost(other) / cost(ours) for ours, other in pairs]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def merge(cells: list[dict], header: dict[str, Any], path: Path) -> dict[str, Any]:
    """Put new cells into the result file, in place of older ones of the same work, mode and threads."""
    old = json.loads(path.read_text())["cells"] if path.exists() else []
    new = {(cell["work"], cell["mode"], cell["threads"]) for cell in cells}
    for cell in cells:
        cell |= {key: header[key] for key in ("commit", "command", "when")}
    kept = [cell for cell in old if (cell["work"], cell["mode"], cell["threads"]) not in new]
    document = {**header, "cells": sorted(kept + cells, key=lambda c: (c["mode"], c["threads"], c["work"]))}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    return document


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--mode", nargs="+", choices=("train", "infer"), default=["train", "infer"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--only", nargs="+", help="peers whose name holds one of these words")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every peer (at least 5 count)")
    parser.add_argument("--block", type=float, default=1.0, help="seconds that a turn lasts, about")
    parser.add_argument("--peers-python", type=Path, help="interpreter that has Keras, JAX, OpenVINO, onnx")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="one core for each thread")
    parser.add_argument("--no-ceilings", action="store_true", help="leave the machine's ceilings and floors out")
    parser.add_argument("--out", type=Path, default=RESULTS / "engine.json")
    return parser.parse_args()


def main() -> int:
    options = parse()
    ceilings = {} if options.no_ceilings else {count: measure_ceilings(count) for count in options.threads}
    cells = []
    for mode in options.mode:
        for threads in options.threads:
            for name in options.work:
                if mode == "train" and name == "W5":
                    continue  # one sequence: latency, inference only
                print(f"{name} {mode}, {threads} thread(s)", file=sys.stderr)
                cells.append(measure(WORKS[name], mode, threads, ceilings.get(threads), options))
    header = describe_machine()
    if ceilings:
        header["ceilings"] = {str(count): None if c is None else c.as_dict() for count, c in ceilings.items()}
    document = merge(cells, header, options.out)
    print(write_table(document, options.out.with_suffix(".md")))
    wrong = [line for cell in cells for line in cell["disagreements"]]
    failed = [name for cell in cells for name in cell["not_run"] if name.startswith("bilstm")]
    for line in wrong + failed:
        print(f"INVALID: {line}", file=sys.stderr)
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    sys.exit(main())
