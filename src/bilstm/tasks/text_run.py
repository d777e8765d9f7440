"""The whole job on files: read, train, measure, write the model folder with report and card.

What `bilstm train` runs for text classification. Imports torch only through `text_training`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bilstm.config import to_toml
from bilstm.data.labels import LabelSet
from bilstm.data.records import Records, read_records
from bilstm.data.splitting import missing_classes, parse_split, split_rows
from bilstm.data.vocabulary import rows_without_known_tokens
from bilstm.errors import DataError, InterruptedTrainingError, TrainingDivergedError, UsageError
from bilstm.evaluation.report import build_report
from bilstm.evaluation.report_data import InputFile, describe_part
from bilstm.explanation.report import STYLE, ReportExplanations, explain_for_report, sections_of
from bilstm.model_folder import check_output
from bilstm.runtime.word_ids import encode_texts
from bilstm.tasks.phases import Clock
from bilstm.tasks.precision_scores import precision_scores
from bilstm.tasks.starting_weights import read_start
from bilstm.tasks.text_classification import Config, TextModel, Texts
from bilstm.tasks.text_report import (
    JOINED,
    Provenance,
    ScoredPart,
    describe_run,
    members_note,
    members_text,
    model_card,
    model_name,
    peak_memory,
)
from bilstm.tasks.text_training import Outcome, Unlabelled, fit
from bilstm.training import events
from bilstm.training.budget import Budget

__all__ = [
    "Job",
    "Parts",
    "ReadOptions",
    "RunResult",
    "checkpoint_of",
    "read_part",
    "read_unlabelled",
    "run",
    "split_parts",
]


@dataclass(frozen=True)
class ReadOptions:
    """How labelled files are read; see `bilstm.data.records.read_records` and `LabelSet.build`."""

    text: str | None = None
    label: str | None = None
    label_kind: str = "auto"
    label_separator: str | None = None
    encoding: str | None = None
    skip_bad_rows: bool = False
    max_bytes: int | None = None


@dataclass(frozen=True)
class Job:
    """What to train on what.

    Parameters
    ----------
    data : sequence of path
    output : path
        Model folder to write.
    config : Config
    reading : ReadOptions
    valid : path, optional
        Development part; by default drawn from the data.
    split : str, optional
        "train:test" or "train:dev:test", in rows or shares; the test part is scored once, at the end.
    resume : bool
        Go on from the checkpoint beside `output`.
    overwrite : bool
        Replace a model at `output`.
    command : str
        For the report: what repeats the run.
    start_from : path, optional
        Folder of a language model or text classifier whose vocabulary and lower layers the new model begins with.
    unlabelled : sequence of path
        Files of further texts to learn from.
    budget : Budget, optional
        Time for everything where there are unlabelled texts; None: no limit.
    """

    data: Sequence[str]
    output: str
    config: Config
    reading: ReadOptions = ReadOptions()
    valid: str | None = None
    split: str | None = None
    baseline: bool = True
    resume: bool = False
    overwrite: bool = False
    command: str = ""
    start_from: str | None = None
    unlabelled: Sequence[str] = ()
    budget: Budget | None = None


@dataclass(frozen=True)
class RunResult:
    """What a job gave.

    Parameters
    ----------
    folder : Path
        The model folder.
    outcome : Outcome
    summary : dict
        What `--json` prints and metrics.json holds.
    """

    folder: Path
    outcome: Outcome
    summary: dict[str, Any]


def checkpoint_of(output: str | Path) -> str:
    """Return where the checkpoint of a run lies while it is under way."""
    return f"{str(output).rstrip('/')}.checkpoint"


def run(job: Job, tell: Callable[[Any], None]) -> RunResult:
    """Train on files and write the model folder.

    Raises
    ------
    BilstmError
        Of its family: see errors.py; nothing is half-written.
    InterruptedTrainingError
        After Ctrl-C: the best model so far is saved, and the checkpoint stays for `resume`.
    """
    started = time.perf_counter()
    check_output(job.output, overwrite=job.overwrite or job.resume)
    records = read_part(job.data, job.reading, tell)
    assert records.labels is not None
    labels = LabelSet.build(
        records.labels,
        job.reading.label_kind,  # type: ignore[arg-type]
        job.reading.label_separator or records.label_separator,
        where=records.where,
    )
    tell(events.Note(labels.decision))
    targets = labels.encode(records.labels, where=records.where)
    parts = split_parts(records, targets, labels, job, tell)
    further = read_unlabelled(job, records, parts, tell) if job.unlabelled else None
    outcome = _fit(parts, labels, job, further, tell)
    if len(outcome.members) > 1:
        tell(events.Note(members_note(outcome)))
    scored, summary = _measure(parts, outcome, labels, job, records)
    explained = _explain(outcome, scored, job, tell)
    if explained is not None and explained.measured:
        summary["explanations"] = explained.to_json()
    result = _write(job, parts, outcome, labels, scored, summary, records, explained, time.perf_counter() - started)
    if outcome.result.stopped_because == "interrupted":
        kept = (
            f"the best model so far (epoch {outcome.result.best_epoch}) is"
            if job.config.members == 1
            else f"{members_text(outcome)} of {job.config.members} are"
        )
        raise InterruptedTrainingError(
            f"Interrupted; {kept} saved in {job.output}.",
            "Add --resume to the same command to go on.",
        )
    shutil.rmtree(checkpoint_of(job.output), ignore_errors=True)
    return result


def read_part(
    data: Sequence[str], reading: ReadOptions, tell: Callable[[Any], None], columns: Records | None = None
) -> Records:
    """Read labelled files and tell what was noticed; `columns` names columns like those of an earlier part."""
    records = read_records(
        list(data),
        text=reading.text or (columns.text_column if columns is not None else None),
        label=reading.label or (columns.label_column if columns is not None else None),
        encoding=reading.encoding,
        skip_bad_rows=reading.skip_bad_rows,
        max_bytes=reading.max_bytes,
        keep_empty_labels=reading.label_separator is not None,
        keep_extras=False,
    )
    for note in records.notes:
        tell(events.Note(note))
    return records


@dataclass(frozen=True)
class Parts:
    """Rows by what they are for; `valid` and `test` may stand in other records."""

    train: Records
    train_targets: np.ndarray
    valid: tuple[Records, np.ndarray] | None
    test: tuple[Records, np.ndarray] | None
    whole_rows: np.ndarray  # of the training records in the file that was read


def _texts(records: Records) -> Texts:
    return records.ids if records.ids is not None else records.texts


def split_parts(
    records: Records, targets: np.ndarray, labels: LabelSet, job: Job, tell: Callable[[Any], None]
) -> Parts:
    """Divide what was read by `job.split`, and read the development part of `job.valid`."""
    valid = test = None
    rows = np.arange(len(records))
    if job.split is not None:
        sizes = parse_split(job.split)
        if job.valid is not None and len(sizes) == 3:
            raise UsageError("--valid and a --split of three parts both name a development part.", "Give one of them.")
        chosen = split_rows(targets, sizes, job.config.seed, is_stratified=labels.kind != "regression")
        names = ["training", "test"] if len(sizes) == 2 else ["training", "development", "test"]
        if labels.kind in ("binary", "multiclass") and records.labels is not None:
            for note in missing_classes(records.labels, chosen, names):
                tell(events.Note(note))
        rows = chosen[0]
        test = (records.select(chosen[-1]), targets[chosen[-1]])
        if len(sizes) == 3:
            valid = (records.select(chosen[1]), targets[chosen[1]])
    if job.valid is not None:
        given = read_part([job.valid], job.reading, tell, columns=records)
        assert given.labels is not None
        valid = (given, labels.encode(given.labels, where=given.where))
    return Parts(records.select(rows), targets[rows], valid, test, rows)


def read_unlabelled(job: Job, records: Records, parts: Parts, tell: Callable[[Any], None]) -> Unlabelled:
    """Read the files of further texts; labels in them are not read, and texts of the other parts are counted.

    Raises
    ------
    DataError
        If they hold no text.
    """
    found = read_records(
        list(job.unlabelled),
        text=job.reading.text,
        labels="none",
        encoding=job.reading.encoding,
        skip_bad_rows=job.reading.skip_bad_rows,
        max_bytes=job.reading.max_bytes,
    )
    for note in found.notes:
        tell(events.Note(note))
    names = ", ".join(os.path.basename(path) for path in job.unlabelled)
    if (column := records.label_column) is not None and column in found.extras:
        tell(events.Note(f"{names}: the column {column!r} looks like labels; it is not read (--unlabelled)."))
    if found.ids is None and not any(text.strip() for text in found.texts):
        raise DataError(f"{names}: no row holds a text.", "Give another file with --unlabelled, or leave it out.")
    tell(events.Note(f"{len(found):,} unlabelled texts."))
    if found.ids is None:
        known = set(found.texts)
        for name, part in (("test", parts.test), ("development", parts.valid)):
            twice = 0 if part is None else sum(text in known for text in part[0].texts)
            if twice:
                tell(
                    events.Note(
                        f"Warning: {twice:,} of {len(part[0]):,} texts of the {name} part stand among the unlabelled "  # type: ignore[index]
                        "texts too: scores on it may be too good."
                    )
                )
    return Unlabelled(_texts(found), job.budget or Budget(None))


def _fit(parts: Parts, labels: LabelSet, job: Job, further: Unlabelled | None, tell: Callable[[Any], None]) -> Outcome:
    checkpoint = checkpoint_of(job.output)
    valid = None if parts.valid is None else (_texts(parts.valid[0]), parts.valid[1])
    start = None if job.start_from is None else read_start(job.start_from)
    try:
        outcome = fit(
            _texts(parts.train),
            parts.train_targets,
            labels,
            job.config,
            valid=valid,
            baseline=job.baseline,
            start=start,
            unlabelled=further,
            checkpoint=checkpoint,
            resume=job.resume,
            progress=tell,
        )
    except TrainingDivergedError as error:
        hint = error.hint or ""
        raise TrainingDivergedError(error.message, f"{hint} No model was written.".strip()) from error
    if outcome.result.best_epoch == 0:
        raise InterruptedTrainingError(
            f"Interrupted before the first epoch ended; there is no model yet. The checkpoint {checkpoint} is kept.",
            "Add --resume to the same command to go on.",
        )
    return outcome


def _measure(
    parts: Parts, outcome: Outcome, labels: LabelSet, job: Job, records: Records
) -> tuple[ScoredPart, dict[str, Any]]:
    """Score the part that the report shows, and gather the summary."""
    model = outcome.model
    dev = parts.valid[0] if parts.valid is not None else parts.train.select(outcome.dev_rows)
    dev_part = _scored(
        f"the development part of {len(dev):,} rows", dev, outcome.dev_targets, outcome.dev_outputs, model
    )
    train_rows = len(outcome.train_rows)
    summary: dict[str, Any] = {
        "task": "text-classification",
        "model": model_name(outcome.config, len(outcome.members)) + (JOINED if model.joined is not None else ""),
        "kind": labels.kind,
        "classes": list(labels.names),
        "rows": {"train": train_rows, "dev": len(dev), "test": len(parts.test[0]) if parts.test else 0},
        "best_epoch": outcome.result.best_epoch,
        "stopped_because": outcome.result.stopped_because,
        "dev": _plain(outcome.dev_metrics),
        "temperature": model.temperature,
        "precisions": precision_scores(model, _texts(dev), outcome.dev_targets),
    }
    if len(outcome.members) > 1:
        summary["members"] = [
            {
                "seed": member.seed,
                "best_epoch": member.result.best_epoch,
                "stopped_because": member.result.stopped_because,
                "seconds": round(member.result.seconds, 2),
                "dev": _plain(member.dev_metrics),
            }
            for member in outcome.members
        ]
    if outcome.phases:
        summary["phases"] = [dataclasses.asdict(phase) for phase in outcome.phases]
    if model.joined is not None:
        name = model_name(outcome.config, len(outcome.members))
        summary["network_alone"] = {"name": name, "dev": _plain(outcome.network_metrics)}
    baseline = outcome.baseline
    if baseline is not None and outcome.baseline_metrics is not None:
        summary["linear_baseline"] = {"name": baseline.name, "dev": _plain(outcome.baseline_metrics)}
    scored = dev_part if baseline is None else _with_baseline(dev_part, baseline.dev_probabilities, model)
    if parts.test is not None:
        test, targets = parts.test
        outputs = model.predict_proba(_texts(test))
        scored = _scored(
            f"the test part of {len(test):,} rows", test, targets, outputs, model, is_final=True, dev=dev_part
        )
        summary["test"] = _plain(scored.scores)
        if baseline is not None and test.ids is None:
            from bilstm.data.tokenizers import WordTokenizer

            linear_outputs = baseline.predict(list(WordTokenizer().tokens_of(test.texts)))
            scored = _with_baseline(scored, linear_outputs, model)
            summary["linear_baseline"]["test"] = _plain(scored.baseline_scores or {})
    return scored, summary


def _scored(
    name: str,
    records: Records,
    targets: np.ndarray,
    outputs: np.ndarray,
    model: TextModel,
    is_final: bool = False,
    dev: ScoredPart | None = None,
) -> ScoredPart:
    lengths = encode_texts(model.encoder, _texts(records)).lengths
    extra = [] if dev is None else [describe_part("development part", dev.lengths, dev.targets, model.labels.names)]
    return ScoredPart(
        name=name,
        texts=_texts(records),
        lengths=lengths,
        targets=targets,
        outputs=outputs,
        scores=model.measure(outputs, targets),
        where=[records.where(row) for row in range(len(records))],
        is_final=is_final,
        extra_parts=extra,
    )


def _with_baseline(part: ScoredPart, outputs: np.ndarray, model: TextModel) -> ScoredPart:
    return dataclasses.replace(part, baseline_outputs=outputs, baseline_scores=model.measure(outputs, part.targets))


def _plain(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what only the report draws."""
    return {name: value for name, value in scores.items() if name not in ("calibration", "per_class", "undefined")}


