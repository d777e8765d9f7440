"""The report of a tagger: the page of text classification with the parts that make sense for tags.

Place: `score -> report`. Scores are those of `tasks.tagging_scores`; curves, data, model and how to repeat it come from
the shared sections. Imports `page`, the figures and the shared sections; nothing of training or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bilstm.data.tagged_sentences import joined_text
from bilstm.data.tags import Span
from bilstm.evaluation import report
from bilstm.evaluation.class_charts import confusion_chart
from bilstm.evaluation.drawing import integer, percent
from bilstm.evaluation.page import (
    Html,
    columns,
    figure,
    isolated,
    join,
    paragraph,
    section,
    share_bar,
    table,
    tag,
)
from bilstm.evaluation.report_data import ReportData

__all__ = ["TaggingMistake", "build_tagging_report", "score_rows"]

SHOWN_TYPES = 20  # of the confusion matrix
SHOWN_ROWS = 60  # of the table of types
BESIDE = 8  # types whose confusion matrix has room beside their table


@dataclass(frozen=True)
class TaggingMistake:
    """A sentence that was answered wrongly.

    Parameters
    ----------
    tokens : sequence of str
    gold, found : sequence of Span
        Spans; of plain tags, one span for each token whose tag is wrong.
    where : str
        File and line.
    gold_intent, found_intent : str or None
        Only where they differ.
    """

    tokens: Sequence[str]
    gold: Sequence[Span]
    found: Sequence[Span]
    where: str = ""
    gold_intent: str | None = None
    found_intent: str | None = None


def build_tagging_report(
    data: ReportData, mistakes: Sequence[TaggingMistake], further: Sequence[report.Section] = (), style: str = ""
) -> str:
    """Write the report of a tagger.

    Parameters
    ----------
    data : ReportData
        `scores` as `tasks.tagging_scores.score_tagging` gives them; `baseline.scores` too.
    mistakes : sequence of TaggingMistake
    further : sequence of (key, name, function)
        Sections of another stage, put behind the mistakes.
    style : str
        Rules of the style sheet that they need.

    Returns
    -------
    str
        HTML.
    """
    sections: list[report.Section] = [
        ("result", "Result", _result),
        ("types", "Types" if "f1" in data.scores else "Tags", _types),
        report.TRAINING,
        ("mistakes", "Mistakes", lambda shown, key: _mistakes(mistakes, key)),
        *further,
        report.DATA,
        report.MODEL,
        report.REPEAT,
    ]
    return report.write_report(data, sections, _headline(data), style)


def _main(scores: Mapping[str, Any]) -> tuple[str, float]:
    return ("span F1", scores["f1"]) if "f1" in scores else ("of the tags right", scores["token_accuracy"])


def _headline(data: ReportData) -> Html:
    name, value = _main(data.scores)
    sentences = sum(part.rows for part in data.parts if part.name.startswith("training"))
    intent = data.scores.get("intent")
    also = f" and {percent(intent['accuracy'])} of the intents right" if intent else ""
    lead = join(
        f"The {data.model_name}, trained on {integer(sentences)} sentences, reaches ",
        tag("strong", f"{percent(value)} {name}{also}"),
        " on ",
        isolated(data.scored_on),
        ".",
    )
    return join(
        paragraph(" · ".join(part for part in ("Sequence tagging", data.created) if part), class_="kind"),
        tag("h1", isolated(data.title)),
        paragraph(lead, class_="lead"),
        _verdict(data, name, value),
        paragraph(_caveat(data), class_="hint"),
    )


def _verdict(data: ReportData, name: str, value: float) -> Html | None:
    if data.baseline is None:
        return None
    other = _main(data.baseline.scores)[1]
    gap = f"{abs(100 * (value - other)):.1f} points"
    said = f"tagging {data.baseline.name} ({percent(other)} {name})"
    if value > other:
        return tag("div", paragraph(tag("strong", f"It is {gap} ahead of {said}.")), class_="verdict ahead")
    advice = " Give it more sentences, more epochs or other settings before you use it."
    said = join(tag("strong", f"The {data.model_name} does not beat {said}: it is {gap} behind."), advice)
    return tag("div", paragraph(said), class_="verdict behind")


def _caveat(data: ReportData) -> str:
    if data.is_final:
        return "Nothing was chosen on these sentences: the figures are what to expect on text of the same kind."
    return (
        "The best epoch was chosen on these sentences, so expect a little less on new text. For a final figure, run "
        "bilstm evaluate on a file that was not used here."
    )


def score_rows(scores: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Name, meaning and value of every score that is a share, in the order of the report."""
    rows: list[tuple[str, str, float]] = []
    if "f1" in scores:
        rows += [
            ("F1", "of spans: borders and type right", scores["f1"]),
            ("Precision", "share of answered spans that are right", scores["precision"]),
            ("Recall", "share of true spans that were found", scores["recall"]),
            ("F1 of unseen spans", "whose words never were a span in training", scores["unseen_spans"]["f1"]),
            ("Recall of unseen spans", "the same", scores["unseen_spans"]["recall"]),
            ("F1 of surface forms", "every different name counted once", scores["surface_forms"]["f1"]),
        ]
    rows.append(("Tokens right", "share of tokens with the right tag", scores["token_accuracy"]))
    rows.append(("Unseen words right", "words that training lacks", scores["unseen_words"]["accuracy"]))
    if "intent" in scores:
        rows.append(("Intents right", "share of sentences", scores["intent"]["accuracy"]))
    rows.append(("Sentences right", "everything right", scores["sentence_accuracy"]))
    return rows


