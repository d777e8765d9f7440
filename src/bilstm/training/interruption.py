"""Ctrl-C during training: the first ends the run after the present step, a second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interruption", "interruptible"]


class Interruption:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.is_asked = False


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Note the first SIGINT instead of raising; a second one raises KeyboardInterrupt. Only in the main thread."""
    asked = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(signal_number: int, frame: FrameType | None) -> None:
        if asked.is_asked:
            raise KeyboardInterrupt
        asked.is_asked = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
