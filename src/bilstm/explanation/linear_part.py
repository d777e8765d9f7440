"""What the words add to the joined linear n-gram models, exactly: a sum over n-grams has an exact explanation.

The joined score is a * network + sum_k b_k * margin_k + c (`evaluation.joining`). A margin is the sum over the n-grams
of a text of weight * value; the share of an n-gram is spread evenly over its places and its words, so that the words'
shares add up to the margin less its intercept. Leaving words out is not linear where values are TF-IDF (the length of
the text changes), so occlusion recomputes the margin from the few n-grams that come and go. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.runtime.ngram_linear import LinearHead, NgramLinear

__all__ = ["Occurrences", "margins_without", "occurrences_of", "phrase_values", "word_shares"]


class Occurrences(NamedTuple):
    """The known n-grams of one text.

    starts, orders : ndarray of shape (n-grams found,)
        First word of each, and how many words it has.
    features : ndarray of shape (n-grams found,)
        Numbers counted through all orders.
    """

    starts: np.ndarray
    orders: np.ndarray
    features: np.ndarray


def occurrences_of(linear: NgramLinear, words: Sequence[str]) -> Occurrences:
    """Find the known n-grams of a text."""
    return _occurrences(linear, linear.numbers_of([words]))


def _occurrences(linear: NgramLinear, numbers: Ragged) -> Occurrences:
    starts, orders, features, before = [], [], [], 0
    for order, (_, found, size) in enumerate(linear.index.occurrences_of_numbers(numbers), start=1):
        places = np.flatnonzero(found >= 0)
        starts.append(places)
        orders.append(np.full(len(places), order))
        features.append(found[places] + before)
        before += size
    return Occurrences(np.concatenate(starts), np.concatenate(orders), np.concatenate(features))


def word_shares(linear: NgramLinear, weights: Sequence[float], words: Sequence[str]) -> np.ndarray:
    """Spread the weighted margins of a text over its words.

    Parameters
    ----------
    linear : NgramLinear
    weights : sequence of float
        b of each linear model in the joined score.
    words : sequence of str

    Returns
    -------
    ndarray of shape (words, outputs), float64
        Its sum over the words, with the weighted intercepts added, is the weighted margin.
    """
    found = occurrences_of(linear, words)
    shares = np.zeros((len(words), linear.heads[0].weights.shape[0]))
    different, inverse, counts = np.unique(found.features, return_inverse=True, return_counts=True)
    for head, weight in zip(linear.heads, weights, strict=True):
        if weight == 0.0:
            continue
        values = _values(head, different, counts)  # 0 for n-grams that this head does not read
        per_place = weight * values / counts  # an n-gram that stands three times gives a third to each place
        read = np.flatnonzero(found.features < head.weights.shape[1])
        part = head.weights[:, found.features[read]].T * (per_place[inverse[read]] / found.orders[read])[:, None]
        for offset in range(head.order):
            inside = found.orders[read] > offset
            np.add.at(shares, found.starts[read][inside] + offset, part[inside])
    return shares


def phrase_values(linear: NgramLinear, weights: Sequence[float], found: Occurrences, cuts: np.ndarray) -> np.ndarray:
    """Return what runs of words add through the linear models: their n-grams that stand wholly inside.

    Parameters
    ----------
    found : Occurrences
        Of the text.
    cuts : ndarray of shape (runs, 2), int64

    Returns
    -------
    ndarray of shape (runs, outputs), float64
        For the run that is the whole text the weighted margin less its intercepts.
    """
    different, inverse, counts = np.unique(found.features, return_inverse=True, return_counts=True)
    of_place = np.zeros((len(found.features), linear.heads[0].weights.shape[0]))
    for head, weight in zip(linear.heads, weights, strict=True):
        if weight != 0.0:
            read = np.flatnonzero(found.features < head.weights.shape[1])
            per_place = weight * _values(head, different, counts) / counts
            of_place[read] += head.weights[:, found.features[read]].T * per_place[inverse[read]][:, None]
    result = np.zeros((len(cuts), of_place.shape[1]))
    ends = found.starts + found.orders
    for row, (start, end) in enumerate(cuts.tolist()):
        result[row] = of_place[(found.starts >= start) & (ends <= end)].sum(axis=0)
    return result


def _values(head: LinearHead, features: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the value of each different n-gram of one text, as `LinearHead.margins` does."""
    is_read = features < head.weights.shape[1]
    values = np.zeros(len(features))
    if head.inverse_frequency is None:
        values[is_read] = 1.0
        return values
    values[is_read] = (1 + np.log(counts[is_read])) * head.inverse_frequency[features[is_read]]
    length = np.sqrt(np.sum(values * values))
    return values / length if length else values


