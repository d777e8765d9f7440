"""The readable reference: one step of each recurrent cell, one equation a line.

Place in the way of the data: inside `Recurrent`, once per step of a sequence. Every faster path (torch's fused kernels,
the native engine, the numpy runtime) is tested against these functions. Imports torch only.

Symbols: x input at step t, h state, c cell state, W_i* input weights, W_h* recurrent weights, b_i*, b_h* biases,
* the elementwise product. The weights of all gates of a cell are stacked as torch stacks them: i, f, g, o for the LSTM
and r, z, n for the GRU.

References
----------
.. [1] S. Hochreiter, J. Schmidhuber: Long Short-Term Memory. Neural Computation 9(8), 1997.
.. [2] F. Gers, J. Schmidhuber, F. Cummins: Learning to Forget: Continual Prediction with LSTM. Neural Computation
       12(10), 2000. Adds the forget gate. Here, as in torch, without peepholes.
.. [3] K. Cho et al.: Learning Phrase Representations using RNN Encoder-Decoder. EMNLP 2014, arXiv 1406.1078,
       equations 5 to 8. Torch's variant: the reset gate acts after the matrix product W_hn h instead of before it; z
       keeps the old state as in equation 7.
.. [4] J. Elman: Finding Structure in Time. Cognitive Science 14(2), 1990.
.. [5] Y. Gal, Z. Ghahramani: A Theoretically Grounded Application of Dropout in Recurrent Neural Networks. NIPS 2016,
       arXiv 1512.05287, section 4. One mask per sequence on the state that enters the gates.
"""

from __future__ import annotations

from torch import Tensor, relu, sigmoid, tanh
from torch.nn.functional import linear

__all__ = ["GATES", "gru_step", "lstm_step", "project", "rnn_step"]

# Number of gates whose weights are stacked, per cell.
GATES: dict[str, int] = {"lstm": 4, "gru": 3, "rnn": 1}


def project(x: Tensor, w_ih: Tensor, b_ih: Tensor) -> Tensor:
    """Compute W_i x + b_i of all gates; it does not need the state, so all steps can be projected at once.

    Parameters
    ----------
    x : Tensor of shape (..., input_size)
    w_ih : Tensor of shape (gates * hidden_size, input_size)
    b_ih : Tensor of shape (gates * hidden_size,)

    Returns
    -------
    Tensor of shape (..., gates * hidden_size)
    """
    return linear(x, w_ih, b_ih)


def lstm_step(
    x_gates: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, b_hh: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Advance an LSTM by one step ([1]_, forget gate [2]_).

    Parameters
    ----------
    x_gates : Tensor of shape (batch, 4 * hidden_size)
        Output of :func:`project`.
    h, c : Tensor of shape (batch, hidden_size)
        State and cell state before the step.
    w_hh : Tensor of shape (4 * hidden_size, hidden_size)
    b_hh : Tensor of shape (4 * hidden_size,)
    mask : Tensor of shape (batch, hidden_size), optional
        Dropout mask, scaled by 1 / (1 - rate), on the state that enters the gates [5]_.

    Returns
    -------
    h, c : Tensor of shape (batch, hidden_size)
        After the step.
    """
    seen = h if mask is None else h * mask
    i, f, g, o = (x_gates + linear(seen, w_hh, b_hh)).chunk(4, dim=-1)
    i = sigmoid(i)  # input gate
    f = sigmoid(f)  # forget gate
    g = tanh(g)  # what could be written
    o = sigmoid(o)  # output gate
    c = f * c + i * g
    h = o * tanh(c)
    return h, c


def gru_step(x_gates: Tensor, h: Tensor, w_hh: Tensor, b_hh: Tensor, mask: Tensor | None = None) -> Tensor:
    """Advance a GRU by one step ([3]_, torch's variant).

    Parameters
    ----------
    x_gates : Tensor of shape (batch, 3 * hidden_size)
        Output of :func:`project`.
    h : Tensor of shape (batch, hidden_size)
        State before the step.
    w_hh : Tensor of shape (3 * hidden_size, hidden_size)
    b_hh : Tensor of shape (3 * hidden_size,)
    mask : Tensor of shape (batch, hidden_size), optional
        As in :func:`lstm_step`; the state that z carries over is not masked.

    Returns
    -------
    h : Tensor of shape (batch, hidden_size)
    """
    seen = h if mask is None else h * mask
    x_r, x_z, x_n = x_gates.chunk(3, dim=-1)
    h_r, h_z, h_n = linear(seen, w_hh, b_hh).chunk(3, dim=-1)
    r = sigmoid(x_r + h_r)  # reset gate, equation 5
    z = sigmoid(x_z + h_z)  # update gate, equation 6
    n = tanh(x_n + r * h_n)  # candidate, equation 8
    h = z * h + (1 - z) * n  # equation 7
    return h


def rnn_step(
    x_gates: Tensor, h: Tensor, w_hh: Tensor, b_hh: Tensor, mask: Tensor | None = None, nonlinearity: str = "tanh"
) -> Tensor:
    """Advance a simple recurrent network by one step [4]_.

    Parameters
    ----------
    x_gates : Tensor of shape (batch, hidden_size)
        Output of :func:`project`.
    h : Tensor of shape (batch, hidden_size)
        State before the step.
    w_hh : Tensor of shape (hidden_size, hidden_size)
    b_hh : Tensor of shape (hidden_size,)
    mask : Tensor of shape (batch, hidden_size), optional
        As in :func:`lstm_step`.
    nonlinearity : {"tanh", "relu"}

    Returns
    -------
    h : Tensor of shape (batch, hidden_size)
    """
    seen = h if mask is None else h * mask
    a = x_gates + linear(seen, w_hh, b_hh)
    return relu(a) if nonlinearity == "relu" else tanh(a)
