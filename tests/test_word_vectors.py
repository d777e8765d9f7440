"""Word vectors: steps against a plain float64 implementation, draws against their laws, the whole against both."""

import io

import numpy as np
import pytest

from bilstm.data.ragged import Ragged
from bilstm.engine import skipgram
from bilstm.engine.library import Context
from bilstm.engine.report import kernels
from bilstm.errors import ShapeError, UsageError
from bilstm.training import events, skipgram_draws, skipgram_torch
from bilstm.training.progress import ProgressPrinter
from bilstm.training.skipgram_draws import AliasTable, Draws, keep_shares
from bilstm.training.word_vectors import (
    FIRST_RATE,
    LAST_RATE,
    STEP_WORDS,
    remembered_word_vectors,
    train_word_vectors,
)

needs_engine = pytest.mark.skipif(skipgram.missing() is not None, reason=f"no engine: {skipgram.missing()}")
STEPS = [pytest.param(skipgram.run, id="engine", marks=needs_engine), pytest.param(skipgram_torch.run, id="torch")]
# float32 steps on numbers of about 1: some thousand sums of rounding errors of 6e-8
CLOSE = 2e-6


def reference(inputs, outputs, words, before, after, negatives, rates, batch):
    """The loss of csrc/bilstm_skipgram.h, its gradient worked out word by word, in float64."""
    x, y = inputs.astype(np.float64), outputs.astype(np.float64)
    for step, rate in enumerate(rates.astype(np.float64)):
        d_x, d_y = np.zeros_like(x), np.zeros_like(y)
        for i in range(step * batch, min((step + 1) * batch, len(words))):
            pairs = [(words[i], 1.0)] + [(word, 0.0) for word in negatives[i] if word != words[i]]
            for j in [*range(i - before[i], i), *range(i + 1, i + after[i] + 1)]:
                for word, label in pairs:
                    error = label - 1 / (1 + np.exp(-x[words[j]] @ y[word]))
                    d_x[words[j]] += error * y[word]
                    d_y[word] += error * x[words[j]]
        x, y = x + rate * d_x, y + rate * d_y
    return x, y


