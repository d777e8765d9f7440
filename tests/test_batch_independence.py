"""What is predicted for a text depends on that text alone: not on its neighbours, its place or threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm import engine
from bilstm.data.ragged import Ragged
from bilstm.description import Convolution, Embedding, Linear, Pooling, Recurrent, weight_shapes
from bilstm.evaluation.joining import Joining
from bilstm.runtime import Model
from layer_strategies import layer_stacks
from made_models import SENTENCES, joined_model, some_texts, tagger_model

_ENGINE = engine.status()
BACKENDS = ["numpy"] + (["engine"] if _ENGINE.available else [])
VOCABULARY, SIZE = 50, 17  # odd sizes: matrix libraries treat the rest of a tile in another way

MIDDLES = {
    "embedding": (),
    "convolution": (Convolution(SIZE, SIZE, 3),),
    "even convolution": (Convolution(SIZE, SIZE, 4, "tanh"),),
    "linear": (Linear(SIZE, SIZE, "sigmoid"),),
    **{
        f"{cell} {merge} {layers} layers": (
            Recurrent(cell, SIZE, 34 if merge not in ("concat", None) else 17, layers, True, merge),
            *([] if merge is None else [Linear(34, SIZE)]),
        )
        for cell in ("lstm", "gru", "rnn")
        for merge in ("concat", "sum", "mul", "ave", None)
        for layers in (1, 2)
    },
}


def model_of(layers, **options) -> Model:
    generator = np.random.default_rng(4)
    shapes = weight_shapes(layers)
    return Model(
        layers, {n: generator.normal(size=s, scale=0.5).astype(np.float32) for n, s in shapes.items()}, **options
    )


def sequences_of(count=14, longest=25) -> list[np.ndarray]:
    generator = np.random.default_rng(9)
    return [generator.integers(0, VOCABULARY, length) for length in generator.integers(0, longest, count)]


def assert_independent(model, sequences):
    whole = model.run(Ragged.of(sequences))
    order = np.random.default_rng(2).permutation(len(sequences))
    shuffled = model.run(Ragged.of([sequences[row] for row in order]))
    for place, row in enumerate(order):
        assert np.array_equal(shuffled[place], whole[row])
    for row, sequence in enumerate(sequences):
        assert np.array_equal(model.run(Ragged.of([sequence]))[0], whole[row])
        assert np.array_equal(model.run(Ragged.of([[], sequence, sequence[:1]]))[1], whole[row])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "every step"])
@pytest.mark.parametrize("middle", MIDDLES.values(), ids=MIDDLES)
def test_every_layer_bit_for_bit(middle, pooled, backend):
    features = middle[-1].output_size if middle else SIZE
    if not pooled and isinstance(middle[-1] if middle else None, Recurrent):
        pytest.skip("directions that stand apart need pooling")
    kinds = ("last", "max", "mean", "attention")
    head = (Pooling(features, kinds), Linear(4 * features, 3)) if pooled else (Linear(features, 5),)
    assert_independent(model_of((Embedding(VOCABULARY, SIZE), *middle, *head), backend=backend), sequences_of())


@given(layers=layer_stacks(), backend=st.sampled_from(BACKENDS), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_random_stacks_bit_for_bit(layers, backend, seed):
    generator = np.random.default_rng(seed)
    sequences = [generator.integers(0, 11, length) for length in generator.integers(0, 20, 9)]
    assert_independent(model_of(layers, backend=backend), sequences)


@pytest.mark.skipif(not _ENGINE.available, reason=f"engine: {_ENGINE.reason}")
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_engine_threads_change_no_bit(cell):
    layers = (Embedding(VOCABULARY, SIZE), Recurrent(cell, SIZE, 24, 2), Pooling(48, ("max", "mean")), Linear(96, 2))
    batch = Ragged.of(sequences_of(200))
    one = model_of(layers, backend="engine", threads=1).run(batch)
    for threads in (2, 3, 5):
        assert np.array_equal(model_of(layers, backend="engine", threads=threads).run(batch), one)


_PROGRAM = """
import hashlib
import numpy as np
from bilstm.data.ragged import Ragged
from bilstm.description import Convolution, Embedding, Linear, Pooling, Recurrent, weight_shapes
from bilstm.runtime import Model
layers = (Embedding(50, 17), Recurrent("lstm", 17, 128), Convolution(256, 200, 3), Pooling(200, ("max", "attention")))
layers += (Linear(400, 2),)
random = np.random.default_rng(4)
weights = {n: random.normal(size=s, scale=0.1).astype(np.float32) for n, s in weight_shapes(layers).items()}
batch = Ragged.of([random.integers(0, 50, length) for length in random.integers(0, 60, 40)])
print(hashlib.sha256(Model(layers, weights, backend="numpy").run(batch).tobytes()).hexdigest())
"""


def test_numpy_threads_change_no_bit():
    found = set()
    for threads in ("1", "2", "4"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_joined_text_model_bit_for_bit():
    model = joined_model()
    texts = [*some_texts(60, seed=3), "", "nothing known zzz", "GOOD good don't!"]
    whole = model.logits(texts)
    for row, text in enumerate(texts):
        assert np.array_equal(model.logits([text])[0], whole[row])
        assert np.array_equal(model.predict_proba([text]), model.predict_proba([texts[0], text])[1:])


def test_joining_rounds_every_row_alike():
    generator = np.random.default_rng(0)
    logits, margins = generator.normal(size=(257, 3)).astype(np.float32), generator.normal(size=(257, 3, 2))
    joining = Joining(1.1, (0.3, 0.7), 0.01, 0.0)
    whole = joining.join(logits, margins)
    expected = 1.1 * logits.astype(np.float64) + margins @ np.array([0.3, 0.7]) + 0.01
    np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-14)
    for row in range(len(logits)):
        assert np.array_equal(joining.join(logits[row : row + 1], margins[row : row + 1])[0], whole[row])


@pytest.mark.parametrize("settings", [{}, {"head": "softmax", "characters": "lstm"}, {"cell": "gru"}])
def test_tagger_bit_for_bit(settings):
    model = tagger_model(**settings)
    random = np.random.default_rng(6)
    words = [word for sentence in SENTENCES for word in sentence] + ["new", "Words"]
    sentences = [[str(word) for word in random.choice(words, size)] for size in random.integers(1, 30, 25)]
    emissions, intents = model.scores(model.encode(sentences))
    tags = model.predict(sentences)
    for row, sentence in enumerate(sentences):
        alone, intent = model.scores(model.encode([sentence]))
        assert np.array_equal(alone.values, emissions[row])
        assert np.array_equal(intent[0], intents[row])
        assert model.predict([sentence]) == tags[row : row + 1]
