"""What a report shows, as plain data, and the functions that gather it from predictions.

Place: `score -> report`. A task fills `ReportData` with what it has; a part that is None or empty is left out of the
page. Imports numpy, `metrics`; nothing of training or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from bilstm.errors import ShapeError
from bilstm.evaluation.charts import Group
from bilstm.metrics.calibration import Temperature
from bilstm.metrics.classification import mcnemar_p_value, wilson_interval

__all__ = [
    "BaselineData",
    "DataPart",
    "InputFile",
    "Mistake",
    "PairedOutcome",
    "ReportData",
    "TellingWords",
    "classification_mistakes",
    "describe_part",
    "group_by_length",
    "multilabel_mistakes",
    "paired_closeness",
    "paired_outcome",
    "regression_mistakes",
]


class EpochLike(Protocol):
    """One row of the training history; `bilstm.training.events.EpochRow` is one."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def train_score(self) -> float | None: ...
    @property
    def dev_loss(self) -> float | None: ...
    @property
    def dev_score(self) -> float | None: ...


class LayerLike(Protocol):
    """One line of the model table; `bilstm.model_summary.LayerRow` is one."""

    @property
    def name(self) -> str: ...
    @property
    def output_shape(self) -> str: ...
    @property
    def parameters(self) -> int: ...


@dataclass(frozen=True)
class InputFile:
    """A file that was read: its name, what it was used for, data rows, and the hash of its bytes."""

    name: str
    use: str
    rows: int
    sha256: str = ""


@dataclass(frozen=True)
class DataPart:
    """A part of the data.

    Parameters
    ----------
    name : str
        For example "training part".
    rows : int
    counts : mapping of str to int
        Rows of each class or label, in order; empty for numbers.
    lengths : tuple of int, optional
        Shortest, median, 95th percentile and longest, in words.
    numbers : tuple of float, optional
        Least, mean and greatest target of a regression.
    """

    name: str
    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    lengths: tuple[int, int, int, int] | None = None
    numbers: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class PairedOutcome:
    """Rows that exactly one of model and baseline has right (numbers: is closer on), and how often chance does so."""

    only_model: int
    only_baseline: int
    p_value: float


@dataclass(frozen=True)
class BaselineData:
    """The linear baseline beside the model.

    Parameters
    ----------
    name : str
        What it is, for example "NB-SVM of 1-3-grams, logistic loss".
    scores : mapping
        As the model's scores, on the same rows.
    seconds : float
        Time to fit and tune it.
    notes : sequence of str
    paired : PairedOutcome, optional
    """

    name: str
    scores: Mapping[str, Any]
    seconds: float
    notes: Sequence[str] = ()
    paired: PairedOutcome | None = None


@dataclass(frozen=True)
class Mistake:
    """A row that was predicted wrongly: text and labels as words, how sure the model was (as written), and where."""

    text: str
    target: str
    predicted: str
    sureness: str
    where: str = ""


