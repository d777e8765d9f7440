"""The linear model that learns from a joined teacher: its weights, its form, and its place in a training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import bilstm
from bilstm.data.ragged import Ragged
from bilstm.evaluation.baseline import fit_linear_baseline
from bilstm.tasks import linear_pupil, text_phases, text_teaching
from bilstm.tasks.linear_pupil import LinearPupil
from bilstm.tasks.text_classification import words_of
from unlabelled_runs import SMALL, texts_of, trained

ROWS, OTHERS = 60, 90


def made(classes: int, texts: list[str] | Ragged | None = None) -> tuple[LinearPupil, list[str], np.ndarray, list[str]]:
    targets = np.arange(ROWS) % classes
    train, dev, others = texts_of(targets % 2, 0), texts_of(targets[:30] % 2, 1), texts_of(np.arange(OTHERS) % 2, 2)
    train = [f"{text} class{target}" for text, target in zip(train, targets, strict=True)]
    words, dev_words = words_of(train), words_of(dev)
    baseline = fit_linear_baseline(words, targets, dev_words, targets[:30], "classification", classes, 0)
    return LinearPupil(baseline, train, targets, classes, dev, others), train, targets, others


@pytest.mark.parametrize("classes", [2, 3])
def test_the_pupil_is_a_ridge_on_logits(monkeypatch, classes):
    monkeypatch.setattr(linear_pupil, "SOLVER_STEPS", 500)
    monkeypatch.setattr(linear_pupil, "CHUNK_TEXTS", 7)
    pupil, train, targets, others = made(classes)
    assert len(pupil.models().heads) == 2  # nothing was heard
    random = np.random.default_rng(0)
    answers = random.dirichlet(np.ones(classes), OTHERS)
    answers[0] = [1.0] + [0.0] * (classes - 1)
    rows = np.sort(random.permutation(OTHERS)[:50])
    pupil.hear(rows, answers[:50][::-1], np.zeros(50, dtype=bool))
    more = np.setdiff1d(np.arange(OTHERS), rows)
    both, is_apart = np.concatenate([rows, more]), np.arange(OTHERS) >= 50
    pupil.hear(both, answers, is_apart)  # the later answers count, but for those from which nobody learns
    np.testing.assert_array_equal(pupil.kept_apart()[0], more)
    np.testing.assert_array_equal(pupil.kept_apart()[1], answers[50:])
    models = pupil.models()
    assert len(models.heads) == 3
    # by scikit-learn, with n-grams counted one text at a time
    texts = [*words_of(train), *(words_of(others)[row] for row in rows)]
    names = models.index.names(range(sum(models.index.sizes)))
    place = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(texts), len(names)))
    for row, words in enumerate(texts):
        for order in range(1, models.index.max_order + 1):
            for start in range(len(words) - order + 1):
                at = place.get(" ".join(words[start : start + order]))
                if at is not None:
                    counts[row, at] += 1
    frequency = np.log((1 + len(texts)) / np.maximum((counts > 0).sum(axis=0), 1))
    table = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * frequency
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    columns = [1] if classes == 2 else list(range(classes))
    with np.errstate(divide="ignore"):
        logits = np.clip(np.log(answers[:50] / (1 - answers[:50])), -5, 5)[:, columns]
    wanted = np.concatenate([np.where(targets[:, None] == columns, 3.0, -3.0), logits])
    # the pupil's shift is the mean of what is wanted, not fitted
    exact = Ridge(alpha=0.3, fit_intercept=False, solver="cholesky").fit(table, wanted - wanted.mean(axis=0))
    expected = table @ exact.coef_.reshape(len(columns), -1).T + wanted.mean(axis=0)
    found = models.margins(texts)[..., 2]
    np.testing.assert_allclose(found, expected, atol=0.02)
    np.testing.assert_array_equal(models.margins(texts)[..., :2], pupil._models.margins(texts))
    own = models.margins(words_of([others[row] for row in more]))
    np.testing.assert_array_equal(pupil.margins_of(models, more), own)


def test_margins_are_those_of_the_baseline_for_texts_and_for_ids(monkeypatch):
    monkeypatch.setattr(linear_pupil, "CHUNK_TEXTS", 7)
    pupil, _, _, others = made(2)
    np.testing.assert_array_equal(pupil.margins().unlabelled, pupil._models.margins(words_of(others)))
    assert pupil.margins() is pupil.margins()
    ids = Ragged.of([[int(word.removeprefix("w")) for word in text.split() if word.startswith("w")] for text in others])
    words = [[str(token) for token in ids[row].tolist()] for row in range(len(ids))]
    numbers = pupil._numbers_of(ids)
    assert [numbers[row].tolist() for row in range(len(ids))] == [
        pupil._models.numbers_of([own])[0].tolist() for own in words
    ]


def test_texts_within_a_number_of_words():
    lengths = np.array([5, 1, 7, 3, 4])
    kept = linear_pupil._within(lengths, 10)
    assert lengths[kept].sum() <= 10
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert linear_pupil._within(lengths, 20).tolist() == [0, 1, 2, 3, 4]
    assert linear_pupil._within(lengths, -3).tolist() == []


def test_a_training_with_many_labels_joins_the_pupil(monkeypatch, tmp_path):
    monkeypatch.setattr(text_phases, "FEW_LABELS", 10)
    monkeypatch.setattr(text_teaching, "JOINED_PASSES", 40)
    monkeypatch.setattr(text_teaching, "APART_SHARE", 0.4)
    config = dataclasses.replace(SMALL, phases=("joined-teacher",))
    unlabelled = ["", *texts_of(np.arange(300) % 2, 1)]  # a text without words is no teacher's
    valid = (texts_of(np.arange(200) % 2, 5), np.arange(200) % 2)
    taught = []
    learn = text_teaching.TaughtLoss.__init__
    monkeypatch.setattr(
        text_teaching.TaughtLoss, "__init__", lambda *all: (taught.append(len(all[2].targets)), learn(*all))[1]
    )
    outcome, told = trained(unlabelled, baseline=True, config=config, valid=valid)
    assert set(taught) == {180}
    said = [note for note in told if note.startswith("The n-gram models, one of them taught, were joined")]
    before, after = (float(word) for word in said[0].split("log loss ")[1].rstrip(".").split(" -> "))
    assert outcome.dev_metrics["log_loss"] == pytest.approx(after, abs=1e-4)
    assert outcome.network_metrics["log_loss"] == pytest.approx(before, abs=1e-4)
    joined = outcome.model.joined
    assert joined is not None
    assert joined.linear.heads[-1].order == 3
    assert joined.linear.heads[-1].inverse_frequency is not None
    # the folder holds it, and answers as before
    outcome.model.save(tmp_path / "model")
    texts = texts_of(np.arange(20) % 2, 9)
    np.testing.assert_array_equal(bilstm.load(tmp_path / "model").predict(texts), outcome.model.predict(texts))


def test_a_pupil_that_misleads_is_not_joined(monkeypatch):
    monkeypatch.setattr(text_phases, "FEW_LABELS", 10)
    monkeypatch.setattr(text_teaching, "JOINED_PASSES", 40)
    monkeypatch.setattr(text_teaching, "APART_SHARE", 0.4)
    apart = LinearPupil.kept_apart

    def turned(self):
        rows, answers = apart(self)
        return rows, answers[:, ::-1]

    config = dataclasses.replace(SMALL, phases=("joined-teacher",))
    unlabelled, valid = texts_of(np.arange(300) % 2, 1), (texts_of(np.arange(200) % 2, 5), np.arange(200) % 2)
    monkeypatch.setattr(LinearPupil, "kept_apart", turned)
    outcome, told = trained(unlabelled, baseline=True, config=config, valid=valid)
    assert outcome.model.joined is None
    assert any(note.startswith("The n-gram models were not joined to the network") for note in told)
    assert outcome.dev_metrics == outcome.network_metrics
