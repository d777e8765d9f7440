"""The language model: its loss against a step-by-step computation, its directions, its folder, its training."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from bilstm import description
from bilstm.data.next_words import Pieces
from bilstm.data.ragged import Ragged
from bilstm.errors import DataError, ModelFolderError, ShapeError, UsageError
from bilstm.layers.cells import lstm_step
from bilstm.layers.language import build_language_net
from bilstm.layers.model import weights_of
from bilstm.layers.randomness import Randomness
from bilstm.tasks import load
from bilstm.tasks.language_model import Config, LanguageModel, describe_model, for_data, parts_of_pass
from bilstm.tasks.language_training import WordRows, build_encoder, fit

TEXTS = ["the cat sat on the mat", "the dog sat", "a cat and a dog ran", "mat", "the mat ran on and on and on"] * 8
SMALL = Config(
    embedding_size=6,
    hidden_size=5,
    max_epochs=2,
    epoch_words=100,
    batch_size=8,
    piece_length=4,
    learning_rate=0.02,
    threads=1,
    precision="float32",
    sample_size=8,
)


def random_net(config, words, dtype=torch.float32, seed=3, backend="auto"):
    net = build_language_net(describe_model(config, words), Randomness(seed), backend=backend, threads=1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return net.to(dtype).eval()


def model_of(net, encoder):
    return LanguageModel.of(encoder, net.description, weights_of(net), threads=1)


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(TEXTS, SMALL)


def step_by_step(net, ids):
    """Log probabilities of every word and the end, forwards, of one direction's weights at a time, in float64."""
    recurrent = next(
        layer for layer in net.layers if isinstance(getattr(layer, "description", None), description.Recurrent)
    )
    table = torch.cat([net.table, net.head.boundary[None]])
    results = []
    for direction, suffix in enumerate(("l0", "l0_reverse")):
        w_ih, w_hh, b_ih, b_hh = (
            getattr(recurrent, f"{n}_{suffix}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        sequence = list(ids) if direction == 0 else list(ids)[::-1]
        h = c = torch.zeros(1, SMALL.hidden_size, dtype=torch.float64)
        feature = net.head.start[direction]
        logs = []
        for word in [*sequence, len(net.table)]:
            logs.append(float(torch.log_softmax(table @ feature + net.head.bias, dim=0)[word]))
            if word < len(net.table):
                x = net.table[word][None] @ w_ih.t() + b_ih
                h, c = lstm_step(x, h, c, w_hh, b_hh)
                feature = net.head.projection[direction] @ h[0] + net.head.projection_bias[direction]
        results.append(logs)
    return results


def test_surprise_is_that_of_a_model_computed_word_by_word(encoder):
    net = random_net(SMALL, len(encoder.vocabulary))
    texts = ["the cat sat on the mat", "dog", "", "nothing known here at all zzz"]
    found = model_of(net, encoder).surprise(texts)
    ids = encoder.encode(texts)
    exact = random_net(SMALL, len(encoder.vocabulary), torch.float64)
    for row in (0, 1, 3):
        with torch.no_grad():
            wanted = [-sum(logs) for logs in step_by_step(exact, ids[row].tolist())]
        # float32 with at most a dozen sums of size 5
        np.testing.assert_allclose(found[row], wanted, rtol=1e-5)
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_the_training_loss_with_all_words_is_the_measured_cross_entropy(encoder, backend):
    from bilstm.tasks.language_training import _Objective

    net = random_net(SMALL, len(encoder.vocabulary), backend=backend)
    ids = encoder.encode(TEXTS[:5])
    config = dataclasses.replace(SMALL, softmax="full", piece_length=None)
    objective = _Objective(net, Pieces.of(ids, len(net.table)), ids, config, "float32")
    with torch.no_grad():
        loss = float(objective.step_loss(WordRows(np.arange(5), len(ids.values))))
        score = objective.dev_score()
    measured = model_of(net, encoder).evaluate(ids)
    assert loss == pytest.approx(measured["cross_entropy"], rel=1e-5)
    assert score.loss == -score.score == pytest.approx(measured["cross_entropy"], rel=1e-5)


def test_the_perplexity_of_a_uniform_model_is_the_number_of_words(encoder):
    net = random_net(SMALL, len(encoder.vocabulary))
    weights = {name: np.zeros_like(value) for name, value in weights_of(net).items()}
    model = LanguageModel.of(encoder, net.description, weights, threads=1)
    scores = model.evaluate(TEXTS)
    classes = len(encoder.vocabulary) + 1  # the end of a text is one
    for found in (scores["perplexity"], scores["forward"]["perplexity"], scores["backward"]["perplexity"]):
        assert found == pytest.approx(classes, rel=1e-6)
    assert scores["predictions"] == scores["words"] + scores["rows"]


def features_of(net, ids):
    words = Pieces.of(Ragged.of([ids]), len(net.table)).select(np.array([0]))
    with torch.no_grad():
        found = net.features(words).numpy()
    return found[: len(ids)], found[len(ids) + 1 : 2 * len(ids) + 1]  # forwards, backwards, without the start


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_direction_sees_only_its_side(cell):
    net = random_net(dataclasses.replace(SMALL, cell=cell), 12)
    before = [1, 2, 3, 4, 5, 6]
    forward, backward = features_of(net, before)
    for place in range(len(before)):
        changed = list(before)
        changed[place] = 9
        new_forward, new_backward = features_of(net, changed)
        np.testing.assert_array_equal(new_forward[:place], forward[:place])
        np.testing.assert_array_equal(new_backward[place + 1 :], backward[place + 1 :])
        assert (new_forward[place:] != forward[place:]).any(axis=1).all()
        assert (new_backward[: place + 1] != backward[: place + 1]).any(axis=1).all()


def test_layers_in_which_directions_meet_are_refused(encoder):
    layers = (description.Embedding(9, 4), description.Recurrent("lstm", 4, 4, num_layers=2))
    with pytest.raises(UsageError, match="one level"):
        build_language_net(layers, Randomness())
    with pytest.raises(UsageError, match="directions apart"):
        build_language_net((layers[0], description.Recurrent("lstm", 4, 4, merge_mode="sum")), Randomness())
    words = description.Embedding(len(encoder.vocabulary), 4)
    with pytest.raises(ModelFolderError, match="must not meet"):
        LanguageModel.of(encoder, (words, layers[1]), {})


@pytest.mark.parametrize("word_dropout", [0.0, 0.5])
def test_one_gather_gives_the_parts_and_gradients_of_three(word_dropout):
    config = dataclasses.replace(SMALL, word_dropout=word_dropout)
    net = build_language_net(describe_model(config, 40), Randomness(0), word_dropout=word_dropout, threads=1).double()
    random = np.random.default_rng(2)
    words = Pieces.of(Ragged.of([random.integers(0, 40, length) for length in (5, 1, 7)]), 40).select(np.arange(3))
    sampled, targets = torch.tensor([0, 3, 4, 17, 39, 40]), torch.as_tensor(words.targets)
    net.train()

    def gradients(parts):
        generator = torch.Generator().manual_seed(1)
        loss = sum((part * torch.randn(part.shape, generator=generator, dtype=part.dtype)).sum() for part in parts)
        return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)

    net.randomness.start_step(7, 3)
    features = net.features(words)
    apart = [features, net.target_logits(features, targets), *net.output_rows(sampled)]
    expected = gradients(apart)
    net.randomness.start_step(7, 3)
    together = net.step_parts(words, sampled)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    for one, other in zip(gradients(together), expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    with pytest.raises(ShapeError, match="found 41 at step 1"):
        net.step_parts(dataclasses.replace(words, ids=Ragged.of([[2, 41]])), sampled)


def test_word_dropout_zeroes_whole_words_and_only_in_training():
    config = dataclasses.replace(SMALL, word_dropout=0.5, embedding_dropout=0.0, output_dropout=0.0)
    net = build_language_net(describe_model(config, 40), Randomness(0), word_dropout=0.5, threads=1)
    words = Pieces.of(Ragged.of([[7], [7], [7], [8], [9]]), 40).select(np.arange(5))
    plain = net.eval().features(words)
    net.train()
    net.randomness.start_step(0, 1)
    found = net.features(words)
    torch.testing.assert_close(found[0], found[1])  # the same word, the same mask
    torch.testing.assert_close(found[1], found[2])
    assert not torch.allclose(found[:5], plain[:5])
    kept = net.randomness.mask((10_000, 1), 0.5)
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.05)


def test_training_learns_and_both_faces_agree(encoder):
    config = dataclasses.replace(SMALL, max_epochs=12, sample_size=10)
    outcome = fit(TEXTS, config)
    losses = [row.dev_loss for row in outcome.result.history]
    assert losses[-1] < losses[0] < math.log(len(encoder.vocabulary) + 1)
    best = min(losses)
    assert outcome.dev_metrics["cross_entropy"] == pytest.approx(best, rel=1e-4)
    assert outcome.result.history[0].sequences_per_second > 0
    assert set(outcome.train_rows) | set(outcome.dev_rows) == set(range(len(TEXTS)))


def test_a_vocabulary_that_does_not_fit_is_refused(encoder):
    net = random_net(SMALL, len(encoder.vocabulary) + 1)
    with pytest.raises(ModelFolderError, match="the vocabulary"):
        model_of(net, encoder)


def test_saved_and_loaded_it_measures_the_same(encoder, tmp_path):
    model = model_of(random_net(SMALL, len(encoder.vocabulary)), encoder)
    model.save(tmp_path / "language", settings=SMALL)
    again = load(tmp_path / "language", threads=1)
    assert isinstance(again, LanguageModel)
    np.testing.assert_array_equal(again.surprise(TEXTS), model.surprise(TEXTS))
    damaged = {name: value for name, value in model.weights.items() if name != "head.bias"}
    with pytest.raises(ModelFolderError, match=r"head\.bias"):
        LanguageModel.of(encoder, model.model.description, damaged)


def test_batches_of_the_epochs_of_a_pass_hold_every_piece_once():
    from bilstm.tasks.language_training import _Objective

    ids = Ragged.of([np.arange(1, 1 + n % 9) for n in range(60)])
    net = random_net(SMALL, 12)
    objective = _Objective(net, Pieces.of(ids, 12, 4), ids, dataclasses.replace(SMALL, epoch_words=60), "float32")
    parts = parts_of_pass(dataclasses.replace(SMALL, epoch_words=60), len(ids.values))
    assert parts > 2
    for number in range(2):
        batches = [b for part in range(parts) for b in objective.batches_of_epoch(number * parts + part + 1)]
        rows = np.concatenate([batch.rows for batch in batches])
        assert sorted(rows.tolist()) == list(range(len(objective._pieces)))
        assert sum(len(batch) for batch in batches) == len(ids.values)


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path):
    config = dataclasses.replace(SMALL, max_epochs=3, weight_dropout=0.2, word_dropout=0.1)
    whole = fit(TEXTS, config, checkpoint=str(tmp_path / "whole"))
    steps = 0

    def cut(event):
        nonlocal steps
        if type(event).__name__ == "StepDone":
            steps += 1
            if steps == whole.result.steps // 2:
                raise RuntimeError("cut")

    every = dataclasses.replace(config, checkpoint_steps=1)
    with pytest.raises(RuntimeError, match="cut"):
        fit(TEXTS, every, checkpoint=str(tmp_path / "cut"), progress=cut)
    resumed = fit(TEXTS, every, checkpoint=str(tmp_path / "cut"), resume=True)
    assert whole.model.weights.keys() == resumed.model.weights.keys()
    for name, value in whole.model.weights.items():
        np.testing.assert_array_equal(value, resumed.model.weights[name])
    assert whole.dev_metrics == resumed.dev_metrics


def test_epochs_follow_the_amount_of_text():
    assert for_data(Config(), 100).max_epochs == 60
    assert for_data(Config(), 12_000_000).max_epochs == 2 * 12
    assert for_data(Config(max_epochs=3), 100).max_epochs == 3


def test_bad_input_is_named():
    with pytest.raises(DataError, match="1 texts are too few"):
        fit(["a text"], SMALL)
    with pytest.raises(DataError, match="no word"):
        fit(["", ""], SMALL)
    with pytest.raises(UsageError, match="encoder that made them"):
        fit(Ragged.of([[1, 2], [3]]), SMALL)
    with pytest.raises(UsageError, match="label-smoothing has no meaning"):
        Config(label_smoothing=0.1)
    encoder = build_encoder(TEXTS, SMALL)
    with pytest.raises(UsageError, match="vectors must have shape"):
        fit(TEXTS, SMALL, encoder=encoder, vectors=np.zeros((3, 6), dtype=np.float32))
    model = model_of(random_net(SMALL, len(encoder.vocabulary)), encoder)
    with pytest.raises(DataError, match="no words"):
        model.evaluate([""])
