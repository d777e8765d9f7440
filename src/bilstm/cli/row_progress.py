"""How far a long reading of rows is, on standard error: a live line in a terminal, a plain one now and then elsewhere.

    1,228,800 rows  12%  8,210 rows/s  16:24 left

Imports rich only for the live line.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, TextIO

__all__ = ["RowProgress"]

_QUIET_SECONDS = 10.0  # plain lines come this far apart; work that is shorter shows none
_LIVE_AFTER_SECONDS = 1.0


class RowProgress:
    """Shows rows done, share of the input, speed and time left; use it in a `with` block.

    Parameters
    ----------
    stream : text file, optional
        Default standard error.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream if stream is not None else sys.stderr
        self._is_terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._began = self._spoke_at = time.monotonic()
        self._status: Any = None

    def __enter__(self) -> RowProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, rows: int, share: float | None) -> None:
        """Tell that `rows` rows are done, which are `share` of the input (0 to 1; None: not known)."""
        now = time.monotonic()
        seconds = now - self._began
        if self._is_terminal:
            if seconds >= _LIVE_AFTER_SECONDS:
                self._show_live(progress_line(rows, share, seconds))
        elif now - self._spoke_at >= _QUIET_SECONDS:
            self._spoke_at = now
            self._stream.write(progress_line(rows, share, seconds) + "\n")
            self._stream.flush()

    def _show_live(self, line: str) -> None:
        if self._status is None:
            from rich.console import Console
            from rich.status import Status

            console = Console(file=self._stream, no_color="NO_COLOR" in os.environ or None, highlight=False)
            self._status = Status(line, console=console, refresh_per_second=4)
            self._status.start()
        self._status.update(line)


def progress_line(rows: int, share: float | None, seconds: float) -> str:
    """Write rows, share, speed and time left as one line."""
    parts = [f"{rows:,} rows"]
    if share is not None:
        parts.append(f"{share:.0%}")
    parts.append(f"{rows / max(seconds, 1e-9):,.0f} rows/s")
    if share:
        minutes, rest = divmod(round(seconds / share * (1 - share)), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left")
    return "  ".join(parts)
