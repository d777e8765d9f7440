"""The machine's measured ceilings, and the time below which a work cannot be done at them: its floor.

The floor adds up, per sequence, what has to happen one after the other in a thread: multiplications at the peak of the
matrix or vector unit, sigmoids and tanhs, and bytes that have to come from or go beyond the second-level cache. It
takes no credit for overlap and charges nothing for Python, packing, scheduling or the head. Imports the standard
library and `engine_workloads`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine_workloads import SEED, Work, lengths_of

__all__ = ["Ceilings", "floor_seconds", "measure_ceilings"]

_SOURCE = Path(__file__).with_name("engine_ceilings.c")


@dataclass(frozen=True)
class Ceilings:
    """Rates a second, summed over the threads; `bf16_flops`, of AMX or AVX512-BF16, is None without both."""

    threads: int
    fp32_flops: float
    sigmoids: float
    read_bytes: float
    write_bytes: float
    bf16_flops: float | None = None
    bf16_flops_of_vectors: float | None = None  # of AVX512-BF16 where `bf16_flops` is that of AMX

    def as_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON."""
        return asdict(self)


def measure_ceilings(threads: int, compiler: str = "") -> Ceilings | None:
    """Compile and run `engine_ceilings.c`; None, with a message, where there is no compiler."""
    compiler = compiler or os.environ.get("CC", "cc")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ceilings"
        command = [compiler, "-O3", "-march=native", "-ffp-contract=fast", "-pthread", str(_SOURCE), "-o", str(program)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            print(f"ceilings not measured: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
            return None
        lines = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True).stdout
    rates = {name: float(rate) for name, rate in (line.split() for line in lines.splitlines())}
    return Ceilings(threads, **rates)


def floor_seconds(work: Work, mode: str, kind: str, ceilings: Ceilings, threads: int) -> float | None:
    """Least seconds a sequence, on average, at the measured ceilings.

    Parameters
    ----------
    work : Work
    mode : {"train", "infer"}
    kind : {"fp32", "bf16", "fp32-table", "bf16-table"}
        "table": the input products of every token are looked up.
    ceilings : Ceilings
    threads : int
        A batch of one sequence has two directions, so at most two threads work on it.

    Returns
    -------
    float or None
        None where the machine has no ceiling for this precision.
    """
    flops = ceilings.bf16_flops if "bf16" in kind else ceilings.fp32_flops
    if flops is None:
        return None
    mean_steps = float(np.mean(lengths_of(work, np.random.default_rng(SEED))))
    hidden, train = work.hidden_size, mode == "train"
    products = elements = read = written = 0.0  # a step
    saved = 5 * hidden * (2 if "bf16" in kind else 4)  # four gates and the cell state of one direction
    for layer, size in enumerate(work.layer_inputs()):
        table = "table" in kind and layer == 0
        inputs_need_gradient = layer > 0 or work.vocabulary_size is not None
        weights_x, weights_h = 4 * hidden * size, 4 * hidden * hidden
        forward = 2 * 2 * ((0 if table else weights_x) + weights_h)
        products += forward
        elements += 2 * 5 * hidden
        read += 2 * 4 * hidden * 4 if table else 4 * size
        outputs_leave = layer < work.num_layers - 1 or work.every_step
        written += 2 * hidden * 4 if outputs_leave else 0
        if train:
            products += 2 * 2 * (weights_x + weights_h)  # gradient of the weights
            products += 2 * 2 * ((weights_x if inputs_need_gradient else 0) + weights_h)  # of inputs and states
            written += 2 * saved + (4 * size if inputs_need_gradient else 0)
            read += 2 * saved + 4 * size + (2 * hidden * 4 if outputs_leave else 0)
    seconds = mean_steps * (products / flops + elements / ceilings.sigmoids)
    seconds += mean_steps * (read / ceilings.read_bytes + written / ceilings.write_bytes)
    if train:  # Adam: weight, gradient and both moments are read, three of them written back
        parameters = (work.vocabulary_size or 0) * work.input_size
        parameters += sum(2 * 4 * hidden * (size + hidden + 2) for size in work.layer_inputs())
        seconds += parameters * (16 / ceilings.read_bytes + 12 / ceilings.write_bytes) / work.batch
    return seconds
