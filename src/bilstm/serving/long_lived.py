"""What lives as long as the server is left out of garbage collections. Standard library only."""

from __future__ import annotations

import gc

__all__ = ["release", "set_aside"]


def set_aside() -> None:
    """Leave everything that is there now (modules, routes, models) out of later collections.

    A full collection looks at every object that refers to others. After the libraries are loaded that takes 30 ms, in
    which no request moves; it came every few seconds and made the slowest hundredth of the answers twice as slow. What
    was set aside before and is garbage now, such as a model that was replaced, is collected first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def release() -> None:
    """Undo it."""
    gc.unfreeze()
