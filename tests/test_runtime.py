"""The torch-free face gives what the torch face gives, for every layer, and refuses weights that do not fit."""

import copy
import gc
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm import engine
from bilstm.data.ragged import Ragged
from bilstm.description import (
    Convolution,
    Dropout,
    Embedding,
    Linear,
    Pooling,
    Recurrent,
    WordDropout,
    weight_shapes,
)
from bilstm.errors import ModelFolderError, ShapeError, UsageError
from bilstm.layers import Randomness, build_model, load_weights, weights_of
from bilstm.runtime import Model, engine_recurrent
from bilstm.runtime import model as runtime_model
from layer_strategies import VOCABULARY, id_batches, layer_stacks

BATCH = [[1, 2, 3, 4], [], [5], [6, 7, 8, 9, 10, 0, 1], [3, 3]]
POOLED = (Pooling(6, ("last", "max", "mean", "attention")), Linear(24, 3))

_ENGINE = engine.status()
_needs_engine = pytest.mark.skipif(not _ENGINE.available, reason=f"engine: {_ENGINE.reason}")
BACKENDS = ["numpy", pytest.param("engine", marks=_needs_engine)]
BACKEND_NAMES = ["numpy"] + (["engine"] if _ENGINE.available else [])


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_weights(layers, seed=0) -> dict[str, np.ndarray]:
    """Weights of unit scale, biases included, so that nothing vanishes."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(size=shape, scale=0.7).astype(np.float32)
        for name, shape in weight_shapes(layers).items()
    }


def both_faces(layers, sequences, seed=0, **options):
    weights = random_weights(layers, seed)
    trained = build_model(layers, Randomness(0), backend="torch").eval()
    load_weights(trained, weights)
    for name, value in weights_of(trained).items():
        assert np.array_equal(value, weights[name])
    batch = Ragged.of(sequences)
    with torch.no_grad():
        expected = trained(batch)
    actual = Model(layers, weights, **options).run(batch)
    if isinstance(expected, Ragged):
        assert isinstance(actual, Ragged)
        assert np.array_equal(actual.offsets, batch.offsets)
        return actual.values, expected.values.numpy()
    return actual, expected.numpy()


LAYERS = {
    "embedding": (),
    "word dropout": (Dropout(0.5), Dropout(0.3, variational=True)),
    "convolution": (Convolution(6, 6, 3),),
    "even convolution": (Convolution(6, 6, 4, "tanh"),),
    "wide convolution": (Convolution(6, 6, 9, "none"),),
    "linear": (Linear(6, 6, "sigmoid"),),
    **{
        f"{cell} {nonlinearity} {merge} {layers} layers": (
            Recurrent(
                cell, 6, 6 if merge not in ("concat", None) else 3, layers, True, merge, nonlinearity=nonlinearity
            ),
        )
        for cell, nonlinearity in (("lstm", "tanh"), ("gru", "tanh"), ("rnn", "tanh"), ("rnn", "relu"))
        for merge in ("concat", "sum", "mul", "ave", None)
        for layers in (1, 2)
    },
    "one direction": (Recurrent("lstm", 6, 6, bidirectional=False),),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("middle", LAYERS.values(), ids=LAYERS)
def test_both_faces_are_equal_for_every_layer(middle, backend):
    layers = (WordDropout(0.2), Embedding(VOCABULARY, 6), *middle, *POOLED)
    actual, expected = both_faces(layers, BATCH, backend=backend)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@given(layers=layer_stacks(), sequences=id_batches, backend=st.sampled_from(BACKEND_NAMES))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_both_faces_are_equal_for_random_stacks(layers, sequences, backend):
    actual, expected = both_faces(layers, sequences, backend=backend)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=5e-5, atol=5e-5)


@given(layers=layer_stacks(pooled=True), sequences=id_batches)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_batch_is_each_sequence_alone(layers, sequences):
    model = Model(layers, random_weights(layers))
    whole = model.run(Ragged.of(sequences))
    for row, sequence in enumerate(sequences):
        np.testing.assert_allclose(model.run(Ragged.of([sequence]))[0], whole[row], rtol=5e-5, atol=5e-5)


def test_large_batches_run_in_blocks_of_whole_sequences(monkeypatch):
    layers = (Embedding(VOCABULARY, 6), Recurrent("gru", 6, 3), *POOLED)
    model = Model(layers, random_weights(layers))
    generator = np.random.default_rng(1)
    batch = Ragged.of([generator.integers(0, VOCABULARY, size) for size in [3, 0, 9, 1, 25, 0, 2, 2, 7, 0]])
    whole = model.run(batch)
    sizes = []
    run_block = Model._run_block
    monkeypatch.setattr(runtime_model, "_BLOCK_STEPS", 10)
    monkeypatch.setattr(Model, "_run_block", lambda self, part: sizes.append(len(part.values)) or run_block(self, part))
    np.testing.assert_allclose(model.run(batch), whole, rtol=1e-5, atol=1e-6)
    assert sizes == [3, 10, 25, 4, 7]


def test_an_empty_batch_gives_no_rows():
    layers = (Embedding(VOCABULARY, 6), *POOLED)
    assert Model(layers, random_weights(layers)).run(Ragged.of([])).shape == (0, 3)


def test_per_step_models_give_ragged_logits():
    layers = (Embedding(VOCABULARY, 6), Recurrent("lstm", 6, 3), Linear(6, 4))
    actual, expected = both_faces(layers, BATCH)
    assert actual.shape == (14, 4)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_models_of_vectors_need_no_embedding():
    layers = (Recurrent("gru", 6, 3), *POOLED)
    weights = random_weights(layers)
    values = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    batch = Ragged(values, np.array([0, 2, 5]))
    trained = build_model(layers, Randomness(0), backend="reference").eval()
    trained.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    with torch.no_grad():
        expected = trained(batch).numpy()
    np.testing.assert_allclose(Model(layers, weights).run(batch), expected, rtol=2e-5, atol=2e-5)


def test_large_activations_saturate_without_a_warning():
    layers = (Embedding(VOCABULARY, 6), Recurrent("lstm", 6, 3), *POOLED)
    weights = {name: value * 1e4 for name, value in random_weights(layers).items()}
    assert np.isfinite(Model(layers, weights).run(Ragged.of(BATCH))).all()


class TestEngine:
    layers = (
        Embedding(VOCABULARY, 6),
        Dropout(0.5),
        Recurrent("lstm", 6, 3),
        Dropout(0.5),
        Pooling(6, ("max", "last", "mean")),
    )

    @_needs_engine
    @pytest.mark.parametrize("bidirectional", [False, True])
    @pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
    def test_gathering_and_pooling_inside_change_nothing(self, merge_mode, bidirectional):
        recurrent = Recurrent("gru", 6, 3, 2, bidirectional, merge_mode)
        size = recurrent.output_size
        pooling = Pooling(size, ("max", "last", "mean"))
        layers = (Embedding(VOCABULARY, 6), Dropout(0.5), recurrent, Dropout(0.5), pooling, Linear(3 * size, 2))
        results = [Model(layers, random_weights(layers), backend=name).run(Ragged.of(BATCH)) for name in BACKEND_NAMES]
        np.testing.assert_allclose(*results, rtol=2e-5, atol=2e-5)

    @_needs_engine
    def test_the_vocabulary_table_comes_when_it_pays_and_changes_no_bit(self, monkeypatch):
        """BATCH has 14 steps; four steps for each of the 11 tokens are reached in the fourth run."""
        made = []
        pack = engine.pack
        monkeypatch.setattr(
            engine_recurrent.engine,
            "pack",
            lambda *given, embedding, **options: (
                made.append(embedding is not None) or pack(*given, embedding=embedding, **options)
            ),
        )
        model = Model(self.layers, random_weights(self.layers), backend="engine")
        results = [model.run(Ragged.of(BATCH)) for _ in range(3)]
        assert made == [False]
        results += [model.run(Ragged.of(BATCH)) for _ in range(3)]
        assert made == [False, True]
        assert all(np.array_equal(result, results[0]) for result in results)

    @pytest.mark.skipif(
        not engine.status().available or engine.choose_precision("auto") != "bfloat16",
        reason="float32 is faster here",
    )
    def test_in_bfloat16_the_table_is_there_from_the_start(self):
        """It rounds: made later, it would change answers. Rounding of 2^-9 in sums of a few numbers near 1."""
        model = Model(self.layers, random_weights(self.layers), backend="engine", precision="bfloat16")
        exact = Model(self.layers, random_weights(self.layers), backend="engine", precision="float32").run(
            Ragged.of(BATCH)
        )
        results = [model.run(Ragged.of(BATCH)) for _ in range(10)]
        assert all(np.array_equal(result, results[0]) for result in results)
        np.testing.assert_allclose(results[0], exact, rtol=0, atol=0.03)
        for row, sequence in enumerate(BATCH):
            assert np.array_equal(model.run(Ragged.of([sequence]))[0], results[0][row])

    @_needs_engine
    def test_a_batch_is_each_sequence_alone_bit_for_bit(self):
        model = Model(self.layers, random_weights(self.layers), backend="engine")
        whole = model.run(Ragged.of(BATCH))
        for row, sequence in enumerate(BATCH):
            assert np.array_equal(model.run(Ragged.of([sequence]))[0], whole[row])

    @_needs_engine
    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
    def test_a_copy_lays_out_its_own_weights(self, copied):
        model = Model(self.layers, random_weights(self.layers), backend="engine", threads=1)
        other = copied(model)
        expected = model.run(Ragged.of(BATCH))
        del model
        gc.collect()
        assert other.backend == "engine"
        assert np.array_equal(other.run(Ragged.of(BATCH)), expected)

    @_needs_engine
    def test_bfloat16_is_close(self):
        weights = random_weights(self.layers)
        exact = Model(self.layers, weights, backend="numpy").run(Ragged.of(BATCH))
        fast = Model(self.layers, weights, precision="bfloat16")
        assert fast.backend == "engine"
        # Eight bits of mantissa: products off by up to 2^-8, states bounded by 1.
        assert 0 < np.abs(fast.run(Ragged.of(BATCH)) - exact).max() < 0.05

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"backend": "torch"}, "'torch' is unknown; without torch allowed are auto, engine, numpy"),
            ({"precision": "int8"}, "'int8' is unknown"),
            ({"backend": "numpy", "precision": "bfloat16"}, "'bfloat16' needs the engine"),
        ],
    )
    def test_choices_that_cannot_run(self, options, message):
        with pytest.raises(UsageError, match=message):
            Model(self.layers, random_weights(self.layers), **options)

    def test_a_missing_engine_is_an_error_only_when_it_is_asked_for(self, monkeypatch):
        gone = engine.Status(False, None, "no library in this test")
        monkeypatch.setattr(engine_recurrent.engine, "status", lambda: gone)
        weights = random_weights(self.layers)
        assert Model(self.layers, weights).backend == "numpy"
        for options in ({"backend": "engine"}, {"precision": "bfloat16"}):
            with pytest.raises(UsageError, match="the engine cannot run: no library in this test"):
                Model(self.layers, weights, **options)


class TestRefusals:
    layers = (Embedding(VOCABULARY, 6), Recurrent("lstm", 6, 3), *POOLED)

    def refuse(self, message, **changes):
        weights = random_weights(self.layers)
        for name, value in changes.items():
            weights.pop(name)
            if value is not None:
                weights[name] = value
        with pytest.raises(ModelFolderError, match=message):
            Model(self.layers, weights)

    def test_a_missing_weight(self):
        self.refuse(r"weight 'layers\.1\.bias_hh_l0' is missing", **{"layers.1.bias_hh_l0": None})

    def test_a_wrong_shape(self):
        value = np.zeros((3, 23), dtype=np.float32)
        self.refuse(r"'layers\.3\.weight' must have shape \(3, 24\), got \(3, 23\)", **{"layers.3.weight": value})

    def test_a_wrong_dtype(self):
        value = np.zeros((3, 24))
        self.refuse(r"'layers\.3\.weight' must be float32, got float64", **{"layers.3.weight": value})

    def test_an_unknown_weight(self):
        weights = {**random_weights(self.layers), "layers.9.weight": np.zeros(1, dtype=np.float32)}
        with pytest.raises(ModelFolderError, match=r"'layers\.9\.weight' belongs to no layer"):
            Model(self.layers, weights)

    def test_layers_that_do_not_fit(self):
        layers = (Embedding(VOCABULARY, 6), Linear(7, 3))
        with pytest.raises(ModelFolderError, match="input_size is 7"):
            Model(layers, random_weights(layers))

    @pytest.mark.parametrize("wrong", [-1, VOCABULARY, 2**40])
    def test_an_id_outside_the_table(self, wrong):
        model = Model(self.layers, random_weights(self.layers))
        with pytest.raises(ShapeError, match=rf"0 to 10, found {wrong} in sequence 2, step 1"):
            model.run(Ragged.of([[1], [], [1, wrong]]))

    def test_ids_that_are_no_integers(self):
        model = Model(self.layers, random_weights(self.layers))
        with pytest.raises(ShapeError, match="token ids must be integers"):
            model.run(Ragged(np.zeros(2, dtype=np.float32), np.array([0, 2])))

    def test_offsets_that_do_not_fit(self):
        model = Model(self.layers, random_weights(self.layers))
        with pytest.raises(ShapeError, match="never decrease"):
            model.run(Ragged(np.zeros(2, dtype=np.int64), np.array([0, 2, 1])))


def test_the_runtime_needs_no_torch():
    program = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = None\n"
        "from bilstm.data.ragged import Ragged\n"
        "from bilstm.description import *\n"
        "from bilstm.runtime import Model\n"
        "layers = (Embedding(3, 2), Recurrent('lstm', 2, 2), Pooling(4), Linear(4, 1))\n"
        "weights = {n: np.ones(s, dtype=np.float32) for n, s in weight_shapes(layers).items()}\n"
        "print(Model(layers, weights).run(Ragged.of([[0, 1]])).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(1, 1)\n", "")
