"""The one training loop of all tasks; it knows no task.

A task gives three closures: the batches of an epoch, the loss of a batch, the score of the development part. The loop
does the rest: schedule, clipping, running mean, early stopping and best weights by the development part only,
checkpoints, resuming bit for bit, Ctrl-C, and a clear end when numbers stop being finite.

Why a resumed run ends with the same bits: the batches of an epoch are a function of (seed, epoch), the masks of a step
of (seed, step); everything else that a step reads is in the checkpoint; weights lie in memory of torch's alignment; all
threads flush denormals (`denormals`); the thread count is that of the first start.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bilstm.atomic_folder import recover_folder
from bilstm.errors import OutputError, TrainingDivergedError, UsageError
from bilstm.train_config import TrainConfig
from bilstm.training import events
from bilstm.training.averaging import WeightAverage
from bilstm.training.checkpoint import RunState, made_with, read_checkpoint, restore, set_weights, write_checkpoint
from bilstm.training.denormals import flushed_denormals
from bilstm.training.events import EpochRow, Listener
from bilstm.training.fine_tuning import LayerGroup
from bilstm.training.interruption import interruptible
from bilstm.training.schedule import learning_rate_at

__all__ = ["DevScore", "Randomness", "TrainResult", "train"]

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class DevScore:
    """Result on the development part: `score`, where higher is better, and the mean loss, which breaks ties.

    With `is_by_loss` the loss alone says which epoch is better: it moves with every row, where accuracy moves with the
    few that change sides, and the best of many epochs is then less often the luckiest.
    """

    score: float
    loss: float | None = None
    is_by_loss: bool = False


class Randomness(Protocol):
    """What draws the masks of a model: told before each step, so that a step's masks depend on nothing else."""

    def start_step(self, seed: int, step: int) -> None:
        """Begin step number `step` (from 0) of the run with this seed."""


@dataclass(frozen=True)
class TrainResult:
    """How a run went; the model holds its best weights.

    Parameters
    ----------
    history : tuple of EpochRow
        One row per finished epoch.
    best_epoch : int
        Epoch whose weights the model holds; 0 if none was evaluated, then they are the last ones.
    best_score : float or None
        Its development score.
    stopped_because : {"finished", "no gain", "interrupted", "stopped", "diverged"}
        All epochs done; no better score and no lower loss for `patience` epochs; Ctrl-C; `stop()`; numbers not finite.
    steps : int
        Batches trained on, those before a resume included.
    seconds : float
        Time in training steps, likewise.
    """

    history: tuple[EpochRow, ...]
    best_epoch: int
    best_score: float | None
    stopped_because: str
    steps: int
    seconds: float


def train(
    model: nn.Module,
    step_loss: Callable[[Batch], Tensor | tuple[Tensor, float]],
    dev_score: Callable[[], DevScore] | None,
    batches_of_epoch: Callable[[int], Sequence[Batch]],
    config: TrainConfig,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Listener | None = None,
    stop: Callable[[], bool] | None = None,
    randomness: Randomness | None = None,
    data_fingerprint: str = "",
    groups: Sequence[LayerGroup] = (),
) -> TrainResult:
    """Train a model and leave its best weights in it.

    Parameters
    ----------
    model : Module
        On the CPU, float32 or float64.
    step_loss : callable
        Mean loss of a batch as a scalar, or a pair of it and the mean training score of the batch. Tensors of floats
        must be made by torch, not over numpy's memory, whose alignment differs from run to run.
    dev_score : callable or None
        Called in eval mode without gradients after each epoch. None: no early stopping, the last weights are kept.
    batches_of_epoch : callable
        Batches of epoch 1, 2, ... as a function of that number and the seed only; `len(batch)` is its number of rows.
    config : TrainConfig
    checkpoint : path, optional
        Folder written after each epoch (and inside it, see `checkpoint_minutes`); None: none.
    resume : bool
        Go on from `checkpoint`; where there is none, begin.
    progress : callable, optional
        Gets the objects of `events`.
    stop : callable, optional
        Asked before each step; True ends the run as Ctrl-C does.
    randomness : Randomness, optional
        Told before each step. torch's own generator is set before each step as well, and put back at the end.
    data_fingerprint : str
        Names the training data; a run goes on only with the same one.
    groups : sequence of LayerGroup
        Which weights learn more slowly or begin later; empty: all alike. Every weight is in one of them.

    Raises
    ------
    TrainingDivergedError
        If a loss, a gradient, the weights or a development score is not finite; its `result` tells how far the run
        came, and the model holds the best weights so far.
    OutputError, WriteFailedError
        If the checkpoint cannot be written, or one stands there and `resume` is False.
    UsageError, ModelFolderError
        If the checkpoint is of other settings, other data or another model, or is damaged.
    """
    listener = progress or (lambda event: None)
    run = _Run(model, step_loss, dev_score, batches_of_epoch, config, listener, randomness, data_fingerprint, groups)
    run.checkpoint = Path(checkpoint) if checkpoint is not None else None
    run.begin(resume)
    with (
        _threads(run.state.threads),
        flushed_denormals() as all_flush,
        _kept_generator(),
        interruptible() as asked,
    ):
        if not all_flush:
            listener(events.Note("Not all threads flush denormals here: training may be slow, and not repeat exactly."))
        run.stop = lambda: "interrupted" if asked.is_asked else "stopped" if stop is not None and stop() else None
        return run.go()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _kept_generator() -> Iterator[None]:
    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)


