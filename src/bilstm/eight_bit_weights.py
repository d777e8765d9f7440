"""Weights as 8-bit integers with a scale for every 64 numbers: a model folder of a quarter of the size.

Place in the way of the data: under `model_folder`, which turns them back into float32 when it reads a folder; whatever
runs afterwards does not know. Numbers are rounded once, when the folder is written; reading back is exact. Imports
numpy and `errors`.

References
----------
Blocks with a scale of their own: Dettmers, Lewis, Shleifer, Zettlemoyer, "8-bit Optimizers via Block-wise
Quantization", ICLR 2022, section 2.1; here the levels are even, x = scale * integer, scale = max |x| / 127.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bilstm.errors import ModelFolderError

__all__ = ["from_int8", "round_to_int8", "to_int8"]

BLOCK = 64  # numbers that share a scale: 0.5 bit more a number
SMALLEST = 1024  # smaller arrays, and those of one axis (biases), stay as they are
SCALES = ".int8_scales"
LARGEST = 127


def to_int8(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace every float32 array of two axes or more, and 1,024 numbers or more, by integers and scales.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Finite.

    Returns
    -------
    dict of str to ndarray
        `name`: int8 of the same shape; `name.int8_scales`: float32, one for each 64 numbers in the order of memory.
        Other arrays as they are.
    """
    found: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        if array.dtype != np.float32 or array.ndim < 2 or array.size < SMALLEST:
            found[name] = array
            continue
        blocks = _blocks(array)
        scales = np.abs(blocks).max(axis=1) / np.float32(LARGEST)
        divisors = np.where(scales > 0, scales, np.float32(1))
        integers = np.rint(blocks / divisors[:, None]).astype(np.int8)
        found[name] = integers.reshape(-1)[: array.size].reshape(array.shape)
        found[name + SCALES] = scales
    return found


def from_int8(weights: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Turn what `to_int8` gave into float32; arrays without scales are returned as they are.

    Parameters
    ----------
    weights : mapping of str to ndarray
    where : str
        File name for messages.

    Raises
    ------
    ModelFolderError
        If scales and integers do not fit each other.
    """
    found = dict(weights)
    for scaled in [name for name in weights if name.endswith(SCALES)]:
        name, scales = scaled.removesuffix(SCALES), found.pop(scaled)
        integers = weights.get(name)
        if integers is None or integers.dtype != np.int8:
            raise ModelFolderError(f"{where}: {scaled!r} needs int8 weights {name!r}.")
        if scales.dtype != np.float32 or scales.shape != (-(-integers.size // BLOCK),) or (scales < 0).any():
            raise ModelFolderError(
                f"{where}: {scaled!r} must be {-(-integers.size // BLOCK)} scales of float32, none below 0; "
                f"got {scales.dtype} of shape {scales.shape}."
            )
        blocks = _blocks(integers).astype(np.float32)
        blocks *= scales[:, None]
        found[name] = blocks.reshape(-1)[: integers.size].reshape(integers.shape)
        found[name].flags.writeable = False
    return found


def round_to_int8(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the float32 weights that a folder with 8-bit integers gives back."""
    return from_int8(to_int8(weights), "weights")


def _blocks(array: np.ndarray) -> np.ndarray:
    """Return the numbers in rows of one block, zeros behind the last."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return np.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
