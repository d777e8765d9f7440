"""The whole job on tagged files: read, train, measure, write the model folder with report and card.

What `bilstm train --task sequence-tagging` runs; the counterpart of `text_run.py`, with the same `Job`. Imports torch
only through `tagging_training`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bilstm.config import to_mapping
from bilstm.data.splitting import parse_split, split_rows
from bilstm.data.tagged_files import read_tagged
from bilstm.data.tagged_sentences import TaggedSentences
from bilstm.data.tags import Span, tags_to_spans
from bilstm.data.word_spans import token_spans
from bilstm.errors import InterruptedTrainingError, TrainingDivergedError, UsageError
from bilstm.evaluation.report_data import BaselineData, InputFile, ReportData, describe_part
from bilstm.evaluation.tagging_report import TaggingMistake, build_tagging_report, score_rows
from bilstm.explanation.report import STYLE
from bilstm.explanation.tagger_report import TaggerReportExplanations, explain_tagger_for_report, tagger_sections_of
from bilstm.model_folder import check_output
from bilstm.model_summary import LayerRow, describe_layers
from bilstm.runtime.tagger import TaggerLayers
from bilstm.tasks.phases import Clock
from bilstm.tasks.precision_scores import precision_lines, tagger_precision_scores
from bilstm.tasks.sequence_tagging import TASK, Config, TaggerModel
from bilstm.tasks.tagging_baseline import most_frequent_tags
from bilstm.tasks.tagging_scores import main_score
from bilstm.tasks.tagging_training import TaggingOutcome, fit_tagger
from bilstm.tasks.text_report import peak_memory
from bilstm.tasks.text_run import Job, ReadOptions, RunResult, checkpoint_of
from bilstm.training import events
from bilstm.versions import environment

__all__ = ["describe_tagger_layers", "mistakes_of", "read_tagged_part", "run", "tagger_name"]

MOST_MISTAKES = 30
_TITLES = {"slots": "Slots and intents", "jsonl": "Tags"}
BASELINE = "each word with its most frequent tag"


def run(job: Job, tell: Callable[[Any], None], unlabelled: Sequence[str] = ()) -> RunResult:
    """Train on files and write the model folder.

    Parameters
    ----------
    job : Job
        `config` is that of sequence tagging; of `reading`, `text` names the column of the tokens.
    tell : callable
        Gets the events of training.
    unlabelled : sequence of path
        Text for in-domain word vectors: tagged files, or one sentence a line.

    Raises
    ------
    BilstmError
        Of its family: see errors.py; nothing is half-written.
    InterruptedTrainingError
        After Ctrl-C: the best model so far is saved, and the checkpoint stays for `resume`.
    """
    started = time.perf_counter()
    check_output(job.output, overwrite=job.overwrite or job.resume)
    config = job.config
    assert isinstance(config, Config)
    sentences = read_tagged_part(job.data, job.reading, tell)
    train, valid, test = _split_parts(sentences, job, tell)
    further = _read_unlabelled(unlabelled, job.reading)
    outcome = _fit(train, valid, config, further, job, tell)
    scored, tags, intents, summary = _measure(outcome, test)
    explained = _explain(outcome, scored, job, tell)
    if explained is not None:
        summary["explanations"] = explained.to_json()
    seconds = time.perf_counter() - started
    summary["seconds"] = {
        **{name: round(value, 2) for name, value in outcome.seconds.items()},
        "all": round(seconds, 2),
    }
    summary["peak_memory_bytes"] = peak_memory()
    data = _report_data(job, outcome, sentences, scored, summary, test is not None, seconds)
    summary = _plain(summary)
    mistakes = mistakes_of(scored, tags, intents, has_spans=outcome.model.scheme != "none")
    folder = outcome.model.save(
        job.output,
        settings=outcome.config,
        metrics=summary,
        files={
            "report.html": build_tagging_report(
                data, mistakes, tagger_sections_of(explained) if explained is not None else (), STYLE
            ),
            "README.md": _model_card(data, outcome.model, summary["precisions"]),
            "history.json": json.dumps(
                {"epochs": [dataclasses.asdict(row) for row in outcome.result.history]}, indent=1
            ),
        },
        overwrite=job.overwrite or job.resume,
    )
    if outcome.result.stopped_because == "interrupted":
        raise InterruptedTrainingError(
            f"Interrupted; the best model so far (epoch {outcome.result.best_epoch}) is saved in {job.output}.",
            "Add --resume to the same command to go on.",
        )
    shutil.rmtree(checkpoint_of(job.output), ignore_errors=True)
    return RunResult(folder, outcome, summary)  # type: ignore[arg-type]


# ---- read ----------------------------------------------------------------------------------------------------------


def read_tagged_part(
    data: Sequence[str], reading: ReadOptions, tell: Callable[[Any], None], needs_tags: bool = True
) -> TaggedSentences:
    """Read tagged files and tell what was noticed."""
    found = read_tagged(
        list(data),
        label=reading.label,
        token=reading.text,
        needs_tags=needs_tags,
        encoding=reading.encoding,
        skip_bad_rows=reading.skip_bad_rows,
        max_bytes=reading.max_bytes,
    )
    for note in found.notes:
        tell(events.Note(note))
    return found


def _read_unlabelled(paths: Sequence[str], reading: ReadOptions) -> list[list[str]]:
    """Tokens of unlabelled files: running text, one sentence a line, unless the name says that it is columns."""
    from bilstm.data.tagged_sentences import TextLines

    sentences: list[list[str]] = []
    for path in paths:
        if path.removesuffix(".gz").endswith((".conll", ".conllu", ".jsonl")):
            read = read_tagged(path, needs_tags=False, encoding=reading.encoding, max_bytes=reading.max_bytes)
            sentences += read.tokens
            continue
        for line in TextLines(path, reading.encoding, reading.max_bytes).lines:
            if tokens := [line[begin:end] for begin, end in token_spans(line)]:
                sentences.append(tokens)
    return sentences


def _split_parts(
    sentences: TaggedSentences, job: Job, tell: Callable[[Any], None]
) -> tuple[TaggedSentences, TaggedSentences | None, TaggedSentences | None]:
    """Training, development and test sentences; the last two None where they are not asked for."""
    train, valid, test = sentences, None, None
    if job.split is not None:
        sizes = parse_split(job.split)
        if job.valid is not None and len(sizes) == 3:
            raise UsageError("--valid and a --split of three parts both name a development part.", "Give one of them.")
        chosen = split_rows(np.zeros(len(sentences)), sizes, job.config.seed)
        train, test = sentences.select(chosen[0]), sentences.select(chosen[-1])
        valid = sentences.select(chosen[1]) if len(sizes) == 3 else None
    if job.valid is not None:
        valid = read_tagged_part([job.valid], job.reading, tell)
    return train, valid, test


def _fit(
    train: TaggedSentences,
    valid: TaggedSentences | None,
    config: Config,
    unlabelled: list[list[str]],
    job: Job,
    tell: Callable[[Any], None],
) -> TaggingOutcome:
    checkpoint = checkpoint_of(job.output)
    try:
        outcome = fit_tagger(
            train, config, valid=valid, unlabelled=unlabelled, checkpoint=checkpoint, resume=job.resume, progress=tell
        )
    except TrainingDivergedError as error:
        raise TrainingDivergedError(error.message, f"{error.hint or ''} No model was written.".strip()) from error
    if outcome.result.best_epoch == 0:
        raise InterruptedTrainingError(
            f"Interrupted before the first epoch ended; there is no model yet. The checkpoint {checkpoint} is kept.",
            "Add --resume to the same command to go on.",
        )
    return outcome


# ---- measure -------------------------------------------------------------------------------------------------------


def _measure(
    outcome: TaggingOutcome, test: TaggedSentences | None
) -> tuple[TaggedSentences, list[list[str]], list[str] | None, dict[str, Any]]:
    """Return the part that the report shows with its answers, and the summary."""
    model = outcome.model
    summary: dict[str, Any] = {
        "task": TASK,
        "model": tagger_name(model.tagger.layers),
        "kind": "spans" if model.scheme != "none" else "tags",
        "scheme": model.scheme,
        "classes": sorted(model.classes),
        "intents": list(model.intents),
        "rows": {"train": len(outcome.train), "dev": len(outcome.dev), "test": len(test) if test is not None else 0},
        "best_epoch": outcome.result.best_epoch,
        "stopped_because": outcome.result.stopped_because,
        "dev": outcome.dev_metrics,
        "baseline": {"name": BASELINE, "dev": outcome.baseline_metrics},
        "precisions": tagger_precision_scores(model, outcome.dev),
    }
    if test is None:
        return outcome.dev, outcome.dev_tags, outcome.dev_intents, summary
    tags = model.predict(test.tokens)
    intents = model.predict_intents(test.tokens) if model.intents else None
    summary["test"] = model.measure(test, tags, intents)
    summary["baseline"]["test"] = model.measure(test, most_frequent_tags(outcome.train, test, model.scheme))
    return test, tags, intents, summary


def _explain(
    outcome: TaggingOutcome, scored: TaggedSentences, job: Job, tell: Callable[[Any], None]
) -> TaggerReportExplanations | None:
    """Explain a sample of the scored spans; nothing where a training was interrupted.

    Ctrl-C here leaves out the explanations, not the model.
    """
    if outcome.result.stopped_because == "interrupted" or scored.tags is None or not len(scored):
        return None
    try:
        with Clock(tell).phase("explanations"):
            return explain_tagger_for_report(outcome.model, scored.tokens, scored.tags, job.config.seed)
    except KeyboardInterrupt:
        tell(events.Note("The explanations of the report are left out: interrupted. The model is being saved."))
        return None


def _plain(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what only the report draws."""
    baseline = {name: _without_confusion(part) for name, part in summary["baseline"].items()}
    return {name: _without_confusion(part) for name, part in summary.items()} | {"baseline": baseline}


