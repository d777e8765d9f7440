"""Phases of a text classifier in which something teaches the network what the unlabelled texts may be.

A linear teacher where labels are few, several models together where there are many, or the network itself. Each
function is a phase of `text_phases.UnlabelledTraining`: it trains the network of that training anew, within what is
left of its budget, and returns how it went, or None where it was left out. Imports torch only inside the functions.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bilstm.metrics import apply_temperature, fit_temperature
from bilstm.tasks.joined_teaching import TeacherMargins, joined_answers
from bilstm.tasks.phase_documents import Documents, learn_documents
from bilstm.tasks.phase_losses import TaughtLoss
from bilstm.tasks.phase_results import (
    FEW_DEV_ROWS,
    LEAST_WORDS,
    SELF_SHARES,
    SPARE_SECONDS,
    looks_of,
    phase_config,
)
from bilstm.tasks.phase_teaching import lesson_of, teacher_texts_within
from bilstm.tasks.text_network import Objective, Part

if TYPE_CHECKING:
    from bilstm.data.ragged import Ragged
    from bilstm.tasks.text_phases import UnlabelledTraining
    from bilstm.training.loop import TrainResult

__all__ = [
    "JOINED_ROUNDS",
    "follow_joined_teacher",
    "follow_linear_teacher",
    "teach_itself",
]

LEAST_TAUGHT = 20  # texts that a phase needs
CONFIDENCE = 0.9  # least probability of an answer that the network may learn from
SELF_TEXTS, SELF_STEPS = 20_000, 1_500
TEACHER_WORDS, TEACHER_STEPS, TEACHER_DOUBT = 8_000, 4_000, 0.1  # taught words a step; smoothing of its labels
JOINED_WORDS = 6_000  # of both kinds a step: where labels are many they say more than what is taught
JOINED_ROUNDS, JOINED_PASSES = 3, 8  # passes of a round over the texts that a joined teacher answered, at most
PASSES_ANEW = 3  # over the answered texts; a network that begins anew and sees them less often learns less than it knew
PASSES_ANEW_TRAINED = 0.4  # the same where it begins with trained layers, such as a language model's
TAUGHT_FROM_RATE = 0.001  # learning rate of a network that does not begin anew
APART_SHARE, MOST_APART = 0.1, 2_000  # answered texts that show how far to trust network and linear models
ANSWERING_SHARE = 0.1  # of the time that is left, for the answers of one more network


def follow_linear_teacher(training: UnlabelledTraining) -> TrainResult | None:
    """Train anew on the labels and on the surer answers of linear models to the unlabelled texts."""
    from bilstm.training import events

    config, classes = training.config, len(training.labels.names)
    if len(np.unique(training.train.targets)) < classes:
        training.tell(events.Note("linear teacher: left out, the training part has no row of some class."))
        return None
    rows = _teacher_rows(training)
    if len(rows) < LEAST_TAUGHT:
        training.tell(events.Note(f"linear teacher: left out, there are texts or time for {len(rows)} texts only."))
        return None
    documents = _documents(training, rows)
    texts = (training.whole.select(rows), training.unlabelled.select(rows))
    stored = _file(training, "linear-teacher.npz")
    training.lesson = lesson_of(training.train, *texts, classes, training.word_table, documents, config.seed, stored)
    chosen = training.lesson.taught
    said = f"{len(chosen.targets):,} of {len(rows):,} unlabelled texts labelled by linear models"
    training.tell(events.Note(f"linear teacher: {said}."))
    if len(chosen.targets) < LEAST_TAUGHT:
        training.tell(events.Note("linear teacher: left out, that is too few."))
        return None
    objective = Objective(training.net, training.train, training.labels, config)
    smooth = dataclasses.replace(config, label_smoothing=max(config.label_smoothing, TEACHER_DOUBT))
    loss = TaughtLoss(objective, chosen, Objective(training.net, chosen, training.labels, smooth).loss)
    words = min(config.batch_steps or 2**40, TEACHER_WORDS)
    return _learn(training, "linear teacher", objective, chosen, loss, TEACHER_STEPS, words=(words, words // 4))


def follow_joined_teacher(training: UnlabelledTraining, number: int) -> TrainResult | None:
    """Train anew on the labels and on what the network, linear models and document vectors say of all other texts.

    In round 2 and later the network that learned in the round before is one of the teachers.
    """
    from bilstm.training import events

    classes = len(training.labels.names)
    rows = _teacher_rows(training)
    if len(np.unique(training.train.targets)) < classes or len(rows) < LEAST_TAUGHT:
        training.tell(events.Note(f"joined teacher {number}: left out, there is a class without a row, or no time."))
        return None
    stored = _file(training, f"joined-teacher-{number}.npy")
    if stored is not None and stored.exists():
        answers: np.ndarray = np.load(stored)
    else:
        documents = _documents(training, rows)
        texts = training.whole.select(rows)
        networks = _margins_of_networks(training, texts)
        linear = None
        if training.linear is not None:
            said_all = training.linear.margins()
            linear = TeacherMargins(said_all.dev, said_all.unlabelled[training.filled[rows]])
        answers, said = joined_answers(training.train, training.dev, texts, classes, networks, linear, documents)
        training.tell(events.Note(f"joined teacher {number}: {said}."))
        if stored is not None:
            np.save(stored, answers)
    is_apart = np.zeros(len(rows), dtype=bool)  # without linear models to trust more or less, all texts teach
    if training.linear is not None:
        is_apart = np.isin(rows, _kept_apart(len(training.whole)))
        training.linear.hear(training.filled[rows], answers, is_apart)
    chosen = Part(training.unlabelled.select(rows[~is_apart]), answers[~is_apart])
    objective = Objective(training.net, training.train, training.labels, training.config)
    words = min(training.config.batch_steps or 2**40, JOINED_WORDS)
    most = max(int(JOINED_PASSES * len(chosen.ids.values) / words), 1)
    name, loss = f"joined teacher {number}", TaughtLoss(objective, chosen)
    return _learn(training, name, objective, chosen, loss, most, words=(words, words), may_go_on=True)


def teach_itself(training: UnlabelledTraining, number: int, share: float) -> TrainResult | None:
    """Train anew on the labels and on the present model's surest answers."""
    import torch

    from bilstm.training import events
    from bilstm.training.budget import steps_within
    from bilstm.training.checkpoint import set_weights
    from bilstm.training.self_training import choose_pseudo_labels
    from bilstm.training.unlabelled import MixedBatches

    config, train = training.config, training.train
    objective = Objective(training.net, train, training.labels, config)
    rows = np.sort(np.random.default_rng([config.seed, number]).permutation(len(training.unlabelled))[:SELF_TEXTS])
    texts = training.unlabelled.select(rows)
    shares = np.bincount(train.targets.astype(np.int64), minlength=len(training.labels.names))
    probabilities = _calibrated(training, objective, objective.logits(texts))
    found = choose_pseudo_labels(probabilities, shares / shares.sum(), share=share, threshold=CONFIDENCE)
    said = f"{len(found.rows):,} of {len(rows):,} texts answered with a probability of {found.least_confidence:.2f}"
    training.tell(events.Note(f"self-training {number}: {said} or more."))
    if len(found.rows) < LEAST_TAUGHT:
        training.tell(events.Note(f"self-training {number}: left out, that is too few."))
        return None
    chosen = Part(texts.select(found.rows), found.targets)
    step_loss = TaughtLoss(objective, chosen)
    words = min(config.batch_steps or 2**40, 2 * LEAST_WORDS)

    def deal(steps: int) -> MixedBatches:
        lengths = (train.ids.lengths, chosen.ids.lengths)
        limits = {"max_rows": config.batch_size, "max_steps": words}
        return MixedBatches(*lengths, steps=steps, **limits, seed=config.seed + number)

    def choose() -> dict[str, int]:
        if training.budget.seconds is None:
            return looks_of(words, SELF_STEPS)
        seconds = training.seconds_a_step(step_loss, deal(8).epoch(1))
        left = (training.budget.left() - SPARE_SECONDS) / (len(SELF_SHARES) + 1 - number)
        return looks_of(words, steps_within(left * 0.9, seconds, least=8, most=SELF_STEPS))

    plan = training.planned(f"self-training {number}", choose)
    set_weights(training.net, training.initial)
    torch.manual_seed(config.seed)
    config = phase_config(config, plan, config.learning_rate, config.betas, False)
    return training.loop(f"self-training {number}", step_loss, objective, deal(plan["steps"]).epoch, config)


