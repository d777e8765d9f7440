"""The network of a text classifier: its loss, its development score, its training.

Between `text_training.py`, which prepares the parts and calibrates what comes out, and the loop. Imports torch only
inside the functions.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm import description
from bilstm.data.batching import epoch_batches, ordered_batches
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import IdEncoder, TextEncoder
from bilstm.description import Layer
from bilstm.metrics import fit_temperature
from bilstm.metrics.multilabel import micro_f1
from bilstm.runtime.engine_recurrent import resolve_precision
from bilstm.tasks.phases import Clock
from bilstm.tasks.text_classification import BATCH_ROWS, BATCH_STEPS, Config, describe_model, output_count

if TYPE_CHECKING:
    from bilstm.layers.model import Model
    from bilstm.tasks.starting_weights import StartingWeights
    from bilstm.tasks.text_members import SharedVectors
    from bilstm.training.events import Listener
    from bilstm.training.fine_tuning import LayerGroup
    from bilstm.training.loop import TrainResult

__all__ = [
    "Objective",
    "Part",
    "begin_network",
    "embedding_index",
    "fine_tuning_groups",
    "learn_word_vectors",
    "new_network",
    "train_network",
    "vocabulary_size_of",
]

SUBWORD_WORDS = 1_000_000  # with more to learn from, most words are better known by their use than by their letters
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
    start: StartingWeights | None = None,
    unlabelled: Ragged | None = None,
    vectors: SharedVectors | None = None,
) -> tuple[tuple[Layer, ...], dict[str, np.ndarray], TrainResult]:
    """Train the torch face of the model; return its description and best weights.

    From unlabelled texts come word vectors alone; see `text_phases` for more.
    """
    from bilstm.layers.model import weights_of
    from bilstm.training import events
    from bilstm.training.loop import train

    net, layers = new_network(encoder, labels, config)

    def learn() -> np.ndarray:
        from bilstm.training.unlabelled import joined_rows

        with clock.phase("word vectors"):
            every = train_part.ids if unlabelled is None else joined_rows(train_part.ids, unlabelled)
            return learn_word_vectors(every, encoder, config, config.vector_epochs, tell)

    if not (resume and checkpoint is not None and os.path.isdir(checkpoint)):
        begin_network(net, encoder, config, start, tell, learn if vectors is None else lambda: vectors.get(learn))
    objective = Objective(net, train_part, labels, config)
    groups = fine_tuning_groups(net, config) if start is not None else ()
    if groups:
        tell(events.Note(_pace_of(groups)))
    with clock.phase("training"):
        result = train(
            net,
            objective.step_loss,
            lambda: objective.dev_score(dev_part),
            objective.batches_of_epoch,
            config,
            checkpoint=checkpoint,
            resume=resume,
            progress=tell,
            randomness=net.randomness,
            data_fingerprint=f"{train_part.fingerprint()} {dev_part.fingerprint()}",
            groups=groups,
        )
    return layers, weights_of(net), result


def new_network(encoder: TextEncoder | IdEncoder, labels: LabelSet, config: Config) -> tuple[Model, tuple[Layer, ...]]:
    """Build the network that the settings describe, with random weights; return its description too."""
    from bilstm.layers.model import build_model
    from bilstm.layers.randomness import Randomness

    layers = describe_model(config, vocabulary_size_of(encoder), output_count(labels))
    precision = resolve_precision(config.backend, config.precision)
    randomness = Randomness(config.seed)
    net = build_model(layers, randomness, backend=config.backend, precision=precision, threads=config.threads)
    return net, layers


def learn_word_vectors(
    ids: Ragged, encoder: TextEncoder | IdEncoder, config: Config, epochs: int, tell: Listener
) -> np.ndarray:
    """Return word vectors (vocabulary, embedding_size) of so many passes over the texts, rare ones by subwords too."""
    from bilstm.training.subwords import with_subwords
    from bilstm.training.word_vectors import train_word_vectors

    size = vocabulary_size_of(encoder)
    vectors = train_word_vectors(
        ids, size, config.embedding_size, epochs=epochs, seed=config.seed,
        backend=config.backend, threads=config.threads, progress=tell,
    )  # fmt: skip
    is_wanted = len(ids.values) < SUBWORD_WORDS if config.subwords is None else config.subwords
    if not is_wanted or config.tokenizer != "words" or isinstance(encoder, IdEncoder):
        return vectors
    words = ["", *encoder.vocabulary.tokens[1:]]  # 0 is the unknown word
    return with_subwords(vectors, np.bincount(ids.values, minlength=size), words)


def begin_network(
    net: Model,
    encoder: TextEncoder | IdEncoder,
    config: Config,
    start: StartingWeights | None,
    tell: Listener,
    learn: Callable[[], np.ndarray],
) -> None:
    """Put in what the network begins with: weights of another model, else the vectors of `learn` if they are wanted."""
    import torch

    from bilstm.training import events

    if start is not None:
        placed = start.place(net, encoder)
        tell(events.Note(f"Begins with {len(placed)} weights of {start.folder}."))
    elif config.vectors == "in-domain" and config.tokenizer != "characters":
        vectors = learn()
        with torch.no_grad():
            net.get_parameter(f"layers.{embedding_index(net.description)}.weight").copy_(torch.from_numpy(vectors))


def fine_tuning_groups(net: Model, config: Config) -> tuple[LayerGroup, ...]:
    """Return how the layers of a network that begins with another's weights learn: none where all learn alike.

    A level is a layer with weights, the embedding the lowest; what stands above the pooling is new and one level.
    """
    from bilstm.training.fine_tuning import layer_groups

    if config.layer_decay == 1.0 and not config.gradual_unfreezing:
        return ()
    pooling = next(n for n, layer in enumerate(net.description) if isinstance(layer, description.Pooling))
    levels: dict[int, list[str]] = {}
    for name, _ in net.named_parameters():
        levels.setdefault(min(int(name.split(".")[1]), pooling), []).append(name)
    ordered = [levels[number] for number in sorted(levels)]
    return layer_groups(ordered, decay=config.layer_decay, is_gradual=config.gradual_unfreezing)


def _pace_of(groups: Sequence[LayerGroup]) -> str:
    """Say in one line how fast each level learns and from which epoch, lowest level first."""
    said = [
        f"{group.names[0].rpartition('.')[0]} {group.rate:.3g}"
        + (f" from epoch {group.first_epoch}" if group.first_epoch > 1 else "")
        for group in groups
    ]
    return f"Fine-tuning, shares of the learning rate: {', '.join(said)}."


def embedding_index(layers: tuple[Layer, ...]) -> int:
    """Return the place of the embedding among the layers."""
    return next(number for number, layer in enumerate(layers) if isinstance(layer, description.Embedding))


class Objective:
    """Loss of a batch and score of the development part, for the labels' kind."""

    def __init__(self, net: Any, train_part: Part, labels: LabelSet, config: Config):
        import torch

        from bilstm.training import objectives

        self.net, self.part, self._kind, self._config = net, train_part, labels.kind, config
        self._objectives = objectives
        self.targets = torch.tensor(train_part.targets)
        self._class_weights = None
        # a change of the same size at every step, whatever the length of the texts
        median = float(np.median(train_part.ids.lengths)) if len(train_part.ids) else 0.0
        per_text = config.adversarial_norm
        self.adversarial_norm = None if per_text is None else per_text * math.sqrt(max(median, 1.0) / TYPICAL_LENGTH)
        if config.class_weights == "balanced" and labels.kind in ("binary", "multiclass"):
            self._class_weights = objectives.balanced_class_weights(self.targets, len(labels.names))

    def step_loss(self, rows: np.ndarray) -> Any:
        """Return the loss of the training rows and, for classes, their accuracy."""
        import torch

        targets = self.targets[torch.from_numpy(rows)]
        embedded = self.net.embed(self.part.ids.select(rows))
        norm = self.adversarial_norm
        if norm is not None and not embedded.values.requires_grad:  # while the embedding is frozen
            embedded.values.requires_grad_()
        seen: list[Any] = []

        def loss_of(values: Any) -> Any:
            logits = self.net.run_from_embedded(values)
            seen.append(logits.detach())
            return self.loss(logits, targets)

        if norm is None:
            loss = loss_of(embedded)
        else:
            weights = self.net.parameters_from_embedded()
            plain, adversarial = self._objectives.adversarial_loss(loss_of, embedded, norm, weights)
            loss = 0.5 * (plain + adversarial)
        score = self.accuracy(seen[0], targets)
        return loss if score is None else (loss, score)

    def accuracy(self, logits: Any, targets: Any) -> float | None:
        """Return the share of right classes; None where labels are no classes."""
        if self._kind not in ("binary", "multiclass"):
            return None
        return float((_classes(logits) == targets).float().mean())

    def batches_of_epoch(self, epoch: int) -> list[np.ndarray]:
        """Return the batches of training rows of an epoch."""
        config = self._config
        limits = {"max_rows": config.batch_size, "max_steps": config.batch_steps or 2**40}
        return epoch_batches(self.part.ids.lengths, **limits, seed=config.seed, epoch=epoch)

    def loss(self, logits: Any, targets: Any) -> Any:
        """Return the mean loss of the labels' kind."""
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
        return self.scored(part)[0]

    def scored(self, part: Part, *, is_calibrated: bool = False) -> tuple[Any, np.ndarray]:
        """Return the development score and which rows are right (none where labels are no classes).

        With `is_calibrated` its loss is the log loss of classes at the temperature that makes it least: networks that
        learned in different ways differ in how sure they are, which calibration mends in the end.
        """
        import torch

        from bilstm.training.loop import DevScore

        found = self.logits(part.ids)
        logits, targets = torch.from_numpy(found), torch.tensor(part.targets)
        if is_calibrated:
            loss = fit_temperature(found[:, 0] if found.shape[1] == 1 else found, part.targets).loss_after
        else:
            loss = float(self.loss(logits, targets))
        if self._kind == "regression":
            return DevScore(-(loss**0.5), loss), np.zeros(0, dtype=bool)
        if self._kind == "multilabel":
            return DevScore(micro_f1(part.targets, (logits > 0).numpy()), loss), np.zeros(0, dtype=bool)
        right = _classes(logits) == targets
        return DevScore(float(right.float().mean()), loss), right.numpy()

    def logits(self, ids: Ragged) -> np.ndarray:
        """Return logits of texts, (rows, outputs), float32; the network is in evaluation mode afterwards."""
        import torch

        outputs = np.zeros((len(ids), self.net.description[-1].output_size), dtype=np.float32)
        self.net.eval()
        with torch.no_grad():
            for rows in ordered_batches(ids.lengths, max_rows=BATCH_ROWS, max_steps=BATCH_STEPS):
                outputs[rows] = self.net(ids.select(rows)).numpy()
        return outputs


def _classes(logits: Any) -> Any:
    """Return the most probable class of each row: by sign of a single logit, else by the largest."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
