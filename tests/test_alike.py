"""Groups of alike texts: against topics known beforehand, and links worked out without sparse matrices."""

import itertools
import math

import numpy as np
import pytest

from bilstm.data.alike import FEWEST_TEXTS, LEAST_COSINE, groups_of
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.tasks.text_classification import Config
from bilstm.tasks.text_parts import development_part

TOPICS, NAMES = 500, 6


def topical_words(texts, seed=0):
    """Return texts of frequent words with three of the six names of their topic among them, and the topics."""
    random = np.random.default_rng(seed)
    topics = random.integers(TOPICS, size=texts)
    common = random.integers(30, size=(texts, 12))
    names = 30 + topics[:, None] * NAMES + np.array([random.permutation(NAMES)[:3] for _ in range(texts)])
    return Ragged.of(np.concatenate([common, names], axis=1)), topics


def linked_pairs(words):
    """Return the pairs whose rare words have a cosine of at least `LEAST_COSINE`."""
    texts = [[word for word in words[row].tolist() if word >= 0] for row in range(len(words))]
    places = {}
    for row, text in enumerate(texts):
        for word in text:
            places.setdefault(word, set()).add(row)
    most = min(100, int(0.004 * len(texts)))
    weight = {word: math.log(len(texts) / len(rows)) for word, rows in places.items() if 2 <= len(rows) <= most}
    vectors = [{word: text.count(word) and weight[word] for word in set(text) if word in weight} for text in texts]
    lengths = [math.sqrt(sum(value**2 for value in vector.values())) for vector in vectors]
    pairs = set()
    for one, other in itertools.combinations(range(len(texts)), 2):
        shared = sum(vectors[one][word] * vectors[other][word] for word in vectors[one].keys() & vectors[other].keys())
        if shared and shared / (lengths[one] * lengths[other]) >= LEAST_COSINE:
            pairs.add((one, other))
    return pairs


def test_texts_of_a_topic_are_found():
    words, topics = topical_words(2_000)
    groups = groups_of(words, 0)
    assert sorted(set(groups.tolist())) == list(range(groups.max() + 1))
    purity = sum(np.bincount(topics[groups == group]).max() for group in range(groups.max() + 1)) / len(topics)
    whole = sum(np.bincount(groups[topics == topic]).max() for topic in range(TOPICS) if (topics == topic).any())
    assert purity > 0.98
    assert whole / len(topics) > 0.95  # a group of 2,000 texts takes eight members, and few topics have more
    np.testing.assert_array_equal(groups, groups_of(words, 0))


def test_members_of_a_group_hang_together_by_links():
    random = np.random.default_rng(1)
    words = Ragged.of([random.zipf(1.3, size=random.integers(0, 20)) % 4_000 - 1 for _ in range(700)])
    pairs = linked_pairs(words)
    assert pairs
    neighbours = {row: set() for row in range(len(words))}
    for one, other in pairs:
        neighbours[one].add(other)
        neighbours[other].add(one)
    groups = groups_of(words, 0)
    for row in range(len(words)):
        if not neighbours[row]:
            assert (groups == groups[row]).sum() == 1
    sizes = np.bincount(groups)
    assert sizes.max() > 1
    together = [row for row in range(len(words)) if sizes[groups[row]] > 1]
    assert np.mean([any(groups[other] == groups[row] for other in neighbours[row]) for row in together]) > 0.9


@pytest.mark.parametrize("texts", [[], [[]], [[-1], [-1, -1]], [[1, 2], [1, 2]]])
def test_few_texts_stand_alone(texts):
    assert groups_of(Ragged.of(texts), 0).tolist() == list(range(len(texts)))


@pytest.mark.parametrize("has_ids", [False, True])
def test_the_development_part_keeps_topics_apart(has_ids):
    words, topics = topical_words(FEWEST_TEXTS)
    texts = words if has_ids else [" ".join(f"w{word}x" for word in words[row]) for row in range(len(words))]
    labels, targets = LabelSet("binary", ("a", "b")), np.arange(len(words)) % 2

    def topics_on_both_sides(config, count=FEWEST_TEXTS):
        given = texts.select(np.arange(count)) if has_ids else texts[:count]
        train, dev, groups = development_part(given, targets[:count], labels, config, False)
        assert groups == 0 or len(set(topics[dev].tolist())) - 5 <= groups <= len(dev)
        assert len(dev) == count // 10
        assert targets[dev].mean() == pytest.approx(0.5, abs=0.01)
        np.testing.assert_array_equal(np.sort(np.concatenate([train, dev])), np.arange(count))
        return len(set(topics[train].tolist()) & set(topics[dev].tolist()))

    assert topics_on_both_sides(Config()) <= 5
    assert topics_on_both_sides(Config(dev_groups=False)) > 50
    assert topics_on_both_sides(Config(), FEWEST_TEXTS - 10) > 50
