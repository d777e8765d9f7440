"""How a text classifier is trained: development part, encoder, linear baseline, word vectors, the loop, calibration.

The second half of `text_classification.py`. Imports torch and scikit-learn only inside the functions, so that a
machine that only predicts never needs them.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm import description
from bilstm.data.batching import epoch_batches, ordered_batches
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.splitting import split_rows
from bilstm.data.tokenizers import BytePairTokenizer, CharacterTokenizer, Tokenizer, WordTokenizer
from bilstm.data.vocabulary import IdEncoder, TextEncoder
from bilstm.description import Layer
from bilstm.errors import DataError, MissingExtraError, UsageError
from bilstm.evaluation.joining import fit_joining
from bilstm.metrics import Temperature, fit_temperature
from bilstm.metrics.multilabel import micro_f1
from bilstm.runtime.engine_recurrent import resolve_precision
from bilstm.runtime.model import Model as RuntimeModel
from bilstm.tasks.phases import Clock
from bilstm.tasks.text_classification import (
    BATCH_ROWS,
    BATCH_STEPS,
    Config,
    JoinedLinear,
    TextModel,
    Texts,
    describe_model,
    dev_rows_of,
    for_data,
    output_count,
    words_of,
)
from bilstm.thread_waiting import wait_passively

if TYPE_CHECKING:
    from bilstm.evaluation.baseline import LinearBaseline
    from bilstm.training.events import Listener
    from bilstm.training.loop import TrainResult

__all__ = ["Outcome", "build_encoder", "development_part", "fit", "fit_baseline", "words_of"]

TYPICAL_LENGTH = 180  # tokens of a text to which `adversarial_norm` refers
MIN_JOIN_ROWS = 100  # fewer development rows say little about three weights
MIN_JOIN_GAIN = 0.02  # of the log loss; less is not worth a second model in the folder
FEW_ROWS = 1_000  # below it a word that stands once may still be the only sign of its class


@dataclass
class Outcome:
    """What `fit` gives: the model, and everything the report says about how it came about.

    Parameters
    ----------
    model : TextModel
    config : Config
        With everything filled in that the given one left to the data.
    result : TrainResult
    baseline : LinearBaseline or None
    train_rows, dev_rows : ndarray of int64
        Rows of the given texts that trained, and that chose; `dev_rows` is empty if a validation part was given.
    dev_targets, dev_outputs, dev_logits : ndarray
        Of the development part, in the order of its rows.
    dev_metrics, baseline_metrics : dict
    network_metrics : dict
        The network's alone, on the development part, where a linear model is joined to it.
    dev_metrics_before : dict or None
        The model's before temperature scaling; None for numbers.
    temperature : Temperature or None
    seconds : dict of str to float
        Wall time of each phase.
    notes : list of str
    """

    model: TextModel
    config: Config
    result: TrainResult
    baseline: LinearBaseline | None
    train_rows: np.ndarray
    dev_rows: np.ndarray
    dev_targets: np.ndarray
    dev_outputs: np.ndarray
    dev_logits: np.ndarray
    dev_metrics: dict[str, Any]
    baseline_metrics: dict[str, Any] | None
    network_metrics: dict[str, Any]
    dev_metrics_before: dict[str, Any] | None = None
    temperature: Temperature | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def fit(
    texts: Texts,
    targets: np.ndarray,
    labels: LabelSet,
    config: Config,
    *,
    valid: tuple[Texts, np.ndarray] | None = None,
    baseline: bool = True,
    encoder: TextEncoder | IdEncoder | None = None,
    checkpoint: str | None = None,
    resume: bool = False,
    progress: Listener | None = None,
) -> Outcome:
    """Train a classifier.

    Parameters
    ----------
    texts : sequence of str, or Ragged of word ids
    targets : ndarray
        `labels.encode` of the labels.
    labels : LabelSet
    config : Config
    valid : (texts, targets), optional
        Development part; by default `dev_rows_of` of the rows, stratified, drawn with `config.seed`.
    baseline : bool, default=True
        Fit the linear n-gram model too.
    encoder : TextEncoder or IdEncoder, optional
        What made the ids, where `texts` and `valid` are ids that a fitted encoder gave; they are used as they are, and
        `baseline` must be False.
    checkpoint, resume, progress
        As in `training.train`.

    Raises
    ------
    DataError
        If there are too few rows to split, or no words.
    MissingExtraError
        If torch is not installed.
    """
    wait_passively()
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Training needs torch.", "pip install 'bilstm[train]'") from error
    from bilstm.training import events

    tell = progress or (lambda event: None)
    clock = Clock(tell)
    train_rows, dev_rows = development_part(len(texts), targets, labels, config, valid is not None)
    train_texts, train_targets = _take(texts, train_rows), targets[train_rows]
    dev_texts, dev_targets = valid if valid is not None else (_take(texts, dev_rows), targets[dev_rows])
    if len(dev_targets) == 0:
        raise DataError("the development part has no rows.", "Give more rows, or a file with --valid.")

    if encoder is not None:
        if baseline or not isinstance(train_texts, Ragged) or not isinstance(dev_texts, Ragged):
            raise UsageError("with an encoder, fit takes the ids that it gave, and fits no linear baseline.")
        train_ids, dev_ids = train_texts, dev_texts
    else:
        with clock.phase("encode"):
            encoder, train_ids = build_encoder(train_texts, config)
            dev_ids = encoder.encode(dev_texts)  # type: ignore[arg-type]
    config = for_data(config, train_ids.lengths)
    tell(events.Note(_plan(train_ids, dev_ids, encoder, labels, config)))
    linear = None
    if baseline:
        with clock.phase("linear baseline"):
            linear = fit_baseline(train_texts, train_targets, dev_texts, dev_targets, labels, config.seed)
            for note in linear.notes:
                tell(events.Note(note))
    shift, scale = _standardisation(train_targets, labels)
    layers, weights, result = _train_layers(
        _Part(train_ids, (train_targets - shift) / scale if labels.kind == "regression" else train_targets),
        _Part(dev_ids, (dev_targets - shift) / scale if labels.kind == "regression" else dev_targets),
        encoder, labels, config, checkpoint, resume, tell, clock,
    )  # fmt: skip
    runtime = RuntimeModel(layers, weights, threads=config.threads)
    model = TextModel(encoder, labels, runtime, weights, shift=shift, scale=scale)
    with clock.phase("evaluate"):
        dev_logits = model.logits_of_ids(dev_ids)
        temperature, before, notes = None, None, []
        if labels.kind != "regression":
            before = model.measure(model.decode(dev_logits), dev_targets)
            temperature = fit_temperature(dev_logits[:, 0] if labels.kind == "binary" else dev_logits, dev_targets)
            model.temperature = temperature.value
            notes += [temperature.note] if temperature.note else []
        network_metrics = model.measure(model.decode(dev_logits), dev_targets)
        if linear is not None and config.join_linear and temperature is not None:
            dev_logits, note = _join(model, linear, dev_logits, dev_texts, dev_targets, temperature)
            tell(events.Note(note))
            notes.append(note)
        dev_outputs = model.decode(dev_logits)
    return Outcome(
        model=model,
        config=config,
        result=result,
        baseline=linear,
        train_rows=train_rows,
        dev_rows=dev_rows,
        dev_targets=dev_targets,
        dev_outputs=dev_outputs,
        dev_logits=dev_logits,
        dev_metrics=model.measure(dev_outputs, dev_targets),
        baseline_metrics=None if linear is None else model.measure(linear.dev_probabilities, dev_targets),
        dev_metrics_before=before,
        temperature=temperature,
        seconds=clock.seconds,
        notes=notes,
        network_metrics=network_metrics,
    )


def _join(
    model: TextModel,
    linear: LinearBaseline,
    network_logits: np.ndarray,
    dev_texts: Texts,
    dev_targets: np.ndarray,
    temperature: Temperature,
) -> tuple[np.ndarray, str]:
    """Join the linear model to the network if the development part gains by it; return the logits and what was done."""
    if len(dev_targets) < MIN_JOIN_ROWS:
        return network_logits, f"The n-gram model was not joined: {len(dev_targets)} development rows are too few."
    found = linear.to_runtime()
    margins = found.margins(words_of(dev_texts))
    joining = fit_joining(network_logits, margins, dev_targets)
    alone = temperature.loss_after
    if joining.network <= 0 or not any(joining.linear) or joining.loss > alone * (1 - MIN_JOIN_GAIN):
        return network_logits, "The n-gram model was not joined: the development part gains nothing by it."
    model.joined, model.temperature = JoinedLinear(found, joining), 1.0
    note = (
        f"The n-gram model was joined to the network's output: development log loss {alone:.4f} -> {joining.loss:.4f}."
    )
    return joining.join(network_logits, margins), note


@dataclass(frozen=True)
class _Part:
    """Encoded texts and their targets; numbers are standardised."""

    ids: Ragged
    targets: np.ndarray

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for array in (self.ids.values, self.ids.offsets, self.targets):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _take(texts: Texts, rows: np.ndarray) -> Texts:
    if isinstance(texts, Ragged):
        return texts.select(rows)
    return [texts[int(row)] for row in rows]


def development_part(
    count: int, targets: np.ndarray, labels: LabelSet, config: Config, is_given: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that train and rows that choose."""
    if is_given:
        return np.arange(count), np.zeros(0, dtype=np.int64)
    if count < 2:
        raise DataError(f"{count} rows are too few to train on and to choose by.", "Give more rows.")
    dev = dev_rows_of(config, count)
    is_stratified = labels.kind in ("binary", "multiclass")
    train_rows, dev_rows = split_rows(targets, [count - dev, dev], config.seed, is_stratified=is_stratified)
    return train_rows, dev_rows


