"""The models of the server by name, and how one takes the place of another without a request noticing.

Requests hold the model they began with; a name is pointed to the new one when that has been read, checked and run
once. A folder that cannot be read leaves the old model where it is. Imports `served_model`.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bilstm.errors import BilstmError, UsageError
from bilstm.serving.refusal import Refusal
from bilstm.serving.schemas import NAME_PATTERN
from bilstm.serving.served_model import ServedModel, folder_state, read_model

__all__ = ["ModelShelf", "named_folders"]

_NAME = re.compile(NAME_PATTERN)


def named_folders(arguments: Sequence[str]) -> dict[str, Path]:
    """Read `name=folder` or `folder` arguments; a folder alone gives its own name.

    Raises
    ------
    UsageError
        For a name that is not allowed in an address, or that stands twice.
    """
    folders: dict[str, Path] = {}
    for argument in arguments:
        given, separator, rest = argument.partition("=")
        is_named = bool(separator) and bool(_NAME.fullmatch(given)) and not Path(argument).exists()
        folder = Path(rest if is_named else argument)
        name = given if is_named else folder.resolve().name
        if is_named and not rest:
            raise UsageError(f"{argument}: no folder after '='.", "For example: reviews=models/reviews")
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{argument}: {name!r} cannot be the name of a model (letters, digits, '.', '_', '-', at most 64).",
                f"Name it: my-model={folder}",
            )
        if name in folders:
            raise UsageError(
                f"{argument}: there is a model {name!r} already.", "Give names: first=FOLDER second=FOLDER"
            )
        folders[name] = folder
    if not folders:
        raise UsageError("no model folder was given.", "For example: bilstm serve model")
    return folders


class ModelShelf:
    """Models by name.

    Parameters
    ----------
    folders : dict of str to Path
    backend, precision, threads
        As `bilstm.load`.

    Raises
    ------
    BilstmError
        If a model cannot be read.
    """

    def __init__(
        self, folders: dict[str, Path], *, backend: str = "auto", precision: str = "float32", threads: int | None = None
    ):
        self._options = {"backend": backend, "precision": precision, "threads": threads}
        self._models = {name: self._read(name, folder) for name, folder in folders.items()}
        self._failed_states: dict[str, tuple[int, ...]] = {}
        self._reloading = asyncio.Lock()

    def _read(self, name: str, folder: Path) -> ServedModel:
        return read_model(name, folder, **self._options)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._models.values()))

    @property
    def default(self) -> ServedModel:
        """The model that answers where a request names none: the first that was given."""
        return next(iter(self._models.values()))

    def find(self, name: str | None) -> ServedModel:
        """Return the model of a name.

        Raises
        ------
        Refusal
            404, naming what there is.
        """
        if name is None:
            return self.default
        if name in self._models:
            return self._models[name]
        near = difflib.get_close_matches(name, self._models, 1, 0.6)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(self._models)}."
        shown = name if _NAME.fullmatch(name) else "of that name"
        raise Refusal(404, "model_not_found", f"There is no model {shown}.", hint, field="model")

    async def reload(self, tell: Callable[[ServedModel, BilstmError | None], None], *, only_changed: bool) -> None:
        """Read folders again and exchange the models whose folders have changed.

        Parameters
        ----------
        tell : callable
            Receives each new model with None, or each old one with the error that keeps it in place.
        only_changed : bool
            Do not open folders that look the same, nor again what failed before.
        """
        async with self._reloading:
            for old in self:
                try:
                    state = folder_state(old.folder)
                except BilstmError as error:
                    if not only_changed:  # while a folder is exchanged it is missing for a moment
                        tell(old, error)
                    continue
                if only_changed and state in (old.state, self._failed_states.get(old.name)):
                    continue
                try:
                    new = await asyncio.to_thread(self._read, old.name, old.folder)
                except BilstmError as error:
                    self._failed_states[old.name] = state
                    tell(old, error)
                    continue
                self._failed_states.pop(old.name, None)
                self._models[old.name] = new
                tell(new, None)
