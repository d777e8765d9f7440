"""What the training loop tells while it runs; `progress` shows it, and any callable can listen. Imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "CheckpointStarted",
    "EpochDone",
    "EpochRow",
    "EpochStarted",
    "EvaluationStarted",
    "Event",
    "Listener",
    "Note",
    "PhaseAdvanced",
    "PhaseDone",
    "PhaseStarted",
    "StepDone",
    "TrainingEnded",
]


@dataclass(frozen=True)
class EpochRow:
    """One row of the training history.

    Parameters
    ----------
    epoch : int
        From 1.
    train_loss : float
        Mean over the rows of the epoch, each batch as it was when it was trained on.
    train_score : float or None
        The same mean of the training score, if the task gives one.
    dev_loss, dev_score : float or None
        On the development part, after the epoch; a higher score is better.
    seconds : float
        Training without evaluation and checkpoints.
    sequences_per_second : float
    learning_rate : float
        Of the last step.
    """

    epoch: int
    train_loss: float
    train_score: float | None
    dev_loss: float | None
    dev_score: float | None
    seconds: float
    sequences_per_second: float
    learning_rate: float


@dataclass(frozen=True)
class EpochStarted:
    """An epoch begins, or goes on at batch `position` after a resume."""

    epoch: int
    max_epochs: int
    batches: int
    position: int


@dataclass(frozen=True)
class StepDone:
    """A batch was trained on: `position` of `batches` are done; `loss` is the mean of the epoch so far."""

    epoch: int
    max_epochs: int
    position: int
    batches: int
    loss: float
    learning_rate: float
    sequences_per_second: float


@dataclass(frozen=True)
class EvaluationStarted:
    """The development part is being scored."""

    epoch: int


@dataclass(frozen=True)
class CheckpointStarted:
    """A checkpoint is being written."""

    epoch: int
    position: int


@dataclass(frozen=True)
class EpochDone:
    """An epoch and its evaluation are done."""

    row: EpochRow
    max_epochs: int
    is_best: bool


@dataclass(frozen=True)
class Note:
    """Something the user should know."""

    text: str


@dataclass(frozen=True)
class PhaseStarted:
    """A task begins a phase of its work, for example "linear baseline"."""

    name: str


@dataclass(frozen=True)
class PhaseAdvanced:
    """Part of a phase is done: `done` of `total`, counted in `unit`."""

    name: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True)
class PhaseDone:
    """A phase has ended."""

    name: str
    seconds: float


@dataclass(frozen=True)
class TrainingEnded:
    """The loop has ended."""

    stopped_because: str
    best_epoch: int
    best_score: float | None
    seconds: float


Event = (
    EpochStarted
    | StepDone
    | EvaluationStarted
    | CheckpointStarted
    | EpochDone
    | Note
    | PhaseStarted
    | PhaseAdvanced
    | PhaseDone
    | TrainingEnded
)
Listener = Callable[[Event], None]
