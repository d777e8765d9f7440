"""The shell of a report page and its building blocks; knows no task.

A page is one file without script and without any outside resource: its policy forbids them, and allows exactly the one
style sheet it carries, by hash. What is not `Html` is escaped, so nothing from a user's file is ever read as markup.
Imports `drawing`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence

from bilstm.evaluation.drawing import FIGURE_STYLE, Drawing, escape

__all__ = [
    "Html",
    "bullets",
    "code_block",
    "columns",
    "figure",
    "fold",
    "isolated",
    "join",
    "paragraph",
    "section",
    "share_bar",
    "table",
    "tag",
    "write_page",
]

PAGE_STYLE = (
    FIGURE_STYLE
    + """
:root{color-scheme:light dark;--tint:#f4f6f8}
@media (prefers-color-scheme:dark){:root{--tint:#1c2127}}
@media print{:root{color-scheme:light;--tint:#f4f6f8}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);line-height:1.55;font-size:16px;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;overflow-wrap:anywhere}
main,header,footer{max-width:1060px;margin:0 auto;padding:0 20px}
header{padding-top:34px}
.kind{margin:0;color:var(--soft);font-size:14px}
h1{font-size:clamp(1.55rem,1.2rem + 1.6vw,2.2rem);line-height:1.2;margin:.15em 0 .5em;letter-spacing:-.01em}
h2{font-size:1.3rem;line-height:1.3;margin:0 0 .35em}
h3{font-size:1rem;margin:1.4em 0 .4em}
p{margin:.5em 0;max-width:72ch}
.lead{font-size:1.14rem}
.soft,figcaption,caption,.hint{color:var(--soft)}
.hint,figcaption{font-size:14px}
nav{margin:22px 0 0;font-size:14px}
nav ul{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:6px 18px}
a{color:var(--first);text-underline-offset:2px}
section{border-top:1px solid var(--rule);margin-top:34px;padding-top:26px}
.verdict{border-left:5px solid var(--first);background:var(--tint);padding:12px 18px;margin:18px 0;
border-radius:0 6px 6px 0;max-width:800px}
.verdict.ahead{border-color:var(--third)}.verdict.behind{border-color:var(--second)}
.verdict p{margin:.25em 0}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:26px 38px;
align-items:start;margin-top:14px}
.columns>*{min-width:0}
figure{margin:4px 0 10px;break-inside:avoid}
.columns>div>*:first-child{margin-top:0}
figure>.scroll>svg{display:block;width:100%;height:auto;max-width:480px}
figure.wide>.scroll>svg{max-width:820px;min-width:540px}
figure h3{margin:0 0 .5em}
figcaption{max-width:62ch;margin-top:6px}
.narrow{max-width:560px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:15px;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:6px;font-size:14px}
th,td{overflow-wrap:break-word;text-align:left;padding:7px 14px 7px 0;border-bottom:1px solid var(--rule);
vertical-align:top}
thead th{font-size:13px;font-weight:600;color:var(--soft);border-bottom-color:var(--soft);vertical-align:bottom}
tbody th{font-weight:500}
td.number,th.number{text-align:right;white-space:nowrap}
td.number:last-child,th.number:last-child{padding-right:2px}
tr.total>*{font-weight:600;border-bottom:0}
th .hint{display:block;font-weight:400}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:13.5px}
pre{background:var(--tint);padding:12px 16px;border-radius:6px;overflow-x:auto;white-space:pre-wrap}
summary{cursor:pointer}
details.fold>summary{color:var(--first);margin:.8em 0 .4em;width:fit-content}
.mistakes{list-style:none;margin:0;padding:0;columns:2 400px;column-gap:38px}
.mistakes>li{break-inside:avoid;border-top:1px solid var(--rule);padding:12px 0 14px;font-size:15px}
.mistakes p{margin:.3em 0 0;white-space:pre-line}
.mistakes .labels{display:flex;flex-wrap:wrap;gap:0 12px;font-size:14px;margin:0}
.mistakes summary{margin-top:.3em}
.mistakes details[open]>summary .start{display:none}
.more{color:var(--first);font-size:13.5px;white-space:nowrap}
.wrong{color:var(--second);font-weight:600}
.right{font-weight:600}
mark{background:none;color:inherit;border-bottom:2px solid var(--third)}
mark span{white-space:nowrap}.beside{display:inline-block;min-width:3.5em}
mark sub{color:var(--soft);font-size:11px;padding-left:3px;display:inline-block;text-decoration:none}
mark.missed{border-bottom-color:var(--first);font-weight:600}
mark.false{border-bottom-color:var(--second);color:var(--second);text-decoration:line-through}
svg.share{width:40px;height:8px;margin-right:8px;vertical-align:1px}
svg.share .all{fill:var(--rule)}svg.share .part{fill:var(--first)}
footer{color:var(--soft);font-size:13px;padding-top:30px;padding-bottom:44px}
@media (max-width:560px){body{font-size:15.5px}main,header,footer{padding-left:16px;padding-right:16px}
th,td{padding-right:10px}table{font-size:14px}svg.share{display:none}}
@media print{body{font-size:10.5pt}nav{display:none}section{margin-top:18pt;padding-top:12pt}
main,header,footer{max-width:none;padding:0}.scroll{overflow:visible}svg.share{display:none}
h2{break-after:avoid}tr{break-inside:avoid}
details.fold::details-content{content-visibility:visible;display:block}a{color:inherit;text-decoration:none}}
"""
)


class Html(str):
    """Text that is markup already; every other str is escaped where it enters a page."""


def tag(name: str, *content: object, **attributes: str) -> Html:
    """Return an element; an attribute's trailing underscore is dropped (`class_`)."""
    written = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items() if value)
    return Html(f"<{name}{written}>{join(*content)}</{name}>")


def join(*content: object) -> Html:
    """Return parts one after another; None is nothing, what is not Html is escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in content if part is not None))


def paragraph(*content: object, class_: str = "") -> Html:
    """Return a paragraph."""
    return tag("p", *content, class_=class_)


def isolated(text: object, class_: str = "") -> Html:
    """Return a user's words so that their writing direction does not change what stands around them."""
    return tag("bdi", text, class_=class_)


def bullets(items: Iterable[object]) -> Html:
    """Return a list."""
    return tag("ul", *(tag("li", item) for item in items))


def code_block(text: str) -> Html:
    """Return text as code, lines wrapped where they are too long."""
    return tag("pre", tag("code", text))


def section(key: str, title: str, *content: object) -> Html:
    """Return a section; `key` is its anchor, of letters and hyphens."""
    return tag("section", tag("h2", title), *content, id=key)


def columns(*content: object) -> Html:
    """Return parts side by side where there is room, below each other where not."""
    return tag("div", *(tag("div", part) for part in content if part is not None), class_="columns")


def fold(title: str, *content: object) -> Html:
    """Return content that opens on demand."""
    return tag("details", tag("summary", title), *content, class_="fold")


def figure(drawing: Drawing, caption: object = None, heading: str = "") -> Html:
    """Return a drawing with its caption; one wider than 420 scrolls sideways on a phone."""
    is_wide = drawing.width > 420
    return tag(
        "figure",
        tag("h3", heading) if heading else None,
        tag("div", Html(drawing.svg()), class_="scroll", tabindex="0" if is_wide else ""),
        None if caption is None else tag("figcaption", caption),
        class_="wide" if is_wide else "",
    )


def table(
    headers: Sequence[object], rows: Iterable[Sequence[object]], *, text_columns: int = 1, has_total: bool = False
) -> Html:
    """Return a table; the first `text_columns` columns are text, the others numbers at the right.

    Parameters
    ----------
    headers : sequence
    rows : iterable of sequences
        The first cell of each is its head.
    text_columns : int, default=1
    has_total : bool, default=False
        The last row is a sum.
    """
    look = ["" if index < text_columns else "number" for index in range(len(headers))]
    head = tag("tr", *(tag("th", cell, class_=css, scope="col") for cell, css in zip(headers, look, strict=True)))
    body = []
    rows = list(rows)
    for number, row in enumerate(rows):
        cells = [
            tag("th", cell, scope="row", class_=css) if index == 0 else tag("td", cell, class_=css)
            for index, (cell, css) in enumerate(zip(row, look, strict=True))
        ]
        body.append(tag("tr", *cells, class_="total" if has_total and number == len(rows) - 1 else ""))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll")


def share_bar(share: float | None) -> Html:
    """Return a small bar for a share of one; decoration beside the number, hidden from screen readers."""
    if share is None:
        return Html("")
    return Html(
        '<svg class="share" viewBox="0 0 40 8" aria-hidden="true"><rect class="all" width="40" height="8" rx="2"/>'
        f'<rect class="part" width="{40 * share:.1f}" height="8" rx="2"/></svg>'
    )


def write_page(
    title: str, header: Html, sections: Sequence[tuple[str, str, Html]], footer: object = "", style: str = ""
) -> str:
    """Write a whole page.

    Parameters
    ----------
    title : str
        Of the window.
    header : Html
        What stands first, with the h1.
    sections : sequence of (key, short name, Html)
        Short names make the line of links.
    footer : object
    style : str
        Further rules of the style sheet, for parts that not every page has.

    Returns
    -------
    str
        HTML 5 in ASCII-compatible UTF-8.
    """
    style = PAGE_STYLE + style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    links = tag("ul", *(tag("li", tag("a", name, href=f"#{key}")) for key, name, _ in sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        + tag("header", header, tag("nav", links, **{"aria-label": "Sections"}) if len(sections) > 2 else None)
        + "\n"
        + tag("main", *(Html("\n" + content) for _, _, content in sections))
        + "\n"
        + tag("footer", footer)
        + "\n</body>\n</html>\n"
    )
