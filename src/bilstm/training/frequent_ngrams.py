"""Runs of one to three words that stand often enough in some texts, and where they stand.

Place in the way of the data: Ragged of word ids -> Ragged of n-gram numbers -> vectors of the texts
(`bilstm.training.document_vectors`). Imports numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm.data.ragged import Ragged, check_offsets
from bilstm.errors import ShapeError

__all__ = ["FrequentNgrams", "frequent_ngrams"]


@dataclass(frozen=True)
class FrequentNgrams:
    """Frequent n-grams of some texts.

    Parameters
    ----------
    items : Ragged of int32
        For each text the n-grams that stand in it, each as often as it does, by their first word and then by length.
    counts : ndarray of shape (ngrams,), int64
        How often each stands in all texts. One-word n-grams are numbered first, by word id, then pairs, then triples.
    """

    items: Ragged
    counts: np.ndarray


def frequent_ngrams(texts: Ragged, needed: int) -> FrequentNgrams:
    """Find the n-grams of one to three words that stand at least `needed` times.

    Needs about 60 bytes of memory for each word of the texts while it runs.

    Parameters
    ----------
    texts : Ragged of int64
        Word ids, at least 0; 0 is the unknown word, which no n-gram contains. N-grams do not reach over texts.
    needed : int
        At least 1.

    Returns
    -------
    FrequentNgrams

    Raises
    ------
    ShapeError
        For offsets that do not fit and ids below 0.
    """
    values, offsets = np.asarray(texts.values), np.asarray(texts.offsets)
    check_offsets(offsets, len(values))
    if len(values) and values.min() < 0:
        wrong = int(np.flatnonzero(values < 0)[0])
        raise ShapeError(f"word ids must be at least 0, got {values[wrong]} at step {wrong}.")
    is_inside = np.ones(len(values), dtype=bool)  # the next word is of the same text
    is_inside[offsets[1:][np.diff(offsets) > 0] - 1] = False
    words, word_count = _number(values, values > 0, needed)
    width = max(word_count, 1)
    keys = np.full(len(values), -1, dtype=np.int64)
    keys[:-1] = words[:-1].astype(np.int64) * width + words[1:]
    pairs, pair_count = _number(keys, is_inside & (words >= 0) & _moved(words >= 0, 1), needed)
    keys[:-2] = pairs[:-2].astype(np.int64) * width + words[2:]
    triples, triple_count = _number(keys, (pairs >= 0) & _moved(pairs >= 0, 1), needed)
    pairs[pairs >= 0] += word_count
    triples[triples >= 0] += word_count + pair_count
    places = np.stack([words, pairs, triples], axis=1)  # (words of all texts, 3)
    ends = np.concatenate([[0], np.cumsum((places >= 0).sum(axis=1))])
    items = places[places >= 0]
    counts = np.bincount(items, minlength=word_count + pair_count + triple_count)
    return FrequentNgrams(Ragged(items, ends[offsets]), counts)


def _number(keys: np.ndarray, is_valid: np.ndarray, needed: int) -> tuple[np.ndarray, int]:
    """Number the keys that are there at least `needed` times, by size: -> numbers (-1: too rare) and their number."""
    numbers = np.full(len(keys), -1, dtype=np.int32)
    places = np.flatnonzero(is_valid)
    own = keys[places]
    order = np.argsort(own)
    own = own[order]
    is_new = np.ones(len(own), dtype=bool)
    is_new[1:] = own[1:] != own[:-1]
    starts = np.flatnonzero(is_new)
    often = np.diff(starts, append=len(own))
    is_frequent = often >= needed
    number = np.where(is_frequent, np.cumsum(is_frequent) - 1, -1).astype(np.int32)
    numbers[places[order]] = np.repeat(number, often)
    return numbers, int(is_frequent.sum())


def _moved(flags: np.ndarray, by: int) -> np.ndarray:
    """Return flags[i + by] at i; False at the end."""
    moved = np.zeros_like(flags)
    moved[:-by] = flags[by:]
    return moved
