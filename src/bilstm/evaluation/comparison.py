"""Several models on the same data: one table and one figure, as a page and as a standalone SVG.

Place: scores of `bilstm compare` -> page. Imports `page`, `charts`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bilstm.errors import DataError
from bilstm.evaluation.charts import Interval, interval_chart
from bilstm.evaluation.drawing import MISSING, Drawing, duration, integer, percent
from bilstm.evaluation.page import (
    bullets,
    code_block,
    figure,
    isolated,
    join,
    paragraph,
    section,
    table,
    tag,
    write_page,
)

__all__ = ["ComparedModel", "Comparison", "build_comparison", "comparison_chart", "comparison_rows"]


@dataclass(frozen=True)
class ComparedModel:
    """One model and its runs.

    Parameters
    ----------
    name : str
    scores : sequence of float
        One a seed, within 0..1; higher is better. At least one.
    seconds : sequence of float
        Training time of each run.
    parameters : int, optional
    is_baseline : bool, default=False
        The linear model, drawn apart.
    note : str
        For example what a tutorial reports for it.
    """

    name: str
    scores: Sequence[float]
    seconds: Sequence[float] = ()
    parameters: int | None = None
    is_baseline: bool = False
    note: str = ""

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the scores over seeds (n - 1); None for one seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """A comparison: what was scored, the models in order, and what a reader should know."""

    title: str
    models: Sequence[ComparedModel]
    scored_on: str
    command: str
    score_name: str = "accuracy"
    created: str = ""
    notes: Sequence[str] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the table as JSON-ready rows: name, seeds, mean, standard deviation, parameters, mean seconds."""
    _check(comparison)
    return [
        {
            "model": model.name,
            "seeds": len(model.scores),
            "mean": model.mean,
            "standard_deviation": model.spread,
            "scores": list(model.scores),
            "parameters": model.parameters,
            "seconds": statistics.fmean(model.seconds) if model.seconds else None,
        }
        for model in comparison.models
    ]


def comparison_chart(comparison: Comparison) -> Drawing:
    """Draw each model's mean, a whisker of one standard deviation and a tick for every seed."""
    _check(comparison)
    best = max(comparison.models, key=lambda model: model.mean)
    rows = [
        Interval(
            name=model.name,
            value=model.mean,
            low=None if model.spread is None else model.mean - model.spread,
            high=None if model.spread is None else model.mean + model.spread,
            points=list(model.scores) if len(model.scores) > 1 else (),
            is_own=not model.is_baseline,
            is_strong=model is best,
        )
        for model in comparison.models
    ]
    return interval_chart(rows, title=comparison.title, x_name=comparison.score_name, key="comparison", digits=2)


def build_comparison(comparison: Comparison) -> str:
    """Write the comparison as one self-contained HTML page."""
    _check(comparison)
    models = comparison.models
    best = max(models, key=lambda model: model.mean)
    has_notes = any(model.note for model in models)
    rows = []
    for model in models:
        spread = "" if model.spread is None else f" ± {100 * model.spread:.2f}"
        score = f"{percent(model.mean, 2)}{spread}"
        name = isolated(model.name)
        row: list[object] = [
            tag("strong", name) if model is best else name,
            *([isolated(model.note)] if has_notes else []),
            tag("strong", score) if model is best else score,
            str(len(model.scores)),
            MISSING if model.parameters is None else integer(model.parameters),
            duration(statistics.fmean(model.seconds)) if model.seconds else MISSING,
        ]
        rows.append(row)
    headers = ["Model", *(["Note"] if has_notes else []), comparison.score_name.capitalize()]
    headers += ["Seeds", "Parameters", "Training time"]
    lead = join(
        "Best of ",
        str(len(models)),
        " models on ",
        isolated(comparison.scored_on),
        ": ",
        tag("strong", isolated(best.name), f" with {percent(best.mean, 2)} {comparison.score_name}"),
        ".",
    )
    baseline = next((model for model in models if model.is_baseline), None)
    beaten = None
    if baseline is not None and baseline is not best:
        behind = [model.name for model in models if not model.is_baseline and model.mean <= baseline.mean]
        said = f"The linear baseline reaches {percent(baseline.mean, 2)}"
        beaten = paragraph(
            said + (f"; not better than it: {', '.join(behind)}." if behind else "; all others beat it.")
        )
    elif baseline is not None:
        beaten = paragraph(tag("strong", "No model beats the linear baseline."))
    header = join(
        paragraph(" · ".join(part for part in ("Comparison", comparison.created) if part), class_="kind"),
        tag("h1", isolated(comparison.title)),
        paragraph(lead, class_="lead"),
        None if beaten is None else tag("div", beaten, class_="verdict behind" if baseline is best else "verdict"),
    )
    caption = (
        f"Points: mean {comparison.score_name} over seeds; whiskers: one standard deviation; strokes: single seeds. "
        "The axis does not start at 0."
    )
    drawn = section("figure", "Figure", figure(comparison_chart(comparison), caption))
    listed = section("table", "Table", table(headers, rows, text_columns=2 if has_notes else 1))
    facts = [f"{name} {value}" for name, value in comparison.versions.items()]
    again = section(
        "repeat",
        "Repeat it",
        code_block(comparison.command),
        bullets(comparison.notes) if comparison.notes else None,
        paragraph(", ".join(facts), class_="hint") if facts else None,
    )
    return write_page(
        f"{comparison.title} – bilstm comparison",
        header,
        [("figure", "Figure", drawn), ("table", "Table", listed), ("repeat", "Repeat it", again)],
    )


def _check(comparison: Comparison) -> None:
    if not comparison.models:
        raise DataError("A comparison needs at least one model.")
    for model in comparison.models:
        if not model.scores:
            raise DataError(f"Model {model.name!r} has no score to compare.")
