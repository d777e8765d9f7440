"""The tasks and their table: adding a task is one module and one line here."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilstm.errors import ModelFolderError, UsageError
from bilstm.model_folder import ModelFolder, load_model

__all__ = ["TASKS", "Task", "load", "model_of", "task_named"]


@dataclass(frozen=True)
class Task:
    """Where the parts of a task stand; they are imported when they are needed.

    Parameters
    ----------
    name : str
    module : str
        Has `Config` and the model class.
    model : str
        Name of the model class; it has `from_folder`.
    endings : tuple of str
        Names of files (without .gz) that can only be meant for this task.
    verb : str
        Command that trains it.
    """

    name: str
    module: str
    model: str
    endings: tuple[str, ...] = ()
    verb: str = "train"

    @property
    def config_type(self) -> Any:
        """Return the settings dataclass."""
        return importlib.import_module(self.module).Config

    @property
    def model_type(self) -> Any:
        """Return the model class."""
        return getattr(importlib.import_module(self.module), self.model)


TASKS = {
    task.name: task
    for task in (
        Task("text-classification", "bilstm.tasks.text_classification", "TextModel"),
        Task(
            "sequence-tagging",
            "bilstm.tasks.sequence_tagging",
            "TaggerModel",
            (".conll", ".conllu", ".iob", ".iob2", ".bio"),
        ),
        Task("language-model", "bilstm.tasks.language_model", "LanguageModel", verb="pretrain"),
    )
}


def task_named(name: str) -> Task:
    """Return a task.

    Raises
    ------
    UsageError
        If there is none of that name; the message offers the nearest.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, 1, 0.4)
        offer = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"there is no task {name!r}.", f"{offer}The tasks are {', '.join(TASKS)}.")
    return TASKS[name]


def load(
    folder: str | Path,
    *,
    verify: bool = True,
    backend: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
) -> Any:
    """Load a trained model; needs no torch.

    Parameters
    ----------
    folder : path
        What `bilstm train` or `save` wrote.
    verify : bool, default=True
        Check the hash of every file first.
    backend : {"auto", "engine", "numpy"}, default="auto"
        What runs the recurrent layers; "auto" is the native engine where it has a kernel for this machine.
    precision : {"auto", "float32", "bfloat16"}, default="float32"
        Of the products inside the engine; "auto" is bfloat16 where that is faster, else float32.
    threads : int, optional
        Of the engine; every processor that the process may use if left out.

    Returns
    -------
    TextModel, or the model class of another task
        With `evaluate`, `save`, and `predict` where it answers for texts.

    Raises
    ------
    InputNotFoundError
        If there is nothing at `folder`.
    ModelFolderError
        If it is no model folder, damaged, or of a newer format; the message names the file.
    UsageError
        If the backend or precision that is asked for cannot run; the message says why.
    """
    stored = load_model(folder, verify=verify)
    return model_of(stored, backend=backend, precision=precision, threads=threads)


def model_of(
    stored: ModelFolder, *, backend: str = "auto", precision: str = "float32", threads: int | None = None
) -> Any:
    """Make the model of a folder that is read already; parameters, result and errors as `load`."""
    folder = stored.path
    task = stored.config.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise ModelFolderError(
            f"{folder}: made for the task {task!r}, which this version does not know (known: {', '.join(TASKS)}).",
            "Upgrade: pip install --upgrade bilstm",
        )
    try:
        return TASKS[task].model_type.from_folder(
            stored.config, stored.weights, stored.files, backend=backend, precision=precision, threads=threads
        )
    except ModelFolderError as error:
        raise ModelFolderError(f"{folder}: {error.message}", error.hint) from error
