"""Scores in a terminal: the model beside its baseline after training, and all scores of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bilstm.cli.output import note, print_line, print_table

__all__ = ["print_evaluation", "print_training_scores"]

# what the labels are -> keys and titles of the scores to show; the first one decides
_CLASSES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "roc_auc": "ROC AUC",
    "log_loss": "log loss",
    "expected_calibration_error": "calibration error",
}
SHOWN_SCORES: dict[str, dict[str, str]] = {
    "binary": _CLASSES,
    "multiclass": _CLASSES,
    "multilabel": {"micro_f1": "micro F1", "macro_f1": "macro F1", "subset_accuracy": "all labels right"},
    "regression": {"root_mean_squared_error": "RMSE", "mean_absolute_error": "MAE", "r_squared": "R squared"},
}
LOWER_IS_BETTER = {"root_mean_squared_error"}
MOST_CLASSES = 12  # a wider confusion matrix does not fit into a terminal


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}"


def print_training_scores(summary: Mapping[str, Any]) -> None:
    """Print the model beside the linear baseline, and say plainly which is better."""
    titles = SHOWN_SCORES[summary["kind"]]
    baseline = summary.get("linear_baseline")
    alone = summary.get("network_alone")
    models = [model for model in (summary, alone, baseline) if model is not None]
    names = [
        summary["model"],
        *([f"{alone['name']} alone"] if alone else []),
        *(["linear baseline"] if baseline else []),
    ]
    rows = [
        [f"{part} {title}", *(_shown(model.get(part, {}).get(name)) for model in models)]
        for part in ("dev", "test")
        if part in summary
        for name, title in titles.items()
    ]
    print_table(["", *names], rows)
    if baseline is not None:
        print_line(f"linear baseline: {baseline['name']}")
        print_line(_verdict(summary, baseline, *next(iter(titles.items()))))


def _verdict(summary: Mapping[str, Any], baseline: Mapping[str, Any], name: str, title: str) -> str:
    part = "test" if "test" in summary and "test" in baseline else "dev"
    ours, theirs = summary[part][name], baseline[part][name]
    gap = f"{100 * abs(ours - theirs):.2f} points of {title}"
    if summary["kind"] == "regression":
        gap = f"{abs(ours - theirs):.4g} {title}"
    model, where = summary["model"], f"on {summary['rows'][part]:,} {part} rows"
    if (ours < theirs) if name in LOWER_IS_BETTER else (ours > theirs):
        return f"The {model} beats the linear baseline by {gap} {where}."
    if ours == theirs:
        return f"The {model} does NOT beat the linear baseline: both are equal {where}."
    return (
        f"The {model} does NOT beat the linear baseline: it is {gap} behind {where}. "
        "For these texts the linear model is the better choice."
    )


def print_evaluation(scores: Mapping[str, Any], rows: int, files: Sequence[str]) -> None:
    """Print every score that is one number, then a table of classes, and the confusion matrix where it fits."""
    print_line(f"{rows:,} rows of {', '.join(files)}")
    print_line()
    single = [[name.replace("_", " "), _shown(value)] for name, value in scores.items() if isinstance(value, float)]
    print_table(["score", "value"], single)
    for name, reason in scores.get("undefined", {}).items():
        note(f"{name.replace('_', ' ')}: {reason}")
    if "per_class" in scores:
        print_line()
        print_table(["class", "precision", "recall", "F1", "rows"], [_class_row(row) for row in scores["per_class"]])
    if "confusion_matrix" in scores:
        _print_confusion(scores["classes"], scores["confusion_matrix"])


def _class_row(row: Mapping[str, Any]) -> list[str]:
    return [row["class"], *(_shown(row[key]) for key in ("precision", "recall", "f1")), f"{row['support']:,}"]


def _print_confusion(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
    print_line()
    if len(classes) > MOST_CLASSES:
        note(f"The confusion matrix of {len(classes)} classes is in the output of --json.")
        return
    rows = [[f"true {name}", *(f"{count:,}" for count in row)] for name, row in zip(classes, matrix, strict=True)]
    print_table(["", *(f"pred. {name}" for name in classes)], rows)