def case(seed, vocabulary, size, count, negatives, batch, window):
    random = np.random.default_rng(seed)
    inputs, outputs = skipgram.aligned_table(vocabulary, size), skipgram.aligned_table(vocabulary, size)
    for table in (inputs, outputs):
        table[:, :size] = random.normal(0, 0.4, (vocabulary, size))
    places = np.arange(count)
    return (
        inputs,
        outputs,
        random.integers(0, vocabulary, count).astype(np.int32),
        np.minimum(random.integers(0, window + 1, count), places).astype(np.int32),
        np.minimum(random.integers(0, window + 1, count), count - 1 - places).astype(np.int32),
        random.integers(0, vocabulary, (count, negatives)).astype(np.int32),
        random.uniform(0.01, 0.05, -(-count // batch)).astype(np.float32),
        batch,
    )


CASES = [
    (5, 3, 40, 5, 4, 3),
    (40, 100, 60, 7, 16, 5),
    (9, 300, 12, 13, 100, 2),
    (1, 1, 5, 1, 1, 4),
    (7, 16, 0, 5, 8, 2),
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("numbers", CASES)
def test_steps_against_float64(step, numbers):
    arguments = case(1, *numbers)
    x, y = reference(*arguments)
    step(*arguments)
    np.testing.assert_allclose(arguments[0], x, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(arguments[1], y, atol=CLOSE, rtol=0)


@needs_engine
@pytest.mark.parametrize("numbers", CASES)
def test_same_bits_for_every_kernel_and_number_of_threads(numbers):
    found = {}
    for kernel in (name for name in ("avx2", "avx512", "neon", "portable") if kernels()[name] is None):
        for threads in (1, 2, 5):
            arguments = case(2, *numbers)
            skipgram.run(*arguments, kernel=kernel, context=Context(threads))
            found[kernel, threads] = arguments[0].tobytes() + arguments[1].tobytes()
    fused = {bits for (kernel, _), bits in found.items() if kernel != "portable"}
    portable = {bits for (kernel, _), bits in found.items() if kernel == "portable"}
    assert len(fused) <= 1
    assert len(portable) == 1


@needs_engine
@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (2, lambda words: words.put(0, 40), r"words\[0\] = 40 is outside 0 to 39"),
        (5, lambda words: words.put(3, -1), r"negative_words\[3\] = -1 is outside"),
        (3, lambda before: before.put(0, 1), r"before\[0\] = 1 .* leave the 60 words"),
        (4, lambda after: after.put(59, 1), r"after\[59\] = 1 leave the 60 words"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(position, change, message):
    arguments = case(3, *CASES[1])
    held = arguments[0].copy()
    change(arguments[position])
    with pytest.raises(ShapeError, match=message):
        skipgram.run(*arguments)
    np.testing.assert_array_equal(arguments[0], held)


@needs_engine
def test_arrays_of_a_wrong_kind_are_refused():
    arguments = list(case(3, *CASES[1]))
    for position, wrong in ((0, arguments[0][:, ::2]), (2, arguments[2].astype(np.int64)), (6, arguments[6][:-1])):
        with pytest.raises(ShapeError, match="must be a dense array"):
            skipgram.run(*arguments[:position], wrong, *arguments[position + 1 :])
    with pytest.raises(UsageError, match=r"it does not compute in float32|not built into|this processor lacks"):
        skipgram.run(*arguments, kernel="amx")


# ---- draws ---------------------------------------------------------------------------------------------------------


def test_keep_shares_by_hand():
    # 10,000 words, threshold 0.01: t / f is 0.0125 for 8,000, 0.1 for 1,000, 0.4 for 250
    shares = keep_shares(np.array([0, 8000, 1000, 250, 750]), 0.01)
    np.testing.assert_allclose(shares[:4], [0, 0.0125**0.5 + 0.0125, 0.1**0.5 + 0.1, 1], rtol=1e-12)


@pytest.mark.parametrize("weights", [[0, 3, 1], [5], [0, 0, 2.5, 2.5, 0], [1e-9, 1, 1e6, 0, 7, 7, 7]])
def test_alias_table_has_the_shares_of_the_weights(weights):
    weights = np.array(weights, dtype=float)
    table = AliasTable(weights)
    shares = np.zeros(len(weights))
    np.add.at(shares, table.ids, table.own / len(table.ids))
    np.add.at(shares, table.alias, (1 - table.own) / len(table.ids))
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=1e-12)
    drawn = table.draw(np.random.PCG64(1).random_raw(20_000))
    assert set(np.unique(drawn)) <= set(np.flatnonzero(weights))
    # four standard deviations of a share of 20,000 draws are at most 0.0142
    np.testing.assert_allclose(np.bincount(drawn, minlength=len(weights)) / 20_000, shares, atol=0.0142)


def draws_of(texts, vocabulary, **settings):
    settings = {"window": 4, "negatives": 3, "subsampling": 1.0, "seed": 5, **settings}
    return Draws(Ragged.of(texts), vocabulary, **settings)


def test_windows_stay_in_their_text_and_skip_the_unknown():
    texts = [[1, 2, 0, 3], [], [4], [5, 6, 7, 8, 9, 5, 6], [0, 0]]
    for run in draws_of(texts, 10).one_pass():
        assert run.words.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6]  # threshold 1: every known word is read
        assert run.places.tolist() == [0, 1, 3, *range(4, 12)]
        begins, ends = np.repeat([0, 3, 4], [3, 1, 7]), np.repeat([3, 4, 11], [3, 1, 7])
        own = np.arange(11)
        assert (own - run.before >= begins).all()
        assert (own + run.after < ends).all()
        assert run.before[3] == run.after[3] == 0
        assert 0 not in run.negatives
        assert run.end == 14


def test_window_widths_are_even_and_frequent_words_are_read_less():
    run = next(draws_of([[1, 2] * 20_000], 3).one_pass())
    widths = np.bincount(run.before[10:], minlength=5)[1:] / len(run.before[10:])
    np.testing.assert_allclose(widths, 0.25, atol=0.01)
    run = next(draws_of([[1, 2] * 20_000], 3, subsampling=0.05).one_pass())
    assert abs(len(run.words) / 40_000 - (0.1**0.5 + 0.1)) < 0.011


def test_a_pass_is_cut_into_runs_even_inside_a_text(monkeypatch):
    texts = [[1, 2, 3], [4] * 25, [5] * 4, [6] * 7, [7]]
    monkeypatch.setattr(skipgram_draws, "RUN_WORDS", 10)
    runs = list(draws_of(texts, 8).one_pass())
    assert [len(run.words) for run in runs] == [3, 10, 10, 9, 8]
    np.testing.assert_array_equal(np.concatenate([run.words for run in runs]), Ragged.of(texts).values)
    assert [run.end for run in runs] == np.cumsum([3, 10, 10, 9, 8]).tolist()


def test_draws_repeat_with_the_seed_alone():
    first, again, other = (draws_of([[1, 2, 3, 1, 2]] * 9, 4, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.uniform(3, 5), again.uniform(3, 5))
    assert np.abs(other.uniform(3, 5)).max() <= 0.5
    one, same, another = (next(draws.one_pass()).negatives.tolist() for draws in (first, again, other))
    assert one == same
    assert one != another


# ---- the whole -----------------------------------------------------------------------------------------------------


def topics(seed=0, texts=300):
    """Texts of words of one of two topics, 1 to 10 or 11 to 20."""
    random = np.random.default_rng(seed)
    return Ragged.of([random.integers(1, 11, 12) + 10 * random.integers(0, 2) for _ in range(texts)])


BACKENDS = [pytest.param("engine", marks=needs_engine), "torch"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_training_against_float64(backend):
    ids = topics(texts=12)
    found = train_word_vectors(ids, 22, 5, window=3, epochs=2, seed=3, scale=0.3, backend=backend)
    draws = Draws(ids, 22, window=3, negatives=5, subsampling=1e-4, seed=3)
    x, y = draws.uniform(22, 5).astype(np.float64) / 5, np.zeros((22, 5))
    total = len(ids.values)
    for epoch in range(2):
        for run in draws.one_pass():
            done = (epoch * total + run.places[::STEP_WORDS]) / (2 * total)
            rates = FIRST_RATE + (LAST_RATE - FIRST_RATE) * done
            x, y = reference(x, y, run.words, run.before, run.after, run.negatives, rates, STEP_WORDS)
    known = np.unique(ids.values)
    np.testing.assert_allclose(found[known], x[known] * 0.3 / x[known].std(), atol=CLOSE, rtol=0)
    assert not found[np.setdiff1d(np.arange(22), known)].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_words_of_a_topic_become_neighbours(backend):
    vectors = train_word_vectors(topics(), 21, 8, epochs=150, backend=backend)
    assert vectors.dtype == np.float32
    assert vectors[1:].std() == pytest.approx(0.3, rel=1e-5)
    assert not vectors[0].any()
    unit = vectors[1:] / np.linalg.norm(vectors[1:], axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -1)
    assert (likeness.argmax(axis=1) // 10 == np.arange(20) // 10).all()


@needs_engine
def test_equal_arguments_give_equal_bits():
    one = train_word_vectors(topics(), 21, 70, threads=1, backend="engine")
    np.testing.assert_array_equal(one, train_word_vectors(topics(), 21, 70, threads=3, backend="engine"))
    assert (one != train_word_vectors(topics(), 21, 70, seed=1)).any()


@pytest.mark.parametrize("texts", [[], [[]], [[0, 0]], [[3]], [[3, 3, 3], [0, 3]]])
def test_nothing_to_learn_from_gives_zeros(texts):
    assert not train_word_vectors(Ragged.of(texts), 5, 4).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_texts_of_one_word_leave_the_first_vectors(backend):
    vectors = train_word_vectors(Ragged.of([[1], [2], [], [3]]), 4, 6, backend=backend)
    first = Draws(Ragged.of([[1]]), 4, window=1, negatives=1, subsampling=1.0, seed=0).uniform(4, 6)[1:]
    np.testing.assert_allclose(vectors[1:], first * (0.3 / first.std()), rtol=1e-5)


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ([[1, 5]], {}, "below 5, got 5 at step 1"),
        ([[1], [2, -1]], {}, "got -1 at step 2"),
        ([[1, 2]], {"size": 0}, "size of word vectors must be 1 to 65536, got 0"),
        ([[1, 2]], {"window": 0}, "window"),
        ([[1, 2]], {"epochs": 0}, "epochs"),
    ],
)
def test_bad_arguments_are_named(texts, settings, message):
    with pytest.raises(ShapeError, match=message):
        train_word_vectors(Ragged.of(texts), 5, **{"size": 4, **settings})
    with pytest.raises(UsageError, match="must be auto, engine or torch, got 'gensim'"):
        train_word_vectors(Ragged.of([[1, 2]]), 5, 4, backend="gensim")


def test_without_the_engine_torch_is_taken_and_said(monkeypatch):
    monkeypatch.setattr(skipgram, "missing", lambda: "not built")
    heard = []
    vectors = train_word_vectors(topics(texts=20), 21, 4, epochs=1, progress=heard.append)
    assert "learned by torch" in heard[0].text
    assert "not built" in heard[0].text
    np.testing.assert_array_equal(vectors, train_word_vectors(topics(texts=20), 21, 4, epochs=1, backend="torch"))
    with pytest.raises(UsageError, match="not built"):
        train_word_vectors(topics(texts=20), 21, 4, backend="engine")


def test_progress_comes_between_runs_and_can_end_the_work(monkeypatch):
    monkeypatch.setattr(skipgram_draws, "RUN_WORDS", 1000)
    heard = []
    train_word_vectors(topics(), 21, 4, epochs=2, progress=heard.append)
    advances = [event for event in heard if isinstance(event, events.PhaseAdvanced)]
    assert [event.done for event in advances] == sorted(event.done for event in advances)
    assert len(advances) == 8
    assert advances[-1].done == advances[-1].total == 2 * 300 * 12

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_word_vectors(topics(), 21, 4, progress=stop)


@pytest.mark.parametrize("mode", ["lines", "bar"])
def test_progress_is_shown(mode, monkeypatch):
    monkeypatch.setattr("bilstm.training.progress._QUIET_SECONDS", 0.0)
    stream = io.StringIO()
    with ProgressPrinter(mode, stream) as show:
        show(events.PhaseStarted("word vectors"))
        for done in (10, 40, 75):
            show(events.PhaseAdvanced("word vectors", done, 100, "words"))
        show(events.PhaseDone("word vectors", 2.0))
    lines = stream.getvalue()
    assert "word vectors: 2.0 s" in lines
    if mode == "lines":
        assert "word vectors  10%  -:-- left" in lines
        assert "word vectors  75%  0:00 left" in lines


def test_vectors_are_remembered_within_the_block_only():
    heard = []
    settings = {"epochs": 1, "progress": heard.append}
    with remembered_word_vectors() as memory:
        first = train_word_vectors(topics(), 21, 4, **settings)
        spent, held = memory.seconds, first.copy()
        first += 1  # the caller's own copy
        heard.clear()
        again = train_word_vectors(topics(), 21, 4, **settings)
        np.testing.assert_array_equal(again, held)
        assert [type(event) for event in heard] == [events.Note]
        assert memory.seconds == spent > 0
        for change in ({"seed": 1}, {"epochs": 2}, {"scale": 0.1}, {"window": 2}):
            heard.clear()
            train_word_vectors(topics(), 21, 4, **{**settings, **change})
            assert not any(isinstance(event, events.Note) and "before" in event.text for event in heard)
    heard.clear()
    train_word_vectors(topics(), 21, 4, **settings)
    assert any(isinstance(event, events.PhaseAdvanced) for event in heard)
