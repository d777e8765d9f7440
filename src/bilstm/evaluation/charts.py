"""Figures of any task: lines, scores by group, intervals, words, scatter, histogram. Those of classes: `class_charts`.

Each function takes numbers and returns a `Drawing`; `.svg()` writes it into a page, `.svg(is_standalone=True)` as a
file. All are drawn for a column of 360 pixels, so that their text is readable on a phone. Imports `drawing` only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bilstm.evaluation.drawing import (
    FONT_SIZE,
    Drawing,
    Scale,
    clip_text,
    compact,
    decimal,
    integer,
    nice_ticks,
    percent,
    text_width,
    tick_labels,
)

__all__ = [
    "LOOKS",
    "WIDTH",
    "Group",
    "Interval",
    "Series",
    "draw_legend",
    "draw_y_grid",
    "group_chart",
    "histogram",
    "interval_chart",
    "line_chart",
    "scatter_chart",
    "word_chart",
]

WIDTH = 360.0
LOOKS = (("first", "circle"), ("second", "square"), ("third", "diamond"))  # colour class and marker of a series
LINE_HEIGHT = 17.0
BOLD = 1.15  # width of bold text against that of plain text, at most about


@dataclass(frozen=True)
class Series:
    """A named line: `points` are (x, y), in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Interval:
    """A value with its spread, one row of `interval_chart`.

    `low` and `high` are the ends of the whisker, None if there is none; `points` are the single values behind it.
    `is_own` False is drawn in the second colour and marker (baselines); `is_strong` writes the name in bold.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    points: Sequence[float] = ()
    is_own: bool = True
    is_strong: bool = False


@dataclass(frozen=True)
class Group:
    """Rows that belong together, one column of `group_chart`: values and whiskers by series, in their order."""

    name: str
    rows: int
    values: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None] = ()


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_name: str,
    y_name: str,
    key: str,
    best_x: float | None = None,
    as_percent: bool = False,
) -> Drawing:
    """Draw lines over a common axis, for example a loss by epoch.

    Parameters
    ----------
    series : sequence of Series
        One to three, each with at least one point; y finite.
    title, x_name, y_name, key : str
    best_x : float, optional
        Marked by an upright line, for example the best epoch.
    as_percent : bool, default=False
        Label y as per cent of one.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    show = percent if as_percent else decimal
    told = "; ".join(f"{line.name} from {show(line.points[0][1])} to {show(line.points[-1][1])}" for line in series)
    height = 262.0
    drawing = Drawing(WIDTH, height, title, f"{y_name} by {x_name}: {told}.", key)
    y_ticks = nice_ticks(min(ys), max(ys))
    labels = tick_labels(y_ticks, as_percent)
    left = 10 + max(text_width(label) for label in labels)
    x_scale = Scale(min(xs), max(xs), left + 8, WIDTH - 14)
    top = draw_legend(drawing, [line.name for line in series], y_name) + 14
    y_scale = Scale(y_ticks[0], y_ticks[-1], height - 44, top + (16 if best_x is not None else 0))
    draw_y_grid(drawing, y_scale, y_ticks, labels, left)
    for tick, label in _whole_ticks(min(xs), max(xs)):
        drawing.text(x_scale(tick), height - 26, label, "soft", "middle")
    drawing.text((left + WIDTH) / 2, height - 7, x_name, "soft", "middle")
    if best_x is not None:
        x, label = x_scale(best_x), f"best: {best_x:g}"
        drawing.line(x, top + 8, x, height - 44, "guide")
        half = text_width(label) / 2
        drawing.text(min(max(x, left + half), WIDTH - 2 - half), top + 3, label, "soft", "middle")
    for line, (css, shape) in zip(series, LOOKS, strict=False):
        points = [(x_scale(x), y_scale(y)) for x, y in line.points]
        if len(points) > 1:
            drawing.polyline(points, f"line {css}")
        if len(points) <= 40:
            for (x, y), (px, py) in zip(line.points, points, strict=True):
                drawing.marker(px, py, shape, f"dot {css}", f"{line.name}, {x_name} {x:g}: {show(y)}")
    return drawing


