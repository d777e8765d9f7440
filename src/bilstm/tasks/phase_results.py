"""What phases of a training did, which are kept, and how long the next may be. Imports numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm.tasks.text_classification import Config

if TYPE_CHECKING:
    from bilstm.training.loop import TrainResult

__all__ = [
    "FEW_DEV_ROWS",
    "LEAST_WORDS",
    "SELF_SHARES",
    "SPARE_SECONDS",
    "PhaseRecord",
    "decay_for",
    "is_kept",
    "joined_results",
    "looks_of",
    "phase_config",
]

LOOKS = 20  # at the development part, in a phase
FEW_DEV_ROWS = 100  # with fewer, the last weights of a phase are kept instead of the luckiest
LEAST_WORDS = 3_000  # of a step
SPARE_SECONDS = 10.0  # of the budget, for what comes after a phase
SELF_SHARES = (0.3, 0.6)  # of the texts, taken in each round of self-training


@dataclass(frozen=True)
class PhaseRecord:
    """What a phase did.

    Parameters
    ----------
    name : str
    seconds : float
    is_kept : bool
        Whether its weights were kept.
    score_before, score_after : float or None
        On the development part.
    loss_before, loss_after : float or None
        Its calibrated log loss in nats, where it decides.
    """

    name: str
    seconds: float
    is_kept: bool
    score_before: float | None
    score_after: float | None
    loss_before: float | None = None
    loss_after: float | None = None

    def line(self) -> str:
        """Say what became of the phase; "" for the first one, which has nothing to be compared with."""
        if self.score_before is None or self.score_after is None:
            return ""
        change = f"score {self.score_before:.4f} -> {self.score_after:.4f}"
        if self.loss_before is not None and self.loss_after is not None:
            change = f"log loss {self.loss_before:.4f} -> {self.loss_after:.4f}, {change}"
        if self.is_kept:
            return f"{self.name}: kept, development {change}."
        return f"{self.name}: turned off, development {change}; the weights before it are kept."


def is_kept(before: tuple[Any, np.ndarray], after: tuple[Any, np.ndarray], *, is_trusted: bool = False) -> bool:
    """Decide whether a change is kept: (DevScore, whether each development row is right) before and after it.

    Kept if the score does not fall; also if it falls within chance and the mean loss falls. Chance is one standard
    error of the paired difference, the square root of the number of rows that changed sides (McNemar 1947). Of what is
    trusted it is two, whatever the loss: a dozen rows, of which the epoch before was the luckiest, say little.
    """
    if after[0].score >= before[0].score:
        return True
    lost = int((before[1] & ~after[1]).sum()) - int((after[1] & ~before[1]).sum())
    chance = int((before[1] != after[1]).sum()) ** 0.5
    if is_trusted:
        return lost <= 2 * chance
    return 0 < lost <= chance and after[0].loss < before[0].loss


def looks_of(words: int, steps: int) -> dict[str, int]:
    """Divide a phase into epochs after which the development part is scored."""
    looks = int(np.clip(steps // 50, 1, LOOKS))
    return {"words": words, "looks": looks, "steps": max(steps // looks, 1)}


def decay_for(config: Config, steps: int) -> float | None:
    """Return a decay of the running mean that remembers a tenth of the steps: a longer memory would hold the start."""
    return None if config.average_decay is None else min(config.average_decay, max(1.0 - 10.0 / steps, 0.5))


def phase_config(
    config: Config, plan: dict[str, int], rate: float, betas: tuple[float, float], is_patient: bool
) -> Config:
    """Return the settings of the loop for a phase of so many steps."""
    return dataclasses.replace(
        config,
        max_epochs=plan["looks"],
        learning_rate=min(config.learning_rate, rate),
        betas=betas,
        average_decay=decay_for(config, plan["looks"] * plan["steps"]),
        patience=LOOKS // 4 if is_patient else None,
    )


def joined_results(results: Sequence[TrainResult | None], records: Sequence[PhaseRecord]) -> TrainResult:
    """Put the histories behind each other, their epochs counted on; the last kept phase names the best."""
    ran = [result for result in results if result is not None]
    history: list[Any] = []
    best_epoch, best_score = 0, None
    for result, record in zip(ran, records, strict=True):
        before = len(history)
        history += [dataclasses.replace(row, epoch=before + row.epoch) for row in result.history]
        if record.is_kept:
            best_epoch, best_score = before + result.best_epoch, record.score_after
    return dataclasses.replace(
        ran[-1],
        history=tuple(history),
        best_epoch=best_epoch,
        best_score=best_score,
        steps=sum(result.steps for result in ran),
        seconds=sum(result.seconds for result in ran),
    )
