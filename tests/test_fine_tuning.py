"""Layers that learn at paces of their own: against numbers worked by hand, and against steps done without the loop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bilstm.data.labels import LabelSet
from bilstm.errors import UsageError
from bilstm.tasks import language_model, language_training
from bilstm.tasks.starting_weights import read_start
from bilstm.tasks.text_classification import Config
from bilstm.tasks.text_training import Unlabelled, fit
from bilstm.train_config import TrainConfig
from bilstm.training import events
from bilstm.training.budget import Budget
from bilstm.training.fine_tuning import LayerGroup, layer_groups
from bilstm.training.loop import train
from bilstm.training.schedule import learning_rate_at
from training_example import Example, equal_weights

CONFIG = TrainConfig(max_epochs=3, learning_rate=0.01, clip_norm=None, threads=1, patience=None)
BOTTOM, TOP = ("0.weight", "0.bias"), ("3.weight", "3.bias")
GRADUAL = layer_groups([BOTTOM, TOP], decay=2.6, is_gradual=True)


def test_paces_of_the_paper():
    groups = layer_groups([["table"], ["lower"], ["upper"], ["head"]], decay=2.6, is_gradual=True)
    # 1 / 2.6 = 0.384615..., 1 / 6.76 = 0.147928..., 1 / 17.576 = 0.056895...
    assert [round(group.rate, 6) for group in groups] == [0.056896, 0.147929, 0.384615, 1.0]
    assert [group.first_epoch for group in groups] == [4, 3, 2, 1]
    together = layer_groups([["a"], ["b"]])
    assert together == (LayerGroup(("a",), 1.0, 1), LayerGroup(("b",), 1.0, 1))
    with pytest.raises(UsageError, match=r"decay 0\.5 is below 1"):
        layer_groups([["a"]], decay=0.5)


def test_the_rise_and_fall_of_the_paper_is_the_linear_schedule():
    """Slanted triangular rate, equation 3: p of the peak; the paper adds a floor of 1/32."""
    config = dataclasses.replace(CONFIG, schedule="linear", warmup=0.1)
    rates = [learning_rate_at(config, done) / 0.01 for done in (0.0, 0.05, 0.1, 0.55, 1.0)]
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-12)


def test_the_first_step_of_each_group_is_its_own_rate():
    """Adam's first step is the rate times the sign of the gradient: m / sqrt(v) is g / |g|."""
    example = Example(rows=16, dropout=0.0, dtype=torch.float64)
    config = dataclasses.replace(CONFIG, max_epochs=1, epsilon=1e-30)
    before = example.weights()
    loss, _ = example.step_loss(example.batches_of_epoch(1)[0])
    names = [name for name, _ in example.model.named_parameters()]
    signs = dict(zip(names, torch.autograd.grad(loss, list(example.model.parameters())), strict=True))
    train(example.model, example.step_loss, None, example.batches_of_epoch, config, groups=layer_groups(
        [BOTTOM, TOP], decay=4.0
    ))  # fmt: skip
    for name, after in example.weights().items():
        rate = 0.01 if name in TOP else 0.0025
        np.testing.assert_allclose(after, before[name] - rate * signs[name].sign(), rtol=0, atol=1e-12)


def test_a_frozen_layer_stays_until_its_epoch():
    example = Example()
    seen = []

    def watch(event):
        if isinstance(event, events.EpochDone):
            seen.append(example.weights())

    before = example.weights()
    train(*example.closures, CONFIG, groups=GRADUAL, progress=watch)
    assert all(torch.equal(seen[0][name], before[name]) for name in BOTTOM)
    assert not any(torch.equal(seen[0][name], before[name]) for name in TOP)
    assert not any(torch.equal(seen[1][name], before[name]) for name in BOTTOM)
    assert all(parameter.requires_grad for parameter in example.model.parameters())


