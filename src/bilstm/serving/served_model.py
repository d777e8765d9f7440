"""A model of the server: read from its folder once, answers for texts in plain values, never changes.

Imports `model_folder`, `tasks`; no torch.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilstm.errors import InputNotFoundError, ModelFolderError, UsageError
from bilstm.model_folder import load_model
from bilstm.tasks import TASKS, model_of

__all__ = ["ServedModel", "folder_state", "read_model"]

CARD, REPORT = "README.md", "report.html"
_SERVED_TASKS = ("text-classification", "sequence-tagging")
_READING_ATTEMPTS = 5
_WARM_UP = "A text to begin with, so that the first request does not wait."


@dataclass(frozen=True, eq=False)
class ServedModel:
    """What a name of the server stands for at a time.

    Parameters
    ----------
    name : str
    folder : Path
    version : str
        First digits of the hash of the folder's manifest, which holds the hashes of all its files.
    task, kind : str
    labels : tuple of str
        Classes, or types of spans.
    model : TextModel or TaggerModel
    parameters : int
        Numbers in the weights.
    card, report : bytes or None
        Files of the folder.
    loaded_at : str
        Time, ISO 8601.
    state : tuple
        Of the folder when it was read; see `folder_state`.
    """

    name: str
    folder: Path
    version: str
    task: str
    kind: str
    labels: tuple[str, ...]
    model: Any
    parameters: int
    card: bytes | None
    report: bytes | None
    loaded_at: str
    state: tuple[int, ...]

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Answer for texts with values that JSON has; see `schemas` for their form."""
        if self.kind == "tagging":
            return [_tagged(row) for row in self.model.annotate(list(texts))]
        outputs = self.model.predict_proba(list(texts))
        labels = self.model.labels_of(outputs)
        if self.kind == "regression":
            return [{"prediction": float(label)} for label in labels]
        names = self.labels
        answers = []
        for label, row in zip(labels, outputs.tolist(), strict=True):
            if self.kind == "multilabel":
                answers.append({"prediction": list(label), "probabilities": dict(zip(names, row, strict=True))})
            else:
                probabilities = dict(zip(names, row, strict=True))
                answers.append({"prediction": label, "probability": max(row), "probabilities": probabilities})
        return answers


def _tagged(row: Any) -> dict[str, Any]:
    return {
        "tokens": row.tokens,
        "tags": row.tags,
        "offsets": row.offsets,
        "spans": [
            {
                "start": span.start,
                "end": span.end,
                "label": span.label,
                "text": span.text,
                "score": min(max(float(span.score), 0.0), 1.0),  # exp of a sum of logarithms may exceed 1 by rounding
            }
            for span in row.spans
        ],
        "intent": row.intent,
        "intent_score": row.intent_score,
    }


def folder_state(folder: Path) -> tuple[int, ...]:
    """Return what changes when a folder is replaced, cheaply: of its manifest, which is written last.

    Raises
    ------
    InputNotFoundError
        If there is none, for example at the moment when a folder is exchanged.
    """
    try:
        state = os.stat(folder / "manifest.json")
    except OSError as error:
        raise InputNotFoundError(f"{folder}: there is no model folder at the moment: {error.strerror}.") from error
    return state.st_ino, state.st_mtime_ns, state.st_size


def read_model(
    name: str,
    folder: Path,
    *,
    backend: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
) -> ServedModel:
    """Read and check a model folder and run the model once.

    Parameters
    ----------
    name : str
    folder : Path
    backend, precision, threads
        As `bilstm.load`.

    Raises
    ------
    InputNotFoundError, ModelFolderError, UsageError
        As `bilstm.load`.
    """
    for _ in range(_READING_ATTEMPTS):
        before, version = folder_state(folder), _version_of(folder)
        stored = load_model(folder)
        if (folder_state(folder), _version_of(folder)) == (before, version):
            break
    else:
        raise ModelFolderError(f"{folder}: changes all the time.", "Try again when it is written.")
    task = stored.config.get("task")
    if task not in _SERVED_TASKS and task in TASKS:
        raise UsageError(
            f"{folder}: a model of the task {task} cannot be served.", f"Served: {', '.join(_SERVED_TASKS)}."
        )
    model = model_of(stored, backend=backend, precision=precision, threads=threads)
    is_tagger = task == "sequence-tagging"
    served = ServedModel(
        name=name,
        folder=folder,
        version=version,
        task=str(task),
        kind="tagging" if is_tagger else model.labels.kind,
        labels=tuple(sorted(model.classes) if is_tagger else map(str, model.labels.names)),
        model=model,
        parameters=sum(weight.size for weight in stored.weights.values()),
        card=stored.files.get(CARD),
        report=stored.files.get(REPORT),
        loaded_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        state=before,
    )
    served.predict([_WARM_UP])
    return served


def _version_of(folder: Path) -> str:
    try:
        return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise InputNotFoundError(f"{folder}: manifest.json cannot be read: {error.strerror}.") from error
