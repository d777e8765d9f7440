"""Cost and memory of a training step against its number of steps: both have to be straight lines.

    python benchmarks/engine_scaling.py [--largest 10000000] [--precision bfloat16]

Each point is a process of its own: one BiLSTM over token ids, forward (saving) and backward from the last states, on
batches from 10,000 steps to `--largest`, of sequences of equal length (100 or 100,000 steps), and of the lengths of W4.
Memory is the growth of the peak resident size over what the process held before the step, and is compared with what
docs/engine.md states. Writes `results/engine_scaling.json` and a table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine_machine import describe_machine

HERE = Path(__file__).resolve().parent
VOCABULARY, SEED = 1000, 5


def lengths_for(shape: str, steps: int) -> np.ndarray:
    """Lengths of about `steps` steps together: `equal-N`, or `ragged` (log-normal, mean 230)."""
    if shape == "ragged":
        generator = np.random.default_rng(SEED)
        lengths = np.clip(np.round(generator.lognormal(np.log(230) - 0.65**2 / 2, 0.65, steps // 230 + 1)), 1, 2500)
        return lengths.astype(np.int64)
    length = int(shape.removeprefix("equal-"))
    return np.full(max(1, steps // length), min(length, steps), dtype=np.int64)


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell the peak resident size")


def point(fields: dict[str, Any]) -> dict[str, Any]:
    """Run one point in this process and return its figures."""
    import torch

    from bilstm.layers.engine_op import run_recurrent

    hidden, size = fields["hidden_size"], fields["input_size"]
    torch.set_num_threads(fields["threads"])
    torch.manual_seed(SEED)
    lengths = lengths_for(fields["shape"], fields["steps"])
    offsets = torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))))
    ids = torch.randint(0, VOCABULARY, (int(lengths.sum()),))
    shapes = ((4 * hidden, size), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,))
    weights = [tuple((0.1 * torch.randn(s)).requires_grad_() for s in shapes) for _ in range(2)]
    table = (0.1 * torch.randn(VOCABULARY, size)).requires_grad_()

    def step(ids: torch.Tensor, offsets: torch.Tensor) -> None:
        options = {"outputs": False, "precision": fields["precision"]}
        run_recurrent(offsets, "lstm", weights, token_ids=ids, embedding=table, **options).h_n.sum().backward()

    step(ids[:64], torch.tensor([0, 64]))  # the library, its threads and packed weights
    before = _peak_bytes()
    times = []
    for _ in range(fields["repeats"]):
        start = time.process_time()
        step(ids, offsets)
        times.append(time.process_time() - start)
        if len(times) == 1:
            memory = _peak_bytes() - before
    return {**fields, "steps": len(ids), "sequences": len(lengths), "cpu_s": min(times), "bytes": memory}


def stated_bytes(precision: str, hidden_size: int, input_size: int, steps: int, threads: int) -> int:
    """Bytes that a training step over token ids needs in all, both directions of an LSTM (docs/engine.md).

    For each step of the batch the four gates and the cell state, units rounded up to 16, 2 bytes each in bfloat16 and 4
    in float32; the gradient of the gathered row; and 16 bytes of bookkeeping. For each thread 1 MiB. In float32, where
    tokens repeat, the sums of every distinct one; in bfloat16, if no more tokens than steps, each once more.
    """
    units = -(-hidden_size // 16) * 16
    rounds = precision == "bfloat16"
    distinct = min(VOCABULARY, steps)
    table = 0 if rounds or 2 * distinct > steps else 2 * 4 * units * 4 * distinct
    if rounds and steps >= VOCABULARY:
        table = 2 * -(-input_size // 32) * 32 * VOCABULARY
    return steps * (2 * 5 * units * (2 if rounds else 4) + 4 * input_size + 16) + threads * 2**20 + table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument("--precision", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden-size", type=int, default=32)
    parser.add_argument("--input-size", type=int, default=32)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "engine_scaling.json")
    options = parser.parse_args()
    if options.point:
        print(json.dumps(point(json.loads(options.point))))
        return 0
    points = []
    for precision in options.precision:
        for shape in ("equal-100", "ragged", "equal-100000"):
            steps = 100_000 if shape == "equal-100000" else 10_000
            while steps <= options.largest:
                fields = {
                    "precision": precision,
                    "shape": shape,
                    "steps": steps,
                    "threads": options.threads,
                    "hidden_size": options.hidden_size,
                    "input_size": options.input_size,
                    "repeats": 5 if steps < 1_000_000 else 2,
                }
                command = [sys.executable, __file__, "--point", json.dumps(fields)]
                finished = subprocess.run(command, check=True, capture_output=True, text=True)
                points.append(json.loads(finished.stdout))
                steps *= 10
    lines = [
        "| precision | lengths | steps | sequences | ns a step | bytes a step | stated | off by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in points:
        cost, memory = 1e9 * one["cpu_s"] / one["steps"], one["bytes"] / one["steps"]
        where = f"| {one['precision']} | {one['shape']} | {one['steps']:,} | {one['sequences']:,} "
        one["stated_bytes"] = stated_bytes(
            one["precision"], one["hidden_size"], one["input_size"], one["steps"], one["threads"]
        )
        stated = one["stated_bytes"] / one["steps"]
        lines.append(f"{where}| {cost:.0f} | {memory:.0f} | {stated:.0f} | {100 * (memory / stated - 1):+.1f} % |")
    document = {**describe_machine(), "points": points}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    options.out.with_suffix(".md").write_text("\n".join(["# Cost and memory against steps", "", *lines]) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
