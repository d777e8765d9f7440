"""The torch user's door: drop-in `LSTM`, `GRU`, `RNN`, and `accelerate` for a model that exists already."""

from bilstm.nn.accelerate import accelerate
from bilstm.nn.recurrent import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "accelerate"]
