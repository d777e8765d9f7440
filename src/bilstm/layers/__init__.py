"""Torch modules over `Ragged`. Needs the extra `train`."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    from bilstm.errors import MissingExtraError

    raise MissingExtraError(
        "bilstm.layers needs torch, which is not installed.", "pip install 'bilstm[train]'"
    ) from error

from bilstm.layers.convolution import Convolution
from bilstm.layers.dropout import Dropout
from bilstm.layers.embedding import Embedding, WordDropout
from bilstm.layers.linear import Linear
from bilstm.layers.model import Model, build_model, load_weights, weights_of
from bilstm.layers.pooling import Pooling
from bilstm.layers.randomness import Randomness
from bilstm.layers.recurrent import Recurrent, RecurrentOutput

__all__ = [
    "Convolution",
    "Dropout",
    "Embedding",
    "Linear",
    "Model",
    "Pooling",
    "Randomness",
    "Recurrent",
    "RecurrentOutput",
    "WordDropout",
    "build_model",
    "load_weights",
    "weights_of",
]
