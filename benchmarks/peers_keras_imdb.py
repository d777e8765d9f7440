"""The tutorial's program in Keras, as its authors would run it: reads two CSV files, trains, prints an epoch a line.

    python peers_keras_imdb.py TRAIN.csv DEV.csv --backend tensorflow --threads 2

Embedding(10000, 128), Bidirectional(LSTM(64)), Dropout(0.5), Dense(1, sigmoid); the last 200 words of each text, padded
in front, batch 128, Adam. Lines on standard error: `epoch 1/4  dev score 0.8512  61.2 s`.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time

import numpy as np


def read(path: str, text: str, label: str) -> tuple[list[str], np.ndarray]:
    """Texts and 0/1 labels of a CSV file; the label that sorts last is 1."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [(row[text], row[label]) for row in csv.DictReader(file)]
    positive = max(name for _, name in rows)
    return [words for words, _ in rows], np.array([name == positive for _, name in rows], dtype=np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("dev")
    parser.add_argument("--text", default="review")
    parser.add_argument("--label", default="sentiment")
    parser.add_argument("--backend", choices=("tensorflow", "jax"), default="tensorflow")
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    keras.utils.set_random_seed(options.seed)
    texts, labels = read(options.train, options.text, options.label)
    dev_texts, dev_labels = read(options.dev, options.text, options.label)
    words = keras.layers.TextVectorization(max_tokens=10_000, ragged=True)
    words.adapt(tf.data.Dataset.from_tensor_slices(texts).batch(1024))

    def encode(part: list[str]) -> np.ndarray:
        ids = words(tf.constant(part)).to_list()
        return keras.utils.pad_sequences(ids, maxlen=200)

    inputs, dev_inputs = encode(texts), encode(dev_texts)
    model = keras.Sequential(
        [
            keras.Input((200,), dtype="int32"),
            keras.layers.Embedding(10_000, 128),
            keras.layers.Bidirectional(keras.layers.LSTM(64)),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=options.jit)
    for epoch in range(1, options.epochs + 1):
        start = time.perf_counter()
        model.fit(inputs, labels, batch_size=128, epochs=1, verbose=0)
        seconds = time.perf_counter() - start
        _, score = model.evaluate(dev_inputs, dev_labels, batch_size=128, verbose=0)
        print(f"epoch {epoch}/{options.epochs}  dev score {score:.4f}  {seconds:.1f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
