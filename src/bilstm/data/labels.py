"""What a label column means: two classes, many classes, sets of labels, or numbers; from text to arrays and back.

Step `encode` of the way of the data, for the targets. Imports numpy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from bilstm.data.byte_streams import nearest_names, quoted
from bilstm.errors import DataError, ModelFolderError, UsageError

__all__ = ["LabelKind", "LabelSet"]

LabelKind = Literal["binary", "multiclass", "multilabel", "regression"]
# Numbers with fewer different values than this are taken for classes unless regression is asked for.
REGRESSION_VALUES = 20
# A class column has many rows a class; beyond this share of different values it is most likely an id or a text.
MAX_CLASS_SHARE = 0.5

Where = Callable[[int], str]


@dataclass(frozen=True)
class LabelSet:
    """Kind of the labels and their names.

    Parameters
    ----------
    kind : {"binary", "multiclass", "multilabel", "regression"}
    names : tuple of str
        Class names in the order of their numbers (numbers by value, others by characters); of two, the second is the
        positive one. Empty for regression.
    separator : str or None
        Between the labels of a row; multilabel only.
    decision : str
        One line for the user: what was decided and why. Not stored.

    Examples
    --------
    >>> labels = LabelSet.build(["pos", "neg", "pos"])
    >>> labels.kind, labels.names, labels.encode(["neg", "pos"]).tolist()
    ('binary', ('neg', 'pos'), [0, 1])
    """

    kind: LabelKind
    names: tuple[str, ...] = ()
    separator: str | None = None
    decision: str = field(default="", compare=False)

    @classmethod
    def build(
        cls,
        raw_labels: Sequence[str],
        kind: LabelKind | Literal["auto"] = "auto",
        separator: str | None = None,
        where: Where | None = None,
    ) -> LabelSet:
        """Decide the kind and collect the names.

        Parameters
        ----------
        raw_labels : sequence of str
            As written in the file; for multilabel data, labels of a row joined by `separator`.
        kind : {"auto", "binary", "multiclass", "multilabel", "regression"}
            "auto": multilabel if a separator is given; regression if all labels are numbers, not all whole, with more
            than 20 different values; else two or more classes.
        separator : str, optional
            Needed for multilabel.
        where : callable, optional
            Gives the place of a row for messages (`Records.where`).

        Raises
        ------
        DataError
            One class only, almost as many classes as rows, labels that are not numbers in regression.
        UsageError
            A kind or separator that is not allowed.
        """
        if kind not in ("auto", *get_args(LabelKind)):
            raise UsageError(f"label kind {kind!r} is not known; allowed are auto, {', '.join(get_args(LabelKind))}.")
        if separator == "" or (separator is not None and kind not in ("auto", "multilabel")):
            raise UsageError(f"a label separator {separator!r} does not go with label kind {kind!r}.")
        if kind == "multilabel" and separator is None:
            raise UsageError("label kind 'multilabel' needs a separator, for example '|'.")
        if not len(raw_labels):
            raise DataError("there are no labels.")
        if separator is not None:
            return cls._of_sets(raw_labels, separator)
        counts = Counter(raw_labels)
        if kind == "regression" or (kind == "auto" and _looks_continuous(counts)):
            _numbers(raw_labels, where)
            reason = "asked for" if kind == "regression" else f"{len(counts)} different numbers, not all whole"
            return cls("regression", (), None, f"labels are numbers ({reason}): regression.")
        return cls._of_classes(counts, kind, len(raw_labels))

    @classmethod
    def _of_classes(cls, counts: Counter[str], kind: str, rows: int) -> LabelSet:
        names = _in_order(counts)
        if len(names) == 1:
            raise DataError(
                f"all {rows} rows have the same label {quoted(names[0])}.",
                "There is nothing to learn from one class; is the label column the right one?",
            )
        if kind == "binary" and len(names) != 2:
            raise DataError(f"label kind 'binary' needs two classes, found {len(names)}: {_listed(names)}.")
        if kind == "auto" and rows >= 20 and len(names) > MAX_CLASS_SHARE * rows:
            raise DataError(
                f"{len(names)} different labels in {rows} rows (for example {_listed(names, 3)}): no classes.",
                "Name the label column with --label, or ask for regression if the labels are quantities.",
            )
        found: LabelKind = "binary" if len(names) == 2 and kind != "multiclass" else "multiclass"
        shown = ", ".join(f"{quoted(name)} ({counts[name]})" for name in names[:8]) + (
            ", ..." if len(names) > 8 else ""
        )
        decision = f"{len(names)} classes: {shown}."
        alike = _alike(names)
        if alike:
            pair = f"{quoted(alike[0])} and {quoted(alike[1])}"
            decision += f" Labels {pair} differ only in case or spaces; they count as two classes."
        return cls(found, tuple(names), None, decision)

    @classmethod
    def _of_sets(cls, raw_labels: Sequence[str], separator: str) -> LabelSet:
        sets = [_split(label, separator) for label in raw_labels]
        names = _in_order(Counter(name for labels in sets for name in labels))
        if not names:
            raise DataError("no row has any label.")
        mean = sum(map(len, sets)) / len(sets)
        decision = f"sets of {len(names)} labels, {mean:.2f} a row (separated by {separator!r}): {_listed(names)}."
        return cls("multilabel", tuple(names), separator, decision)

    def encode(self, raw_labels: Sequence[str], where: Where | None = None) -> np.ndarray:
        """Return the labels as an array.

        Returns
        -------
        ndarray
            Classes: int64 of shape (rows,). Multilabel: float32 of shape (rows, labels), ones and zeros. Regression:
            float32 of shape (rows,).

        Raises
        ------
        DataError
            For a label that is not known, or not a finite number; names the row.
        """
        if self.kind == "regression":
            return _numbers(raw_labels, where).astype(np.float32)
        numbers = {name: number for number, name in enumerate(self.names)}
        if self.kind == "multilabel":
            targets = np.zeros((len(raw_labels), len(self.names)), dtype=np.float32)
            for row, label in enumerate(raw_labels):
                for name in _split(label, self.separator or ""):
                    if name not in numbers:
                        raise self._unknown(name, row, where)
                    targets[row, numbers[name]] = 1.0
            return targets
        unknown = next((row for row, label in enumerate(raw_labels) if label not in numbers), None)
        if unknown is not None:
            raise self._unknown(raw_labels[unknown], unknown, where)
        return np.array([numbers[label] for label in raw_labels], dtype=np.int64)

    def decode(self, values: Iterable[Any]) -> list[Any]:
        """Return what `encode` was given: names of classes, joined names of sets, or numbers (float).

        Parameters
        ----------
        values : iterable
            Class numbers; rows of zeros and ones (or False and True); or numbers.
        """
        if self.kind == "regression":
            return [float(value) for value in values]
        if self.kind == "multilabel":
            joiner = self.separator or ""
            return [joiner.join(n for n, is_set in zip(self.names, row, strict=True) if is_set) for row in values]
        return [self.names[int(value)] for value in values]

    def _unknown(self, label: str, row: int, where: Where | None) -> DataError:
        near = nearest_names(label, list(self.names), 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        return DataError(
            f"{_place(row, where)}: the label {quoted(label)} was not in the training data.",
            f"{hint}Known labels are {_listed(self.names)}.",
        )

    def to_config(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {"kind": self.kind, "names": list(self.names), "separator": self.separator}

    @classmethod
    def from_config(cls, config: Any) -> LabelSet:
        """Read from JSON values; the schema is closed.

        Raises
        ------
        ModelFolderError
            For anything that `to_config` does not write.
        """
        if not isinstance(config, dict) or config.keys() != {"kind", "names", "separator"}:
            raise ModelFolderError("labels: expected exactly the keys kind, names, separator.")
        kind, names, separator = config["kind"], config["names"], config["separator"]
        if not isinstance(kind, str) or kind not in get_args(LabelKind):
            raise ModelFolderError(f"labels: unknown kind {kind!r}.")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ModelFolderError("labels: names must be a list of texts.")
        fewest = {"binary": 2, "multiclass": 2, "multilabel": 1, "regression": 0}[kind]
        most = {"binary": 2, "regression": 0}.get(kind, len(names))
        if not fewest <= len(names) <= most or len(set(names)) != len(names):
            raise ModelFolderError(f"labels: {len(names)} names do not fit kind {kind!r}, or a name stands twice.")
        is_separator = isinstance(separator, str) and separator != ""
        if is_separator != (kind == "multilabel") or (separator is not None and not is_separator):
            raise ModelFolderError(f"labels: separator {separator!r} does not fit kind {kind!r}.")
        return cls(kind, tuple(names), separator)  # type: ignore[arg-type]


def _split(label: str, separator: str) -> list[str]:
    return [name for part in label.split(separator) if (name := part.strip())]


def _place(row: int, where: Where | None) -> str:
    return f"row {row}" if where is None else where(row)


def _listed(names: Sequence[str], count: int = 10) -> str:
    return ", ".join(map(quoted, names[:count])) + (", ..." if len(names) > count else "")


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort by value if all are numbers, else by characters."""
    names = sorted(names)
    values = [_number(name) for name in names]
    if all(value is not None and math.isfinite(value) for value in values):
        names.sort(key=lambda name: (float(name), name))
    return names


