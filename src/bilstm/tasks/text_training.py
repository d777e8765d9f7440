"""How a text classifier is trained: development part, encoder, linear baseline, word vectors, the loop, calibration.

The second half of `text_classification.py`. Imports torch and scikit-learn only inside the functions, so that a
machine that only predicts never needs them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm import description
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.splitting import split_rows
from bilstm.data.tokenizers import BytePairTokenizer, CharacterTokenizer, Tokenizer, WordTokenizer
from bilstm.data.vocabulary import IdEncoder, TextEncoder, Vocabulary
from bilstm.errors import DataError, UsageError
from bilstm.evaluation.joining import fit_joining
from bilstm.metrics import Temperature, fit_temperature
from bilstm.runtime.model import Model as RuntimeModel
from bilstm.runtime.word_ids import count_tokens, encode_texts
from bilstm.tasks.joined_teaching import TeacherMargins
from bilstm.tasks.phase_documents import Documents
from bilstm.tasks.phase_results import PhaseRecord
from bilstm.tasks.phase_teaching import Lesson
from bilstm.tasks.phases import Clock, begin_training
from bilstm.tasks.teacher_joining import can_join_teacher, join_teacher
from bilstm.tasks.text_classification import (
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
from bilstm.tasks.text_members import Member, SharedVectors, joined_layers, joined_result, train_members
from bilstm.tasks.text_network import Part, train_network, vocabulary_size_of
from bilstm.tasks.text_phases import UnlabelledTraining

if TYPE_CHECKING:
    from bilstm.evaluation.baseline import LinearBaseline
    from bilstm.tasks.starting_weights import StartingWeights
    from bilstm.training.budget import Budget
    from bilstm.training.events import Listener
    from bilstm.training.loop import TrainResult

__all__ = ["Outcome", "Unlabelled", "build_encoder", "development_part", "fit", "fit_baseline", "words_of"]

MIN_JOIN_ROWS = 100  # fewer development rows say little about three weights
MIN_JOIN_GAIN = 0.02  # of the log loss; less is not worth a second model in the folder
FOREIGN_SHARE = 0.3  # of unlabelled words that no labelled text has; above it the user is told
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
        Development part; by default `dev_rows_of` of the rows, stratified, drawn with `config.seed`.
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
    train_rows, dev_rows = development_part(len(texts), targets, labels, config, valid is not None)
    train_texts, train_targets = _take(texts, train_rows), targets[train_rows]
    dev_texts, dev_targets = valid if valid is not None else (_take(texts, dev_rows), targets[dev_rows])
    if len(dev_targets) == 0:
        raise DataError("the development part has no rows.", "Give more rows, or a file with --valid.")

    _check_fine_tuning(config, start is not None, unlabelled is not None)
    if start is not None:
        config = start.adopt(config)
    has_ids = encoder is not None
    if encoder is not None:
        if baseline or not isinstance(train_texts, Ragged) or not isinstance(dev_texts, Ragged):
            raise UsageError("with an encoder, fit takes the ids that it gave, and fits no linear baseline.")
        train_ids, dev_ids = train_texts, dev_texts
    else:
        with clock.phase("encode"):
            if start is None:
                encoder, train_ids = build_encoder(
                    train_texts, config, None if unlabelled is None else unlabelled.texts
                )
            else:
                encoder = start.encoder_for(train_texts, config)
                train_ids = encode_texts(encoder, train_texts)
            dev_ids = encode_texts(encoder, dev_texts)
    config = for_data(config, train_ids.lengths)
    tell(events.Note(_plan(train_ids, dev_ids, encoder, labels, config)))
    linear = None
    if baseline:
        with clock.phase("linear baseline"):
            linear = fit_baseline(train_texts, train_targets, dev_texts, dev_targets, labels, config.seed)
            for note in linear.notes:
                tell(events.Note(note))
    shift, scale = _standardisation(train_targets, labels)
    train_part, dev_part = (
        Part(ids, (own - shift) / scale if labels.kind == "regression" else own)
        for ids, own in ((train_ids, train_targets), (dev_ids, dev_targets))
    )
    further = None if unlabelled is None else _unlabelled_ids(unlabelled, encoder, train_ids, has_ids, tell)
    if further is not None and labels.kind not in ("binary", "multiclass"):
        tell(events.Note("Labels are no classes: from the unlabelled texts come word vectors alone."))
    budget = None if unlabelled is None else unlabelled.budget
    trainer = _Trainer(train_part, dev_part, encoder, labels, start, further, budget, tell, clock)
    if unlabelled is not None and unlabelled.documents is not None and valid is None:
        own, others = unlabelled.documents
        trainer.documents = Documents(own[train_rows], own[dev_rows], others)
    trainer.language = None if unlabelled is None else unlabelled.language
    if unlabelled is not None and linear is not None and "joined-teacher" in config.phases:
        trainer.linear = lambda: _teacher_margins(linear, dev_texts, unlabelled.texts)
    trainer.shared = SharedVectors(checkpoint, config.members > 1, vectors)
    members = train_members(trainer.train_one, config, checkpoint, resume, tell)
    layers, weights = joined_layers(members)
    runtime = RuntimeModel(layers, weights, threads=config.threads)
    model = TextModel(encoder, labels, runtime, weights, shift=shift, scale=scale)
    with clock.phase("evaluate"):
        dev_logits = model.logits_of_ids(dev_ids)
        temperature, before = None, None
        notes = [line for member in members for phase in member.phases if (line := phase.line())]
        if labels.kind != "regression":
            before = model.measure(model.decode(dev_logits), dev_targets)
            temperature = _calibrate(model, dev_logits, dev_targets)
            notes += [temperature.note] if temperature.note else []
        if len(members) > 1:
            members = [_measured(member, model, dev_ids, dev_targets) for member in members]
        network_metrics = model.measure(model.decode(dev_logits), dev_targets)
        if trainer.lesson is not None and can_join_teacher(config, encoder) and further is not None:
            given = (dev_logits, dev_ids, dev_targets, further)
            dev_logits, note = join_teacher(model, trainer.lesson.model, *given)
            tell(events.Note(note))
            notes.append(note)
        if model.joined is None and linear is not None and config.join_linear and temperature is not None:
            dev_logits, note = _join(model, linear, dev_logits, dev_texts, dev_targets, temperature)
            tell(events.Note(note))
            notes.append(note)
        dev_outputs = model.decode(dev_logits)
    return Outcome(
        model=model,
        config=config,
        result=joined_result(members),
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
        phases=[phase for member in members for phase in member.phases],
        members=members,
    )


@dataclass
class _Trainer:
    """What the networks of one classifier are trained on; `train_one` trains one of them."""

    train: Part
    dev: Part
    encoder: TextEncoder | IdEncoder
    labels: LabelSet
    start: StartingWeights | None
    unlabelled: Ragged | None
    budget: Budget | None
    tell: Listener
    clock: Clock
    shared: SharedVectors = field(default_factory=lambda: SharedVectors(None, False))
    lesson: Lesson | None = None  # of the first member that had one
    documents: Documents | None = None
    language: StartingWeights | None = None
    linear: Callable[[], TeacherMargins] | None = None

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


def _teacher_margins(linear: LinearBaseline, dev_texts: Texts, texts: Texts) -> TeacherMargins:
    """Return what the linear models say of the development texts and of the unlabelled ones."""
    found = linear.to_runtime()
    return TeacherMargins(found.margins(words_of(dev_texts)), found.margins(words_of(texts)))


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
    model.joined, model.temperature = JoinedLinear(found, joining).without_unused(), 1.0
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


def build_encoder(
    texts: Texts, config: Config, unlabelled: Texts | None = None
) -> tuple[TextEncoder | IdEncoder, Ragged]:
    """Build the encoder from the training part, and encode that part.

    Words of unlabelled texts follow those of the training part as far as `config.vocabulary_size` allows.
    """
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
    built = TextEncoder.of_counts(
        count_tokens(tokenizer, texts),
        tokenizer,
        max_size=config.vocabulary_size,
        min_count=config.min_count if len(texts) >= FEW_ROWS else 1,
        max_length=config.max_length,
        keep=config.keep,
    )
    if unlabelled is not None and not isinstance(unlabelled, Ragged):
        counts = count_tokens(tokenizer, unlabelled)
        counted = Vocabulary.of_counts(counts, config.vocabulary_size, max(config.min_count, 2))
        known = built.vocabulary
        added = tuple(token for token in counted.tokens if token not in known.id_of)
        tokens = known.tokens + added[: max(config.vocabulary_size - len(known), 0)]
        built = TextEncoder(tokenizer, Vocabulary(tokens), config.max_length, config.keep)
    return built, encode_texts(built, texts)


def _unlabelled_ids(
    unlabelled: Unlabelled, encoder: TextEncoder | IdEncoder, train_ids: Ragged, has_ids: bool, tell: Listener
) -> Ragged:
    """Encode the unlabelled texts; tell where they look unlike the labelled ones.

    Raises
    ------
    DataError
        If they are of another kind than the labelled ones, or hold no known word.
    """
    from bilstm.training import events

    if isinstance(unlabelled.texts, Ragged) != (has_ids or isinstance(encoder, IdEncoder)):
        raise DataError("the unlabelled texts and the labelled ones must both be texts, or both word ids.")
    ids = unlabelled.texts if has_ids else encode_texts(encoder, unlabelled.texts)
    assert isinstance(ids, Ragged)
    if not ids.values.any():
        raise DataError(f"the {len(ids):,} unlabelled texts hold no known word.", "Is the text column the right one?")
    seen = np.zeros(max(vocabulary_size_of(encoder), 1), dtype=bool)
    seen[train_ids.values] = True
    foreign = float((~seen[ids.values]).mean())
    if foreign > FOREIGN_SHARE:
        tell(
            events.Note(
                f"{foreign:.0%} of the words of the unlabelled texts do not stand in the labelled ones: another "
                "language or domain? The development part decides what is kept."
            )
        )
    return ids


def _plan(
    train_ids: Ragged, dev_ids: Ragged, encoder: TextEncoder | IdEncoder, labels: LabelSet, config: Config
) -> str:
    """Say in one line what is about to happen."""
    known = vocabulary_size_of(encoder)
    shapes = description.weight_shapes(describe_model(config, known, output_count(labels))).values()
    parameters = sum(math.prod(shape) for shape in shapes)
    plan = (
        f"{len(train_ids):,} texts to train on (median {int(np.median(train_ids.lengths)):,} tokens), "
        f"{len(dev_ids):,} to choose the epoch by; {known:,} known tokens, {parameters:,} parameters."
    )
    if config.members > 1:
        plan += (
            f" {config.members} members of so many each, one after the other: {config.members} times the time, "
            "and as many times the memory and the time of an answer."
        )
    return plan


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