class _Run:
    """A run in progress: the objects of a training and where it stands."""

    def __init__(
        self, model, step_loss, dev_score, batches_of_epoch, config, listener, randomness, data_fingerprint, groups=()
    ):
        self.model: nn.Module = model
        self.step_loss = step_loss
        self.dev_score = dev_score
        self.batches_of_epoch = batches_of_epoch
        self.config: TrainConfig = config
        self.tell: Listener = listener
        self.randomness: Randomness | None = randomness
        self.data_fingerprint: str = data_fingerprint
        self.checkpoint: Path | None = None
        self.stop: Callable[[], str | None] = lambda: None
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.groups = _parameter_groups(model, groups)
        self.optimizer = _optimizer(self.groups, config)
        self.average = WeightAverage(model, config.average_decay) if config.average_decay is not None else None
        self.best: dict[str, Tensor] | None = None
        self.state = RunState(threads=config.threads or torch.get_num_threads())
        self.saved_at = time.monotonic()

    def begin(self, resume: bool) -> None:
        """Read the checkpoint if there is one and it is wanted."""
        if self.checkpoint is not None:
            recover_folder(self.checkpoint)
        if self.checkpoint is None or not os.path.exists(self.checkpoint) or _is_empty_folder(self.checkpoint):
            if resume:
                self.tell(events.Note(f"There is no checkpoint at {self.checkpoint}; training begins at the start."))
            return
        if not resume:
            raise OutputError(
                f"{self.checkpoint} holds a run that has not ended.",
                "Resume it (--resume), or remove the folder to start again.",
            )
        self.state, folder, tensors = read_checkpoint(self.checkpoint, self.config, self.data_fingerprint)
        self.best = restore(self.model, self.optimizer, self.average, self.state, folder.weights, tensors)
        state = self.state
        self.tell(events.Note(f"Going on from {self.checkpoint}: epoch {state.epoch}, {state.position} batches done."))
        if state.made_with != (here := made_with()):
            self.tell(
                events.Note(
                    f"The run was started with {state.made_with}, this is {here}: "
                    "the weights will not be those of an uninterrupted run to the last bit."
                )
            )

    def go(self) -> TrainResult:
        """Train to the end of the run."""
        state = self.state
        while state.stopped_because is None:
            if reason := self._epoch():
                self._save()
                return self._end(reason)
            self._evaluate()
            self._save()
        return self._end(state.stopped_because)

    def _epoch(self) -> str | None:
        """Train the rest of the epoch; return why the run must stop inside it, if it must."""
        state = self.state
        batches = self.batches_of_epoch(state.epoch)
        if len(batches) == 0 or state.position > len(batches):
            raise UsageError(f"epoch {state.epoch} has {len(batches)} batches; at least 1 is needed.")
        self.model.train()
        self._unfreeze(state.epoch)
        self.tell(events.EpochStarted(state.epoch, self.config.max_epochs, len(batches), state.position))
        while state.position < len(batches):
            if reason := self.stop():
                return reason
            started = time.perf_counter()
            self._step(batches[state.position], len(batches))
            state.seconds += time.perf_counter() - started
            state.position += 1
            state.step += 1
            self.tell(
                events.StepDone(
                    state.epoch,
                    self.config.max_epochs,
                    state.position,
                    len(batches),
                    state.loss_sum / state.rows,
                    state.learning_rate,
                    state.rows / state.seconds,
                )
            )
            if self._is_checkpoint_due() and state.position < len(batches):
                self._save()
        return self.stop()

    def _unfreeze(self, epoch: int) -> None:
        """Let those weights learn that do so in this epoch."""
        for group in self.groups:
            for parameter in group["params"]:
                parameter.requires_grad_(epoch >= group["first_epoch"])

    def _step(self, batch: Sequence, batches: int) -> None:
        """Train on one batch."""
        state, config = self.state, self.config
        done = (state.epoch - 1 + (state.position + 0.5) / batches) / config.max_epochs
        state.learning_rate = learning_rate_at(config, done)
        for group in self.optimizer.param_groups:
            group["lr"] = state.learning_rate * group["rate"]
        torch.default_generator.manual_seed(_step_seed(config.seed, state.step))
        if self.randomness is not None:
            self.randomness.start_step(config.seed, state.step)
        self.optimizer.zero_grad(set_to_none=True)
        answer = self.step_loss(batch)
        loss, score = answer if isinstance(answer, tuple) else (answer, None)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}", batch)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if not math.isfinite(norm):
            raise self._diverged(f"the norm of the gradients is {float(norm)}", batch)
        if config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, config.clip_norm, norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        state.rows += len(batch)
        state.loss_sum += value * len(batch)
        if score is not None:
            state.score_sum = (state.score_sum or 0.0) + score * len(batch)

    def _evaluate(self) -> None:
        """Score the weights (the running mean, if kept), note the best, close the epoch."""
        state, config = self.state, self.config
        self._check_weights()
        scored, is_best = self._scored()
        row = EpochRow(
            epoch=state.epoch,
            train_loss=state.loss_sum / state.rows,
            train_score=None if state.score_sum is None else state.score_sum / state.rows,
            dev_loss=None if scored is None else scored.loss,
            dev_score=None if scored is None else scored.score,
            seconds=state.seconds,
            sequences_per_second=state.rows / state.seconds,
            learning_rate=state.learning_rate,
        )
        state.history.append(row)
        self.tell(events.EpochDone(row, config.max_epochs, is_best))
        if scored is not None and config.patience is not None and state.epochs_without_gain >= config.patience:
            state.stopped_because = "no gain"
        elif state.epoch == config.max_epochs:
            state.stopped_because = "finished"
        state.epoch += 1
        state.position = state.rows = 0
        state.loss_sum = state.seconds = 0.0
        state.score_sum = None

    def _check_weights(self) -> None:
        norm = float(torch.nn.utils.get_total_norm([p.detach() for p in self.parameters]))
        if not math.isfinite(norm):
            raise self._diverged(f"the norm of the weights is {norm}", None)

    def _scored(self) -> tuple[DevScore | None, bool]:
        state = self.state
        with self._weights_to_keep():
            if self.dev_score is None:
                self._keep(None)
                return None, True
            self.tell(events.EvaluationStarted(state.epoch))
            self.model.eval()
            with torch.no_grad():
                scored = self.dev_score()
            self.model.train()
            if not math.isfinite(scored.score) or not math.isfinite(scored.loss or 0.0):
                raise self._diverged(f"the development score is {scored.score}, its loss {scored.loss}", None)
            if _is_better(scored, state):
                self._keep(scored)
                return scored, True
            # a loss that still falls says that the model still learns: accuracy moves in steps of whole rows
            losses = [row.dev_loss for row in state.history if row.dev_loss is not None]
            is_learning = scored.loss is not None and scored.loss < min(losses, default=math.inf)
            state.epochs_without_gain = 0 if is_learning else state.epochs_without_gain + 1
            return scored, False

    @contextmanager
    def _weights_to_keep(self) -> Iterator[None]:
        if self.average is None:
            yield
            return
        with self.average.in_place():
            yield

    def _keep(self, scored: DevScore | None) -> None:
        """Note the present weights as the best."""
        self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.state.best_epoch = self.state.epoch
        self.state.epochs_without_gain = 0
        if scored is not None:
            self.state.best_score, self.state.best_loss = scored.score, scored.loss

    def _is_checkpoint_due(self) -> bool:
        if self.checkpoint is None:
            return False
        steps, minutes = self.config.checkpoint_steps, self.config.checkpoint_minutes
        is_time = minutes is not None and time.monotonic() - self.saved_at >= minutes * 60
        return is_time or (steps is not None and self.state.step % steps == 0)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        self._check_weights()
        self.tell(events.CheckpointStarted(self.state.epoch, self.state.position))
        write_checkpoint(
            self.checkpoint,
            self.state,
            self.model,
            self.optimizer,
            self.average,
            self.best,
            self.config,
            self.data_fingerprint,
        )
        self.saved_at = time.monotonic()

    def _end(self, reason: str) -> TrainResult:
        """Put the best weights into the model and tell how the run went."""
        state = self.state
        if self.best is None and self.average is not None:  # ended before the first evaluation
            with self.average.in_place():
                self._keep(None)
            state.best_epoch = 0
        if self.best is not None:
            set_weights(self.model, self.best)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.model.eval()
        seconds = state.seconds + sum(row.seconds for row in state.history)
        self.tell(events.TrainingEnded(reason, state.best_epoch, state.best_score, seconds))
        return TrainResult(tuple(state.history), state.best_epoch, state.best_score, reason, state.step, seconds)

    def _diverged(self, what: str, batch: Sequence | None) -> TrainingDivergedError:
        state = self.state
        where = f"epoch {state.epoch}"
        if batch is not None:
            where += f", step {state.step + 1} (batch {state.position + 1}, {_rows_text(batch)})"
        kept = (
            f"The best weights so far (epoch {state.best_epoch}) are kept." if self.best else "No epoch was finished."
        )
        if self.checkpoint is not None and self.checkpoint.exists():
            kept += f" The last good checkpoint is {self.checkpoint}."
        error = TrainingDivergedError(
            f"{where}: {what}. {kept}", "Lower --learning-rate, set --clip-norm, and look at these rows."
        )
        error.result = self._end("diverged")  # type: ignore[attr-defined]
        return error


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not os.listdir(path)


