"""What `train`, `evaluate` and `predict` do and print where the task is sequence tagging."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bilstm.cli.output import colours_are_welcome, note, print_json, print_line, print_table
from bilstm.cli.predicted_table import destination
from bilstm.errors import UsageError

__all__ = ["FORMATS", "evaluate", "predict", "train"]

FORMATS = ("text", "conll", "jsonl")
CHUNK_SENTENCES = 1024
# ANSI colours of span types, in the order of the types; readable on light and dark ground.
_COLOURS = (36, 33, 35, 32, 34, 31)


def train(
    job: dict[str, Any],
    toml: str | None,
    settings: dict[str, Any],
    unlabelled: Sequence[str],
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a tagger and print its scores.

    Parameters
    ----------
    job : dict
        Fields of `tasks.text_run.Job` but the settings.
    toml : str or None
        File of settings.
    settings : dict
        Settings given as flags.
    unlabelled : sequence of path
    as_json, quiet : bool
    """
    from bilstm.config import resolve
    from bilstm.tasks.sequence_tagging import Config
    from bilstm.tasks.tagging_run import run
    from bilstm.tasks.text_run import Job
    from bilstm.training.progress import ProgressPrinter

    config = resolve(Config, toml, settings)
    with ProgressPrinter("silent" if quiet else "auto", score_name="dev score") as progress:
        result = run(Job(config=config, **job), progress, unlabelled)  # type: ignore[arg-type]
    if as_json:
        print_json({"folder": str(result.folder), **result.summary})
        return
    _print_training(result.summary)
    print_line()
    print_line(f"model:  {result.folder}")
    print_line(f"report: {result.folder / 'report.html'}")
    output = shlex.quote(str(job["output"]))
    note(f'next:   bilstm predict {output} "a text"   |   bilstm evaluate {output} test.conll')


def _print_training(summary: dict[str, Any]) -> None:
    """Print the model beside the baseline, and say plainly which is better."""
    from bilstm.evaluation.tagging_report import score_rows

    parts = [part for part in ("dev", "test") if part in summary]
    columns = [(f"{part} {name}", side[part]) for part in parts for name, side in _sides(summary)]
    shares = [{name: value for name, _, value in score_rows(scores)} for _, scores in columns]
    names = [name for name, _, _ in score_rows(summary[parts[0]])]
    rows = [[name, *(f"{found[name]:.4f}" if name in found else "-" for found in shares)] for name in names]
    print_table(["score", *(title for title, _ in columns)], rows)
    ours, theirs = (_main(side[parts[-1]]) for _, side in _sides(summary))
    verb = "beats" if ours > theirs else "does NOT beat"
    baseline = summary["baseline"]["name"]
    print_line(f"The {summary['model']} {verb} tagging {baseline} (baseline): {100 * (ours - theirs):+.2f} points.")


def _sides(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(summary["model"], summary), ("baseline", summary["baseline"])]


def _main(scores: dict[str, Any]) -> float:
    return scores["f1"] if "f1" in scores else scores["token_accuracy"]


def evaluate(model: Any, folder: str, data: Sequence[str], options: dict[str, Any], as_json: bool) -> None:
    """Score a tagger on tagged files and print the scores.

    Parameters
    ----------
    model : TaggerModel
    folder : str
        Where it was loaded from.
    data : sequence of path
    options : dict
        `label`, `token`, `encoding`, `skip_bad_rows`, `max_bytes` of `read_tagged`.
    as_json : bool
    """
    from bilstm.data.tagged_files import read_tagged
    from bilstm.data.tags import detect_scheme
    from bilstm.evaluation.tagging_report import score_rows
    from bilstm.tasks.tagging_scores import unknown_labels

    sentences = read_tagged(list(data), **options)
    for line in sentences.notes:
        note(line)
    assert sentences.tags is not None
    finding = detect_scheme(sentences.tags, sentences.where, "none" if model.scheme == "none" else None)
    if line := finding.note(sentences.where):
        note(line)
    scores = model.evaluate(sentences)
    for labels in unknown_labels(scores):
        note(f"The data has {labels}.")
    if as_json:
        print_json({"model": folder, "data": [source.path for source in sentences.sources], **scores})
        return
    print_line(f"{scores['sentences']:,} sentences, {scores['tokens']:,} tokens of {', '.join(data)}")
    print_table(["score", "value"], [[name, f"{value:.4f}"] for name, _, value in score_rows(scores)])
    print_line()
    per_type = scores["per_type" if "per_type" in scores else "per_tag"]
    rows = [
        [name, *(f"{counts[key]:.4f}" for key in ("f1", "precision", "recall")), str(counts["support"])]
        for name, counts in sorted(per_type.items(), key=lambda item: -item[1]["support"])
    ]
    print_table(["type" if "per_type" in scores else "tag", "f1", "precision", "recall", "true"], rows)


