"""Phrases scored as one thing, and the tree that they grow into: "not bad" says what neither word says alone.

Source: Singh, Murdoch and Yu 2019 (ICLR, arXiv 1806.05337), agglomerative contextual decomposition: neighbouring
phrases are joined, those first whose joint score differs most from the sum of their parts. The score of a phrase is
its contextual decomposition (Murdoch 2018) where the network is an LSTM, else what leaving it out takes away; joined
linear models give their part exactly. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from bilstm.explanation.decomposition import can_decompose, phrase_logits
from bilstm.explanation.explanation import Phrase
from bilstm.explanation.linear_part import occurrences_of, phrase_values
from bilstm.explanation.methods import scores_without
from bilstm.explanation.subject import TextSubject
from bilstm.explanation.words import TextWords

__all__ = ["LONGEST_TREE", "grow_tree", "score_phrases", "tree_of"]

LONGEST_TREE = 200  # words; the tree of a longer text is nothing a person reads

Spans = Sequence[tuple[int, int]]


def score_phrases(
    subject: TextSubject, words: TextWords, contrasts: np.ndarray, spans: Spans, method: str = "auto"
) -> np.ndarray:
    """Return what each run of words adds to the score of the first target, shape (spans,), float64.

    Parameters
    ----------
    contrasts : ndarray of shape (targets, outputs)
    spans : sequence of (int, int)
        Words, end excluded.
    method : {"auto", "contextual-decomposition", "occlusion"}
        "auto": decomposition where the network is an LSTM.
    """
    cuts = np.array(spans, dtype=np.int64).reshape(-1, 2)
    vectors = subject.vectors([words])
    if method == "occlusion" or (method == "auto" and not can_decompose(subject.network)):
        logits = subject.network.run(vectors)
        whole, without = scores_without(subject, [words], vectors, contrasts[None, :1], [cuts], logits)[0]
        return (whole - without)[:, 0]
    steps = np.searchsorted(words.word_of_step, cuts).reshape(-1, 2)
    found = phrase_logits(subject.network, vectors, np.zeros(len(cuts), dtype=np.int64), steps)
    scores = found @ contrasts[0] * subject.network_weight
    if subject.linear is not None:
        occurrences = occurrences_of(subject.linear, words.keys)
        scores = scores + phrase_values(subject.linear, subject.linear_weights, occurrences, cuts) @ contrasts[0]
    return scores


def tree_of(subject: TextSubject, words: TextWords, contrasts: np.ndarray, method: str = "auto") -> tuple[Phrase, ...]:
    """Grow the tree of phrases of one text; none for a text without words or of more than `LONGEST_TREE`."""
    if not len(words) or len(words) > LONGEST_TREE:
        return ()
    return (grow_tree(len(words), lambda spans: score_phrases(subject, words, contrasts, spans, method)),)


def grow_tree(count: int, score: Callable[[Spans], np.ndarray]) -> Phrase:
    """Join neighbouring phrases until one is left.

    Parameters
    ----------
    count : int
        Words, at least 1.
    score : function
        From runs of words to their scores.

    Notes
    -----
    In each round the pairs whose interaction is within a half of the strongest are joined, unless they overlap, as in
    the paper's batches of candidates; so a text of n words takes some log n rounds.
    """
    singles = score([(at, at + 1) for at in range(count)])
    parts = [Phrase(at, at + 1, float(one), 0.0) for at, one in enumerate(singles)]
    known: dict[tuple[int, int], float] = {}
    while len(parts) > 1:
        pairs = [(one.start, two.end) for one, two in pairwise(parts)]
        new = [pair for pair in pairs if pair not in known]
        known.update(zip(new, score(new).tolist(), strict=True))
        gains = [
            known[pair] - one.score - two.score for pair, one, two in zip(pairs, parts[:-1], parts[1:], strict=True)
        ]
        bound = max(abs(gain) for gain in gains) / 2
        taken: set[int] = set()
        for at in sorted(range(len(gains)), key=lambda place: -abs(gains[place])):
            if abs(gains[at]) >= bound and not {at - 1, at, at + 1} & taken:
                taken.add(at)
        joined: list[Phrase] = []
        at = 0
        while at < len(parts):
            if at in taken:
                one, two = parts[at], parts[at + 1]
                pair = (one.start, two.end)
                joined.append(Phrase(*pair, known[pair], gains[at], (one, two)))
                at += 2
            else:
                joined.append(parts[at])
                at += 1
        parts = joined
    return parts[0]
