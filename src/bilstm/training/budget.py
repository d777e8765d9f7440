"""A budget of wall time, and what fits into it.

Imports only the standard library and `errors`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from bilstm.errors import UsageError

__all__ = ["Budget", "clock_text", "parse_budget", "steps_within"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_budget(text: str) -> float | None:
    """Read a time such as "90m", "1.5h" or "300s" in seconds; "none" is no limit.

    Raises
    ------
    UsageError
        For anything else, and for less than a second.
    """
    if text.strip().lower() == "none":
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", text.lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds < 1.0:
        raise UsageError(
            f"--budget {text!r} is no time.", "Give a number and s, m or h, for example 20m or 1.5h, or none."
        )
    return seconds


def clock_text(seconds: float) -> str:
    """Write a time as people say it: "45 s", "12 min", "1 h 30 min"."""
    if seconds < 100:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def steps_within(seconds: float, seconds_per_step: float, *, least: int, most: int) -> int:
    """Return how many steps fit into a time: at most `most`, and `least` or `most` at least."""
    return int(min(max(seconds / max(seconds_per_step, 1e-9), least), most))


class Budget:
    """How much of a budget is used.

    Parameters
    ----------
    seconds : float or None
        None: no limit; then `left` is infinite and `share` 0.
    clock : callable
        Seconds, always rising.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic):
        self.seconds = seconds
        self._clock = clock
        self._started = clock()

    def used(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._started

    def left(self) -> float:
        """Return the seconds that are left, 0 at least."""
        return float("inf") if self.seconds is None else max(self.seconds - self.used(), 0.0)

    def share(self, seconds: float) -> float:
        """Return how much of the whole budget a time is, 0 to 1."""
        return 0.0 if self.seconds is None else min(seconds / self.seconds, 1.0)

    def part(self, shares: int) -> Budget:
        """Return a budget that begins now and is one of so many equal shares of what is left."""
        if shares == 1:
            return self
        return Budget(None if self.seconds is None else self.left() / shares, self._clock)

    def line(self) -> str:
        """Say how far it is used, with what is left."""
        if self.seconds is None:
            return f"{clock_text(self.used())} used, no limit"
        return f"{clock_text(self.used())} of {clock_text(self.seconds)} used, {clock_text(self.left())} left"
