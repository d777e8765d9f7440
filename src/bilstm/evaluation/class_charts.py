"""Figures of classes: confusion matrix and reliability. Made like those of `charts`, which they import."""

from __future__ import annotations

from collections.abc import Sequence

from bilstm.evaluation.charts import LOOKS, WIDTH, draw_legend, draw_y_grid
from bilstm.evaluation.drawing import (
    Drawing,
    Scale,
    clip_text,
    compact,
    escape,
    integer,
    nice_ticks,
    percent,
    text_width,
    tick_labels,
)

__all__ = ["confusion_chart", "reliability_chart"]


def confusion_chart(
    matrix: Sequence[Sequence[int]], names: Sequence[str], *, key: str, totals: Sequence[int] | None = None
) -> Drawing:
    """Draw counts of true class (row) by predicted class (column); shade is the share of the row.

    Parameters
    ----------
    matrix : square, of non-negative integers
    names : sequence of str
    key : str
    totals : sequence of int, optional
        Rows of each true class, where the matrix is part of a larger one; by default the sums of its rows.
    """
    totals = [sum(row) for row in matrix] if totals is None else totals
    count = len(names)
    total = sum(sum(row) for row in matrix)
    right = sum(matrix[i][i] for i in range(count))
    longest = max(text_width(" ".join(name.split())) for name in names)
    left = 36 + min(110.0, max(30.0, longest))
    width = max(WIDTH, left + 34.0 * count)
    cell = min(108.0, (width - left - 2) / count)
    is_turned = min(longest, 110.0) > cell - 6
    top = 28 + (min(96.0, 0.75 * min(110.0, longest) + 10) if is_turned else 18)
    # names turned by 45 degrees hang over the right edge
    room = max(0.0, left + cell * count + (min(110.0, longest) * 0.72 - cell / 2 if is_turned else 0) - width)
    drawing = Drawing(
        width + room,
        top + cell * count + 6,
        "Confusion matrix",
        f"{integer(right)} of {integer(total)} rows lie on the diagonal, where the prediction is the true class.",
        key,
    )
    drawing.text(left + cell * count / 2, 14, "predicted", "soft", "middle")
    drawing.text(12, top + cell * count / 2, "true", "soft", "middle", turned=-90)
    for index, name in enumerate(names):
        middle = left + cell * (index + 0.5)
        if is_turned:
            drawing.text(middle, top - 6, clip_text(name, 110), turned=-45)
        else:
            drawing.text(middle, top - 6, clip_text(name, cell - 4), anchor="middle")
        drawing.text(left - 7, top + cell * (index + 0.5) + 4.5, clip_text(name, left - 35.9), anchor="end")
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            _confusion_cell(drawing, left + cell * j, top + cell * i, cell, value, totals[i], (names[i], names[j]))
    return drawing


def _confusion_cell(
    drawing: Drawing, x: float, y: float, cell: float, value: int, of: int, names: tuple[str, str]
) -> None:
    share = value / of if of else 0.0
    tip = f"true {names[0]}, predicted {names[1]}: {integer(value)} ({percent(share)} of {integer(of)})"
    drawing.add("rect", "heat", x=x, y=y, width=cell, height=cell, fill_opacity=f"{0.04 + 0.74 * share:.2f}")
    drawing.add("rect", "frame", f"<title>{escape(tip)}</title>", x=x, y=y, width=cell, height=cell)
    middle = x + cell / 2
    if cell >= 64:
        drawing.text(middle, y + cell / 2, integer(value), "strong", "middle")
        drawing.text(middle, y + cell / 2 + 17, percent(share), "soft" if share < 0.4 else "", "middle")
    elif value:
        label = integer(value) if text_width(integer(value), 10.5) <= cell - 3 else compact(value)
        drawing.text(middle, y + cell / 2 + 4, label, "small", "middle")


