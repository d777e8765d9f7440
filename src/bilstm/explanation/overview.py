"""What matters over many texts: words and phrases with the largest attributions, for each class.

Sums over the explained texts: a word that pushes a little everywhere can matter more than a strong one that is rare, so
sum, mean and number of texts are all given. Imports numpy only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bilstm.explanation.explanation import Explanation

__all__ = ["Overview", "TellingEntry"]

LONGEST_PHRASE = 3


@dataclass(frozen=True)
class TellingEntry:
    """A word or phrase and what it adds.

    Parameters
    ----------
    text : str
    total, mean : float
        Sum of its attributions over all its places, and their mean.
    places, texts : int
    """

    text: str
    total: float
    mean: float
    places: int
    texts: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "text": self.text, "total": self.total, "mean": self.mean, "places": self.places, "texts": self.texts,
        }  # fmt: skip


class Overview:
    """Gathers explanations one by one, in memory that grows with the number of different phrases only.

    Parameters
    ----------
    classes : tuple of str
        Targets of the model; with two of them, what speaks against one speaks for the other.
    """

    def __init__(self, classes: tuple[str, ...]):
        self.classes = classes
        self.texts = 0
        self._sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0, 0, -1])

    def add(self, one: Explanation) -> None:
        """Count the first target of an explanation."""
        target = one.targets[0]
        keys = [token.lower() for token in one.tokens]
        values = one.attributions[:, 0].tolist()
        for start in range(len(keys)):
            total = 0.0
            for end in range(start, min(start + LONGEST_PHRASE, len(keys))):
                total += values[end]
                phrase = " ".join(keys[start : end + 1])
                self._count(target, phrase, total)
                if len(self.classes) == 2 and target in self.classes:
                    self._count(self.classes[1 - self.classes.index(target)], phrase, -total)
        self.texts += 1

    def _count(self, target: str, phrase: str, value: float) -> None:
        entry = self._sums[target, phrase]
        entry[0] += value
        entry[1] += 1
        if entry[3] != self.texts:
            entry[2] += 1
            entry[3] = self.texts

    def telling(self, target: str, count: int = 20, *, phrases: bool = False) -> list[TellingEntry]:
        """Return what speaks most for a class, by the sum over all texts.

        Parameters
        ----------
        phrases : bool, default=False
            Phrases of 2 and 3 words in place of words; those that stand in 2 texts at least, where there are 20 texts.
        """
        fewest = 2 if self.texts >= 20 else 1
        found = [
            TellingEntry(phrase, total, total / places, int(places), int(texts))
            for (name, phrase), (total, places, texts, _) in self._sums.items()
            if name == target and (" " in phrase) == phrases and texts >= fewest and total > 0
        ]
        found.sort(key=lambda entry: (-entry.total, entry.text))
        return _without_parts(found, count) if phrases else found[:count]

    def to_json(self, count: int = 20) -> dict[str, Any]:
        """Return plain JSON values for every class that was explained."""
        names = [name for name in self.classes if any(key[0] == name for key in self._sums)]
        return {
            "texts": self.texts,
            "classes": {
                name: {
                    "words": [entry.to_json() for entry in self.telling(name, count)],
                    "phrases": [entry.to_json() for entry in self.telling(name, count, phrases=True)],
                }
                for name in names
            },
        }


def _without_parts(entries: Iterable[TellingEntry], count: int) -> list[TellingEntry]:
    """Leave out phrases that hold a stronger one, or stand within it: they say the same again."""
    kept: list[TellingEntry] = []
    for entry in entries:
        inside = f" {entry.text} "
        if not any(inside in f" {one.text} " or f" {one.text} " in inside for one in kept):
            kept.append(entry)
            if len(kept) == count:
                break
    return kept