@dataclass(frozen=True)
class TellingWords:
    """Words that speak for something (a class, a label, a higher number), strongest first, with effects above 0."""

    name: str
    words: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    Parameters
    ----------
    title : str
        Short, for example "sentiment of reviews.csv".
    kind : {"classification", "multilabel", "regression", "tagging", "language"}
    scores : mapping
        As `evaluate_classification`, `evaluate_multilabel` or `evaluate_regression` return them.
    scored_on : str
        Which rows these are scores of, with its article: "the development part of 2,500 rows", "500 rows of test.csv".
    model_name : str
        For example "BiLSTM".
    command : str
        The command that repeats the run.
    is_final : bool
        True where nothing was chosen on the scored rows (a test file); False for a development part.
    created : str
        Date and time, as written.
    files, parts, notes
        The data: files read, parts made of them, lines a reader should know (skipped rows, guessed columns).
    baseline : BaselineData, optional
    epochs : sequence of training history rows
    best_epoch : int, optional
        The one whose weights were kept.
    score_name : str
        Of the training history, for example "accuracy".
    score_is_share : bool
        Written as per cent.
    scores_before : mapping, optional
        Scores before temperature scaling.
    temperature : Temperature, optional
    length_groups : sequence of Group
        Score by text length, of the model and, where there is one, of the baseline.
    mistakes : sequence of Mistake
        The most confident first.
    telling : sequence of TellingWords
    telling_source : str
        Whose weights the words come from.
    predictions : sequence of (target, prediction)
        For regression, a sample of at most about 1,000 for the scatter.
    layers : sequence of model table rows
    settings, versions, machine : mapping of str to anything with a str
    seeds : mapping of str to int or str
    seconds : float, optional
        Training time.
    peak_memory : int, optional
        Bytes.
    """

    title: str
    kind: Literal["classification", "multilabel", "regression", "tagging", "language"]
    scores: Mapping[str, Any]
    scored_on: str
    model_name: str
    command: str
    is_final: bool = False
    created: str = ""
    files: Sequence[InputFile] = ()
    parts: Sequence[DataPart] = ()
    notes: Sequence[str] = ()
    baseline: BaselineData | None = None
    epochs: Sequence[EpochLike] = ()
    best_epoch: int | None = None
    score_name: str = "score"
    score_is_share: bool = True
    scores_before: Mapping[str, Any] | None = None
    temperature: Temperature | None = None
    length_groups: Sequence[Group] = ()
    mistakes: Sequence[Mistake] = ()
    telling: Sequence[TellingWords] = ()
    telling_source: str = "the linear baseline"
    predictions: Sequence[tuple[float, float]] = ()
    layers: Sequence[LayerLike] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int | str] = field(default_factory=dict)
    seconds: float | None = None
    peak_memory: int | None = None


def describe_part(
    name: str, lengths: np.ndarray, targets: np.ndarray | None = None, names: Sequence[str] = ()
) -> DataPart:
    """Count a part of the data.

    Parameters
    ----------
    name : str
    lengths : ndarray of shape (rows,), integer
        Words of each text.
    targets : ndarray, optional
        (rows,) class indices, (rows, labels) of 0 and 1, or (rows,) numbers where `names` is empty.
    names : sequence of str
        Classes or labels.
    """
    summary = None
    if len(lengths):
        low, middle, most, high = np.percentile(lengths, [0, 50, 95, 100], method="nearest")
        summary = (int(low), int(middle), int(most), int(high))
    if targets is None or len(targets) == 0:
        return DataPart(name, len(lengths), {}, summary)
    targets = np.asarray(targets)
    if not names:
        return DataPart(
            name, len(lengths), {}, summary, (float(targets.min()), float(targets.mean()), float(targets.max()))
        )
    counts = targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=len(names))
    return DataPart(
        name, len(lengths), {label: int(count) for label, count in zip(names, counts, strict=True)}, summary
    )


def paired_outcome(is_model_right: np.ndarray, is_baseline_right: np.ndarray) -> PairedOutcome:
    """Compare two classifiers on the same rows. Both (rows,) bool."""
    is_model_right, is_baseline_right = np.asarray(is_model_right, bool), np.asarray(is_baseline_right, bool)
    if is_model_right.shape != is_baseline_right.shape:
        raise ShapeError(f"{is_model_right.shape} and {is_baseline_right.shape} rows cannot be compared row by row.")
    only_model = int((is_model_right & ~is_baseline_right).sum())
    only_baseline = int((is_baseline_right & ~is_model_right).sum())
    return PairedOutcome(only_model, only_baseline, mcnemar_p_value(only_model, only_baseline))


def paired_closeness(model_errors: np.ndarray, baseline_errors: np.ndarray) -> PairedOutcome:
    """Compare two predictors of numbers by which is closer on each row (sign test). Both (rows,), of any sign."""
    model_errors, baseline_errors = np.abs(model_errors), np.abs(baseline_errors)
    if model_errors.shape != baseline_errors.shape:
        raise ShapeError(f"{model_errors.shape} and {baseline_errors.shape} rows cannot be compared row by row.")
    only_model, only_baseline = int((model_errors < baseline_errors).sum()), int((baseline_errors < model_errors).sum())
    return PairedOutcome(only_model, only_baseline, mcnemar_p_value(only_model, only_baseline))


def group_by_length(lengths: np.ndarray, outcomes: Sequence[np.ndarray], max_groups: int = 6) -> list[Group]:
    """Group rows by text length into groups of about equal size and average outcomes in each.

    Parameters
    ----------
    lengths : ndarray of shape (rows,), integer
        Words of each text.
    outcomes : sequence of ndarray of shape (rows,)
        One a series. Bool (right or wrong) gets a Wilson interval; numbers, for example absolute errors, one of 1.96
        standard errors of the mean.
    max_groups : int, default=6

    Returns
    -------
    list of Group
        From short to long; fewer than `max_groups` where lengths repeat or there are under 10 rows a group.
    """
    lengths = np.asarray(lengths)
    if len(lengths) == 0:
        return []
    wanted = max(1, min(max_groups, len(lengths) // 10))
    # an edge is the first length of the next group, so equal lengths never part
    edges = np.unique(np.percentile(lengths, np.linspace(0, 100, wanted + 1)[1:-1], method="higher"))
    members = np.searchsorted(edges, lengths, side="right")
    groups, last = [], members.max()
    for number in np.unique(members):
        rows = members == number
        low, high = int(lengths[rows].min()), int(lengths[rows].max())
        name = f"{low}" if low == high else f"{low}+" if number == last else f"{low}–{high}"
        found = [_mean_with_interval(np.asarray(outcome)[rows]) for outcome in outcomes]
        groups.append(
            Group(
                name=name,
                rows=int(rows.sum()),
                values=[value for value, _ in found],
                intervals=[ends for _, ends in found],
            )
        )
    return groups


def _mean_with_interval(outcome: np.ndarray) -> tuple[float, tuple[float, float] | None]:
    if outcome.dtype == bool:
        return float(outcome.mean()), wilson_interval(int(outcome.sum()), len(outcome))
    mean = float(outcome.mean())
    if len(outcome) < 2:
        return mean, None
    half = 1.96 * float(outcome.std(ddof=1)) / len(outcome) ** 0.5
    return mean, (mean - half, mean + half)


def classification_mistakes(
    probabilities: np.ndarray,
    targets: np.ndarray,
    names: Sequence[str],
    texts: Sequence[str],
    where: Sequence[str] | None = None,
    count: int = 20,
) -> list[Mistake]:
    """Return the wrong rows whose predicted class is most probable, the surest first.

    Parameters
    ----------
    probabilities : ndarray of shape (rows, classes)
    targets : ndarray of shape (rows,), integer
    names, texts : sequences of str
    where : sequence of str, optional
        File and row of each text.
    count : int, default=20
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != targets)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [
        Mistake(
            texts[row],
            str(names[targets[row]]),
            str(names[predicted[row]]),
            _sure(float(confidence[row])),
            "" if where is None else where[row],
        )
        for row in map(int, surest)
    ]