def build_encoder(texts: Texts, config: Config) -> tuple[TextEncoder | IdEncoder, Ragged]:
    """Build the encoder from the training part alone, and encode that part."""
    if isinstance(texts, Ragged):
        largest = int(texts.values.max(initial=0))
        encoder = IdEncoder(min(largest + 1, config.vocabulary_size), config.max_length, config.keep)
        return encoder, encoder.encode(texts)
    tokenizer: Tokenizer
    if config.tokenizer == "words":
        tokenizer = WordTokenizer(config.lowercase)
    elif config.tokenizer == "characters":
        tokenizer = CharacterTokenizer(config.lowercase)
    else:
        tokenizer = BytePairTokenizer.train(texts, config.vocabulary_size, config.lowercase)
    built = TextEncoder.build(
        texts,
        tokenizer,
        max_size=config.vocabulary_size,
        min_count=config.min_count if len(texts) >= FEW_ROWS else 1,
        max_length=config.max_length,
        keep=config.keep,
    )
    return built, built.encode(texts)


def _plan(
    train_ids: Ragged, dev_ids: Ragged, encoder: TextEncoder | IdEncoder, labels: LabelSet, config: Config
) -> str:
    """Say in one line what is about to happen."""
    known = _vocabulary_size(encoder)
    shapes = description.weight_shapes(describe_model(config, known, output_count(labels))).values()
    parameters = sum(math.prod(shape) for shape in shapes)
    return (
        f"{len(train_ids):,} texts to train on (median {int(np.median(train_ids.lengths)):,} tokens), "
        f"{len(dev_ids):,} to choose the epoch by; {known:,} known tokens, {parameters:,} parameters."
    )


