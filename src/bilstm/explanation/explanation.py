"""What an explanation is: words with their places and what each adds to the answer, ready for JSON, HTML, a terminal.

Place in the way of the data: behind `predict`. The methods of this stage fill it; pages, the server and the report
show it. Imports numpy; the renderings are imported when they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from bilstm.errors import UsageError

__all__ = ["Explanation", "Explanations", "Neighbour", "Phrase"]


@dataclass(frozen=True)
class Phrase:
    """A run of words scored as one thing.

    Parameters
    ----------
    start, end : int
        Words `start` to `end - 1` of the explanation.
    score : float
        What the phrase as a whole adds to the score of the first target.
    interaction : float
        `score` less the scores of its parts: what the words say only together.
    children : tuple of Phrase
        The parts it was joined from; none for a single word.
    """

    start: int
    end: int
    score: float
    interaction: float = 0.0
    children: tuple[Phrase, ...] = ()

    def to_json(self, explanation: Explanation) -> dict[str, Any]:
        """Return plain JSON values, with the characters of the text that the phrase covers."""
        first, last = explanation.spans[self.start][0], explanation.spans[self.end - 1][1]
        return {
            "words": [self.start, self.end],
            "span": [first, last],
            "text": explanation.text[first:last],
            "score": self.score,
            "interaction": self.interaction,
            "children": [child.to_json(explanation) for child in self.children],
        }


@dataclass(frozen=True)
class Neighbour:
    """A training text near to the explained one.

    Parameters
    ----------
    text : str
    label : str
    similarity : float
        Cosine of the two representations, -1 to 1.
    row : int
        Number of the text among the training texts, from 0.
    """

    text: str
    label: str
    similarity: float
    row: int


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a model gave its answer to one text.

    Parameters
    ----------
    text : str
        The text as it was given.
    tokens : tuple of str
        Its words, as they stand in the text.
    spans : tuple of (int, int)
        Place of each word in `text`, in characters, end excluded.
    targets : tuple of str
        The classes that are explained; the first one is shown.
    attributions : ndarray of shape (words, targets), float64
        What each word adds to the score of a class: positive speaks for it. Weights of attention are never negative.
    prediction : str, float or list of str
        The answer, as `predict` gives it.
    probability : float or None
        Of the first target; None for numbers.
    score : ndarray of shape (targets,), float64
        What is explained, in `unit`.
    unit : {"log-odds", "number", "share"}
        Log-odds of the class against all others; for numbers the number itself; "share" for weights.
    method : str
    baseline : str
        In words: the text without information that the explained one is compared with.
    baseline_score : ndarray of shape (targets,), float64, or None
        Score of that baseline; None where the method has none.
    gap : float or None
        Completeness gap: |sum of the attributions - (score - baseline score)|, the largest over the targets; None where
        the method promises no sum.
    phrases : tuple of Phrase
        Phrases scored as one thing, strongest first; a tree is one phrase with children.
    neighbours : tuple of Neighbour
        Nearest training texts, nearest first, where they were asked for.
    notes : tuple of str
        What a reader should know: words that were not read, nothing known, and the like.
    milliseconds : float
        Time that the explanation took (of a batch: its share).
    """

    text: str
    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    targets: tuple[str, ...]
    attributions: np.ndarray
    prediction: Any
    probability: float | None
    score: np.ndarray
    unit: str
    method: str
    baseline: str
    baseline_score: np.ndarray | None = None
    gap: float | None = None
    phrases: tuple[Phrase, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    notes: tuple[str, ...] = field(default=())
    milliseconds: float = 0.0

    def __post_init__(self) -> None:
        if self.attributions.shape != (len(self.tokens), len(self.targets)):
            raise UsageError(
                f"attributions must have shape ({len(self.tokens)}, {len(self.targets)}), "
                f"got {self.attributions.shape}."
            )
        if len(self.spans) != len(self.tokens):
            raise UsageError(f"there are {len(self.tokens)} words and {len(self.spans)} places.")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_weights(self) -> bool:
        """Whether the numbers are weights of attention, which explain nothing by themselves."""
        return self.unit == "share"

    def strongest(self, count: int = 10, target: int = 0) -> list[tuple[str, float]]:
        """Return the words with the largest attributions of a target, by size, with their signs."""
        values = self.attributions[:, target]
        order = np.argsort(-np.abs(values), kind="stable")[:count]
        return [(self.tokens[at], float(values[at])) for at in order]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; a number that is not finite is None."""
        return {
            "text": self.text,
            "prediction": _plain(self.prediction),
            "probability": _plain(self.probability),
            "method": self.method,
            "unit": self.unit,
            "targets": list(self.targets),
            "tokens": list(self.tokens),
            "spans": [list(span) for span in self.spans],
            "attributions": _plain(self.attributions),
            "score": _plain(self.score),
            "baseline": self.baseline,
            "baseline_score": _plain(self.baseline_score),
            "gap": _plain(self.gap),
            "phrases": [phrase.to_json(self) for phrase in self.phrases],
            "neighbours": [
                {"text": one.text, "label": one.label, "similarity": _plain(one.similarity), "row": one.row}
                for one in self.neighbours
            ],
            "notes": list(self.notes),
            "milliseconds": round(self.milliseconds, 3),
        }

    def to_html(self) -> str:
        """Return a whole HTML page: no script, nothing from outside; the text is always escaped."""
        return Explanations((self,)).to_html()

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return Explanations((self,))._repr_html_()

    def to_terminal(self) -> Any:
        """Return what `rich` prints: the text with its words coloured and underlined."""
        from bilstm.explanation.terminal import render

        return render(self)

    def __repr__(self) -> str:
        words = ", ".join(f"{word} {value:+.2f}" for word, value in self.strongest(5))
        shown = f"{self.prediction!r}" + ("" if self.probability is None else f" ({self.probability:.3f})")
        return f"Explanation({shown} by {self.method}: {words})"


class Explanations(Sequence[Explanation]):
    """Explanations of several texts, in their order."""

    def __init__(self, explanations: Sequence[Explanation]):
        self._explanations = tuple(explanations)

    def __len__(self) -> int:
        return len(self._explanations)

    @overload
    def __getitem__(self, index: int) -> Explanation: ...

    @overload
    def __getitem__(self, index: slice) -> Explanations: ...

    def __getitem__(self, index: int | slice) -> Explanation | Explanations:
        if isinstance(index, slice):
            return Explanations(self._explanations[index])
        return self._explanations[index]

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self._explanations)

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain JSON values."""
        return [one.to_json() for one in self]

    def to_html(self, title: str = "Explanations") -> str:
        """Return a whole HTML page: no script, nothing from outside; the texts are always escaped."""
        from bilstm.explanation.pages import write_explanations

        return write_explanations(self, title)

    def _repr_html_(self) -> str:
        from bilstm.explanation.pages import fragment

        return fragment(self)

    def __repr__(self) -> str:
        lines = "".join(f"\n  {one!r}" for one in self._explanations[:10])
        return f"Explanations of {len(self)} texts{lines}" + ("\n  ..." if len(self) > 10 else "")


def _plain(value: Any) -> Any:
    """Turn arrays and numbers into JSON values, with None for what is not finite."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