def multilabel_mistakes(
    probabilities: np.ndarray,
    targets: np.ndarray,
    names: Sequence[str],
    texts: Sequence[str],
    where: Sequence[str] | None = None,
    count: int = 20,
    threshold: float = 0.5,
) -> list[Mistake]:
    """Return the rows with the most improbable true set of labels, the worst first; arrays (rows, labels)."""
    predictions, targets = probabilities > threshold, np.asarray(targets, dtype=bool)
    chosen = np.clip(np.where(targets, probabilities, 1 - probabilities), 1e-12, 1.0)
    losses = -np.log(chosen).sum(axis=1)
    wrong = np.flatnonzero((predictions != targets).any(axis=1))

    def written(flags: np.ndarray) -> str:
        return ", ".join(str(name) for name, flag in zip(names, flags, strict=True) if flag) or "no label"

    found = []
    for row in map(int, wrong[np.argsort(-losses[wrong], kind="stable")][:count]):
        worst = int(np.argmin(chosen[row]))
        sureness = f"{names[worst]}: {_sure(float(probabilities[row, worst]))}"
        place = "" if where is None else where[row]
        found.append(Mistake(texts[row], written(targets[row]), written(predictions[row]), sureness, place))
    return found


def regression_mistakes(
    predictions: np.ndarray,
    targets: np.ndarray,
    texts: Sequence[str],
    where: Sequence[str] | None = None,
    count: int = 20,
) -> list[Mistake]:
    """Return the rows predicted farthest from their number, the farthest first."""
    errors = np.asarray(predictions, dtype=np.float64) - np.asarray(targets, dtype=np.float64)
    return [
        Mistake(
            texts[row],
            f"{targets[row]:.4g}",
            f"{predictions[row]:.4g}",
            f"off by {errors[row]:+.4g}".replace("-", "\u2212"),
            "" if where is None else where[row],
        )
        for row in map(int, np.argsort(-np.abs(errors), kind="stable")[:count])
    ]


def _sure(probability: float) -> str:
    return "over 99.99%" if probability > 0.9999 else f"{100 * probability:.1f}%"