def _result(data: ReportData, key: str) -> Html:
    others = {name: value for name, _, value in score_rows(data.baseline.scores)} if data.baseline else {}
    rows: list[list[object]] = []
    for name, meaning, value in score_rows(data.scores):
        row: list[object] = [join(name, tag("span", meaning, class_="hint")), percent(value)]
        if data.baseline is not None:
            row.append(percent(others[name]) if name in others else "–")
        rows.append(row)
    headers = ["Score", data.model_name, *(["baseline"] if data.baseline is not None else [])]
    counted = f"{integer(data.scores['tokens'])} tokens in {integer(data.scores['sentences'])} sentences."
    unknown = data.scores["unknown_tags"] | data.scores.get("intent", {}).get("unknown", {})
    warning = None
    if unknown:
        shown = ", ".join(f"{name} ({integer(count)})" for name, count in unknown.items())
        warning = paragraph(f"Training lacks these, so they are always wrong: {shown}.", class_="hint")
    return section(key, "Result", paragraph(counted), tag("div", table(headers, rows), class_="narrow"), warning)


def _types(data: ReportData, key: str) -> Html:
    has_spans = "f1" in data.scores
    found: Mapping[str, Mapping[str, Any]] = data.scores["per_type" if has_spans else "per_tag"]
    ordered = sorted(found.items(), key=lambda item: -item[1]["support"])
    rows = [
        (
            isolated(name),
            join(share_bar(counts["f1"]), tag("span", percent(counts["f1"]), class_="beside")),
            percent(counts["precision"]),
            percent(counts["recall"]),
            integer(counts["support"]),
            integer(counts["predicted"]),
        )
        for name, counts in ordered[:SHOWN_ROWS]
    ]
    what = "Type" if has_spans else "Tag"
    left_out = len(ordered) - len(rows)
    more = paragraph(f"{left_out} rarer ones are not shown.", class_="hint") if left_out > 0 else None
    per_type = join(table((what, "F1", "Precision", "Recall", "True", "Answered"), rows), more)
    confusion = _confusion(data, has_spans)
    both = columns(per_type, confusion) if len(found) <= BESIDE else join(per_type, confusion)
    return section(key, f"Each {what.lower()}", both)


def _confusion(data: ReportData, has_spans: bool) -> Html:
    names, counts = data.scores["confusion"]["names"], data.scores["confusion"]["counts"]
    shown = list(range(len(names)))
    if len(names) > SHOWN_TYPES:
        wrong = [sum(counts[at]) + sum(row[at] for row in counts) - 2 * counts[at][at] for at in shown]
        shown = sorted(sorted(shown, key=lambda at: -wrong[at])[:SHOWN_TYPES])
    drawing = confusion_chart(
        [[counts[row][column] for column in shown] for row in shown],
        [names[at] for at in shown],
        key="confusion",
        totals=[sum(counts[at]) for at in shown],
    )
    caption = (
        "Spans with the same borders. Rows are true types, columns answered ones; “(none)”: no span with these borders."
        if has_spans
        else "Rows are true tags, columns answered ones; the shade is the share of the row."
    )
    if len(names) > SHOWN_TYPES:
        caption += f" The {SHOWN_TYPES} of {len(names)} with most mistakes."
    return figure(drawing, caption)


def _mistakes(mistakes: Sequence[TaggingMistake], key: str) -> Html | None:
    if not mistakes:
        return None
    entries = [_mistake(mistake) for mistake in mistakes]
    explained = "Sentences with a wrong answer. What is true and was not answered so is underlined; what was answered "
    return section(
        key, "Mistakes", paragraph(explained + "and is not so is crossed."), tag("ul", *entries, class_="mistakes")
    )


def _mistake(mistake: TaggingMistake) -> Html:
    missed = [span for span in mistake.gold if span not in mistake.found]
    wrong = [span for span in mistake.found if span not in mistake.gold]
    labels: list[object] = []
    if mistake.gold_intent is not None:
        true = tag("span", isolated(mistake.gold_intent), class_="right")
        answered = tag("span", isolated(mistake.found_intent), class_="wrong")
        labels += [join("intent ", true), join("answered ", answered)]
    labels.append(tag("span", mistake.where, class_="hint"))
    lines = [tag("div", *labels, class_="labels")]
    if missed or wrong:
        right = [span for span in mistake.gold if span in mistake.found]
        lines.append(_line("true", mistake.tokens, right, missed, "missed"))
        lines.append(_line("answered", mistake.tokens, right, wrong, "false"))
    else:
        lines.append(paragraph(isolated(" ".join(mistake.tokens))))
    return tag("li", *lines)


def _line(name: str, tokens: Sequence[str], right: Sequence[Span], different: Sequence[Span], look: str) -> Html:
    """One line of text with its spans marked."""
    text, offsets = joined_text(tokens)
    pieces: list[object] = [tag("span", f"{name}: ", class_="hint")]
    place = 0
    marked = [(span, "agreed") for span in right] + [(span, look) for span in different]
    for span, kind in sorted(marked):
        begin, end = offsets[span.begin][0], offsets[span.end - 1][1]
        pieces.append(text[place:begin])
        last = text.rfind(" ", begin, end) + 1 or begin  # the type stays on the line of the last word
        kept = tag("span", text[last:end], tag("sub", span.type))
        pieces.append(tag("mark", text[begin:last], kept, class_=kind))
        place = end
    pieces.append(text[place:])
    return paragraph(tag("bdi", *pieces))
