"""Document vectors: steps against a plain float64 implementation, n-grams by hand, the whole on planted topics."""

import numpy as np
import pytest

from bilstm.data.ragged import Ragged
from bilstm.engine import document_vectors as engine
from bilstm.engine.library import Context
from bilstm.engine.report import kernels
from bilstm.engine.skipgram import aligned_table
from bilstm.errors import ShapeError, UsageError
from bilstm.training import document_vectors
from bilstm.training.document_vectors import DocumentTraining, train_document_vectors
from bilstm.training.frequent_ngrams import FrequentNgrams

needs_engine = pytest.mark.skipif(engine.missing() is not None, reason=f"no engine: {engine.missing()}")
KERNELS = [name for name in ("portable", "avx2", "avx512", "neon") if kernels()[name] is None]
# float32 steps on numbers of about the largest: some hundred sums of rounding errors of 6e-8
CLOSE = 5e-6


def reference(documents, ngrams, rows, offsets, items, negatives, rates, batch, *, sharpness, negative_weight):
    """The equations of csrc/bilstm_document_vectors.h, n-gram by n-gram in float64."""
    x_all, w_all = documents.astype(np.float64), ngrams.astype(np.float64)
    for step, rate in enumerate(rates.astype(np.float64)):
        changes = []
        for d in range(step * batch, min((step + 1) * batch, len(rows))):
            own_items, own_negatives = (part[offsets[d] : offsets[d + 1]] for part in (items, negatives))
            for first in range(0, len(own_items), 16):
                x = x_all[rows[d]].copy()
                x_hat = x / np.sqrt(x @ x + 1e-12)
                pairs = [(k, 1) for k in own_items[first : first + 16]]
                pairs += [(k, 0) for k in own_negatives[first : first + 16]]
                for k, is_item in pairs:
                    length = np.sqrt(w_all[k] @ w_all[k] + 1e-12)
                    cosine = w_all[k] @ x_hat / length
                    chance = 1 / (1 + np.exp(-sharpness * cosine))
                    error = rate * sharpness * (1 - chance if is_item else -negative_weight * chance)
                    x_all[rows[d]] += error * (w_all[k] / length - cosine * x_hat)
                    changes.append((k, error, x_hat, cosine / length))
        for k, error, x_hat, shrink in changes:
            w_all[k] += error * (x_hat - shrink * w_all[k])
    return x_all, w_all


