"""The sections of a report about the run: training, data, model, and how to repeat it; the same for every task.

Each is a function of the data and its key that returns HTML, or None where there is nothing to show. Imports `page`,
`charts`, `verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bilstm.evaluation import verdict
from bilstm.evaluation.charts import Series, line_chart
from bilstm.evaluation.drawing import decimal, duration, integer, percent
from bilstm.evaluation.page import (
    Html,
    bullets,
    code_block,
    columns,
    figure,
    fold,
    isolated,
    join,
    paragraph,
    section,
    table,
    tag,
)
from bilstm.evaluation.report_data import ReportData

__all__ = ["data", "footer", "model", "repeat", "training"]


def training(data: ReportData, key: str) -> Html | None:
    """Return the learning curves of both parts, with the best epoch."""
    if not data.epochs:
        return None
    losses = _curves(data, ("train_loss", "training part"), ("dev_loss", "development part"))
    scores = _curves(data, ("train_score", "training part"), ("dev_score", "development part"))
    best = data.best_epoch
    figures = []
    if losses:
        drawn = line_chart(losses, title="Loss", x_name="epoch", y_name="loss", key="loss", best_x=best)
        figures.append(figure(drawn))
    if scores:
        name = data.score_name.replace("_", " ")
        drawn = line_chart(
            scores,
            title=f"{name.capitalize()} by epoch",
            x_name="epoch",
            y_name=name,
            key="score",
            best_x=best,
            as_percent=data.score_is_share,
        )
        figures.append(figure(drawn))
    write = percent if data.score_is_share else decimal
    rows = [
        (
            str(row.epoch),
            decimal(row.train_loss, 4),
            decimal(row.dev_loss, 4),
            write(row.train_score),
            write(row.dev_score),
        )
        for row in data.epochs
    ]
    headers = ("Epoch", "Training loss", "Development loss", "Training score", "Development score")
    return section(
        key,
        "How training went",
        paragraph(verdict.training_story(data)),
        columns(*figures),
        fold("All epochs", table(headers, rows)),
    )


def _curves(data: ReportData, *wanted: tuple[str, str]) -> list[Series]:
    found = []
    for attribute, name in wanted:
        values = [(float(row.epoch), getattr(row, attribute)) for row in data.epochs]
        points = [(epoch, float(value)) for epoch, value in values if value is not None]
        if points:
            found.append(Series(name, points))
    return found


def data(data: ReportData, key: str) -> Html | None:
    """Return what was read and what was made of it."""
    if not (data.files or data.parts or data.notes):
        return None
    content: list[object] = []
    if data.files:
        rows = [(isolated(f.name), f.use, tag("code", f.sha256[:16] or "–"), integer(f.rows)) for f in data.files]
        content.append(table(("File", "Used for", "SHA-256 begins", "Rows"), rows, text_columns=3))
    if data.parts:
        content += [tag("h3", "Parts"), _part_table(data)]
    if data.notes:
        content += [tag("h3", "Notes"), bullets(data.notes)]
    return section(key, "Data", *content)


def _part_table(data: ReportData) -> Html:
    labels = list(dict.fromkeys(label for part in data.parts for label in part.counts))
    own = labels if len(labels) <= 6 else []
    has_lengths = any(part.lengths for part in data.parts)
    has_numbers = any(part.numbers for part in data.parts)
    headers: list[object] = ["Part", "Rows", *(isolated(label) for label in own)]
    headers += ["Words: median", "95% under", "longest"] if has_lengths else []
    headers += ["Target: least", "mean", "greatest"] if has_numbers else []
    rows = []
    for part in data.parts:
        row: list[object] = [part.name, integer(part.rows)]
        row += [integer(part.counts.get(label, 0)) for label in own]
        if has_lengths:
            row += ["–"] * 3 if part.lengths is None else [integer(value) for value in part.lengths[1:]]
        if has_numbers:
            row += ["–"] * 3 if part.numbers is None else [f"{value:.4g}" for value in part.numbers]
        rows.append(row)
    spread = None
    if labels and not own:
        counts = [count for count in data.parts[0].counts.values()]
        spread = paragraph(
            f"{len(labels)} classes, {integer(min(counts))} to {integer(max(counts))} rows each in the "
            f"{data.parts[0].name}.",
            class_="hint",
        )
    return join(table(headers, rows), spread)


def model(data: ReportData, key: str) -> Html | None:
    """Return the table of layers."""
    if not data.layers:
        return None
    rows: list[Sequence[object]] = [(row.name, row.output_shape, integer(row.parameters)) for row in data.layers]
    rows.append(("Parameters", "", integer(sum(row.parameters for row in data.layers))))
    return section(key, "Model", table(("Layer", "Output shape", "Parameters"), rows, text_columns=2, has_total=True))


def repeat(data: ReportData, key: str) -> Html:
    """Return the command, seeds, versions and settings that repeat the run."""
    facts: dict[str, object] = {f"seed of {name}": value for name, value in data.seeds.items()}
    if data.seconds is not None:
        facts["training time"] = duration(data.seconds)
    if data.peak_memory is not None:
        facts["peak memory"] = f"{data.peak_memory / 2**30:.2f} GiB"
    facts |= data.machine
    tables = [_mapping_table(title, found) for title, found in (("Run", facts), ("Versions", data.versions)) if found]
    settings = fold("All settings", _mapping_table("Setting", data.settings)) if data.settings else None
    return section(key, "Repeat it", code_block(data.command), columns(*tables) if tables else None, settings)


def _mapping_table(title: str, found: Mapping[str, Any]) -> Html:
    return table((title, ""), [(name, isolated(value)) for name, value in found.items()], text_columns=2)


def footer(data: ReportData) -> Html:
    """Return the last line."""
    version = data.versions.get("bilstm")
    return paragraph(
        f"Written by bilstm{f' {version}' if version else ''}. This page loads nothing and runs no script."
    )
