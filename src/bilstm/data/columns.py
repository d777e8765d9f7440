"""Which column holds the texts and which the labels: as asked, by well-known names, or by their content.

Step `read` of the way of the data. What was guessed is always said (`notes`); a wrong name is answered with
the nearest. Imports the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bilstm.data.byte_streams import nearest_names, quoted
from bilstm.errors import DataError

__all__ = ["LABEL_NAMES", "TEXT_NAMES", "LabelsWanted", "choose_columns"]

LabelsWanted = Literal["required", "optional", "none"]

TEXT_NAMES = (
    "text", "review", "sentence", "comment", "tweet", "content", "message", "body", "document", "question", "utterance",
    "review_text", "reviewtext", "comment_text", "sms", "post", "headline", "title", "description", "input",
)  # fmt: skip
LABEL_NAMES = (
    "label", "sentiment", "class", "category", "target", "labels", "polarity", "intent", "topic", "tag", "tags", "y",
    "output", "rating", "stars", "score",
)  # fmt: skip


def choose_columns(
    columns: Sequence[str],
    sample: Sequence[Sequence[str | None]],
    name: str,
    *,
    text: str | None,
    label: str | None,
    labels: LabelsWanted,
    notes: list[str],
) -> tuple[int, int | None]:
    """Return the positions of the text column and of the label column (None if there is none and none is required).

    Parameters
    ----------
    columns : sequence of str
    sample : sequence of rows
        The first rows; their content decides where no name does.
    name : str
        The input, for messages.
    text, label : str or None
        Names asked for; None: to be guessed.
    labels : {"required", "optional", "none"}
        "optional" takes a label column only if it was asked for or has a well-known name.
    notes : list of str
        Gets one line for each guess.

    Raises
    ------
    DataError
        If an asked column is missing (names the nearest), or no column can be the text or the label.
    """
    asked_label = label if labels != "none" else None
    text_at = None if text is None else _position(text, columns, name, "--text")
    label_at = None if asked_label is None else _position(asked_label, columns, name, "--label")
    if text_at is not None and text_at == label_at:
        raise DataError(
            f"{name}: the column {quoted(columns[text_at])} cannot be both text and label.", _offer(columns)
        )
    if label_at is None and labels != "none":
        label_at = _by_name(columns, LABEL_NAMES, text_at)
        if label_at is not None:
            notes.append(f"{name}: took column {quoted(columns[label_at])} for the labels (by its name).")
    if text_at is None:
        text_at, reason = _guess_text(columns, sample, label_at)
        if text_at is None:
            hint = "Give a table with a column of texts beside it."
            raise DataError(f"{name}: no column can be the text; the only column is {quoted(columns[0])}.", hint)
        if len(columns) > 1:
            notes.append(f"{name}: took column {quoted(columns[text_at])} for the texts ({reason}).")
    if label_at is None and labels == "required":
        label_at = _fewest_values(sample, len(columns), text_at)
        if label_at is None:
            found = f"no column can be the labels beside the texts in {quoted(columns[text_at])}"
            raise DataError(f"{name}: {found}.", f"{_offer(columns)} Name one with --label.")
        notes.append(
            f"{name}: took column {quoted(columns[label_at])} for the labels (it has the fewest different values)."
        )
    return text_at, label_at


def _position(column: str, columns: Sequence[str], name: str, option: str) -> int:
    if column in columns:
        return list(columns).index(column)
    near = nearest_names(column, list(columns), 1)
    suggestion = f"Did you mean {near[0]!r}? " if near else ""
    raise DataError(f"{name}: there is no column {column!r} ({option}).", f"{suggestion}{_offer(columns)}")


def _offer(columns: Sequence[str]) -> str:
    shown = ", ".join(map(quoted, columns[:12])) + (", ..." if len(columns) > 12 else "")
    return f"The columns are {shown}."


def _by_name(columns: Sequence[str], known: Sequence[str], taken: int | None) -> int | None:
    """Return the column with the best-known name; `taken` is not free."""
    folded = [None if position == taken else column.casefold() for position, column in enumerate(columns)]
    return next((folded.index(name) for name in known if name in folded), None)


def _guess_text(
    columns: Sequence[str], sample: Sequence[Sequence[str | None]], label_at: int | None
) -> tuple[int | None, str]:
    by_name = _by_name(columns, TEXT_NAMES, label_at)
    if by_name is not None:
        return by_name, "by its name"
    lengths = [
        -1 if position == label_at else sum(len(row[position] or "") for row in sample)
        for position in range(len(columns))
    ]
    longest = max(range(len(columns)), key=lengths.__getitem__)
    return (longest if lengths[longest] >= 0 else None), "it has the longest texts"


def _fewest_values(sample: Sequence[Sequence[str | None]], width: int, text_at: int) -> int | None:
    """Return the column with the fewest different values, at least two; of equal ones the last."""
    counts = {
        position: len({row[position] for row in sample if (row[position] or "").strip()})
        for position in range(width)
        if position != text_at
    }
    free = [position for position, count in counts.items() if count >= 2] or list(counts)
    return min(free, key=lambda position: (counts[position], -position), default=None)
