"""Figures: known points stand where they should, labels do not touch, and every figure is valid XML."""

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm.evaluation import charts, class_charts, drawing
from bilstm.evaluation.charts import Group, Interval, Series

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('x')</script>\x00 \ud800 😀 שלום"


def parsed(figure: drawing.Drawing) -> ElementTree.Element:
    return ElementTree.fromstring(figure.svg(is_standalone=True).encode("utf-8"))


def texts(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [element for element in root.iter(f"{SVG}text")]


def place(root: ElementTree.Element, words: str) -> tuple[float, float]:
    found = [element for element in texts(root) if element.text == words]
    assert len(found) == 1, f"{words}: {len(found)}"
    return float(found[0].get("x")), float(found[0].get("y"))


def circles(root: ElementTree.Element) -> list[tuple[float, float, str]]:
    marked = root.iter(f"{SVG}circle")
    return [(float(c.get("cx")), float(c.get("cy")), "".join(c.itertext())) for c in marked if list(c)]


def boxes(root: ElementTree.Element) -> list[tuple[str, float, float, float, float]]:
    """Return text, left, right, top and bottom of every upright text, widths as a sans-serif font has them or wider."""
    found = []
    for element in texts(root):
        if element.get("transform"):
            continue
        size = 10.5 if "small" in (element.get("class") or "") else 12.5
        # 0.5 em is the mean width of letters and digits in common sans-serif fonts
        width = 0.5 * size * len(element.text or "")
        x, y = float(element.get("x")), float(element.get("y"))
        left = x - {"start": 0, "middle": width / 2, "end": width}[element.get("text-anchor", "start")]
        found.append((element.text or "", left, left + width, y - 0.75 * size, y + 0.2 * size))
    return found


def assert_no_overlap(figure: drawing.Drawing) -> None:
    root = parsed(figure)
    for a, b in itertools.combinations(boxes(root), 2):
        apart = a[2] <= b[1] or b[2] <= a[1] or a[4] <= b[3] or b[4] <= a[3]
        assert apart, f"{a} and {b} overlap"
    for text, left, right, top, bottom in boxes(root):
        assert left >= -1, text
        assert right <= figure.width + 1, text
        assert top >= -1, text
        assert bottom <= figure.height + 1, text


def line_figure(**changes):
    series = [
        Series("training part", [(e, 1 / e) for e in range(1, 12)]),
        Series("development part", [(e, 0.1 * e) for e in range(1, 12)]),
    ]
    arguments = {"title": "Loss", "x_name": "epoch", "y_name": "loss", "key": "k", "best_x": 7} | changes
    return charts.line_chart(series, **arguments)


def test_points_of_a_line_chart_stand_between_their_ticks():
    root = parsed(line_figure())
    x_tick, top = {w: place(root, str(w))[0] for w in (2, 4, 6, 8, 10)}, {w: place(root, w)[1] for w in ("0.0", "0.5")}
    assert x_tick[10] - x_tick[8] == pytest.approx(x_tick[4] - x_tick[2], abs=0.2)
    points = {tip: (x, y) for x, y, tip in circles(root)}
    x, y = points["training part, epoch 2: 0.500"]
    assert x == pytest.approx(x_tick[2], abs=0.1)
    assert y == pytest.approx(top["0.5"] - 4.5, abs=0.1)  # labels stand 4.5 below their line
    x, y = points["training part, epoch 4: 0.250"]
    assert x == pytest.approx(x_tick[4], abs=0.1)
    assert y == pytest.approx((top["0.0"] + top["0.5"]) / 2 - 4.5, abs=0.1)
    assert place(root, "best: 7")[0] == pytest.approx(points["training part, epoch 7: 0.143"][0], abs=0.1)


def test_confusion_cells_are_true_by_row_and_shaded_by_share():
    root = parsed(class_charts.confusion_chart([[9, 1], [3, 7]], ["no", "yes"], key="c"))
    assert place(root, "9")[0] == place(root, "3")[0] < place(root, "1")[0]
    assert place(root, "9")[1] == place(root, "1")[1] < place(root, "3")[1]
    shade = [float(e.get("fill-opacity")) for e in root.iter(f"{SVG}rect") if e.get("class") == "heat"]
    assert shade == [pytest.approx(0.04 + 0.74 * share, abs=0.006) for share in (0.9, 0.1, 0.3, 0.7)]
    tips = [e.text for e in root.iter(f"{SVG}title")]
    assert "true yes, predicted no: 3 (30.0% of 10)" in tips
    assert place(root, "30.0%")[0] == place(root, "3")[0]


def bins(counts, confidence, accuracy):
    edges = [index / len(counts) for index in range(len(counts) + 1)]
    return {"edges": edges, "counts": counts, "mean_confidence": confidence, "accuracy": accuracy}


def test_reliability_points_stand_on_the_diagonal_where_stated_is_true():
    found = bins([0, 10, 30, 60], [None, 0.4, 0.6, 0.9], [None, 0.4, 0.8, 0.9])
    root = parsed(class_charts.reliability_chart([found], ["as reported"], key="r", intervals=[None, None, None, None]))
    points = {tip.split("stated ")[1].split(",")[0]: (x, y) for x, y, tip in circles(root)}
    (guide,) = [e for e in root.iter(f"{SVG}path") if e.get("class") == "guide"]
    (x1, y1), (x2, y2) = [map(float, part.split()) for part in guide.get("d")[1:].split("L")]

    def diagonal(x):
        return y1 + (x - x1) / (x2 - x1) * (y2 - y1)

    for stated in ("40.0%", "90.0%"):
        x, y = points[stated]
        assert y == pytest.approx(diagonal(x), abs=0.2)
    x, y = points["60.0%"]
    assert y < diagonal(x) - 5  # right more often than stated: above
    heights = [float(e.get("height")) for e in root.iter(f"{SVG}rect") if "bar" in (e.get("class") or "")]
    assert [h / heights[-1] for h in heights] == [pytest.approx(1 / 6, abs=0.02), pytest.approx(0.5, abs=0.02), 1]


def test_intervals_reach_from_low_to_high():
    rows = [Interval("one", 0.5, 0.4, 0.6), Interval("two", 0.8, is_own=False)]
    root = parsed(charts.interval_chart(rows, title="t", x_name="accuracy", key="i"))
    ticks = {w: place(root, w)[0] for w in ("40%", "50%", "60%", "80%")}
    (point,) = circles(root)
    assert point[0] == pytest.approx(ticks["50%"], abs=0.1)
    whiskers = [e.get("d") for e in root.iter(f"{SVG}path") if e.get("class") == "whisker first"]
    start, end = whiskers[0][1:].split("L")
    assert float(start.split()[0]) == pytest.approx(ticks["40%"], abs=0.1)
    assert float(end.split()[0]) == pytest.approx(ticks["60%"], abs=0.1)


def test_bars_of_words_are_proportional():
    root = parsed(charts.word_chart([("bad", 4.0), ("dull", 1.0)], title="t", key="w"))
    first, second = [float(e.get("width")) for e in root.iter(f"{SVG}rect") if "bar" in (e.get("class") or "")]
    assert second / first == pytest.approx(0.25, abs=0.002)


def test_histogram_bars_are_counts_from_zero():
    root = parsed(charts.histogram([0, 1, 2, 3], [5, 0, 10], title="t", x_name="x", key="h"))
    heights = [float(e.get("height")) for e in root.iter(f"{SVG}rect") if "bar" in (e.get("class") or "")]
    assert heights[0] / heights[2] == pytest.approx(0.5, abs=0.01)
    assert heights[1] == 0


def test_scatter_points_and_diagonal_share_one_scale():
    root = parsed(charts.scatter_chart([(1.0, 1.0), (2.0, 4.0)], title="t", x_name="true", y_name="said", key="s"))
    (cloud,) = [e.get("d") for e in root.iter(f"{SVG}path") if "cloud" in (e.get("class") or "")]
    first, second = [tuple(map(float, part.split())) for part in cloud.replace("h0", "").split("M")[1:]]
    (guide,) = [e for e in root.iter(f"{SVG}path") if e.get("class") == "guide"]
    (x1, y1), (x2, y2) = [map(float, part.split()) for part in guide.get("d")[1:].split("L")]
    assert first[1] == pytest.approx(y1 + (first[0] - x1) / (x2 - x1) * (y2 - y1), abs=1.1)  # on the diagonal
    assert second[1] < y1 + (second[0] - x1) / (x2 - x1) * (y2 - y1) - 10  # predicted above true


GROUPS = [Group(f"{10**k}–{10 ** (k + 1)}", 10**k, [0.9 - k / 100, 0.8], [(0.85, 0.95), None]) for k in range(4)]
FIGURES = {
    "line": line_figure,
    "line of one epoch": lambda: charts.line_chart(
        [Series("training part", [(1, 0.5)]), Series("development part", [(1, 0.5)])],
        title="t",
        x_name="epoch",
        y_name="accuracy",
        key="k",
        best_x=1,
        as_percent=True,
    ),
    "line with a long name": lambda: line_figure(y_name="root mean squared error of everything"),
    "line of many epochs": lambda: charts.line_chart(
        [Series("a", [(e, 1e-6 * e) for e in range(1, 501)])],
        title="t",
        x_name="epoch",
        y_name="loss",
        key="k",
        best_x=500,
    ),
    "two classes": lambda: class_charts.confusion_chart([[12000, 345], [67, 8]], ["negative", "positive"], key="k"),
    "many classes": lambda: class_charts.confusion_chart(
        [[10 ** (abs(i - j) % 6) for j in range(15)] for i in range(15)],
        [f"class number {i}" for i in range(15)],
        key="k",
    ),
    "reliability": lambda: class_charts.reliability_chart(
        [bins([3, 0, 99999, 12], [0.1, None, 0.6, 0.9], [0.0, None, 0.7, 1.0])] * 2,
        ["temperature-scaled", "before"],
        key="k",
    ),
    "groups": lambda: charts.group_chart(
        GROUPS, ["BiLSTM", "linear baseline"], title="t", x_name="words", y_name="accuracy", key="k"
    ),
    "groups of errors": lambda: charts.group_chart(
        GROUPS, ["BiLSTM"], title="t", x_name="words", y_name="mean absolute error", key="k", as_percent=False
    ),
    "intervals": lambda: charts.interval_chart(
        [Interval("a model with a really long name", 0.9221, 0.92, 0.924, [0.92, 0.923]), Interval("b", 0.5)],
        title="t",
        x_name="accuracy",
        key="k",
        digits=2,
    ),
    "words": lambda: charts.word_chart([("of the worst " * 9, 2.0), ("bad", 1.0)], title="t", key="k"),
    "histogram": lambda: charts.histogram([-1e5, 0, 1e5], [3, 70000], title="t", x_name="error", key="k"),
    "scatter": lambda: charts.scatter_chart([(1e6, 2e6), (3e6, -1e6)], title="t", x_name="x", y_name="y", key="k"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_labels_do_not_overlap_and_stay_inside(name):
    assert_no_overlap(FIGURES[name]())


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_told_to_screen_readers_and_takes_its_colours_from_the_scheme(name):
    figure = FIGURES[name]()
    root = parsed(figure)
    assert root.get("role") == "img"
    told = {element.get("id"): element.text for element in root if element.tag in (f"{SVG}title", f"{SVG}desc")}
    assert root.get("aria-labelledby").split() == list(told)
    assert all(told.values())
    assert [float(part) for part in root.get("viewBox").split()] == pytest.approx(
        [0, 0, figure.width, figure.height],
        abs=0.06,  # written with one digit after the point
    )
    inside = figure.svg()
    assert "xmlns" not in inside
    assert "<style" not in inside
    assert "style=" not in inside  # a style attribute would be refused by the page's policy
    assert "#" not in inside.replace("&#x27;", "")  # no fixed colours


def test_hostile_names_are_text_only():
    figures = [
        charts.line_chart([Series(HOSTILE, [(1, 1), (2, 2)])], title=HOSTILE, x_name=HOSTILE, y_name="y", key="k"),
        class_charts.confusion_chart([[1, 2], [3, 4]], [HOSTILE, "b"], key="k"),
        charts.word_chart([(HOSTILE, 1.0)], title=HOSTILE, key="k"),
        charts.interval_chart([Interval(HOSTILE, 0.5)], title=HOSTILE, x_name=HOSTILE, key="k"),
        charts.group_chart([Group(HOSTILE, 1, [0.5])] * 2, [HOSTILE], title=HOSTILE, x_name="x", y_name="y", key="k"),
    ]
    for figure in figures:
        root = parsed(figure)
        assert not [e for e in root.iter() if e.tag.endswith("script")]
        assert "<script>" not in figure.svg()


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 8))
def test_ticks_span_the_range_at_round_steps(low, width, count):
    high = low + width
    ticks = drawing.nice_ticks(low, high, count)
    step = ticks[1] - ticks[0]
    slack = 1e-6 * step + 4 * np.finfo(float).eps * max(abs(low), abs(high))  # places of a tick that float64 can tell
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= count + 2
    assert all(b > a for a, b in itertools.pairwise(ticks))


def test_ticks_and_numbers_by_hand():
    assert drawing.nice_ticks(0.0, 1.0) == [0.0, 0.5, 1.0]
    assert drawing.nice_ticks(0.0, 1.0, 6) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert drawing.nice_ticks(0.83, 0.92) == [0.8, 0.85, 0.9, 0.95]
    assert drawing.nice_ticks(5, 5) == [4.5, 5.0, 5.5]
    assert drawing.tick_labels([0.82, 0.84], as_percent=True) == ["82%", "84%"]
    assert drawing.tick_labels([0.825, 0.83], as_percent=True) == ["82.5%", "83.0%"]
    assert drawing.tick_labels([-0.5, 0.0]) == ["\u22120.5", "0.0"]
    assert [drawing.compact(v) for v in (7, 999, 1000, 1234, 12_345, 999_999, 4_500_000)] == [
        "7",
        "999",
        "1.0k",
        "1.2k",
        "12k",
        "1.0M",
        "4.5M",
    ]
    assert [drawing.duration(v) for v in (0.44, 42.4, 59.7, 200, 7500)] == [
        "0.4 s",
        "42 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert drawing.percent(0.92434) == "92.4%"
    assert drawing.percent(None) == "–"
    assert [drawing.decimal(v) for v in (0.12345, -2.0, 1e-6, 1e9, 0.0)] == [
        "0.123",
        "\u22122.000",
        "1e\u221206",
        "1e+09",
        "0.000",
    ]
    assert drawing.clip_text("a  b\nc", 100) == "a b c"
    assert drawing.clip_text("x" * 50, 60).endswith("…")
    assert drawing.escape("<a href='x'>&\x00\ud800") == "&lt;a href=&#x27;x&#x27;&gt;&amp;\ufffd\ufffd"