def predict(
    model: Any,
    folder: str,
    texts: Sequence[str] | None,
    file: str | None,
    output: str | None,
    written: str | None,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Tag texts, a file or standard input, and print or write the answers.

    Parameters
    ----------
    model : TaggerModel
    folder : str
    texts : sequence of str or None
        `["-"]` or None reads standard input, one text a line.
    file : str or None
        Texts, one a line (`.txt`), or tokens in any format that training reads.
    output : str or None
        File to write instead of printing.
    written : {"text", "conll", "jsonl"} or None
        Form of the answers; None: by the ending of `output`, else text.
    options : dict
        As `evaluate`.
    as_json : bool
        One JSON object.
    """
    if written is not None and written not in FORMATS:
        raise UsageError(f"--format {written}: must be one of {', '.join(FORMATS)}.")
    form = written or _form_of(output)
    sentences = _sentences(texts, file, options)
    if as_json:
        rows = [_described(row) for chunk in _chunks(sentences) for row in model.annotate(chunk)]
        print_json({"model": folder, "predictions": rows})
        return
    count = 0
    with destination(output) as stream:
        painter = _Painter(model, is_coloured=output is None and colours_are_welcome(sys.stdout))
        for chunk in _chunks(sentences):
            for row in model.annotate(chunk):
                stream.write(painter.write(row, form))
            stream.flush()
            count += len(chunk)
    if file is not None:
        note(f"{count:,} sentences tagged{'' if output is None else f', written to {output}'}.")


def _form_of(output: str | None) -> str:
    if output is None:
        return "text"
    ending = Path(output).suffix.lower().lstrip(".")
    form = {"conll": "conll", "tsv": "conll", "jsonl": "jsonl", "txt": "text"}.get(ending)
    if form is None:
        raise UsageError(f"--output {output}: the ending must be .conll, .tsv, .jsonl or .txt, or give --format.")
    return form


def _sentences(texts: Sequence[str] | None, file: str | None, options: dict[str, Any]) -> Iterator[Any]:
    """Texts, or token lists of a file of columns."""
    from bilstm.data.tagged_files import read_tagged
    from bilstm.data.tagged_sentences import TextLines

    if file is None:
        if texts and list(texts) != ["-"]:
            yield from texts
            return
        for line in sys.stdin:
            yield line.rstrip("\r\n")
        return
    if file.removesuffix(".gz").endswith(".txt"):
        lines = TextLines(file, options.get("encoding"), options.get("max_bytes"))
        for message in lines.notes:
            note(message)
        yield from lines.lines
        return
    read = read_tagged(file, needs_tags=False, **options)
    for message in read.notes:
        note(message)
    for sentence in read.sentences:
        yield sentence.text if sentence.text is not None and read.format == "jsonl" else sentence.tokens


def _chunks(sentences: Iterator[Any]) -> Iterator[list[Any]]:
    """Gather sentences; a person at a terminal gets an answer to each line at once."""
    size = 1 if sys.stdin.isatty() else CHUNK_SENTENCES
    while chunk := list(islice(sentences, size)):
        yield chunk


def _described(row: Any) -> dict[str, Any]:
    """Plain values of one answer; places are in characters, end excluded."""
    found: dict[str, Any] = {
        "text": row.text,
        "tokens": row.tokens,
        "tags": row.tags,
        "offsets": [list(place) for place in row.offsets],
        "spans": [
            {"start": span.start, "end": span.end, "label": span.label, "text": span.text, "score": span.score}
            for span in row.spans
        ],
    }
    if row.intent is not None:
        found |= {"intent": row.intent, "intent_score": row.intent_score}
    return found


class _Painter:
    """Writes answers: text with its spans or tags marked, CoNLL columns, or JSON lines."""

    def __init__(self, model: Any, is_coloured: bool):
        self._has_spans = model.scheme != "none"
        self._is_coloured = is_coloured
        self._colour = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(sorted(model.classes))}

    def write(self, row: Any, form: str) -> str:
        """Write one answer with its line end."""
        if form == "conll":
            from bilstm.data.conll import write_conll

            return write_conll([[row.tokens, row.tags]]) if row.tokens else ""
        if form == "jsonl":
            import json

            return json.dumps(_described(row), ensure_ascii=False) + "\n"
        marked = self._spans(row) if self._has_spans else self._tags(row)
        intent = "" if row.intent is None else f"{row.intent}\t"
        return f"{intent}{' '.join(marked.split())}\n"

    def _spans(self, row: Any) -> str:
        pieces, place = [], 0
        for span in row.spans:
            pieces += [row.text[place : span.start], self._marked(f"[{span.text}]", span.label)]
            place = span.end
        return "".join([*pieces, row.text[place:]])

    def _tags(self, row: Any) -> str:
        return " ".join(self._marked(token, tag, "/") for token, tag in zip(row.tokens, row.tags, strict=True))

    def _marked(self, text: str, name: str, between: str = "") -> str:
        if not self._is_coloured:
            return f"{text}{between}{name}"
        return f"\033[{self._colour.get(name, 36)}m{text}\033[2m{between}{name}\033[0m"