@pytest.mark.parametrize("step", [2, 6, 9])
def test_a_cut_run_ends_with_the_same_bits(tmp_path, step):
    config = dataclasses.replace(CONFIG, average_decay=0.9, checkpoint_steps=1)
    whole = Example()
    train(*whole.closures, config, groups=GRADUAL)
    cut, taken = Example(), []
    train(*cut.closures, config, groups=GRADUAL, checkpoint=tmp_path / "run", stop=lambda: len(taken) == step,
          progress=lambda event: taken.append(event) if isinstance(event, events.StepDone) else None)  # fmt: skip
    assert len(taken) == step
    again = Example(seed=9)
    train(*again.closures, config, groups=GRADUAL, checkpoint=tmp_path / "run", resume=True)
    assert equal_weights(again.weights(), whole.weights())


def test_one_group_is_no_group():
    plain, grouped = Example(), Example()
    train(*plain.closures, CONFIG)
    train(*grouped.closures, CONFIG, groups=[LayerGroup((*BOTTOM, *TOP))])
    assert equal_weights(plain.weights(), grouped.weights())


@pytest.mark.parametrize("names", [TOP, (*BOTTOM, *TOP, "5.weight"), (*BOTTOM, *TOP, *TOP)])
def test_every_weight_is_in_one_group(names):
    with pytest.raises(UsageError, match="each weight must be in one group"):
        train(*Example().closures, CONFIG, groups=[LayerGroup(names)])


# ---- a text classifier that begins with a language model -------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory, order_texts):
    settings = language_model.Config(embedding_size=6, hidden_size=7, max_epochs=1, threads=1, precision="float32")
    outcome = language_training.fit(order_texts[0], settings)
    return read_start(outcome.model.save(tmp_path_factory.mktemp("start") / "language", settings=outcome.config))


def fine_tuned(order_texts, start, told=None, unlabelled=None, **changes):
    texts, classes = order_texts
    labels = LabelSet.build(classes)
    config = Config(max_epochs=2, threads=1, average_decay=None, vectors="random", **changes)
    return fit(
        texts, labels.encode(classes), labels, config, baseline=False, start=start, unlabelled=unlabelled,
        progress=None if told is None else told.append,
    )  # fmt: skip


def test_a_classifier_is_fine_tuned_from_the_top(order_texts, start):
    told = []
    outcome = fine_tuned(order_texts, start, told, layer_decay=2.6, gradual_unfreezing=True)
    notes = [event.text for event in told if isinstance(event, events.Note)]
    layers = outcome.model.model.description
    at = {type(layer).__name__: number for number, layer in enumerate(layers)}
    expected = (
        f"Fine-tuning, shares of the learning rate: layers.{at['Embedding']} 0.148 from epoch 3, "
        f"layers.{at['Recurrent']} 0.385 from epoch 2, layers.{at['Linear']} 1."
    )
    assert expected in notes
    # two epochs: the embedding has not begun to learn, the recurrent layer has
    table = outcome.model.weights[f"layers.{at['Embedding']}.weight"]
    known = len(start.encoder.vocabulary)
    assert np.array_equal(table[:known], start.layers[0][1]["weight"])
    if outcome.result.best_epoch == 2:
        recurrent = outcome.model.weights[f"layers.{at['Recurrent']}.weight_ih_l0"]
        assert not np.array_equal(recurrent, start.layers[1][1]["weight_ih_l0"])


def test_adversarial_changes_reach_a_frozen_embedding(order_texts, start):
    outcome = fine_tuned(order_texts, start, gradual_unfreezing=True, adversarial_norm=1.0)
    assert np.isfinite(outcome.result.history[0].train_loss)


def test_settings_that_would_do_nothing_are_refused(order_texts, start):
    with pytest.raises(UsageError, match="for a training that begins with another model"):
        fine_tuned(order_texts, None, layer_decay=3.0)
    with pytest.raises(UsageError, match="do nothing with --unlabelled"):
        fine_tuned(order_texts, start, layer_decay=3.0, unlabelled=Unlabelled(order_texts[0], Budget(None)))