def _learn(
    training: UnlabelledTraining,
    name: str,
    objective: Objective,
    chosen: Part,
    step_loss: TaughtLoss,
    most: int,
    *,
    words: tuple[int, int],
    may_go_on: bool = False,
) -> TrainResult:
    """Train on both kinds of texts, so many taught and labelled words a step, for as many steps as the budget gives.

    The network begins with the initial weights, or with those that the mixed objective left. Where there is time for
    few passes only, and it may, it goes on from the best weights so far; how few depends on what the initial weights
    know.
    """
    from bilstm.training import events
    from bilstm.training.budget import steps_within
    from bilstm.training.checkpoint import model_weights, set_weights
    from bilstm.training.unlabelled import MixedBatches

    config = training.config
    taught, labelled = words

    def deal(steps: int) -> MixedBatches:
        lengths = (training.train.ids.lengths, chosen.ids.lengths)
        limits = {"max_rows": config.batch_size, "max_steps": taught, "max_labelled_steps": labelled}
        return MixedBatches(*lengths, steps=steps, **limits, seed=config.seed)

    def choose() -> dict[str, int]:
        if training.budget.seconds is None:
            return looks_of(taught, most)
        seconds = training.seconds_a_step(step_loss, deal(8).epoch(1))
        left = 0.95 * (training.budget.left() - SPARE_SECONDS)
        return looks_of(taught, steps_within(left, seconds, least=8, most=most))

    present = model_weights(training.net)  # measuring steps changes them
    plan = training.planned(name, choose)
    begin = training.taught_from
    passes = plan["looks"] * plan["steps"] * taught / len(chosen.ids.values)
    anew, is_trained = training.anew()
    enough = PASSES_ANEW_TRAINED if is_trained else PASSES_ANEW
    if may_go_on and not begin and passes < enough:
        begin = present
        said = f"there is time for {passes:.1f} passes, so the network goes on from its best weights"
        training.tell(events.Note(f"{name}: {said}."))
    set_weights(training.net, begin or anew)
    rate = TAUGHT_FROM_RATE if begin else config.learning_rate
    config = phase_config(config, plan, rate, config.betas, False)
    return training.loop(name, step_loss, objective, deal(plan["steps"]).epoch, config)


