"""How readily a tagger answers spans: the score of the tag O, moved by one number that the development part chooses.

Training raises the probability of whole tag sequences. Where names are rare and unsure, the most probable sequence
leaves most of them out: precision is high, recall low, and span F1 is not what the same scores can give. One number,
added to the score of O at every step of every sentence, moves that balance (Minkov et al. 2006, who tweak the same
weight of a trained CRF). It becomes part of the weights: nothing else knows of it. Imports numpy.

References
----------
.. [1] E. Minkov, R. C. Wang, A. Tomasic, W. W. Cohen, "NER Systems that Suit User's Preferences: Adjusting the
   Recall-Precision Trade-off for Entity Extraction", NAACL 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.tags import Span, tags_to_spans
from bilstm.metrics.spans import score_spans
from bilstm.runtime.crf import CrfWeights, decode

__all__ = ["OUTSIDE", "OutsideShift", "fit_outside_shift"]

OUTSIDE = "O"
STEP, MOST_STEPS = 0.25, 16
DOWNHILL = 6  # steps in a row without a better F1 after which a direction is left
LEAST_GAIN, LEAST_SPANS = 0.002, 2  # of F1, and in spans; less may be chance, and then the trained score stays


@dataclass(frozen=True)
class OutsideShift:
    """What is added to the score of O, with span F1 on the development part as trained and with it."""

    value: float
    f1_before: float
    f1_after: float

    def note(self) -> str | None:
        """Say it in a sentence; None if nothing is added."""
        if not self.value:
            return None
        how = "more" if self.value < 0 else "less"
        return (
            f"Spans are answered {how} readily than trained: {self.value:+.2f} on the score of O gives span F1 "
            f"{self.f1_after:.4f} instead of {self.f1_before:.4f} on the development part."
        )


def fit_outside_shift(
    emissions: Ragged, crf: CrfWeights, tags: Sequence[str], gold: Sequence[Sequence[Span]]
) -> OutsideShift:
    """Choose what to add to the score of O.

    Parameters
    ----------
    emissions : Ragged, values of shape (steps, tags)
        Scores of the development part.
    crf : CrfWeights
    tags : sequence of str
        Tag of each score; `O` is one of them.
    gold : sequence of list of Span
        True spans of each sentence.

    Returns
    -------
    OutsideShift
        The shift whose F1, averaged with its two neighbours', is highest: a lone peak is chance. 0 where that gains
        less than `LEAST_GAIN`, or than `LEAST_SPANS` more right ones would.
    """
    outside = list(tags).index(OUTSIDE)
    found: dict[int, float] = {0: _f1(emissions, crf, tags, gold, outside, 0.0)}
    for direction in (-1, 1):
        best = 0
        for at in range(direction, direction * (MOST_STEPS + 1), direction):
            found[at] = _f1(emissions, crf, tags, gold, outside, at * STEP)
            if found[at] > found[best]:
                best = at
            elif abs(at - best) == DOWNHILL:
                break
    smooth = {at: np.mean([found.get(near, found[at]) for near in (at - 1, at, at + 1)]) for at in found}
    # Of equal ones the nearest to what was trained.
    best = max(found, key=lambda at: (smooth[at], -abs(at)))
    least = max(LEAST_GAIN, LEAST_SPANS / max(sum(map(len, gold)), 1))
    if min(smooth[best] - smooth[0], found[best] - found[0]) < least:
        best = 0
    return OutsideShift(best * STEP, found[0], found[best])


def _f1(
    emissions: Ragged,
    crf: CrfWeights,
    tags: Sequence[str],
    gold: Sequence[Sequence[Span]],
    outside: int,
    shift: float,
) -> float:
    moved = np.array(emissions.values)
    moved[:, outside] += np.float32(shift)
    best, _ = decode(emissions.with_values(moved), crf)
    found = [tags_to_spans([tags[int(number)] for number in best[row]]) for row in range(len(best))]
    return score_spans(gold, found).micro.f1
