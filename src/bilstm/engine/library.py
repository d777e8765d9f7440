"""Find and load the native library; its C interface as ctypes sees it.

Place in the way of the data: under `bilstm.engine`'s functions. The struct below mirrors `csrc/bilstm_engine.h` field
by field; the library's own size of the struct and version are compared at load, so the two cannot drift apart
unnoticed.
Imports nothing but the standard library and `bilstm.errors`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bilstm.errors import ShapeError, UsageError

__all__ = [
    "CELLS",
    "INTERFACE_VERSION",
    "KERNELS",
    "PRECISIONS",
    "Call",
    "Context",
    "Status",
    "library",
    "status",
]

INTERFACE_VERSION = 2
CELLS = {"lstm": 0, "gru": 1, "rnn_tanh": 2, "rnn_relu": 3}
PRECISIONS = {"float32": 0, "bfloat16": 1, "float64": 2}
KERNELS = {"auto": 0, "portable": 1, "avx2": 2, "avx512": 3, "amx": 4, "neon": 5, "avx512_bf16": 6}
ENVIRONMENT_VARIABLE = "BILSTM_ENGINE_LIBRARY"

_pointer = ctypes.c_void_p
_pair = ctypes.c_void_p * 2


class Call(ctypes.Structure):
    """`struct bilstm_call`; every field is explained in `csrc/bilstm_engine.h`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("cell", ctypes.c_int32),
        ("precision", ctypes.c_int32),
        ("kernel", ctypes.c_int32),
        ("directions", ctypes.c_int32),
        ("reverse", ctypes.c_int32),
        ("input_size", ctypes.c_int64),
        ("hidden_size", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("total_steps", ctypes.c_int64),
        ("vocabulary_size", ctypes.c_int64),
        ("offsets", _pointer),
        ("values", _pointer),
        ("token_ids", _pointer),
        ("embedding", _pointer),
        ("w_ih", _pair),
        ("w_hh", _pair),
        ("b_ih", _pair),
        ("b_hh", _pair),
        ("packed", _pointer),
        ("h_0", _pointer),
        ("c_0", _pointer),
        ("recurrent_mask", _pointer),
        ("outputs", _pointer),
        ("h_n", _pointer),
        ("c_n", _pointer),
        ("max_values", _pointer),
        ("max_steps", _pointer),
        ("mean_values", _pointer),
        ("saved", _pointer),
        ("saved_bytes", ctypes.c_int64),
        ("d_outputs", _pointer),
        ("d_h_n", _pointer),
        ("d_c_n", _pointer),
        ("d_max", _pointer),
        ("d_mean", _pointer),
        ("d_values", _pointer),
        ("d_w_ih", _pair),
        ("d_w_hh", _pair),
        ("d_b_ih", _pair),
        ("d_b_hh", _pair),
        ("d_h_0", _pointer),
        ("d_c_0", _pointer),
        ("d_embedding", _pointer),
        ("unique_ids", _pointer),
        ("d_unique", _pointer),
        ("unique_count", ctypes.c_int64),
        ("error", ctypes.c_char * 256),
    )

    def __init__(self) -> None:
        super().__init__()
        self.struct_size = ctypes.sizeof(Call)


@dataclass(frozen=True)
class Status:
    """Whether the native library is there.

    Parameters
    ----------
    available : bool
    path : str or None
        The file that was loaded.
    reason : str
        Why it is not available, in one line; or how it was built.
    """

    available: bool
    path: str | None
    reason: str


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "bilstm_interface_version": (ctypes.c_int, ()),
    "bilstm_call_size": (ctypes.c_int64, ()),
    "bilstm_build": (ctypes.c_char_p, ()),
    "bilstm_kernel_name": (ctypes.c_char_p, (ctypes.c_int,)),
    "bilstm_kernel_missing": (ctypes.c_char_p, (ctypes.c_int,)),
    "bilstm_kernel_has_precision": (ctypes.c_int, (ctypes.c_int, ctypes.c_int)),
    "bilstm_prefers_bfloat16": (ctypes.c_int, ()),
    "bilstm_choose_kernel": (ctypes.c_int, (ctypes.c_int, ctypes.c_int)),
    "bilstm_context_create": (_pointer, (ctypes.c_int,)),
    "bilstm_context_destroy": (None, (_pointer,)),
    "bilstm_context_threads": (ctypes.c_int, (_pointer,)),
    "bilstm_context_set_threads": (ctypes.c_int, (_pointer, ctypes.c_int)),
    "bilstm_buffer_acquire": (_pointer, (_pointer, ctypes.c_int64)),
    "bilstm_buffer_release": (None, (_pointer,)),
    "bilstm_saved_bytes": (ctypes.c_int64, (ctypes.POINTER(Call),)),
    "bilstm_forward": (ctypes.c_int, (_pointer, ctypes.POINTER(Call))),
    "bilstm_backward": (ctypes.c_int, (_pointer, ctypes.POINTER(Call))),
    "bilstm_weights_pack": (_pointer, (_pointer, ctypes.POINTER(Call))),
    "bilstm_weights_free": (None, (_pointer,)),
    "bilstm_weights_bytes": (ctypes.c_int64, (_pointer,)),
}