def _without_confusion(part: Any) -> Any:
    return {name: value for name, value in part.items() if name != "confusion"} if isinstance(part, dict) else part


def tagger_name(layers: TaggerLayers) -> str:
    """Name the model in the words of the field, for example "BiLSTM-CRF"."""
    recurrent = next(layer for layer in layers.encoder if hasattr(layer, "cell"))
    name = "Bi" + {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}[recurrent.cell]  # type: ignore[union-attr]
    return name + ("-CRF" if layers.crf else "")


def mistakes_of(
    sentences: TaggedSentences, tags: list[list[str]], intents: list[str] | None, *, has_spans: bool
) -> list[TaggingMistake]:
    """List sentences with wrong answers: every n-th of them, so that they come from the whole part."""
    found = []
    for row, sentence in enumerate(sentences.sentences):
        gold_tags = sentence.tags or []
        gold = tags_to_spans(gold_tags) if has_spans else _wrong_tags(gold_tags, tags[row], gold_tags)
        answer = tags_to_spans(tags[row]) if has_spans else _wrong_tags(gold_tags, tags[row], tags[row])
        is_intent_wrong = intents is not None and sentence.intent is not None and intents[row] != sentence.intent
        if gold != answer or is_intent_wrong:
            found.append(
                TaggingMistake(
                    sentence.tokens,
                    gold,
                    answer,
                    sentences.where(row),
                    sentence.intent if is_intent_wrong else None,
                    intents[row] if is_intent_wrong and intents is not None else None,
                )
            )
    step = max(1, len(found) // MOST_MISTAKES)
    return found[::step][:MOST_MISTAKES]


def _wrong_tags(gold: Sequence[str], answer: Sequence[str], shown: Sequence[str]) -> list[Span]:
    """One span for each token whose tag is wrong, with the tag that `shown` has there."""
    return [
        Span(at, at + 1, shown[at]) for at, (true, said) in enumerate(zip(gold, answer, strict=True)) if true != said
    ]


# ---- report --------------------------------------------------------------------------------------------------------


def describe_tagger_layers(layers: TaggerLayers) -> list[LayerRow]:
    """Table of the layers of all parts."""
    rows = []
    for part in ("words", "characters", "traits", "encoder", "tags", "intent"):
        rows += [dataclasses.replace(row, name=f"{part} {row.name}") for row in describe_layers(getattr(layers, part))]
    if layers.crf:
        tags = layers.tags[-1].output_size  # type: ignore[union-attr]
        rows.append(LayerRow("crf: transitions, start, end", f"(batch, steps, {tags})", tags * (tags + 2), 0))
    return rows


def _report_data(
    job: Job,
    outcome: TaggingOutcome,
    sentences: TaggedSentences,
    scored: TaggedSentences,
    summary: dict[str, Any],
    is_final: bool,
    seconds: float,
) -> ReportData:
    model = outcome.model
    files = [InputFile(source.path, "training", source.rows, source.sha256 or "") for source in sentences.sources]
    if job.valid is not None:
        files += [
            InputFile(source.path, "development", source.rows, source.sha256 or "") for source in outcome.dev.sources
        ]
    parts = [("training part", outcome.train), ("development part", outcome.dev)]
    parts += [("test part", scored)] if is_final else []
    part = "test" if is_final else "dev"
    return ReportData(
        title=f"{_TITLES.get(sentences.format, sentences.tag_column) or 'tags'} of "
        f"{', '.join(Path(path).name for path in job.data)}",
        kind="tagging",
        scores=summary[part],
        scored_on=f"the {'test' if is_final else 'development'} part of {len(scored):,} sentences",
        model_name=summary["model"],
        command=job.command,
        is_final=is_final,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        files=files,
        parts=[describe_part(name, np.array([len(row) for row in part.sentences])) for name, part in parts],
        notes=[*sentences.notes, *outcome.notes],
        baseline=BaselineData(BASELINE, summary["baseline"][part], 0.0),
        epochs=outcome.result.history,
        best_epoch=outcome.result.best_epoch or None,
        score_name=main_score(outcome.dev_metrics)[0],
        score_is_share=True,
        layers=describe_tagger_layers(model.tagger.layers),
        settings=to_mapping(outcome.config),
        versions={name: version for name, version in environment().items() if version is not None},
        machine={"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        seeds={"seed": job.config.seed},
        seconds=seconds,
        peak_memory=peak_memory(),
    )


def _model_card(data: ReportData, model: TaggerModel, precisions: Mapping[str, Any]) -> str:
    """Write README.md of the model folder."""
    lines = [
        "---",
        "library_name: bilstm",
        "pipeline_tag: token-classification",
        "---",
        f"# {data.title}",
        "",
        f"A {data.model_name}, trained with bilstm {data.versions.get('bilstm', '')} on {data.created}.",
        f"Scores on {data.scored_on}:",
        "",
        "| score | value |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, _, value in score_rows(data.scores)),
        *precision_lines(precisions),
        "",
        "## Data",
        "",
        *(f"- `{file.name}`: {file.rows:,} sentences, {file.use}, sha256 `{file.sha256}`" for file in data.files),
        *(f"- {part.name}: {part.rows:,} sentences" for part in data.parts),
        f"- {'types of spans' if model.scheme != 'none' else 'tags'}: {', '.join(sorted(model.classes))}",
        *([f"- intents: {', '.join(model.intents)}"] if model.intents else []),
        "",
        "## Use",
        "",
        '    bilstm predict FOLDER "a text"',
        "    bilstm evaluate FOLDER tagged.conll",
        "",
        "## Repeat",
        "",
        f"    {data.command}",
        "",
        "The model knows only the kind of text it was trained on; scores on other texts may be lower.",
        "",
    ]
    return "\n".join(lines)
