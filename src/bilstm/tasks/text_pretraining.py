"""The phase of a text classifier in which a language model of the unlabelled texts is what the network begins with.

Word vectors know which words stand near each other; a language model also knows what follows what, in both directions
(Dai and Le 2015, arXiv:1511.01432; Howard and Ruder 2018, arXiv:1801.06146). Its word vectors and recurrent layer take
the place of the first ones, and the labels are learned again. It never reads the labelled texts: of a text that it has
read, it remembers more than it knows of any other, and the network would learn to trust that. Imports torch only inside
the functions.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from bilstm.data.vocabulary import TextEncoder
from bilstm.tasks import language_model
from bilstm.tasks.starting_weights import StartingWeights, weights_to_start_with

if TYPE_CHECKING:
    from bilstm.data.ragged import Ragged
    from bilstm.tasks.text_phases import UnlabelledTraining
    from bilstm.training.events import Listener
    from bilstm.training.loop import TrainResult

__all__ = ["learn_language"]

LANGUAGE_SHARE = 0.4  # of the time that is left
FEWEST_PASSES, MOST_PASSES, USUAL_PASSES = 0.5, 6.0, 3.0  # over the texts: with less it says little; without a budget
LEARNING_RATE = 0.003  # a third of what gives the lowest perplexity: recurrent weights stay small enough to learn on
PARTS = 4  # of a pass, after each of which the held-out texts are scored
HELD_OUT_WORDS, HELD_OUT_SHARE = 10_000, 0.1  # every word of the vocabulary is compared with each of them
FEWEST_TEXTS = 20
SAMPLE_WORDS = 60_000  # show how fast it goes


def learn_language(training: UnlabelledTraining) -> TrainResult | None:
    """Learn a language model of the unlabelled texts, begin with its weights, and learn the labels.

    The phase of `text_phases.UnlabelledTraining` of that name: returns how learning the labels went, or None where it
    was left out.
    """
    from bilstm.training import events
    from bilstm.training.checkpoint import model_weights, set_weights

    reason = _missing(training)
    if reason is not None:
        training.tell(events.Note(f"language model: left out, {reason}."))
        return None
    begin = training.language or _learned(training)
    if not isinstance(begin, StartingWeights):
        return begin
    set_weights(training.net, training.initial)
    begin.place(training.net, training.encoder)  # what stands above is as it was
    training.language_start = model_weights(training.net)
    return training.learn_labels("labels after the language model")


def _learned(training: UnlabelledTraining) -> StartingWeights | TrainResult | None:
    """Learn the language model; None if there is no time, and how it went if it was stopped."""
    from bilstm.tasks.language_training import fit
    from bilstm.training import events

    assert isinstance(training.encoder, TextEncoder)
    others = _others(training.whole, training.train.ids)
    if len(others) < FEWEST_TEXTS:
        training.tell(
            events.Note(f"language model: left out, {len(others)} texts besides the labelled ones are too few.")
        )
        return None
    texts, held_out = _held_out(others, training.config.seed)
    passes = float(training.planned("language model", lambda: _passes_within(training, texts, held_out)))
    if passes == 0:
        training.tell(events.Note(f"language model: left out, there is no time for {FEWEST_PASSES:g} passes."))
        return None
    config = _config(training, len(texts.values), passes)
    outcome = fit(
        texts,
        config,
        valid=held_out,
        encoder=training.encoder,
        vectors=training.vectors,
        checkpoint=training.place("language model"),
        resume=training.resume,
        progress=_told(training.tell),
        stop=training.overrun,
    )
    if outcome.result.stopped_because in ("interrupted", "stopped"):
        return dataclasses.replace(outcome.result, history=(), best_epoch=0, best_score=None, steps=0)
    layers = language_model.describe_model(config, len(training.encoder.vocabulary))
    parts = weights_to_start_with(layers, outcome.model.weights, where="language model")
    return StartingWeights("language model", "language-model", training.encoder, {}, parts)


def _missing(training: UnlabelledTraining) -> str | None:
    """Say why there can be no language model, if so."""
    config = training.config
    if training.start is not None:
        return "the network begins with another model"
    if not isinstance(training.encoder, TextEncoder):
        return "the texts are word ids"
    shape = (config.convolution_size, config.num_layers, config.layer_sizes, config.bidirectional, config.merge_mode)
    if shape != (None, 1, None, True, "concat") or config.cell == "none":
        return "it begins networks of one bidirectional layer whose directions stand side by side"
    return None


def _config(training: UnlabelledTraining, words: int, passes: float) -> language_model.Config:
    own, part = training.config, max(words // PARTS, 1)
    return language_model.Config(
        seed=own.seed,
        max_epochs=max(round(passes * PARTS), 1),
        epoch_words=part,
        learning_rate=LEARNING_RATE,
        embedding_size=own.embedding_size,
        cell=own.cell,  # type: ignore[arg-type]
        hidden_size=own.hidden_size,
        threads=own.threads,
        backend=own.backend,
        precision=own.precision,
        patience=None,
        checkpoint_minutes=own.checkpoint_minutes,
        checkpoint_steps=own.checkpoint_steps,
    )


def _others(texts: Ragged, labelled: Ragged) -> Ragged:
    """Return the texts that are not among the labelled ones, word for word."""
    known = {labelled[row].tobytes() for row in range(len(labelled))}
    return texts.select(
        np.array([row for row in range(len(texts)) if texts[row].tobytes() not in known], dtype=np.int64)
    )


def _held_out(texts: Ragged, seed: int) -> tuple[Ragged, Ragged]:
    """Set some texts apart, which show how well the others are learned."""
    order = np.random.default_rng(seed).permutation(len(texts))
    most = min(HELD_OUT_WORDS, HELD_OUT_SHARE * len(texts.values))
    count = max(int(np.searchsorted(np.cumsum(texts.lengths[order]), most)), 1)
    return texts.select(np.sort(order[count:])), texts.select(np.sort(order[:count]))


def _passes_within(training: UnlabelledTraining, texts: Ragged, held_out: Ragged) -> float:
    """Return how many passes over the texts fit into their share of the time; 0 if too few."""
    from bilstm.tasks.language_training import fit

    if training.budget.seconds is None:
        return USUAL_PASSES
    count = int(np.searchsorted(texts.offsets, SAMPLE_WORDS, side="right"))
    sample = texts.select(np.arange(min(max(count, 1), len(texts))))
    words = len(sample.values)
    outcome = fit(
        sample,
        dataclasses.replace(_config(training, words, 1.0), max_epochs=1, epoch_words=words),
        valid=held_out,
        encoder=training.encoder,  # type: ignore[arg-type]
        vectors=training.vectors,
    )
    reading = outcome.result.seconds
    scoring = max(outcome.seconds["training"] - reading, 0.0)
    a_pass = reading * len(texts.values) / words + PARTS * scoring
    fitting = (LANGUAGE_SHARE * training.budget.left() - scoring) / a_pass
    return min(fitting, MOST_PASSES) if fitting >= FEWEST_PASSES else 0.0


def _told(tell: Listener) -> Listener:
    """Show the language model's training as one piece of work."""
    from bilstm.training import events

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepDone):
            done = (event.epoch - 1) * event.batches + event.position
            tell(events.PhaseAdvanced("language model", done, event.max_epochs * event.batches, "batches"))
        elif isinstance(event, events.EpochDone) and event.row.dev_loss is not None:
            found = f"perplexity of held-out texts {math.exp(min(event.row.dev_loss, 700.0)):,.1f}"
            tell(events.Note(f"Language model: after {event.row.epoch / PARTS:g} passes, {found}."))
        elif isinstance(event, events.Note):
            tell(events.Note(f"Language model: {event.text}"))

    return listen