def case(seed, texts, count, most_items, ngrams, size, batch):
    random = np.random.default_rng(seed)
    tables = aligned_table(texts, size), aligned_table(ngrams, size)
    for table in tables:
        table[:, :size] = random.normal(0, size**-0.5, (len(table), size))
    lengths = random.integers(0, most_items + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return (
        *tables,
        random.permutation(texts)[:count].astype(np.int64),
        offsets,
        random.integers(0, ngrams, offsets[-1]).astype(np.int32),
        random.integers(0, ngrams, offsets[-1]).astype(np.int32),
        random.uniform(0.01, 0.03, -(-count // batch)).astype(np.float32),
        batch,
    )


CASES = [  # texts, documents, most items of one, n-grams, size, documents of a batch
    (7, 7, 40, 30, 3, 3),
    (20, 9, 70, 500, 100, 4),
    (5, 5, 17, 200, 256, 5),
    (3, 3, 100, 1, 16, 1),
    (4, 4, 0, 5, 20, 2),
    (6, 0, 5, 5, 20, 2),
]
SETTINGS = [(6.0, 5.0), (1.5, 0.5), (40.0, 0.0)]


@needs_engine
@pytest.mark.parametrize(("sharpness", "negative_weight"), SETTINGS)
@pytest.mark.parametrize("numbers", CASES)
def test_steps_against_float64(numbers, sharpness, negative_weight):
    arguments = case(1, *numbers)
    x, w = reference(*arguments, sharpness=sharpness, negative_weight=negative_weight)
    engine.run(*arguments, sharpness=sharpness, negative_weight=negative_weight)
    for found, right in zip(arguments[:2], (x, w), strict=True):
        np.testing.assert_allclose(found, right, atol=CLOSE * max(1, np.abs(right).max(initial=0)), rtol=0)


@needs_engine
@pytest.mark.parametrize("numbers", CASES)
def test_same_bits_for_every_kernel_and_number_of_threads(numbers):
    found = set()
    for kernel in KERNELS:
        for threads in (1, 2, 3):
            arguments = case(2, *numbers)
            engine.run(*arguments, kernel=kernel, context=Context(threads))
            found.add(arguments[0].tobytes() + arguments[1].tobytes())
    assert len(found) == 1


@needs_engine
def test_order_of_documents_in_a_batch():
    def arguments_in(order):
        arguments = list(case(3, 12, 12, 60, 900, 50, 12))
        # every n-gram once: those that get several changes get them in the order of the documents
        count = len(arguments[4])
        arguments[4], arguments[5] = (
            np.random.default_rng(4).permutation(900)[: 2 * count].astype(np.int32).reshape(2, -1)
        )
        items, negatives = (Ragged(arguments[place], arguments[3]).select(order) for place in (4, 5))
        return [*arguments[:2], arguments[2][order], items.offsets, items.values, negatives.values, *arguments[6:]]

    first, second = arguments_in(np.arange(12)), arguments_in(np.random.default_rng(0).permutation(12))
    for arguments in (first, second):
        engine.run(*arguments)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@needs_engine
def test_a_batch_sees_the_ngrams_as_they_were():
    numbers = (12, 12, 60, 40, 50, 12)
    first = case(3, *numbers)
    engine.run(*first)
    # with one document a batch the later ones see what the earlier ones changed
    alone = case(3, *numbers)
    engine.run(*alone[:6], np.full(12, alone[6][0], dtype=np.float32), 1)
    is_first = np.arange(12) == alone[2][0]
    np.testing.assert_array_equal(alone[0][is_first], first[0][is_first])
    assert np.abs(alone[0] - first[0]).max() > 100 * CLOSE


@needs_engine
def test_zero_vectors_stay_finite():
    arguments = case(4, *CASES[1])
    arguments[0][:] = 0
    arguments[1][:40] = 0
    x, w = reference(*arguments, sharpness=6.0, negative_weight=5.0)
    engine.run(*arguments)
    for found, right in zip(arguments[:2], (x, w), strict=True):
        np.testing.assert_allclose(found, right, atol=CLOSE * max(1, np.abs(right).max()), rtol=CLOSE)


REFUSED = [
    (2, lambda rows: rows.put(1, 20), r"rows\[1\] = 20 is outside 0 to 19"),
    (2, lambda rows: rows.put(0, -1), r"rows\[0\] = -1 is outside"),
    (2, lambda rows: rows.put(1, rows[0]), r"row \d+ stands twice in the batch of document 0"),
    (3, lambda offsets: offsets.put(0, 1), r"offsets must go from 0 to \d+, got 1 to"),
    (3, lambda offsets: offsets.put(9, 2), r"offsets must go from 0 to \d+, got 0 to 2"),
    (3, lambda offsets: offsets.put(1, offsets[-1] + 1), r"offsets\[2\] = \d+ is below the one before"),
    (4, lambda items: items.put(0, 500), r"items\[0\] = 500 is outside 0 to 499"),
    (5, lambda negatives: negatives.put(3, -1), r"negatives\[3\] = -1 is outside"),
    (6, lambda rates: rates.put(1, 1.5), r"rates\[1\] = 1.5 is outside 0 to 1"),
    (6, lambda rates: rates.put(2, np.nan), r"rates\[2\] = nan is outside"),
]


@needs_engine
@pytest.mark.parametrize(("position", "change", "message"), REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(position, change, message):
    arguments = case(3, *CASES[1])
    held = arguments[0].copy(), arguments[1].copy()
    change(arguments[position])
    with pytest.raises(ShapeError, match=message):
        engine.run(*arguments)
    np.testing.assert_array_equal(arguments[0], held[0])
    np.testing.assert_array_equal(arguments[1], held[1])


@needs_engine
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sharpness": 0.0}, "sharpness must be above 0, at most 40, got 0"),
        ({"sharpness": 41.0}, "sharpness must be above 0"),
        ({"sharpness": float("nan")}, "sharpness must be above 0"),
        ({"negative_weight": -1.0}, "negative_weight must be 0 to 1000, got -1"),
        ({"negative_weight": float("inf")}, "negative_weight must be 0 to 1000"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ShapeError, match=message):
        engine.run(*case(3, *CASES[1]), **settings)


@needs_engine
def test_arrays_of_a_wrong_kind_are_refused():
    arguments = list(case(3, *CASES[1]))
    read_only = arguments[0].copy()
    read_only.flags.writeable = False
    for position, wrong, message in (
        (0, arguments[0][:, ::2], "documents must be a dense array"),
        (0, read_only, "documents must be writeable"),
        (0, arguments[0][0], "must have two axes"),
        (1, arguments[1][:, :96].copy(), "ngrams must be a dense array"),
        (1, arguments[0], "documents and ngrams must not overlap"),
        (2, arguments[2].astype(np.int32), "rows must be a dense array"),
        (3, arguments[3][:-1], "offsets must be a dense array"),
        (4, arguments[4].astype(np.int64), "items must be a dense array"),
        (5, arguments[5][:-1], "negatives must be a dense array"),
        (6, arguments[6][:-1], "rates must be a dense array"),
        (7, 0, "batch must be at least 1"),
        (7, 5000, "batch must be 1 to 4096|rates must be"),
    ):
        with pytest.raises(ShapeError, match=message):
            engine.run(*arguments[:position], wrong, *arguments[position + 1 :])
    odd = [np.zeros((len(table), 20), dtype=np.float32) for table in arguments[:2]]
    with pytest.raises(ShapeError, match="stride must be a multiple of 16"):
        engine.run(*odd, *arguments[2:])
    with pytest.raises(UsageError, match=r"it does not compute in float32|not built into|this processor lacks"):
        engine.run(*arguments, kernel="amx")
    with pytest.raises(UsageError, match="kernel must be one of"):
        engine.run(*arguments, kernel="sse")


# ---- training ------------------------------------------------------------------------------------------------------


def topics(seed, texts=60, length=40):
    """Texts of two topics: half of the words are of a common stock, half of the topic's own; -> texts, topics."""
    random = np.random.default_rng(seed)
    of_topic = np.arange(texts) % 2
    own = 101 + 100 * of_topic[:, None] + random.integers(0, 100, (texts, length))
    words = np.where(random.random((texts, length)) < 0.5, own, 1 + random.integers(0, 100, (texts, length)))
    return Ragged.of(list(words)), of_topic


@needs_engine
def test_texts_of_a_topic_lie_near_each_other():
    texts, of_topic = topics(1)
    vectors = train_document_vectors(texts, size=32, epochs=20, seed=1).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    centred = vectors - vectors.mean(axis=0)  # what all texts share says nothing of topics
    cosines = centred @ centred.T / np.outer(*2 * [np.linalg.norm(centred, axis=1)])
    np.fill_diagonal(cosines, -1)
    nearest = cosines.argmax(axis=1)
    assert (of_topic[nearest] == of_topic).mean() > 0.9
    # the same words dealt out anew over all texts: nothing is left to find, so that the check above can fail
    shuffled = texts.with_values(np.random.default_rng(2).permutation(texts.values))
    vectors = train_document_vectors(shuffled, size=32, epochs=20, seed=1).astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    cosines = centred @ centred.T / np.outer(*2 * [np.linalg.norm(centred, axis=1)])
    np.fill_diagonal(cosines, -1)
    assert (of_topic[cosines.argmax(axis=1)] == of_topic).mean() < 0.75


@needs_engine
def test_seeds_and_threads():
    texts, _ = topics(2)
    first = train_document_vectors(texts, size=20, epochs=2, seed=3)
    assert first.shape == (60, 20)
    assert first.dtype == np.float32
    for threads in (1, 3):
        again = train_document_vectors(texts, size=20, epochs=2, seed=3, threads=threads)
        assert again.tobytes() == first.tobytes()
    assert np.abs(train_document_vectors(texts, size=20, epochs=2, seed=4) - first).max() > 0.1


@needs_engine
def test_unknown_words_and_empty_texts():
    texts = Ragged.of([[1, 2, 3, 1], [], [0, 0], [1, 2, 3], [9, 0, 8], [2, 1, 0, 3]])
    vectors = train_document_vectors(texts, size=8, epochs=3)  # 8 and 9 stand once
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, [1, 0, 0, 1, 0, 1], atol=1e-6)
    for nothing in ([], [[]], [[0], [0, 0]], [[1, 2, 3]]):
        vectors = train_document_vectors(Ragged.of(nothing), size=8)
        np.testing.assert_array_equal(vectors, np.zeros((len(nothing), 8), dtype=np.float32))


@needs_engine
def test_chunks_and_progress(monkeypatch):
    texts, _ = topics(3)
    monkeypatch.setattr(document_vectors, "CHUNK_ITEMS", 500)
    calls, told = [], []
    original = engine.run

    def run(*arguments, **settings):
        calls.append(arguments)
        original(*arguments, **settings)

    monkeypatch.setattr(engine, "run", run)
    train_document_vectors(texts, size=8, epochs=2, rate=0.02, progress=told.append)
    assert len(calls) == len(told) > 4
    for epoch in range(2):
        rows = [arguments[2] for arguments, event in zip(calls, told, strict=True) if (event.done - 1) // 60 == epoch]
        assert sorted(np.concatenate(rows)) == list(range(60))
    assert [event.done for event in told] == np.cumsum([len(arguments[2]) for arguments in calls]).tolist()
    assert {(event.name, event.total, event.unit) for event in told} == {("document vectors", 120, "texts")}
    rates = np.concatenate([arguments[6] for arguments in calls])
    assert rates[0] == np.float32(0.02)
    assert (np.diff(rates) < 0).all()
    assert 0 < rates[-1] <= 0.02 * 32 / 120  # the last batch has at most 32 of 2 x 60 texts


@pytest.mark.parametrize("is_told", [False, True])
def test_draws_follow_their_laws(monkeypatch, is_told):
    monkeypatch.setattr(document_vectors, "SUBSAMPLING_MEANS", 0.5)
    random = np.random.default_rng(5)
    items = random.choice(5, size=40_000, p=[0.5, 0.3, 0.1, 0.06, 0.04]).astype(np.int32)
    counts = np.bincount(items)
    telling = None if not is_told else np.array([0.2, 1.0, 0.5, 1.0, 0.001])
    found = FrequentNgrams(Ragged(items, np.arange(0, 40_001, 20)), counts)
    draws = document_vectors._Draws(found, telling, seed=1)
    chunks = list(draws.one_pass())
    assert chunks[-1].share == 1
    read, negatives = (np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("items", "negatives"))
    shares = counts / counts.sum()
    keep = np.minimum(1, np.sqrt(0.1 / shares))  # t is half the mean share of five n-grams
    if is_told:
        keep *= telling
    # five standard deviations of a binomial
    slack = 5 * np.sqrt(counts * keep * (1 - keep)) + 1e-9
    assert (np.abs(np.bincount(read, minlength=5) - counts * keep) <= slack).all()
    noise = (counts * keep) ** 0.75
    expected = noise / noise.sum() * len(read)
    assert (np.abs(np.bincount(negatives, minlength=5) - expected) <= 5 * np.sqrt(expected)).all()
    own = [set(range(row * 20, row * 20 + 20)) for row in chunks[0].rows[:3]]
    for d, places in enumerate(own):  # what is read of a text is part of it
        part = chunks[0].items[chunks[0].offsets[d] : chunks[0].offsets[d + 1]]
        assert (np.bincount(part, minlength=5) <= np.bincount(items[sorted(places)], minlength=5)).all()


def test_ngrams_that_tell_classes_apart_are_read():
    # texts of class 0: twice {0, 1}, of class 1: {0, 2}; an n-gram that stands twice in a text counts once
    items = Ragged.of([[0, 1, 1], [1, 0], [2, 0], [3, 3]])
    found = FrequentNgrams(items, np.array([3, 3, 1, 2]))
    shares = document_vectors._telling_shares(found, np.array([0, 0, 1]))
    # with one added: class 0 has (3, 3, 1, 1) of 8, class 1 (2, 1, 2, 1) of 6
    ratios = np.log([(3 / 8) / (2 / 6), (3 / 8) / (1 / 6), (1 / 8) / (2 / 6), (1 / 8) / (1 / 6)])
    np.testing.assert_allclose(shares, np.minimum(ratios**2, 1))
    assert (shares < 1).any()
    assert (shares == 1).any() or abs(ratios).max() < 1
    # of three classes: the class that it tells from both others counts
    three = document_vectors._telling_shares(found, np.array([0, 2, 1, 1]))
    of_class = np.array([[2, 2, 1, 1], [2, 1, 2, 2], [2, 2, 1, 1]])
    rest = np.array([[3, 2, 2, 2], [3, 3, 1, 1], [3, 2, 2, 2]])
    wanted = np.abs(np.log(of_class / of_class.sum(1)[:, None]) - np.log(rest / rest.sum(1)[:, None])).max(axis=0)
    np.testing.assert_allclose(three, np.clip(wanted**2, 0.001, 1))
    # a number that no text has is no class
    np.testing.assert_array_equal(document_vectors._telling_shares(found, np.array([0, 7, 3, 3])), three)
    nothing = FrequentNgrams(Ragged.of([[], []]).with_values(np.zeros(0, dtype=np.int32)), np.zeros(0, dtype=np.int64))
    assert len(document_vectors._telling_shares(nothing, np.array([0, 1]))) == 0
    alike = document_vectors._telling_shares(FrequentNgrams(Ragged.of([[0], [0]]), np.array([2])), np.array([0, 1]))
    np.testing.assert_array_equal(alike, [0.001])
    for wrong in ([0, 0, 0], [0, -1], [0, 1, 0, 1, 0]):
        with pytest.raises(ShapeError, match="targets must be"):
            document_vectors._telling_shares(found, np.array(wrong))


@needs_engine
def test_labels_say_which_ngrams_are_read():
    """Two traits of each text, each half of its words: only the one that the labels name is to be found."""
    random = np.random.default_rng(6)
    traits = random.integers(0, 2, (300, 2))
    words = 1 + 40 * (2 * np.arange(2)[None, :, None] + traits[:, :, None]) + random.integers(0, 40, (300, 2, 15))
    texts = Ragged.of([random.permutation(row.ravel()) for row in words])

    def found(targets):
        vectors = train_document_vectors(texts, targets, size=16, epochs=20, seed=1).astype(np.float64)
        rest = vectors[150:] - vectors[:150].mean(axis=0)
        sides = [vectors[:150][traits[:150, trait] == 1].mean(axis=0) for trait in (0, 1)]
        sides = [side - vectors[:150][traits[:150, trait] == 0].mean(axis=0) for trait, side in enumerate(sides)]
        return [((rest @ side > 0) == (traits[150:, trait] == 1)).mean() for trait, side in enumerate(sides)]

    both = found(None)
    assert min(both) > 0.8
    told = found(traits[:150, 1])
    assert told[1] > 0.95
    assert told[0] < both[0] - 0.1


@needs_engine
def test_time_of_a_pass_is_measured_without_touching_what_is_learned(monkeypatch):
    monkeypatch.setattr(document_vectors, "CHUNK_ITEMS", 500)
    texts, of_topic = topics(5)
    right = train_document_vectors(texts, of_topic, size=8, epochs=2)
    training = DocumentTraining(texts, of_topic, size=8)
    assert 0 < training.seconds_a_pass() < 60
    assert training.run(2).tobytes() == right.tobytes() == training.run(2).tobytes()
    monkeypatch.setattr(document_vectors, "CHUNK_ITEMS", 10**9)  # one chunk is all
    assert 0 < DocumentTraining(texts, size=8).seconds_a_pass() < 60
    assert DocumentTraining(Ragged.of([[1, 2, 3]]), size=8).seconds_a_pass() == 0


@needs_engine
def test_settings_of_the_training_are_checked(monkeypatch):
    texts, _ = topics(4)
    for settings, message in (
        ({"size": 0}, "size of document vectors must be 1 to 65536, got 0"),
        ({"epochs": 0}, "epochs of document vectors must be 1 to"),
        ({"rate": 0.0}, "rate of document vectors must be above 0"),
        ({"rate": 1.5}, "rate of document vectors must be above 0"),
        ({"targets": np.array([1, 1])}, "targets must be of two classes"),
    ):
        with pytest.raises(ShapeError, match=message):
            train_document_vectors(texts, **settings)
    monkeypatch.setattr(engine, "missing", lambda: "not built")
    with pytest.raises(UsageError, match="The engine cannot train document vectors: not built"):
        train_document_vectors(texts)


@needs_engine
def test_interrupted_by_a_listener():
    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_document_vectors(topics(1)[0], size=8, progress=stop)
