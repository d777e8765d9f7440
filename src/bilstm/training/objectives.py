"""Losses of the tasks, over the logits of whole sequences or of every step, and the adversarial loss.

All losses are means over rows (or steps), in nats, and take logits: the last step into probabilities is inside, where
it is exact. For one prediction per step give `logits.values` of the Ragged batch. Imports torch and `Ragged`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bilstm.data.ragged import Ragged
from bilstm.errors import ShapeError

__all__ = [
    "adversarial_loss",
    "balanced_class_weights",
    "binary_cross_entropy",
    "cross_entropy",
    "mean_squared_error",
    "multi_label_cross_entropy",
    "normalized_embedding",
    "perturbation",
    "soft_cross_entropy",
    "with_known_gradient",
]


def cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Compute the mean cross entropy of one class per row.

    Parameters
    ----------
    logits : Tensor of shape (rows, class)
    targets : Tensor of shape (rows,), int64
        Class indices.
    class_weights : Tensor of shape (class,), optional
        The mean is then weighted by the weight of each row's class.
    label_smoothing : float
        Share of the target spread evenly over all classes (Szegedy et al. 2016, section 7), 0 <= share < 1.

    Returns
    -------
    Tensor, scalar
        0 for no rows.
    """
    _check_rows(logits, targets, (len(targets),))
    if len(targets) == 0:
        return logits.sum()
    return functional.cross_entropy(logits, targets, weight=class_weights, label_smoothing=label_smoothing)


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Compute the mean cross entropy of two classes from one logit, that of class 1.

    Equal to `cross_entropy` over the logits (0, logit).

    Parameters
    ----------
    logits : Tensor of shape (rows,) or (rows, 1)
    targets : Tensor of shape (rows,), int64, 0 or 1
    class_weights : Tensor of shape (2,), optional
    label_smoothing : float
    """
    both = torch.stack([torch.zeros_like(logits.reshape(-1)), logits.reshape(-1)], dim=1)  # (rows, 2)
    return cross_entropy(both, targets, class_weights, label_smoothing)


def soft_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Compute the mean cross entropy between given probabilities and a model's.

    Parameters
    ----------
    logits : Tensor of shape (rows, 1) or (rows, classes)
        One output: of two classes, the logit of class 1.
    probabilities : Tensor of shape (rows, classes)
        Each row adds up to 1.
    """
    both = torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits
    return -(probabilities * torch.log_softmax(both, dim=1)).sum(dim=1).mean()


