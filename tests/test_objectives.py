import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from bilstm.data.ragged import Ragged
from bilstm.errors import ShapeError
from bilstm.training.objectives import (
    adversarial_loss,
    balanced_class_weights,
    binary_cross_entropy,
    cross_entropy,
    mean_squared_error,
    multi_label_cross_entropy,
    normalized_embedding,
    perturbation,
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _doubles(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def _log_softmax(row):
    largest = max(row)
    total = math.log(sum(math.exp(value - largest) for value in row)) + largest
    return [value - total for value in row]


def test_cross_entropy_by_its_formula():
    logits, targets, weights, smoothing = _doubles(5, 3), [0, 2, 2, 1, 0], [0.5, 2.0, 1.0], 0.2
    weighted, total = 0.0, 0.0
    for row, target in zip(logits.tolist(), targets, strict=True):
        log_probs = _log_softmax(row)
        hard = -weights[target] * log_probs[target]
        even = -sum(w * p for w, p in zip(weights, log_probs, strict=True)) / 3
        weighted += (1 - smoothing) * hard + smoothing * even
        total += weights[target]
    found = cross_entropy(logits, torch.tensor(targets), torch.tensor(weights, dtype=torch.float64), smoothing)
    assert float(found) == pytest.approx(weighted / total, rel=1e-12)


def test_binary_cross_entropy_is_that_of_the_logistic_function():
    logits, targets, weights = _doubles(6), [0, 1, 1, 0, 1, 1], [3.0, 0.5]
    expected = total = 0.0
    for value, target in zip(logits.tolist(), targets, strict=True):
        p = 1 / (1 + math.exp(-value))
        expected -= weights[target] * math.log(p if target else 1 - p)
        total += weights[target]
    found = binary_cross_entropy(logits.reshape(-1, 1), torch.tensor(targets), torch.tensor(weights).double())
    assert float(found) == pytest.approx(expected / total, rel=1e-12)


def test_multi_label_cross_entropy_by_its_formula():
    logits = _doubles(4, 3)
    targets = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    expected = -np.where(targets.numpy() == 1, np.log(p), np.log(1 - p)).mean()
    assert float(multi_label_cross_entropy(logits, targets)) == pytest.approx(expected, rel=1e-12)


def test_mean_squared_error_takes_a_column_and_does_not_broadcast():
    outputs, targets = torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 3.0])
    assert float(mean_squared_error(outputs, targets)) == 2.5
    with pytest.raises(ShapeError, match=r"\(2,\).*\(2, 1\)"):
        mean_squared_error(outputs, targets.reshape(2, 1))


def test_losses_refuse_targets_of_another_length():
    with pytest.raises(ShapeError):
        cross_entropy(_doubles(3, 2), torch.tensor([0, 1]))
    with pytest.raises(ShapeError):
        multi_label_cross_entropy(_doubles(3, 2), torch.zeros(3, 1))


def test_no_rows_give_a_zero_that_has_a_gradient():
    for loss in (
        lambda x: cross_entropy(x, torch.zeros(0, dtype=torch.int64)),
        lambda x: multi_label_cross_entropy(x, torch.zeros(0, 2)),
        lambda x: mean_squared_error(x, torch.zeros(0)),
    ):
        logits = torch.zeros(0, 2, requires_grad=True)
        value = loss(logits)
        value.backward()
        assert value.item() == 0.0


@settings(deadline=None)  # the first example imports scikit-learn
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_balanced_class_weights_are_scikit_learns(targets):
    found = balanced_class_weights(torch.tensor(targets), 4)
    present = np.unique(targets)
    expected = compute_class_weight("balanced", classes=present, y=targets) * len(present) / 4
    np.testing.assert_allclose(found.numpy()[present], expected, rtol=1e-6)
    assert found.sum() == found[torch.tensor(present)].sum()


