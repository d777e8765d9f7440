"""How true an explanation is: what happens to the answer when the words it names are taken away, or alone are kept.

Sources: DeYoung et al. 2020 (ACL, arXiv 1911.03429), section 4: comprehensiveness, sufficiency, and their mean over
the strongest 1, 5, 10, 20 and 50 % of the words; Poerner et al. 2018 (ACL, arXiv 1801.06422), section 3.1: the pointing
game on texts joined from two. Random attribution stands beside every method: a number alone says little. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.errors import UsageError
from bilstm.explanation.subject import TextSubject
from bilstm.explanation.words import TextWords

__all__ = ["SHARES", "Faithfulness", "measure_faithfulness", "pointing_game", "rank_agreement"]

Attribute = Callable[[Sequence[TextWords], np.ndarray], list[np.ndarray]]

SHARES = (0.01, 0.05, 0.10, 0.20, 0.50)
BLOCK_TEXTS = 256


@dataclass(frozen=True)
class Faithfulness:
    """What taking words away does, as means over texts.

    Parameters
    ----------
    comprehensiveness : float
        Fall of the probability of the explained class without the strongest words; larger is better.
    sufficiency : float
        Fall of that probability with the strongest words alone; smaller is better.
    texts : int
    by_share : tuple of (share, comprehensiveness, sufficiency)
    """

    comprehensiveness: float
    sufficiency: float
    texts: int
    by_share: tuple[tuple[float, float, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "comprehensiveness": self.comprehensiveness,
            "sufficiency": self.sufficiency,
            "texts": self.texts,
            "by_share": [
                {"share": share, "comprehensiveness": one, "sufficiency": two} for share, one, two in self.by_share
            ],
        }


def measure_faithfulness(
    subject: TextSubject,
    words: Sequence[TextWords],
    targets: np.ndarray,
    attributions: Sequence[np.ndarray],
    shares: Sequence[float] = SHARES,
) -> Faithfulness:
    """Measure comprehensiveness and sufficiency of attributions.

    Parameters
    ----------
    subject : TextSubject
        Of a classifier: numbers have no probability.
    words : sequence of TextWords
    targets : ndarray of shape (texts,), int
        Explained class of each text.
    attributions : sequence of ndarray of shape (words,)
        For that class. At least one word is taken away at every share.

    Raises
    ------
    UsageError
        For a model of numbers, or no text with a word.
    """
    if subject.labels.kind == "regression":
        raise UsageError("comprehensiveness and sufficiency are about probabilities; this model predicts numbers.")
    rows = [row for row, one in enumerate(words) if len(one)]
    if not rows:
        raise UsageError("no text holds a word: nothing can be measured.")
    chosen = [words[row] for row in rows]
    target = np.asarray(targets)[rows]
    orders = [np.argsort(-attributions[row], kind="stable") for row in rows]
    full = _probabilities(subject, chosen, target, [np.ones(len(one), dtype=bool) for one in chosen])
    by_share = []
    for share in shares:
        strongest = []
        for one, order in zip(chosen, orders, strict=True):
            mask = np.zeros(len(one), dtype=bool)
            mask[order[: max(1, int(np.ceil(share * len(one))))]] = True
            strongest.append(mask)
        without = _probabilities(subject, chosen, target, [~mask for mask in strongest])
        alone = _probabilities(subject, chosen, target, strongest)
        by_share.append((share, float((full - without).mean()), float((full - alone).mean())))
    means = np.array(by_share)[:, 1:].mean(axis=0)
    return Faithfulness(float(means[0]), float(means[1]), len(rows), tuple(by_share))


def _probabilities(
    subject: TextSubject, words: Sequence[TextWords], targets: np.ndarray, kept: Sequence[np.ndarray]
) -> np.ndarray:
    found = []
    for first in range(0, len(words), BLOCK_TEXTS):
        block = slice(first, first + BLOCK_TEXTS)
        found.append(subject.probabilities(subject.logits_of_kept(words[block], kept[block])))
    return np.concatenate(found)[np.arange(len(words)), targets]


def pointing_game(
    subject: TextSubject, texts: Sequence[str], targets: np.ndarray, attribute: Attribute, pairs: int = 50
) -> tuple[float, int] | None:
    """Join two texts of different answers; the strongest word for an answer should stand in the text that gave it.

    Parameters
    ----------
    texts : sequence of str
        The surest ones first.
    targets : ndarray of shape (texts,), int
        Answer of the model to each.
    attribute : function
        From words and targets (texts, 1) to attributions, one array (words, 1) a text.
    pairs : int
        Joined texts at most; each is asked for both answers.

    Returns
    -------
    share, questions : float, int
        Share of questions in which the strongest word stood in the right text (by chance about one half), and how many
        there were; None if all texts have one answer.
    """
    chosen: list[tuple[int, int]] = []
    free = list(range(len(texts)))
    while free and len(chosen) < pairs:
        first = free.pop(0)
        other = next((row for row in free if targets[row] != targets[first]), None)
        if other is not None:
            free.remove(other)
            chosen.append((first, other))
    if not chosen:
        return None
    joined = subject.words([f"{texts[first]}\n{texts[second]}" for first, second in chosen])
    hits = questions = 0
    for place in (0, 1):
        asked = np.array([[targets[pair[place]]] for pair in chosen])
        for one, pair, values in zip(joined, chosen, attribute(joined, asked), strict=True):
            if not len(one):
                continue
            top = one.spans[int(values[:, 0].argmax())][0]
            is_first = top <= len(texts[pair[0]])
            hits += is_first == (place == 0)
            questions += 1
    return (hits / questions, questions) if questions else None


def rank_agreement(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """Return the mean rank correlation (Spearman) of two sets of attributions of the same texts, -1 to 1.

    Texts of one word are left out; nan if none is left.
    """
    found = []
    for one, two in zip(first, second, strict=True):
        ranks = [_ranks(values) for values in (one, two)]
        centred = [rank - rank.mean() for rank in ranks]
        size = np.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1]))
        if size > 0:
            found.append(centred[0] @ centred[1] / size)
    return float(np.mean(found)) if found else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
