"""The linear teacher's last model beside the network that it taught.

With few labels there are too few development rows to fit weights by, so both count alike: each is divided by its own
spread over unlabelled texts, and their mean stands on the scale of the network's logits. Two models that learned from
the same labels in different ways err in different places (Blum and Mitchell 1998). The development part can only speak
against it. Imports numpy; torch inside the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import TextEncoder
from bilstm.evaluation.joining import Joining
from bilstm.tasks.joined_linear import JoinedLinear
from bilstm.tasks.phase_results import FEW_DEV_ROWS, is_kept
from bilstm.tasks.phase_teaching import runtime_linear
from bilstm.tasks.text_classification import Config, TextModel

if TYPE_CHECKING:
    from bilstm.training.linear_teacher import TaughtNgrams
    from bilstm.training.loop import DevScore

__all__ = ["can_join_teacher", "join_teacher"]

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


def _scored(logits: np.ndarray, targets: np.ndarray) -> tuple[DevScore, np.ndarray]:
    """Return accuracy and log loss, and which rows are right."""
    from bilstm.training.loop import DevScore

    full = np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits
    full = full - full.max(axis=1, keepdims=True)
    losses = np.log(np.exp(full).sum(axis=1)) - full[np.arange(len(full)), targets]
    right = full.argmax(axis=1) == targets
    return DevScore(float(right.mean()), float(losses.mean())), right
