"""Results of a comparison on disk: `results.jsonl`, with the table and the figure made of it beside it.

The first line says what was compared on what; each line after it is one trained model. The folder is rewritten whole
after every result (`atomic_folder`), so a run that is killed loses the model in progress and nothing else. Imports
`config`, `atomic_folder`, `strict_json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bilstm.atomic_folder import check_target, recover_folder, write_folder
from bilstm.config import Settings, changed_settings
from bilstm.errors import DataError, InputNotFoundError, ModelFolderError, OutputError
from bilstm.strict_json import read_strict_json

__all__ = ["FIGURE", "FORMAT", "PAGE", "RESULTS", "Result", "ResultFolder"]

RESULTS, FIGURE, PAGE = "results.jsonl", "comparison.svg", "index.html"
FORMAT = 1
_FILES = (RESULTS, FIGURE, PAGE)
_CHOICE = "Choose another --output, or add --overwrite to start again."


@dataclass(frozen=True)
class Result:
    """One trained and scored model.

    Parameters
    ----------
    model : str
    seed : int or None
        None for the linear model, which is fitted once.
    score, dev_score : float
        On the part that is compared, and on the development part.
    scores : dict
        All single numbers that were measured on the compared part.
    parameters : int
    seconds : float
        Wall time of its training, word vectors and scoring of the development part after each epoch included.
    best_epoch, epochs : int or None
    name : str
        What the model is, in words.
    versions : dict
        Of bilstm, Python and the libraries that made it.
    """

    model: str
    seed: int | None
    score: float
    dev_score: float
    scores: dict[str, float | None]
    parameters: int
    seconds: float
    name: str = ""
    best_epoch: int | None = None
    epochs: int | None = None
    versions: dict[str, str] = field(default_factory=dict)


_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "seed": (int, type(None)),
    "score": (float, int),
    "dev_score": (float, int),
    "scores": (dict,),
    "parameters": (int,),
    "seconds": (float, int),
    "name": (str,),
    "best_epoch": (int, type(None)),
    "epochs": (int, type(None)),
    "versions": (dict,),
}


class ResultFolder:
    """The folder of a comparison.

    Parameters
    ----------
    folder : path
    identity : dict
        What makes results comparable, as plain JSON values: key "settings", and any others.
    settings : Settings
        What `identity["settings"]` was written from.
    results : list of Result
        In the order in which they came.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any], settings: Settings):
        self.folder = Path(folder)
        self.identity = {"comparison": FORMAT, **json.loads(json.dumps(identity))}
        self.settings = settings
        self.results: list[Result] = []

    @staticmethod
    def check(folder: str | Path) -> None:
        """Raise OutputError before any work if `folder` cannot be written, or holds files that are not of ours."""
        check_target(folder, replaces=_FILES)

    def read(self) -> None:
        """Take over the results of an earlier run; none if there are none.

        Raises
        ------
        OutputError
            If they are of other settings or data; the message names the difference.
        DataError
            If the file is damaged.
        """
        recover_folder(self.folder)
        path = self.folder / RESULTS
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputNotFoundError(f"{path}: cannot be read: {error.strerror}.") from error
        entries = [self._entry(line, number) for number, line in enumerate(lines, 1)]
        if not entries or entries[0].get("comparison") != FORMAT:
            raise DataError(f"{path}:1: not a comparison of format {FORMAT}.", _CHOICE)
        if differences := self._differences(entries[0]):
            shown = "; ".join(differences[:3]) + ("; ..." if len(differences) > 3 else "")
            raise OutputError(f"{path} holds results of another comparison: {shown}.", _CHOICE)
        for number, entry in enumerate(entries[1:], 2):
            self.results.append(self._result(entry, number))

    def has(self, model: str, seed: int | None) -> bool:
        """Whether a model was trained with this seed."""
        return any(result.model == model and result.seed == seed for result in self.results)

    def of(self, model: str) -> list[Result]:
        """Return the results of a model, by seed."""
        return sorted((result for result in self.results if result.model == model), key=lambda result: result.seed or 0)

    def write(self, files: Mapping[str, str]) -> None:
        """Write all results and what is drawn from them, whole or not at all.

        Raises
        ------
        OutputError, WriteFailedError
            As `atomic_folder.write_folder`; what stood there is intact.
        """
        lines = [self.identity, *map(asdict, self.results)]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        contents = {RESULTS: text, **files}
        write_folder(self.folder, {name: text.encode() for name, text in contents.items()}, replaces=_FILES)

    def _entry(self, line: bytes, number: int) -> dict[str, Any]:
        where = f"{self.folder / RESULTS}:{number}"
        try:
            entry = read_strict_json(line, where)
        except ModelFolderError as error:
            raise DataError(error.message, _CHOICE) from error
        if not isinstance(entry, dict):
            raise DataError(f"{where}: not an object.", _CHOICE)
        return entry

    def _result(self, entry: dict[str, Any], number: int) -> Result:
        where = f"{self.folder / RESULTS}:{number}"
        if entry.keys() != _KINDS.keys():
            differing = sorted(entry.keys() ^ _KINDS.keys())[0]
            raise DataError(f"{where}: key {differing!r} is missing or unknown.", _CHOICE)
        for key, kinds in _KINDS.items():
            if not isinstance(entry[key], kinds) or isinstance(entry[key], bool):
                raise DataError(f"{where}: {key} is {entry[key]!r}.", _CHOICE)
        if self.has(entry["model"], entry["seed"]):
            raise DataError(f"{where}: model {entry['model']!r} with seed {entry['seed']} stands twice.", _CHOICE)
        return Result(**entry)

    def _differences(self, before: dict[str, Any]) -> list[str]:
        was = before.get("settings")
        lines = changed_settings(was if isinstance(was, dict) else {}, self.settings)
        for key in sorted((self.identity.keys() | before.keys()) - {"settings"}):
            old, new = before.get(key), self.identity.get(key)
            if old != new:
                lines.append(f"{key} was {_short(old)}, is now {_short(new)}")
        return lines


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
