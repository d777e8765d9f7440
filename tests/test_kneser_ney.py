"""The n-gram model of the language model's benchmark: sums to one, and equals the formula written with dictionaries."""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from bilstm.data.ragged import Ragged

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")
WORDS, END = 6, 6


@pytest.fixture(scope="module")
def kneser_ney():
    sys.path.insert(0, BENCHMARKS)
    try:
        import kneser_ney
    finally:
        sys.path.remove(BENCHMARKS)
    return kneser_ney


@pytest.fixture(scope="module")
def texts():
    random = np.random.default_rng(0)
    return Ragged.of(
        [random.choice(WORDS - 1, size=random.integers(1, 9), p=[0.4, 0.3, 0.15, 0.1, 0.05]) for _ in range(60)]
    )


def by_dictionaries(texts, order):
    """The model of Chen and Goodman (section 3.3) as a recursive function of a context and a word."""
    runs = [tuple([END] * (order - 1) + list(texts[row]) + [END]) for row in range(len(texts))]
    tables = {}
    for n in range(1, order + 1):
        counts = Counter()
        before = defaultdict(set)
        for run in runs:
            for at in range(order - 1, len(run)):
                gram = run[at - n + 1 : at + 1]
                counts[gram] += 1
                if n < order:
                    before[gram].add(run[at - n])
        if n < order:
            counts = {g: c if n > 1 and g[0] == END else len(before[g]) for g, c in counts.items()}
        many = [sum(1 for c in counts.values() if c == k) or 1e-9 for k in (1, 2, 3, 4)]
        y = many[0] / (many[0] + 2 * many[1])
        cut = [0, *(min(max(k - (k + 1) * y * many[k] / many[k - 1], 0), k) for k in (1, 2, 3))]
        tables[n] = counts, cut

    def probability(context, word):
        if not context and word is None:
            return 1 / (WORDS + 1)
        n = len(context) + 1
        counts, cut = tables[n]
        inside = {g: c for g, c in counts.items() if g[:-1] == context}
        lower = probability(context[1:], word) if context else 1 / (WORDS + 1)
        if not sum(inside.values()):
            return lower
        count = inside.get((*context, word), 0)
        held = sum(cut[min(c, 3)] for c in inside.values())
        return (max(count - cut[min(count, 3)], 0) + held * lower) / sum(inside.values())

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_it_is_the_formula(kneser_ney, texts, order):
    model = kneser_ney.KneserNey(texts, WORDS, order)
    probability = by_dictionaries(texts, order)
    new = Ragged.of([[0, 1, 2, 5, 0, 1], [4], [3, 3, 3, 3]])
    found = np.exp(model.log_probabilities(new))
    wanted = []
    for row in range(len(new)):
        run = [END] * (order - 1) + list(new[row]) + [END]
        wanted += [probability(tuple(run[at - order + 1 : at]), run[at]) for at in range(order - 1, len(run))]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_it_sums_to_one_after_every_context(kneser_ney, texts):
    model = kneser_ney.KneserNey(texts, WORDS, 3)
    for context in ([0], [0, 1], [5], [5, 5], [2, 0, 0], [4, 4]):
        every = Ragged.of([[*context, word] for word in range(WORDS)])
        found = np.exp(model.log_probabilities(every)).reshape(WORDS, len(context) + 2)
        ended = np.exp(model.log_probabilities(Ragged.of([context])))[-1]
        assert found[:, len(context)].sum() + ended == pytest.approx(1.0, abs=1e-12)


def test_longer_contexts_help_on_text_that_repeats(kneser_ney):
    texts = Ragged.of([[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]] * 5 + [[3, 2, 1, 0]] * 5)
    by_order = [kneser_ney.KneserNey(texts, WORDS, order).perplexity(texts) for order in (1, 2, 3)]
    assert by_order == sorted(by_order, reverse=True)
