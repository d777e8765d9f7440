"""What calls that take steps of gradient descent share on the Python side: skip-gram and document vectors.

Imports numpy and the engine's library.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from bilstm.engine.library import KERNELS, Context, check, library, status
from bilstm.errors import ShapeError, UsageError

__all__ = ["call_missing", "check_array", "check_kernel", "run_call"]


def call_missing(name: str, what: str, struct: type[ctypes.Structure]) -> str | None:
    """Say why a call of the library cannot be made here; None if it can.

    Parameters
    ----------
    name : str
        `{name}_call_size` of the library returns the size of its struct.
    what : str
        What the call is for, in messages.
    struct : type
        The struct as this package knows it.
    """
    found = status()
    if not found.available:
        return found.reason
    try:
        function = getattr(library(), f"{name}_call_size")
    except AttributeError:
        return f"{found.path} is of an older version, which has no {what}: rebuild it"
    function.restype = ctypes.c_int64
    if (size := function()) != (own := ctypes.sizeof(struct)):
        return f"{found.path} has a struct of {size} bytes for {what}, this package {own}: rebuild it"
    return None


def check_kernel(kernel: str, reason: str | None, what: str) -> None:
    """Raise UsageError if the call is missing, for a reason, or the kernel has no such name."""
    if reason:
        raise UsageError(f"The native engine cannot train {what}: {reason}.", "Install bilstm anew.")
    if kernel not in KERNELS:
        raise UsageError(f"kernel must be one of {', '.join(KERNELS)}; got {kernel!r}.")


def check_array(array: np.ndarray, kind: type, shape: tuple[int, ...], name: str, *, is_changed: bool = False) -> None:
    """Raise ShapeError unless the library can read the array in place, and change it where it does."""
    if array.dtype != kind or array.shape != shape or not array.flags.c_contiguous:
        raise ShapeError(
            f"{name} must be a dense array of {np.dtype(kind)} of shape {shape}, got {array.dtype} of {array.shape}."
        )
    if is_changed and not array.flags.writeable:
        raise ShapeError(f"{name} must be writeable.")


def run_call(name: str, call: Any, context: Context | None) -> None:
    """Run `{name}_run` with a struct; by default on one thread. Raises what `library.check` does."""
    function = getattr(library(), f"{name}_run")
    function.restype, function.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.POINTER(type(call)))
    context = context or Context(1)
    check(function(context.pointer, ctypes.byref(call)), call)
