"""The sections of a text report about its scores; those about what was trained on what are in `report_facts`.

Each is a function of the data and its key that returns HTML, or None where there is nothing to show. Imports `page`,
`charts`, `class_charts`, `verdict`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bilstm.evaluation import verdict
from bilstm.evaluation.charts import (
    Interval,
    group_chart,
    histogram,
    interval_chart,
    scatter_chart,
    word_chart,
)
from bilstm.evaluation.class_charts import confusion_chart, reliability_chart
from bilstm.evaluation.drawing import decimal, duration, integer, percent
from bilstm.evaluation.page import (
    Html,
    bullets,
    columns,
    figure,
    fold,
    isolated,
    join,
    paragraph,
    section,
    share_bar,
    table,
    tag,
)
from bilstm.evaluation.report_data import Mistake, ReportData, TellingWords
from bilstm.metrics.classification import wilson_interval

__all__ = [
    "calibration",
    "classes",
    "headline",
    "length",
    "mistakes",
    "numbers",
    "result",
    "with_shorter_texts",
    "words",
]

CLIP = 260  # characters of a mistake shown before it is opened
MAX_MATRIX, SHOWN_MATRIX = 20, 15
MAX_CLASS_ROWS = 150
MAX_WORD_FIGURES = 12
SHARE_SCORES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "classification": (
        ("accuracy", "Accuracy", "share of rows with the right class"),
        ("balanced_accuracy", "Balanced accuracy", "mean share found of each class"),
        ("macro_f1", "Macro F1", "mean F1 of the classes"),
        ("roc_auc", "ROC AUC", "chance to rank a true row above a false one"),
        ("expected_calibration_error", "Calibration error", "gap of stated and true share"),
    ),
    "multilabel": (
        ("subset_accuracy", "Whole set right", "no label missing or added"),
        ("micro_f1", "Micro F1", "F1 of all decisions together"),
        ("macro_f1", "Macro F1", "mean F1 of the labels"),
        ("hamming_loss", "Wrong decisions", "Hamming loss, lower is better"),
        ("label_ranking_average_precision", "Ranking precision", "true labels ranked on top"),
        ("roc_auc", "ROC AUC", "chance to rank a true row above a false one"),
        ("expected_calibration_error", "Calibration error", "gap of stated and true share"),
    ),
    "regression": (),
}
NUMBER_SCORES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "classification": (
        ("log_loss", "Log loss", "surprise in nats, lower is better"),
        ("brier_score", "Brier score", "squared error, lower is better"),
    ),
    "multilabel": (("log_loss", "Log loss", "surprise in nats, lower is better"),),
    "regression": (
        ("mean_absolute_error", "Mean absolute error", "in the target's unit, lower is better"),
        ("root_mean_squared_error", "Root mean squared error", "large errors weigh more"),
        ("r_squared", "R squared", "0: no better than the mean; 1: exact"),
        ("spearman", "Rank correlation", "Spearman; 1: order all right"),
    ),
}


def headline(data: ReportData) -> Html:
    """Return the head of the page: what was trained on what, the score, and the baseline beside it."""
    judged = verdict.compare_with_baseline(data)
    sentences = [paragraph(sentence) for sentence in judged.sentences]
    kind = {
        "classification": "Text classification",
        "multilabel": "Text classification with several labels a row",
        "regression": "Numbers predicted from texts",
    }[data.kind]
    return join(
        paragraph(" · ".join(part for part in (kind, data.created) if part), class_="kind"),
        tag("h1", isolated(data.title)),
        paragraph(verdict.opening(data), class_="lead"),
        tag("div", *sentences, class_=f"verdict {judged.side}") if sentences else None,
        paragraph(verdict.caveat(data), class_="hint"),
    )


def result(data: ReportData, key: str) -> Html:
    """Return all scores of model and baseline side by side, with what each means."""
    drawn = _score_figure(data)
    scores = _score_table(data)
    content = tag("div", scores, class_="narrow") if drawn is None else columns(scores, drawn)
    return section(key, "Result", content, _undefined(data.scores))


def _score_table(data: ReportData) -> Html:
    others: Mapping[str, Any] = data.baseline.scores if data.baseline is not None else {}
    number = decimal if data.kind == "regression" else _loss
    rows = []
    for entries, write in ((SHARE_SCORES[data.kind], percent), (NUMBER_SCORES[data.kind], number)):
        for name, shown, meaning in entries:
            if name not in data.scores:
                continue
            cells: list[object] = [join(shown, tag("span", meaning, class_="hint")), write(data.scores[name])]
            if data.baseline is not None:
                cells.append(write(others.get(name)))
            rows.append(cells)
    headers = ["Score", data.model_name] + (["linear baseline"] if data.baseline is not None else [])
    return table(headers, rows)


def _loss(value: float | None) -> str:
    """Write a loss in nats or a squared error of probabilities; what is nearly nothing is not worth its digits."""
    return "< 0.001" if value is not None and 0 < value < 0.001 else decimal(value)


def _score_figure(data: ReportData) -> Html | None:
    score, interval = verdict.main_score(data.scores)
    if data.kind == "regression" or score is None or interval is None:
        return None
    rows = [Interval(data.model_name, score, *interval, is_strong=True)]
    if data.baseline is not None:
        other, other_interval = verdict.main_score(data.baseline.scores)
        if other is not None and other_interval is not None:
            rows.append(Interval("linear baseline", other, *other_interval, is_own=False))
    name = "whole set right" if data.kind == "multilabel" else "accuracy"
    drawing = interval_chart(rows, title=f"{name} with its 95% interval", x_name=name, key="scores")
    caption = "Whiskers: 95% Wilson intervals, what the choice of these rows alone leaves open."
    if data.baseline is not None:
        extra = "".join(f" {note}" for note in data.baseline.notes)
        caption += f" Baseline: {data.baseline.name}, fitted and tuned in {duration(data.baseline.seconds)}.{extra}"
    return figure(drawing, caption)


def _undefined(scores: Mapping[str, Any]) -> Html | None:
    reasons = scores.get("undefined") or {}
    if not reasons:
        return None
    return paragraph(
        "Scores without a value: " + "; ".join(f"{name}: {why}" for name, why in reasons.items()), class_="hint"
    )


def classes(data: ReportData, key: str) -> Html | None:
    """Return the confusion matrix and the scores of each class or label."""
    rows = data.scores.get("per_class")
    if not rows:
        return None
    if data.kind == "multilabel" or not data.scores.get("confusion_matrix"):
        return section(key, "Each label", _class_table(rows, "Label"))
    matrix, names = data.scores["confusion_matrix"], data.scores["classes"]
    shown = range(len(names))
    caption: object = "Rows are true classes, columns predicted ones; the shade is the share of the row."
    if len(names) > MAX_MATRIX:
        wrong = [sum(matrix[i]) + sum(row[i] for row in matrix) - 2 * matrix[i][i] for i in shown]
        shown = sorted(sorted(shown, key=lambda i: -wrong[i])[:SHOWN_MATRIX])
        caption = (
            f"The {SHOWN_MATRIX} of {len(names)} classes with most mistakes. Rows are true classes, columns "
            "predicted ones; the shade is the share of the true class."
        )
    drawing = confusion_chart(
        [[matrix[i][j] for j in shown] for i in shown],
        [names[i] for i in shown],
        key="confusion",
        totals=[sum(matrix[i]) for i in shown],
    )
    pairs = _confusions(matrix, names) if len(names) > 2 else None
    both = (figure(drawing, caption), join(_class_table(rows, "Class"), pairs))
    return section(key, "Which classes are confused", columns(*both) if drawing.width <= 420 else join(*both))


def _confusions(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Html | None:
    pairs = [(row[j], i, j) for i, row in enumerate(matrix) for j in range(len(row)) if i != j and row[j] > 0]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: -pair[0])
    items = [join(isolated(names[i]), " taken for ", isolated(names[j]), f": {integer(n)}") for n, i, j in pairs[:5]]
    return join(tag("h3", "Most frequent confusions"), bullets(items))


def _class_table(rows: Sequence[Mapping[str, Any]], name: str) -> Html:
    body = [
        (
            isolated(row["class"]),
            percent(row["precision"]),
            percent(row["recall"]),
            join(share_bar(row["f1"]), percent(row["f1"])),
            integer(row["support"]),
            integer(row["predicted"]),
        )
        for row in rows[:MAX_CLASS_ROWS]
    ]
    more = len(rows) - MAX_CLASS_ROWS
    return join(
        table((name, "Precision", "Recall", "F1", "Rows", "Predicted"), body),
        paragraph(f"{more} more are in metrics.json.", class_="hint") if more > 0 else None,
        paragraph(
            "Precision: share right of those predicted. Recall: share found of those that are true. F1: their harmonic "
            "mean.",
            class_="hint",
        ),
    )


def numbers(data: ReportData, key: str) -> Html | None:
    """Return predicted against true numbers, and the errors."""
    if data.kind != "regression" or not data.predictions:
        return None
    points = list(data.predictions)
    errors = sorted(predicted - true for true, predicted in points)
    scatter = scatter_chart(
        points, title="Predicted against true", x_name="true number", y_name="predicted number", key="scatter"
    )
    figures = [figure(scatter, "On the dotted line a prediction is exact.")]
    low, high = errors[0], errors[-1]
    if high > low:
        bins = 24
        edges = [low + (high - low) * index / bins for index in range(bins + 1)]
        counts = [0] * bins
        for error in errors:
            counts[min(bins - 1, int((error - low) / (high - low) * bins))] += 1
        drawn = histogram(edges, counts, title="Errors", x_name="predicted minus true", key="errors")
        figures.append(figure(drawn, "How far predictions lie from the true number."))
    return section(key, "Predicted and true numbers", columns(*figures))


def calibration(data: ReportData, key: str) -> Html | None:
    """Return whether stated probabilities can be believed, before and after temperature scaling."""
    after = data.scores.get("calibration")
    if not after or not sum(after["counts"]):
        return None
    bins, names = [after], ["as reported"]
    if data.scores_before is not None and data.scores_before.get("calibration"):
        bins.append(data.scores_before["calibration"])
        names = ["temperature-scaled", "before"]
    ends = [
        wilson_interval(round(share * rows), rows) if rows else None
        for share, rows in zip(after["accuracy"], after["counts"], strict=True)
    ]
    drawing = reliability_chart(bins, names, key="reliability", intervals=ends)
    decision = "row and label decision" if data.kind == "multilabel" else "row"
    return section(
        key,
        "Can the probabilities be believed?",
        columns(
            figure(drawing, "On the dotted line, stated and true shares agree. Whiskers: 95% Wilson intervals."),
            join(
                *(paragraph(sentence) for sentence in verdict.calibration_story(data)),
                paragraph(
                    f"Each point gathers one bin of stated confidence ({after['bins']} bins of equal width; each "
                    f"{decision} counts once). Below the diagonal the model promises too much, above it too little.",
                    class_="hint",
                ),
            ),
        ),
    )


def length(data: ReportData, key: str) -> Html | None:
    """Return the score by text length."""
    if len(data.length_groups) < 2:
        return None
    name = {
        "classification": "accuracy",
        "multilabel": "whole set right",
        "regression": "mean absolute error",
    }[data.kind]
    series = [data.model_name, "linear baseline"][: len(data.length_groups[0].values)]
    drawing = group_chart(
        data.length_groups,
        series,
        title=f"{name.capitalize()} by text length",
        x_name="words in the text",
        y_name=name,
        key="by-length",
        as_percent=data.kind != "regression",
    )
    return section(
        key,
        "Short and long texts",
        columns(figure(drawing, "Whiskers: 95% intervals."), paragraph(verdict.length_story(data, name))),
    )


def mistakes(data: ReportData, key: str) -> Html | None:
    """Return the rows that went wrong most, with their texts."""
    if not data.mistakes:
        return None
    kind = "farthest misses" if data.kind == "regression" else "most confident mistakes"
    return section(
        key,
        f"The {len(data.mistakes)} {kind}",
        paragraph(
            "Worth reading: some of them are usually mislabelled rows, the others show what the model cannot do.",
        ),
        tag("ul", *(_mistake(mistake) for mistake in data.mistakes), class_="mistakes"),
    )


def _mistake(mistake: Mistake) -> Html:
    labels = tag(
        "p",
        tag("span", "true ", isolated(mistake.target, "right")),
        tag("span", "predicted ", isolated(mistake.predicted, "wrong"), " ", mistake.sureness),
        tag("span", isolated(mistake.where), class_="soft") if mistake.where else None,
        class_="labels",
    )
    text = mistake.text.strip()
    if not text:
        return tag("li", labels, paragraph("(empty text)", class_="soft"))
    if len(text) <= CLIP + 60:
        return tag("li", labels, tag("p", text, dir="auto"))
    start = " ".join(text[:CLIP].rsplit(None, 1)[0].split()) + "…"
    opened = tag(
        "details",
        tag("summary", tag("span", isolated(start), " ", class_="start"), tag("span", "whole text", class_="more")),
        tag("p", text, dir="auto"),
    )
    return tag("li", labels, opened)


def words(data: ReportData, key: str) -> Html | None:
    """Return the words that speak most for each class."""
    lists = [entry for entry in data.telling if entry.words]
    if not lists:
        return None
    figures = [_word_figure(entry, number) for number, entry in enumerate(lists[:MAX_WORD_FIGURES])]
    rest = [
        join(isolated(entry.name), ": ", ", ".join(word for word, _ in entry.words[:8]))
        for entry in lists[MAX_WORD_FIGURES:]
    ]
    return section(
        key,
        "Most telling words",
        paragraph(
            f"By {data.telling_source}: weight times how much the feature varies over the training texts. They show "
            "what the data holds, and leaks in it: a name or an address among them deserves a look.",
        ),
        columns(*figures),
        fold(f"{len(rest)} more", bullets(rest)) if rest else None,
    )


def _word_figure(entry: TellingWords, number: int) -> Html:
    title = f"Words for {entry.name}"
    drawing = word_chart(entry.words, title=title, key=f"words-{number}")
    return tag("div", tag("h3", "for ", isolated(entry.name)), figure(drawing))


def with_shorter_texts(data: ReportData, limit: int) -> ReportData:
    """Return the data with the texts of mistakes cut to `limit` characters, saying how many are left out."""
    shortened = [
        dataclasses.replace(
            mistake, text=f"{mistake.text[:limit]}… ({integer(len(mistake.text) - limit)} more characters)"
        )
        if len(mistake.text) > limit
        else mistake
        for mistake in data.mistakes
    ]
    return dataclasses.replace(data, mistakes=shortened)
