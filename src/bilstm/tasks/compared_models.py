"""The models that a comparison knows by name, as settings. Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import re

from bilstm.errors import UsageError
from bilstm.tasks.text_classification import Config

__all__ = ["DEFAULT_MODELS", "LINEAR", "NOT_SHARED", "settings_of"]

LINEAR, FEEDFORWARD = "linear", "feedforward"
DEFAULT_MODELS = (LINEAR, FEEDFORWARD, "rnn", "gru", "lstm", "bilstm", "bilstm-2")
# settings that a comparison does not take, with the reason
NOT_SHARED = {
    **dict.fromkeys(("cell", "bidirectional", "num_layers"), "the name of each model says it"),
    "join_linear": "networks and the linear model are compared apart",
}
_RECURRENT = re.compile(r"(bi)?(rnn|gru|lstm)(?:-([2-9]|[1-5]\d|6[0-4]))?")


def settings_of(model: str, config: Config) -> Config:
    """Return the settings of a model by its name.

    Parameters
    ----------
    model : str
        "rnn", "gru" or "lstm", with "bi" before it for two directions and "-2", "-3", ... after it for more layers; or
        "feedforward": the mean (or what `config.pooling` says in place of the last state) of the word vectors, a relu
        layer of as many units as a recurrent layer has, the output.
    config : Config
        Everything that the name does not say. Of `layer_sizes` a model takes as many as it has layers.

    Raises
    ------
    UsageError
        For a name that is none of these, or more layers than `layer_sizes` names.
    """
    sizes = config.layer_sizes
    if model == FEEDFORWARD:
        pooling = tuple(dict.fromkeys("mean" if kind == "last" else kind for kind in config.pooling))
        return dataclasses.replace(
            config,
            cell="none",
            num_layers=1,
            layer_sizes=None,
            pooling=pooling,
            dense_size=config.dense_size or (sizes[0] if sizes else config.hidden_size),
        )
    match = _RECURRENT.fullmatch(model)
    if match is None:
        near = difflib.get_close_matches(model, [*DEFAULT_MODELS, "bigru", "birnn"], 1)
        hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(DEFAULT_MODELS)}, bigru, lstm-2, ..."
        raise UsageError(f"--models: there is no model {model!r}.", hint)
    layers = int(match[3] or 1)
    if sizes is not None and layers > len(sizes):
        raise UsageError(
            f"--models: {model} has {layers} layers, but layer-sizes names {len(sizes)}.",
            "Name a size for each layer, or set --layer-sizes none and --hidden-size.",
        )
    return dataclasses.replace(
        config,
        cell=match[2],  # type: ignore[arg-type]
        bidirectional=match[1] is not None,
        num_layers=layers if sizes is None else 1,
        layer_sizes=None if sizes is None else sizes[:layers],
    )
