"""Split rows into parts of exact sizes: seeded, and stratified where there are classes.

Step `read` of the way of the data, after the records and before anything is fitted. Imports numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilstm.errors import DataError, UsageError

__all__ = ["draw_groups", "missing_classes", "parse_split", "part_sizes", "split_rows"]

Sizes = Sequence[int] | Sequence[float]


def parse_split(text: str) -> tuple[int, ...] | tuple[float, ...]:
    """Read `45000:5000` (rows) or `0.8:0.1:0.1` (fractions that sum to 1): sizes of two or three parts.

    Raises
    ------
    UsageError
        For anything else.

    Examples
    --------
    >>> parse_split("45000:5000"), parse_split("0.9:0.1")
    ((45000, 5000), (0.9, 0.1))
    """
    hint = "Write rows as in 45000:5000, or fractions as in 0.8:0.1:0.1."
    words = text.split(":")
    if len(words) not in (2, 3):
        raise UsageError(f"--split {text}: two or three sizes with colons between them are needed.", hint)
    if all(word.strip().isascii() and word.strip().isdigit() for word in words):
        rows = tuple(int(word) for word in words)
        if 0 in rows:
            raise UsageError(f"--split {text}: every part needs at least one row.", hint)
        return rows
    try:
        fractions = tuple(float(word) for word in words)
    except ValueError:
        raise UsageError(f"--split {text}: these are neither rows nor fractions.", hint) from None
    if not all(0.0 < fraction < 1.0 for fraction in fractions) or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise UsageError(f"--split {text}: fractions must lie between 0 and 1 and sum to 1.", hint)
    return fractions


def part_sizes(rows: int, sizes: Sizes) -> list[int]:
    """Return the rows of each part: whole numbers as they are, fractions of `rows` by largest remainder.

    Raises
    ------
    DataError
        If there are not enough rows, or a part would have none.
    """
    if all(isinstance(size, int | np.integer) for size in sizes):
        exact = [int(size) for size in sizes]
    else:
        exact = _apportioned(rows, np.array(sizes, dtype=np.float64) * rows, np.full(len(sizes), rows)).tolist()
    asked = ":".join(map(str, sizes))
    if sum(exact) > rows:
        raise DataError(f"a split into {asked} needs {sum(exact)} rows, there are {rows}.", "Ask for smaller parts.")
    if min(exact) < 1:
        raise DataError(f"a split of {rows} rows into {asked} leaves a part without rows.", "Give more data.")
    return exact


def split_rows(labels: Any, sizes: Sizes, seed: int, *, is_stratified: bool = True) -> list[np.ndarray]:
    """Split rows into parts of exact sizes.

    Parameters
    ----------
    labels : array-like of shape (rows,) or (rows, labels)
        Classes (numbers or names) or zeros and ones of label sets, which are stratified by the whole set. Numbers of a
        regression need `is_stratified=False`.
    sizes : sequence of int or of float
        Rows of each part, or fractions. Rows beyond the sum of whole sizes belong to no part.
    seed : int
        The same seed, labels and sizes give the same parts.
    is_stratified : bool
        Give each part every class in the proportion of the whole, rounded by largest remainder; a class goes to the
        first part before it goes to others.

    Returns
    -------
    list of ndarray of int64
        Row numbers of each part, ascending; no row in two parts.

    Raises
    ------
    DataError
        If there are not enough rows.
    """
    labels = np.asarray(labels)
    rows = len(labels)
    exact = part_sizes(rows, sizes)
    random = np.random.default_rng(seed)
    if not is_stratified:
        order = random.permutation(rows)
        return [np.sort(part) for part in np.split(order, np.cumsum(exact))[:-1]]
    class_of = _class_numbers(labels)
    waiting = [random.permutation(np.flatnonzero(class_of == number)) for number in range(class_of.max() + 1)]
    parts = []
    for number, size in enumerate(exact):
        left = np.array([len(members) for members in waiting])
        taken = _apportioned(size, size * (left / left.sum()), left)
        if number == 0:
            _give_each_class_one(taken, left)
        parts.append(np.sort(np.concatenate([members[:n] for members, n in zip(waiting, taken, strict=True)])))
        waiting = [members[n:] for members, n in zip(waiting, taken, strict=True)]
    return parts


def draw_groups(
    labels: Any, groups: np.ndarray, size: int, seed: int, *, is_stratified: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows by whole groups; what is drawn has as many rows of each class as `split_rows` would give it.

    Groups come in random order, and those for which there is no room are passed over; of the ones passed over, members
    fill what is still missing at the end.

    Parameters
    ----------
    labels : array-like of shape (rows,) or (rows, labels)
        As in `split_rows`.
    groups : ndarray of int64, shape (rows,)
        Number of each row's group.
    size : int
        Rows to draw.
    seed, is_stratified
        As in `split_rows`.

    Returns
    -------
    (ndarray of int64, ndarray of int64)
        The rows that are left and the rows that were drawn, ascending.

    Raises
    ------
    DataError
        If there are not enough rows.
    """
    rows = len(groups)
    drawn_alone = split_rows(labels, [rows - size, size], seed, is_stratified=is_stratified)[1]
    class_of = _class_numbers(np.asarray(labels)) if is_stratified else np.zeros(rows, dtype=np.int64)
    room = np.bincount(class_of[drawn_alone], minlength=int(class_of.max()) + 1)
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    drawn, passed = [], []
    for group in order:
        needed = np.bincount(class_of[members[group]], minlength=len(room))
        if (needed <= room).all():
            drawn.append(members[group])
            room -= needed
        else:
            passed.append(members[group])
    for row in np.concatenate(passed) if passed else []:
        if room[class_of[row]]:
            drawn.append(np.array([row]))
            room[class_of[row]] -= 1
    taken = np.sort(np.concatenate(drawn))
    return np.setdiff1d(np.arange(rows), taken), taken


def missing_classes(labels: Sequence[str], parts: Sequence[np.ndarray], part_names: Sequence[str]) -> list[str]:
    """Return a line for each part that lacks a class of the whole: such a class cannot be learned or measured there."""
    whole = set(labels)
    notes = []
    for name, part in zip(part_names, parts, strict=True):
        missing = sorted(whole - {labels[row] for row in part})
        if missing:
            shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
            notes.append(f"the {name} part has no row of {len(missing)} of {len(whole)} classes ({shown}).")
    return notes


def _class_numbers(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True, axis=0 if labels.ndim > 1 else None)[1].reshape(-1)


def _apportioned(total: int, quotas: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Round `quotas` to whole numbers that sum to `total`: largest remainders first, of equal ones the first."""
    shares = np.minimum(np.floor(quotas + 1e-9).astype(np.int64), most)
    remainders = np.where(shares < most, quotas - shares, -1.0)
    for group in np.argsort(-remainders, kind="stable")[: max(total - int(shares.sum()), 0)]:
        shares[group] += 1
    return shares


def _give_each_class_one(taken: np.ndarray, left: np.ndarray) -> None:
    """Move single rows from the largest classes to classes that got none, as far as there is room."""
    for group in np.flatnonzero((taken == 0) & (left > 0)):
        giver = int(np.argmax(taken))
        if taken[giver] < 2:
            return
        taken[giver] -= 1
        taken[group] += 1
