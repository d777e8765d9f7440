"""Several networks of one classifier: trained one after the other, each from a seed of its own, answering together.

A deep ensemble (Lakshminarayanan, Pritzel, Blundell 2017, arXiv:1612.01474, algorithm 1): every member sees all
training rows and differs by its first weights, the order of the rows and the masks alone. The paper averages
probabilities; here logits are averaged, before the one temperature. Their log loss is about equal
(docs/ensembles.md), and a mean of logits stays linear: the linear n-gram models join it, and an explanation of the
whole is the mean of the members' explanations.

Word vectors are learned once, with the first seed, and every member begins with them: they are a start, not an answer.
Imports torch only inside the functions that are given.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm import description
from bilstm.description import Layer
from bilstm.errors import OutputError, TrainingDivergedError, UsageError
from bilstm.tasks.phase_results import PhaseRecord
from bilstm.tasks.text_classification import Config

if TYPE_CHECKING:
    from bilstm.training.events import Listener
    from bilstm.training.loop import TrainResult

__all__ = ["Member", "SharedVectors", "joined_layers", "joined_result", "train_members"]

VECTORS = "vectors.npy"


@dataclass(frozen=True)
class Member:
    """One trained network.

    Parameters
    ----------
    seed : int
    layers : tuple of layer descriptions
    weights : dict of str to ndarray
        The best ones.
    result : TrainResult
    phases : list of PhaseRecord
        Of a training with unlabelled texts.
    dev_metrics : dict
        Of this network alone, at a temperature of its own; filled in when all are there.
    """

    seed: int
    layers: tuple[Layer, ...]
    weights: dict[str, np.ndarray]
    result: TrainResult
    phases: list[PhaseRecord] = field(default_factory=list)
    dev_metrics: dict[str, Any] = field(default_factory=dict)


class SharedVectors:
    """Word vectors that all members begin with, learned once and kept beside the members' checkpoints.

    Parameters
    ----------
    checkpoint : str or None
        Folder of the run.
    is_kept : bool
        Whether they are needed again after the first member.
    vectors : ndarray, optional
        Learned before.
    """

    def __init__(self, checkpoint: str | None, is_kept: bool, vectors: np.ndarray | None = None):
        self.vectors = vectors
        self._place = Path(checkpoint) / VECTORS if checkpoint is not None and is_kept else None

    def get(self, learn: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the vectors; learn and store them if they are not there."""
        if self.vectors is None and self._place is not None and self._place.exists():
            self.vectors = np.load(self._place)
        if self.vectors is None:
            self.vectors = learn()
            if self._place is not None:
                self._place.parent.mkdir(parents=True, exist_ok=True)
                part = self._place.with_suffix(".part")
                with open(part, "wb") as file:
                    np.save(file, self.vectors)
                os.replace(part, self._place)
        return self.vectors


def train_members(
    train_one: Callable[[Config, str | None, bool, int], Member],
    config: Config,
    checkpoint: str | None,
    resume: bool,
    tell: Listener,
) -> list[Member]:
    """Train `config.members` networks; return those that are done.

    Parameters
    ----------
    train_one : callable
        Settings with the member's seed, folder of its checkpoint, whether to go on from there, and how many members
        are still to be trained, itself included -> member.
    config : Config
        The seeds are seed, seed + 1, ...
    checkpoint : str or None
        One network has its checkpoint there; several have a folder each in it.
    resume : bool
    tell : callable

    Returns
    -------
    list of Member
        After Ctrl-C: those that were done, or the first one as far as it came. The last one's result says so.

    Raises
    ------
    OutputError, UsageError
        If the checkpoint is of a run that has not ended, or of another kind.
    """
    from bilstm.training import events

    _check_checkpoint(checkpoint, config.members, resume)
    if config.members == 1:
        return [train_one(config, checkpoint, resume, 1)]
    done: list[Member] = []
    for number in range(1, config.members + 1):
        own = dataclasses.replace(config, seed=config.seed + number - 1, members=1)
        place = None if checkpoint is None else str(Path(checkpoint) / f"member-{number}")
        tell(events.Note(f"Member {number} of {config.members}, seed {own.seed}."))
        begun = resume and place is not None and os.path.isdir(place)
        try:
            member = train_one(own, place, begun, config.members - number + 1)
        except TrainingDivergedError as error:
            raise TrainingDivergedError(f"member {number}, seed {own.seed}: {error.message}", error.hint) from error
        if member.result.stopped_because != "interrupted":
            done.append(member)
            continue
        if not done:
            return [member]
        last = dataclasses.replace(done[-1].result, stopped_because="interrupted")
        tell(events.Note(f"Interrupted in member {number}: the {len(done)} done before it are kept."))
        return [*done[:-1], dataclasses.replace(done[-1], result=last)]
    return done


def _check_checkpoint(checkpoint: str | None, members: int, resume: bool) -> None:
    """Raise where the checkpoint is of one network and several are wanted, or the other way round."""
    if checkpoint is None or not os.path.isdir(checkpoint) or not os.listdir(checkpoint):
        return
    has_members = os.path.exists(os.path.join(checkpoint, "member-1")) or os.listdir(checkpoint) == [VECTORS]
    if resume and has_members != (members > 1):
        raise UsageError(
            f"{checkpoint} holds a run of {'several members' if has_members else 'one network'}; "
            f"--members {members} cannot go on with it.",
            "Give --members as it was, or remove the folder to start again.",
        )
    if members > 1 and not resume:
        raise OutputError(
            f"{checkpoint} holds a run that has not ended.",
            "Resume it (--resume), or remove the folder to start again.",
        )


def joined_layers(members: Sequence[Member]) -> tuple[tuple[Layer, ...], dict[str, np.ndarray]]:
    """Return the description and the weights of the members together."""
    first = members[0]
    if len(members) == 1:
        return first.layers, first.weights
    weights = {
        f"layers.0.members.{number}.{name}": array
        for number, member in enumerate(members)
        for name, array in member.weights.items()
    }
    return (description.Average(len(members), first.layers),), weights


def joined_result(members: Sequence[Member]) -> TrainResult:
    """Return how the whole went: the first member's epochs, the steps and seconds of all, why the last one ended."""
    results = [member.result for member in members]
    return dataclasses.replace(
        results[0],
        stopped_because=results[-1].stopped_because,
        steps=sum(result.steps for result in results),
        seconds=sum(result.seconds for result in results),
    )
