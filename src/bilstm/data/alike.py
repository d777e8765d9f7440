"""Groups of texts about the same thing: those that share rare words.

Two reviews of one film share names, two questions about one product share its number. If one of them trains and the
other is scored, the score measures in part how well names were remembered, and is better than on texts about new
things. `groups_of` finds such texts, so that `splitting.draw_groups` can keep them on one side.

Texts are compared by the cosine of their rare words, weighted by inverse document frequency; groups form by label
propagation over the links: Raghavan, Albert and Kumara, Near linear time algorithm to detect community structures in
large-scale networks, Physical Review E 76, 2007; https://arxiv.org/abs/0709.2938, section III. A group takes no more
members once it has as many as a rare word may have texts, without which one group swallows the rest.

Place in the way of the data: words as numbers -> a group number for each text -> `splitting`. Imports numpy, and scipy
inside the functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.weighed_rows import to_unit_length

__all__ = ["FEWEST_TEXTS", "groups_of"]

FEWEST_TEXTS = 2_000  # below it a word in few texts is not yet a rare word
RARE_SHARE, MOST_TEXTS = 0.004, 100  # a rare word stands in two texts, and in no more than this share and number
MOST_TIMES = 4  # that a rare word occurs, for each text in which it may stand
LEAST_COSINE = 0.1  # of a link
ROUNDS, SETTLED_SHARE = 20, 0.002  # of propagation, and the share of moving texts at which it is over
_CHUNK = 2_048  # texts compared with all others at a time


def groups_of(words: Ragged, seed: int) -> np.ndarray:
    """Return the number of the group of each text.

    Parameters
    ----------
    words : Ragged of int
        Number of each word, from 0 on; negative ones count for nothing.
    seed : int
        The same words and seed give the same groups.

    Returns
    -------
    ndarray of int64, shape (texts,)
        Numbers from 0 on, each in use. A text that shares no rare words stands alone.
    """
    if not len(words):
        return np.zeros(0, dtype=np.int64)
    links = _links(words)
    groups = _propagated(links, np.random.default_rng(seed))
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _most_texts(texts: int) -> int:
    """Return in how many of the texts a rare word may stand, and how large a group may grow."""
    return min(MOST_TEXTS, int(RARE_SHARE * texts))


def _rare_word_rows(words: Ragged) -> Any:
    """Return rows of unit length over rare words, sparse of shape (texts, words)."""
    from scipy import sparse

    texts, values = len(words), np.asarray(words.values)
    most = _most_texts(texts)
    counts = np.bincount(values[values >= 0], minlength=1)
    # Most words are left out before anything is stored for each of them: what occurs this often is in too many texts,
    # or in few of them over and over.
    is_kept = (values >= 0) & (counts[np.maximum(values, 0)] <= MOST_TIMES * most)
    rows, columns = np.repeat(np.arange(texts), words.lengths)[is_kept], values[is_kept]
    shape = (texts, int(columns.max(initial=0)) + 1)
    found = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    frequencies = np.bincount(found.indices, minlength=found.shape[1])
    is_rare = (frequencies >= 2) & (frequencies <= most)
    weights = np.where(is_rare, np.log(texts / np.maximum(frequencies, 1)), 0.0)
    found.data = weights[found.indices].astype(np.float32)
    found.eliminate_zeros()
    return to_unit_length(found)


def _links(words: Ragged) -> Any:
    """Return the cosines of at least `LEAST_COSINE` between different texts, sparse of shape (texts, texts)."""
    from scipy import sparse

    rows = _rare_word_rows(words)
    columns = rows.T.tocsr()
    chunks = []
    for first in range(0, len(words), _CHUNK):
        chunk = (rows[first : first + _CHUNK] @ columns).tocoo()
        is_link = (chunk.data >= LEAST_COSINE) & (chunk.row + first != chunk.col)
        chunks.append((chunk.row[is_link] + first, chunk.col[is_link], chunk.data[is_link]))
    own, other, cosine = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return sparse.csr_matrix((cosine, (own, other)), shape=(len(words), len(words)))


def _propagated(links: Any, random: np.random.Generator) -> np.ndarray:
    """Give each text, again and again, the label that weighs most among those it is linked to.

    Half of the texts, drawn anew, move at a time: if all moved at once, two linked texts would swap labels for ever.
    """
    texts = links.shape[0]
    most = _most_texts(texts)
    labels = np.arange(texts)
    linked = np.flatnonzero(np.diff(links.indptr))
    for _ in range(ROUNDS):
        moved = 0
        for part in np.array_split(random.permutation(linked), 2):
            rows = np.sort(part)
            best = _heaviest_labels(links[rows], labels, labels[rows], most)
            moved += int((best != labels[rows]).sum())
            labels[rows] = best
        if moved <= SETTLED_SHARE * texts:
            break
    return labels


def _heaviest_labels(links: Any, labels: np.ndarray, own: np.ndarray, most: int) -> np.ndarray:
    """Return the heaviest label among the links of each row that has room; the own one where it weighs as much."""
    sizes = np.bincount(labels, minlength=len(labels))
    rows = np.repeat(np.arange(links.shape[0]), np.diff(links.indptr))
    keys, where = np.unique(rows * len(labels) + labels[links.indices], return_inverse=True)
    weights = np.bincount(where, links.data)
    rows, found = keys // len(labels), keys % len(labels)
    is_own = found == own[rows]
    weights = np.where(is_own | (sizes[found] < most), weights + 1e-6 * is_own, -1.0)
    order = np.lexsort((weights, rows))  # the heaviest of each row comes last
    last = order[np.searchsorted(rows[order], np.arange(links.shape[0]), side="right") - 1]
    return np.where(weights[last] > 0, found[last], own)
