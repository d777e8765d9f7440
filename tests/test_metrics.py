"""Scores against hand-worked numbers and against scikit-learn."""

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from bilstm.errors import DataError, ShapeError
from bilstm.metrics import classification as ours
from bilstm.metrics import evaluate_classification, evaluate_multilabel, evaluate_regression, multilabel, regression
from bilstm.metrics.inputs import UndefinedScoreError, midranks

FLOAT64_SUM = 1e-12  # both sides sum in float64, in another order


def random_case(seed: int, rows: int, num_classes: int):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, num_classes, rows)
    targets[:num_classes] = np.arange(num_classes)  # every class occurs
    logits = generator.normal(size=(rows, num_classes)) + 1.5 * np.eye(num_classes)[targets]
    exponentials = np.exp(logits)
    return targets, exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_scikit_learn(num_classes, seed):
    targets, probabilities = random_case(seed, 300, num_classes)
    predictions = probabilities.argmax(axis=1)
    found = evaluate_classification(probabilities, targets, [f"class {i}" for i in range(num_classes)])
    precision, recall, f1, support = reference.precision_recall_fscore_support(targets, predictions)
    expected = {
        "accuracy": reference.accuracy_score(targets, predictions),
        "balanced_accuracy": reference.balanced_accuracy_score(targets, predictions),
        "macro_precision": precision.mean(),
        "macro_recall": recall.mean(),
        "macro_f1": f1.mean(),
        "log_loss": reference.log_loss(targets, probabilities),
        "roc_auc": reference.roc_auc_score(targets, probabilities[:, 1])
        if num_classes == 2
        else reference.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro"),
        "brier_score": reference.brier_score_loss(targets, probabilities[:, 1])
        if num_classes == 2
        else reference.brier_score_loss(targets, probabilities),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=FLOAT64_SUM), name
    assert found["confusion_matrix"] == reference.confusion_matrix(targets, predictions).tolist()
    for index, row in enumerate(found["per_class"]):
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            (precision[index], recall[index], f1[index]), abs=FLOAT64_SUM
        )
        assert row["support"] == support[index]
    assert found["undefined"] == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
def test_roc_auc_is_the_share_of_ordered_pairs(rows):
    is_positive = np.array([row[0] for row in rows])
    scores = np.array([row[1] for row in rows])
    if is_positive.all() or not is_positive.any():
        with pytest.raises(UndefinedScoreError):
            ours.binary_roc_auc(is_positive, scores)
        return
    pairs = [np.sign(p - n) for p in scores[is_positive] for n in scores[~is_positive]]
    assert ours.binary_roc_auc(is_positive, scores) == pytest.approx(np.mean([(s + 1) / 2 for s in pairs]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=30))
def test_midranks_equal_scipy(values):
    assert midranks(np.array(values)).tolist() == stats.rankdata(values).tolist()


def test_log_loss_of_certain_and_wrong_is_large_but_finite():
    targets, probabilities = np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]])
    expected = reference.log_loss(targets, probabilities)
    assert ours.log_loss(targets, probabilities) == pytest.approx(expected)
    assert math.isfinite(expected)


def test_calibration_error_by_hand():
    # confidences 0.95, 0.85, 0.65, 0.75 in bins of width 0.25: (0.5, 0.75] holds 0.65 and 0.75, (0.75, 1] the others
    probabilities = np.array([[0.05, 0.95], [0.85, 0.15], [0.65, 0.35], [0.25, 0.75]])
    targets = np.array([1, 1, 0, 1])  # right, wrong, right, right
    bins = ours.reliability_bins(targets, probabilities, num_bins=4)
    assert bins.counts.tolist() == [0, 0, 2, 2]
    assert bins.mean_confidence[2:].tolist() == pytest.approx([0.70, 0.90])
    assert bins.accuracy[2:].tolist() == [1.0, 0.5]
    assert np.isnan(bins.accuracy[:2]).all()
    assert bins.error() == pytest.approx(0.5 * 0.30 + 0.5 * 0.40)
    assert ours.expected_calibration_error(targets, probabilities, 4) == bins.error()


def test_bins_are_closed_on_the_right():
    bins = ours.bin_confidences(np.array([0.0, 0.25, 0.5, 1.0]), np.ones(4), 4)
    assert bins.counts.tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (7, 10), (920, 1000), (1, 1)])
def test_wilson_interval_equals_scipy(correct, total):
    expected = stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert ours.wilson_interval(correct, total) == pytest.approx((expected.low, expected.high), abs=FLOAT64_SUM)


def test_wilson_interval_by_hand():
    # p = 1/2, n = 4, z = 1.959964: centre 1/2, half width z sqrt(1/16 + z^2/64) / (1 + z^2/4)
    z = 1.959963984540054
    half = z * math.sqrt(1 / 16 + z * z / 64) / (1 + z * z / 4)
    assert ours.wilson_interval(2, 4) == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 3), (0, 5), (12, 4), (4, 12), (700, 640), (9000, 9000)])
