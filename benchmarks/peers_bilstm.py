"""The engine of bilstm in the speed benchmark.

Variant: words joined by "-": `fp32` or `bf16`; for inference `table` (with the vocabulary table) or nothing, and
`portable` takes the scalar kernel, to see what the fast ones gain. Batches are ragged, as everywhere in this project.
"""

from __future__ import annotations

import numpy as np

from bilstm import description, engine
from bilstm.data.ragged import Ragged
from engine_worker import Peer, Spec, read_spec, serve
from engine_workloads import BATCHES, Work


def precision_of(spec: Spec) -> str:
    """Name of the precision, as the engine calls it."""
    return "bfloat16" if "bf16" in spec.variant else "float32"


def kernel_of(spec: Spec) -> str:
    """Name of the kernel, as the engine calls it."""
    return "portable" if "portable" in spec.variant else "auto"


def offsets_of(spec: Spec, number: int) -> np.ndarray:
    """Offsets of one ragged batch."""
    return np.concatenate(([0], np.cumsum(spec.arrays[f"lengths_{number}"])))


def description_of(work: Work) -> tuple[description.Layer, ...]:
    """The work as this project describes a model."""
    layers: list[description.Layer] = []
    if work.vocabulary_size:
        layers.append(description.Embedding(work.vocabulary_size, work.input_size))
    recurrent = description.Recurrent("lstm", work.input_size, work.hidden_size, work.num_layers)
    layers.append(recurrent)
    if not work.every_step:
        layers.append(description.Pooling(recurrent.output_size, ("last",)))
        layers.append(description.Linear(recurrent.output_size, 1))
    return tuple(layers)


def weights_of(spec: Spec) -> dict[str, np.ndarray]:
    """Weights of a work under this project's names."""
    weights, recurrent = {}, int(spec.work.vocabulary_size is not None)
    for name, array in spec.arrays.items():
        if name.startswith(("weight_", "bias_")):
            weights[f"layers.{recurrent}.{name}"] = array
    if "embedding" in spec.arrays:
        weights["layers.0.weight"] = spec.arrays["embedding"]
    if "linear" in spec.arrays:
        weights[f"layers.{recurrent + 2}.weight"] = spec.arrays["linear"]
        weights[f"layers.{recurrent + 2}.bias"] = np.zeros(1, dtype=np.float32)
    return weights


def train_peer(spec: Spec) -> Peer:
    """A whole training step of the modules that `bilstm train` builds."""
    import torch

    from bilstm.layers import Randomness, build_model, load_weights
    from peers_torch import adam, freeze_second_bias, loss_of, targets_of

    work, precision = spec.work, precision_of(spec)
    torch.set_flush_denormal(True)
    torch.set_num_threads(spec.threads)
    model = build_model(
        description_of(work), Randomness(0), backend="engine", precision=precision, threads=spec.threads
    )
    weights = weights_of(spec)
    load_weights(model, weights)
    freeze_second_bias(model.named_parameters())
    optimizer = adam((p for p in model.parameters() if p.requires_grad), fused=True)
    key = "ids" if work.vocabulary_size else "values"
    batches = [
        Ragged(torch.from_numpy(spec.arrays[f"{key}_{n}"]), torch.from_numpy(offsets_of(spec, n)))
        for n in range(BATCHES)
    ]
    targets = [targets_of(spec, n) for n in range(BATCHES)]

    def train(number: int) -> float:
        optimizer.zero_grad()
        result = model(batches[number])
        loss = loss_of(spec, result.values if work.every_step else result, targets[number])
        loss.backward()
        optimizer.step()
        return loss.item()

    versions = {"torch": torch.__version__, "kernel": engine.choose_kernel("auto", precision)}
    return Peer(train, lambda: load_weights(model, weights), versions)


def infer_peer(spec: Spec) -> Peer:
    """The forward pass with numpy alone, as the torch-free runtime runs it."""
    work, arrays = spec.work, spec.arrays
    precision, kernel = precision_of(spec), kernel_of(spec)
    context = engine.Context(spec.threads)
    embedding = arrays.get("embedding")
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    packed = []
    for layer in range(work.num_layers):
        weights = [
            engine.DirectionWeights(*(arrays[f"{kind}_l{layer}{suffix}"] for kind in kinds))
            for suffix in ("", "_reverse")
        ]
        table = embedding if "table" in spec.variant and layer == 0 else None
        packed.append(
            engine.pack(
                "lstm",
                weights,
                embedding=table,
                precision=precision,
                kernel=kernel,
                context=context,
                for_single=work.batch == 1,
            )
        )
    key = "ids" if work.vocabulary_size else "values"
    batches = [Ragged(arrays[f"{key}_{n}"], offsets_of(spec, n)) for n in range(BATCHES)]
    first = None if "table" in spec.variant else embedding

    def infer(number: int) -> np.ndarray:
        batch = batches[number]
        for layer in range(work.num_layers):
            result = engine.lstm(
                batch,
                packed[layer],
                embedding=first if layer == 0 else None,
                outputs=work.every_step or layer < work.num_layers - 1,
                precision=precision,
                kernel=kernel,
                context=context,
            )
            if result.outputs is not None:
                batch = batch.with_values(result.outputs)
        if work.every_step:
            return result.outputs
        return np.concatenate((result.h_n[0], result.h_n[1]), 1) @ arrays["linear"].T

    return Peer(infer, lambda: None, {"kernel": engine.choose_kernel(kernel, precision)})


def main() -> None:
    spec = read_spec()
    serve(spec, train_peer(spec) if spec.mode == "train" else infer_peer(spec), BATCHES)


if __name__ == "__main__":
    main()
