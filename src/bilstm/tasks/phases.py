"""Wall time of the phases of a training. Imports the standard library and the loop's events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Clock"]


class Clock:
    """Measures each phase and tells listeners which one begins and ends.

    Parameters
    ----------
    tell : callable
        Gets `PhaseStarted` and `PhaseDone`.

    Attributes
    ----------
    seconds : dict of str to float
    """

    def __init__(self, tell: Callable[[Any], None]):
        self.seconds: dict[str, float] = {}
        self._tell = tell

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        from bilstm.training import events

        self._tell(events.PhaseStarted(name))
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds  # a phase may run once for each member
        self._tell(events.PhaseDone(name, seconds))