def test_mcnemar_equals_the_binomial_test_of_scipy(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    # lgamma of numbers near 18,000 is exact to 1e-15 of about 160,000
    assert ours.mcnemar_p_value(first, second) == pytest.approx(expected, rel=1e-9)
    assert ours.mcnemar_p_value(0, 5) == pytest.approx(2 / 32)


def test_scores_without_a_value_are_null_with_a_reason_and_json_stays_strict():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]])
    found = evaluate_classification(probabilities, np.array([0, 1]), ["a", "b", "c"])
    assert found["roc_auc"] is None
    assert "class 'c' has none" in found["undefined"]["roc_auc"]
    assert [row["precision"] for row in found["per_class"]] == [0.5, None, None]
    assert [row["recall"] for row in found["per_class"]] == [1.0, 0.0, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found["macro_f1"] == pytest.approx(reference.f1_score([0, 1], [0, 0], average="macro"))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("probabilities", "targets", "names", "words"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), ["a", "b"], "no rows"),
        (np.array([[0.5, 0.5]]), np.array([2]), ["a", "b"], r"targets\[0\] is 2"),
        (np.array([[0.5, 0.5]]), np.array([0, 1]), ["a", "b"], "2 rows"),
        (np.array([[3.0, -2.0]]), np.array([0]), ["a", "b"], r"probabilities\[0\]"),
        (np.array([[np.nan, 0.5]]), np.array([0]), ["a", "b"], "not finite"),
        (np.array([[0.5, 0.5]]), np.array([0]), ["a", "b", "c"], "names 3"),
        (np.array([0.5]), np.array([0]), ["a", "b"], "shape"),
        (np.array([[0.5, 0.5]]), np.array([0.5]), ["a", "b"], "integers"),
    ],
)
def test_nonsense_is_refused_with_the_place(probabilities, targets, names, words):
    with pytest.raises((DataError, ShapeError), match=words):
        evaluate_classification(probabilities, targets, names)


def test_regression_equals_scikit_learn_and_scipy():
    generator = np.random.default_rng(3)
    targets = np.round(generator.normal(size=200), 1)  # rounded, so that ranks are tied
    predictions = np.round(targets + generator.normal(size=200), 1)
    found = evaluate_regression(predictions, targets)
    expected = {
        "mean_absolute_error": reference.mean_absolute_error(targets, predictions),
        "root_mean_squared_error": reference.root_mean_squared_error(targets, predictions),
        "r_squared": reference.r2_score(targets, predictions),
        "spearman": stats.spearmanr(targets, predictions).statistic,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=FLOAT64_SUM), name
    assert found["undefined"] == {}


def test_regression_by_hand_and_undefined():
    assert regression.mean_absolute_error(np.array([1, 2, 6]), np.array([2, 2, 3])) == pytest.approx(4 / 3)
    assert regression.root_mean_squared_error(np.array([1, 2, 6]), np.array([2, 2, 3])) == pytest.approx(
        math.sqrt(10 / 3)
    )
    assert regression.r_squared(np.array([1, 2, 6]), np.array([2, 2, 3])) == pytest.approx(1 - 10 / 14)
    found = evaluate_regression(np.array([1.0, 2.0]), np.array([0.1, 0.1]))
    assert found["r_squared"] is None
    assert found["spearman"] is None
    assert set(found["undefined"]) == {"r_squared", "spearman"}
    with pytest.raises(ShapeError, match=r"predictions\[1\] is not finite"):
        evaluate_regression(np.array([0.0, np.inf]), np.array([0.0, 1.0]))
    with pytest.raises(DataError, match="no rows"):
        evaluate_regression(np.zeros(0), np.zeros(0))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_multilabel_equals_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    targets = generator.random((120, 5)) < 0.3
    targets[:2] = [[True] * 5, [False] * 5]
    probabilities = np.round(np.clip(0.4 * targets + 0.6 * generator.random((120, 5)), 0, 1), 2)  # ties occur
    predictions = probabilities > 0.5
    found = evaluate_multilabel(probabilities, targets, list("abcde"))
    expected = {
        "subset_accuracy": reference.accuracy_score(targets, predictions),
        "micro_f1": reference.f1_score(targets, predictions, average="micro"),
        "macro_f1": reference.f1_score(targets, predictions, average="macro"),
        "hamming_loss": reference.hamming_loss(targets, predictions),
        "label_ranking_average_precision": reference.label_ranking_average_precision_score(targets, probabilities),
        "roc_auc": reference.roc_auc_score(targets, probabilities, average="macro"),
        "log_loss": reference.log_loss(targets.ravel(), probabilities.ravel()),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=FLOAT64_SUM), name
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_multilabel_by_hand():
    targets = np.array([[1, 0, 1], [0, 1, 0]])
    scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.7]])
    # row 0: label 0 ranks 1 of 1 true, label 2 ranks 3 with 2 true -> (1 + 2/3)/2; row 1: tied with a false one -> 1/2
    assert multilabel.label_ranking_average_precision(targets, scores) == pytest.approx((5 / 6 + 1 / 2) / 2)
    predictions = scores > 0.5
    assert multilabel.subset_accuracy(targets, predictions) == 0.0
    assert multilabel.hamming_loss(targets, predictions) == pytest.approx(3 / 6)
    assert multilabel.micro_f1(targets, predictions) == pytest.approx(4 / 7)  # TP 2, FP 2, FN 1
    found = evaluate_multilabel(scores, np.array([[1, 0, 0], [0, 1, 0]]), list("abc"))
    assert found["roc_auc"] is None
    assert "label 2" in found["undefined"]["roc_auc"]


@pytest.mark.parametrize(
    ("probabilities", "targets", "words"),
    [
        (np.array([[0.5, 1.5]]), np.array([[0, 1]]), r"probabilities\[0\]"),
        (np.array([[0.5, 0.5]]), np.array([[0, 2]]), "0 or 1"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "no rows"),
        (np.array([[0.5]]), np.array([[1]]), "2 labels"),
    ],
)
def test_multilabel_refuses_nonsense(probabilities, targets, words):
    with pytest.raises((DataError, ShapeError), match=words):
        evaluate_multilabel(probabilities, targets, ["a", "b"])
