"""The report of a training run or an evaluation: one self-contained HTML page.

Place: `score -> report`. `build_report` chooses the sections that the data can fill and puts them into the page; a task
with other sections (tags, series) calls `write_report` with its own list. Imports `page`, `report_data` and the section
functions; nothing of training or torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bilstm.evaluation import report_facts as facts
from bilstm.evaluation import report_sections as parts
from bilstm.evaluation.page import Html, write_page
from bilstm.evaluation.report_data import ReportData

__all__ = ["MAX_BYTES", "Section", "build_report", "write_report"]

# key, name in the line of links, function that returns the section, or None where there is nothing to show
Section = tuple[str, str, Callable[[ReportData, str], Html | None]]

MAX_BYTES = 200_000
TEXT_LIMITS = (2500, 1000, 400, 150)  # characters of a mistake that are kept, tried until the page is small enough

RESULT: Section = ("result", "Result", parts.result)
CLASSES: Section = ("classes", "Classes", parts.classes)
NUMBERS: Section = ("numbers", "Predictions", parts.numbers)
TRAINING: Section = ("training", "Training", facts.training)
CALIBRATION: Section = ("calibration", "Probabilities", parts.calibration)
LENGTH: Section = ("length", "Text length", parts.length)
MISTAKES: Section = ("mistakes", "Mistakes", parts.mistakes)
WORDS: Section = ("words", "Words", parts.words)
DATA: Section = ("data", "Data", facts.data)
MODEL: Section = ("model", "Model", facts.model)
REPEAT: Section = ("repeat", "Repeat it", facts.repeat)

SECTIONS: tuple[Section, ...] = (
    RESULT,
    CLASSES,
    NUMBERS,
    TRAINING,
    CALIBRATION,
    LENGTH,
    MISTAKES,
    WORDS,
    DATA,
    MODEL,
    REPEAT,
)


def build_report(data: ReportData, further: Sequence[Section] = (), style: str = "") -> str:
    """Write the report of a text task.

    Parameters
    ----------
    data : ReportData
    further : sequence of (key, name, function)
        Sections of another stage, put behind the mistakes.
    style : str
        Rules of the style sheet that they need.

    Returns
    -------
    str
        HTML, under 200 kB: long texts are cut further where the page would be larger.
    """
    place = SECTIONS.index(MISTAKES) + 1
    return write_report(data, (*SECTIONS[:place], *further, *SECTIONS[place:]), style=style)


def write_report(data: ReportData, sections: Sequence[Section], header: Html | None = None, style: str = "") -> str:
    """Write a report from chosen sections.

    Parameters
    ----------
    data : ReportData
    sections : sequence of (key, name, function)
        A function gets the data and its key and returns the section, or None to be left out. To add one, write such a
        function with the blocks of `page` and the figures of `charts`.
    header : Html, optional
        What stands first, with the h1; by default the headline of the scores.
    style : str
        Further rules of the style sheet.

    Returns
    -------
    str
    """
    page = ""
    for limit in TEXT_LIMITS:
        shortened = parts.with_shorter_texts(data, limit)
        built = [(key, name, write(shortened, key)) for key, name, write in sections]
        shown = [(key, name, content) for key, name, content in built if content is not None]
        footer = facts.footer(data)
        page = write_page(f"{data.title} – bilstm report", header or parts.headline(data), shown, footer, style)
        if len(page.encode("utf-8")) <= MAX_BYTES:
            break
    return page
