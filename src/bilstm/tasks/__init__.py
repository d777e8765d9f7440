"""The tasks and their table: adding a task is one module and one line here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bilstm.errors import ModelFolderError, UsageError
from bilstm.model_folder import load_model

__all__ = ["TASKS", "load", "task_module"]

# name of the task -> module that has TASK, Config and a model class named below
TASKS: dict[str, tuple[str, str]] = {
    "text-classification": ("bilstm.tasks.text_classification", "TextModel"),
    "sequence-tagging": ("bilstm.tasks.sequence_tagging", "TaggerModel"),
}


def task_module(task: str) -> Any:
    """Import the module of a task.

    Raises
    ------
    UsageError
        If there is no such task.
    """
    if task not in TASKS:
        raise UsageError(f"there is no task {task!r}; known are {', '.join(TASKS)}.")
    return importlib.import_module(TASKS[task][0])


def load(folder: str | Path, *, verify: bool = True) -> Any:
    """Load a trained model; needs no torch.

    Parameters
    ----------
    folder : path
        What `bilstm train` or `save` wrote.
    verify : bool, default=True
        Check the hash of every file first.

    Returns
    -------
    TextModel, or the model class of another task
        With `predict`, `predict_proba`, `evaluate`, `save`.

    Raises
    ------
    InputNotFoundError
        If there is nothing at `folder`.
    ModelFolderError
        If it is no model folder, damaged, or of a newer format; the message names the file.
    """
    stored = load_model(folder, verify=verify)
    task = stored.config.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise ModelFolderError(
            f"{folder}: made for the task {task!r}, which this version does not know (known: {', '.join(TASKS)}).",
            "Upgrade: pip install --upgrade bilstm",
        )
    try:
        return getattr(task_module(task), TASKS[task][1]).from_folder(stored.config, stored.weights, stored.files)
    except ModelFolderError as error:
        raise ModelFolderError(f"{folder}: {error.message}", error.hint) from error
