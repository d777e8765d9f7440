"""Parquet files written chunk by chunk, for results that do not fit into memory. Needs the extra `tables`.

polars pulls the chunks that it writes; a thread of its own does that here, so that the work that makes the chunks stays
in the calling thread, with its errors and its Ctrl-C.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from bilstm.errors import MissingExtraError, WriteFailedError

__all__ = ["ParquetWriter"]

_WAITING_CHUNKS = 2
_GROUP_ROWS = 100_000


class _AbandonedError(Exception):
    """Raised in the writing thread to stop it."""


class ParquetWriter:
    """Writes chunks of rows to one Parquet file.

    Parameters
    ----------
    path : str
        What stands there is overwritten; the caller makes the whole atomic.
    columns : sequence of str
        All different.
    numbers : set of str
        Columns of float64; the others hold text.

    Raises
    ------
    MissingExtraError
        polars is not installed.
    """

    def __init__(self, path: str, columns: Sequence[str], numbers: set[str]):
        try:
            import polars
            from polars.io.plugins import register_io_source
        except ImportError as error:
            raise MissingExtraError(
                "Writing Parquet needs polars.", "Install it: pip install 'bilstm[tables]'"
            ) from error
        self._polars, self._path = polars, path
        self._schema = {name: polars.Float64 if name in numbers else polars.String for name in columns}
        self._chunks: queue.Queue[Any] = queue.Queue(_WAITING_CHUNKS)
        self._failure: Exception | None = None
        frame = register_io_source(self._frames, schema=self._schema)
        self._thread = threading.Thread(target=self._sink, args=(frame,), name="bilstm-parquet", daemon=True)
        self._thread.start()

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Hand over a chunk of rows, one value a column.

        Raises
        ------
        WriteFailedError
            If the file cannot be written.
        """
        self._put(self._polars.DataFrame(rows, schema=self._schema, orient="row", strict=True))

    def close(self) -> None:
        """Write the end of the file; errors as `write`."""
        self._put(None)
        self._thread.join()
        self._raise_failure()

    def abandon(self) -> None:
        """Stop; what was written is no valid file."""
        while self._thread.is_alive():
            try:
                self._chunks.put(_AbandonedError(), timeout=0.05)
            except queue.Full:
                continue
            self._thread.join(timeout=1.0)

    def _put(self, chunk: Any) -> None:
        while True:  # the writing thread may have ended with an error, and then takes nothing any more
            self._raise_failure()
            try:
                self._chunks.put(chunk, timeout=0.5)
                return
            except queue.Full:
                continue

    def _raise_failure(self) -> None:
        if self._failure is not None:
            reason = " ".join(str(self._failure).split())[:300]
            raise WriteFailedError(f"{self._path}: cannot be written: {reason}.") from self._failure

    def _frames(self, columns: Any, predicate: Any, limit: Any, batch_size: Any) -> Iterator[Any]:
        """Yield chunks as they come; the arguments say what a query could leave out, and a sink leaves nothing out."""
        while (chunk := self._chunks.get()) is not None:
            if isinstance(chunk, _AbandonedError):
                raise chunk
            yield chunk

    def _sink(self, frame: Any) -> None:
        try:
            frame.sink_parquet(self._path, row_group_size=_GROUP_ROWS, compression="zstd")
        except (self._polars.exceptions.PolarsError, OSError, _AbandonedError) as error:
            self._failure = error