def group_chart(
    groups: Sequence[Group],
    names: Sequence[str],
    *,
    title: str,
    x_name: str,
    y_name: str,
    key: str,
    as_percent: bool = True,
) -> Drawing:
    """Draw a score by groups of rows, for example accuracy by text length, with whiskers and the rows of each group.

    Parameters
    ----------
    groups : sequence of Group
        From left to right; values None are left out.
    names : sequence of str
        Of the one to three series.
    title, x_name, y_name, key : str
    as_percent : bool, default=True
    """
    show = percent if as_percent else decimal
    numbers = [v for group in groups for v in group.values if v is not None]
    numbers += [end for group in groups for ends in group.intervals if ends is not None for end in ends]
    y_ticks = [t for t in nice_ticks(min(numbers), max(numbers)) if not as_percent or -1e-9 <= t <= 1 + 1e-9]
    labels = tick_labels(y_ticks, as_percent)
    told = "; ".join(f"{group.name}: {show(group.values[0])}" for group in groups)
    height, base = 290.0, 222.0
    drawing = Drawing(WIDTH, height, title, f"{names[0]} by {x_name}: {told}.", key)
    left = 10 + max(text_width(label) for label in labels)
    top = draw_legend(drawing, list(names), y_name) + 14
    y_scale = Scale(min(y_ticks[0], min(numbers)), max(y_ticks[-1], max(numbers)), base, top)
    draw_y_grid(drawing, y_scale, y_ticks, labels, left)
    step = (WIDTH - 8 - left) / len(groups)
    shift = min(11.0, step / (2 * max(1, len(names))))
    offsets = [shift * (k - (len(names) - 1) / 2) for k in range(len(names))]
    places = [left + step * (index + 0.5) for index in range(len(groups))]
    for place, group in zip(places, groups, strict=True):
        drawing.text(place, base + 20, clip_text(group.name, step - 2, 10.5), "small", "middle")
        drawing.text(place, base + 36, compact(group.rows), "small soft", "middle")
    drawing.text((left + WIDTH) / 2, height - 6, f"{x_name}; below it, rows", "soft", "middle")
    for number in range(len(names) - 1, -1, -1):
        css, shape = LOOKS[number]
        found = [
            (place + offsets[number], group)
            for place, group in zip(places, groups, strict=True)
            if group.values[number] is not None
        ]
        if len(found) > 1:
            drawing.polyline([(x, y_scale(group.values[number] or 0.0)) for x, group in found], f"line {css}")
        for x, group in found:
            ends = group.intervals[number] if number < len(group.intervals) else None
            if ends is not None:
                drawing.line(x, y_scale(ends[0]), x, y_scale(ends[1]), f"whisker {css}")
            value = group.values[number] or 0.0
            tip = f"{names[number]}, {group.name}: {show(value)} on {integer(group.rows)} rows"
            drawing.marker(x, y_scale(value), shape, f"dot {css}", tip)
    return drawing


