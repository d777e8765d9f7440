"""Kill a training run with SIGKILL at random moments, resume it, and compare the last bits of what it ends with.

    python benchmarks/resume.py --runs 50 --kills 2 -o benchmarks/results/resume.json

Each run is killed `--kills` times, resumed after each, and then let go to its end: the history (without times) and the
SHA-256 of the saved weights must be those of a run that nobody killed. A kill comes at a moment drawn from the whole
run, or while a checkpoint is being written, or while the development part is being scored; the drawn moment is an event
of the run and a delay after it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

CHECKPOINT_STEPS = 4
CONTROLS = 3
MOMENTS = {"any": 0.06, "saving": 0.03, "evaluating": 0.002}  # kinds of kill: the longest delay after its event, s


def train_once(folder: Path, threads: int, backend: str) -> None:
    """Train a small BiLSTM with everything that has state; tell each event on standard output (this is the child)."""
    import numpy as np
    import torch

    from bilstm.data.ragged import Ragged
    from bilstm.description import Dropout, Embedding, Linear, Pooling, Recurrent, WordDropout
    from bilstm.layers.model import build_model
    from bilstm.layers.randomness import Randomness
    from bilstm.model_folder import save_model
    from bilstm.train_config import TrainConfig
    from bilstm.training import events
    from bilstm.training.checkpoint import model_weights
    from bilstm.training.loop import DevScore, train
    from bilstm.training.objectives import adversarial_loss, cross_entropy

    torch.set_num_threads(threads)
    data = np.random.default_rng(0)
    texts = Ragged.of([data.integers(1, 50, size=data.integers(1, 12)) for _ in range(120)])
    labels = torch.tensor([int(text[0]) % 2 for text in (texts[i] for i in range(120))])
    randomness = Randomness(3)
    model = build_model(
        (
            WordDropout(0.1),
            Embedding(50, 8),
            Dropout(0.2, variational=True),
            Recurrent("lstm", 8, 12, variational_dropout=0.1, weight_dropout=0.1),
            Pooling(24, ("last", "max", "mean")),
            Linear(72, 2),
        ),
        randomness,
        backend=backend,
        threads=threads,
    )
    config = TrainConfig(
        seed=3, max_epochs=4, learning_rate=0.01, schedule="one-cycle", patience=None, average_decay=0.9,
        adversarial_norm=0.5, checkpoint_steps=CHECKPOINT_STEPS, threads=threads, backend=backend,
    )  # fmt: skip

    def step_loss(rows):
        embedded = model.embed(texts.select(rows))
        loss, worst = adversarial_loss(
            lambda moved: cross_entropy(model.run_from_embedded(moved), labels[rows]), embedded, config.adversarial_norm
        )
        return loss + worst

    def dev_score():
        logits = model(texts.select(np.arange(96, 120)))
        return DevScore(
            float((logits.argmax(1) == labels[96:]).float().mean()), float(cross_entropy(logits, labels[96:]))
        )

    def batches_of_epoch(epoch):
        order = np.random.default_rng([3, epoch]).permutation(96)
        return [order[i : i + 8] for i in range(0, 96, 8)]

    steps = 0

    def tell(event):
        nonlocal steps
        name = type(event).__name__
        if isinstance(event, events.EpochStarted):
            steps = (event.epoch - 1) * event.batches + event.position
        if isinstance(event, events.StepDone):
            steps += 1
        print(name, steps, flush=True)

    result = train(
        model, step_loss, dev_score, batches_of_epoch, config,
        checkpoint=folder / "checkpoint", resume=True, progress=tell, randomness=randomness, data_fingerprint="seed 0",
    )  # fmt: skip
    history = [
        {key: value for key, value in vars(row).items() if key not in ("seconds", "sequences_per_second")}
        for row in result.history
    ]
    print("SavingModel", steps, flush=True)
    save_model(
        folder / "model",
        config={"best_epoch": result.best_epoch, "history": history},
        weights=model_weights(model),
        overwrite=True,
    )
    print("Done", steps, flush=True)


def serve(threads: int, backend: str) -> None:
    """Import everything once, then fork a training process for each line of standard input, which is its folder."""
    import torch

    import bilstm.layers.model
    import bilstm.training.loop  # noqa: F401

    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # brings half of its imports only now
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                print("Process", os.getpid(), flush=True)
                train_once(Path(line.rstrip("\n")), threads, backend)
                status = 0
            finally:
                if status:
                    traceback.print_exc()
                os._exit(status)
        _, ended = os.waitpid(process, 0)
        print("Exit", os.waitstatus_to_exitcode(ended), flush=True)


class Trainer:
    """Starts training processes, one after another, and reads what they tell.

    With `is_fresh` each one imports everything anew, as after a reboot; else all are forks of one, up to `close`.
    """

    def __init__(self, threads: int, backend: str, is_fresh: bool):
        self.is_fresh = is_fresh
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.command = [sys.executable, __file__, "--serve"]
        self.command += ["--threads", str(threads), "--backend", backend]
        self.server: subprocess.Popen[str] | None = None
        self.told: list[tuple[str, int]] = []
        self.process = self.status = 0

    def events(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Start a process for the run in `folder` and give its events (name, batches done in the run) until it ends."""
        if self.is_fresh:
            self.close()
        if self.server is None:
            self.server = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment
            )
        self.told = []
        self.server.stdin.write(f"{folder}\n")
        self.server.stdin.flush()
        for line in self.server.stdout:
            name, number = line.split()
            if name == "Process":
                self.process = os.pidfd_open(int(number))  # a number could come to mean another process
            elif name == "Exit":
                self.status = int(number)
                os.close(self.process)
                return
            else:
                self.told.append((name, int(number)))
                yield self.told[-1]
        raise RuntimeError("the process that starts the training processes has ended")

    def close(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.stdin.close()
            self.server.stdout.close()
            self.server.wait()
            self.server = None


def finished_run(trainer: Trainer, folder: Path) -> tuple[str, list[tuple[str, int]]]:
    """Let a run go to its end; return the digest of its model and its events."""
    told = list(trainer.events(folder))
    if trainer.status != 0:
        raise RuntimeError(f"the training process ended with status {trainer.status}")
    return digest(folder / "model"), told


def digest(model: Path) -> str:
    """SHA-256 of the weights, the history and the best epoch together, from the bytes on disk."""
    return hashlib.sha256(
        (model / "weights.safetensors").read_bytes() + (model / "config.json").read_bytes()
    ).hexdigest()


def killed_run(
    trainer: Trainer, folder: Path, moments: Sequence[str], seed: int, events: list[tuple[str, int]]
) -> list[dict[str, object]]:
    """Start a run and kill it once per moment, resuming in between; return what each kill met."""
    drawn = random.Random(seed)
    kills = []
    for moment in moments:
        target = drawn.choice(_targets(events, moment))
        longest_s = 0.005 if target[0] == "SavingModel" else MOMENTS[moment]  # nothing comes after it
        kills.append(killed_once(trainer, folder, moment, target, drawn.uniform(0, longest_s)))
    return kills


def _targets(events: list[tuple[str, int]], moment: str) -> list[tuple[str, int]]:
    """Events after which a kill of this kind may come; so early that the run will not have ended before it."""
    names = {"saving": ("CheckpointStarted", "SavingModel"), "evaluating": ("EvaluationStarted",)}
    last = events[-1][1]
    early = [event for event in events if event[1] <= last - 4 or event[0] == "SavingModel"]
    return [event for event in early if moment == "any" or event[0] in names[moment]]


def killed_once(
    trainer: Trainer, folder: Path, moment: str, target: tuple[str, int], delay_s: float
) -> dict[str, object]:
    """Start or resume a run and kill it `delay_s` after the event `target`; where that is past, after a later one."""
    is_sent = False
    resumed_at = None
    for event in trainer.events(folder):
        if event[0] == "EpochStarted" and resumed_at is None:
            resumed_at = event[1]
        is_later = event[1] > target[1] and (moment == "any" or event[0] == target[0])
        if not is_sent and (event == target or is_later):
            time.sleep(delay_s)
            with suppress(ProcessLookupError):  # it has come to its end meanwhile; `was_killed` is False then
                signal.pidfd_send_signal(trainer.process, signal.SIGKILL)
            is_sent = True
    return {
        "moment": moment,
        "was_killed": trainer.status == -signal.SIGKILL,
        "last_event": trainer.told[-1][0],
        "steps_done": trainer.told[-1][1],
        "resumed_at": resumed_at,
        "left_half_written": any(".bilstm-new-" in name for name in os.listdir(folder)),
    }


def lost_steps(kills: list[dict[str, object]], last_events: list[tuple[str, int]]) -> list[int]:
    """Batches trained on again after each kill: what was done before it, less where the next process went on."""
    starts = [kill["resumed_at"] for kill in kills[1:]]
    starts.append(next((steps for name, steps in last_events if name == "EpochStarted"), None))
    return [kill["steps_done"] - start for kill, start in zip(kills, starts, strict=True) if start is not None]


def main() -> None:
    """Run the benchmark, or as its server one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="auto", choices=("auto", "engine", "torch", "reference"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="a fresh process for each start, not for each run")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.threads, options.backend)
        return
    started = time.monotonic()
    report = {
        "command": f"python benchmarks/resume.py --runs {options.runs} --kills {options.kills} "
        f"--threads {options.threads} --backend {options.backend} --seed {options.seed}"
        + (" --fresh" if options.fresh else ""),
        **measure(options.runs, options.kills, options.threads, options.backend, options.fresh, options.seed),
        "seconds": round(time.monotonic() - started, 1),
    }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)
    if report["different"] or report["controls_equal"] != report["controls"]:
        raise SystemExit("a resumed run ended with other weights")


def measure(runs: int, kills: int, threads: int, backend: str, is_fresh: bool, seed: int) -> dict[str, object]:
    """Do all runs and return counts; the uninterrupted runs (controls) must agree among themselves."""
    drawn = random.Random(seed)
    found: list[dict[str, object]] = []
    lost: list[int] = []
    controls: list[str] = []
    different = 0
    with tempfile.TemporaryDirectory() as room:
        for number in range(CONTROLS + runs):
            folder = Path(room) / str(number)
            folder.mkdir()
            trainer = Trainer(threads, backend, is_fresh)
            if number < CONTROLS:
                control, events = finished_run(trainer, folder)
                controls.append(control)
            else:
                moments = [drawn.choice(list(MOMENTS)) for _ in range(kills)]
                met = killed_run(trainer, folder, moments, drawn.getrandbits(32), events)
                ended, last_events = finished_run(trainer, folder)
                different += ended != controls[0]
                found += met
                lost += lost_steps(met, last_events)
            trainer.close()
    killed = [kill for kill in found if kill["was_killed"]]
    return {
        "runs": runs,
        "identical": runs - different,
        "different": different,
        "controls": CONTROLS,
        "controls_equal": sum(control == controls[0] for control in controls),
        "kills": len(killed),
        "kills_after_the_end": len(found) - len(killed),
        "kills_by_moment": {name: sum(kill["moment"] == name for kill in killed) for name in MOMENTS},
        "kills_that_left_a_half_written_folder": sum(kill["left_half_written"] for kill in killed),
        "kills_while_evaluating": sum(kill["last_event"] == "EvaluationStarted" for kill in killed),
        "checkpoint_every_steps": CHECKPOINT_STEPS,
        "most_steps_trained_again": max(lost, default=0),
        "threads": threads,
        "backend": backend,
        "seed": seed,
        **versions(),
    }


def versions() -> dict[str, str]:
    """Name what was measured with and on."""
    import numpy
    import torch

    return {
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
    }


if __name__ == "__main__":
    main()
