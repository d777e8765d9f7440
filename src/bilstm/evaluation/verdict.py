"""What the numbers of a report say, in sentences: each states figures of the data, and none praises.

The rule for the baseline: the model beats it only where it has more rows right and chance would part two equal models
that far in fewer than one of twenty cases. Imports `report_data` and `drawing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bilstm.evaluation.drawing import decimal, integer, percent
from bilstm.evaluation.page import Html, isolated, join, tag
from bilstm.evaluation.report_data import ReportData

__all__ = [
    "Judgement",
    "calibration_story",
    "caveat",
    "compare_with_baseline",
    "length_story",
    "main_score",
    "opening",
    "training_story",
]

SIGNIFICANCE = 0.05
MAIN_SCORES = {
    "classification": ("accuracy", "accuracy"),
    "multilabel": ("micro_f1", "micro F1"),
    "regression": ("mean_absolute_error", "mean absolute error"),
}


@dataclass(frozen=True)
class Judgement:
    """Model against baseline: which side of it the model is on, and the sentences to say so."""

    side: Literal["ahead", "equal", "behind", "unknown"]
    sentences: tuple[Html | str, ...]


def main_score(scores: Mapping[str, Any]) -> tuple[float | None, tuple[float, float] | None]:
    """Return the score with an interval: accuracy, or of sets of labels the share of whole sets right."""
    for name in ("accuracy", "subset_accuracy"):
        if name in scores:
            low, high = scores[f"{name}_interval"]
            return scores[name], (low, high)
    return None, None


def opening(data: ReportData) -> Html:
    """Return the headline sentence: what was trained on what, and its score."""
    name, shown = MAIN_SCORES[data.kind]
    rows = sum(part.rows for part in data.parts if part.name.startswith("training"))
    files = [file.name for file in data.files if file.use.startswith("training")]
    source = join(" of ", isolated(files[0]), f" and {len(files) - 1} more" if len(files) > 1 else "") if files else ""
    trained = join(f", trained on {integer(rows)} texts", source, ",") if rows else ""
    value = data.scores[name]
    written = tag("strong", f"{percent(value)} {shown}" if data.kind != "regression" else f"{shown} {decimal(value)}")
    extra = ""
    if data.kind == "classification":
        low, high = data.scores["accuracy_interval"]
        extra = f" (95% interval {percent(low)} to {percent(high)})"
    elif data.kind == "multilabel":
        extra = f" (the whole set of labels is right for {percent(data.scores['subset_accuracy'])} of the rows)"
    elif data.scores.get("r_squared") is not None:
        extra = f" (R squared {decimal(data.scores['r_squared'])})"
    return join("The ", data.model_name, trained, " reaches ", written, extra, " on ", isolated(data.scored_on), ".")


def caveat(data: ReportData) -> str:
    """Return how far the scores can be trusted."""
    if data.is_final:
        return "Nothing was chosen on these rows: the figures are what to expect on texts of the same kind."
    return (
        "The best epoch, the temperature and the baseline's settings were chosen on these rows, so expect a little "
        "less on new texts. For a final figure, run bilstm evaluate on a file that was not used here."
    )


def compare_with_baseline(data: ReportData) -> Judgement:
    """Return whether the model beats the linear baseline, said plainly."""
    if data.baseline is None:
        return Judgement("unknown", ())
    name, shown = MAIN_SCORES[data.kind]
    own, other = data.scores[name], data.baseline.scores[name]
    is_share = data.kind != "regression"
    gain = own - other if is_share else other - own  # of an error, less is better
    theirs = percent(other) if is_share else decimal(other)
    gap = f"{abs(100 * gain):.1f} points" if is_share else decimal(abs(gain))
    said = f"the linear baseline ({data.baseline.name}: {theirs} {shown})"
    paired = data.baseline.paired
    evidence = _evidence(data)
    floor = _floor(data.scores)
    is_chance = paired is not None and paired.p_value > SIGNIFICANCE
    if gain <= 0:
        verb = "does not beat" if gain < 0 else "does no better than"
        behind = f" It is {gap} behind." if gain < 0 else ""
        advice = " The linear model is smaller and faster: prefer it, or give the model more data or other settings."
        first = join(tag("strong", f"The {data.model_name} {verb} {said}."), behind, advice)
        return Judgement("behind" if not is_chance else "equal", (first, *evidence, *floor))
    if is_chance:
        first = join(
            tag("strong", f"The {data.model_name} does not clearly beat {said}."),
            f" It is {gap} ahead, no more than chance would give: take the two as equal.",
        )
        return Judgement("equal", (first, *evidence, *floor))
    better = "ahead of" if is_share else "closer than"
    return Judgement(
        "ahead",
        (
            join(
                tag("strong", f"It is {gap} {better} {said}."),
            ),
            *evidence,
            *floor,
        ),
    )


def _evidence(data: ReportData) -> tuple[str, ...]:
    paired = data.baseline.paired if data.baseline is not None else None
    if paired is None:
        return ()
    p = paired.p_value
    chance = "under 0.1%" if p < 0.001 else percent(p) if p < 0.1 else percent(p, 0)
    ours, theirs = integer(paired.only_model), integer(paired.only_baseline)
    name = "McNemar's test"
    if data.kind == "regression":
        said, name = f"the {data.model_name} is closer on {ours} rows, the baseline on {theirs}", "sign test"
    else:
        what = "the whole set of labels of" if data.kind == "multilabel" else ""
        said = (
            f"only the {data.model_name} has {what + ' ' if what else ''}{ours} rows right, only the baseline {theirs}"
        )
    return (
        f"Row by row: {said}. Two equally good models would part at least this far by chance in {chance} of cases "
        f"({name}).",
    )


def _floor(scores: Mapping[str, Any]) -> tuple[Html, ...]:
    matrix = scores.get("confusion_matrix")
    if not matrix:
        return ()
    counts = [sum(row) for row in matrix]
    largest = max(range(len(counts)), key=counts.__getitem__)
    share = percent(counts[largest] / sum(counts))
    return (join("Always answering “", isolated(scores["classes"][largest]), f"” would be right for {share}."),)


def training_story(data: ReportData) -> str:
    """Return what the learning curves show."""
    rows = list(data.epochs)
    kept = next((row for row in rows if row.epoch == data.best_epoch), None)
    if kept is None:
        return f"{len(rows)} epochs."
    write = percent if data.score_is_share else decimal
    score = (
        f", development {data.score_name.replace('_', ' ')} {write(kept.dev_score)}"
        if kept.dev_score is not None
        else ""
    )
    story = f"The weights of epoch {kept.epoch} of {len(rows)} were kept{score}."
    last = rows[-1]
    if last.epoch > kept.epoch and last.dev_loss is not None and kept.dev_loss is not None:
        if last.dev_loss > 1.02 * kept.dev_loss and last.train_loss < kept.train_loss:
            train = f"{decimal(kept.train_loss)} to {decimal(last.train_loss)}"
            dev = f"{decimal(kept.dev_loss)} to {decimal(last.dev_loss)}"
            story += (
                f" After it the training loss went on falling ({train}) while the development loss rose ({dev}): the "
                "model began to learn the training texts by heart."
            )
    elif last.epoch == kept.epoch and not (data.score_is_share and kept.dev_score == 1):
        story += " The last epoch was the best: more epochs may still help."
    return story


def calibration_story(data: ReportData) -> list[str]:
    """Return how far stated probabilities and shares right lie apart, and what temperature scaling changed."""
    gap = percent(data.scores["expected_calibration_error"])
    if data.temperature is None or data.scores_before is None:
        return [f"Stated confidence and share right lie {gap} apart on average (expected calibration error)."]
    before = percent(data.scores_before["expected_calibration_error"])
    value = data.temperature.value
    if data.temperature.note:
        return [f"Temperature {decimal(value, 2)}. {data.temperature.note}", f"Mean gap: {gap}."]
    was = "too sure of itself" if value > 1 else "not sure enough"
    return [
        f"The raw model was {was}: temperature scaling divides its logits by {decimal(value, 2)}. The mean gap between "
        f"stated confidence and share right goes from {before} to {gap}.",
        f"The temperature was fitted on {integer(data.temperature.rows)} development rows; log loss there goes from "
        f"{decimal(data.temperature.loss_before)} to {decimal(data.temperature.loss_after)}. It changes no prediction.",
    ]


def length_story(data: ReportData, name: str) -> str:
    """Return where the score is best and worst."""
    groups = [group for group in data.length_groups if group.values[0] is not None]
    is_share = data.kind != "regression"
    write = percent if is_share else decimal
    ranked = sorted(groups, key=lambda group: group.values[0] or 0.0, reverse=is_share)
    best, worst = ranked[0], ranked[-1]
    return (
        f"Best for texts of {best.name} words ({write(best.values[0])} {name}), worst for {worst.name} words "
        f"({write(worst.values[0])}). Where whiskers overlap widely, the difference may be chance."
    )
