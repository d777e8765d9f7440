"""A linear model over n-grams without scikit-learn: what a joined text model adds to its network's logits.

Place in the way of the data: tokens -> margins. Imports numpy and `data.ngrams`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bilstm.data.ngrams import NgramIndex
from bilstm.errors import ModelFolderError

__all__ = ["NgramLinear"]

PREFIX = "linear."  # of its arrays among the weights of a model folder
CHUNK_ROWS = 4096


class NgramLinear:
    """Margins of texts: weights of the n-grams that occur, summed.

    Parameters
    ----------
    index : NgramIndex
    weights : ndarray of shape (outputs, n-grams), float32
    intercepts : ndarray of shape (outputs,), float64
    inverse_frequency : ndarray of shape (n-grams,), float64, or None
        None: an n-gram counts once however often it occurs (NB-SVM). Else TF-IDF: (1 + ln count) * inverse frequency,
        each text divided by its length.
    """

    def __init__(
        self, index: NgramIndex, weights: np.ndarray, intercepts: np.ndarray, inverse_frequency: np.ndarray | None
    ):
        self.index = index
        self.weights = weights
        self.intercepts = intercepts
        self.inverse_frequency = inverse_frequency

    def margins(self, token_lists: Sequence[Sequence[str]]) -> np.ndarray:
        """Return margins (rows, outputs), float64; a text without known n-grams gets the intercepts."""
        parts = [
            self._margins(token_lists[start : start + CHUNK_ROWS]) for start in range(0, len(token_lists), CHUNK_ROWS)
        ]
        return np.concatenate([np.zeros((0, len(self.intercepts))), *parts])

    def _margins(self, token_lists: Sequence[Sequence[str]]) -> np.ndarray:
        size = self.weights.shape[1]
        keys = []
        start = 0
        for rows, features, count in self.index.occurrences(token_lists):
            is_known = features >= 0
            keys.append(rows[is_known] * size + (features[is_known] + start))
            start += count
        # sorted, so that sums are taken in one order whatever stands around a text
        pairs, counts = np.unique(np.concatenate(keys), return_counts=True)
        rows, features = np.divmod(pairs, size)
        values = np.ones(len(pairs))
        if self.inverse_frequency is not None:
            values = (1 + np.log(counts)) * self.inverse_frequency[features]
            length = np.sqrt(np.bincount(rows, values * values, minlength=len(token_lists)))
            values /= length[rows]
        sums = [np.bincount(rows, values * row[features], minlength=len(token_lists)) for row in self.weights]
        return np.stack(sums, axis=1) + self.intercepts

    def to_folder(self) -> tuple[dict[str, np.ndarray], str]:
        """Return the arrays, by name, and the words as the text of a JSON file."""
        words, keys = self.index.to_arrays(self.index.max_order)
        arrays = {f"{PREFIX}keys_{order}": array for order, array in enumerate(keys, start=2)}
        arrays[f"{PREFIX}weights"] = self.weights
        arrays[f"{PREFIX}intercepts"] = self.intercepts
        if self.inverse_frequency is not None:
            arrays[f"{PREFIX}inverse_frequency"] = self.inverse_frequency
        return arrays, json.dumps(words, ensure_ascii=False, indent=0)

    @classmethod
    def from_folder(cls, arrays: Mapping[str, np.ndarray], words: bytes, outputs: int) -> NgramLinear:
        """Read back what `to_folder` gave.

        Raises
        ------
        ModelFolderError
            If an array is missing or of a wrong shape or type, or the words are no list of texts.
        """
        try:
            names: Any = json.loads(words.decode("utf-8"))
        except ValueError as error:
            raise ModelFolderError(f"ngrams.json: not valid JSON ({error}).") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ModelFolderError("ngrams.json: must be a list of words.")
        given = {name.removeprefix(PREFIX): array for name, array in arrays.items()}
        keys = [given.pop(name) for name in sorted(given) if name.startswith("keys_")]
        frequency = given.pop("inverse_frequency", None)
        if given.keys() != {"weights", "intercepts"}:
            raise ModelFolderError(f"the linear model needs weights and intercepts, found {sorted(given)}.")
        total = len(names) + sum(len(array) for array in keys)
        expected = [("weights", given["weights"], (outputs, total)), ("intercepts", given["intercepts"], (outputs,))]
        expected += [("inverse_frequency", frequency, (total,))] if frequency is not None else []
        for name, array, shape in expected:
            if array.shape != shape or not np.issubdtype(array.dtype, np.floating):
                raise ModelFolderError(f"{PREFIX}{name} must be floats of shape {shape}, got {array.shape}.")
        for array in keys:
            if array.ndim != 1 or array.dtype != np.int64 or (np.diff(array) <= 0).any():
                raise ModelFolderError(f"{PREFIX}keys must be ascending int64 of one axis.")
        return cls(NgramIndex.from_arrays(names, keys), given["weights"], given["intercepts"], frequency)
