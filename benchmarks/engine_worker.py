"""What every peer process of the speed benchmark does: build once, show its results, then run when told to.

A peer is a script `python peers_X.py SPEC.json`. It reads the work, builds its model, writes what its first steps
gave (so that results are compared before anything is timed), prints one JSON line, and then answers each line
`run N` on its standard input with the time that N steps took. Between its turns it sleeps. Imports numpy alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine_workloads import WORKS, Work, load_arrays

__all__ = ["Peer", "Spec", "read_spec", "serve"]

CHECK_STEPS = 3  # training steps whose losses are compared


@dataclass(frozen=True)
class Spec:
    """What one peer process has to run."""

    work: Work
    mode: str  # "train" or "infer"
    variant: str
    threads: int
    arrays: dict[str, np.ndarray]
    out: Path


@dataclass
class Peer:
    """What a peer script gives to `serve`.

    Parameters
    ----------
    step : callable
        Takes the number of the batch (0..3). Training: one whole step (forward, loss, backward, optimizer), returns
        the loss as something `float` takes. Inference: returns the logits (batch, 1), or the outputs
        (total_steps, features) of a work that asks for every step, as something `numpy.asarray` takes.
    reset : callable
        Puts the initial weights back; called before each timed block and never timed.
    versions : dict
        Of the libraries that compute.
    notes : str
        What a reader of the table should know.
    """

    step: Callable[[int], Any]
    reset: Callable[[], None]
    versions: dict[str, str]
    notes: str = ""


def read_spec() -> Spec:
    """Read the JSON file named on the command line; pin this process to as many cores as it has threads."""
    fields = json.loads(Path(sys.argv[1]).read_text())
    if fields["cores"]:
        os.sched_setaffinity(0, fields["cores"])
    return Spec(
        WORKS[fields["work"]],
        fields["mode"],
        fields["variant"],
        fields["threads"],
        load_arrays(fields["arrays"]),
        Path(fields["out"]),
    )


def _check(spec: Spec, peer: Peer) -> None:
    peer.reset()
    if spec.mode == "train":
        result = np.array([float(peer.step(number)) for number in range(CHECK_STEPS)])
    else:
        result = np.asarray(peer.step(0), dtype=np.float32)
    np.save(spec.out, result)


def _block(peer: Peer, count: int, batches: int) -> dict[str, Any]:
    peer.reset()
    each = []
    cpu = time.process_time()
    start = before = time.perf_counter()
    for number in range(count):
        peer.step(number % batches)
        now = time.perf_counter()
        each.append(now - before)
        before = now
    return {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu, "each": each}


def serve(spec: Spec, peer: Peer, batches: int = 4) -> None:
    """Write the check results, say ready, and run blocks until standard input closes."""
    reply = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not mix with the replies

    def say(message: dict[str, Any]) -> None:
        reply.write(json.dumps(message) + "\n")
        reply.flush()

    _check(spec, peer)
    first = _block(peer, 1, batches)
    if first["wall"] < 2:  # slow peers have warmed up by now
        _block(peer, 3, batches)
        first = _block(peer, 2, batches)
        first["wall"] /= 2
    say({"ready": True, "step_s": first["wall"], "versions": peer.versions, "notes": peer.notes})
    for line in sys.stdin:
        command, count = line.split()
        if command != "run":
            raise ValueError(f"unknown command {command!r}")
        say(_block(peer, int(count), batches))
