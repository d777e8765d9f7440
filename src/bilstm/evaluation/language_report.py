"""The report of a language model: perplexity, its curve, and the shared sections about data, model and how to repeat.

Place: `score -> report`. Imports `page`, the figures and the shared sections; nothing of training or torch.
"""

from __future__ import annotations

import math

from bilstm.evaluation import report
from bilstm.evaluation.charts import Series, line_chart
from bilstm.evaluation.drawing import decimal, integer, percent
from bilstm.evaluation.page import Html, figure, fold, isolated, join, paragraph, section, table, tag
from bilstm.evaluation.report_data import ReportData

__all__ = ["build_language_report"]

HIGHEST = 700.0  # above it the exponential is no float


def build_language_report(data: ReportData) -> str:
    """Write the report of a language model.

    Parameters
    ----------
    data : ReportData
        `scores` as `LanguageModel.evaluate` gives them; losses of the epochs in nats a word.

    Returns
    -------
    str
        HTML.
    """
    sections: list[report.Section] = [
        ("result", "Result", _result),
        ("training", "Training", _training),
        report.DATA,
        report.MODEL,
        report.REPEAT,
    ]
    return report.write_report(data, sections, _headline(data))


def _headline(data: ReportData) -> Html:
    scores = data.scores
    lead = join(
        f"The {data.model_name} has a perplexity of ",
        tag("strong", decimal(scores["perplexity"], 1)),
        " on ",
        isolated(data.scored_on),
        f": on average it is as unsure of the next word as if it had to choose among "
        f"{integer(round(scores['perplexity']))} equally likely ones.",
    )
    caveat = (
        "The best epoch was chosen on these texts. Perplexities can be compared only between models with the same "
        f"vocabulary: here {integer(scores['vocabulary_size'])} words, and {percent(scores['unknown_share'])} of the "
        "words read lie outside it and count as one word."
    )
    return join(
        paragraph(" · ".join(part for part in ("Language model", data.created) if part), class_="kind"),
        tag("h1", isolated(data.title)),
        paragraph(lead, class_="lead"),
        paragraph(caveat, class_="hint"),
    )


def _result(data: ReportData, key: str) -> Html:
    scores = data.scores
    rows = [
        (
            join(name, tag("span", meaning, class_="hint")),
            decimal(part["perplexity"], 1),
            decimal(part["cross_entropy"], 4),
            decimal(part["cross_entropy"] / math.log(2), 3),
        )
        for name, meaning, part in (
            ("Both directions", "mean surprise of both", scores),
            ("Forwards", "next word from the words before it", scores["forward"]),
            ("Backwards", "word before from the words after it", scores["backward"]),
        )
    ]
    counted = (
        f"{integer(scores['predictions'])} predictions a direction: {integer(scores['words'])} words and the ends of "
        f"{integer(scores['rows'])} texts."
    )
    shown = tag("div", table(("Direction", "Perplexity", "Nats a word", "Bits a word"), rows), class_="narrow")
    return section(key, "Result", paragraph(counted), shown)


def _training(data: ReportData, key: str) -> Html | None:
    if not data.epochs:
        return None
    series = []
    for attribute, name in (("train_loss", "training part"), ("dev_loss", "development part")):
        values = [(float(row.epoch), getattr(row, attribute)) for row in data.epochs]
        points = [(epoch, math.exp(min(loss, HIGHEST))) for epoch, loss in values if loss is not None]
        if points:
            series.append(Series(name, points))
    drawing = line_chart(
        series, title="Perplexity", x_name="epoch", y_name="perplexity", key="perplexity", best_x=data.best_epoch
    )
    rows = [
        (
            str(row.epoch),
            decimal(math.exp(min(row.train_loss, HIGHEST)), 1),
            "–" if row.dev_loss is None else decimal(math.exp(min(row.dev_loss, HIGHEST)), 1),
        )
        for row in data.epochs
    ]
    told = (
        f"The weights of epoch {data.best_epoch} of {len(data.epochs)} were kept. The training part is measured while "
        "the model learns, with dropout and a sample of the words; the development part with all of them."
    )
    return section(
        key,
        "How training went",
        paragraph(told),
        figure(drawing),
        fold("All epochs", table(("Epoch", "Training perplexity", "Development perplexity"), rows)),
    )