def _explain(outcome: Outcome, part: ScoredPart, job: Job, tell: Callable[[Any], None]) -> ReportExplanations | None:
    """Explain a sample of the scored rows; nothing where a training was interrupted, or where rows are word ids.

    Ctrl-C here leaves out the explanations, not the model.
    """
    if outcome.result.stopped_because == "interrupted" or not isinstance(part.texts, list) or not part.texts:
        return None
    truths = [_written(label) for label in outcome.model.labels.decode(part.targets)]
    clock = Clock(tell)
    try:
        with clock.phase("explanations"):
            return explain_for_report(outcome.model, part.texts, part.outputs, part.targets, truths, job.config.seed)
    except KeyboardInterrupt:
        tell(events.Note("The explanations of the report are left out: interrupted. The model is being saved."))
        return None


def _written(label: Any) -> str:
    if isinstance(label, float):
        return f"{label:.6g}"
    return str(label) or "no label"


def _write(
    job: Job,
    parts: Parts,
    outcome: Outcome,
    labels: LabelSet,
    scored: ScoredPart,
    summary: dict[str, Any],
    records: Records,
    explained: Any,
    seconds: float,
) -> RunResult:
    summary["seconds"] = {
        **{name: round(value, 2) for name, value in outcome.seconds.items()},
        "all": round(seconds, 2),
    }
    summary["peak_memory_bytes"] = peak_memory()
    files = [InputFile(source.path, "training", source.rows, source.sha256 or "") for source in records.sources]
    if job.valid is not None and parts.valid is not None:
        files += [InputFile(s.path, "development", s.rows, s.sha256 or "") for s in parts.valid[0].sources]
    notes = list(records.notes)
    train_ids = encode_texts(outcome.model.encoder, _texts(parts.train.select(outcome.train_rows)))
    if unknown := len(rows_without_known_tokens(train_ids)):
        notes.append(f"{unknown:,} training texts hold no known word.")
    title = f"{records.label_column or 'label'} of {', '.join(Path(path).name for path in job.data)}"
    data = describe_run(
        outcome,
        outcome.config,
        scored,
        Provenance(title, job.command, files, notes),
        train_ids.lengths,
        parts.train_targets[outcome.train_rows],
        seconds,
    )
    folder = outcome.model.save(
        job.output,
        settings=outcome.config,
        metrics=summary,
        files={
            "report.html": build_report(data, sections_of(explained), STYLE) if explained else build_report(data),
            "README.md": model_card(data, summary),
            "history.json": _history(outcome),
            "settings.toml": to_toml(outcome.config),
        },
        overwrite=job.overwrite or job.resume,
    )
    return RunResult(folder, outcome, summary)


def _history(outcome: Outcome) -> str:
    history: dict[str, Any] = {"epochs": [dataclasses.asdict(row) for row in outcome.result.history]}
    if len(outcome.members) > 1:
        history["members"] = [
            {"seed": member.seed, "epochs": [dataclasses.asdict(row) for row in member.result.history]}
            for member in outcome.members
        ]
    return json.dumps(history, indent=1)
