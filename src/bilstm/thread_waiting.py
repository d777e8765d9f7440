"""How idle threads of OpenMP wait; to be said before torch is first imported. Imports the standard library.

By default an OpenMP thread that has no work spins for a while, because work usually comes soon. Where other programs
want the same cores, the threads that spin take them from the thread that computes: training on two busy cores was
measured at 68 sequences a second with spinning threads and at 3,500 without. A thread that sleeps costs a few
microseconds to wake, which the engine's own threads and torch's large operators do not feel.
"""

from __future__ import annotations

import os
import sys

__all__ = ["wait_passively"]


def wait_passively() -> None:
    """Ask OpenMP to let idle threads sleep, unless the user has chosen otherwise or torch has read it already."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
