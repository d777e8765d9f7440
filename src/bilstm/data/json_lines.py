"""JSON Lines: one JSON object a line, its keys are the columns.

Step `read` of the way of the data. Values become text as they are written (`1.50` stays `1.50`); null is a missing
value; a list of strings is a set of labels. Imports the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from bilstm.data.byte_streams import TextStream
from bilstm.data.tables import BadRows, Table
from bilstm.errors import DataError

__all__ = ["LIST_SEPARATOR", "open_json_lines", "text_of_value"]

# Joins the labels of a list; refused inside a label, so that nothing is split wrongly later.
LIST_SEPARATOR = "|"
SAMPLED_OBJECTS = 1000


class _DuplicateKeyError(ValueError):
    pass


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in keys if keys.count(key) > 1))
    return values


# Numbers stay as written: they are labels or extra columns, never computed with here.
_DECODER = json.JSONDecoder(object_pairs_hook=_object_of, parse_int=str, parse_float=str, parse_constant=str)


def open_json_lines(text: TextStream, bad_rows: BadRows) -> Table:
    """Read JSON Lines; columns are the keys of the first 1,000 objects, in the order of their appearance.

    Raises
    ------
    DataError
        Empty file, one JSON array instead of lines, a line that is no JSON object, a key that stands twice in one.
    """
    head, _ = text.head()
    if not head.strip():
        what = "is empty" if not head else "holds only blank lines"
        raise DataError(f"{text.name}: the file {what}.", "It needs one JSON object a line.")
    if head.lstrip().startswith("["):
        raise DataError(
            f"{text.name}: this is one JSON array, not JSON Lines.",
            "Write one object a line, for example with: jq -c '.[]' old.json > new.jsonl",
        )
    table = Table(text.name, [], iter(()))
    objects = _objects(text, bad_rows, table)
    sample = list(islice(objects, SAMPLED_OBJECTS))
    table.columns = list(dict.fromkeys(key for _, values in sample for key in values))
    table.rows = _rows(chain(sample, objects), table)
    return table


def _rows(objects: Iterator[tuple[int, dict[str, str | None]]], table: Table) -> Iterator[tuple[int, list[str | None]]]:
    columns, known = table.columns, set(table.columns)
    late: set[str] = set()
    for line, values in objects:
        if not values.keys() <= known:
            late |= values.keys() - known
        yield line, [values.get(column) for column in columns]
    if late:
        keys = ", ".join(sorted(late))
        table.notes.append(
            f"{table.name}: keys that first appear after {SAMPLED_OBJECTS} objects are left out: {keys}."
        )


def _objects(text: TextStream, bad_rows: BadRows, table: Table) -> Iterator[tuple[int, dict[str, str | None]]]:
    blank = 0
    for number, line in enumerate(text.lines(), 1):
        if not line.strip():
            blank += 1
            continue
        try:
            value = _DECODER.decode(line)
        except _DuplicateKeyError as error:
            bad_rows.reject(text.name, number, f"the key {str(error)!r} stands twice.", "Keep one of them.")
            continue
        except json.JSONDecodeError as error:
            problem = f"not valid JSON ({error.msg} at column {error.colno})."
            bad_rows.reject(text.name, number, problem, "Each line must be one JSON object.")
            continue
        except RecursionError:
            bad_rows.reject(text.name, number, "JSON nested too deeply.", "Each line must be one flat JSON object.")
            continue
        if not isinstance(value, dict):
            problem = f"a JSON {type(value).__name__}, not an object."
            bad_rows.reject(text.name, number, problem, 'Each line must look like {"text": "...", "label": "..."}.')
            continue
        try:
            values = {key: text_of_value(entry) for key, entry in value.items()}
        except ValueError as error:
            bad_rows.reject(text.name, number, f"{error}.", "Correct the line.")
            continue
        table.list_columns.update(key for key, entry in value.items() if isinstance(entry, list))
        yield number, values
    if blank:
        table.notes.append(f"{text.name}: {blank} blank line{'s' if blank > 1 else ''} passed over.")


def text_of_value(value: Any) -> str | None:
    """Return a cell's value as text: strings as they are, numbers as written, a list of strings joined, None for null.

    Raises
    ------
    ValueError
        For half of a surrogate pair (no text can hold it), or a list entry that holds the separator.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("half of a surrogate pair (\\ud800 to \\udfff) in a text")
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        for entry in value:
            if LIST_SEPARATOR in entry:
                raise ValueError(f"the list entry {entry!r} holds a {LIST_SEPARATOR!r}, which separates entries here")
        return LIST_SEPARATOR.join(value)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
