"""Small trainings with unlabelled texts, for the tests of their phases."""

from __future__ import annotations

import numpy as np

from bilstm.data.labels import LabelSet
from bilstm.tasks.text_classification import Config
from bilstm.tasks.text_training import Unlabelled, fit
from bilstm.training import events
from bilstm.training.budget import Budget


class Cut(Exception):
    """Stands for a power failure."""


GOOD, BAD, OTHER = ["good", "fine", "great", "lovely"], ["bad", "poor", "awful", "dull"], [f"w{n}" for n in range(40)]
BINARY = LabelSet("binary", ("no", "yes"))
SMALL = Config(
    embedding_size=8, hidden_size=8, learning_rate=0.02, batch_steps=300, max_epochs=25, threads=1, vector_epochs=1,
    phases=("linear-teacher", "joined-teacher", "mixed", "self-training"),
)  # fmt: skip


def texts_of(targets: np.ndarray, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    found = []
    for target in targets:
        words = list(random.choice(OTHER, 6))
        words[random.integers(6)] = str(random.choice(GOOD if target else BAD))
        found.append(" ".join(words))
    return found


def trained(unlabelled: list[str], rows: int = 120, **given):
    targets = np.arange(rows) % 2
    told: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, events.Note):
            told.append(event.text)
        if "listen" in given:
            given["listen"](event)

    options = {name: value for name, value in given.items() if name in ("checkpoint", "resume", "valid")}
    further = Unlabelled(unlabelled, given.get("budget") or Budget(None))
    outcome = fit(
        texts_of(targets, 0),
        targets,
        BINARY,
        given.get("config", SMALL),
        baseline=given.get("baseline", False),
        unlabelled=further,
        progress=listen,
        **options,
    )
    return outcome, told