def margins_without(
    linear: NgramLinear, weights: Sequence[float], words: Sequence[str], cuts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted margins of a text, and of the text without each of some runs of words.

    Parameters
    ----------
    words : sequence of str
    cuts : ndarray of shape (cuts, 2), int64
        First word left out, and the first one kept again.

    Returns
    -------
    whole : ndarray of shape (outputs,), float64
    without : ndarray of shape (cuts, outputs), float64
    """
    numbers = linear.numbers_of([words])
    found = _occurrences(linear, numbers)
    lost = _lost(found, cuts)
    gained = _gained(linear, numbers.values, cuts)
    rows = np.concatenate([lost[0], gained[0]])
    features = np.concatenate([lost[1], gained[1]])
    signs = np.concatenate([np.full(len(lost[0]), -1), np.full(len(gained[0]), 1)])
    size = sum(linear.index.sizes)
    keys, inverse = np.unique(rows * size + features, return_inverse=True)
    change = np.bincount(inverse, signs, minlength=len(keys)).astype(np.int64)
    rows, features = np.divmod(keys, max(size, 1))
    different, counts = np.unique(found.features, return_counts=True)
    before = _counts_of(features, different, counts)
    whole = np.zeros(linear.heads[0].weights.shape[0])
    without = np.zeros((len(cuts), len(whole)))
    for head, weight in zip(linear.heads, weights, strict=True):
        if weight == 0.0:
            continue
        margin, margins = _head_without(head, different, counts, rows, features, before, before + change, len(cuts))
        whole += weight * margin
        without += weight * margins
    return whole, without


def _lost(found: Occurrences, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (cut, n-gram) for each n-gram that a cut destroys: those that share a word with it."""
    order = np.argsort(found.starts, kind="stable")
    starts, ends, features = found.starts[order], (found.starts + found.orders)[order], found.features[order]
    longest = int(found.orders.max(initial=1))
    first = np.searchsorted(starts, cuts[:, 0] - longest + 1)
    last = np.searchsorted(starts, cuts[:, 1])
    rows, places = _ranges(first, last)
    touches = ends[places] > cuts[rows, 0]
    return rows[touches], features[places[touches]]


def _gained(linear: NgramLinear, numbers: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (cut, n-gram) for each n-gram that a cut makes: those over the seam; `numbers` of the words."""
    reach = linear.index.max_order - 1
    if reach == 0 or not len(cuts):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    row, places = _ranges(np.maximum(cuts[:, 0] - reach, 0), np.minimum(cuts[:, 1] + reach, len(numbers)))
    kept = (places < cuts[row, 0]) | (places >= cuts[row, 1])
    begins = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=len(cuts)))])
    around = Ragged(numbers[places[kept]], begins)  # the words near each cut, without it
    seams = np.minimum(cuts[:, 0], reach)  # words before the seam
    rows, features, before = [], [], 0
    for order, (row, found, size) in enumerate(linear.index.occurrences_of_numbers(around), start=1):
        places = np.flatnonzero(found >= 0)
        start = places - begins[row[places]]
        over = (start < seams[row[places]]) & (start + order > seams[row[places]])
        rows.append(row[places[over]])
        features.append(found[places[over]] + before)
        before += size
    return np.concatenate(rows), np.concatenate(features)


def _ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (row, number) for every number of every half-open range."""
    lengths = np.maximum(last - first, 0)
    rows = np.repeat(np.arange(len(first)), lengths)
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, first[rows] + within


def _counts_of(features: np.ndarray, different: np.ndarray, counts: np.ndarray) -> np.ndarray:
    if not len(different):
        return np.zeros(len(features), dtype=np.int64)
    places = np.minimum(np.searchsorted(different, features), len(different) - 1)
    return np.where(different[places] == features, counts[places], 0)


def _head_without(
    head: LinearHead,
    different: np.ndarray,
    counts: np.ndarray,
    rows: np.ndarray,
    features: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    cuts: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the margins of one head: of the whole text, and of each cut by what it changes."""
    reads = different < head.weights.shape[1]
    is_read = features < head.weights.shape[1]
    different, counts = different[reads], counts[reads]
    rows, features, before, after = rows[is_read], features[is_read], before[is_read], after[is_read]
    values, old, new = (_raw(head, *pair) for pair in ((different, counts), (features, before), (features, after)))
    sums = head.weights[:, different].astype(np.float64) @ values
    changed = [np.bincount(rows, (new - old) * row[features], minlength=cuts) for row in head.weights]
    margins = sums + np.stack(changed, axis=1)
    if head.inverse_frequency is None:
        return sums + head.intercepts, margins + head.intercepts
    square = float(values @ values)
    squares = square + np.bincount(rows, new * new - old * old, minlength=cuts)
    # a text whose last known n-gram goes has length 0 up to rounding, and only its intercept
    length = np.sqrt(np.where(squares > 1e-9 * max(square, 1.0), squares, np.inf))
    whole = sums / np.sqrt(square) if square else np.zeros_like(sums)
    return whole + head.intercepts, margins / length[:, None] + head.intercepts


def _raw(head: LinearHead, features: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return values before the division by the length of the text; 0 where the count is 0."""
    if head.inverse_frequency is None:
        return (counts > 0).astype(np.float64)
    return np.where(counts > 0, (1 + np.log(np.maximum(counts, 1))) * head.inverse_frequency[features], 0.0)