def test_normalized_embedding_has_mean_0_and_variance_1_over_the_text():
    weight, counts = _doubles(4, 3), torch.tensor([5, 1, 0, 2])
    found = normalized_embedding(weight, counts).numpy()
    text = np.repeat(found[[0, 1, 3]], [5, 1, 2], axis=0)  # the words as often as they stand in the text
    np.testing.assert_allclose(text.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(text.var(axis=0), 1, rtol=1e-9)


@pytest.mark.parametrize("size", [1.0, 1e-30])
def test_perturbation_has_the_norm_in_each_sequence_and_the_gradients_direction(size):
    gradient = (_doubles(6, 2) * size).float()
    gradient[3:4] = 0.0
    offsets = torch.tensor([0, 3, 3, 4, 6])
    moved = perturbation(gradient, offsets, norm=0.7)
    for start, end in ((0, 3), (4, 6)):
        own = gradient[start:end].double()
        expected = 0.7 * own / math.sqrt(float((own * own).sum()))
        np.testing.assert_allclose(moved[start:end].numpy(), expected.numpy(), rtol=1e-5)
    assert (moved[3] == 0).all()


def test_adversarial_loss_of_a_linear_model_by_hand():
    # loss of a row: softplus(-y w.sum(x)); its gradient at every step is -y s w with s = sigmoid(-y w.sum(x)), so the
    # worst move of norm e is e * (-y w / (|w| sqrt(steps))) at each step: the score falls by e |w| sqrt(steps)
    w, y, norm = _doubles(3, seed=1), torch.tensor([1.0, -1.0]).double(), 0.3
    values = _doubles(5, 3).requires_grad_()
    batch = Ragged(values, torch.tensor([0, 2, 5]))

    def loss_of(embedded):
        sums = torch.stack([embedded.values[:2].sum(0), embedded.values[2:].sum(0)]) @ w
        return nn.functional.softplus(-y * sums).mean()

    clean, worst = adversarial_loss(loss_of, batch, norm)
    expected_clean = expected_worst = 0.0
    size = math.sqrt(float(w @ w))
    for row, (start, end) in enumerate(((0, 2), (2, 5))):
        margin = float(y[row] * (values.detach()[start:end].sum(0) @ w))
        expected_clean += math.log1p(math.exp(-margin)) / 2
        expected_worst += math.log1p(math.exp(-(margin - norm * size * math.sqrt(end - start)))) / 2
    assert clean.item() == pytest.approx(expected_clean, rel=1e-12)
    assert worst.item() == pytest.approx(expected_worst, rel=1e-12)


def test_one_pass_back_less_gives_the_same_gradients():
    table, weight, unused = (_doubles(4, 3, seed=seed).requires_grad_() for seed in (1, 2, 3))
    ids = torch.tensor([0, 1, 1, 3, 2])
    passes = []

    def loss_of(embedded):
        logits = torch.tanh(embedded.values) @ weight.T
        if logits.requires_grad:
            logits.register_hook(lambda gradient: passes.append(1))
        return nn.functional.cross_entropy(logits, torch.tensor([0, 3, 1, 2, 2]))

    found = []
    for parameters in ((), (weight, unused)):
        passes.clear()
        embedded = Ragged(2.0 * table[ids], torch.tensor([0, 2, 5]))
        plain, worst = adversarial_loss(loss_of, embedded, 0.3, parameters)
        (0.25 * plain + 0.75 * worst).backward()
        found.append((plain.item(), worst.item(), table.grad.clone(), weight.grad.clone(), len(passes)))
        assert unused.grad is None
        table.grad, weight.grad = None, None
    three, two = found
    assert (three[4], two[4]) == (3, 2)
    assert three[:2] == two[:2]
    for one, other in zip(three[2:4], two[2:4], strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-12, atol=1e-14)


def test_no_gradient_flows_through_the_perturbation():
    weight = torch.tensor([[0.5, -0.2]], dtype=torch.float64, requires_grad=True)
    values = torch.ones(2, 2, dtype=torch.float64).requires_grad_()
    batch = Ragged(values, torch.tensor([0, 2]))
    _, worst = adversarial_loss(lambda e: (e.values @ weight.T).sum().exp(), batch, norm=0.1)
    (found,) = torch.autograd.grad(worst, weight)
    move = 0.1 * weight.detach() / (weight.detach().norm() * math.sqrt(2))  # the same at both steps
    steps = torch.ones(2, 2, dtype=torch.float64) + move
    expected = float((steps @ weight.detach().T).sum().exp()) * steps.sum(0)  # d exp(w.sum) / dw with the move fixed
    np.testing.assert_allclose(found.numpy()[0], expected.numpy(), rtol=1e-10)
