"""Linear models beside the network that a teacher taught; the development part can only speak against them.

Two models that learned from the same labels in different ways err in different places (Blum and Mitchell 1998). With
few labels there are too few development rows to fit weights by, so the linear teacher's last model and the network
count alike: each is divided by its own spread over unlabelled texts, and their mean stands on the scale of the
network's logits. With many labels the weights are those that come nearest to the joined teacher's answers to texts from
which neither learned: more rows than the development part has, and none of them like a text whose label was learned by
heart. Imports numpy; torch inside the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import TextEncoder
from bilstm.evaluation.joining import Joining, fit_joining_to_answers
from bilstm.metrics import fit_temperature
from bilstm.tasks.joined_linear import JoinedLinear
from bilstm.tasks.phase_results import FEW_DEV_ROWS, is_kept
from bilstm.tasks.phase_teaching import runtime_linear
from bilstm.tasks.text_classification import Config, TextModel, Texts, words_of

if TYPE_CHECKING:
    from bilstm.tasks.linear_pupil import LinearPupil
    from bilstm.training.linear_teacher import TaughtNgrams
    from bilstm.training.loop import DevScore

__all__ = ["can_join_teacher", "join_pupil", "join_teacher"]

SPREAD_TEXTS = 500


def can_join_teacher(config: Config, encoder: object) -> bool:
    """Say whether the n-grams of word ids are those of the words that a joined linear model reads."""
    return config.join_linear and config.tokenizer == "words" and config.lowercase and isinstance(encoder, TextEncoder)


def join_teacher(
    model: TextModel,
    taught: TaughtNgrams,
    dev_logits: np.ndarray,
    dev_ids: Ragged,
    dev_targets: np.ndarray,
    unlabelled: Ragged,
) -> tuple[np.ndarray, str]:
    """Join the teacher's model unless the development part speaks against it; return dev logits and what was done.

    Parameters
    ----------
    model : TextModel
        Of classes, calibrated; it gets the joined model, and the temperature moves into the weights.
    taught : TaughtNgrams
    dev_logits : ndarray of shape (rows, outputs)
    dev_ids, unlabelled : Ragged of int64
        Word ids.
    dev_targets : ndarray of shape (rows,)
    """
    encoder = model.encoder
    assert isinstance(encoder, TextEncoder)  # as `can_join_teacher` says
    linear = runtime_linear(taught, lambda number: encoder.vocabulary.tokens[number])
    place = np.full(len(encoder.vocabulary) + 1, -1)
    place[taught.words] = np.arange(len(taught.words))
    numbers = Ragged(place[dev_ids.values], np.asarray(dev_ids.offsets))
    rows = np.linspace(0, len(unlabelled) - 1, min(SPREAD_TEXTS, len(unlabelled))).astype(int)
    network = model.logits_of_ids(unlabelled.select(rows)) / model.temperature
    weights = 0.5 / model.temperature, 0.5 * float(network.std())
    joining = Joining(weights[0], (weights[1],), 0.0, 0.0)
    joined = joining.join(dev_logits, linear.margins_of_numbers(numbers))
    before, after = (_scored(logits, dev_targets) for logits in (dev_logits / model.temperature, joined))
    scores = f"development accuracy {before[0].score:.4f} -> {after[0].score:.4f}"
    if not is_kept(before, after, is_trusted=len(dev_targets) < FEW_DEV_ROWS):
        return dev_logits, f"The linear teacher was not joined to the network: {scores}."
    loss = after[0].loss
    assert loss is not None  # `_scored` gives one
    model.joined = JoinedLinear(linear, Joining(weights[0], (weights[1],), 0.0, loss))
    model.temperature = 1.0
    return joined, f"The linear teacher's n-gram model was joined to the network's output: {scores}."


def join_pupil(
    model: TextModel,
    pupil: LinearPupil,
    dev_logits: np.ndarray,
    dev_texts: Texts,
    dev_targets: np.ndarray,
    unlabelled: Ragged,
) -> tuple[np.ndarray, str]:
    """Join the baseline's models and the pupil unless the development part speaks against it.

    Parameters and what is returned are those of `join_teacher`, with the pupil in place of the taught model, and the
    development texts themselves.
    """
    rows, answers = pupil.kept_apart()
    linear = pupil.models()
    found = fit_joining_to_answers(
        model.logits_of_ids(unlabelled.select(rows)), pupil.margins_of(linear, rows), answers
    )
    joined = found.join(dev_logits, linear.margins(words_of(dev_texts)))
    heat = fit_temperature(joined[:, 0] if joined.shape[1] == 1 else joined, dev_targets).value
    joined = joined / heat
    before, after = (_scored(logits, dev_targets) for logits in (dev_logits / model.temperature, joined))
    scores = f"development log loss {before[0].loss:.4f} -> {after[0].loss:.4f}"
    if found.network <= 0 or not any(found.linear) or not is_kept(before, after, is_trusted=True):
        return dev_logits, f"The n-gram models were not joined to the network: {scores}."
    loss = after[0].loss
    assert loss is not None  # `_scored` gives one
    weights = found.network / heat, tuple(weight / heat for weight in found.linear), found.shift / heat
    model.joined = JoinedLinear(linear, Joining(*weights, loss)).without_unused()
    model.temperature = 1.0
    return joined, f"The n-gram models, one of them taught, were joined to the network's output: {scores}."


def _scored(logits: np.ndarray, targets: np.ndarray) -> tuple[DevScore, np.ndarray]:
    """Return accuracy and log loss, and which rows are right."""
    from bilstm.training.loop import DevScore

    full = np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits
    full = full - full.max(axis=1, keepdims=True)
    losses = np.log(np.exp(full).sum(axis=1)) - full[np.arange(len(full)), targets]
    right = full.argmax(axis=1) == targets
    return DevScore(float(right.mean()), float(losses.mean())), right
