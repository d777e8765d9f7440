"""Where each library keeps the gates of a cell: the one table, and what follows from it.

A weight of a recurrent layer holds one block of rows for each gate. All libraries hold the same blocks, in another
order. This project keeps torch's. Imports numpy.

| | LSTM | GRU |
|---|---|---|
| torch, this project | i f g o | r z n |
| Keras 3 (`kernel`, columns) | i f c o | z r h |
| ONNX (`W`, `R`, `B`) | i o f c | z r h |

i input, f forget, g = c cell candidate, o output; r reset, z update, n = h new state.

What else differs. Keras' matrices are transposed: (inputs, gates * units). Keras adds one bias where torch adds two,
but for the GRU, whose candidate needs the recurrent one inside the product with r: two rows (`reset_after=True`, the
default; with False the reset gate acts before the product, which torch has no layer for). ONNX's GRU with
`linear_before_reset=1` is torch's. All three update with z alike: h' = z h + (1 - z) n.

References
----------
.. [1] torch.nn.LSTM, torch.nn.GRU: documentation of PyTorch 2, section Variables.
.. [2] ONNX operators LSTM-14, GRU-14: inputs W, R, B.
.. [3] keras.layers.LSTM, keras.layers.GRU: `build` and `call` of the cells, Keras 3.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

__all__ = ["GATES", "Library", "from_torch_order", "to_torch_order"]

Library = Literal["torch", "keras", "onnx"]

# Name of the gate (torch's) in each block, by library.
GATES: dict[str, dict[str, tuple[str, ...]]] = {
    "lstm": {"torch": ("i", "f", "g", "o"), "keras": ("i", "f", "g", "o"), "onnx": ("i", "o", "f", "g")},
    "gru": {"torch": ("r", "z", "n"), "keras": ("z", "r", "n"), "onnx": ("z", "r", "n")},
    "rnn": {"torch": ("h",), "keras": ("h",), "onnx": ("h",)},
}


def _reordered(values: np.ndarray, given: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
    blocks = dict(zip(given, np.split(values, len(given), axis=0), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis=0)


def from_torch_order(values: np.ndarray, cell: str, library: Library) -> np.ndarray:
    """Put the blocks of the first axis, shape (gates * units, ...), into another library's order."""
    return _reordered(values, GATES[cell]["torch"], GATES[cell][library])


def to_torch_order(values: np.ndarray, cell: str, library: Library) -> np.ndarray:
    """Put the blocks of the first axis, shape (gates * units, ...), into torch's order."""
    return _reordered(values, GATES[cell][library], GATES[cell]["torch"])
