"""A text classifier that learns from unlabelled texts too: word vectors, labels, language model, teachers, and more.

Each phase begins with the best weights so far and has a time of its own out of the budget. What it gives is kept only
if the development part does not speak against it. Each phase has a checkpoint of its own and what was planned is
stored, so that a run that was cut goes on as it would have gone. Imports torch only inside the functions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged, shortened
from bilstm.data.vocabulary import IdEncoder, TextEncoder
from bilstm.description import Layer
from bilstm.errors import OutputError
from bilstm.strict_json import read_strict_json
from bilstm.tasks.linear_pupil import LinearPupil
from bilstm.tasks.phase_documents import Documents
from bilstm.tasks.phase_results import (
    FEW_DEV_ROWS,
    LEAST_WORDS,
    SELF_SHARES,
    SPARE_SECONDS,
    PhaseRecord,
    decay_for,
    is_kept,
    joined_results,
)
from bilstm.tasks.phase_teaching import Lesson
from bilstm.tasks.phases import Clock
from bilstm.tasks.text_classification import Config
from bilstm.tasks.text_mixing import MIXED_SHARE, has_time_to_mix, mix
from bilstm.tasks.text_network import (
    Objective,
    Part,
    begin_network,
    embedding_index,
    learn_word_vectors,
    new_network,
)
from bilstm.tasks.text_pretraining import learn_language
from bilstm.tasks.text_teaching import (
    JOINED_ROUNDS,
    follow_joined_teacher,
    follow_linear_teacher,
    teach_itself,
)

if TYPE_CHECKING:
    from bilstm.tasks.starting_weights import StartingWeights
    from bilstm.training.budget import Budget
    from bilstm.training.events import Listener
    from bilstm.training.loop import TrainResult

__all__ = ["UnlabelledTraining"]

PLAN = "plan.json"  # in the checkpoint: what was chosen by measured speed must not change when a run goes on
VECTOR_SCALE = 1.0  # standard deviation of the word vectors, as published
NORM_SCALE = 0.3  # the one to which `adversarial_norm` refers
UNLABELLED_WORDS = 400  # an unlabelled text longer than this is cut: its ends say enough
FEW_LABELS = 2_500  # with more, several models teach together, and self-training adds little
NORM = 0.6  # of the adversarial change where the settings name none
VECTOR_SHARE, LABELLED_SHARE = 0.2, 0.15  # of the time that is left when the phase begins
SAMPLE_TEXTS = 200  # that show how fast word vectors are learned
LEAST_MIXED_SECONDS = 60.0  # after a teacher
OVERRUN = 1.1


@dataclass
class UnlabelledTraining:
    """All phases of one training; `run` leaves the best weights in `net`.

    Parameters
    ----------
    train, dev : Part
    unlabelled : Ragged
        Ids of the unlabelled texts, at least one text with a word.
    encoder, labels, config
        As in `text_training.fit`; the labels are classes.
    budget : Budget
    start : StartingWeights, optional
        Its word vectors keep their scale.
    checkpoint : str or None
        Folder of the phases' checkpoints.
    resume, tell, clock
        As in `text_network.train_network`.
    vectors : ndarray of shape (vocabulary, embedding_size), optional
        Word vectors that were learned before.
    documents : Documents, optional
        Document vectors that were learned before, of all unlabelled texts.
    language : StartingWeights, optional
        A language model that was learned before, with the same encoder.
    linear : LinearPupil, optional
        Linear models that learned from the training part: they teach, and learn from what is taught.
    """

    train: Part
    dev: Part
    unlabelled: Ragged
    encoder: TextEncoder | IdEncoder
    labels: LabelSet
    config: Config
    budget: Budget
    start: StartingWeights | None
    checkpoint: str | None
    resume: bool
    tell: Listener
    clock: Clock
    vectors: np.ndarray | None = None
    documents: Documents | None = None
    language: StartingWeights | None = None
    linear: LinearPupil | None = None
    net: Any = None
    records: list[PhaseRecord] = field(default_factory=list)
    begins_trained: bool = False  # from layers of another model or a language model; so do the vectors, at their scale
    language_start: dict[str, Any] = field(default_factory=dict)  # what the network begins with after that phase
    taught_from: dict[str, Any] = field(default_factory=dict)  # what pupils of joined teachers begin with, if set
    is_language_for_pupils: bool = False  # they begin with the language model, though it was turned off
    given_up: list[dict[str, Any]] = field(default_factory=list)  # weights that are not the best ones: they teach
    lesson: Lesson | None = None  # of the linear teacher, also where the network gained nothing by it

    def run(self) -> tuple[tuple[Layer, ...], dict[str, np.ndarray], TrainResult]:
        """Train; return the description, the best weights, and how the kept phases went."""
        from bilstm.layers.model import weights_of
        from bilstm.training import events

        self._open_checkpoint()
        self.filled = np.flatnonzero(self.unlabelled.lengths)
        self.whole = self.unlabelled.select(self.filled)
        self.unlabelled = shortened(self.whole, UNLABELLED_WORDS, "both")
        counts = np.bincount(np.concatenate([self.train.ids.values, self.unlabelled.values]))
        self.net, layers = new_network(self.encoder, self.labels, self.config)
        table = f"layers.{embedding_index(layers)}.weight"
        self._table = self.net.get_parameter(table)
        self._shares = self._shares_of(counts)
        self._start()
        first = self._labelled()
        self._results: list[TrainResult | None] = [first]
        if first.best_epoch and not self._is_ended():
            self._learn_further(set(self.config.phases))
        self.tell(events.Note(f"Budget: {self.budget.line()}."))
        return layers, weights_of(self.net), joined_results(self._results, self.records)

    def _learn_further(self, wanted: set[str]) -> None:
        """Run the phases that are wanted, until one is interrupted or makes the others superfluous."""
        from bilstm.training.checkpoint import model_weights

        has_few = self.has_few_labels
        is_trusted = not self._has_dev_rows
        if "language-model" in wanted:
            if self._gains("language model", lambda: learn_language(self), is_trusted=is_trusted):
                self.initial, self.begins_trained = self.language_start, True
            if self._is_ended():
                return
        is_taught = False
        if "linear-teacher" in wanted and has_few:
            is_taught = self._gains("linear teacher", lambda: follow_linear_teacher(self), is_trusted=is_trusted)
        is_mixed = False
        if "joined-teacher" in wanted and not has_few:
            self._keep_language_for_pupils()
            is_mixed = "mixed" in wanted and self.planned("mixed first", lambda: has_time_to_mix(self))
            if is_mixed and self._gains("mixed objective", lambda: mix(self, MIXED_SHARE)):
                self.taught_from = model_weights(self.net)
            if not self._is_ended():
                is_taught = self._learn_from_joined_teachers()
        if is_taught or self._is_ended():
            return
        if "mixed" in wanted and not is_mixed and (len(self._results) == 1 or self.budget.left() > LEAST_MIXED_SECONDS):
            self._gains("mixed objective", lambda: mix(self))
        if "self-training" in wanted and has_few:
            for number, share in enumerate(SELF_SHARES, 1):
                if self._is_ended() or self.budget.left() < SPARE_SECONDS:
                    return
                self._gains(f"self-training {number}", lambda n=number, s=share: teach_itself(self, n, s))

    def _keep_language_for_pupils(self) -> None:
        """Let pupils begin with a language model that was turned off although the score did not fall.

        The labels then say neither for nor against it. Pupils see many more texts, and each is judged by itself.
        """
        from bilstm.training import events

        last = self.records[-1]  # of the language model, if there is one
        if not self.language_start or last.is_kept or (last.score_after or 0.0) < (last.score_before or 0.0):
            return
        self.is_language_for_pupils = True
        self.tell(events.Note("language model: pupils of the joined teacher begin with it, the score did not fall."))

    def anew(self) -> tuple[dict[str, Any], bool]:
        """Return the weights of a pupil that begins anew, and whether its layers have learned something already."""
        if self.is_language_for_pupils:
            return self.language_start, True
        return self.initial, self.begins_trained

    def _learn_from_joined_teachers(self) -> bool:
        """Run rounds of the joined teacher while they gain and there is time; say whether one gained."""
        for number in range(1, JOINED_ROUNDS + 1):
            if not self._gains(f"joined teacher {number}", lambda n=number: follow_joined_teacher(self, n)):
                return number > 1
            if self._is_ended() or self.budget.left() < self.records[-1].seconds / 2:  # too little for another
                break
        return True

    # ---- what is stored ----------------------------------------------------------------------------------------

    def _open_checkpoint(self) -> None:
        self._plan: dict[str, Any] = {}
        if self.checkpoint is None:
            return
        folder = Path(self.checkpoint)
        if (folder / PLAN).exists() and not self.resume:
            raise OutputError(
                f"{folder} holds a run that has not ended.",
                "Resume it (--resume), or remove the folder to start again.",
            )
        if folder.exists() and os.listdir(folder) and not (folder / PLAN).exists():
            raise OutputError(
                f"{folder} holds a run without unlabelled texts.", "Leave --unlabelled out, or remove the folder."
            )
        if (folder / PLAN).exists():
            self._plan = read_strict_json((folder / PLAN).read_bytes(), str(folder / PLAN))
        folder.mkdir(parents=True, exist_ok=True)

    def planned(self, name: str, choose: Callable[[], Any]) -> Any:
        """Return what was planned for a phase; choose and store it first if nothing was."""
        if name not in self._plan:
            self._plan[name] = choose()
            if self.checkpoint is not None:
                waiting = Path(self.checkpoint) / f"{PLAN}.part"
                waiting.write_text(json.dumps(self._plan), encoding="utf-8")
                os.replace(waiting, Path(self.checkpoint) / PLAN)
        return self._plan[name]

    def place(self, name: str) -> str | None:
        """Return the folder of a phase's checkpoint."""
        return None if self.checkpoint is None else str(Path(self.checkpoint) / name.replace(" ", "-"))

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for part in (self.unlabelled.values, self.unlabelled.offsets):
            digest.update(np.ascontiguousarray(part).tobytes())
        return f"{self.train.fingerprint()} {self.dev.fingerprint()} {digest.hexdigest()}"

    # ---- before the first phase --------------------------------------------------------------------------------

    def _shares_of(self, counts: np.ndarray) -> Any:
        import torch

        full = np.zeros(len(self._table))
        full[: len(counts)] = counts
        return torch.tensor(full / full.sum(), dtype=torch.float32)

    def _start(self) -> None:
        """Fill the word vectors, from another model or learned from all texts, and bring them to one scale."""
        from bilstm.training.checkpoint import model_weights

        begin_network(self.net, self.encoder, self.config, self.start, self.tell, self._learned_vectors)
        self.begins_trained = self.start is not None
        self.standardize()
        self.word_table = self._table.detach().numpy().copy()  # what teachers read as word vectors
        self.initial = model_weights(self.net)

    def standardize(self) -> None:
        """Bring the word vectors to one scale; those of another model keep theirs, which its layers have learned."""
        from bilstm.training.virtual_adversarial import standardize_embedding

        if not self.begins_trained:
            standardize_embedding(self._table.data, self._shares, VECTOR_SCALE)

    def adversarial_norm(self) -> float:
        """Return the norm of a change in proportion to the scale of the word vectors."""
        norm = NORM if self.config.adversarial_norm is None else self.config.adversarial_norm
        if not self.begins_trained:
            return norm * VECTOR_SCALE / NORM_SCALE
        table = self._table.detach()
        mean = self._shares @ table
        return norm * float(((self._shares @ (table - mean) ** 2).mean()) ** 0.5) / NORM_SCALE

    def _learned_vectors(self) -> np.ndarray:
        """Learn word vectors within their share of the budget, or read those that were learned before a cut."""
        from bilstm.training import events
        from bilstm.training.unlabelled import joined_rows
        from bilstm.training.word_vectors import train_word_vectors

        if self.vectors is not None:
            return self.vectors
        config = self.config
        stored = None if self.checkpoint is None else Path(self.checkpoint) / "vectors.npy"
        if stored is not None and "vectors" in self._plan and stored.exists():
            found: np.ndarray = np.load(stored)
            self.vectors = found  # for the other members of an ensemble
            return found
        every = joined_rows(self.train.ids, self.unlabelled)

        def choose() -> dict[str, int]:
            if self.budget.seconds is None:
                return {"epochs": config.vector_epochs, "texts": len(every)}
            sample = every.select(np.arange(min(len(every), max(SAMPLE_TEXTS, len(every) // 200))))
            taken = []
            for passes in (1, 3):  # the difference is two passes without what is made ready before them
                started = time.perf_counter()
                size = (len(self._table), config.embedding_size)
                train_word_vectors(sample, *size, epochs=passes, backend=config.backend, threads=config.threads)
                taken.append(time.perf_counter() - started)
            speed = 2 * len(sample.values) / max(taken[1] - taken[0], 1e-6)
            words = VECTOR_SHARE * self.budget.left() * speed
            epochs = int(min(max(words // max(len(every.values), 1), 1), config.vector_epochs))
            return {
                "epochs": epochs,
                "texts": int(min(len(every), max(words / (epochs * len(every.values)), 0) * len(every))),
            }

        plan = self.planned("vectors", choose)
        rows = np.sort(np.random.default_rng(config.seed).permutation(len(every))[: max(plan["texts"], 1)])
        self.tell(events.Note(f"Word vectors: {plan['epochs']} passes over {len(rows):,} of {len(every):,} texts."))
        with self.clock.phase("word vectors"):
            vectors = learn_word_vectors(every.select(rows), self.encoder, config, plan["epochs"], self.tell)
        if stored is not None:
            with open(f"{stored}.part", "wb") as file:
                np.save(file, vectors)
            os.replace(f"{stored}.part", stored)
        self.vectors = vectors  # for the other members of an ensemble
        return vectors

    # ---- phases ------------------------------------------------------------------------------------------------

    def _gains(self, name: str, train: Callable[[], TrainResult | None], *, is_trusted: bool = False) -> bool:
        """Run a phase from the present weights; keep what it gives, or go back, say which, and return whether kept."""
        from bilstm.training import events
        from bilstm.training.checkpoint import model_weights, set_weights

        before, held = self._scored(), model_weights(self.net)
        self.tell(events.Note(f"Next: {name}. Budget: {self.budget.line()}."))
        started = time.perf_counter()
        with self.clock.phase(name):
            result = train()
        self._results.append(result)
        if result is None:
            return False
        after = self._scored() if result.steps else before
        if self._has_dev_rows:
            is_gain, losses = after[0].loss < before[0].loss, (before[0].loss, after[0].loss)
        else:
            is_gain, losses = is_kept(before, after, is_trusted=is_trusted), (None, None)
        kept = result.steps > 0 and is_gain
        if result.steps > 0 and not self.has_few_labels:  # a linear teacher asks no network
            self.given_up.append(held if kept else model_weights(self.net))
        if not kept:
            set_weights(self.net, held)
        seconds = time.perf_counter() - started
        self.records.append(PhaseRecord(name, seconds, kept, before[0].score, after[0].score, *losses))
        self.tell(events.Note(self.records[-1].line()))
        return kept

    def _labelled(self) -> TrainResult:
        """Train on the labelled texts alone; there is nothing to go back to."""
        started = time.perf_counter()
        with self.clock.phase("training"):
            result = self.learn_labels("labelled texts")
        score = result.best_score
        self.records.append(PhaseRecord("labelled texts", time.perf_counter() - started, True, None, score))
        return result

    def learn_labels(self, name: str) -> TrainResult:
        """Learn the labels from the present weights on, for as many epochs as the budget gave the first time."""
        from bilstm.training.budget import steps_within

        config = self.config
        if self.has_few_labels:
            config = dataclasses.replace(config, batch_steps=min(config.batch_steps or LEAST_WORDS, LEAST_WORDS))
        objective = Objective(self.net, self.train, self.labels, config)
        deal = objective.batches_of_epoch
        batches = deal(1)

        def choose() -> int:
            if self.budget.seconds is None:
                return int(self.config.max_epochs or 1)
            seconds = self.seconds_a_step(objective.step_loss, batches) * len(batches)
            share = 0.9 if self.config.phases == ("none",) else LABELLED_SHARE
            return steps_within(share * self.budget.left(), seconds, least=2, most=int(self.config.max_epochs or 1))

        epochs = self.planned("labelled texts", choose)
        decay = decay_for(config, epochs * len(batches))
        config = dataclasses.replace(config, max_epochs=epochs, average_decay=decay)
        return self.loop(name, objective.step_loss, objective, deal, config)

    # ---- parts of phases ---------------------------------------------------------------------------------------

    def loop(
        self,
        name: str,
        step_loss: Callable[[Any], Any],
        objective: Objective,
        deal: Callable[[int], Sequence],
        config: Any,
    ) -> TrainResult:
        """Train the network in one phase, which `name` names in the checkpoint."""
        from bilstm.training.loop import train

        is_first = name == "labelled texts"  # it gives a model, however small the budget

        def score() -> Any:
            if not self._has_dev_rows:
                return objective.dev_score(self.dev)
            return dataclasses.replace(objective.scored(self.dev, is_calibrated=True)[0], is_by_loss=True)

        return train(
            self.net,
            step_loss,
            score if self._has_dev_rows or is_first else None,
            deal,
            config,
            checkpoint=self.place(name),
            resume=self.resume,
            progress=self.tell,
            stop=None if is_first else self.overrun,
            randomness=self.net.randomness,
            data_fingerprint=self._fingerprint(),
        )

    def overrun(self) -> bool:
        """Say whether the budget is used up and more."""
        return self.budget.seconds is not None and self.budget.used() > OVERRUN * self.budget.seconds

    def seconds_a_step(self, step_loss: Callable[[Any], Any], batches: Sequence) -> float:
        """Time a few batches, spread over the epoch, without training on them."""
        chosen = [batches[place] for place in np.linspace(0, len(batches) - 1, 5).astype(int)]
        self.net.train()
        times = []
        for batch in chosen:
            started = time.perf_counter()
            self.net.randomness.start_step(self.config.seed, 0)
            answer = step_loss(batch)
            (answer[0] if isinstance(answer, tuple) else answer).backward()
            times.append(time.perf_counter() - started)
            self.net.zero_grad(set_to_none=True)
        return float(np.mean(times[1:]))  # the first one warms up

    def _scored(self) -> tuple[Any, np.ndarray]:
        """Return the development score of the present weights, its loss calibrated, and which rows are right."""
        objective = Objective(self.net, self.train, self.labels, self.config)
        return objective.scored(self.dev, is_calibrated=self._has_dev_rows)

    @property
    def has_few_labels(self) -> bool:
        """Say whether labels are so few that a linear teacher knows more than the network."""
        return len(self.train.targets) <= FEW_LABELS

    @property
    def _has_dev_rows(self) -> bool:
        """Say whether there are development rows enough for their log loss to choose epochs and phases."""
        return len(self.dev.targets) >= FEW_DEV_ROWS

    def _is_ended(self) -> bool:
        """Say whether the last phase was interrupted, or ran out of time."""
        result = self._results[-1]
        return result is not None and result.stopped_because in ("interrupted", "stopped")
