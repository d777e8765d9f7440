"""The network of a text classifier: its loss, its development score, its training.

Between `text_training.py`, which prepares the parts and calibrates what comes out, and the loop. Imports torch only
inside the functions.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm import description
from bilstm.data.batching import epoch_batches, ordered_batches
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import IdEncoder, TextEncoder
from bilstm.description import Layer
from bilstm.metrics.multilabel import micro_f1
from bilstm.runtime.engine_recurrent import resolve_precision
from bilstm.tasks.phases import Clock
from bilstm.tasks.text_classification import BATCH_ROWS, BATCH_STEPS, Config, describe_model, output_count

if TYPE_CHECKING:
    from bilstm.training.events import Listener
    from bilstm.training.loop import TrainResult

__all__ = ["Objective", "Part", "embedding_index", "train_network", "vocabulary_size_of"]

TYPICAL_LENGTH = 180  # tokens of a text to which `adversarial_norm` refers


@dataclass(frozen=True)
class Part:
    """Encoded texts and their targets; numbers are standardised."""

    ids: Ragged
    targets: np.ndarray

    def fingerprint(self) -> str:
        """Name the rows by their content."""
        digest = hashlib.sha256()
        for array in (self.ids.values, self.ids.offsets, self.targets):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def vocabulary_size_of(encoder: TextEncoder | IdEncoder) -> int:
    """Return how many ids the encoder gives."""
    return encoder.vocabulary_size if isinstance(encoder, IdEncoder) else len(encoder.vocabulary)


def train_network(
    train_part: Part,
    dev_part: Part,
    encoder: TextEncoder | IdEncoder,
    labels: LabelSet,
    config: Config,
    checkpoint: str | None,
    resume: bool,
    tell: Listener,
    clock: Clock,
) -> tuple[tuple[Layer, ...], dict[str, np.ndarray], TrainResult]:
    """Train the torch face of the model; return its description and best weights."""
    import torch

    from bilstm.layers.model import build_model, weights_of
    from bilstm.layers.randomness import Randomness
    from bilstm.training.loop import train

    vocabulary_size = vocabulary_size_of(encoder)
    layers = describe_model(config, vocabulary_size, output_count(labels))
    randomness = Randomness(config.seed)
    precision = resolve_precision(config.backend, config.precision)
    net = build_model(layers, randomness, backend=config.backend, precision=precision, threads=config.threads)
    is_going_on = resume and checkpoint is not None and os.path.isdir(checkpoint)
    if config.vectors == "in-domain" and config.tokenizer != "characters" and not is_going_on:
        from bilstm.training.word_vectors import train_word_vectors

        with clock.phase("word vectors"):
            vectors = train_word_vectors(
                train_part.ids, vocabulary_size, config.embedding_size, epochs=config.vector_epochs, seed=config.seed
            )
        with torch.no_grad():
            net.get_parameter(f"layers.{embedding_index(layers)}.weight").copy_(torch.from_numpy(vectors))
    objective = Objective(net, train_part, labels, config)
    with clock.phase("training"):
        result = train(
            net,
            objective.step_loss,
            lambda: objective.dev_score(dev_part),
            lambda epoch: epoch_batches(
                train_part.ids.lengths,
                max_rows=config.batch_size,
                max_steps=config.batch_steps or 2**40,
                seed=config.seed,
                epoch=epoch,
            ),
            config,
            checkpoint=checkpoint,
            resume=resume,
            progress=tell,
            randomness=randomness,
            data_fingerprint=f"{train_part.fingerprint()} {dev_part.fingerprint()}",
        )
    return layers, weights_of(net), result


def embedding_index(layers: tuple[Layer, ...]) -> int:
    """Return the place of the embedding among the layers."""
    return next(number for number, layer in enumerate(layers) if isinstance(layer, description.Embedding))


class Objective:
    """Loss of a batch and score of the development part, for the labels' kind."""

    def __init__(self, net: Any, train_part: Part, labels: LabelSet, config: Config):
        import torch

        from bilstm.training import objectives

        self._net, self._part, self._kind, self._config = net, train_part, labels.kind, config
        self._objectives = objectives
        self._targets = torch.tensor(train_part.targets)
        self._class_weights = None
        # a change of the same size at every step, whatever the length of the texts
        median = float(np.median(train_part.ids.lengths)) if len(train_part.ids) else 0.0
        per_text = config.adversarial_norm
        self._adversarial_norm = None if per_text is None else per_text * math.sqrt(max(median, 1.0) / TYPICAL_LENGTH)
        if config.class_weights == "balanced" and labels.kind in ("binary", "multiclass"):
            self._class_weights = objectives.balanced_class_weights(self._targets, len(labels.names))

    def step_loss(self, rows: np.ndarray) -> Any:
        """Return the loss of the training rows and, for classes, their accuracy."""
        import torch

        targets = self._targets[torch.from_numpy(rows)]
        embedded = self._net.embed(self._part.ids.select(rows))
        norm = self._adversarial_norm
        seen: list[Any] = []

        def loss_of(values: Any) -> Any:
            logits = self._net.run_from_embedded(values)
            seen.append(logits.detach())
            return self._loss(logits, targets)

        if norm is None:
            loss = loss_of(embedded)
        else:
            plain, adversarial = self._objectives.adversarial_loss(loss_of, embedded, norm)
            loss = 0.5 * (plain + adversarial)
        if self._kind in ("binary", "multiclass"):
            return loss, float((_classes(seen[0]) == targets).float().mean())
        return loss

    def _loss(self, logits: Any, targets: Any) -> Any:
        smoothing = self._config.label_smoothing
        if self._kind == "binary":
            return self._objectives.binary_cross_entropy(logits, targets, self._class_weights, smoothing)
        if self._kind == "multiclass":
            return self._objectives.cross_entropy(logits, targets, self._class_weights, smoothing)
        if self._kind == "multilabel":
            return self._objectives.multi_label_cross_entropy(logits, targets)
        return self._objectives.mean_squared_error(logits, targets)

    def dev_score(self, part: Part) -> Any:
        """Return accuracy, micro F1 or the negative root mean squared error (standardised), and the mean loss."""
        import torch

        from bilstm.training.loop import DevScore

        logits = torch.zeros(len(part.ids), self._net.description[-1].output_size)
        for rows in ordered_batches(part.ids.lengths, max_rows=BATCH_ROWS, max_steps=BATCH_STEPS):
            logits[torch.from_numpy(rows)] = self._net(part.ids.select(rows))
        targets = torch.tensor(part.targets)
        loss = float(self._loss(logits, targets))
        if self._kind == "regression":
            return DevScore(-(loss**0.5), loss)
        if self._kind == "multilabel":
            return DevScore(micro_f1(part.targets, (logits > 0).numpy()), loss)
        return DevScore(float((_classes(logits) == targets).float().mean()), loss)


def _classes(logits: Any) -> Any:
    """Return the most probable class of each row: by sign of a single logit, else by the largest."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
