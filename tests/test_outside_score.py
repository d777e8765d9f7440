"""The score of O that the development part chooses: counted by hand on scores that are too shy or too bold."""

import numpy as np
import pytest
import torch

import bilstm
from bilstm.config import from_mapping
from bilstm.data.ragged import Ragged
from bilstm.data.tagged_files import sentences_of
from bilstm.data.tags import Span, tags_to_spans
from bilstm.metrics.spans import score_spans
from bilstm.runtime.crf import CrfWeights
from bilstm.tasks.outside_score import fit_outside_shift
from bilstm.tasks.sequence_tagging import Config
from bilstm.tasks.tagging_training import fit_tagger
from test_sequence_tagging import SMALL, made_up

torch.set_num_threads(1)

TAGS = ("O", "S-X")
FREE = CrfWeights(np.zeros((2, 2)), np.zeros(2), np.zeros(2))


def scored(margins):
    """One sentence whose steps prefer S-X to O by the given margins."""
    values = np.array([[0.0, margin] for margin in margins], dtype=np.float32)
    return Ragged(values, np.array([0, len(values)]))


@pytest.mark.parametrize(
    ("margins", "gold", "sign"),
    [
        ([-1.1, -1.2, -1.3, -3.9, -3.8], {0, 1, 2}, -1),  # too shy: the true ones lie a little below O
        ([2.6, 2.5, 1.1, 1.0, 0.9], {0, 1}, +1),  # too bold
        ([1.1, 1.2, -1.1, -1.2, -1.3], {0, 1}, 0),  # right as trained
    ],
)
def test_shift_by_hand(margins, gold, sign):
    gold = {at + len(margins) * copy for at in gold for copy in range(10)}
    margins = margins * 10
    shift = fit_outside_shift(scored(margins), FREE, TAGS, [[Span(at, at + 1, "X") for at in sorted(gold)]])
    assert np.sign(shift.value) == sign
    # With the shift a step is X where its margin is above it: exactly the true ones here.
    assert {at for at, margin in enumerate(margins) if margin > shift.value} == gold
    assert shift.f1_after == 1.0
    before = {at for at, margin in enumerate(margins) if margin > 0}
    assert shift.f1_before == pytest.approx(2 * len(before & gold) / (len(before) + len(gold)))
    assert (shift.note() is None) == (sign == 0)


def test_a_gain_of_one_span_is_not_taken():
    few = fit_outside_shift(scored([-1.1, 5.0, 5.0, -9.0]), FREE, TAGS, [[Span(at, at + 1, "X") for at in range(3)]])
    assert (few.value, few.f1_before) == (0.0, pytest.approx(0.8))


def test_a_small_gain_is_not_taken():
    random = np.random.default_rng(0)
    # 2,000 sure steps, one true one that only a shift of -1.0 to -1.25 would find: less than LEAST_GAIN.
    margins = np.where(random.random(2000) < 0.5, 9.0, -9.0)
    gold = set(np.flatnonzero(margins > 0).tolist()) | {0}
    margins[0] = -1.1
    spans = [[Span(at, at + 1, "X") for at in sorted(gold)]]
    assert fit_outside_shift(scored(margins), FREE, TAGS, spans).value == 0.0


def test_the_fitted_model_is_the_one_that_is_saved(tmp_path):
    """Tags that are mostly O in training, spans in the development part: the model must be moved, weights and all."""
    tokens, tags, _ = made_up(80, 20)
    random = np.random.default_rng(1)
    shy = [row if random.random() < 0.45 else ["O"] * len(row) for row in tags]  # many spans were forgotten
    valid = sentences_of(*made_up(60, 21)[:2])
    config = {**SMALL, "max_epochs": 6}
    trained = fit_tagger(
        sentences_of(tokens, shy), from_mapping(Config, {**config, "outside_score": "trained"}), valid=valid
    )
    fitted = fit_tagger(sentences_of(tokens, shy), from_mapping(Config, config), valid=valid)
    assert fitted.dev_metrics["f1"] > trained.dev_metrics["f1"] + 0.05
    assert any("Spans are answered more readily" in note for note in fitted.notes)
    assert not any("readily" in note for note in trained.notes)
    loaded = bilstm.load(fitted.model.save(tmp_path / "m"))
    assert loaded.evaluate(valid)["f1"] == fitted.dev_metrics["f1"]
    changed = [name for name, value in fitted.model.weights.items() if (value != trained.model.weights[name]).any()]
    assert changed == ["tags.layers.0.bias"]
    moved = fitted.model.weights[changed[0]] - trained.model.weights[changed[0]]
    assert moved[1:].tolist() == [0.0] * (len(moved) - 1)
    assert fitted.model.tags[0] == "O"
    assert moved[0] < 0
    # F1 by the trained model's own scores, with O lowered before decoding.
    emissions, _ = trained.model.scores(trained.model.encode(valid.tokens))
    values = np.array(emissions.values)
    values[:, 0] += moved[0]
    answers = trained.model.tags_of(emissions.with_values(values))
    micro = score_spans([tags_to_spans(row) for row in valid.tags], [tags_to_spans(row) for row in answers]).micro
    assert micro.f1 == pytest.approx(fitted.dev_metrics["f1"], abs=0.01)  # a step at a tie may round otherwise
