"""keras.layers.Bidirectional(LSTM) as a peer, on TensorFlow or JAX.

Variant: `tensorflow` or `jax`, then `jit` (compiled with XLA) or `graph`, then `fp32` or `bf16` (mixed_bfloat16).
Ragged work is padded and masked, which Keras reads correctly.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from engine_worker import Peer, Spec, read_spec, serve
from engine_workloads import ADAM, BATCHES, Work, padded


def prepare(spec: Spec) -> None:
    """Choose backend and threads; has to come before Keras is imported."""
    backend = "jax" if "jax" in spec.variant else "tensorflow"
    os.environ["KERAS_BACKEND"] = backend
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(spec.threads > 1).lower()}"
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(spec.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def build(work: Work) -> Any:
    """The model of a work, as a Keras user writes it."""
    import keras
    from keras import layers

    if work.vocabulary_size:
        inputs = keras.Input((None if work.ragged else work.steps,), dtype="int32")
        values = layers.Embedding(work.vocabulary_size, work.input_size, mask_zero=work.ragged)(inputs)
    else:
        inputs = values = keras.Input((work.steps, work.input_size))
    for layer in range(work.num_layers):
        sequences = work.every_step or layer < work.num_layers - 1
        values = layers.Bidirectional(layers.LSTM(work.hidden_size, return_sequences=sequences))(values)
    if not work.every_step:
        values = layers.Dense(1, dtype="float32")(values)
    return keras.Model(inputs, values)


def weights_of(spec: Spec) -> list[np.ndarray]:
    """Weights in Keras' order; its gates i, f, c, o are torch's i, f, g, o, its matrices are transposed."""
    arrays, result = spec.arrays, []
    if spec.work.vocabulary_size:
        result.append(arrays["embedding"])
    for layer in range(spec.work.num_layers):
        for suffix in ("", "_reverse"):
            name = f"l{layer}{suffix}"
            result += [arrays[f"weight_ih_{name}"].T, arrays[f"weight_hh_{name}"].T, arrays[f"bias_ih_{name}"]]
    if not spec.work.every_step:
        result += [arrays["linear"].T, np.zeros(1, dtype=np.float32)]
    return result


def main() -> None:
    spec = read_spec()
    prepare(spec)
    import keras

    work = spec.work
    if "bf16" in spec.variant:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = build(work)
    if work.every_step:

        def loss(targets: Any, outputs: Any) -> Any:
            return keras.ops.sum(keras.ops.cast(outputs, "float32") * targets) / work.batch

    else:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(**ADAM), loss, jit_compile="jit" in spec.variant)
    weights = weights_of(spec)
    batches = []
    for number in range(BATCHES):
        lengths = spec.arrays[f"lengths_{number}"]
        key = "ids" if work.vocabulary_size else "values"
        inputs = padded(spec.arrays[f"{key}_{number}"], lengths)
        if work.vocabulary_size:
            inputs = inputs.astype(np.int32)
        targets = spec.arrays[f"targets_{number}"][:, None]
        if work.every_step:
            targets = spec.arrays["output_weights"].reshape(work.batch, work.steps, -1)
        batches.append((inputs, targets))

    def train(number: int) -> Any:
        inputs, targets = batches[number]
        model.reset_metrics()  # train_on_batch gives a running mean; reset, it gives this batch's loss
        return model.train_on_batch(inputs, targets)

    def infer(number: int) -> np.ndarray:
        outputs = np.asarray(model.predict_on_batch(batches[number][0]), dtype=np.float32)
        return outputs.reshape(-1, outputs.shape[-1])

    versions = {"keras": keras.__version__}
    backend = keras.backend.backend()
    versions[backend] = sys.modules[backend].__version__
    serve(spec, Peer(train if spec.mode == "train" else infer, lambda: model.set_weights(weights), versions), BATCHES)


if __name__ == "__main__":
    main()
