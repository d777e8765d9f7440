"""Skip-gram with negative sampling, the inner part: steps of gradient descent over a run of words.

Place in the way of the data: `bilstm.training.word_vectors` draws windows and negatives, this module takes the steps.
The struct below mirrors `csrc/bilstm_skipgram.h`, where the equations stand. Imports numpy and the engine's library.
"""

from __future__ import annotations

import ctypes

import numpy as np

from bilstm.engine.library import KERNELS, Context
from bilstm.engine.step_calls import call_missing, check_array, check_kernel, run_call
from bilstm.errors import ShapeError

__all__ = ["aligned_table", "missing", "run"]

_ROW = 16  # floats: rows are padded to a multiple of it
_pointer = ctypes.c_void_p


class _Call(ctypes.Structure):
    """`struct bilstm_skipgram_call`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("kernel", ctypes.c_int32),
        ("vocabulary_size", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("inputs", _pointer),
        ("outputs", _pointer),
        ("count", ctypes.c_int64),
        ("words", _pointer),
        ("before", _pointer),
        ("after", _pointer),
        ("negatives", ctypes.c_int64),
        ("negative_words", _pointer),
        ("batch", ctypes.c_int64),
        ("rates", _pointer),
        ("error", ctypes.c_char * 256),
    )


def missing() -> str | None:
    """Say why the engine cannot train word vectors here; None if it can."""
    return call_missing("bilstm_skipgram", "skip-gram", _Call)


def aligned_table(rows: int, columns: int) -> np.ndarray:
    """Return zeros of shape (rows, columns rounded up to 16), float32, that start at a cache line."""
    stride = -(-columns // _ROW) * _ROW
    memory = np.zeros(rows * stride + _ROW, dtype=np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + rows * stride].reshape(rows, stride)


def run(
    inputs: np.ndarray,
    outputs: np.ndarray,
    words: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    negatives: np.ndarray,
    rates: np.ndarray,
    batch: int,
    *,
    kernel: str = "auto",
    context: Context | None = None,
) -> None:
    """Take one step of gradient descent for every `batch` words, in place.

    Parameters
    ----------
    inputs, outputs : ndarray of shape (vocabulary_size, stride), float32
        Vectors of words as context and as what is predicted; from `aligned_table`.
    words : ndarray of shape (count,), int32
    before, after : ndarray of shape (count,), int32
        Words to the left and right of each that are its context.
    negatives : ndarray of shape (count, number), int32
        Negative words of each; those equal to the word itself are left out.
    rates : ndarray of shape (ceil(count / batch),), float32
        Learning rate of each step.
    batch : int
        Words of a step, 1 to 4096.
    kernel : str, default="auto"
        "avx2", "avx512" and "neon" give the same bits, "portable" others.
    context : Context, optional
        Its threads share the work; they do not change the result. By default one thread.

    Raises
    ------
    ShapeError
        For arrays that do not fit each other, and words or windows out of range.
    UsageError
        If the engine or the kernel is not there.
    """
    check_kernel(kernel, missing(), "word vectors")
    count = len(words)
    check_array(inputs, np.float32, inputs.shape, "inputs", is_changed=True)
    check_array(outputs, np.float32, inputs.shape, "outputs", is_changed=True)
    if inputs.ndim != 2 or negatives.ndim != 2:
        raise ShapeError("inputs, outputs and negatives must have two axes.")
    for array, name in ((words, "words"), (before, "before"), (after, "after")):
        check_array(array, np.int32, (count,), name)
    check_array(negatives, np.int32, (count, negatives.shape[1]), "negatives")
    if batch < 1:
        raise ShapeError(f"batch must be at least 1, got {batch}.")
    check_array(rates, np.float32, (-(-count // batch),), "rates")
    call = _Call(
        struct_size=ctypes.sizeof(_Call),
        kernel=KERNELS[kernel],
        vocabulary_size=inputs.shape[0],
        stride=inputs.shape[1],
        inputs=inputs.ctypes.data,
        outputs=outputs.ctypes.data,
        count=count,
        words=words.ctypes.data,
        before=before.ctypes.data,
        after=after.ctypes.data,
        negatives=negatives.shape[1],
        negative_words=negatives.ctypes.data,
        batch=batch,
        rates=rates.ctypes.data,
    )
    run_call("bilstm_skipgram", call, context)
