"""How a text classifier is trained: development part, encoder, linear baseline, word vectors, the loop, calibration.

The second half of `text_classification.py`. Imports torch and scikit-learn only inside the functions, so that a
machine that only predicts never needs them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import IdEncoder, TextEncoder
from bilstm.errors import UsageError
from bilstm.evaluation.joining import fit_joining
from bilstm.metrics import Temperature, fit_temperature
from bilstm.runtime.model import Model as RuntimeModel
from bilstm.runtime.ngram_linear import NgramLinear
from bilstm.runtime.word_ids import encode_texts
from bilstm.tasks.linear_pupil import LinearPupil
from bilstm.tasks.phase_documents import Documents
from bilstm.tasks.phase_results import PhaseRecord
from bilstm.tasks.phase_teaching import Lesson
from bilstm.tasks.phases import Clock, begin_training
from bilstm.tasks.teacher_joining import can_join_teacher, join_pupil, join_teacher
from bilstm.tasks.text_classification import Config, JoinedLinear, TextModel, Texts, for_data, words_of
from bilstm.tasks.text_members import Member, SharedVectors, joined_layers, joined_result, train_members
from bilstm.tasks.text_network import Part, train_network
from bilstm.tasks.text_parts import (
    TextParts,
    build_encoder,
    divide,
    fit_baseline,
    groups_line,
    plan_line,
    standardisation,
    unlabelled_ids,
)
from bilstm.tasks.text_phases import UnlabelledTraining

if TYPE_CHECKING:
    from bilstm.evaluation.baseline import LinearBaseline
    from bilstm.tasks.starting_weights import StartingWeights
    from bilstm.training.budget import Budget
    from bilstm.training.events import Listener
    from bilstm.training.loop import TrainResult

__all__ = ["Outcome", "Unlabelled", "fit"]

MIN_JOIN_ROWS = 100  # fewer development rows say little about three weights
MIN_JOIN_GAIN = 0.02  # of the log loss; less is not worth a second model in the folder


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
    phases : list of PhaseRecord
        Of a training with unlabelled texts.
    members : list of Member
        The networks that answer together; of several, each with its own scores.
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
    phases: list[PhaseRecord] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)


@dataclass(frozen=True)
class Unlabelled:
    """Texts without labels and what time there is to learn from them.

    Parameters
    ----------
    texts : sequence of str, or Ragged of word ids
        Of the kind of the labelled ones.
    budget : Budget
        Its time runs from when it was made.
    documents : two ndarrays (labelled texts, size) and (unlabelled texts, size), optional
        Document vectors, rows of norm 1, that were learned before.
    language : StartingWeights, optional
        A language model that was learned before, with the encoder that `fit` is given; see `read_start`.
    """

    texts: Texts
    budget: Budget
    documents: tuple[np.ndarray, np.ndarray] | None = None
    language: StartingWeights | None = None


def fit(
    texts: Texts,
    targets: np.ndarray,
    labels: LabelSet,
    config: Config,
    *,
    valid: tuple[Texts, np.ndarray] | None = None,
    baseline: bool = True,
    encoder: TextEncoder | IdEncoder | None = None,
    start: StartingWeights | None = None,
    unlabelled: Unlabelled | None = None,
    vectors: np.ndarray | None = None,
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
        Development part; by default `text_parts.development_part` of the rows.
    baseline : bool, default=True
        Fit the linear n-gram model too.
    encoder : TextEncoder or IdEncoder, optional
        What made the ids, where `texts` and `valid` are ids that a fitted encoder gave; they are used as they are, and
        `baseline` must be False.
    start : StartingWeights, optional
        What the vocabulary and the lower layers begin with, see `tasks.starting_weights.read_start`.
    unlabelled : Unlabelled, optional
        Further texts to learn from, and the time for it all; see `text_phases`.
    vectors : ndarray of shape (vocabulary, embedding_size), optional
        Word vectors for the ids of `encoder`, learned before.
    checkpoint, resume, progress
        As in `training.train`.

    Raises
    ------
    DataError
        If there are too few rows to split, or no words.
    MissingExtraError
        If torch is not installed.
    """
    from bilstm.training import events

    tell, clock = begin_training(progress)
    with clock.phase("development part"):
        parts = divide(texts, targets, labels, config, valid)
    _check_fine_tuning(config, start is not None, unlabelled is not None)
    if start is not None:
        config = start.adopt(config)
    has_ids = encoder is not None
    encoder, train_ids, dev_ids = _encoded(parts, config, encoder, start, unlabelled, baseline, clock)
    config = for_data(config, train_ids.lengths)
    tell(events.Note(plan_line(train_ids, dev_ids, encoder, labels, config)))
    if parts.dev_groups:
        tell(events.Note(groups_line(len(parts.dev_rows), parts.dev_groups)))
    linear = None
    if baseline:
        with clock.phase("linear baseline"):
            given = (parts.train, parts.train_targets, parts.dev, parts.dev_targets)
            linear = fit_baseline(*given, labels, config.seed)
            for note in linear.notes:
                tell(events.Note(note))
    shift, scale = standardisation(parts.train_targets, labels)
    train_part, dev_part = (
        Part(ids, (own - shift) / scale if labels.kind == "regression" else own)
        for ids, own in ((train_ids, parts.train_targets), (dev_ids, parts.dev_targets))
    )
    trainer = _Trainer(train_part, dev_part, encoder, labels, start, tell, clock)
    if unlabelled is not None:
        trainer.add(unlabelled, parts, linear, config, has_ids, valid is None)
    trainer.shared = SharedVectors(checkpoint, config.members > 1, vectors)
    members = train_members(trainer.train_one, config, checkpoint, resume, tell)
    layers, weights = joined_layers(members)
    runtime = RuntimeModel(layers, weights, threads=config.threads)
    model = TextModel(encoder, labels, runtime, weights, shift=shift, scale=scale)
    with clock.phase("evaluate"):
        measured = _evaluated(model, members, trainer, parts, linear, config)
    return Outcome(
        model=model,
        config=config,
        result=joined_result(members),
        baseline=linear,
        train_rows=parts.train_rows,
        dev_rows=parts.dev_rows,
        dev_targets=parts.dev_targets,
        seconds=clock.seconds,
        phases=[phase for member in members for phase in member.phases],
        **measured,
    )


