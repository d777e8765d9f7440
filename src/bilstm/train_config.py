"""Settings of the training loop, which every task shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bilstm.config import Settings, field

__all__ = ["TrainConfig"]


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Settings of the training loop, the same for every task.

    See each field's help, unit and range; `describe(TrainConfig)` lists them.
    """

    seed: int = field(0, help="Seed of weights, order and masks.", minimum=0, maximum=2**63 - 1)
    max_epochs: int = field(20, help="Passes over the training data at most.", minimum=1, maximum=100_000)
    batch_size: int = field(32, help="Sequences per batch at most.", unit="rows", minimum=1, maximum=1_000_000)
    batch_steps: int | None = field(
        20_000, help="Steps of all sequences of a batch together at most.", unit="steps", minimum=1, maximum=2**40
    )
    learning_rate: float = field(0.001, help="Step size of the optimizer at its peak.", above=0.0, maximum=100.0)
    schedule: Literal["constant", "linear", "cosine", "one-cycle"] = field(
        "constant", help="How the learning rate falls after the warm-up."
    )
    warmup: float | None = field(
        None,
        help="Share of the run during which the learning rate rises; none means 0, for one-cycle 0.3.",
        minimum=0.0,
        below=1.0,
    )
    optimizer: Literal["adam", "adamw"] = field("adam", help="Optimizer of torch.")
    betas: tuple[float, float] = field(
        (0.9, 0.999), help="Decay of the optimizer's two running means.", minimum=0.0, below=1.0
    )
    epsilon: float = field(1e-8, help="Term that keeps the optimizer's quotient finite.", above=0.0, maximum=1.0)
    weight_decay: float = field(0.0, help="Weight decay (adamw: decoupled).", minimum=0.0, maximum=10.0)
    clip_norm: float | None = field(1.0, help="Scale gradients down to this total norm.", above=0.0)
    patience: int | None = field(
        3,
        help="Stop after so many epochs with neither a better development score nor a lower development loss.",
        unit="epochs",
        minimum=1,
    )
    average_decay: float | None = field(
        None, help="Decay of the running mean of weights that is evaluated and kept.", above=0.0, below=1.0
    )
    adversarial_norm: float | None = field(
        None, help="Norm of the adversarial change of a sequence's embeddings.", above=0.0
    )
    class_weights: Literal["none", "balanced"] = field(
        "none", help="Weight classes in the loss; balanced: by the inverse of their frequency."
    )
    label_smoothing: float = field(0.0, help="Share of the target spread over all classes.", minimum=0.0, below=1.0)
    threads: int | None = field(None, help="CPU threads; none lets torch decide.", minimum=1, maximum=4096)
    backend: Literal["auto", "engine", "torch", "reference"] = field("auto", help="What computes the recurrent layers.")
    precision: Literal["auto", "float32", "bfloat16"] = field(
        "auto",
        help="Numbers inside the recurrent layers; auto: bfloat16 where that is faster, else float32.",
    )
    checkpoint_minutes: float | None = field(
        5.0,
        help="Also save a checkpoint inside an epoch after so many minutes.",
        unit="minutes",
        above=0.0,
        changes_result=False,
    )
    checkpoint_steps: int | None = field(
        None, help="Also save a checkpoint after so many batches.", unit="batches", minimum=1, changes_result=False
    )