def _vocabulary_size(encoder: TextEncoder | IdEncoder) -> int:
    return encoder.vocabulary_size if isinstance(encoder, IdEncoder) else len(encoder.vocabulary)


def fit_baseline(
    train_texts: Texts,
    train_targets: np.ndarray,
    dev_texts: Texts,
    dev_targets: np.ndarray,
    labels: LabelSet,
    seed: int,
) -> LinearBaseline:
    """Fit the linear n-gram model on the words of the training part, tuned on the development part."""
    from bilstm.evaluation.baseline import fit_linear_baseline

    known: dict[str, str] = {}  # one object per different word: a list of words is then 8 bytes a word
    kind = labels.kind if labels.kind in ("multilabel", "regression") else "classification"
    return fit_linear_baseline(
        words_of(train_texts, known),
        train_targets,
        words_of(dev_texts, known),
        dev_targets,
        kind,  # type: ignore[arg-type]
        len(labels.names) or None,
        seed,
    )


def _standardisation(targets: np.ndarray, labels: LabelSet) -> tuple[float, float]:
    """Return shift and scale of numbers: mean and standard deviation of the training part; 0 and 1 for classes."""
    if labels.kind != "regression":
        return 0.0, 1.0
    spread = float(targets.std(dtype=np.float64))
    return float(targets.mean(dtype=np.float64)), spread if spread > 0 else 1.0


def _train_layers(
    train_part: _Part,
    dev_part: _Part,
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

    vocabulary_size = _vocabulary_size(encoder)
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
            net.get_parameter(f"layers.{_embedding_index(layers)}.weight").copy_(torch.from_numpy(vectors))
    objective = _Objective(net, train_part, labels, config)
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


def _embedding_index(layers: tuple[Layer, ...]) -> int:
    return next(number for number, layer in enumerate(layers) if isinstance(layer, description.Embedding))


class _Objective:
    """Loss of a batch and score of the development part, for the labels' kind."""

    def __init__(self, net: Any, train_part: _Part, labels: LabelSet, config: Config):
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

    def dev_score(self, part: _Part) -> Any:
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
