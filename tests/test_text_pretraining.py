"""A language model of all texts as what a classifier begins with: its weights, when it is left out, cuts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bilstm.tasks import language_training, text_pretraining
from bilstm.tasks.text_phases import UnlabelledTraining
from bilstm.training import events
from bilstm.training.budget import Budget
from unlabelled_runs import SMALL, Cut, texts_of, trained

LANGUAGE = dataclasses.replace(SMALL, phases=("language-model",), max_epochs=8)
TEXTS = texts_of(np.arange(300) % 2, 1)
AFTER = "labels after the language model"


@pytest.fixture
def beginnings(monkeypatch):
    """Weights of the network when labels are learned, by the name of the run."""
    found = {}
    real = UnlabelledTraining.learn_labels

    def learn(self, name):
        found[name] = {key: value.clone() for key, value in self.net.state_dict().items()}
        return real(self, name)

    monkeypatch.setattr(UnlabelledTraining, "learn_labels", learn)
    return found


def test_the_network_begins_with_word_vectors_and_layer_of_the_language_model(beginnings, monkeypatch):
    outcomes = []
    real = language_training.fit

    def fit(*given, **options):
        outcomes.append(real(*given, **options))
        return outcomes[-1]

    monkeypatch.setattr(language_training, "fit", fit)
    outcome, told = trained(TEXTS, config=LANGUAGE)
    assert [phase.name for phase in outcome.phases] == ["labelled texts", "language model"]
    (language,) = outcomes
    before, after = beginnings["labelled texts"], beginnings[AFTER]
    # the network has a layer more before these: word dropout
    placed = {f"layers.{int(name.split('.')[1]) + 1}.{name.split('.', 2)[2]}": name
              for name in language.model.weights if name.startswith("layers.")}  # fmt: skip
    assert len(placed) == 9
    for own, name in placed.items():
        assert np.array_equal(after[own].numpy(), language.model.weights[name]), own
        assert not torch.equal(after[own], before[own]), own
    others = after.keys() - placed.keys()
    assert others
    assert all(torch.equal(after[name], before[name]) for name in others)
    assert sum("perplexity of held-out texts" in note for note in told) == 4 * text_pretraining.USUAL_PASSES
    assert any(note.startswith("language model: ") for note in told)


def test_labelled_and_held_out_texts_are_not_read(monkeypatch):
    seen = []
    real = language_training.fit

    def fit(texts, config, *, valid, **options):
        seen.append((texts, valid))
        return real(texts, config, valid=valid, **options)

    monkeypatch.setattr(language_training, "fit", fit)
    labelled = texts_of(np.arange(120) % 2, 0)  # those that `trained` labels
    outcome, _ = trained([*TEXTS, *labelled], config=LANGUAGE)
    ((texts, valid),) = seen
    read = [tuple(texts[row]) for row in range(len(texts))] + [tuple(valid[row]) for row in range(len(valid))]
    encoded = outcome.model.encoder.encode([*TEXTS, *labelled])
    train = {tuple(encoded[300 + row]) for row in outcome.train_rows}
    expected = [tuple(encoded[row]) for row in range(len(encoded)) if tuple(encoded[row]) not in train]
    assert sorted(read) == sorted(expected)
    assert len(expected) < len(encoded)
    assert 0 < len(valid.values) <= 0.1 * (len(texts.values) + len(valid.values)) + 6


def test_it_is_left_out_where_there_are_no_other_texts():
    outcome, told = trained(texts_of(np.arange(120) % 2, 0), config=LANGUAGE)
    assert [phase.name for phase in outcome.phases] == ["labelled texts"]
    assert any(note.startswith("language model: left out, 12 texts besides the labelled ones") for note in told)


def test_a_language_model_that_hurts_is_turned_off(monkeypatch):
    real = UnlabelledTraining.learn_labels

    def learn(self, name):
        result = real(self, name)
        if name == AFTER:
            with torch.no_grad():
                for parameter in list(self.net.parameters())[-2:]:  # of the output
                    parameter.neg_()
        return result

    valid = (texts_of(np.arange(200) % 2, 5), np.arange(200) % 2)
    without, _ = trained(TEXTS, valid=valid, config=dataclasses.replace(LANGUAGE, phases=("none",)))
    monkeypatch.setattr(UnlabelledTraining, "learn_labels", learn)
    outcome, told = trained(TEXTS, valid=valid, config=LANGUAGE)
    assert not outcome.phases[1].is_kept
    assert any(note.startswith("language model: turned off") for note in told)
    for name, value in without.model.weights.items():
        assert np.array_equal(value, outcome.model.weights[name]), name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_layers": 2}, "one bidirectional layer"),
        ({"merge_mode": "sum"}, "one bidirectional layer"),
        ({"cell": "none"}, "one bidirectional layer"),
        ({"convolution_size": 8}, "one bidirectional layer"),
    ],
)
def test_it_is_left_out_where_it_has_another_shape(changes, reason):
    outcome, told = trained(TEXTS, config=dataclasses.replace(LANGUAGE, max_epochs=2, **changes))
    assert [phase.name for phase in outcome.phases] == ["labelled texts"]
    assert any(note.startswith("language model: left out") and reason in note for note in told)


def test_it_is_left_out_where_there_is_no_time(monkeypatch):
    monkeypatch.setattr(text_pretraining, "FEWEST_PASSES", 50.0)
    outcome, told = trained(TEXTS, config=LANGUAGE, budget=Budget(0.5))
    assert [phase.name for phase in outcome.phases] == ["labelled texts"]
    assert "language model: left out, there is no time for 50 passes." in told


def test_passes_are_those_that_fit(monkeypatch):
    outcome, told = trained(TEXTS, config=LANGUAGE, budget=Budget(1_000.0))
    said = [note for note in told if "times;" in note]
    assert len(said) == 1
    assert f"words to train on, {text_pretraining.MOST_PASSES:g} times" in said[0]
    assert len(outcome.phases) == 2


@pytest.mark.parametrize("where", ["language model", "labels"])
def test_a_run_that_was_cut_in_the_language_model_ends_with_the_same_bits(tmp_path, where):
    config = dataclasses.replace(LANGUAGE, checkpoint_steps=3)
    whole, _ = trained(TEXTS, config=config)
    ended = []

    def cut(event: object) -> None:
        if isinstance(event, events.TrainingEnded):
            ended.append(event)
        is_reading = isinstance(event, events.PhaseAdvanced) and event.unit == "batches"
        if where == "language model" and is_reading and event.done == event.total // 2:
            raise Cut
        if where == "labels" and ended and isinstance(event, events.EpochDone) and event.row.epoch == 3:
            raise Cut

    folder = str(tmp_path / "checkpoint")
    with pytest.raises(Cut):
        trained(TEXTS, checkpoint=folder, listen=cut, config=config)
    outcome, _ = trained(TEXTS, checkpoint=folder, resume=True, config=config)
    assert outcome.model.weights.keys() == whole.model.weights.keys()
    for key, value in whole.model.weights.items():
        assert np.array_equal(value, outcome.model.weights[key]), key


def test_phases_are_compared_by_calibrated_loss(monkeypatch):
    found = []
    real = UnlabelledTraining.run

    def run(self):
        answer = real(self)
        before = self._scored()[0]
        with torch.no_grad():
            for parameter in list(self.net.parameters())[-2:]:  # of the output: surer, and the same answers
                parameter.mul_(7.0)
        found.append((before, self._scored()[0]))
        return answer

    monkeypatch.setattr(UnlabelledTraining, "run", run)
    valid = (texts_of(np.arange(200) % 2, 5), np.arange(200) % 2)
    trained(TEXTS, valid=valid, config=dataclasses.replace(LANGUAGE, phases=("none",), max_epochs=2))
    ((before, after),) = found
    assert after.score == before.score
    assert after.loss == pytest.approx(before.loss, rel=1e-3)
