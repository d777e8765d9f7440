"""torch.nn.LSTM as a peer, at its default and at its best settings.

Variant: words joined by "-": `fp32` or `bf16` (autocast), `default` (as it comes) or `flush` (denormals flushed to
zero and, for training, the fused Adam), `packed` or `padded` for ragged work, `compile` for torch.compile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from engine_worker import Peer, Spec, read_spec, serve
from engine_workloads import ADAM, BATCHES, padded


class Model(torch.nn.Module):
    """The model of a work, as a torch user writes it."""

    def __init__(self, spec: Spec):
        super().__init__()
        work, arrays = spec.work, spec.arrays
        self.packed = work.ragged and "padded" not in spec.variant
        if work.vocabulary_size:
            self.embedding = torch.nn.Embedding(work.vocabulary_size, work.input_size)
        self.lstm = torch.nn.LSTM(
            work.input_size, work.hidden_size, work.num_layers, batch_first=True, bidirectional=True
        )
        if not work.every_step:
            self.linear = torch.nn.Linear(2 * work.hidden_size, 1)
        self.initial = initial_state(arrays, "lstm.")
        self.load_state_dict(self.initial)

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return logits, or the outputs of a work without a head as (batch * steps, features)."""
        values = self.embedding(inputs) if hasattr(self, "embedding") else inputs
        if self.packed:
            values = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        outputs, (h_n, _) = self.lstm(values)
        if not hasattr(self, "linear"):
            return outputs.reshape(-1, outputs.shape[2])
        return self.linear(torch.cat((h_n[-2], h_n[-1]), 1))


def initial_state(arrays: dict[str, np.ndarray], recurrent: str) -> dict[str, torch.Tensor]:
    """Return the weights of a work as a state dict of `embedding`, the recurrent layer and `linear`."""
    state = {}
    for name, array in arrays.items():
        if name.startswith(("weight_", "bias_")):
            state[recurrent + name] = torch.from_numpy(array.copy())
        elif name in ("embedding", "linear"):
            state[f"{name}.weight"] = torch.from_numpy(array.copy())
    if "linear" in arrays:
        state["linear.bias"] = torch.zeros(1)
    return state


def freeze_second_bias(parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Leave torch's second bias at zero: Keras has one only, and with two Adam would move it twice as fast."""
    for name, parameter in parameters:
        if "bias_hh" in name:
            parameter.requires_grad_(False)


def loss_of(spec: Spec, result: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the logits, or the weighted sum of the outputs, a sequence, of a work that has no head."""
    if spec.work.every_step:
        return (result.float() * targets).sum() / spec.work.batch
    return torch.nn.functional.binary_cross_entropy_with_logits(result[:, 0].float(), targets)


def targets_of(spec: Spec, number: int) -> torch.Tensor:
    """Targets of one batch; for a work without a head the weights of its outputs."""
    return torch.from_numpy(spec.arrays["output_weights" if spec.work.every_step else f"targets_{number}"])


def adam(parameters: Any, *, fused: bool) -> torch.optim.Adam:
    """Adam with the settings that all peers share."""
    betas = (ADAM["beta_1"], ADAM["beta_2"])
    return torch.optim.Adam(parameters, ADAM["learning_rate"], betas, ADAM["epsilon"], fused=fused or None)


def main() -> None:
    spec = read_spec()
    flush = "flush" in spec.variant
    if flush:
        torch.set_flush_denormal(True)  # before torch starts its threads, which inherit the setting
    torch.set_num_threads(spec.threads)
    model = Model(spec)
    model.train(spec.mode == "train")
    freeze_second_bias(model.named_parameters())
    optimizer = adam((p for p in model.parameters() if p.requires_grad), fused=flush)
    run: Any = torch.compile(model) if "compile" in spec.variant else model
    key = "ids" if spec.work.vocabulary_size else "values"
    batches = []
    for number in range(BATCHES):
        lengths = spec.arrays[f"lengths_{number}"]
        inputs = torch.from_numpy(padded(spec.arrays[f"{key}_{number}"], lengths))
        batches.append((inputs, torch.from_numpy(lengths), targets_of(spec, number)))

    def low_precision() -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", torch.bfloat16) if "bf16" in spec.variant else contextlib.nullcontext()

    def train(number: int) -> float:
        inputs, lengths, targets = batches[number]
        optimizer.zero_grad()
        with low_precision():
            result = run(inputs, lengths)
        loss = loss_of(spec, result, targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    def infer(number: int) -> np.ndarray:
        inputs, lengths, _ = batches[number]
        with torch.inference_mode(), low_precision():
            return run(inputs, lengths).float().numpy()

    notes = "reads padding: another function" if spec.work.ragged and not model.packed else ""
    step = train if spec.mode == "train" else infer

    def reset() -> None:
        with torch.no_grad():
            model.load_state_dict(model.initial)

    serve(spec, Peer(step, reset, {"torch": torch.__version__}, notes), BATCHES)


if __name__ == "__main__":
    main()