def _encoded(
    parts: TextParts,
    config: Config,
    encoder: TextEncoder | IdEncoder | None,
    start: StartingWeights | None,
    unlabelled: Unlabelled | None,
    baseline: bool,
    clock: Clock,
) -> tuple[TextEncoder | IdEncoder, Ragged, Ragged]:
    """Return the encoder, and the ids of the training part and of the development part."""
    if encoder is not None:
        if baseline or not isinstance(parts.train, Ragged) or not isinstance(parts.dev, Ragged):
            raise UsageError("with an encoder, fit takes the ids that it gave, and fits no linear baseline.")
        return encoder, parts.train, parts.dev
    with clock.phase("encode"):
        if start is None:
            encoder, train_ids = build_encoder(parts.train, config, None if unlabelled is None else unlabelled.texts)
        else:
            encoder = start.encoder_for(parts.train, config)
            train_ids = encode_texts(encoder, parts.train)
        return encoder, train_ids, encode_texts(encoder, parts.dev)


def _evaluated(
    model: TextModel,
    members: list[Member],
    trainer: _Trainer,
    parts: TextParts,
    linear: LinearBaseline | None,
    config: Config,
) -> dict[str, Any]:
    """Calibrate the model, join linear models to it, and score it on the development part: fields of `Outcome`."""
    from bilstm.training import events

    targets, dev_ids = parts.dev_targets, trainer.dev.ids
    logits = model.logits_of_ids(dev_ids)
    temperature, before = None, None
    notes = [groups_line(len(parts.dev_rows), parts.dev_groups)] if parts.dev_groups else []
    notes += [line for member in members for phase in member.phases if (line := phase.line())]
    if model.labels.kind != "regression":
        before = model.measure(model.decode(logits), targets)
        temperature = _calibrate(model, logits, targets)
        notes += [temperature.note] if temperature.note else []
    if len(members) > 1:
        members = [_measured(member, model, dev_ids, targets) for member in members]
    network_metrics = model.measure(model.decode(logits), targets)
    joined = []
    if trainer.lesson is not None and can_join_teacher(config, model.encoder) and trainer.unlabelled is not None:
        given = (logits, dev_ids, targets, trainer.unlabelled)
        logits, note = join_teacher(model, trainer.lesson.model, *given)
        joined.append(note)
    if model.joined is None and linear is not None and config.join_linear and temperature is not None:
        if trainer.linear is not None and len(trainer.linear.kept_apart()[0]) >= MIN_JOIN_ROWS:
            assert trainer.unlabelled is not None  # as there are answers
            logits, note = join_pupil(model, trainer.linear, logits, parts.dev, targets, trainer.unlabelled)
        else:
            logits, note = _join(model, linear.to_runtime(), logits, parts.dev, targets, temperature)
        joined.append(note)
    for note in joined:
        trainer.tell(events.Note(note))
    outputs = model.decode(logits)
    return {
        "members": members,
        "dev_logits": logits,
        "dev_outputs": outputs,
        "dev_metrics": model.measure(outputs, targets),
        "baseline_metrics": None if linear is None else model.measure(linear.dev_probabilities, targets),
        "dev_metrics_before": before,
        "network_metrics": network_metrics,
        "temperature": temperature,
        "notes": notes + joined,
    }