def reliability_chart(
    bins: Sequence[dict],
    names: Sequence[str],
    *,
    key: str,
    intervals: Sequence[tuple[float, float] | None] = (),
) -> Drawing:
    """Draw accuracy against confidence, the diagonal of a calibrated model, and below it the rows of each bin.

    Parameters
    ----------
    bins : sequence of dict
        One or two, as `evaluate_classification` gives under "calibration": edges, counts, mean_confidence, accuracy.
        The counts drawn are those of the first.
    names : sequence of str
        Of the one or two, for example "after temperature scaling", "before".
    key : str
    intervals : sequence of (low, high) or None, optional
        Whiskers of the first one's points, one a bin.
    """
    edges = bins[0]["edges"]
    used = [m for part in bins for m, rows in enumerate(part["counts"]) if rows]
    low = edges[min(used)]
    lowest = min(a for part in bins for a in part["accuracy"] if a is not None)
    y_ticks = nice_ticks(min(low, lowest), 1.0, 6)
    y_ticks = [tick for tick in y_ticks if -1e-9 <= tick <= 1 + 1e-9]
    labels = tick_labels(y_ticks, as_percent=True)
    height, base = 356.0, 266.0
    drawing = Drawing(WIDTH, height, "Calibration", _described(bins, names), key)
    left = 10 + max(text_width(label) for label in labels)
    x_scale = Scale(low, 1.0, left + 6, WIDTH - 14)
    top = draw_legend(drawing, list(names), "share right") + 14
    y_scale = Scale(min(y_ticks[0], low), 1.0, base, top)
    draw_y_grid(drawing, y_scale, y_ticks, labels, left)
    drawing.line(x_scale(low), y_scale(low), x_scale(1.0), y_scale(1.0), "guide")
    for number, part in reversed(list(enumerate(bins))):  # the first is drawn last, on top
        css, shape = LOOKS[number]
        found = [
            (x_scale(c), y_scale(a), m)
            for m, (c, a) in enumerate(zip(part["mean_confidence"], part["accuracy"], strict=True))
            if c is not None
        ]
        if len(found) > 1:
            drawing.polyline([(x, y) for x, y, _ in found], f"line {css}")
        for x, y, m in found:
            ends = intervals[m] if number == 0 and intervals else None
            if ends is not None:
                drawing.line(x, y_scale(max(ends[0], y_scale.low)), x, y_scale(ends[1]), f"whisker {css}")
            tip = (
                f"{names[number]}: stated {percent(part['mean_confidence'][m])}, right {percent(part['accuracy'][m])}, "
                f"{integer(part['counts'][m])} rows"
            )
            drawing.marker(x, y, shape, f"dot {css}", tip)
    _count_strip(drawing, edges, bins[0]["counts"], x_scale, base + 52, base + 18)
    ticks = [t for t in nice_ticks(low, 1.0, 6) if low - 1e-9 <= t <= 1 + 1e-9]
    for tick, label in zip(ticks, tick_labels(ticks, as_percent=True), strict=True):
        drawing.text(min(x_scale(tick), WIDTH - 2 - text_width(label) / 2), base + 68, label, "soft", "middle")
    drawing.text((left + WIDTH) / 2, height - 4, "stated confidence, and how many rows state it", "soft", "middle")
    return drawing


def _described(bins: Sequence[dict], names: Sequence[str]) -> str:
    gaps = []
    for part, name in zip(bins, names, strict=True):
        rows = sum(part["counts"])
        gap = sum(
            n * abs(c - a)
            for n, c, a in zip(part["counts"], part["mean_confidence"], part["accuracy"], strict=True)
            if n
        )
        gaps.append(f"{name}: mean gap {percent(gap / rows)}")
    return f"Share of right predictions by stated confidence; {', '.join(gaps)}."


def _count_strip(
    drawing: Drawing, edges: Sequence[float], counts: Sequence[int], x_scale: Scale, bottom: float, top: float
) -> None:
    """Draw bars of counts between two heights, labelled where the label fits."""
    tallest = max(counts)
    for low, high, rows in zip(edges[:-1], edges[1:], counts, strict=True):
        if rows == 0:
            continue
        x, width = x_scale(max(low, x_scale.low)), x_scale(high) - x_scale(max(low, x_scale.low))
        tall = max(1.0, (bottom - top) * 0.62 * rows / tallest)
        drawing.bar(
            x + 1,
            bottom - tall,
            width - 2,
            tall,
            "bar first faint",
            f"{percent(low)} to {percent(high)}: {rows:,} rows",
        )
        if text_width(compact(rows), 10.5) <= width + 1:
            drawing.text(x + width / 2, bottom - tall - 3, compact(rows), "small soft", "middle")
