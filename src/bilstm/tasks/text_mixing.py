"""The phase of the mixed objective: labelled and unlabelled texts side by side, as they are and a little changed.

Cross entropy, adversarial, virtual adversarial and entropy terms (Sachan, Zaheer, Salakhutdinov, Revisiting LSTM
networks for semi-supervised text classification via mixed objective function, AAAI 2019). Each function works on a
`text_phases.UnlabelledTraining`, within what is left of its budget. Imports torch only inside the functions.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bilstm.tasks.phase_losses import MixedLoss
from bilstm.tasks.phase_results import LEAST_WORDS, SELF_SHARES, SPARE_SECONDS, looks_of, phase_config
from bilstm.tasks.text_network import Objective

if TYPE_CHECKING:
    from bilstm.tasks.text_phases import UnlabelledTraining
    from bilstm.training.loop import TrainResult
    from bilstm.training.unlabelled import MixedBatches

__all__ = ["MIXED_SHARE", "has_time_to_mix", "mix"]

PHASE = "mixed objective"
RATE, BETAS = 0.001, (0.0, 0.98)  # as published
MOST_PASSES = 50  # over the labelled texts, as published
FEWEST_STEPS, USUAL_STEPS = 4_000, 3_000  # smaller batches where a budget gives fewer; most of them for few texts
SELF_SHARE = 0.25  # of the time that is left, for each round of self-training after it
MIXED_SHARE, LEAST_SECONDS = 0.45, 1_200.0  # before a teacher: of the time that is left, if there is so much
FEWEST_PASSES = 3.0  # before a teacher, over the labelled texts: after fewer the network was no better than before


def mix(training: UnlabelledTraining, share: float = 1.0) -> TrainResult:
    """Go on from the present weights with the mixed objective, in a share of the time that is left.

    What self-training needs after it is not counted in that time.
    """
    objective, step_loss = _mixing(training)
    plan = training.planned(PHASE, lambda: _steps_within(training, share, step_loss))
    step_loss.total = plan["steps"] * plan["looks"]
    config = phase_config(training.config, plan, RATE, BETAS, training.budget.seconds is None)
    deal = _dealt(training, plan["words"], plan["steps"])
    return training.loop(PHASE, step_loss, objective, deal.epoch, config)


def has_time_to_mix(training: UnlabelledTraining) -> bool:
    """Say whether the mixed objective has time to make the network a better teacher: it takes several passes.

    Where it has, its plan is made: nothing is measured again.
    """
    from bilstm.training import events
    from bilstm.training.checkpoint import model_weights, set_weights

    if training.budget.left() <= LEAST_SECONDS:
        return False
    before = model_weights(training.net)  # measuring steps changes them
    plan = _steps_within(training, MIXED_SHARE, _mixing(training)[1])
    set_weights(training.net, before)
    passes = plan["steps"] * plan["looks"] / _batches_of_epoch(training, plan["words"])
    if passes < FEWEST_PASSES:
        training.tell(events.Note(f"mixed objective: left out, there is time for {passes:.1f} passes only."))
        return False
    training.planned(PHASE, lambda: plan)
    return True


def _mixing(training: UnlabelledTraining) -> tuple[Objective, MixedLoss]:
    """Return the objective, whose settings name the norm of a change, and the loss of a mixed batch."""
    config = dataclasses.replace(training.config, adversarial_norm=training.adversarial_norm())
    objective = Objective(training.net, training.train, training.labels, config)
    return objective, MixedLoss(objective, training.unlabelled, training.standardize)


def _dealt(training: UnlabelledTraining, words: int, steps: int) -> MixedBatches:
    """Deal both kinds of texts, so many words of either a step at most."""
    from bilstm.training.unlabelled import MixedBatches

    return MixedBatches(
        training.train.ids.lengths,
        training.unlabelled.lengths,
        steps=steps,
        max_rows=training.config.batch_size,
        max_steps=words,
        seed=training.config.seed,
    )


def _batches_of_epoch(training: UnlabelledTraining, words: int) -> int:
    """Return how many batches of so many words the labelled texts make."""
    config = dataclasses.replace(training.config, batch_steps=words)
    return len(Objective(training.net, training.train, training.labels, config).batches_of_epoch(1))


def _steps_within(training: UnlabelledTraining, share: float, step_loss: MixedLoss) -> dict[str, int]:
    """Choose how many steps of how many words there is time for, in a share of what is left."""
    from bilstm.training.budget import steps_within

    budget, words = training.budget, training.config.batch_steps or 2**40
    most = max(_batches_of_epoch(training, words) * MOST_PASSES, USUAL_STEPS)
    if budget.seconds is None:
        return looks_of(words, most)
    if "self-training" in training.config.phases and training.has_few_labels:
        share -= SELF_SHARE * len(SELF_SHARES)
    while True:
        seconds = training.seconds_a_step(step_loss, _dealt(training, words, 8).epoch(1))
        steps = steps_within(share * (budget.left() - SPARE_SECONDS) * 0.95, seconds, least=8, most=most)
        if steps >= min(FEWEST_STEPS, most) or words < 2 * LEAST_WORDS:
            return looks_of(words, steps)
        words //= 2
