"""The log: one JSON object a line on standard error, without the texts of requests unless that was asked for."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any, TextIO

__all__ = ["JsonLog", "route_library_logs"]


class JsonLog:
    """Writes events.

    Parameters
    ----------
    stream : text file, optional
        Standard error if left out.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream
        self._is_broken = False

    def write(self, level: str, event: str, **fields: Any) -> None:
        """Write one line; a stream that is full or gone must not stop the server."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "level": level, "event": event, **fields}, allow_nan=False)  # ASCII: no tricks
        try:
            stream = self._stream or sys.stderr
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            self._is_broken = True

    @property
    def is_broken(self) -> bool:
        """Whether a line was lost."""
        return self._is_broken


class _Handler(logging.Handler):
    def __init__(self, log: JsonLog):
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"source": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            fields["trace"] = logging.Formatter().formatException(record.exc_info)
        self._log.write(record.levelname.lower(), "library", **fields)


def route_library_logs(log: JsonLog) -> None:
    """Send warnings and errors of the HTTP library and asyncio into the log, and nowhere else."""
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [_Handler(log)] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(logging.WARNING)