def interval_chart(
    rows: Sequence[Interval], *, title: str, x_name: str, key: str, as_percent: bool = True, digits: int = 1
) -> Drawing:
    """Draw one value with its whisker a row; the axis need not start at 0, so values are points, not bars.

    Parameters
    ----------
    rows : sequence of Interval
        From top to bottom.
    title, x_name, key : str
    as_percent : bool, default=True
    digits : int, default=1
        After the point, of the value written at the right.
    """
    ends = [end for row in rows for end in (row.value, row.low, row.high, *row.points) if end is not None]
    ticks = nice_ticks(min(ends), max(ends), 5)
    if as_percent:
        ticks = [tick for tick in ticks if -1e-9 <= tick <= 1 + 1e-9] or [0.0, 1.0]
    low, high = min(ticks[0], *ends), max(ticks[-1], *ends)

    def written(value: float) -> str:
        return percent(value, digits) if as_percent else decimal(value, digits)

    told = ", ".join(f"{row.name} {written(row.value)}" for row in rows)
    sizes = [FONT_SIZE * (BOLD if row.is_strong else 1) for row in rows]
    widest = max(text_width(" ".join(row.name.split()), size) for row, size in zip(rows, sizes, strict=True))
    left = 12 + min(150.0, widest)
    right = WIDTH - 12 - max(text_width(written(row.value)) for row in rows)
    pitch, top = 30.0, 10.0
    base = top + pitch * len(rows)
    drawing = Drawing(WIDTH, base + 42, title, f"{x_name}: {told}.", key)
    x_scale = Scale(low, high, left + 8, right - 8)
    for tick in ticks:
        drawing.line(x_scale(tick), top, x_scale(tick), base, "grid")
    shown = _without_crowding(ticks, tick_labels(ticks, as_percent), x_scale)
    for tick, label in shown:
        drawing.text(x_scale(tick), base + 17, label, "soft", "middle")
    drawing.text((left + right) / 2, base + 37, x_name, "soft", "middle")
    for index, row in enumerate(rows):
        y = top + pitch * (index + 0.5)
        css, shape = LOOKS[0] if row.is_own else LOOKS[1]
        weight = "strong" if row.is_strong else ""
        drawing.text(left - 4, y + 4.5, clip_text(row.name, left - 10, sizes[index]), weight, "end")
        if row.low is not None and row.high is not None:
            drawing.line(x_scale(row.low), y, x_scale(row.high), y, f"whisker {css}")
            for end in (row.low, row.high):
                drawing.line(x_scale(end), y - 4, x_scale(end), y + 4, f"whisker {css}")
        for point in row.points:
            drawing.line(x_scale(point), y - 7, x_scale(point), y + 7, f"whisker {css} faint")
        drawing.marker(x_scale(row.value), y, shape, f"dot {css}", f"{row.name}: {written(row.value)}")
        drawing.text(WIDTH - 4, y + 4.5, written(row.value), weight, "end")
    return drawing


def word_chart(words: Sequence[tuple[str, float]], *, title: str, key: str) -> Drawing:
    """Draw words with bars for their effect, strongest first.

    Parameters
    ----------
    words : sequence of (str, float)
        Effects above 0.
    title, key : str
    """
    pitch, top = 20.0, 4.0
    drawing = Drawing(WIDTH, top + pitch * len(words) + 4, title, ", ".join(word for word, _ in words), key)
    left = 10 + min(190.0, max(text_width(word) for word, _ in words))
    strongest = max(effect for _, effect in words)
    for index, (word, effect) in enumerate(words):
        y = top + pitch * index
        drawing.text(left - 4, y + 14, clip_text(word, left - 8), anchor="end")
        length = (WIDTH - left - 8) * effect / strongest
        drawing.bar(left + 4, y + 3.5, length, pitch - 7, "bar first", f"{word}: {decimal(effect)}")
    return drawing


def scatter_chart(points: Sequence[tuple[float, float]], *, title: str, x_name: str, y_name: str, key: str) -> Drawing:
    """Draw predicted against true numbers with the diagonal; axes share one range. points: (true, predicted)."""
    numbers = [value for point in points for value in point]
    ticks = nice_ticks(min(numbers), max(numbers), 8)
    labels = tick_labels(ticks)
    left = 10 + max(text_width(label) for label in labels)
    height = 356.0
    drawing = Drawing(WIDTH, height, title, f"{y_name} against {x_name} of {integer(len(points))} rows.", key)
    x_scale = Scale(ticks[0], ticks[-1], left + 6, WIDTH - 16)
    y_scale = Scale(ticks[0], ticks[-1], height - 44, 32)
    drawing.text(2, 14, y_name, "soft")
    draw_y_grid(drawing, y_scale, ticks, labels, left)
    drawing.line(x_scale(ticks[0]), y_scale(ticks[0]), x_scale(ticks[-1]), y_scale(ticks[-1]), "guide")
    for tick, label in _without_crowding(ticks, labels, x_scale):
        drawing.text(min(x_scale(tick), WIDTH - 2 - text_width(label) / 2), height - 26, label, "soft", "middle")
    drawing.text((left + WIDTH) / 2, height - 7, x_name, "soft", "middle")
    # one path of round dots: ten bytes a point
    dots = "".join(f"M{x_scale(x):.0f} {y_scale(y):.0f}h0" for x, y in points)
    drawing.add("path", "cloud first", d=dots)
    return drawing


