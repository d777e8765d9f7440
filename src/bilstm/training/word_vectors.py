"""In-domain word vectors: skip-gram with negative sampling over the user's own texts.

Place in the way of the data: Ragged of token ids -> initial weights of the embedding layer. Words that stand in similar
contexts start near each other, so that a rare word is read like the frequent ones it resembles. Uses gensim, which
computes exactly this well; imported inside the function.

References
----------
.. [1] Mikolov, Sutskever, Chen, Corrado, Dean, "Distributed Representations of Words and Phrases and their
   Compositionality", NeurIPS 2013, arXiv:1310.4546, equations 1 to 5.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.errors import MissingExtraError, ShapeError

__all__ = ["train_word_vectors"]

NEGATIVE_SAMPLES = 5
SUBSAMPLING = 1e-4  # threshold t of [1], section 2.3: frequent words are read less often
FIRST_RATE, LAST_RATE = 0.025, 0.0001


def train_word_vectors(
    ids: Ragged,
    vocabulary_size: int,
    size: int,
    *,
    window: int = 8,
    epochs: int = 5,
    scale: float = 0.3,
    seed: int = 0,
) -> np.ndarray:
    """Train one vector per token id.

    Parameters
    ----------
    ids : Ragged of int64 (total_steps,)
        Token ids of the training texts; id 0, the unknown word, is skipped.
    vocabulary_size : int
        Ids are below it.
    size : int
        Features of a vector.
    window : int, default=8
        Words to either side that count as context, at most.
    epochs : int, default=5
        Passes over the texts.
    scale : float, default=0.3
        Standard deviation over all numbers of the result: with the vectors' own, smaller scale the recurrent layers
        start almost linear and learn slowly.
    seed : int, default=0

    Returns
    -------
    ndarray of shape (vocabulary_size, size), float32
        Zero for id 0 and for ids that do not occur. One thread, so equal arguments give equal vectors.

    Raises
    ------
    MissingExtraError
        If gensim is not installed.
    ShapeError
        If an id is out of range.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise MissingExtraError("In-domain word vectors need gensim.", "pip install 'bilstm[train]'") from error
    values = np.asarray(ids.values)
    if len(values) and not 0 <= values.min() <= values.max() < vocabulary_size:
        raise ShapeError(f"token ids must be at least 0 and below {vocabulary_size}, got {values.min()} and above.")
    counts = np.bincount(values, minlength=vocabulary_size)
    counts[0] = 0
    vectors = np.zeros((vocabulary_size, size), dtype=np.float32)
    known = np.flatnonzero(counts)
    if len(known) < 2:  # no context to learn from
        return vectors
    model = Word2Vec(
        vector_size=size,
        window=window,
        min_count=1,
        sg=1,
        negative=NEGATIVE_SAMPLES,
        sample=SUBSAMPLING,
        alpha=FIRST_RATE,
        min_alpha=LAST_RATE,
        seed=seed % 2**32,
        workers=1,
    )
    model.build_vocab_from_freq({str(token): int(counts[token]) for token in known}, corpus_count=len(ids))
    model.train(_Sentences(ids, vocabulary_size), total_examples=len(ids), epochs=epochs)
    places: dict[str, int] = model.wv.key_to_index  # type: ignore[assignment]  # gensim declares None
    vectors[known] = model.wv.vectors[[places[str(token)] for token in known]]
    return vectors * np.float32(scale / max(float(vectors[known].std()), 1e-12))


class _Sentences:
    """Texts as lists of words, as often as gensim asks for them; ids are spelled in digits."""

    def __init__(self, ids: Ragged, vocabulary_size: int):
        self._names = [str(token) for token in range(vocabulary_size)]
        self._ids = ids

    def __iter__(self) -> Iterator[list[str]]:
        names = self._names
        for row in range(len(self._ids)):
            yield [names[token] for token in self._ids[row].tolist() if token]
