"""Losses of the phases that read two kinds of texts side by side. Imports torch only inside the functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bilstm.data.ragged import Ragged
from bilstm.tasks.text_network import Objective, Part

__all__ = ["MixedLoss", "TaughtLoss"]

STANDARDIZE_STEPS = 50
RAMP = 0.05  # share of the mixed phase over which the unlabelled terms grow in


class MixedLoss:
    """Loss of a mixed batch; the unlabelled terms grow in over the first twentieth of the phase."""

    def __init__(self, objective: Objective, unlabelled: Ragged, standardize: Callable[[], None]):
        assert objective.adversarial_norm is not None  # the phase sets one where the settings name none
        self._objective, self._unlabelled, self._standardize = objective, unlabelled, standardize
        self._norm = objective.adversarial_norm
        self._parameters = objective.net.parameters_from_embedded()
        self.total = 1  # steps of the phase

    def __call__(self, batch: Any) -> Any:
        """Return the loss of a `MixedBatch` and the accuracy of its labelled rows."""
        import torch

        from bilstm.training.unlabelled import joined_rows
        from bilstm.training.virtual_adversarial import mixed_terms

        objective = self._objective
        if batch.place % STANDARDIZE_STEPS == STANDARDIZE_STEPS - 1:
            self._standardize()
        ids = joined_rows(objective.part.ids.select(batch.labelled), self._unlabelled.select(batch.unlabelled))
        targets = objective.targets[torch.from_numpy(batch.labelled)]
        net = objective.net
        terms = mixed_terms(
            net.run_from_embedded,
            net.embed(ids),
            targets,
            objective.loss,
            norm=self._norm,
            unlabelled_weight=min(1.0, batch.place / (RAMP * self.total)),
            parameters=self._parameters,
        )
        return terms.total, objective.accuracy(terms.logits[: len(targets)], targets)


class TaughtLoss:
    """Cross entropy of the labelled rows, and of the rows with labels of a teacher or of the model itself.

    Parameters
    ----------
    objective : Objective
    taught : Part
        Its targets are classes, or probabilities (rows, classes).
    loss : callable, optional
        Mean loss of logits and targets of taught rows; by default that of the labelled ones, or of probabilities.
    """

    def __init__(self, objective: Objective, taught: Part, loss: Callable[[Any, Any], Any] | None = None):
        import torch

        from bilstm.training.objectives import soft_cross_entropy

        self._objective, self._taught, self._targets = objective, taught, torch.tensor(taught.targets)
        self._loss = loss or (objective.loss if taught.targets.ndim == 1 else soft_cross_entropy)

    def __call__(self, batch: Any) -> Any:
        """Return the loss of a `MixedBatch` and the accuracy of its labelled rows."""
        import torch

        from bilstm.training.unlabelled import joined_rows

        objective, own = self._objective, len(batch.labelled)
        ids = joined_rows(objective.part.ids.select(batch.labelled), self._taught.ids.select(batch.unlabelled))
        logits = objective.net(ids)
        targets = objective.targets[torch.from_numpy(batch.labelled)]
        taught = self._loss(logits[own:], self._targets[torch.from_numpy(batch.unlabelled)])
        return objective.loss(logits[:own], targets) + taught, objective.accuracy(logits[:own].detach(), targets)
