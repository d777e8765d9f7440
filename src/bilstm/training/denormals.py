"""Flush denormal numbers to zero while training, on every thread. Imports torch only.

Vanishing gradients of recurrent layers become denormal numbers, on which CPUs compute many times slower. The flag that
flushes them is one per thread, and `torch.set_flush_denormal` sets that of the calling thread only: workers of the
OpenMP pool inherit it when they start. Whether a worker flushes would thus depend on whether anything ran in parallel
before, and with it the last bits of the weights. So the pool is ended here, and starts again with the flag.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["all_threads_flush", "flushed_denormals"]

_PAUSE_HARD = 2  # omp_pause_hard: release all threads of the pool


@contextmanager
def flushed_denormals() -> Iterator[bool]:
    """Flush denormals on all threads of torch for as long as the context lasts; then as before.

    Yields
    ------
    bool
        Whether every thread flushes now. False on a CPU that cannot, or where the pool cannot be started again.
    """
    did_flush = _this_thread_flushes()
    torch.set_flush_denormal(True)
    _end_workers()
    try:
        yield all_threads_flush()
    finally:
        torch.set_flush_denormal(did_flush)
        _end_workers()


def _this_thread_flushes() -> bool:
    return bool((torch.tensor([1e-30]) * 1e-10).view(torch.int32)[0] == 0)


def all_threads_flush() -> bool:
    """Whether a product too small for a normal number is zero on every thread of torch."""
    count = torch.get_num_threads() * 2**16  # torch gives a thread at least 2^15 elements
    return not bool((torch.full((count,), 1e-30) * 1e-10).view(torch.int32).any())


def _end_workers() -> None:
    """End the waiting workers of torch's OpenMP pool; the next parallel operation starts new ones."""
    threads = torch.get_num_threads()
    for library in _openmp_libraries():
        pause = getattr(ctypes.CDLL(library), "omp_pause_resource_all", None)
        if pause is not None:
            pause(_PAUSE_HARD)
    torch.set_num_threads(threads)  # some runtimes forget it with the pool


def _openmp_libraries() -> list[str]:
    """Paths of the OpenMP libraries torch brought along or, if it brought none, of those the process has loaded."""
    own = sorted(
        str(path)
        for path in (Path(torch.__file__).parent / "lib").iterdir()
        if path.name.startswith(("libgomp", "libomp", "libiomp"))
    )
    if own or not os.path.exists("/proc/self/maps"):
        return own
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "omp" in line}
    return sorted(path for path in loaded if Path(path).name.startswith(("libgomp", "libomp", "libiomp")))
