"""What the engine runs on this machine, and why: for `bilstm info` and for error messages."""

from __future__ import annotations

import ctypes
import os
from functools import cache

from bilstm.engine.library import KERNELS, PRECISIONS, library, status
from bilstm.errors import UsageError

__all__ = ["available_threads", "choose_kernel", "choose_precision", "describe", "kernels"]

_TITLES = {
    "amx": "AMX",
    "avx512_bf16": "AVX512-BF16",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "neon": "NEON",
    "portable": "portable",
}
_SHORT = {"bfloat16": "bf16", "float32": "float32", "float64": "float64"}


def available_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kernels() -> dict[str, str | None]:
    """Name every kernel, and for each None if it runs here, else one line why not.

    Raises
    ------
    UsageError
        If the native library is missing.
    """
    loaded = library()
    reasons = {name: loaded.bilstm_kernel_missing(number) for name, number in KERNELS.items() if name != "auto"}
    return {name: reason.decode() if reason is not None else None for name, reason in reasons.items()}


def choose_precision(precision: str = "auto") -> str:
    """Turn "auto" into "bfloat16" where that is faster, else "float32"; other names are checked and returned.

    Faster it is with AMX, and with the AVX512-BF16 of AMD (Zen 4 and later).
    """
    if precision == "auto":
        return "bfloat16" if library().bilstm_prefers_bfloat16() else "float32"
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be auto, {', '.join(PRECISIONS)}; got {precision!r}.")
    return precision


def choose_kernel(kernel: str = "auto", precision: str = "float32") -> str:
    """Return the kernel that runs for this choice.

    Raises
    ------
    UsageError
        If it cannot run here in that precision; the message says why. Never another one in silence.
    """
    if kernel not in KERNELS:
        raise UsageError(f"kernel must be one of {', '.join(KERNELS)}; got {kernel!r}.")
    chosen = _chosen(library(), kernel, choose_precision(precision))
    if chosen is None:
        reason = kernels()[kernel] or f"it does not compute in {choose_precision(precision)}"
        raise UsageError(f"Kernel {kernel} cannot run: {reason}.", "Use kernel auto or another precision.")
    return chosen


@cache  # asked at every call of the engine
def _chosen(loaded: ctypes.CDLL, kernel: str, precision: str) -> str | None:
    """Ask the library for the name of the kernel; None if it cannot run."""
    chosen = loaded.bilstm_choose_kernel(KERNELS[kernel], PRECISIONS[precision])
    return None if chosen < 0 else loaded.bilstm_kernel_name(chosen).decode()


def _trains_with_parts() -> bool:
    """Whether "auto" in float32 trains with AMX; `takes_parts` in csrc/api.cpp says for which layers."""
    has_precision = library().bilstm_kernel_has_precision(KERNELS["amx"], PRECISIONS["float32"])
    return kernels()["amx"] is None and bool(has_precision)


def describe(
    kernel: str = "auto", precision: str = "auto", threads: int | None = None, *, training: bool = False
) -> str:
    """Say in one line what would run and why, for example `AMX bf16, 2 threads (fastest kernel that runs here)`.

    In float32 a layer may be trained by another kernel than the one that predicts; `training` adds that.
    """
    found = status()
    if not found.available:
        return f"engine not available: {found.reason}"
    chosen_precision = choose_precision(precision)
    chosen = choose_kernel(kernel, chosen_precision)
    count = threads if threads is not None else available_threads()
    why = "chosen explicitly" if kernel != "auto" else "fastest kernel that runs here"
    if training and kernel == "auto" and chosen_precision == "float32" and _trains_with_parts():
        why += "; layers of 64 to 384 hidden units: AMX, three bfloat16 parts a number"
    if precision == "auto" and kernel == "auto" and chosen_precision == "float32":
        why += "; bfloat16 would not be faster"
    return f"{_TITLES[chosen]} {_SHORT[chosen_precision]}, {count} thread{'s' if count != 1 else ''} ({why})"
