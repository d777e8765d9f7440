"""JSON read strictly: one value, no duplicate keys, no NaN, bounded size and depth. Imports only `errors`."""

from __future__ import annotations

import json
import math
from typing import Any

from bilstm.errors import ModelFolderError

__all__ = ["MAX_DEPTH", "read_strict_json", "write_json"]

MAX_DEPTH = 64


def read_strict_json(data: bytes, where: str, max_bytes: int = 64 * 2**20) -> Any:
    """Read JSON that this package has written, and nothing looser.

    Parameters
    ----------
    data : bytes
        UTF-8.
    where : str
        File name for messages.
    max_bytes : int
        Longer data is refused before it is parsed.

    Raises
    ------
    ModelFolderError
        For other than UTF-8, malformed JSON, a duplicate key, NaN or infinity, or more than `MAX_DEPTH` levels.
    """
    if len(data) > max_bytes:
        raise ModelFolderError(f"{where}: {len(data):,} bytes of JSON; at most {max_bytes:,} are read.")

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise ModelFolderError(f"{where}: key {twice!r} stands twice in one object.")
        return keys

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ModelFolderError(f"{where}: {text} is not a finite number.")
        return value

    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=no_duplicates, parse_float=finite, parse_constant=finite
        )
    except ModelFolderError:  # a ValueError too; raised by the hooks above
        raise
    except RecursionError as error:
        raise ModelFolderError(f"{where}: nested more than {MAX_DEPTH} levels deep.") from error
    except ValueError as error:  # malformed JSON, other than UTF-8, a number of thousands of digits
        raise ModelFolderError(f"{where}: not valid JSON: {error}.") from error
    _check_depth(value, where)
    if b"\\u" in data:  # an escape can name half of a surrogate pair, which is no text and cannot be written again
        try:
            write_json(value)
        except UnicodeEncodeError as error:
            raise ModelFolderError(f"{where}: holds text that is not Unicode.") from error
    return value


def _check_depth(value: Any, where: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for entry in level
            if isinstance(entry, dict | list)
            for item in (entry.values() if isinstance(entry, dict) else entry)
        ]
        if not level:
            return
    raise ModelFolderError(f"{where}: nested more than {MAX_DEPTH} levels deep.")


def write_json(value: Any) -> bytes:
    """Write plain values as UTF-8 JSON with sorted keys: equal values give equal bytes.

    Raises
    ------
    ValueError
        For NaN or infinity.
    TypeError
        For a value that JSON does not have.
    """
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