def multi_label_cross_entropy(logits: Tensor, targets: Tensor, label_weights: Tensor | None = None) -> Tensor:
    """Compute the mean binary cross entropy of every label of every row.

    Parameters
    ----------
    logits : Tensor of shape (rows, label)
    targets : Tensor of shape (rows, label)
        1 where the row has the label, else 0.
    label_weights : Tensor of shape (label,), optional
        Weight of a present label against an absent one.
    """
    _check_rows(logits, targets, tuple(logits.shape))
    if logits.numel() == 0:
        return logits.sum()
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), pos_weight=label_weights)


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean squared difference.

    Parameters
    ----------
    outputs : Tensor of shape (rows,) or (rows, 1)
    targets : Tensor of shape (rows,)
    """
    outputs = outputs.reshape(-1)
    _check_rows(outputs, targets, tuple(outputs.shape))
    if len(outputs) == 0:
        return outputs.sum()
    return functional.mse_loss(outputs, targets.to(outputs.dtype))


def _check_rows(logits: Tensor, targets: Tensor, shape: tuple[int, ...]) -> None:
    # without this check, shapes (rows, 1) and (rows,) would broadcast to (rows, rows) in silence
    if len(logits) != len(targets) or tuple(targets.shape) != shape:
        raise ShapeError(f"logits of shape {tuple(logits.shape)} do not fit targets of shape {tuple(targets.shape)}.")


def balanced_class_weights(targets: Tensor, classes: int) -> Tensor:
    """Weight classes by the inverse of their frequency: rows / (classes * rows of the class).

    Parameters
    ----------
    targets : Tensor of any shape, int64
    classes : int

    Returns
    -------
    Tensor of shape (classes,), float32
        0 for a class without rows, which then has no part in any loss.
    """
    counts = torch.bincount(targets.reshape(-1), minlength=classes).double()
    weights = targets.numel() / (classes * counts.clamp(min=1.0))
    return torch.where(counts > 0, weights, torch.zeros_like(weights)).float()


def normalized_embedding(weight: Tensor, frequencies: Tensor) -> Tensor:
    """Bring an embedding table to mean 0 and variance 1 over the running text.

    Without it a model could escape a perturbation of fixed norm by growing its embeddings.

    Parameters
    ----------
    weight : Tensor of shape (vocab, feature)
    frequencies : Tensor of shape (vocab,)
        How often each word stands in the training text (counts or shares).

    Returns
    -------
    Tensor of shape (vocab, feature)
        (v_k - E(v)) / sqrt(Var(v)) per feature, E(v) = sum_j f_j v_j, Var(v) = sum_j f_j (v_j - E(v))^2: eq. 1 of [1]_.

    References
    ----------
    .. [1] T. Miyato, A. M. Dai, I. Goodfellow, Adversarial training methods for semi-supervised text classification,
       ICLR 2017, arXiv:1605.07725.
    """
    shares = (frequencies.to(weight.dtype) / frequencies.sum()).unsqueeze(1)  # (vocab, 1)
    mean = (shares * weight).sum(dim=0)  # (feature,)
    variance = (shares * (weight - mean) ** 2).sum(dim=0)
    return (weight - mean) / torch.sqrt(variance + 1e-12)


def perturbation(gradient: Tensor, offsets: Tensor, norm: float) -> Tensor:
    """Scale a gradient so that each sequence's part, all steps and features together, has the given L2 norm.

    Parameters
    ----------
    gradient : Tensor of shape (total_steps, feature)
    offsets : Tensor of shape (batch + 1,), int64
    norm : float
        Above 0.

    Returns
    -------
    Tensor of shape (total_steps, feature)
        Zero for a sequence whose gradient is zero. eq. 5 of the paper at `adversarial_loss`; its minus sign and that of
        the log-likelihood cancel in the gradient of a loss.
    """
    lengths = (offsets[1:] - offsets[:-1]).to(gradient.device)
    numbers = torch.arange(len(lengths), device=gradient.device)
    rows = numbers.repeat_interleave(lengths, output_size=len(gradient))  # (total_steps,)
    largest = gradient.abs().amax(dim=1).clamp(min=0.0) if len(gradient) else gradient.sum(dim=1)
    scale = gradient.new_zeros(len(lengths)).scatter_reduce(0, rows, largest, "amax")
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scaled = gradient / scale[rows].unsqueeze(1)  # squares of small gradients would vanish in float32
    squares = torch.zeros_like(scale).index_add(0, rows, (scaled * scaled).sum(dim=1))  # (batch,)
    factor = torch.where(squares > 0, norm * torch.rsqrt(squares.clamp(min=1e-12)), torch.zeros_like(squares))
    return scaled * factor[rows].unsqueeze(1)


def adversarial_loss(
    loss_of_embedded: Callable[[Ragged], Tensor], embedded: Ragged, norm: float, parameters: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """Compute the loss of a batch, and its loss where the embeddings are moved the worst way.

    Parameters
    ----------
    loss_of_embedded : callable
        Mean loss of the batch from its embedded values; called twice.
    embedded : Ragged
        Output of the embedding, values (total_steps, feature) with a gradient; `normalized_embedding` is meant to have
        been applied to the table.
    norm : float
        L2 norm of the move of each sequence, above 0.
    parameters : sequence of Tensor
        All weights that `loss_of_embedded` reads. The gradient of the first loss, which the move needs anyway, is then
        kept for the final backward pass too: two passes back instead of three, with the same gradients. Empty: three.

    Returns
    -------
    loss, adversarial : Tensor, scalar
        The task adds them, L(theta) + lambda L_adv(theta). The move is a constant: no gradient flows through it.

    References
    ----------
    .. [1] Miyato, Dai, Goodfellow, ICLR 2017, arXiv:1605.07725: r_adv = -epsilon g / ||g||_2 with
       g = grad_s log p(y | s), eq. 5, and L_adv, eq. 6. The linear term of eq. 2 is what eq. 5 solves.
    """
    loss = loss_of_embedded(embedded)
    if parameters:
        inputs = (embedded.values, *parameters)
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        gradient = gradients[0]
        loss = with_known_gradient(loss, inputs, gradients)
    else:
        (gradient,) = torch.autograd.grad(loss, embedded.values, retain_graph=True)
    moved = embedded.with_values(embedded.values + perturbation(gradient, embedded.offsets, norm))
    return loss, loss_of_embedded(moved)


def with_known_gradient(value: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the value with gradients with respect to `inputs` that have been computed already; its graph may go."""
    known: Tensor = _KnownGradient.apply(value.detach(), tuple(gradients), *inputs)
    return known


class _KnownGradient(torch.autograd.Function):
    """A value whose gradients with respect to some tensors have been computed already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor | None, ...], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if gradient is None else weight * gradient for gradient in ctx.gradients)