def _alike(names: Sequence[str]) -> tuple[str, str] | None:
    """Return two names that differ only in letter case or spaces around them."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.strip().casefold(), name)
        if other != name:
            return other, name
    return None


def _number(label: str) -> float | None:
    """Return the number that a label is, None if it is none; `1_000` is Python's notation, not a user's."""
    try:
        return None if "_" in label else float(label)
    except ValueError:
        return None


def _looks_continuous(labels: Iterable[str]) -> bool:
    values = [_number(label) for label in labels]
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    is_fractional = any(value != int(value) for value in numbers)
    return len(numbers) == len(values) > REGRESSION_VALUES and is_fractional


def _numbers(raw_labels: Sequence[str], where: Where | None) -> np.ndarray:
    """Return float64 values; raise DataError for the first that is no finite number (in float32, as models compute)."""
    numbers = np.zeros(len(raw_labels), dtype=np.float64)
    largest = float(np.finfo(np.float32).max)
    for row, label in enumerate(raw_labels):
        value = _number(label)
        if value is None:
            hint = "Write decimals with a point (3.5)." if "," in label else "Is the label column the right one?"
            raise DataError(f"{_place(row, where)}: the label {quoted(label)} is not a number.", hint)
        if not abs(value) <= largest:
            raise DataError(
                f"{_place(row, where)}: the label {quoted(label)} is not a finite number.",
                "Correct the row or leave it out.",
            )
        numbers[row] = value
    return numbers
