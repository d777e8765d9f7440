"""Vectors of rare words, made surer by how the words are written.

Place in the way of the data: word vectors of `word_vectors.py` -> the same, rare words moved towards what their
character n-grams let expect. A word that was read three times has a vector that is mostly chance, but `unwatchable` is
written like words that were read often. The n-grams' vectors are fitted to the word vectors when these are there ([2]_)
and not learned with them ([1]_), so that no step of skip-gram becomes slower. Imports numpy; scipy inside.

References
----------
.. [1] P. Bojanowski, E. Grave, A. Joulin, T. Mikolov, Enriching word vectors with subword information, TACL 2017,
   section 3.2: n-grams of 3 to 6 characters, the borders of the word among them.
.. [2] J. Zhao, S. Mudgal, Y. Liang, Generalizing word embeddings using bag of subwords, EMNLP 2018, section 3.
.. [3] B. Efron, C. Morris, Stein's estimation rule and its competitors, JASA 1973: what is measured badly is drawn
   towards what a regression on its properties expects, the more the worse it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bilstm.errors import MissingExtraError, ShapeError
from bilstm.training.ridge import sparse_ridge

__all__ = ["character_ngrams", "with_subwords"]

SHORTEST, LONGEST = 3, 6  # of [1]
RARE = 20.0  # a word that was read so often counts half by itself and half by its n-grams
FEWEST_WORDS = 2  # that an n-gram must stand in
RIDGE = 1.0  # in words that were read very often
SOLVER_STEPS = 25


def with_subwords(vectors: np.ndarray, counts: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """Draw the vectors of rare words towards those that their character n-grams let expect.

    Parameters
    ----------
    vectors : ndarray of shape (words, size), float32
    counts : ndarray of shape (words,)
        How often each word was read; one of 0 gets the expected vector.
    words : sequence of str
        Of each row; "" for a row that is no word and keeps its vector.

    Returns
    -------
    ndarray of shape (words, size), float32
        s v + (1 - s) e with s = n / (n + 20): v is the word's own vector, n how often it was read, and e the mean of
        all words plus the sum of its n-grams' vectors over the square root of their number. These minimise the sum over
        words of s |v - e|^2 plus the squared norm of all n-grams' vectors. A word without n-grams that others have too
        keeps v.

    Raises
    ------
    ShapeError
        If the arguments differ in length.
    MissingExtraError
        If scipy is not installed.
    """
    if not len(vectors) == len(counts) == len(words):
        raise ShapeError(f"{len(vectors)} vectors, {len(counts)} counts and {len(words)} words do not fit each other.")
    table = _ngram_table(words)
    own = (counts / (counts + RARE)).astype(np.float32)
    mean = counts @ vectors / max(float(counts.sum()), 1.0)
    expected = table @ sparse_ridge(table, vectors - mean, own, RIDGE, SOLVER_STEPS).T + mean
    own[np.diff(table.indptr) == 0] = 1.0
    return (own[:, None] * vectors + (1 - own[:, None]) * expected).astype(np.float32)


def character_ngrams(word: str) -> list[str]:
    """Return the n-grams of a word with its borders, `<word>`, but not the whole of it."""
    marked = f"<{word}>"
    return [
        marked[start : start + length]
        for length in range(SHORTEST, min(LONGEST, len(marked) - 1) + 1)
        for start in range(len(marked) - length + 1)
    ]


def _ngram_table(words: Sequence[str]) -> Any:
    """Return which n-grams each word has, csr (words, n-grams), each row over the square root of its number of them."""
    try:
        from scipy import sparse
    except ImportError as error:
        raise MissingExtraError("Vectors from subwords need scipy.", "pip install 'bilstm[train]'") from error
    numbers: dict[str, int] = {}
    rows, columns = [], []
    for row, word in enumerate(words):
        for ngram in character_ngrams(word) if word else ():
            rows.append(row)
            columns.append(numbers.setdefault(ngram, len(numbers)))
    every = sparse.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(words), len(numbers)))
    every.sum_duplicates()
    used = np.flatnonzero(np.bincount(every.indices, minlength=len(numbers)) >= FEWEST_WORDS)
    table = every[:, used].tocsr()
    among = np.maximum(np.asarray(table.sum(axis=1)).reshape(-1), 1.0)
    return (sparse.diags_array((1 / np.sqrt(among)).astype(np.float32)) @ table).tocsr()
