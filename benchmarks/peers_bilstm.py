"""The engine of bilstm in the speed benchmark.

Variant: words joined by "-": `fp32` or `bf16`; for inference `table` (with the vocabulary table) or nothing; `portable`
takes the scalar kernel, to see what the fast ones gain. Batches are ragged, as everywhere in this project.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bilstm import engine
from bilstm.data.ragged import Ragged
from engine_worker import Peer, Spec, read_spec, serve
from engine_workloads import BATCHES


def precision_of(spec: Spec) -> str:
    """Name of the precision, as the engine calls it."""
    return "bfloat16" if "bf16" in spec.variant else "float32"


def kernel_of(spec: Spec) -> str:
    """Name of the kernel, as the engine calls it."""
    return "portable" if "portable" in spec.variant else "auto"


def offsets_of(spec: Spec, number: int) -> np.ndarray:
    """Offsets of one ragged batch."""
    return np.concatenate(([0], np.cumsum(spec.arrays[f"lengths_{number}"])))


def train_peer(spec: Spec) -> Peer:
    """A whole training step with torch around the engine."""
    import torch

    from bilstm.layers.engine_op import run_recurrent
    from peers_torch import adam, freeze_second_bias, initial_state, loss_of, targets_of

    work, precision = spec.work, precision_of(spec)
    torch.set_flush_denormal(True)
    torch.set_num_threads(spec.threads)
    parameters = {name: t.requires_grad_() for name, t in initial_state(spec.arrays, "").items()}
    initial = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    freeze_second_bias(parameters.items())
    optimizer = adam((p for p in parameters.values() if p.requires_grad), fused=True)
    key = "ids" if work.vocabulary_size else "values"
    batches = [
        Ragged(torch.from_numpy(spec.arrays[f"{key}_{n}"]), torch.from_numpy(offsets_of(spec, n)))
        for n in range(BATCHES)
    ]
    targets = [targets_of(spec, n) for n in range(BATCHES)]
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [
        [tuple(parameters[f"{kind}_l{layer}{suffix}"] for kind in kinds) for suffix in ("", "_reverse")]
        for layer in range(work.num_layers)
    ]

    def forward(batch: Ragged) -> Any:
        values = None if work.vocabulary_size else batch.values
        inputs: dict[str, Any] = {"values": values}
        if work.vocabulary_size:
            inputs = {"token_ids": batch.values, "embedding": parameters["embedding.weight"]}
        for layer in range(work.num_layers):
            whole = work.every_step or layer < work.num_layers - 1
            result = run_recurrent(
                batch.offsets,
                "lstm",
                weights[layer],
                **inputs,
                outputs=whole,
                precision=precision,
                threads=spec.threads,
                kernel=kernel_of(spec),
            )
            inputs = {"values": result.outputs}
        if work.every_step:
            return result.outputs
        last = torch.cat((result.h_n[0], result.h_n[1]), 1)
        return torch.nn.functional.linear(last, parameters["linear.weight"], parameters["linear.bias"])

    def train(number: int) -> float:
        optimizer.zero_grad()
        loss = loss_of(spec, forward(batches[number]), targets[number])
        loss.backward()
        optimizer.step()
        return loss.item()

    def reset() -> None:
        with torch.no_grad():
            for name, tensor in parameters.items():
                tensor.copy_(initial[name])

    kernel = engine.choose_kernel(kernel_of(spec), precision)
    return Peer(train, reset, {"torch": torch.__version__, "kernel": kernel})


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
            engine.pack("lstm", weights, embedding=table, precision=precision, kernel=kernel, context=context)
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
