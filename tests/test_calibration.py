"""The fitted temperature against scipy's minimiser and against known answers."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from bilstm.errors import DataError, ShapeError
from bilstm.metrics import apply_temperature, fit_temperature
from bilstm.metrics.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE


def sampled(seed: int, rows: int, num_classes: int, temperature: float):
    """Return logits whose true temperature is known: targets are drawn from softmax(logits / temperature)."""
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(rows, num_classes))
    targets = np.array([generator.choice(num_classes, p=p) for p in softmax(logits / temperature, axis=1)])
    return logits, targets


def minimum_by_scipy(loss) -> float:
    found = minimize_scalar(loss, bounds=(math.log(0.06), math.log(90)), method="bounded", options={"xatol": 1e-10})
    return math.exp(found.x)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_multiclass_temperature_equals_scipy(num_classes, temperature):
    logits, targets = sampled(num_classes, 400, num_classes, temperature)

    def loss(u):
        return -np.mean(log_softmax(logits / math.exp(u), axis=1)[np.arange(400), targets])

    fitted = fit_temperature(logits, targets)
    assert fitted.value == pytest.approx(minimum_by_scipy(loss), rel=1e-6)  # scipy's own tolerance
    assert fitted.loss_after == pytest.approx(loss(math.log(fitted.value)), abs=1e-12)
    assert fitted.loss_before == pytest.approx(loss(0.0), abs=1e-12)
    assert fitted.loss_after <= fitted.loss_before
    assert fitted.note == ""
    assert fitted.rows == 400


def test_binary_and_multilabel_temperature_equal_scipy():
    generator = np.random.default_rng(5)
    logits = 4 * generator.normal(size=300)
    targets = (generator.random(300) < expit(logits / 2)).astype(int)

    def loss(u):
        return np.mean(np.logaddexp(0, np.where(targets == 1, -1, 1) * logits / math.exp(u)))

    expected = minimum_by_scipy(loss)
    assert fit_temperature(logits, targets).value == pytest.approx(expected, rel=1e-6)
    square = fit_temperature(logits.reshape(100, 3), targets.reshape(100, 3))
    assert square.value == pytest.approx(expected, rel=1e-6)
    assert square.rows == 100


def test_the_true_temperature_is_found_with_many_rows():
    logits, targets = sampled(1, 20_000, 3, 2.0)
    # the standard error of ln T at 20,000 rows is about 0.012 here; five of them
    assert fit_temperature(logits, targets).value == pytest.approx(2.0, rel=0.06)


def test_apply_temperature_equals_scipy_also_far_out():
    logits = np.array([[1000.0, -1000.0, 0.0], [0.1, 0.2, -0.3]])
    assert np.allclose(apply_temperature(logits, 2.0), softmax(logits / 2, axis=1), rtol=0, atol=1e-15)
    assert np.allclose(apply_temperature(logits, 2.0, multilabel=True), expit(logits / 2), rtol=0, atol=1e-15)
    assert np.allclose(apply_temperature(logits[:, 0], 0.5), expit(logits[:, 0] * 2), rtol=0, atol=1e-15)


def test_order_of_classes_does_not_change():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    assert (apply_temperature(logits, 7.0).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_rows_that_say_nothing_leave_the_temperature_alone():
    all_right = fit_temperature(np.array([2.0, -1.0]), np.array([1, 0]))
    assert all_right.value == 1.0
    assert "Every development row is right" in all_right.note
    equal = fit_temperature(np.zeros((3, 4)), np.array([0, 1, 2]))
    assert equal.value == 1.0
    assert equal.loss_before == pytest.approx(math.log(4))
    assert "equal" in equal.note


def test_limits_are_named():
    always_wrong = fit_temperature(np.array([2.0, -1.0]), np.array([0, 1]))
    assert always_wrong.value == pytest.approx(MAX_TEMPERATURE)
    assert "limit" in always_wrong.note
    tiny = np.r_[np.full(2000, 1e-3), -1e-9]
    nearly_right = fit_temperature(tiny, np.ones(2001, dtype=int))
    assert nearly_right.value == pytest.approx(MIN_TEMPERATURE)
    assert "limit" in nearly_right.note


@pytest.mark.parametrize(
    ("logits", "targets", "words"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "development rows"),
        (np.zeros((2, 3)), np.array([0, 3]), r"targets\[1\] is 3"),
        (np.zeros((2, 3)), np.array([0]), "do not fit"),
        (np.array([[np.inf, 0.0]]), np.array([0]), "not finite"),
        (np.zeros(2), np.zeros((2, 2), int), "do not fit"),
        (np.zeros((2, 3)), np.zeros((2, 2), int), "do not fit"),
    ],
)
def test_nonsense_is_refused(logits, targets, words):
    with pytest.raises((DataError, ShapeError), match=words):
        fit_temperature(logits, targets)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_must_be_positive(temperature):
    with pytest.raises(ShapeError, match="above 0"):
        apply_temperature(np.zeros(2), temperature)
