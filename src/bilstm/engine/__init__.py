"""The native engine from numpy: recurrent layers at the speed of the machine, without torch.

>>> from bilstm import engine
>>> engine.status().available  # doctest: +SKIP
True
"""

from bilstm.engine.library import Call, Context, Status, library, status
from bilstm.engine.recurrent import (
    DirectionWeights,
    Gradients,
    PackedWeights,
    Result,
    default_context,
    gru,
    lstm,
    pack,
    recurrent,
    rnn,
)
from bilstm.engine.report import available_threads, choose_kernel, choose_precision, describe, kernels

__all__ = [
    "Call",
    "Context",
    "DirectionWeights",
    "Gradients",
    "PackedWeights",
    "Result",
    "Status",
    "available_threads",
    "choose_kernel",
    "choose_precision",
    "default_context",
    "describe",
    "gru",
    "kernels",
    "library",
    "lstm",
    "pack",
    "recurrent",
    "rnn",
    "status",
]