def _teacher_rows(training: UnlabelledTraining) -> np.ndarray:
    """Choose the unlabelled texts that a teacher answers, rising; members of an ensemble choose the same."""
    count = training.planned(
        "teacher texts", lambda: teacher_texts_within(training.budget.left(), training.whole.lengths)
    )
    return np.sort(np.random.default_rng(0).permutation(len(training.whole))[:count])


def _margins_of_networks(training: UnlabelledTraining, texts: Ragged) -> TeacherMargins:
    """Ask the best network and, where that takes little of what is left, those that phases gave up for a better one.

    Networks that began differently err in different places, also where one is the worse by itself.
    """
    from bilstm.training.checkpoint import model_weights, set_weights

    objective = Objective(training.net, training.train, training.labels, training.config)
    best = model_weights(training.net)
    answers: list[tuple[np.ndarray, np.ndarray]] = []
    started = time.perf_counter()
    for weights in (best, *reversed(training.given_up)):  # the last ones knew most
        taken = (time.perf_counter() - started) / max(len(answers), 1)
        if answers and taken > ANSWERING_SHARE * training.budget.left():
            break
        set_weights(training.net, weights)
        answers.append((objective.logits(training.dev.ids), objective.logits(texts)))
    set_weights(training.net, best)
    dev, unlabelled = (np.stack(own, axis=-1) for own in zip(*answers, strict=True))
    return TeacherMargins(dev, unlabelled)


def _kept_apart(count: int) -> np.ndarray:
    """Choose texts, of so many, that no pupil of a joined teacher reads; members of an ensemble choose the same."""
    return np.random.default_rng(1).permutation(count)[: min(int(APART_SHARE * count), MOST_APART)]


def _documents(training: UnlabelledTraining, rows: np.ndarray) -> Documents | None:
    """Return the document vectors of the labelled texts and of some unlabelled ones; learn them if need be."""
    if training.documents is not None:
        return training.documents.selected(training.filled[rows])
    with training.clock.phase("document vectors"):
        return learn_documents(
            (training.train.ids, training.dev.ids, training.whole.select(rows)),
            None if training.has_few_labels else training.train.targets.astype(np.int64),
            training.budget.left(),
            seed=training.config.seed,
            threads=training.config.threads,
            stored=_file(training, "documents.npy"),
            planned=training.planned,
            tell=training.tell,
        )


def _file(training: UnlabelledTraining, name: str) -> Path | None:
    return None if training.checkpoint is None else Path(training.checkpoint) / name


def _calibrated(training: UnlabelledTraining, objective: Objective, logits: np.ndarray) -> np.ndarray:
    """Return class probabilities, (rows, classes), at the temperature of the development part if it is not tiny."""
    temperature = 1.0
    if len(training.dev.targets) >= FEW_DEV_ROWS:
        dev = objective.logits(training.dev.ids)
        temperature = fit_temperature(dev[:, 0] if dev.shape[1] == 1 else dev, training.dev.targets).value
    if logits.shape[1] == 1:
        positive = apply_temperature(logits[:, 0], temperature)
        return np.stack([1.0 - positive, positive], axis=1)
    return apply_temperature(logits, temperature)
