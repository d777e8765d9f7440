"""Prepare the inputs of `long_recipe.py`: texts as ids, labels, in-domain word vectors, in one small file.

    python benchmarks/long_recipe_inputs.py --data IMDB --out inputs.npz.xz

IMDB holds train.csv.gz, unlabelled.csv.gz and test.csv.gz. Vocabulary and vectors are made of the training and the
unlabelled texts. The training rows are split into a part that trains and a part that chooses, stratified, by seed. The
test part is for one last measurement. Vectors are stored in 8 bits a number, with a scale a word.
"""

from __future__ import annotations

import argparse
import io
import lzma
from pathlib import Path
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.records import read_records
from bilstm.data.splitting import split_rows
from bilstm.data.tokenizers import WordTokenizer
from bilstm.data.vocabulary import TextEncoder
from bilstm.training.word_vectors import train_word_vectors

DEV_ROWS = 2_500


def read_inputs(data: Path, vocabulary_size: int, seed: int) -> dict[str, np.ndarray]:
    """Read and encode all texts; arrays by name."""
    train, rest, test = (
        read_records(str(data / f"{name}.csv.gz"), labels="none" if name == "unlabelled" else "required")
        for name in ("train", "unlabelled", "test")
    )
    encoder = TextEncoder.build([*train.texts, *rest.texts], WordTokenizer(), max_size=vocabulary_size, min_count=2)
    arrays: dict[str, np.ndarray] = {"vocabulary_size": np.array(len(encoder.vocabulary))}
    for name, records in (("train", train), ("unlabelled", rest), ("test", test)):
        ids = encoder.encode(records.texts)
        arrays[f"{name}_ids"] = ids.values.astype(np.uint16)
        arrays[f"{name}_lengths"] = ids.lengths.astype(np.uint32)
        if name != "unlabelled":
            arrays[f"{name}_labels"] = np.array([label == "positive" for label in records.labels], dtype=np.uint8)
    labels = arrays["train_labels"].astype(np.int64)
    arrays["fit_rows"], arrays["dev_rows"] = split_rows(
        labels, [len(labels) - DEV_ROWS, DEV_ROWS], seed, is_stratified=True
    )
    return arrays


def vectors_of(arrays: dict[str, np.ndarray], size: int, epochs: int, seed: int) -> np.ndarray:
    """Learn word vectors from the training and the unlabelled texts."""
    values = np.concatenate([arrays["train_ids"], arrays["unlabelled_ids"]]).astype(np.int64)
    lengths = np.concatenate([arrays["train_lengths"], arrays["unlabelled_lengths"]]).astype(np.int64)
    ids = Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))
    return train_word_vectors(ids, int(arrays["vocabulary_size"]), size, window=5, epochs=epochs, seed=seed)


def in_8_bits(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Store each vector as whole numbers of -127 to 127 and a scale."""
    scales = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12) / 127
    return {"vectors": np.round(vectors / scales).astype(np.int8), "vector_scales": scales.astype(np.float32)}


def write_inputs(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file, packed by xz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the keywords for `allow_pickle`
    path.write_bytes(lzma.compress(buffer.getvalue(), preset=6))
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def main() -> None:
    """Write the inputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary-size", type=int, default=40_000)
    parser.add_argument("--size", type=int, default=300, help="features of a word vector")
    parser.add_argument("--epochs", type=int, default=5, help="passes that learn word vectors")
    parser.add_argument("--vectors", type=Path, help=".npy of vectors that were learned before")
    parser.add_argument("--seed", type=int, default=0)
    options: Any = parser.parse_args()
    arrays = read_inputs(options.data, options.vocabulary_size, options.seed)
    if options.vectors is not None:
        vectors = np.load(options.vectors)
    else:
        vectors = vectors_of(arrays, options.size, options.epochs, options.seed)
    write_inputs(options.out, {**arrays, **in_8_bits(vectors)})


if __name__ == "__main__":
    main()
