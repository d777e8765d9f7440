"""`bilstm explain`: which words and phrases made the answers."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from bilstm.cli.options import (
    AsJson,
    Backend,
    Encoding,
    MaxBytes,
    ModelFolder,
    SkipBadRows,
    TextColumn,
    Threads,
)
from bilstm.cli.output import colours_are_welcome, note, print_json, print_line, print_table, write_output
from bilstm.cli.predicted_table import destination
from bilstm.data.records import iter_records, read_records
from bilstm.errors import UsageError
from bilstm.explanation.explaining import explain_many, subject_of
from bilstm.explanation.explanation import Explanation, Explanations
from bilstm.explanation.methods import METHODS
from bilstm.explanation.neighbours import Neighbourhood
from bilstm.explanation.overview import Overview
from bilstm.explanation.pages import MOST_SHOWN
from bilstm.explanation.tagger import explain_spans
from bilstm.tasks import load
from bilstm.tasks.labelled_files import texts_for_model
from bilstm.tasks.sequence_tagging import TaggerModel

__all__ = ["command"]

ENDINGS = (".html", ".json", ".jsonl")
_WHAT = "What is explained"


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What is asked for, checked."""

    method: str
    target: str | None
    phrases: bool
    near: Neighbourhood | None


def command(
    model: ModelFolder,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...", help="Texts, or - to read standard input, one text a line.", show_default=False
        ),
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="File of texts, as `train` reads them.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write here (.html, .json or .jsonl).")
    ] = None,
    method: Annotated[
        str,
        typer.Option("--method", metavar="NAME", help=f"auto, {', '.join(METHODS)}.", rich_help_panel=_WHAT),
    ] = "auto",
    target: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Class to explain, or all; by default the predicted one.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    span: Annotated[
        str | None,
        typer.Option(
            "--span", metavar="WORDS", help="With a tagger: the words whose tags are explained.", rich_help_panel=_WHAT
        ),
    ] = None,
    phrases: Annotated[
        bool, typer.Option("--phrases", help="Score phrases as one thing and show their tree.", rich_help_panel=_WHAT)
    ] = False,
    overall: Annotated[
        bool,
        typer.Option("--global", help="Words and phrases that matter over all texts.", rich_help_panel=_WHAT),
    ] = False,
    training_file: Annotated[
        str | None,
        typer.Option(
            "--training-file",
            metavar="FILE",
            help="Show the nearest texts of this labelled file.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    text: TextColumn = None,
    encoding: Encoding = None,
    skip_bad_rows: SkipBadRows = False,
    max_bytes: MaxBytes = None,
    backend: Backend = "auto",
    threads: Threads = None,
    as_html: Annotated[bool, typer.Option("--html", help="Print an HTML page on standard output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which words and phrases made the answers.

    In a terminal words that speak for the answer are blue and underlined, those against it orange and in italics. How
    far each method can be trusted is measured in docs/explanations.md.

    [bold]Examples[/bold]

      bilstm explain model "Not bad at all." --phrases

      bilstm explain model --file reviews.csv -o explanations.html

      bilstm explain model --file reviews.csv --global

      bilstm explain tagger "Angela Merkel visited Paris ." --span "Paris"
    """  # fmt: skip
    _check_options(model, texts, file, output, as_html, as_json, overall)
    reading = {"text": text, "encoding": encoding, "skip_bad_rows": skip_bad_rows, "max_bytes": max_bytes}
    loaded = load(model, backend=backend, threads=threads)
    lines = None if file else _lines(texts or [])
    if isinstance(loaded, TaggerModel):
        if lines is None or overall or phrases or training_file or target:
            raise UsageError("a tagger explains texts given as arguments, span by span.", "Give a text and --span.")
        found = Explanations([one for line in lines for one in explain_spans(loaded, line, span, method)])
        if not len(found):
            note("The model finds no span there; --span WORDS explains any words.")
        _write(iter(found), output, as_html, as_json, {"model": model})
        return
    if span is not None:
        raise UsageError("--span is for taggers; this model classifies texts.", "Use --phrases for phrases.")
    near = _near(loaded, training_file, reading)
    wish = _Wish(method, target, phrases, near)
    found = _explained(loaded, lines, file, reading, wish)
    if overall:
        _write_overall(loaded, found, output, as_json, {"model": model})
        return
    _write(found, output, as_html, as_json, {"model": model})


def _check_options(
    model: str,
    texts: list[str] | None,
    file: str | None,
    output: str | None,
    as_html: bool,
    as_json: bool,
    overall: bool,
) -> None:
    if bool(texts) == bool(file):
        raise UsageError(
            f"give texts, - (standard input) or --file, one of them; got {'both' if texts else 'none'}.",
            f'For example: bilstm explain {model} "a text"',
        )
    if as_html and as_json:
        raise UsageError("--html and --json exclude each other.")
    if output is not None and not output.endswith(ENDINGS):
        raise UsageError(f"--output {output}: the ending must be {', '.join(ENDINGS)}.")
    if overall and (as_html or (output is not None and not output.endswith(".json"))):
        raise UsageError("--global writes a table or JSON.", "Use --json, or --output with .json.")


def _lines(texts: list[str]) -> list[str]:
    if texts != ["-"]:
        return texts
    return [line.rstrip("\r\n") for line in sys.stdin]


def _near(model: Any, file: str | None, reading: dict[str, Any]) -> Neighbourhood | None:
    if file is None:
        return None
    records = read_records([file], encoding=reading["encoding"], skip_bad_rows=reading["skip_bad_rows"])
    if records.labels is None:
        raise UsageError(f"{file}: --training-file needs a labelled file.")
    progress = _Progress("training texts")
    return Neighbourhood(subject_of(model), records.texts, records.labels, progress)


def _explained(
    model: Any, lines: list[str] | None, file: str | None, reading: dict[str, Any], wish: _Wish
) -> Iterator[Explanation]:
    progress = _Progress("texts")
    for texts in [lines] if lines is not None else _chunks(model, str(file), reading):
        progress.start(len(texts))
        for one in explain_many(model, texts, wish.method, wish.target, phrases=wish.phrases, progress=progress):
            yield one if wish.near is None else wish.near.add(one)


def _chunks(model: Any, file: str, reading: dict[str, Any]) -> Iterator[Any]:
    for records in iter_records(file, chunk_rows=1024, labels="none", **reading):
        for line in records.notes:
            note(line)
        yield texts_for_model(model, records)


class _Progress:
    """Says on standard error how far it is, every few seconds."""

    EVERY_S = 5.0

    def __init__(self, what: str):
        self._what, self._before, self._all = what, 0, 0
        self._started = self._spoke = time.monotonic()

    def start(self, texts: int) -> None:
        """Begin a further chunk."""
        self._before = self._all
        self._all += texts

    def __call__(self, done: int, _: int) -> None:
        now = time.monotonic()
        if now - self._spoke >= self.EVERY_S:
            self._spoke = now
            count = self._before + done
            note(f"{count:,} {self._what}, {count / (now - self._started):,.0f} a second")


def _write(
    found: Iterator[Explanation], output: str | None, as_html: bool, as_json: bool, about: dict[str, Any]
) -> None:
    if output is not None:
        count = _write_file(found, output, about)
        note(f"{count:,} explanations written to {output}.")
        if as_json:
            print_json({**about, "output": output, "explanations": count})
        return
    if as_json:
        print_json({**about, "explanations": [one.to_json() for one in found]})
    elif as_html:
        write_output(_page(found)[0])
    else:
        for number, one in enumerate(found):
            if number:
                print_line()
            _print(one)


def _write_file(found: Iterator[Explanation], output: str, about: dict[str, Any]) -> int:
    with destination(output) as stream:
        if output.endswith(".jsonl"):
            count = 0
            for one in found:
                stream.write(json.dumps(one.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
            return count
        if output.endswith(".json"):
            entries = [one.to_json() for one in found]
            stream.write(json.dumps({**about, "explanations": entries}, ensure_ascii=False, allow_nan=False) + "\n")
            return len(entries)
        page, count = _page(found)
        stream.write(page)
        return count


def _page(found: Iterator[Explanation]) -> tuple[str, int]:
    """Return a page of the first explanations, and how many it shows."""
    shown = []
    for one in found:
        if len(shown) == MOST_SHOWN:
            note(f"A page shows {MOST_SHOWN:,} texts; write .jsonl for all of them.")
            break
        shown.append(one)
    return Explanations(shown).to_html(), len(shown)


def _print(one: Explanation) -> None:
    from rich.console import Console

    from bilstm.explanation.terminal import render

    is_coloured = colours_are_welcome(sys.stdout)
    width = None if sys.stdout.isatty() else 100
    console = Console(file=sys.stdout, no_color=not is_coloured, width=width, highlight=False, soft_wrap=False)
    console.print(render(one, signs=not is_coloured))


def _write_overall(
    model: Any, found: Iterator[Explanation], output: str | None, as_json: bool, about: dict[str, Any]
) -> None:
    overview = Overview(subject_of(model).target_names)
    for one in found:
        overview.add(one)
    result = {**about, **overview.to_json()}
    if output is not None:
        with destination(output) as stream:
            stream.write(json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n")
        note(f"Written to {output}.")
    if as_json:
        print_json(result)
    elif output is None:
        _print_overall(result)


def _print_overall(result: dict[str, Any]) -> None:
    for name, lists in result["classes"].items():
        for kind in ("words", "phrases"):
            if not lists[kind]:
                continue
            print_line(f"{kind} that speak for {name}, over {result['texts']:,} texts")
            rows = [
                (entry["text"], f"{entry['total']:+.2f}", f"{entry['mean']:+.3f}", f"{entry['texts']:,}")
                for entry in lists[kind]
            ]
            print_table((kind[:-1], "total", "mean", "texts"), rows)
            print_line()
