"""What must always hold for the recurrent layer, on every backend that can run here."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.errors import ShapeError, UsageError
from bilstm.layers import Randomness, Recurrent
from bilstm.layers.engine_op import engine_can_run, has_fast_kernel
from bilstm.layers.padding import length_groups, padded_groups
from bilstm.layers.recurrent import merge_directions
from bilstm.layers.recurrent_backends import choose_backend

CELLS = [("lstm", "tanh"), ("gru", "tanh"), ("rnn", "tanh"), ("rnn", "relu")]
MERGES = ["concat", "sum", "mul", "ave", None]
TORCH_MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}

_REFUSAL = engine_can_run(torch.float32)
BACKENDS = [
    "reference",
    "torch",
    pytest.param("engine", marks=pytest.mark.skipif(_REFUSAL is not None, reason=f"engine: {_REFUSAL}")),
]
# The engine computes in float32; the others are checked in float64, where a wrong formula cannot hide in rounding.
DTYPES = {"reference": torch.float64, "torch": torch.float64, "engine": torch.float32}
TOLERANCES = {"reference": 1e-12, "torch": 1e-12, "engine": 2e-5}
BACKEND_NAMES = ["reference", "torch"] + (["engine"] if _REFUSAL is None else [])


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(cell="lstm", input_size=3, hidden_size=4, *, backend="reference", seed=0, **options) -> Recurrent:
    layer = Recurrent(cell, input_size, hidden_size, randomness=Randomness(seed), backend=backend, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():  # biases too, so that none can be left out unnoticed
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return layer.to(DTYPES[backend]).eval()


def batch_of(lengths, size=3, dtype=torch.float64, seed=1) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), size, generator=generator, dtype=torch.float64).to(dtype)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    return Ragged(values, offsets)


def close(actual, expected, backend="reference", factor=1.0):
    tolerance = TOLERANCES[backend] * factor
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=tolerance, atol=tolerance)


def state_for(layer: Recurrent, batch_size: int, seed: int) -> torch.Tensor:
    fields = layer.description
    shape = (fields.num_layers * (1 + fields.bidirectional), batch_size, fields.hidden_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(next(layer.parameters()).dtype)


def flat_gradients(outputs, inputs) -> list[torch.Tensor]:
    """Gradients of a fixed random weighting of all outputs."""
    generator = torch.Generator().manual_seed(3)
    total = sum((torch.randn(o.shape, generator=generator).to(o.dtype) * o).sum() for o in outputs)
    return list(torch.autograd.grad(total, inputs, allow_unused=True))


class TestAgainstTorch:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("bidirectional", [False, True])
    @pytest.mark.parametrize("num_layers", [1, 2])
    @pytest.mark.parametrize(("cell", "nonlinearity"), CELLS)
    def test_outputs_states_and_all_gradients(self, cell, nonlinearity, num_layers, bidirectional, backend):
        options = {"nonlinearity": nonlinearity} if cell == "rnn" else {}
        module = TORCH_MODULES[cell](3, 4, num_layers, bidirectional=bidirectional, dtype=torch.float64, **options)
        layer = build(cell, num_layers=num_layers, bidirectional=bidirectional, backend=backend, **options)
        layer.load_state_dict(module.state_dict())
        lengths = [4, 1, 7, 2]
        batch = batch_of(lengths, dtype=DTYPES[backend])
        h_0, c_0 = state_for(layer, 4, 5), state_for(layer, 4, 6)
        ours_in = [batch.values, h_0] + ([c_0] if cell == "lstm" else [])
        theirs_in = [tensor.double().clone() for tensor in ours_in]
        for tensor in (*ours_in, *theirs_in):
            tensor.requires_grad_()
        result = layer(batch, h_0, c_0 if cell == "lstm" else None)
        ours = [result.outputs.values, result.h_n] + ([result.c_n] if cell == "lstm" else [])

        # Torch runs each sequence alone: no padding, no packing.
        runs = []
        for row, steps in enumerate(theirs_in[0].split(lengths)):
            state = tuple(tensor[:, row] for tensor in theirs_in[1:])
            outputs, last = module(steps, state if cell == "lstm" else state[0])
            runs.append((outputs, *(last if cell == "lstm" else (last,))))
        theirs = [torch.cat([run[0] for run in runs])]
        theirs += [torch.stack([run[part] for run in runs], dim=1) for part in range(1, len(ours))]

        for mine, other in zip(ours, theirs, strict=True):
            close(mine, other, backend)
        names = [name for name, _ in module.named_parameters()]
        mine = flat_gradients(ours, ours_in + [layer.get_parameter(name) for name in names])
        other = flat_gradients(theirs, theirs_in + list(module.parameters()))
        for name, a, b in zip(["inputs", "h_0", "c_0"][: len(ours_in)] + names, mine, other, strict=True):
            assert a is not None, name
            close(a, b, backend, factor=10)

    @pytest.mark.parametrize("cell", TORCH_MODULES)
    def test_state_dicts_interchange_both_ways(self, cell):
        module = TORCH_MODULES[cell](3, 4, 2, bidirectional=True)
        layer = Recurrent(cell, 3, 4, 2, True)
        assert list(layer.state_dict()) == list(module.state_dict())
        layer.load_state_dict(module.state_dict())
        for parameter in layer.parameters():
            parameter.data.neg_()
        module.load_state_dict(layer.state_dict())
        for name, value in module.state_dict().items():
            assert torch.equal(value, layer.state_dict()[name])

    @pytest.mark.parametrize("backend", ["reference", "torch"])
    @pytest.mark.parametrize("cell", TORCH_MODULES)
    def test_gradcheck(self, cell, backend):
        layer = build(cell, 2, 2, bidirectional=True, backend=backend)
        batch = batch_of([3, 0, 2], size=2)
        h_0, c_0 = state_for(layer, 3, 5), state_for(layer, 3, 6)
        inputs = [batch.values, h_0] + ([c_0] if cell == "lstm" else [])

        def run(values, h, c=None, *weights):
            names = [name for name, _ in layer.named_parameters()]
            arguments = (Ragged(values, batch.offsets), h, c)
            result = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), arguments)
            return (result.outputs.values, result.final, result.h_n) + ((result.c_n,) if c is not None else ())

        def without_cell_state(values, h, *weights):
            return run(values, h, None, *weights)

        tensors = [tensor.detach().requires_grad_() for tensor in (*inputs, *layer.parameters())]
        assert torch.autograd.gradcheck(run if cell == "lstm" else without_cell_state, tensors)


lengths_lists = st.lists(st.integers(0, 9), min_size=0, max_size=6)
layers = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(["lstm", "gru", "rnn"]),
        "num_layers": st.integers(1, 2),
        "bidirectional": st.booleans(),
        "merge_mode": st.sampled_from(MERGES),
        "backend": st.sampled_from(BACKEND_NAMES),
        "seed": st.integers(0, 3),
    }
)
few = settings(max_examples=60, deadline=None, derandomize=True)


class TestInvariants:
    @given(options=layers, lengths=lengths_lists)
    @few
    def test_a_batch_is_each_sequence_alone(self, options, lengths):
        layer, backend = build(**options), options["backend"]
        batch = batch_of(lengths, dtype=DTYPES[backend])
        whole = layer(batch)
        assert whole.h_n.shape[1] == len(whole.final) == len(lengths)
        for row, length in enumerate(lengths):
            alone = layer(Ragged(batch[row], torch.tensor([0, length])))
            close(whole.outputs[row], alone.outputs.values, backend)
            close(whole.final[row], alone.final[0], backend)
            close(whole.h_n[:, row], alone.h_n[:, 0], backend)
            if whole.c_n is not None:
                close(whole.c_n[:, row], alone.c_n[:, 0], backend)

    @given(options=layers, lengths=lengths_lists, data=st.data())
    @few
    def test_permuted_rows_permute_results(self, options, lengths, data):
        order = data.draw(st.permutations(range(len(lengths))))
        layer, backend = build(**options), options["backend"]
        batch = batch_of(lengths, dtype=DTYPES[backend])
        permuted = Ragged(
            torch.cat([batch[row] for row in order]) if order else batch.values,
            torch.tensor([0, *np.cumsum([lengths[row] for row in order])], dtype=torch.int64),
        )
        straight, shuffled = layer(batch), layer(permuted)
        for place, row in enumerate(order):
            close(shuffled.outputs[place], straight.outputs[row], backend)
            close(shuffled.final[place], straight.final[row], backend)

    @given(options=layers, lengths=lengths_lists, data=st.data())
    @few
    def test_split_in_two_with_carried_states_is_the_whole(self, options, lengths, data):
        cuts = [data.draw(st.integers(0, length)) for length in lengths]
        layer, backend = build(**{**options, "bidirectional": False}), options["backend"]
        batch = batch_of(lengths, dtype=DTYPES[backend])
        rows = [batch[row] for row in range(len(lengths))]
        heads = Ragged(
            torch.cat([steps[:cut] for steps, cut in zip(rows, cuts, strict=True)]) if rows else batch.values,
            torch.tensor([0, *np.cumsum(cuts)], dtype=torch.int64),
        )
        rests = [length - cut for length, cut in zip(lengths, cuts, strict=True)]
        tails = Ragged(
            torch.cat([steps[cut:] for steps, cut in zip(rows, cuts, strict=True)]) if rows else batch.values,
            torch.tensor([0, *np.cumsum(rests)], dtype=torch.int64),
        )
        whole, first = layer(batch), layer(heads)
        second = layer(tails, first.h_n, first.c_n)
        for row in range(len(lengths)):
            joined = torch.cat([first.outputs[row], second.outputs[row]])
            close(joined, whole.outputs[row], backend)
        close(second.h_n, whole.h_n, backend)
        if whole.c_n is not None:
            close(second.c_n, whole.c_n, backend)

    @given(options=layers, lengths=lengths_lists)
    @few
    def test_reversed_sequences_swap_the_directions(self, options, lengths):
        options = {**options, "bidirectional": True, "merge_mode": None, "num_layers": 1}
        layer, backend = build(**options), options["backend"]
        swapped = build(**options)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                other = name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"
                swapped.get_parameter(other).copy_(parameter)
        batch = batch_of(lengths, dtype=DTYPES[backend])
        rows = [batch[row].flip(0) for row in range(len(lengths))]
        flipped = Ragged(torch.cat(rows) if rows else batch.values, batch.offsets)
        one, two = layer(batch), swapped(flipped)
        for row in range(len(lengths)):
            close(two.outputs[row].flip(0).flip(1), one.outputs[row], backend)
        close(two.final.flip(1), one.final, backend)

    @given(options=layers, lengths=lengths_lists)
    @few
    def test_backends_agree(self, options, lengths):
        results = []
        for backend in BACKEND_NAMES:
            layer = build(**{**options, "backend": backend})
            batch = batch_of(lengths, dtype=DTYPES[backend])
            batch.values.requires_grad_()
            result = layer(batch)
            gradients = flat_gradients([result.final], [batch.values]) if sum(lengths) else []
            results.append([result.outputs.values, result.final, *gradients])
        for backend, result in zip(BACKEND_NAMES[1:], results[1:], strict=True):
            for ours, expected in zip(result, results[0], strict=True):
                close(ours, expected, backend, factor=10)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("merge_mode", MERGES)
    def test_merge_modes_follow_their_formula_after_every_layer(self, merge_mode, backend):
        """Two stacked layers by hand: merge, feed, merge."""
        layer = build("gru", num_layers=2, merge_mode=merge_mode, backend=backend)
        batch = batch_of([3, 5], dtype=DTYPES[backend])
        values = batch.values
        for number in range(2):
            weights = {n: p for n, p in layer.named_parameters() if f"_l{number}" in n}
            parts, finals = [], []
            for suffix in ("", "_reverse"):
                single = build("gru", values.shape[1], bidirectional=False)
                with torch.no_grad():
                    for name, parameter in single.named_parameters():
                        parameter.copy_(weights[name.replace("_l0", f"_l{number}") + suffix])
                rows = [steps.flip(0) if suffix else steps for steps in values.double().split([3, 5])]
                result = single(Ragged(torch.cat(rows), batch.offsets))
                rows = [steps.flip(0) if suffix else steps for steps in result.outputs.values.split([3, 5])]
                parts.append(torch.cat(rows))
                finals.append(result.final)
            f, b = parts
            merged = {
                "concat": torch.cat([f, b], dim=1),
                "sum": f + b,
                "mul": f * b,
                "ave": (f + b) / 2,
                None: torch.stack([f, b], dim=1) if number else torch.cat([f, b], dim=1),
            }
            values = merged[merge_mode]
        result = layer(batch)
        close(result.outputs.values, values, backend)
        close(result.final, merge_directions(finals, merge_mode), backend)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("cell", TORCH_MODULES)
    def test_backward_sees_the_future_and_forward_does_not(self, cell, backend):
        layer = build(cell, merge_mode=None, backend=backend)
        batch = batch_of([6, 4], dtype=DTYPES[backend])
        batch.values.requires_grad_()
        outputs = layer(batch).outputs.values  # (10, 2, 4)
        at = 2
        (from_forward,) = torch.autograd.grad(outputs[at, 0].sum(), batch.values, retain_graph=True)
        (from_backward,) = torch.autograd.grad(outputs[at, 1].sum(), batch.values)
        reads_forward = (from_forward != 0).any(dim=1).tolist()
        reads_backward = (from_backward != 0).any(dim=1).tolist()
        assert reads_forward == [True] * 3 + [False] * 7
        assert reads_backward == [False] * 2 + [True] * 4 + [False] * 4

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("cell", TORCH_MODULES)
    def test_nan_stays_in_its_own_sequence(self, cell, backend):
        layer = build(cell, num_layers=2, backend=backend)
        clean = batch_of([4, 3, 0, 6], dtype=DTYPES[backend])
        dirty = clean.with_values(clean.values.clone())
        dirty.values[5] = float("nan")
        dirty.values[6] = float("inf")
        results, gradients = [], []
        for batch in (clean, dirty):
            batch.values.requires_grad_()
            result = layer(batch)
            results.append(result)
            gradients.append(torch.autograd.grad(result.outputs.values.sum(), batch.values)[0])
        assert results[1].outputs[1].isnan().all(dim=1).any()
        for row in (0, 2, 3):
            assert torch.equal(results[1].outputs[row], results[0].outputs[row])
            assert torch.equal(results[1].h_n[:, row], results[0].h_n[:, row])
            span = slice(int(clean.offsets[row]), int(clean.offsets[row + 1]))
            assert torch.equal(gradients[1][span], gradients[0][span])

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("cell", TORCH_MODULES)
    def test_a_sequence_without_steps_keeps_its_initial_state(self, cell, backend):
        layer = build(cell, num_layers=2, backend=backend)
        h_0, c_0 = state_for(layer, 3, 1), state_for(layer, 3, 2)
        for lengths, empty_rows in (([0, 2, 0], [0, 2]), ([0, 0, 0], [0, 1, 2])):
            result = layer(batch_of(lengths, dtype=DTYPES[backend]), h_0, c_0 if cell == "lstm" else None)
            for row in empty_rows:
                assert torch.equal(result.h_n[:, row], h_0[:, row])
                assert torch.equal(result.final[row], h_0[2:, row].flatten())
                if cell == "lstm":
                    assert torch.equal(result.c_n[:, row], c_0[:, row])

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_batch_of_no_sequences(self, backend):
        result = build(backend=backend)(batch_of([], dtype=DTYPES[backend]))
        assert result.outputs.values.shape == (0, 8)
        assert result.final.shape == (0, 8)
        assert result.h_n.shape == (2, 0, 4)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_gradients_exist_in_evaluation_mode(self, backend):
        layer = build(backend=backend, dropout=0.5, num_layers=2).eval()
        layer(batch_of([2, 3], dtype=DTYPES[backend])).final.sum().backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in layer.parameters())

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_the_cell_state_can_be_left_out_without_changing_the_rest(self, backend):
        layer, batch = build(backend=backend), batch_of([2, 5, 1], dtype=DTYPES[backend])
        with_it, without = layer(batch), layer(batch, with_cell_state=False)
        close(without.outputs.values, with_it.outputs.values, backend)
        close(without.h_n, with_it.h_n, backend)


class TestDropout:
    def trained(self, backend, step=4, **options):
        layer = build(backend=backend, num_layers=2, **options).train()
        layer.randomness.start_step(11, step)
        return layer(batch_of([3, 6, 1], dtype=DTYPES[backend])).outputs.values.detach()

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("kind", ["dropout", "variational_dropout", "weight_dropout"])
    @pytest.mark.parametrize("cell", TORCH_MODULES)
    def test_equal_seeds_give_equal_masks_on_every_backend(self, cell, kind, backend):
        options = {"cell": cell, kind: 0.4}
        once = self.trained(backend, **options)
        assert torch.equal(once, self.trained(backend, **options))
        assert not torch.allclose(once, self.trained(backend, step=5, **options))
        close(once, self.trained("reference", **options), backend)
        plain = self.trained(backend, cell=cell)
        assert not torch.allclose(once, plain)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_evaluation_mode_draws_nothing(self, backend):
        layer = build(backend=backend, num_layers=2, dropout=0.5, variational_dropout=0.5, weight_dropout=0.5)
        before = layer.randomness.generator.get_state()
        batch = batch_of([3, 1], dtype=DTYPES[backend])
        result = layer(batch)
        assert torch.equal(before, layer.randomness.generator.get_state())
        close(result.outputs.values, build(backend=backend, num_layers=2)(batch).outputs.values, backend)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_variational_mask_is_one_per_sequence_and_scaled(self, backend):
        """Against torch.nn.LSTMCell fed with the masked state at every step."""
        layer = build(backend=backend, bidirectional=False, variational_dropout=0.5).train()
        cell = torch.nn.LSTMCell(3, 4, dtype=torch.float64)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
        batch = batch_of([5, 3], dtype=DTYPES[backend])
        layer.randomness.start_step(1, 2)
        ours = layer(batch)
        layer.randomness.start_step(1, 2)
        masks = layer.randomness.mask((1, 2, 4), 0.5)[0].double()
        assert set(masks.unique().tolist()) == {0.0, 2.0}
        for row in range(2):
            h = c = torch.zeros(1, 4, dtype=torch.float64)
            for step, x in enumerate(batch[row].double()):
                h, c = cell(x[None], (h * masks[row], c))
                close(ours.outputs[row][step], h[0], backend)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_weight_dropout_is_torch_with_masked_recurrent_weights(self, backend):
        layer = build("gru", backend=backend, weight_dropout=0.5).train()
        batch = batch_of([5], dtype=DTYPES[backend])
        layer.randomness.start_step(1, 2)
        ours = layer(batch)
        layer.randomness.start_step(1, 2)
        module = torch.nn.GRU(3, 4, bidirectional=True, dtype=torch.float64)
        module.load_state_dict(layer.state_dict())
        with torch.no_grad():
            for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
                weight = module.get_parameter(name)
                weight *= layer.randomness.mask(tuple(weight.shape), 0.5)
        close(ours.outputs.values, module(batch.values.double())[0], backend)


class TestErrors:
    def test_wrong_feature_count(self):
        with pytest.raises(ShapeError, match=r"reads 3 features a step, got values of shape \(2, 5\)"):
            build()(batch_of([2], size=5))

    def test_wrong_initial_state(self):
        with pytest.raises(ShapeError, match=r"h_0 must have shape \(2, 1, 4\), got \(1, 1, 4\)"):
            build()(batch_of([2]), torch.zeros(1, 1, 4))

    def test_cell_state_for_a_cell_that_has_none(self):
        with pytest.raises(ShapeError, match="'gru' has no cell state"):
            build("gru")(batch_of([2]), c_0=torch.zeros(2, 1, 4))

    def test_offsets_that_do_not_fit(self):
        with pytest.raises(ShapeError, match="last offset must equal the number of steps 2, got 3"):
            build()(Ragged(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0, 3])))

    def test_an_explicit_engine_that_cannot_run_is_an_error(self):
        layer = build(backend="torch")
        layer.backend = "engine"
        with pytest.raises(UsageError, match=r"backend 'engine' cannot run: .*float64"):
            layer(batch_of([2], dtype=torch.float64))

    def test_unknown_backend_and_precision(self):
        values, fields = torch.zeros(1, 3), description.Recurrent("lstm", 3, 4)
        with pytest.raises(UsageError, match="'cuda' is unknown; allowed are auto, engine, torch, reference"):
            choose_backend("cuda", values, fields)
        with pytest.raises(UsageError, match="precision 'int8' is unknown"):
            choose_backend("auto", values, fields, "int8")
        with pytest.raises(UsageError, match="'bfloat16' needs the engine"):
            choose_backend("torch", values, fields, "bfloat16")

    def test_auto_follows_its_table(self):
        fields = description.Recurrent("lstm", 3, 4)
        assert choose_backend("auto", torch.zeros(1, 3, dtype=torch.float64), fields) == "torch"
        assert choose_backend("auto", torch.zeros(1, 3), fields) == (
            "engine" if has_fast_kernel("float32") else "torch"
        )


class TestPadding:
    @given(lengths=st.lists(st.integers(0, 3000), max_size=200))
    @settings(max_examples=200, deadline=None, derandomize=True)
    def test_groups_name_every_row_once_and_waste_little(self, lengths):
        lengths = np.array(lengths, dtype=np.int64)
        groups = length_groups(lengths)
        rows = np.concatenate(groups) if groups else np.zeros(0, dtype=np.int64)
        assert sorted(rows.tolist()) == np.flatnonzero(lengths).tolist()
        cells = sum(len(group) * int(lengths[group].max()) for group in groups)
        assert cells <= max(4096, 1.5 * lengths.sum())
        if groups:
            assert sum(int(lengths[group].max()) for group in groups) <= 3 * lengths.max()

    def test_one_long_sequence_next_to_many_short_ones(self):
        """Padded to the longest this batch would hold 3 million cells instead of 13 thousand."""
        lengths = [5] * 300 + [10_000] + [5] * 300
        layer = build("lstm", 2, 3, backend="torch")
        batch = batch_of(lengths, size=2)
        groups = padded_groups(batch.offsets.numpy(), torch.device("cpu"))
        assert sum(group.longest * len(group.rows) for group in groups) == sum(lengths)
        with torch.no_grad():
            result = layer(batch)
            alone = layer(Ragged(batch[300], torch.tensor([0, 10_000])))
            after = layer(Ragged(batch[301], torch.tensor([0, 5])))
        close(result.outputs[300], alone.outputs.values)
        close(result.final[301], after.final[0])
        close(result.c_n[:, 300], alone.c_n[:, 0])


def test_initial_weights_follow_the_documented_rule():
    layer = Recurrent("lstm", 7, 5, randomness=Randomness(3))
    assert layer.bias_ih_l0.tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10
    assert layer.bias_hh_l0_reverse.abs().max() == 0
    for gate in layer.weight_hh_l0.split(5):
        torch.testing.assert_close(gate @ gate.T, torch.eye(5), atol=1e-5, rtol=0)
    limit = (6 / (7 + 5)) ** 0.5
    assert 0.8 * limit < layer.weight_ih_l0.abs().max() <= limit
    again = Recurrent("lstm", 7, 5, randomness=Randomness(3))
    other = Recurrent("lstm", 7, 5, randomness=Randomness(4))
    assert torch.equal(layer.weight_ih_l0, again.weight_ih_l0)
    assert not torch.equal(layer.weight_ih_l0, other.weight_ih_l0)
