"""A run on disk: a model folder with the optimizer's moments, the running mean, the best weights and the position.

Written through `model_folder`, so it is whole or not there at all, and read with the same checks. The order of an epoch
and the masks of a step come from the seed and their number, so no loader or generator state is needed.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bilstm.config import changed_settings, to_mapping
from bilstm.errors import ModelFolderError, UsageError
from bilstm.model_folder import ModelFolder, load_model, pack_tensors, save_model, unpack_tensors
from bilstm.strict_json import read_strict_json, write_json
from bilstm.train_config import TrainConfig
from bilstm.training.averaging import WeightAverage
from bilstm.training.events import EpochRow

__all__ = ["RunState", "made_with", "model_weights", "read_checkpoint", "restore", "set_weights", "write_checkpoint"]

STATE = "state.safetensors"
RUN = "run.json"


def made_with() -> str:
    """Name what decides the last bits of a result besides settings, data and threads."""
    return f"torch {torch.__version__} on {platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"


@dataclass
class RunState:
    """Where a run stands.

    Parameters
    ----------
    epoch : int
        Epoch in progress, from 1.
    position : int
        Batches of it that are done.
    step : int
        Batches done in the whole run.
    rows : int
        Rows of the epoch that are done; `loss_sum` and `score_sum` are sums over them.
    seconds : float
        Training time of the epoch so far.
    learning_rate : float
        Of the last step.
    best_epoch : int
        0 before the first evaluation.
    stopped_because : str or None
        None while the run has not come to its end.
    """

    epoch: int = 1
    position: int = 0
    step: int = 0
    rows: int = 0
    loss_sum: float = 0.0
    score_sum: float | None = None
    seconds: float = 0.0
    learning_rate: float = 0.0
    epochs_without_gain: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    best_loss: float | None = None
    threads: int = 1
    average_steps: int = 0
    made_with: str = dataclasses.field(default_factory=made_with)
    stopped_because: str | None = None
    history: list[EpochRow] = dataclasses.field(default_factory=list)


def model_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """Copy a model's weights and buffers, by name, as numpy arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def set_weights(model: nn.Module, weights: Mapping[str, Tensor | np.ndarray]) -> None:
    """Copy weights into a model that has exactly these names and shapes.

    The copy goes into memory that torch allocated: matrix libraries round differently at other alignments.

    Raises
    ------
    ModelFolderError
        Naming the first weight that does not fit.
    """
    own = model.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in own or name not in weights or tuple(own[name].shape) != tuple(weights[name].shape):
            raise ModelFolderError(f"weight {name!r} does not fit this model.", "The weights are of another model.")
    for name, tensor in own.items():
        tensor.copy_(_as_tensor(weights[name]))


def _as_tensor(value: Tensor | np.ndarray) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value)  # copies: the array may be read-only


def write_checkpoint(
    folder: str | Path,
    state: RunState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    best: Mapping[str, Tensor] | None,
    config: TrainConfig,
    data_fingerprint: str,
) -> None:
    """Write a run, replacing its earlier checkpoint.

    Raises
    ------
    OutputError, WriteFailedError, TrainingDivergedError
        As `save_model`; the earlier checkpoint is intact then.
    """
    tensors: dict[str, Tensor] = {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.sums.items()}
        state.average_steps = average.steps
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    save_model(
        folder,
        config={"training": to_mapping(config), "data_fingerprint": data_fingerprint},
        weights=model_weights(model),
        files={
            STATE: pack_tensors({name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}),
            RUN: write_json(dataclasses.asdict(state)),
        },
        overwrite=True,
    )


def read_checkpoint(
    folder: str | Path, config: TrainConfig, data_fingerprint: str
) -> tuple[RunState, ModelFolder, dict[str, np.ndarray]]:
    """Read a run that may go on with these settings and this data.

    Returns
    -------
    RunState, ModelFolder, dict of str to ndarray
        Where it stands, its folder with the present weights, and the other tensors.

    Raises
    ------
    UsageError
        If a setting that changes the result, or the data, is not what it was; every change is named.
    ModelFolderError
        If the folder is damaged or is no checkpoint.
    """
    stored = load_model(folder)
    if STATE not in stored.files or RUN not in stored.files:
        raise ModelFolderError(f"{folder} is a model, not a checkpoint: it has no {RUN}.")
    if changes := changed_settings(stored.config.get("training", {}), config):
        raise UsageError(
            f"{folder}: the run cannot go on with other settings: {'; '.join(changes)}.",
            "Give the settings it was started with, or remove the checkpoint to start again.",
        )
    if stored.config.get("data_fingerprint") != data_fingerprint:
        raise UsageError(
            f"{folder}: the run cannot go on: the training data is not what it was.",
            "Give the files it was started with, or remove the checkpoint to start again.",
        )
    run = read_strict_json(stored.files[RUN], f"{folder}/{RUN}")
    known = {member.name for member in dataclasses.fields(RunState)}
    if not isinstance(run, dict) or run.keys() != known:
        raise ModelFolderError(f"{folder}/{RUN}: is not the state of a run of this version.")
    run["history"] = [EpochRow(**row) for row in run["history"]]
    return RunState(**run), stored, unpack_tensors(stored.files[STATE], f"{folder}/{STATE}")


def restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    state: RunState,
    weights: Mapping[str, np.ndarray],
    tensors: Mapping[str, np.ndarray],
) -> dict[str, Tensor] | None:
    """Put a run back into its objects; return the best weights so far, None before the first evaluation.

    Raises
    ------
    ModelFolderError
        If the checkpoint is of another model.
    """
    set_weights(model, weights)
    groups: dict[str, dict[str, Any]] = {"best": {}, "average": {}, "optimizer": {}}
    for name, array in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = torch.tensor(array)
    for name, parameter in model.named_parameters():
        start = f"{name}/"
        kept = {
            key[len(start) :]: value.to(parameter.device)
            for key, value in groups["optimizer"].items()
            if key.startswith(start)
        }
        if kept:
            optimizer.state[parameter] = kept
    if average is not None:
        if groups["average"].keys() != average.sums.keys():
            raise ModelFolderError("the running mean of the checkpoint is of another model.")
        for name, tensor in average.sums.items():
            tensor.copy_(groups["average"][name])
        average.steps = state.average_steps
    return groups["best"] or None
