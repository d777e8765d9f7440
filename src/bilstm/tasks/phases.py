"""The opening of a training, and the wall time of its phases. Imports no torch before it is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bilstm.errors import MissingExtraError
from bilstm.thread_waiting import wait_passively

__all__ = ["Clock", "begin_training"]


def begin_training(progress: Callable[[Any], None] | None) -> tuple[Callable[[Any], None], Clock]:
    """Make the process ready to train; return who is told what happens, and the clock of the phases.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    """
    wait_passively()
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Training needs torch.", "pip install 'bilstm[train]'") from error
    tell = progress or (lambda event: None)
    return tell, Clock(tell)


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
