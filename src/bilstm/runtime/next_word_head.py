"""From the states of both directions to probabilities of the next word, without torch.

Place in the way of the data: `layers -> head -> log probabilities`. The torch face is `layers.language`. A state is
mapped to the size of a word vector and compared with the word vectors themselves (tied weights: Inan, Khosravi, Socher
2017, arXiv:1611.01462; Press and Wolf 2017, arXiv:1608.05859), which both directions share (Peters et al. 2018,
arXiv:1802.05365, section 3.1). The softmax is the full one, computed in blocks. Imports numpy, `errors`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bilstm.errors import ModelFolderError

__all__ = ["NextWordHead", "head_shapes"]

# Logits that are held at once
_BLOCK_LOGITS = 1 << 24


def head_shapes(vocabulary_size: int, size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Name every weight of the head but the word vectors, with its shape; the first axis of three is the direction.

    Parameters
    ----------
    vocabulary_size, size : int
        Of the word vectors.
    hidden_size : int
        Of a state, per direction.
    """
    return {
        "head.projection": (2, size, hidden_size),
        "head.projection_bias": (2, size),
        "head.start": (2, size),
        "head.boundary": (size,),
        "head.bias": (vocabulary_size + 1,),
    }


class NextWordHead:
    """Scores of next words: logit(w) = word vector(w) . (P_d h + b_d) + bias(w).

    Parameters
    ----------
    table : ndarray of shape (vocabulary_size, size), float32
        The word vectors that the layers read.
    weights : mapping of str to ndarray, float32
        As `head_shapes` names them. `start` stands for P_d h + b_d before a word is read, `boundary` for the word
        vector of a text's end (forwards) and beginning (backwards), whose class is `vocabulary_size`.

    Raises
    ------
    ModelFolderError
        If a weight is missing, or of another shape or dtype.
    """

    def __init__(self, table: np.ndarray, weights: Mapping[str, np.ndarray], hidden_size: int):
        words, size = table.shape
        for name, shape in head_shapes(words, size, hidden_size).items():
            if name not in weights:
                raise ModelFolderError(f"weight {name!r} is missing.")
            if weights[name].shape != shape or weights[name].dtype != np.float32:
                raise ModelFolderError(
                    f"weight {name!r} must be float32 of shape {shape}, got {weights[name].dtype} of shape "
                    f"{weights[name].shape}."
                )
        self._outputs = np.concatenate([table, weights["head.boundary"][None]])  # (vocabulary_size + 1, size)
        self._bias = weights["head.bias"]
        self._projection, self._projection_bias = weights["head.projection"], weights["head.projection_bias"]
        self.start = weights["head.start"]

    @property
    def boundary(self) -> int:
        """Class of the beginning and the end of a text."""
        return len(self._outputs) - 1

    def features(self, states: np.ndarray, direction: int) -> np.ndarray:
        """Map states (steps, hidden_size) of direction 0 (forwards) or 1 to features (steps, size)."""
        return states @ self._projection[direction].T + self._projection_bias[direction]

    def log_probabilities(self, features: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return log p(target) under the softmax over all words and the boundary.

        Parameters
        ----------
        features : ndarray of shape (rows, size), float32
        targets : ndarray of shape (rows,), int64

        Returns
        -------
        ndarray of shape (rows,), float64
        """
        results = np.empty(len(targets))
        block = max(1, _BLOCK_LOGITS // len(self._outputs))
        for start in range(0, len(targets), block):
            rows = slice(start, start + block)
            logits = features[rows] @ self._outputs.T
            logits += self._bias
            logits -= logits.max(axis=1, keepdims=True)
            own = logits[np.arange(len(logits)), targets[rows]].astype(np.float64)
            np.exp(logits, out=logits)
            results[rows] = own - np.log(logits.sum(axis=1, dtype=np.float64))
        return results
