"""Joining a linear model to a network: weights against scikit-learn, margins against the baseline's own, the folder."""

from __future__ import annotations

import numpy as np
import pytest

from bilstm.data.sample import sample_reviews
from bilstm.data.tokenizers import WordTokenizer
from bilstm.errors import ModelFolderError
from bilstm.evaluation.baseline import fit_linear_baseline
from bilstm.evaluation.joining import fit_joining, fit_joining_to_answers
from bilstm.runtime.ngram_linear import NgramLinear


def _sample(rows: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    targets = chance.integers(0, classes, rows)
    hot = np.eye(classes)[targets]
    return 2 * hot + chance.normal(0, 1.5, hot.shape), hot + chance.normal(0, 1.5, hot.shape), targets


def test_two_classes_equal_logistic_regression_without_penalty():
    linear_model = pytest.importorskip("sklearn.linear_model")
    network, margins, targets = _sample(1500, 2)
    network, margins = network[:, 1:] - network[:, :1], margins[:, 1:] - margins[:, :1]
    found = fit_joining(network, margins[..., None], targets)
    reference = linear_model.LogisticRegression(C=1e10, tol=1e-12, max_iter=10_000)
    reference.fit(np.concatenate([network, margins], axis=1), targets)
    np.testing.assert_allclose([found.network, *found.linear], reference.coef_[0], rtol=1e-4)
    np.testing.assert_allclose(found.shift, reference.intercept_[0], atol=1e-5)


def test_several_classes_reach_the_minimum_that_a_general_optimizer_finds():
    optimize = pytest.importorskip("scipy.optimize")
    special = pytest.importorskip("scipy.special")
    network, margins, targets = _sample(800, 4)

    def loss(weights: np.ndarray) -> float:
        logits = weights[0] * network + weights[1] * margins
        return float(np.mean(special.logsumexp(logits, axis=1) - logits[np.arange(800), targets]))

    found = fit_joining(network, margins[..., None], targets)
    best = optimize.minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert found.loss == pytest.approx(best.fun, abs=1e-8)
    np.testing.assert_allclose([found.network, *found.linear], best.x, atol=1e-4)
    assert found.shift == 0.0


def test_useless_margins_get_hardly_any_weight():
    network, _, targets = _sample(20_000, 2)
    noise = np.random.default_rng(1).normal(size=(20_000, 1))
    assert fit_joining(network[:, 1:] - network[:, :1], noise[..., None], targets).linear[0] < 0.05


@pytest.fixture(scope="module")
def baseline():
    texts, labels = sample_reviews(1200, 3)
    tokens = list(WordTokenizer().tokens_of(texts))
    targets = np.array([label == "positive" for label in labels], dtype=np.int64)
    return fit_linear_baseline(
        tokens[:1000], targets[:1000], tokens[1000:], targets[1000:], "classification", 2
    ), tokens


def test_margins_without_scikit_learn_give_the_baselines_own_probabilities(baseline):
    fitted, tokens = baseline
    margins = fitted.to_runtime().margins(tokens[1000:])
    assert margins.shape == (200, 1, 2)  # one of each family
    own = ["tf-idf", "nb-svm"].index(fitted.settings["family"])
    positive = 1 / (1 + np.exp(-margins[:, 0, own] / fitted.settings["temperature"]))
    np.testing.assert_allclose(positive, fitted.predict(tokens[1000:])[:, 1], atol=1e-6)


def test_a_text_has_the_same_margin_alone_and_among_others(baseline):
    fitted, tokens = baseline
    linear = fitted.to_runtime()
    together = linear.margins(tokens[:50])
    assert all((linear.margins([tokens[row]]) == together[row]).all() for row in range(50))
    intercepts = np.stack([head.intercepts for head in linear.heads], axis=-1)
    assert (linear.margins([[], ["neverseenword"]]) == intercepts).all()
    assert linear.margins([]).shape == (0, 1, 2)


def test_folder_form_round_trips_and_refuses_what_does_not_fit(baseline):
    fitted, tokens = baseline
    linear = fitted.to_runtime()
    arrays, words = linear.to_folder()
    again = NgramLinear.from_folder(arrays, words.encode(), 1)
    assert (again.margins(tokens[:20]) == linear.margins(tokens[:20])).all()
    with pytest.raises(ModelFolderError, match=r"must be floats of shape|fit no order"):
        NgramLinear.from_folder({**arrays, "linear.0.weights": arrays["linear.0.weights"][:, 1:]}, words.encode(), 1)
    with pytest.raises(ModelFolderError, match="ascending"):
        NgramLinear.from_folder({**arrays, "linear.keys_2": arrays["linear.keys_2"][::-1]}, words.encode(), 1)
    with pytest.raises(ModelFolderError, match="unknown, or nothing"):
        NgramLinear.from_folder({"linear.keys_2": arrays["linear.keys_2"]}, words.encode(), 1)
    with pytest.raises(ModelFolderError, match="list of words"):
        NgramLinear.from_folder(arrays, b"{}", 1)


def test_a_model_that_counts_against_itself_is_left_out():
    network, margins, targets = _sample(2000, 2)
    network, margins = network[:, 1:] - network[:, :1], margins[:, 1:] - margins[:, :1]
    both = np.stack([margins, -margins + 0.1 * network], axis=-1)
    found = fit_joining(network, both, targets)
    assert min(found.linear) >= 0
    assert found.loss <= fit_joining(network, margins[..., None], targets).loss + 1e-9


@pytest.mark.parametrize("outputs", [1, 3])
def test_weights_that_come_nearest_to_a_teacher_are_those_it_used(outputs):
    random = np.random.default_rng(1)
    network, margins = random.normal(size=(400, outputs)), random.normal(size=(400, outputs, 3))
    shift = 0.7 if outputs == 1 else 0.0
    logits = 0.8 * network + margins @ [0.5, 0.0, 1.5] + shift
    full = np.concatenate([np.zeros((400, 1)), logits], axis=1) if outputs == 1 else logits
    answers = np.exp(full) / np.exp(full).sum(axis=1, keepdims=True)
    found = fit_joining_to_answers(network, margins, answers)
    np.testing.assert_allclose([found.network, *found.linear, found.shift], [0.8, 0.5, 0.0, 1.5, shift], atol=2e-4)
    assert found.loss == pytest.approx(float(-(answers * np.log(answers)).sum(axis=1).mean()), abs=1e-8)
    # sure answers are labels
    targets = random.integers(0, max(outputs, 2), 400)
    sure = np.eye(max(outputs, 2))[targets]
    assert fit_joining_to_answers(network, margins, sure) == fit_joining(network, margins, targets)
