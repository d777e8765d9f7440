"""The mixed objective: what unlabelled texts say about a classifier, beside what labelled ones say.

Four terms, as in [1]_: cross entropy, the same under the worst small change of the word vectors (adversarial, [2]_),
the change of the prediction under its own worst small change (virtual adversarial, [2]_ and [3]_), and the entropy of
the prediction ([4]_). The last two need no labels. Labelled and unlabelled rows lie side by side in one batch, the
labelled first. Imports torch, `Ragged` and `objectives`.

References
----------
.. [1] D. S. Sachan, M. Zaheer, R. Salakhutdinov, Revisiting LSTM networks for semi-supervised text classification via
   mixed objective function, AAAI 2019, arXiv:2009.04007, section 3.
.. [2] T. Miyato, A. M. Dai, I. Goodfellow, Adversarial training methods for semi-supervised text classification,
   ICLR 2017, arXiv:1605.07725, equations 2 to 10.
.. [3] T. Miyato, S. Maeda, M. Koyama, S. Ishii, Virtual adversarial training, IEEE TPAMI 2019, arXiv:1704.03976.
.. [4] Y. Grandvalet, Y. Bengio, Semi-supervised learning by entropy minimization, NeurIPS 2004.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError
from bilstm.training.objectives import perturbation, with_known_gradient

__all__ = ["MixedTerms", "divergence", "mixed_terms", "prediction_entropy", "standardize_embedding"]

# Length of the small trial change that finds the worst direction for three and more classes: xi of [3], algorithm 1.
TRIAL_NORM = 0.1


@dataclass(frozen=True)
class MixedTerms:
    """The four terms, each a mean over its rows, in nats, and their weighted sum.

    Parameters
    ----------
    logits : Tensor of shape (rows, outputs)
        Of the texts as they are, without a graph.
    total : Tensor, scalar
        supervised + adversarial + unlabelled_weight (virtual + entropy); the one to call `backward` on.
    supervised, adversarial : Tensor, scalar
        Over the labelled rows, without a graph.
    virtual, entropy : Tensor, scalar
        Over the unlabelled rows, without a graph; 0 where there are none.
    """

    logits: Tensor
    total: Tensor
    supervised: Tensor
    adversarial: Tensor
    virtual: Tensor
    entropy: Tensor


def mixed_terms(
    run: Callable[[Ragged], Tensor],
    embedded: Ragged,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    norm: float,
    unlabelled_weight: float = 1.0,
    parameters: Sequence[Tensor] = (),
) -> MixedTerms:
    """Compute the four terms of a batch in two passes (three, for three and more classes).

    Parameters
    ----------
    run : callable
        Embedded values to logits of shape (rows, outputs); one output stands for two classes.
    embedded : Ragged
        Output of the embedding with a gradient, values (total_steps, feature). The first `len(targets)` rows are the
        labelled ones, at least 1.
    targets : Tensor of shape (labelled,), int64
    loss : callable
        Mean loss of logits and targets.
    norm : float
        L2 norm of the change of each text, all its steps and features together.
    unlabelled_weight : float, default=1.0
        Weight of both unlabelled terms in the total.
    parameters : sequence of Tensor
        All weights that `run` reads. With one output, the pass back that finds the directions then gives the gradient
        of the clean terms too, kept for the final pass: two passes back instead of three. Empty: three.

    Notes
    -----
    With one output z the worst directions need no search. The gradient of any loss of one row is a number times the
    gradient of z, and the Hessian of the divergence at no change is p (1 - p) dz dz^T, whose largest eigenvector is
    that gradient. So one backward pass from z gives the adversarial direction of the labelled rows (against the label)
    and the virtual one of the unlabelled rows (against the model's own answer, the sign that changes it most). For the
    same reason a pass back from the clean terms points along these directions, up to the sign of each row's number.
    """
    labelled = len(targets)
    if not 0 < labelled <= len(embedded):
        raise UsageError(f"a mixed batch needs 1 to {len(embedded)} labelled rows, got {labelled}.")
    has_rest = labelled < len(embedded)
    logits = run(embedded)
    supervised = loss(logits[:labelled], targets)
    entropy = prediction_entropy(logits[labelled:]) if has_rest else supervised.new_zeros(())
    clean = supervised + unlabelled_weight * entropy if has_rest else supervised
    if logits.shape[1] > 1:
        direction = _direction_of_classes(run, logits, embedded, supervised, labelled)
    elif parameters and unlabelled_weight > 0:
        direction, clean = _direction_and_gradient(logits, clean, embedded, targets, parameters)
    else:
        direction = _direction_of_two_classes(logits, embedded.values, targets)
    change = perturbation(direction, embedded.offsets, norm)
    changed = run(embedded.with_values(embedded.values + change))
    adversarial = loss(changed[:labelled], targets)
    virtual = divergence(logits[labelled:].detach(), changed[labelled:]) if has_rest else entropy
    total = clean + adversarial + unlabelled_weight * virtual if has_rest else clean + adversarial
    values = (term.detach() for term in (supervised, adversarial, virtual, entropy))
    return MixedTerms(logits.detach(), total, *values)


def _away(logits: Tensor, targets: Tensor) -> Tensor:
    """Return, shape (rows,), the sign that makes each row's answer (the label, or its own) less likely."""
    answers = (logits.detach()[:, 0] > 0).to(logits.dtype)
    answers[: len(targets)] = targets.to(logits.dtype)
    return 1.0 - 2.0 * answers  # +1: raise the logit, the answer is class 0


def _direction_of_two_classes(logits: Tensor, values: Tensor, targets: Tensor) -> Tensor:
    """Point each row's values to where its answer becomes less likely."""
    along = (logits[:, 0] * _away(logits, targets)).sum()
    (direction,) = torch.autograd.grad(along, values, retain_graph=True)
    return direction


def _direction_and_gradient(
    logits: Tensor, clean: Tensor, embedded: Ragged, targets: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Do the same by the pass back of the clean terms; return the direction, and the terms with known gradients.

    A row whose clean terms do not depend on its logit at all (its answer is sure beyond float32) is not moved.
    """
    (by_logit,) = torch.autograd.grad(clean, logits, retain_graph=True)  # (rows, 1)
    inputs = (embedded.values, *parameters)
    gradients = torch.autograd.grad(logits, inputs, by_logit, allow_unused=True)
    assert gradients[0] is not None  # logits depend on the values
    signs = _away(logits, targets) * torch.sign(by_logit[:, 0])  # (rows,)
    steps = embedded.offsets[1:] - embedded.offsets[:-1]
    direction = gradients[0] * torch.repeat_interleave(signs, steps.to(signs.device)).unsqueeze(1)
    return direction, with_known_gradient(clean, inputs, gradients)


def _direction_of_classes(
    run: Callable[[Ragged], Tensor], logits: Tensor, embedded: Ragged, supervised: Tensor, labelled: int
) -> Tensor:
    """Gradient of the loss for labelled rows; for the others one step of power iteration from a random change."""
    values = embedded.values
    (direction,) = torch.autograd.grad(supervised, values, retain_graph=True)
    if labelled == len(embedded):
        return direction
    first = int(embedded.offsets[labelled])  # steps of the unlabelled rows follow
    rest = Ragged(values.detach()[first:], embedded.offsets[labelled:] - embedded.offsets[labelled])
    trial = perturbation(torch.randn_like(rest.values), rest.offsets, TRIAL_NORM).requires_grad_()
    moved = run(rest.with_values(rest.values + trial))
    (virtual,) = torch.autograd.grad(divergence(logits.detach()[labelled:], moved), trial)
    return torch.cat([direction[:first], virtual])


def divergence(logits: Tensor, changed: Tensor) -> Tensor:
    """Compute the mean Kullback-Leibler divergence of the changed prediction from the first one.

    Parameters
    ----------
    logits, changed : Tensor of shape (rows, outputs)
        One output stands for two classes, the logit of class 1.

    Returns
    -------
    Tensor, scalar
        mean over rows of sum_k p_k (log p_k - log q_k), p of `logits` and q of `changed`; 0 for no rows.
    """
    p, q = _log_probabilities(logits), _log_probabilities(changed)
    return (p.exp() * (p - q)).sum() / max(len(p), 1)


def prediction_entropy(logits: Tensor) -> Tensor:
    """Compute the mean entropy -sum_k p_k log p_k of predictions, shape (rows, outputs); 0 for no rows."""
    p = _log_probabilities(logits)
    return -(p.exp() * p).sum() / max(len(p), 1)


def _log_probabilities(logits: Tensor) -> Tensor:
    """Return log p, shape (rows, classes)."""
    if logits.shape[1] == 1:
        return torch.cat([functional.logsigmoid(-logits), functional.logsigmoid(logits)], dim=1)
    return functional.log_softmax(logits, dim=1)


@torch.no_grad()
def standardize_embedding(weight: Tensor, shares: Tensor, scale: float = 1.0) -> None:
    """Bring a table to mean 0 and one standard deviation over the running text, in place.

    The same constraint as `objectives.normalized_embedding`, kept by projection every few steps instead of inside each
    step: without it a model escapes a change of fixed norm by growing its vectors.

    Parameters
    ----------
    weight : Tensor of shape (vocab, feature)
    shares : Tensor of shape (vocab,)
        Share of each word in the running text; they add up to 1.
    scale : float, default=1.0
        Standard deviation of each feature; norms of changes are in proportion to it.
    """
    mean = shares @ weight  # (feature,)
    variance = shares @ (weight - mean) ** 2
    weight.sub_(mean).mul_(scale * torch.rsqrt(variance + 1e-12))
