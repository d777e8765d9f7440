"""The small set of tools that figures and pages are made of: escaping, numbers, axis ticks, one SVG drawing.

Figures are plain SVG text without script. Colours come from CSS variables (`FIGURE_STYLE`), so that a figure follows
the light or dark scheme of the reader; the palette is Okabe and Ito's, safe for colour-blind readers, and lines also
differ by dash and marker so that they survive print. Imports the standard library only.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

__all__ = [
    "FIGURE_STYLE",
    "Drawing",
    "Scale",
    "clip_text",
    "compact",
    "decimal",
    "duration",
    "escape",
    "integer",
    "nice_ticks",
    "percent",
    "text_width",
    "tick_labels",
]

MISSING = "–"
FONT_SIZE = 12.5
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

# Colours: Okabe and Ito 2008, "Color Universal Design"; the dark scheme takes the lighter of the same hues.
FIGURE_STYLE = """
:root{--paper:#fff;--ink:#1c2126;--soft:#5b646e;--rule:#d9dee3;--first:#0072b2;--second:#c04e00;--third:#00795a;
--heat:#4a9fd4}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e8eaed;--soft:#a3adb8;--rule:#363d45;--first:#56b4e9;
--second:#f0a33c;--third:#2fc49a;--heat:#1f6fa8}}
@media print{:root{--paper:#fff;--ink:#000;--soft:#444;--rule:#ccc;--first:#0072b2;--second:#c04e00;--third:#00795a;
--heat:#4a9fd4}}
.chart{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;font-size:12.5px;fill:var(--ink);
font-variant-numeric:tabular-nums}
.chart text{fill:var(--ink)}.chart .soft{fill:var(--soft)}.chart .strong{font-weight:600}.chart .small{font-size:10.5px}
.chart .grid{stroke:var(--rule);stroke-width:1;fill:none}.chart .axis{stroke:var(--soft);stroke-width:1;fill:none}
.chart .guide{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:2 4;fill:none}
.chart .heat{fill:var(--heat)}.chart .frame{fill:none;stroke:var(--rule)}
.chart .first{stroke:var(--first)}.chart .second{stroke:var(--second)}.chart .third{stroke:var(--third)}
.chart .line{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.chart .second.line{stroke-dasharray:6 4}.chart .third.line{stroke-dasharray:2 4}
.chart .whisker{fill:none;stroke-width:1.6}.chart .dot{stroke-width:2}
.chart .first.dot,.chart .first.bar{fill:var(--first)}.chart .second.dot{fill:var(--paper)}
.chart .second.bar{fill:var(--second)}.chart .third.dot,.chart .third.bar{fill:var(--third)}
.chart .bar{stroke:none}.chart .faint{opacity:.45}
.chart .cloud{fill:none;stroke-width:4;stroke-linecap:round;opacity:.4}
"""


def escape(text: object) -> str:
    """Return text that is safe as HTML or SVG content and inside a quoted attribute.

    Characters that no page may hold (control characters, halves of surrogate pairs) become U+FFFD.
    """
    return html.escape(_UNSAFE.sub("\ufffd", str(text)), quote=True)


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share of one: 0.9243 -> "92.4%"; None -> "–"."""
    return MISSING if share is None else f"{100 * share:.{digits}f}%"


def decimal(value: float | None, digits: int = 3) -> str:
    """Write a number with fixed digits after the point; very large or small ones with an exponent; None -> "–"."""
    if value is None:
        return MISSING
    if value != 0 and not 10**-digits <= abs(value) < 1e7:
        return f"{value:.3g}".replace("-", "\u2212")
    return f"{value:,.{digits}f}".replace("-", "\u2212")


def integer(value: int) -> str:
    """Write a count with thousands separators."""
    return f"{value:,}"


def compact(value: float) -> str:
    """Write a count in at most four characters or so: 950, 1.2k, 13k, 4.5M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:.1f}{suffix}" if scaled < 9.95 else f"{scaled:.0f}{suffix}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Write a time: "0.4 s", "42 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """Estimate the width of text in a sans-serif font, on the wide side; same unit as `size`."""
    width = 0.0
    for character in text:
        if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
            continue
        if unicodedata.east_asian_width(character) in "WF":
            width += 1.1
        else:
            width += 0.34 if character in " .,:;|!'ijlIt()[]/" else 0.92 if character in "mwMW%@" else 0.6
    return width * size


def clip_text(text: str, width: float, size: float = FONT_SIZE) -> str:
    """Shorten text to a width, ending in "…" where something was left out; white space becomes single blanks."""
    text = " ".join(text.split())
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten apart) that span low..high.

    The first is at most `low`, the last at least `high`.
    """
    if not high > low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def tick_labels(ticks: Sequence[float], as_percent: bool = False) -> list[str]:
    """Write ticks with the digits that tell them apart, the same for all."""
    values = [100 * tick for tick in ticks] if as_percent else list(ticks)
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    suffix = "%" if as_percent else ""
    return [f"{value:,.{digits}f}{suffix}".replace("-", "\u2212") for value in values]


class Scale:
    """A straight map from data to drawing units.

    Parameters
    ----------
    low, high : float
        Ends of the data range; equal ends are kept apart by 1.
    start, end : float
        Where they stand in the drawing.
    """

    def __init__(self, low: float, high: float, start: float, end: float):
        self.low, self.high = low, high if high > low else low + 1.0
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        """Return where a value stands in the drawing."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


class Drawing:
    """One SVG figure: elements are added, `svg()` writes it.

    Parameters
    ----------
    width, height : float
        Size of the view box; one unit is one pixel at natural size.
    title, description : str
        Read by screen readers.
    key : str
        Unique in its page, of letters, digits and hyphens.
    """

    def __init__(self, width: float, height: float, title: str, description: str, key: str):
        self.width, self.height = width, height
        self.title, self.description, self.key = title, description, key
        self._parts: list[str] = []

    def add(self, tag: str, css: str = "", content: str | None = None, **attributes: float | str) -> None:
        """Add an element; numbers are rounded to a tenth of a unit, underscores in names become hyphens."""
        written = f' class="{css}"' if css else ""
        for name, value in attributes.items():
            shown = _number(value) if isinstance(value, int | float) else escape(value)
            written += f' {name.rstrip("_").replace("_", "-")}="{shown}"'
        self._parts.append(f"<{tag}{written}/>" if content is None else f"<{tag}{written}>{content}</{tag}>")

    def text(
        self, x: float, y: float, text: str, css: str = "", anchor: str = "start", turned: float | None = None
    ) -> None:
        """Add text whose baseline starts (or is centred, or ends) at x, y; `turned` in degrees about that point."""
        more: dict[str, float | str] = {} if anchor == "start" else {"text_anchor": anchor}
        if turned is not None:
            more["transform"] = f"rotate({_number(turned)} {_number(x)} {_number(y)})"
        self.add("text", css, escape(text), x=x, y=y, **more)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """Add a straight line."""
        self.add("path", css, d=f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}")

    def polyline(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """Add a line through points."""
        self.add("path", css, d="M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points))

    def bar(self, x: float, y: float, width: float, height: float, css: str, tip: str = "") -> None:
        """Add a filled rectangle with a tool tip."""
        self.add("rect", css, _tip(tip), x=x, y=y, width=max(0.0, width), height=max(0.0, height))

    def marker(self, x: float, y: float, shape: str, css: str, tip: str = "") -> None:
        """Add a point: "circle", "square" or "diamond", so that series differ without colour."""
        if shape == "circle":
            self.add("circle", css, _tip(tip), cx=x, cy=y, r=3.6)
        elif shape == "square":
            self.add("rect", css, _tip(tip), x=x - 3.2, y=y - 3.2, width=6.4, height=6.4)
        else:
            self.add("path", css, _tip(tip), d=f"M{_number(x)} {_number(y - 4.6)}l4.6 4.6-4.6 4.6-4.6-4.6z")

    def svg(self, is_standalone: bool = False) -> str:
        """Write the figure; a standalone one carries its own style and namespace."""
        key = escape(self.key)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_number(self.width)}" height="{_number(self.height)}"'
            if is_standalone
            else "<svg"
        )
        style = f"<style>{FIGURE_STYLE}.paper{{fill:var(--paper)}}</style>" if is_standalone else ""
        paper = '<rect class="paper" width="100%" height="100%"/>' if is_standalone else ""
        return (
            f'{head} class="chart" viewBox="0 0 {_number(self.width)} {_number(self.height)}" role="img" '
            f'aria-labelledby="{key}-title {key}-text">'
            f'<title id="{key}-title">{escape(self.title)}</title>'
            f'<desc id="{key}-text">{escape(self.description)}</desc>{style}{paper}' + "".join(self._parts) + "</svg>"
        )


def _tip(text: str) -> str | None:
    return f"<title>{escape(text)}</title>" if text else None


def _number(value: float | str) -> str:
    return f"{float(value):.1f}".rstrip("0").rstrip(".") if "." in f"{float(value):.1f}" else f"{value}"