def _parameter_groups(model: nn.Module, groups: Sequence[LayerGroup]) -> list[dict[str, Any]]:
    """Return the optimizer's groups, in the order of the parameters where they learn alike."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    chosen = groups or (LayerGroup(tuple(named)),)
    listed = [name for group in chosen for name in group.names]
    if sorted(listed) != sorted(named):
        wrong = sorted(set(listed) ^ set(named)) or listed
        raise UsageError(f"each weight must be in one group; see {wrong[0]!r}.")
    return [
        {"params": [named[name] for name in group.names], "rate": group.rate, "first_epoch": group.first_epoch}
        for group in chosen
    ]


def _optimizer(parameters: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,  # one pass over each weight instead of one per operation
    )


def _is_better(scored: DevScore, state: RunState) -> bool:
    if state.best_score is None:
        return True
    if scored.loss is None or state.best_loss is None:
        return scored.score > state.best_score
    if scored.is_by_loss or scored.score == state.best_score:
        return scored.loss < state.best_loss
    return scored.score > state.best_score


def _step_seed(seed: int, step: int) -> int:
    """Seed of torch's generator for a step; hashed, so that neighbours share nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:8], "little") >> 1


def _rows_text(batch: Sequence) -> str:
    """Name a batch's rows for a message: their numbers where the batch is a list of row numbers."""
    if isinstance(batch, np.ndarray) and batch.ndim == 1 and np.issubdtype(batch.dtype, np.integer):
        first = ", ".join(str(row) for row in batch[:5])
        return f"rows {first}{', ...' if len(batch) > 5 else ''}"
    return f"{len(batch)} rows"
