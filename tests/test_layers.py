"""Layers over `Ragged` against torch's own layers on each sequence alone, formulas and finite differences."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.errors import ShapeError, UsageError
from bilstm.layers import (
    Convolution,
    Dropout,
    Embedding,
    Linear,
    Pooling,
    Randomness,
    WordDropout,
    build_model,
    load_weights,
    randomness,
    weights_of,
)
from bilstm.layers.engine_op import engine_can_run
from bilstm.layers.pooling import last_steps, segment_max, segment_softmax, segment_sum
from layer_strategies import VOCABULARY, id_batches, layer_stacks

LENGTHS = [3, 0, 1, 6, 0, 2]
_REFUSAL = engine_can_run(torch.float32)
needs_engine = pytest.mark.skipif(_REFUSAL is not None, reason=f"engine: {_REFUSAL}")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch_of(lengths=LENGTHS, size=4, seed=1, *, requires_grad=False) -> Ragged:
    values = torch.randn(sum(lengths), size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)
    return Ragged(values.requires_grad_(requires_grad), offsets)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


class TestRandomness:
    def test_examples(self):
        assert doctest.testmod(randomness).failed == 0

    def test_a_step_names_its_numbers_whatever_was_drawn_before(self):
        one, two = Randomness(0), Randomness(5)
        two.mask((7,), 0.5)
        one.start_step(3, 9)
        two.start_step(3, 9)
        assert torch.equal(one.mask((50,), 0.5), two.mask((50,), 0.5))

    def test_seeds_steps_and_initial_weights_have_numbers_of_their_own(self):
        drawn = []
        for start in (lambda r: r.start_step(1, 2), lambda r: r.start_step(2, 1), lambda r: r.start_weights(1)):
            source = Randomness()
            start(source)
            drawn.append(tuple(source.mask((64,), 0.5).tolist()))
        assert len(set(drawn)) == 3

    def test_the_documented_hash(self):
        # First eight bytes of `printf 'bilstm step 7 3' | sha256sum`, read backwards.
        source = Randomness()
        source.start_step(7, 3)
        assert source.generator.initial_seed() == STEP_7_3

    def test_masks_keep_the_expected_value_and_the_pattern_in_every_dtype(self):
        source = Randomness()
        mask = source.mask((200_000,), 0.2)
        assert set(mask.unique().tolist()) == {0.0, 1.25}
        # Five standard deviations of a mean of 200,000 values of 0 or 1.25 with rate 0.2: 5 * 0.5 / sqrt(200,000).
        assert abs(mask.mean().item() - 1) < 0.0056
        source.start_step(0, 0)
        single = source.mask((99,), 0.3)
        source.start_step(0, 0)
        double = source.mask((99,), 0.3, torch.zeros(1, dtype=torch.float64))
        assert double.dtype == torch.float64
        assert torch.equal(single > 0, double > 0)


STEP_7_3 = int.from_bytes(bytes.fromhex("5bff95bcea8dabeb"), "little")


class TestEmbedding:
    def test_values_and_gradient_equal_torch(self):
        ids = torch.tensor([3, 1, 3, 0, 3])
        layer = Embedding(5, 4)
        weight = layer.weight.detach().clone().requires_grad_()
        ours = layer(Ragged(ids, torch.tensor([0, 2, 5]))).values
        theirs = torch.nn.functional.embedding(ids, weight)
        assert torch.equal(ours, theirs)
        factors = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
        (ours * factors).sum().backward()
        (theirs * factors).sum().backward()
        torch.testing.assert_close(layer.weight.grad, weight.grad)

    @pytest.mark.parametrize("wrong", [-1, 5])
    def test_an_id_outside_the_table_is_named(self, wrong):
        with pytest.raises(ShapeError, match=rf"0 to 4, found {wrong} at step 2"):
            Embedding(5, 4)(Ragged(torch.tensor([0, 1, wrong]), torch.tensor([0, 3])))

    def test_initial_weights_are_small_and_seeded(self):
        one, two = (Embedding(50, 40, randomness=Randomness(seed)).weight for seed in (1, 1))
        assert torch.equal(one, two)
        assert 0.049 < one.abs().max() <= 0.05


class TestWordDropout:
    def test_it_replaces_about_the_rate_while_training_only(self):
        layer = WordDropout(0.3, unknown_id=1)
        batch = Ragged(torch.full((20_000,), 7), torch.tensor([0, 20_000]))
        layer.randomness.start_step(0, 0)
        ids = layer.train()(batch).values
        assert set(ids.unique().tolist()) == {1, 7}
        # Five standard deviations: 5 * sqrt(0.3 * 0.7 / 20,000).
        assert abs((ids == 1).double().mean().item() - 0.3) < 0.0163
        assert batch.values.unique().tolist() == [7]
        assert torch.equal(layer.eval()(batch).values, batch.values)


class TestDropout:
    def test_plain_masks_steps_variational_masks_sequences(self):
        batch = Ragged(torch.ones(12, 500), torch.tensor([0, 3, 3, 4, 10, 10, 12]))
        for variational in (False, True):
            layer = Dropout(0.5, variational).train()
            layer.randomness.start_step(0, 0)
            values = layer(batch)[0].values
            assert set(values.unique().tolist()) == {0.0, 2.0}
            same_mask = [bool((values[a] == values[b]).all()) for a, b in ((0, 1), (0, 2), (4, 9), (10, 11))]
            assert same_mask == [variational] * 4
            assert not torch.equal(values[0], values[3])
            assert torch.equal(layer.eval()(batch)[0].values, batch.values)

    def test_final_states_share_the_variational_mask_of_their_sequence(self):
        batch, final = Ragged(torch.ones(3, 500), torch.tensor([0, 2, 3])), torch.ones(2, 500)
        layer = Dropout(0.5, variational=True).train()
        dropped, dropped_final = layer(batch, final)
        assert torch.equal(dropped_final, dropped.values[[0, 2]])
        dropped, dropped_final = Dropout(0.5).train()(batch, final)
        assert set(dropped_final.unique().tolist()) == {0.0, 2.0}

    def test_pooled_vectors(self):
        values, final = Dropout(0.5).train()(torch.ones(4, 500))
        assert set(values.unique().tolist()) == {0.0, 2.0}
        assert final is None


class TestConvolution:
    @pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 9])
    def test_each_sequence_equals_torch_same_padding_and_so_do_gradients(self, kernel_size):
        layer = Convolution(4, 5, kernel_size, "none").double()
        torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
        ours_in, theirs_in = batch_of(requires_grad=True), batch_of(requires_grad=True)
        ours = layer(ours_in).values
        padded = [
            # What torch's padding="same" does; written out, as torch warns for even kernels.
            torch.nn.functional.pad(steps.T, ((kernel_size - 1) // 2, kernel_size // 2))
            for steps in theirs_in.values.split(LENGTHS)
            if len(steps)
        ]
        theirs = torch.cat([torch.nn.functional.conv1d(p[None], layer.weight, layer.bias)[0].T for p in padded])
        close(ours, theirs)
        inputs = [(batch.values, layer.weight, layer.bias) for batch in (ours_in, theirs_in)]
        gradients = [torch.autograd.grad((o**2).sum(), i) for o, i in zip((ours, theirs), inputs, strict=True)]
        for mine, other in zip(*gradients, strict=True):
            close(mine, other, 1e-11)

    def test_nothing_leaks_between_neighbours(self):
        layer = Convolution(4, 5, 7).double()
        clean, dirty = batch_of(), batch_of()
        dirty.values[3] = float("nan")  # the only step of sequence 2
        one, two = layer(clean).values, layer(dirty).values
        assert two[3].isnan().all()
        others = [step for step in range(12) if step != 3]
        assert torch.equal(one[others], two[others])

    def test_no_steps_at_all(self):
        assert Convolution(4, 5, 3).double()(batch_of([0, 0])).values.shape == (0, 5)
        assert Convolution(4, 5, 3).double()(batch_of([])).values.shape == (0, 5)


def attention_score(layer: Pooling, step: torch.Tensor) -> float:
    w, b, u = (p.detach() for p in (layer.attention_weight, layer.attention_bias, layer.attention_query))
    return float(torch.tanh(w @ step + b) @ u)


class TestPooling:
    def pooled(self, kinds, batch, final=None, seed=0):
        layer = Pooling(4, kinds, randomness=Randomness(seed)).double()
        return layer, layer(batch, {"last": final})

    def test_each_kind_by_its_formula(self):
        batch = batch_of()
        rows = [batch[row] for row in range(len(LENGTHS))]
        zero = torch.zeros(4, dtype=torch.float64)
        expected = {
            "last": [steps[-1] if len(steps) else zero for steps in rows],
            "max": [steps.amax(dim=0) if len(steps) else zero for steps in rows],
            "mean": [steps.mean(dim=0) if len(steps) else zero for steps in rows],
        }
        for kind, vectors in expected.items():
            close(self.pooled((kind,), batch)[1], torch.stack(vectors))

    def test_attention_by_its_formula(self):
        batch = batch_of()
        layer, pooled = self.pooled(("attention",), batch)
        with torch.no_grad():
            layer.attention_bias.copy_(torch.tensor([0.1, -0.2, 0.3, 0.4]))
        pooled, weights = layer(batch), layer.attention_weights(batch)
        for row, length in enumerate(LENGTHS):
            if length == 0:
                assert pooled[row].tolist() == [0.0] * 4
                continue
            powers = np.exp([attention_score(layer, step) for step in batch[row]])
            close(weights[row].detach(), torch.from_numpy(powers / powers.sum()))
            close(pooled[row].detach(), torch.from_numpy(powers / powers.sum()) @ batch[row])

    def test_kinds_are_concatenated_in_their_order(self):
        batch = batch_of()
        both = self.pooled(("max", "last"), batch)[1]
        close(both, torch.cat([self.pooled((kind,), batch)[1] for kind in ("max", "last")], dim=1))

    def test_last_takes_the_final_states_when_there_are_any(self):
        final = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        assert torch.equal(self.pooled(("last",), batch_of(), final)[1], final.flatten(1))

    @pytest.mark.parametrize("kind", ["last", "max", "mean", "attention"])
    def test_gradcheck_and_strangers_do_not_matter(self, kind):
        layer, _ = self.pooled((kind,), batch_of())
        batch = batch_of([3, 0, 2], requires_grad=True)
        names = [name for name, _ in layer.named_parameters()]

        def run(values, *weights):
            given = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(layer, given, (batch.with_values(values),))

        assert torch.autograd.gradcheck(run, (batch.values, *layer.parameters()))
        dirty = batch.with_values(batch.values.detach().clone())
        dirty.values[4] = float("nan")
        clean = layer(batch)
        assert torch.equal(layer(dirty)[:2], clean[:2])
        assert layer(dirty)[2].isnan().any()

    def test_equal_maxima_give_their_gradient_to_the_first(self):
        values = torch.tensor([[1.0], [2.0], [2.0]], requires_grad=True)
        segment_max(Ragged(values, torch.tensor([0, 3]))).sum().backward()
        assert values.grad.tolist() == [[0.0], [1.0], [0.0]]

    def test_large_scores_do_not_overflow(self):
        scores = torch.tensor([1e4, 1e4 - 1, -1e4])
        weights = segment_softmax(Ragged(scores, torch.tensor([0, 2, 3]))).values
        torch.testing.assert_close(weights[:2], torch.softmax(torch.tensor([1.0, 0.0]), 0))
        assert weights[2] == 1.0

    @given(lengths=st.lists(st.integers(0, 5), max_size=5))
    @settings(max_examples=40, deadline=None, derandomize=True)
    def test_reductions_equal_a_loop(self, lengths):
        batch = batch_of(lengths)
        for reduce, one in (
            (segment_sum, lambda steps: steps.sum(dim=0)),
            (segment_max, lambda steps: steps.amax(dim=0)),
            (last_steps, lambda steps: steps[-1]),
        ):
            actual = reduce(batch)
            assert actual.shape == (len(lengths), 4)
            for row, length in enumerate(lengths):
                close(actual[row], one(batch[row]) if length else torch.zeros(4, dtype=torch.float64))

    def test_wrong_feature_count(self):
        with pytest.raises(ShapeError, match="pooling reads 4 features, got 3"):
            Pooling(4)(batch_of(size=3))


class TestLinear:
    @pytest.mark.parametrize(
        ("activation", "formula"),
        [("none", lambda x: x), ("relu", torch.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid)],
    )
    def test_steps_and_vectors(self, activation, formula):
        layer = Linear(4, 3, activation).double()
        torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
        batch = batch_of()
        expected = formula(batch.values @ layer.weight.T + layer.bias)
        over_steps = layer(batch)
        assert torch.equal(over_steps.offsets, batch.offsets)
        close(over_steps.values, expected)
        close(layer(batch.values), expected)


STACK = (
    description.WordDropout(0.1, 1),
    description.Embedding(VOCABULARY, 5),
    description.Dropout(0.2, variational=True),
    description.Convolution(5, 6),
    description.Recurrent("lstm", 6, 4, 2, dropout=0.1, variational_dropout=0.1, weight_dropout=0.1),
    description.Dropout(0.2),
    description.Pooling(8, ("last", "max", "mean", "attention")),
    description.Linear(32, 3),
)
IDS = Ragged.of([[1, 2, 3], [], [4], [5, 6, 7, 8]])


class TestModel:
    def test_equal_seeds_give_equal_models_and_equal_masks(self):
        models = [build_model(STACK, Randomness(seed)) for seed in (1, 1, 2)]
        weights = [weights_of(model) for model in models]
        assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert not np.array_equal(weights[0]["layers.1.weight"], weights[2]["layers.1.weight"])
        logits = []
        for model in models[:2]:
            model.train().randomness.start_step(5, 6)
            logits.append(model(IDS))
        assert torch.equal(*logits)
        models[0].randomness.start_step(5, 7)
        assert not torch.equal(models[0](IDS), logits[0])

    @given(layers=layer_stacks(), sequences=id_batches)
    @settings(max_examples=40, deadline=None, derandomize=True)
    def test_masks_do_not_depend_on_the_backend(self, layers, sequences):
        results = []
        for backend in ("reference", "torch"):
            model = build_model(layers, Randomness(1), backend=backend).double().train()
            model.randomness.start_step(2, 3)
            result = model(Ragged.of(sequences))
            results.append(result.values if isinstance(result, Ragged) else result)
        close(*results, tolerance=1e-10)

    def test_every_parameter_gets_a_gradient(self):
        model = build_model(STACK, Randomness(1)).train()
        model(IDS).pow(2).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_running_from_embedded_vectors_is_the_whole_and_gives_their_gradient(self):
        model = build_model(STACK, Randomness(1)).eval()
        embedded = model.embed(IDS)
        leaf = embedded.with_values(embedded.values.detach().requires_grad_())
        logits = model.run_from_embedded(leaf)
        # The whole may gather and pool inside the engine, so the order of sums may differ.
        close(logits, model(IDS), 1e-6)
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf.values)
        with torch.no_grad():
            moved = leaf.with_values(leaf.values + 1e-3 * gradient)
            rise = model.run_from_embedded(moved)[:, 0].sum() - logits[:, 0].sum()
        # To first order the logits rise by the step times the squared gradient.
        assert rise.item() == pytest.approx(1e-3 * gradient.pow(2).sum().item(), rel=0.05)

    @needs_engine
    @given(layers=layer_stacks(), sequences=id_batches, training=st.booleans())
    @settings(max_examples=60, deadline=None, derandomize=True)
    def test_what_the_engine_fuses_changes_nothing(self, layers, sequences, training):
        """Embedding and pooling inside the engine against the same model on torch: outputs and all gradients."""
        results = []
        for backend in ("torch", "engine"):
            model = build_model(layers, Randomness(1), backend=backend).train(training)
            model.randomness.start_step(2, 3)
            result = model(Ragged.of(sequences))
            result = result.values if isinstance(result, Ragged) else result
            factors = torch.randn(result.shape, generator=torch.Generator().manual_seed(4))
            gradients = torch.autograd.grad((result * factors).sum(), list(model.parameters()), allow_unused=True)
            results.append((result, gradients))
        close(results[1][0], results[0][0], 5e-5)
        for (name, parameter), ours, theirs in zip(model.named_parameters(), *(r[1] for r in results), strict=True):
            zero = torch.zeros_like(parameter)
            ours, theirs = (zero if gradient is None else gradient for gradient in (ours, theirs))
            torch.testing.assert_close(
                ours, theirs, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )

    @needs_engine
    @pytest.mark.parametrize("bidirectional", [False, True])
    @pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
    def test_pooling_inside_the_engine_respects_the_merge_mode(self, merge_mode, bidirectional):
        recurrent = description.Recurrent("gru", 5, 3, 2, bidirectional, merge_mode)
        pooling = description.Pooling(recurrent.output_size, ("max", "last", "mean"))
        layers = (description.Embedding(VOCABULARY, 5), recurrent, pooling)
        results = [build_model(layers, Randomness(1), backend=backend)(IDS) for backend in ("reference", "engine")]
        close(*results, tolerance=1e-5)

    def test_without_pooling_the_logits_stay_ragged(self):
        layers = (STACK[1], description.Recurrent("gru", 5, 4), description.Linear(8, 3))
        result = build_model(layers, Randomness(1))(IDS)
        assert result.values.shape == (8, 3)
        assert result.lengths.tolist() == [3, 0, 1, 4]

    def test_last_after_a_layer_that_changes_the_features_is_the_last_step(self):
        layers = (
            description.Embedding(VOCABULARY, 5),
            description.Recurrent("gru", 5, 4),
            description.Linear(8, 3),
            description.Pooling(3),
        )
        model = build_model(layers, Randomness(1))
        steps = build_model(layers[:3], Randomness(1))(IDS)
        assert torch.equal(model(IDS)[3], steps[3][-1])

    def test_weights_go_out_and_in(self):
        one, two = build_model(STACK, Randomness(1)).eval(), build_model(STACK, Randomness(2)).eval()
        load_weights(two, weights_of(one))
        assert torch.equal(one(IDS), two(IDS))

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"layers.7.bias": None}, ShapeError, r"'layers\.7\.bias' is missing"),
            ({"layers.7.bias": np.zeros(4)}, ShapeError, r"'layers\.7\.bias' must have shape \(3,\), got \(4,\)"),
            ({"layers.9.bias": np.zeros(4)}, UsageError, r"'layers\.9\.bias' belongs to no layer"),
        ],
    )
    def test_weights_that_do_not_fit_change_nothing(self, change, error, message):
        model = build_model(STACK, Randomness(1))
        before = weights_of(model)
        given = {name: value + 1 for name, value in before.items()} | change
        with pytest.raises(error, match=message):
            load_weights(model, {name: value for name, value in given.items() if value is not None})
        assert all(np.array_equal(value, before[name]) for name, value in weights_of(model).items())

    def test_layers_that_do_not_fit_are_refused(self):
        with pytest.raises(UsageError, match="input_size is 9"):
            build_model((description.Embedding(5, 4), description.Linear(9, 2)), Randomness(0))

    def test_bad_offsets_are_refused(self):
        model = build_model((STACK[1], description.Pooling(5)), Randomness(0))
        with pytest.raises(ShapeError, match="never decrease"):
            model(Ragged(np.array([1, 2, 3]), np.array([0, 2, 1, 3])))