def _candidate() -> Path:
    """Return the file to load: the environment variable's, else the one beside this module, else the installed one.

    An editable installation leaves the modules in the source tree and puts the library among the installed packages.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return _candidate_for(named) if named else _usual_candidate()


@cache  # asked again at every call of the engine
def _candidate_for(named: str) -> Path:
    return Path(named)


@cache
def _usual_candidate() -> Path:
    suffix = "dylib" if sys.platform == "darwin" else "so"
    beside = Path(__file__).with_name(f"libbilstm_engine.{suffix}")
    if beside.is_file():  # asked first: `sysconfig` takes as long as a short text in the engine
        return beside
    installed = Path(sysconfig.get_path("platlib"), "bilstm", "engine", beside.name)
    return installed if installed.is_file() else beside


@cache
def _load(path: Path) -> tuple[ctypes.CDLL | None, str]:
    """Load and check one file: the library and its build, or None and the reason."""
    if not path.is_file():
        named = "" if ENVIRONMENT_VARIABLE not in os.environ else f" (named by {ENVIRONMENT_VARIABLE})"
        return None, f"no native library at {path}{named}; it is built at installation when a C++ compiler is there"
    try:
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded: {error}"
    found = (loaded.bilstm_interface_version(), loaded.bilstm_call_size())
    wanted = (INTERFACE_VERSION, ctypes.sizeof(Call))
    if found != wanted:
        return None, f"{path} has interface version and struct size {found}, this package needs {wanted}: rebuild it"
    return loaded, loaded.bilstm_build().decode()


def status() -> Status:
    """Report whether the native library is loaded, from where, and if not, why."""
    path = _candidate()
    loaded, reason = _load(path)
    return Status(loaded is not None, str(path) if loaded is not None else None, reason)


def library() -> ctypes.CDLL:
    """Return the loaded library.

    Raises
    ------
    UsageError
        If there is none; the message says why.
    """
    loaded, reason = _load(_candidate())
    if loaded is None:
        raise UsageError(f"The native engine is not available: {reason}.", "Use --backend torch, or install it anew.")
    return loaded


class Context:
    """Threads and reusable memory for calls; calls on one context wait for each other.

    Parameters
    ----------
    threads : int
        At least 1. Results do not depend on it.
    """

    def __init__(self, threads: int = 1):
        if not 1 <= threads <= 1024:
            raise UsageError(f"threads must be 1 to 1024, got {threads}.")
        self._library = library()
        self.pointer = self._library.bilstm_context_create(threads)
        if not self.pointer:
            raise MemoryError("no memory for an engine context")

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self._library.bilstm_context_destroy(self.pointer)
            self.pointer = None

    @property
    def threads(self) -> int:
        """Threads that a call uses, the calling one among them."""
        return self._library.bilstm_context_threads(self.pointer)

    @threads.setter
    def threads(self, threads: int) -> None:
        if not 1 <= threads <= 1024:
            raise UsageError(f"threads must be 1 to 1024, got {threads}.")
        self._library.bilstm_context_set_threads(self.pointer, threads)

    def forward(self, call: Call) -> None:
        """Run `bilstm_forward`; see `check` for what it raises."""
        check(self._library.bilstm_forward(self.pointer, ctypes.byref(call)), call)

    def backward(self, call: Call) -> None:
        """Run `bilstm_backward`; see `check` for what it raises."""
        check(self._library.bilstm_backward(self.pointer, ctypes.byref(call)), call)

    def acquire(self, nbytes: int) -> int:
        """Return the address of a reusable buffer; give it back with `release`."""
        address = self._library.bilstm_buffer_acquire(self.pointer, nbytes)
        if not address:
            raise MemoryError(f"no memory for {nbytes} bytes that the backward pass needs")
        return address

    def release(self, address: int) -> None:
        """Give a buffer from `acquire` back; it may be given out again."""
        self._library.bilstm_buffer_release(address)


def check(code: int, call: Call) -> None:
    """Raise the error that a returned code stands for.

    Raises
    ------
    ShapeError
        Sizes, offsets or ids that do not fit.
    UsageError
        A kernel or precision that cannot run here.
    MemoryError
    """
    if code == 0:
        return
    message = call.error.decode(errors="replace")
    if code == 1:
        raise ShapeError(f"engine: {message}.")
    if code == 2:
        raise UsageError(f"engine: {message}.")
    raise MemoryError(f"engine: {message}")
