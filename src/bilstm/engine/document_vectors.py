"""Vectors of texts that predict their n-grams, the inner part: steps of gradient descent over a run of documents.

Place in the way of the data: `bilstm.training.document_vectors` draws items and negatives, this module takes the steps.
The struct below mirrors `csrc/bilstm_document_vectors.h`, where the equations stand. Imports numpy and the engine's
library.
"""

from __future__ import annotations

import ctypes

import numpy as np

from bilstm.engine.library import KERNELS, Context
from bilstm.engine.step_calls import call_missing, check_array, check_kernel, run_call
from bilstm.errors import ShapeError

__all__ = ["missing", "run"]

_pointer = ctypes.c_void_p


class _Call(ctypes.Structure):
    """`struct bilstm_document_vectors_call`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("kernel", ctypes.c_int32),
        ("text_count", ctypes.c_int64),
        ("ngram_count", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("documents", _pointer),
        ("ngrams", _pointer),
        ("count", ctypes.c_int64),
        ("rows", _pointer),
        ("offsets", _pointer),
        ("item_count", ctypes.c_int64),
        ("items", _pointer),
        ("negatives", _pointer),
        ("batch", ctypes.c_int64),
        ("rates", _pointer),
        ("sharpness", ctypes.c_float),
        ("negative_weight", ctypes.c_float),
        ("error", ctypes.c_char * 256),
    )


def missing() -> str | None:
    """Say why the engine cannot train document vectors here; None if it can."""
    return call_missing("bilstm_document_vectors", "document vectors", _Call)


def run(
    documents: np.ndarray,
    ngrams: np.ndarray,
    rows: np.ndarray,
    offsets: np.ndarray,
    items: np.ndarray,
    negatives: np.ndarray,
    rates: np.ndarray,
    batch: int,
    *,
    sharpness: float = 6.0,
    negative_weight: float = 5.0,
    kernel: str = "auto",
    context: Context | None = None,
) -> None:
    """Move the vectors of some documents and of their n-grams, in place.

    Parameters
    ----------
    documents : ndarray of shape (texts, stride), float32
        Vectors of all texts; from `bilstm.engine.skipgram.aligned_table`.
    ngrams : ndarray of shape (ngrams, stride), float32
        Vectors of all n-grams; likewise.
    rows : ndarray of shape (count,), int64
        Which texts are trained on, in order; no text twice in a batch.
    offsets : ndarray of shape (count + 1,), int64
        Document d has the items `offsets[d]` to `offsets[d + 1] - 1`.
    items : ndarray of shape (offsets[-1],), int32
        N-grams of the documents, in the order in which they are read.
    negatives : ndarray of shape (offsets[-1],), int32
        A random n-gram for each item.
    rates : ndarray of shape (ceil(count / batch),), float32
        Learning rate of each batch, 0 to 1.
    batch : int
        Documents that see the same vectors of n-grams, 1 to 4096.
    sharpness : float, default=6
        Factor of the cosine before the logistic function, above 0, at most 40.
    negative_weight : float, default=5
        What a negative counts beside an item, 0 to 1000.
    kernel : str, default="auto"
        All of "avx2", "avx512", "neon" and "portable" give the same bits.
    context : Context, optional
        Its threads share the work; they do not change the result. By default one thread.

    Raises
    ------
    ShapeError
        For arrays that do not fit each other, and numbers out of range. Nothing has changed then.
    UsageError
        If the engine or the kernel is not there.
    MemoryError
        If the memory of a batch, 4 * stride bytes for every 16 items, is not there. Nothing has changed then.
    """
    check_kernel(kernel, missing(), "document vectors")
    if batch < 1:
        raise ShapeError(f"batch must be at least 1, got {batch}.")
    if documents.ndim != 2 or ngrams.ndim != 2:
        raise ShapeError("documents and ngrams must have two axes.")
    count = len(rows)
    check_array(documents, np.float32, documents.shape, "documents", is_changed=True)
    check_array(ngrams, np.float32, (len(ngrams), documents.shape[1]), "ngrams", is_changed=True)
    check_array(rows, np.int64, (count,), "rows")
    check_array(offsets, np.int64, (count + 1,), "offsets")
    check_array(items, np.int32, (len(items),), "items")
    check_array(negatives, np.int32, items.shape, "negatives")
    check_array(rates, np.float32, (-(-count // batch),), "rates")
    call = _Call(
        struct_size=ctypes.sizeof(_Call),
        kernel=KERNELS[kernel],
        text_count=len(documents),
        ngram_count=len(ngrams),
        stride=documents.shape[1],
        documents=documents.ctypes.data,
        ngrams=ngrams.ctypes.data,
        count=count,
        rows=rows.ctypes.data,
        offsets=offsets.ctypes.data,
        item_count=len(items),
        items=items.ctypes.data,
        negatives=negatives.ctypes.data,
        batch=batch,
        rates=rates.ctypes.data,
        sharpness=sharpness,
        negative_weight=negative_weight,
    )
    run_call("bilstm_document_vectors", call, context)
