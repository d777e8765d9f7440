"""Begin a text classifier with what another model learned on other texts: vocabulary, word vectors, recurrent layers.

The other model is a language model (`bilstm pretrain`) or a text classifier. Taken over are its tokenizer and words,
and the weights of the layers up to the last recurrent one; words that only the new texts have are added, each with the
mean word vector (Howard and Ruder 2018, arXiv:1801.06146, section 3.2). The layers above are new.

    start = read_start("language")
    config = start.adopt(config)                  # sizes and tokenizer as the weights need them
    encoder = start.encoder_for(train_texts, config)
    start.place(net, encoder)                     # copies the weights into the torch face

Imports no torch; `place` is given a model that has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm import description
from bilstm.config import describe
from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import IdEncoder, TextEncoder, Vocabulary, encoder_from_config
from bilstm.description import Layer
from bilstm.errors import DataError, ModelFolderError, ShapeError, UsageError
from bilstm.model_folder import load_model
from bilstm.runtime.word_ids import count_tokens
from bilstm.tasks.text_classification import Config

if TYPE_CHECKING:
    from bilstm.layers.model import Model

__all__ = ["StartingWeights", "read_start", "weights_to_start_with"]

TASKS = ("language-model", "text-classification")
# Settings that decide the shapes of what is taken over, or what a token is
SHARED = (
    "tokenizer", "lowercase", "embedding_size", "convolution_size", "kernel_size", "cell", "hidden_size", "num_layers",
    "layer_sizes", "bidirectional", "merge_mode",
)  # fmt: skip
# What a language model always is
OF_LANGUAGE = {
    "convolution_size": None, "num_layers": 1, "layer_sizes": None, "bidirectional": True, "merge_mode": "concat",
}  # fmt: skip
FEW_ROWS = 1_000  # below it a word that stands once may still be the only sign of its class


@dataclass(frozen=True)
class StartingWeights:
    """What a new model begins with; made by `read_start`.

    Parameters
    ----------
    folder : str
    task : str
        That of the other model.
    encoder : TextEncoder or IdEncoder
    settings : dict
        Of the new model: those in `SHARED`.
    layers : tuple of (Layer, dict of str to ndarray)
        Embedding, convolution and recurrent layers in their order, each with its weights by torch's names.
    """

    folder: str
    task: str
    encoder: TextEncoder | IdEncoder
    settings: dict[str, Any]
    layers: tuple[tuple[Layer, dict[str, np.ndarray]], ...]

    def adopt(self, config: Config) -> Config:
        """Return the settings with sizes, cell and tokenizer as the weights need them.

        Raises
        ------
        UsageError
            If one was set to something else; a setting that has its default counts as not set.
        """
        defaults = {setting.name: setting for setting in describe(Config)}
        for name, value in self.settings.items():
            asked = getattr(config, name)
            if asked not in (value, defaults[name].default):
                raise UsageError(
                    f"{defaults[name].flag} {asked}: the weights in {self.folder} have {value}.",
                    "Leave it out, or start from another model.",
                )
        return dataclasses.replace(config, **self.settings)

    def encoder_for(self, texts: Sequence[str] | Ragged, config: Config) -> TextEncoder | IdEncoder:
        """Return the encoder of the new model: the words of the other one, then frequent new words of the texts.

        Raises
        ------
        DataError
            If texts are given and the other model reads word ids, or the other way round.
        """
        if isinstance(texts, Ragged) != isinstance(self.encoder, IdEncoder):
            found, wanted = ("word ids", "texts") if isinstance(texts, Ragged) else ("texts", "word ids")
            raise DataError(f"the training data are {found}, the model in {self.folder} reads {wanted}.")
        if isinstance(self.encoder, IdEncoder):
            return dataclasses.replace(self.encoder, max_length=config.max_length, keep=config.keep)
        assert not isinstance(texts, Ragged)  # as checked above
        old = self.encoder.vocabulary
        min_count = config.min_count if len(texts) >= FEW_ROWS else 1
        counts = count_tokens(self.encoder.tokenizer, texts)
        counted = Vocabulary.of_counts(counts, config.vocabulary_size, min_count)
        added = tuple(token for token in counted.tokens if token not in old.id_of)
        return TextEncoder(self.encoder.tokenizer, Vocabulary(old.tokens + added), config.max_length, config.keep)

    def place(self, net: Model, encoder: TextEncoder | IdEncoder) -> list[str]:
        """Copy the weights into a model of the same shapes; return the names of what was copied.

        Parameters
        ----------
        net : layers.model.Model
        encoder : TextEncoder or IdEncoder
            As `encoder_for` gave it: the model may know more words, at the end.

        Raises
        ------
        ShapeError
            If the model's layers are of other shapes; nothing is copied then.
        """
        import torch

        own = [number for number, layer in enumerate(net.description) if isinstance(layer, _KINDS)]
        if len(own) != len(self.layers):
            raise ShapeError(f"{self.folder} has weights of {len(self.layers)} layers, the model has {len(own)} such.")
        found = {}
        for number, (layer, weights) in zip(own, self.layers, strict=True):
            for name, array in weights.items():
                full = f"layers.{number}.{name}"
                found[full] = self._grown(array, encoder) if isinstance(layer, description.Embedding) else array
        state = net.state_dict()
        for name, array in found.items():
            if name not in state or tuple(state[name].shape) != array.shape:
                wanted = tuple(state[name].shape) if name in state else "nothing of that name"
                raise ShapeError(f"{self.folder}: the weight for {name} has shape {array.shape}, the model {wanted}.")
        with torch.no_grad():
            for name, array in found.items():
                state[name].copy_(torch.tensor(array))
        return list(found)

    def _grown(self, table: np.ndarray, encoder: TextEncoder | IdEncoder) -> np.ndarray:
        """Return the word vectors with mean ones for the words that were added."""
        size = encoder.vocabulary_size if isinstance(encoder, IdEncoder) else len(encoder.vocabulary)
        mean = table.mean(axis=0, dtype=np.float64).astype(table.dtype)
        return np.concatenate([table, np.broadcast_to(mean, (max(size - len(table), 0), table.shape[1]))])


_KINDS = (description.Embedding, description.Convolution, description.Recurrent)


def read_start(folder: str | Path) -> StartingWeights:
    """Read what a new model can begin with from a model folder.

    Raises
    ------
    InputNotFoundError
        If there is nothing at `folder`.
    ModelFolderError
        If it is damaged, or of a task that a text classifier cannot begin with.
    """
    stored = load_model(folder)
    task = stored.config.get("task")
    if task not in TASKS:
        raise ModelFolderError(f"{folder}: a model of the task {task!r} cannot be started from; {' and '.join(TASKS)}.")
    settings, vocabulary = stored.config.get("settings"), stored.files.get("vocabulary.json")
    if not isinstance(settings, dict) or vocabulary is None:
        raise ModelFolderError(f"{folder}: holds no settings or no vocabulary.json, so it cannot be started from.")
    known = {**settings, **OF_LANGUAGE} if task == "language-model" else settings
    if missing := [name for name in SHARED if name not in known and name != "kernel_size"]:
        raise ModelFolderError(f"{folder}: config.json: settings: {missing[0]!r} is missing.")
    layers = description.layers_from_config(stored.config.get("layers"))
    prefix = ""
    if layers and isinstance(layers[0], description.Average):  # of several members, the first
        prefix, layers = "layers.0.members.0.", layers[0].layers
    parts = weights_to_start_with(layers, stored.weights, prefix=prefix, where=str(folder))
    adopted = {name: _plain(known[name]) for name in SHARED if name in known}
    return StartingWeights(str(folder), str(task), encoder_from_config(vocabulary.decode("utf-8")), adopted, parts)


def weights_to_start_with(
    layers: Sequence[Layer], weights: Mapping[str, np.ndarray], *, prefix: str = "", where: str
) -> tuple[tuple[Layer, dict[str, np.ndarray]], ...]:
    """Return the layers that a new model can take over, each with its weights by torch's names.

    Parameters
    ----------
    layers : sequence of Layer
    weights : mapping of str to ndarray
        Those of layer n are named `{prefix}layers.{n}.`.
    where : str
        Named in the error.

    Raises
    ------
    ModelFolderError
        If one is missing or of another shape.
    """
    parts = []
    for number, layer in enumerate(layers):
        if not isinstance(layer, _KINDS):
            continue
        own = {}
        for name, shape in description.weight_shapes_of(layer).items():
            array = weights.get(f"{prefix}layers.{number}.{name}")
            if array is None or array.shape != shape:
                raise ModelFolderError(f"{where}: weight 'layers.{number}.{name}' is missing or not of shape {shape}.")
            own[name] = array
        parts.append((layer, own))
    return tuple(parts)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