@dataclass
class _Trainer:
    """What the networks of one classifier are trained on; `train_one` trains one of them."""

    train: Part
    dev: Part
    encoder: TextEncoder | IdEncoder
    labels: LabelSet
    start: StartingWeights | None
    tell: Listener
    clock: Clock
    unlabelled: Ragged | None = None
    budget: Budget | None = None
    shared: SharedVectors = field(default_factory=lambda: SharedVectors(None, False))
    lesson: Lesson | None = None  # of the first member that had one
    documents: Documents | None = None
    language: StartingWeights | None = None
    linear: LinearPupil | None = None

    def add(
        self,
        given: Unlabelled,
        parts: TextParts,
        linear: LinearBaseline | None,
        config: Config,
        has_ids: bool,
        is_dev_drawn: bool,
    ) -> None:
        """Take in the unlabelled texts and all that was learned of them before."""
        from bilstm.training import events

        self.unlabelled = unlabelled_ids(given.texts, self.encoder, self.train.ids, has_ids, self.tell)
        if self.labels.kind not in ("binary", "multiclass"):
            self.tell(events.Note("Labels are no classes: from the unlabelled texts come word vectors alone."))
        self.budget, self.language = given.budget, given.language
        if given.documents is not None and is_dev_drawn:
            own, others = given.documents
            self.documents = Documents(own[parts.train_rows], own[parts.dev_rows], others)
        if linear is not None and "joined-teacher" in config.phases and self.labels.kind in ("binary", "multiclass"):
            classes = len(self.labels.names)
            self.linear = LinearPupil(linear, parts.train, parts.train_targets, classes, parts.dev, given.texts)

    def train_one(self, config: Config, checkpoint: str | None, resume: bool, left: int) -> Member:
        """Train a network; `left` networks share what is left of the budget."""
        if self.unlabelled is None or self.budget is None or self.labels.kind not in ("binary", "multiclass"):
            layers, weights, result = train_network(
                self.train, self.dev, self.encoder, self.labels, config, checkpoint, resume, self.tell, self.clock,
                self.start, self.unlabelled, self.shared,
            )  # fmt: skip
            return Member(config.seed, layers, weights, result)
        training = UnlabelledTraining(
            train=self.train,
            dev=self.dev,
            unlabelled=self.unlabelled,
            encoder=self.encoder,
            labels=self.labels,
            config=config,
            budget=self.budget.part(left),
            start=self.start,
            checkpoint=checkpoint,
            resume=resume,
            tell=self.tell,
            clock=self.clock,
            vectors=self.shared.vectors,
            documents=self.documents,
            language=self.language,
            linear=self.linear,
        )
        layers, weights, result = training.run()
        self.shared.vectors = training.vectors
        self.lesson = self.lesson or training.lesson
        return Member(config.seed, layers, weights, result, training.records)


def _calibrate(model: TextModel, logits: np.ndarray, targets: np.ndarray) -> Temperature:
    """Fit the temperature of a model of classes on the development part and give it to the model."""
    found = fit_temperature(logits[:, 0] if model.labels.kind == "binary" else logits, targets)
    model.temperature = found.value
    return found


def _measured(member: Member, whole: TextModel, dev_ids: Ragged, dev_targets: np.ndarray) -> Member:
    """Return the member with its own scores on the development part, at a temperature of its own."""
    runtime = RuntimeModel(member.layers, member.weights, threads=whole.model.threads)
    alone = TextModel(whole.encoder, whole.labels, runtime, member.weights, shift=whole.shift, scale=whole.scale)
    logits = alone.logits_of_ids(dev_ids)
    if alone.labels.kind != "regression":
        _calibrate(alone, logits, dev_targets)
    return dataclasses.replace(member, dev_metrics=alone.measure(alone.decode(logits), dev_targets))


def _join(
    model: TextModel,
    linear: NgramLinear,
    network_logits: np.ndarray,
    dev_texts: Texts,
    dev_targets: np.ndarray,
    temperature: Temperature,
) -> tuple[np.ndarray, str]:
    """Join linear models to the network if the development part gains by it; return the logits and what was done."""
    if len(dev_targets) < MIN_JOIN_ROWS:
        return network_logits, f"The n-gram model was not joined: {len(dev_targets)} development rows are too few."
    margins = linear.margins(words_of(dev_texts))
    joining = fit_joining(network_logits, margins, dev_targets)
    alone = temperature.loss_after
    if joining.network <= 0 or not any(joining.linear) or joining.loss > alone * (1 - MIN_JOIN_GAIN):
        return network_logits, "The n-gram model was not joined: the development part gains nothing by it."
    model.joined, model.temperature = JoinedLinear(linear, joining).without_unused(), 1.0
    note = (
        f"The n-gram model was joined to the network's output: development log loss {alone:.4f} -> {joining.loss:.4f}."
    )
    return joining.join(network_logits, margins), note


def _check_fine_tuning(config: Config, has_start: bool, has_unlabelled: bool) -> None:
    """Raise UsageError for settings of fine-tuning that would do nothing."""
    is_default = config.layer_decay == Config.layer_decay and config.gradual_unfreezing == Config.gradual_unfreezing
    if not is_default and not has_start:
        raise UsageError(
            "--layer-decay and --gradual-unfreezing are for a training that begins with another model.",
            "Add --start-from, or leave them out.",
        )
    if not is_default and has_unlabelled:
        raise UsageError("--layer-decay and --gradual-unfreezing do nothing with --unlabelled.", "Leave them out.")
