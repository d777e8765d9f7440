"""Explanations in a terminal: words coloured and underlined, the strongest ones and the phrases below. Imports rich.

Without colours (NO_COLOR, a file) the marks are signs: `+word+` speaks for the class, `-word-` against it, doubled for
the strong ones.
"""

from __future__ import annotations

import numpy as np
from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from bilstm.explanation.explanation import Explanation, Phrase
from bilstm.explanation.pages import clipped, facts, levels_of, written

__all__ = ["render"]

# blue and orange of Okabe and Ito; the sign is told by the kind of underline too
_FOR = ("", "#56b4e9", "#56b4e9 underline", "bold #56b4e9 underline", "bold reverse #0072b2")
_AGAINST = ("", "#e69f00", "#e69f00 italic", "bold #e69f00 italic", "bold italic reverse #d55e00")
_WEIGHT = ("", "dim", "", "underline", "bold underline")
DEEPEST = 6


def render(one: Explanation, *, signs: bool = False) -> Group:
    """Return what rich prints.

    Parameters
    ----------
    one : Explanation
    signs : bool, default=False
        Mark by signs in place of colours, for a terminal without them.
    """
    head = Text(written(one.prediction), style="bold")
    if one.probability is not None:
        head.append(f"  probability of {one.targets[0]} {one.probability:.1%}", style="")
    parts: list[object] = [head, marked(one, signs=signs)]
    if not one.is_weights and len(one):
        strongest = "  ".join(f"{word} {value:+.2f}" for word, value in one.strongest(8))
        parts.append(Text(f"strongest: {strongest}", style="dim"))
    parts.append(Text(facts(one), style="dim"))
    parts += [Text(note, style="dim") for note in one.notes]
    if one.phrases and one.phrases[0].children:
        parts.append(_tree(one, one.phrases[0]))
    parts += [
        Text(f"near ({near.similarity:.2f}, {near.label}): {clipped(near.text, 160)}", style="dim")
        for near in one.neighbours
    ]
    return Group(*parts)  # type: ignore[arg-type]


def marked(one: Explanation, target: int = 0, *, signs: bool = False) -> Text:
    """Return the text with its words marked; control characters are left out."""
    values = one.attributions[:, target]
    levels, result, at = levels_of(values), Text(), 0
    for (start, stop), value, level in zip(one.spans, values.tolist(), np.asarray(levels).tolist(), strict=True):
        if start < at:
            continue
        result.append(_printable(one.text[at:start]))
        word = _printable(one.text[start:stop])
        if signs and level:
            sign = ("+" if value > 0 else "-") * (1 + (level > 2))
            result.append(f"{sign}{word}{sign}")
        else:
            styles = _WEIGHT if one.is_weights else _FOR if value > 0 else _AGAINST
            result.append(word, style=styles[level])
        at = stop
    result.append(_printable(one.text[at:]))
    return result


def _printable(text: str) -> str:
    """Leave out what could steer the terminal: a text must not."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def _tree(one: Explanation, root: Phrase) -> Tree:
    tree = Tree(_line(one, root), guide_style="dim")
    _grow(one, root, tree, 1)
    return tree


def _grow(one: Explanation, phrase: Phrase, tree: Tree, depth: int) -> None:
    for child in phrase.children:
        branch = tree.add(_line(one, child))
        if depth < DEEPEST:
            _grow(one, child, branch, depth + 1)


def _line(one: Explanation, phrase: Phrase) -> Text:
    words = _printable(clipped(one.text[one.spans[phrase.start][0] : one.spans[phrase.end - 1][1]], 80))
    together = f", together {phrase.interaction:+.2f}" if phrase.children else ""
    return Text.assemble((words, ""), (f"  {phrase.score:+.2f}{together}", "dim"))
