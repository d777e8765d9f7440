"""Parquet tables, read with polars in slices.

Step `read` of the way of the data. Values become text as the table holds them (numbers in their shortest form); a list
of strings is a set of labels. Needs the extra `tables`, imported when a Parquet file is opened.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from bilstm.data.byte_streams import RATIO_FREE_BYTES, RATIO_LIMIT, ByteStream
from bilstm.data.json_lines import text_of_value
from bilstm.data.tables import Table
from bilstm.errors import DataError, MissingExtraError

__all__ = ["PARQUET_MAGIC", "open_parquet"]

PARQUET_MAGIC = b"PAR1"
SLICE_ROWS = 10_000


def open_parquet(stream: ByteStream, max_bytes: int | None = None) -> Table:
    """Read the columns of a Parquet file; its rows follow in slices as the result is iterated.

    Parameters
    ----------
    stream : ByteStream
        Held in memory as stored; the texts are unpacked slice by slice.
    max_bytes : int, optional
        Most bytes of unpacked text. None: 100 times the size of the file, once it is more than 64 MiB.

    Raises
    ------
    MissingExtraError
        polars is not installed.
    DataError
        The file is damaged or truncated, or unpacks to more than is allowed.
    """
    try:
        import polars
    except ImportError as error:
        raise MissingExtraError(
            f"{stream.name}: reading Parquet needs polars.", "Install it: pip install 'bilstm[tables]'"
        ) from error
    data = stream.read_all()
    limit = max_bytes if max_bytes is not None else max(RATIO_FREE_BYTES, RATIO_LIMIT * stream.stored_bytes)
    try:
        schema = polars.read_parquet_schema(io.BytesIO(data))
        height = polars.scan_parquet(io.BytesIO(data)).select(polars.len()).collect().item()
    except polars.exceptions.PolarsError as error:
        raise _damaged(stream.name, error) from error
    table = Table(stream.name, list(schema), _rows(data, height, limit, stream.name))
    table.list_columns = {column for column, kind in schema.items() if isinstance(kind, polars.List)}
    return table


def _rows(data: bytes, height: int, limit: int, name: str) -> Iterator[tuple[int, list[str | None]]]:
    import polars

    frame = polars.scan_parquet(io.BytesIO(data))
    given = 0
    for start in range(0, height, SLICE_ROWS):
        try:
            part = frame.slice(start, SLICE_ROWS).collect()
        except polars.exceptions.PolarsError as error:
            raise _damaged(name, error) from error
        given += sum(_text_bytes(part[column]) for column in part.columns)
        if given > limit:
            raise DataError(
                f"{name}: unpacks to more than {limit} bytes of text (stopped at record {start + 1}).",
                "If you trust the file, allow its size with --max-bytes.",
            )
        for number, values in enumerate(part.iter_rows(), start + 1):
            try:
                yield number, [text_of_value(_plain(value)) for value in values]
            except ValueError as error:
                raise DataError(f"{name}:{number}: {error}.", "Correct the row.") from error


def _text_bytes(column: Any) -> int:
    """Bytes a column would take as texts; repeated texts, stored once by polars, are counted each time."""
    import polars

    if column.dtype == polars.String:
        return int(column.str.len_bytes().sum())
    return int(column.estimated_size())


def _plain(value: Any) -> Any:
    """Return what `text_of_value` knows; binary columns are decoded as UTF-8."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | dict | str | bool) or value is None:
        return value
    return str(value)


def _damaged(name: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"{name}: the Parquet file cannot be read ({reason}).", "It is damaged or not complete.")
