"""`explain`: from a model and texts to explanations. Works on every machine that can predict; no torch.

Place: the door of this stage; estimators, the command line, the server and reports call it. Imports the methods.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError
from bilstm.explanation.explanation import Explanation, Explanations, Phrase
from bilstm.explanation.methods import BATCH_STEPS, BATCH_TEXTS, Attributed, default_method, method_named, start
from bilstm.explanation.subject import TextSubject
from bilstm.explanation.words import TextWords

__all__ = ["explain", "explain_many", "subject_of"]

_subjects: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_opened: dict[int, TextSubject] = {}


def subject_of(model: Any) -> TextSubject:
    """Return a text model opened up; the same one for the same model, as long as it lives."""
    key = id(model)
    if _subjects.get(key) is not model:
        _opened[key] = TextSubject(model)
        _subjects[key] = model
        weakref.finalize(model, _opened.pop, key, None)
    return _opened[key]


@overload
def explain(model: Any, texts: str, method: str = ..., target: Any = ..., *, phrases: bool = ...) -> Explanation: ...


@overload
def explain(
    model: Any, texts: Sequence[str] | Ragged, method: str = ..., target: Any = ..., *, phrases: bool = ...
) -> Explanations: ...


def explain(
    model: Any,
    texts: str | Sequence[str] | Ragged,
    method: str = "auto",
    target: str | Sequence[str] | None = None,
    *,
    phrases: bool = False,
) -> Explanation | Explanations:
    """Explain what a text model answers.

    Parameters
    ----------
    model : TextModel
        What `bilstm.load` gives for a text classifier or regressor.
    texts : str, sequence of str, or Ragged of word ids
    method : str, default="auto"
        "auto" is the one that docs/explanations.md finds best; see `bilstm.explanation.methods.METHODS`.
    target : str, sequence of str, "all", optional
        Class or label to explain; by default the most probable one of each text.
    phrases : bool, default=False
        Also score phrases as one thing, joined to a tree; for texts of up to 200 words.

    Returns
    -------
    Explanation
        Of a single text; `Explanations` (a sequence of them) of several.

    Raises
    ------
    UsageError
        For an unknown method or class, or a method that this model has no use for.

    Examples
    --------
    >>> bilstm.load("model").explain("Not bad at all.").strongest(2)  # doctest: +SKIP
    [('bad', 1.31), ('Not', 0.94)]
    """
    if isinstance(texts, str):
        return next(explain_many(model, [texts], method, target, phrases=phrases))
    return Explanations(list(explain_many(model, texts, method, target, phrases=phrases)))


def explain_many(
    model: Any,
    texts: Sequence[str] | Ragged,
    method: str = "auto",
    target: str | Sequence[str] | None = None,
    *,
    phrases: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Explanation]:
    """Yield the explanation of each text, batch by batch; parameters as `explain`.

    Parameters
    ----------
    progress : function, optional
        Called with the texts that are done and all texts.
    """
    if not hasattr(model, "labels") or not hasattr(model, "encoder"):
        raise UsageError(f"{type(model).__name__} cannot be explained here.", "Give a model that bilstm.load returned.")
    subject = subject_of(model)
    chosen = method_named(default_method(subject) if method == "auto" else method)
    is_ids = isinstance(texts, Ragged)
    given: list[Any] = [texts[row] for row in range(len(texts))] if is_ids else list(texts)  # type: ignore[arg-type]
    done = 0
    while done < len(given):
        started = time.perf_counter()
        words: list[TextWords] = []
        steps = 0
        for one in given[done : done + BATCH_TEXTS]:
            found = subject.words(Ragged.of([one]) if is_ids else [one])[0]
            if words and steps + len(found.ids) > BATCH_STEPS:
                break
            words.append(found)
            steps += len(found.ids)
        vectors = subject.vectors(words)
        begun = start(subject, chosen, vectors)
        logits = subject.joined(begun.logits, [one.keys for one in words])
        targets = subject.chosen_targets(logits, target)
        contrasts = subject.contrasts()[targets]
        attributed = chosen.attribute(subject, words, vectors, contrasts, begun)
        milliseconds = (time.perf_counter() - started) / len(words) * 1e3
        for row, one in enumerate(words):
            tree, notes = _tree(subject, one, contrasts[row]) if phrases else ((), ())
            yield _explanation(
                model, subject, one, logits[row : row + 1], targets[row], contrasts[row], chosen.name, chosen.baseline,
                attributed[row], tree, notes, milliseconds,
            )  # fmt: skip
        done += len(words)
        if progress is not None:
            progress(done, len(given))


def _explanation(
    model: Any,
    subject: TextSubject,
    words: TextWords,
    logits: np.ndarray,
    targets: np.ndarray,
    contrasts: np.ndarray,
    method: str,
    baseline: str,
    attributed: Attributed,
    phrases: tuple[Phrase, ...],
    notes: tuple[str, ...],
    milliseconds: float,
) -> Explanation:
    outputs = model.decode(logits)
    is_number = subject.labels.kind == "regression"
    prediction = model.labels_of(outputs)[0]
    return Explanation(
        text=words.text,
        tokens=words.tokens,
        spans=words.spans,
        targets=tuple(subject.target_names[number] for number in targets.tolist()),
        attributions=attributed.values,
        prediction=prediction,
        probability=None if is_number else float(outputs[0, targets[0]]),
        score=contrasts @ logits[0] + subject.score_constant(),
        unit="share" if attributed.is_weights else subject.unit,
        method=method,
        baseline=baseline,
        baseline_score=attributed.baseline_score,
        gap=attributed.gap,
        phrases=phrases,
        notes=(*words.notes(), *notes),
        milliseconds=milliseconds,
    )


def _tree(subject: TextSubject, words: TextWords, contrasts: np.ndarray) -> tuple[tuple[Phrase, ...], tuple[str, ...]]:
    """Return the tree of phrases of a text, or a note why there is none."""
    from bilstm.explanation.phrases import LONGEST_TREE, tree_of

    if len(words) > LONGEST_TREE:
        return (), (f"No tree of phrases: the text has {len(words):,} words, a tree is for at most {LONGEST_TREE}.",)
    return tree_of(subject, words, contrasts), ()
