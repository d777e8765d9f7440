"""Explanations as HTML: words tinted and underlined in the running text, without script and without outside resources.

The sign is never told by colour alone: words that speak for the class have a solid line below, words against it a
dashed one, thicker for more; so the page can be read in print and by colour-blind readers (blue and orange of Okabe and
Ito). All text is escaped, and isolated so that its writing direction changes nothing around it. Shades are classes, not
styles, because the page's policy allows one style sheet and nothing inline. Imports `evaluation.page`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bilstm.evaluation.drawing import decimal, percent
from bilstm.evaluation.page import Html, isolated, join, paragraph, table, tag, write_page
from bilstm.explanation.explanation import Explanation, Phrase

__all__ = [
    "STYLE",
    "clipped",
    "facts",
    "fragment",
    "legend",
    "levels_of",
    "marked_text",
    "shown_explanation",
    "strongest_words",
    "tree_of_phrases",
    "write_explanations",
    "written",
]

LEVELS = 4  # shades of each sign
MOST_SHOWN = 1000  # explanations on one page

STYLE = """
.why{line-height:2.1;white-space:pre-line;max-width:80ch}
.why mark{color:inherit;background:none;border-bottom:0 solid transparent;padding:1px 0 0}
.why .p1,.why .p2,.why .p3,.why .p4{border-bottom:1px solid #0072b2}
.why .n1,.why .n2,.why .n3,.why .n4{border-bottom:1px dashed #b34700}
.why .p2,.why .n2{border-bottom-width:2px}.why .p3,.why .n3{border-bottom-width:3px}
.why .p4,.why .n4{border-bottom-width:4px;font-weight:600}
.why .p1{background:rgba(0,114,178,.10)}.why .p2{background:rgba(0,114,178,.20)}
.why .p3{background:rgba(0,114,178,.32)}.why .p4{background:rgba(0,114,178,.46)}
.why .n1{background:rgba(230,120,0,.10)}.why .n2{background:rgba(230,120,0,.22)}
.why .n3{background:rgba(230,120,0,.36)}.why .n4{background:rgba(230,120,0,.52)}
.why .w1,.why .w2,.why .w3,.why .w4{border-bottom:1px dotted #666}
.why .w2{border-bottom-width:2px}.why .w3{border-bottom-width:3px}.why .w4{border-bottom-width:4px}
.explained{border-top:1px solid #8884;padding:10px 0 16px;orphans:3;widows:3}
.explained .labels,.explained h3{break-after:avoid}
.explained .labels{display:flex;flex-wrap:wrap;gap:0 16px;font-size:14px;margin:0 0 .3em}
.explained .hint{margin:.4em 0 0}
.tree ul{list-style:none;margin:0;padding-left:1.1em;border-left:1px solid #8886}
.tree>ul{border-left:0;padding-left:0}.tree li{margin:.2em 0}.tree .why{line-height:1.7}
"""


def write_explanations(explanations: Sequence[Explanation], title: str = "Explanations") -> str:
    """Write a whole page of explanations; of more than 1,000 the first ones are shown, and the page says so."""
    shown = list(explanations)[:MOST_SHOWN]
    methods = sorted({one.method for one in shown})
    left_out = len(explanations) - len(shown)
    header = join(
        tag("h1", title),
        paragraph(f"{_texts(len(explanations))}, explained by {', '.join(methods) or 'nothing'}.", class_="lead"),
        paragraph(f"Not shown: {_texts(left_out)} behind these.", class_="hint") if left_out else None,
        legend(any(not one.is_weights for one in shown)),
    )
    body = tag("div", *(shown_explanation(one) for one in shown))
    return write_page(title, header, [("texts", "Texts", body)], style=STYLE)


def _texts(count: int) -> str:
    """Write how many texts."""
    return "1 text" if count == 1 else f"{count:,} texts"


def fragment(explanations: Sequence[Explanation]) -> str:
    """Return HTML for a notebook: the style and the explanations, without a page around them."""
    shown = list(explanations)[:50]
    rest = len(explanations) - len(shown)
    more = paragraph(f"{rest:,} more; `to_html()` shows all.", class_="hint") if rest else None
    return join(
        Html(f"<style>{STYLE}</style>"),
        legend(any(not one.is_weights for one in shown)),
        *(shown_explanation(one) for one in shown),
        more,
    )


def legend(has_signs: bool = True) -> Html:
    """Return what the marks mean."""
    if not has_signs:
        return tag("p", "The thicker the line, the larger the weight of attention. Weights are no explanation.")
    return tag(
        "p",
        tag("mark", "for the class", class_="p3"),
        " (solid line)   ",
        tag("mark", "against it", class_="n3"),
        " (dashed line). The thicker the line, the more a word adds.",
        class_="why legend",
    )


def shown_explanation(one: Explanation, *, truth: str | None = None, limit: int | None = None) -> Html:
    """Return one explained text with its answer and what the numbers say; at most `limit` characters of the text."""
    labels = [join("answer ", tag("strong", isolated(written(one.prediction))))]
    if one.probability is not None:
        labels.append(join("probability of ", isolated(one.targets[0]), f" {percent(one.probability)}"))
    elif one.unit == "number":
        labels.append(join("score ", decimal(float(one.score[0]))))
    if truth is not None:
        labels.append(join("true label ", tag("strong", isolated(truth))))
    tree = tree_of_phrases(one) if one.phrases and one.phrases[0].children else None
    near = None
    if one.neighbours:
        rows = [(isolated(clipped(n.text)), isolated(n.label), decimal(n.similarity)) for n in one.neighbours]
        near = join(tag("h3", "Nearest training texts"), table(("Text", "Label", "Similarity"), rows, text_columns=2))
    return tag(
        "div",
        tag("p", *(tag("span", label) for label in labels), class_="labels"),
        tag("p", marked_text(one, limit=limit), class_="why", dir="auto"),
        paragraph(strongest_words(one), class_="hint") if len(one.tokens) > 1 and not one.is_weights else None,
        paragraph(facts(one), class_="hint"),
        *(paragraph(note, class_="hint") for note in one.notes),
        tree,
        near,
        class_="explained",
    )


def marked_text(one: Explanation, target: int = 0, limit: int | None = None) -> Html:
    """Return the text with its words marked by what they add; at most `limit` characters of it."""
    values = one.attributions[:, target]
    levels = levels_of(values)
    parts: list[object] = []
    at, end = 0, len(one.text) if limit is None else min(limit, len(one.text))
    for (start, stop), value, level in zip(one.spans, values.tolist(), levels.tolist(), strict=True):
        if stop > end:
            break
        if start < at:
            continue
        parts.append(one.text[at:start])
        word = one.text[start:stop]
        kind = "w" if one.is_weights else "p" if value > 0 else "n"
        parts.append(tag("mark", word, class_=f"{kind}{level}", title=f"{value:+.3f}") if level else word)
        at = stop
    parts.append(one.text[at:end] + ("…" if end < len(one.text) else ""))
    return join(*parts)


def levels_of(values: np.ndarray) -> np.ndarray:
    """Return 0 to 4 for each value: quarters of the strongest one; what is below a twelfth of it is not marked."""
    sizes = np.abs(values)
    most = sizes.max(initial=0.0)
    if not most > 0:
        return np.zeros(len(values), dtype=int)
    levels = np.ceil(sizes / most * LEVELS).astype(int)
    levels[sizes < most / 12] = 0
    return levels


def tree_of_phrases(one: Explanation) -> Html:
    """Return the tree of phrases of a text, what they say only together beside each."""
    root = one.phrases[0]
    most = max(abs(phrase.score) for phrase in _all_of(root)) or 1.0
    return tag("details", tag("summary", "Phrases"), tag("div", tag("ul", _branch(one, root, most)), class_="tree"))


def _branch(one: Explanation, phrase: Phrase, most: float) -> Html:
    text = one.text[one.spans[phrase.start][0] : one.spans[phrase.end - 1][1]]
    level = int(np.ceil(abs(phrase.score) / most * LEVELS)) if abs(phrase.score) >= most / 12 else 0
    words = clipped(text, 120)
    mark = tag("mark", words, class_=f"{'p' if phrase.score > 0 else 'n'}{level}") if level else words
    together = f", together {phrase.interaction:+.2f}" if phrase.children else ""
    line = tag("span", mark, tag("span", f" {phrase.score:+.2f}{together}", class_="hint"), class_="why")
    children = [_branch(one, child, most) for child in phrase.children]
    return tag("li", line, tag("ul", *children) if children else None)


def _all_of(phrase: Phrase) -> list[Phrase]:
    return [phrase, *(deeper for child in phrase.children for deeper in _all_of(child))]


def strongest_words(one: Explanation) -> Html:
    """Name the strongest words with their numbers, which print does not show elsewhere."""
    named = [join(isolated(word), f" {value:+.2f}") for word, value in one.strongest(8)]
    return join("strongest: ", *(join(", " if at else "", part) for at, part in enumerate(named)))


def facts(one: Explanation) -> str:
    """Say how the numbers were made and how far they add up."""
    if one.is_weights:
        return "Weights of attention: where the model looked, not why it answered so."
    said = f"{one.method}: {one.unit} {one.score[0]:+.3f}"
    if one.baseline_score is not None:
        said += f"; baseline {one.baseline_score[0]:+.3f} ({one.baseline})"
    if one.gap is not None:
        said += f"; completeness gap {one.gap:.3g}"
    return said + "."


def written(prediction: object) -> str:
    """Write an answer: a class, a number, or several labels."""
    if isinstance(prediction, float):
        return f"{prediction:.6g}"
    return ", ".join(map(str, prediction)) or "no label" if isinstance(prediction, list | tuple) else str(prediction)


def clipped(text: str, limit: int = 300) -> str:
    """Return the text in one line of at most `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
