"""The reference work W1 to W5 of the speed benchmark: sizes, data and weights, equal for every peer.

Imports numpy alone, because peers run it in environments of their own.

Data: token ids are uniform over 1..vocabulary-1 (0 is kept for padding), which is the worst case for an embedding's
update; targets are fair coins. Weights are drawn as torch does for its LSTM, uniform over +-1/sqrt(hidden); the
embedding is normal with deviation 0.1. All from one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["ADAM", "BATCHES", "WORKS", "Work", "lengths_of", "load_arrays", "padded", "save_arrays"]

SEED = 20240611
BATCHES = 4  # training goes round them, so that no peer profits from seeing one batch only
ADAM = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}


@dataclass(frozen=True)
class Work:
    """One row of the table of reference work."""

    name: str
    batch: int
    steps: int  # of every sequence; of the longest, if `ragged`
    hidden_size: int
    input_size: int
    num_layers: int = 1
    vocabulary_size: int | None = None  # None: the inputs are rows of floats, not token ids
    ragged: bool = False
    every_step: bool = False  # outputs at every step and no head, else last states and Linear(1)

    @property
    def title(self) -> str:
        """One line for tables."""
        source = f"Embedding({self.vocabulary_size}, {self.input_size})" if self.vocabulary_size else "input"
        stack = f"{self.num_layers} x " if self.num_layers > 1 else ""
        end = "every step" if self.every_step else "last states, Linear(1)"
        length = f"lengths as in IMDB, at most {self.steps}" if self.ragged else f"{self.steps} steps"
        size = "" if self.vocabulary_size else f" {self.input_size}"
        return f"{source}{size}, {stack}BiLSTM({self.hidden_size}), {end}; batch {self.batch}, {length}"

    def layer_inputs(self) -> list[int]:
        """Input size of every layer of the stack."""
        return [self.input_size] + [2 * self.hidden_size] * (self.num_layers - 1)


WORKS = {
    work.name: work
    for work in (
        Work("W1", 128, 200, 64, 128, vocabulary_size=10_000),
        Work("W2", 128, 200, 64, 128, num_layers=2, vocabulary_size=20_000),
        Work("W2s", 32, 200, 64, 128, num_layers=2, vocabulary_size=20_000),
        Work("W3", 32, 50, 256, 300, every_step=True),
        Work("W4", 128, 2500, 64, 128, vocabulary_size=10_000, ragged=True),
        Work("W5", 1, 200, 64, 128, vocabulary_size=10_000),
    )
}


def lengths_of(work: Work, generator: np.random.Generator) -> np.ndarray:
    """Steps of each sequence of one batch, shape (batch,), int64.

    Ragged: log-normal with mean 230 and deviation 0.65 of the logarithm, cut at the work's longest, as reviews of IMDB
    are. Every batch holds the same lengths in another order, so that all cost the same and are padded to one width
    (that of the longest drawn, 847 steps), which peers with fixed shapes profit from.
    """
    if not work.ragged:
        return np.full(work.batch, work.steps, dtype=np.int64)
    deviation = 0.65
    drawn = np.random.default_rng(SEED).lognormal(0, deviation, work.batch)
    drawn *= 230 / drawn.mean()
    return generator.permutation(np.clip(np.round(drawn), 10, work.steps).astype(np.int64))


def _arrays(work: Work) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(SEED)
    arrays: dict[str, np.ndarray] = {}
    for number in range(BATCHES):
        lengths = lengths_of(work, generator)
        total = int(lengths.sum())
        arrays[f"lengths_{number}"] = lengths
        if work.vocabulary_size:
            arrays[f"ids_{number}"] = generator.integers(1, work.vocabulary_size, total)
        else:
            arrays[f"values_{number}"] = generator.standard_normal((total, work.input_size), dtype=np.float32)
        arrays[f"targets_{number}"] = generator.integers(0, 2, work.batch).astype(np.float32)
    if work.vocabulary_size:
        embedding = generator.standard_normal((work.vocabulary_size, work.input_size), dtype=np.float32)
        arrays["embedding"] = embedding * np.float32(0.1)
    bound = 1 / np.sqrt(work.hidden_size)
    for layer, size in enumerate(work.layer_inputs()):
        for suffix in ("", "_reverse"):
            gates = 4 * work.hidden_size
            shapes = {"weight_ih": (gates, size), "weight_hh": (gates, work.hidden_size), "bias_ih": (gates,)}
            for kind, shape in shapes.items():
                arrays[f"{kind}_l{layer}{suffix}"] = generator.uniform(-bound, bound, shape).astype(np.float32)
            # the second bias of torch is zero, because Keras has one only
            arrays[f"bias_hh_l{layer}{suffix}"] = np.zeros(gates, dtype=np.float32)
    width = 2 * work.hidden_size
    if work.every_step:
        shape = (int(arrays["lengths_0"].sum()), width)
        arrays["output_weights"] = generator.standard_normal(shape, dtype=np.float32)
    else:
        arrays["linear"] = generator.uniform(-1, 1, (1, width)).astype(np.float32) / np.float32(np.sqrt(width))
    return arrays


def save_arrays(work: Work, path: Path) -> None:
    """Write data and weights of a work for the peers to read."""
    np.savez(path, **_arrays(work))


def load_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote."""
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def padded(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Put the steps of a ragged batch side by side: (batch, longest, ...), zeros after each sequence's end."""
    longest = int(lengths.max())
    wide = np.zeros((len(lengths), longest, *flat.shape[1:]), dtype=flat.dtype)
    wide[np.arange(longest) < lengths[:, None]] = flat
    return wide