def histogram(edges: Sequence[float], counts: Sequence[int], *, title: str, x_name: str, key: str) -> Drawing:
    """Draw counts between edges (one more than counts) as bars from 0."""
    y_ticks = nice_ticks(0, max(1, *counts), 4)
    labels = [compact(tick) for tick in y_ticks]
    left = 10 + max(text_width(label) for label in labels)
    height = 230.0
    told = f"{x_name} of {integer(sum(counts))} rows, from {edges[0]:g} to {edges[-1]:g}."
    drawing = Drawing(WIDTH, height, title, told, key)
    x_scale = Scale(edges[0], edges[-1], left + 6, WIDTH - 14)
    y_scale = Scale(0, y_ticks[-1], height - 44, 32)
    drawing.text(2, 14, "rows", "soft")
    draw_y_grid(drawing, y_scale, y_ticks, labels, left)
    for low, high, rows in zip(edges, edges[1:], counts, strict=False):
        x, y = x_scale(low), y_scale(rows)
        tip = f"{low:g} to {high:g}: {integer(rows)} rows"
        drawing.bar(x + 0.5, y, x_scale(high) - x - 1, y_scale(0) - y, "bar first", tip)
    ticks = [tick for tick in nice_ticks(edges[0], edges[-1], 7) if edges[0] <= tick <= edges[-1]]
    for tick, label in _without_crowding(ticks, tick_labels(ticks), x_scale):
        drawing.text(min(x_scale(tick), WIDTH - 2 - text_width(label) / 2), height - 26, label, "soft", "middle")
    drawing.text((left + WIDTH) / 2, height - 7, x_name, "soft", "middle")
    return drawing


def draw_legend(drawing: Drawing, names: Sequence[str], y_name: str) -> float:
    """Write what y is and each series' look, on one line or two; return the height where they end."""
    drawing.text(2, 14, y_name, "soft")
    widths = [44 + text_width(name) for name in names]
    x, y = WIDTH - sum(widths) + 6, 14.0
    if x < text_width(y_name) + 14:
        x, y = 2.0, 14 + LINE_HEIGHT
    for name, width, (css, shape) in zip(names, widths, LOOKS, strict=False):
        drawing.line(x, y - 4, x + 32, y - 4, f"line {css}")
        drawing.marker(x + 16, y - 4, shape, f"dot {css}")
        drawing.text(x + 36, y, name)
        x += width
    return y + 4


def draw_y_grid(drawing: Drawing, scale: Scale, ticks: Sequence[float], labels: Sequence[str], left: float) -> None:
    """Draw level lines with their labels at the left."""
    for tick, label in zip(ticks, labels, strict=True):
        drawing.line(left, scale(tick), WIDTH - 6, scale(tick), "grid")
        drawing.text(left - 6, scale(tick) + 4.5, label, "soft", "end")


def _whole_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return at most eight whole numbers from low to high with their labels."""
    step = next(s * 10**p for p in range(10) for s in (1, 2, 5) if (high - low) / (s * 10**p) <= 8)
    first = math.ceil(low / step) * step if step > 1 else math.ceil(low)
    return [(float(v), integer(v)) for v in range(int(first), math.floor(high) + 1, step)]


def _without_crowding(ticks: Sequence[float], labels: Sequence[str], scale: Scale) -> list[tuple[float, str]]:
    """Return every k-th tick, k the smallest for which labels do not touch."""
    widest = max(text_width(label) for label in labels) + 8
    for k in range(1, len(ticks) + 1):
        kept = list(zip(ticks, labels, strict=True))[::k]
        if len(kept) < 2 or abs(scale(kept[1][0]) - scale(kept[0][0])) >= widest:
            return kept
    return []
