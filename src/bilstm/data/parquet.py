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
        A plain file is read in place; a packed one or a pipe is held in memory as stored. The texts are unpacked slice
        by slice.
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
    data = _readable(stream)
    limit = max_bytes if max_bytes is not None else max(RATIO_FREE_BYTES, RATIO_LIMIT * stream.stored_bytes)
    try:
        schema = polars.read_parquet_schema(data)
        height = polars.scan_parquet(data).select(polars.len()).collect().item()
    except polars.exceptions.PolarsError as error:
        raise _damaged(stream.name, error) from error
    place = _Place()
    table = Table(stream.name, list(schema), _rows(data, stream, limit, place))
    table.share_read = lambda: place.rows / max(height, 1)
    table.list_columns = {column for column, kind in schema.items() if isinstance(kind, polars.List)}
    return table


class _Place:
    """How many rows were given out."""

    rows = 0


def _readable(stream: ByteStream) -> str | io.BytesIO:
    """Return what polars can open: a plain file by its name, so that it is never held in memory, else all its bytes."""
    if not stream.is_plain_file:
        return io.BytesIO(stream.read_all())
    for _ in stream:  # read through once, for its hash
        pass
    return stream.path


def _rows(
    data: str | io.BytesIO, stream: ByteStream, limit: int, place: _Place
) -> Iterator[tuple[int, list[str | None]]]:
    import polars

    name, given = stream.name, 0
    try:
        for part in polars.scan_parquet(data).collect_batches(chunk_size=SLICE_ROWS, maintain_order=True):
            given += sum(_text_bytes(part[column]) for column in part.columns)
            if given > limit:
                raise DataError(
                    f"{name}: unpacks to more than {limit} bytes of text (stopped at record {place.rows + 1}).",
                    "If you trust the file, allow its size with --max-bytes.",
                )
            for number, values in enumerate(part.iter_rows(), place.rows + 1):
                place.rows = number
                try:
                    yield number, [text_of_value(_plain(value)) for value in values]
                except ValueError as error:
                    raise DataError(f"{name}:{number}: {error}.", "Correct the row.") from error
    except polars.exceptions.PolarsError as error:
        raise _damaged(name, error) from error
    stream.check_unchanged()


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
