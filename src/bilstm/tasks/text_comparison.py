"""Several models on the same rows with the same seeds: one table and one figure. What `bilstm compare` runs.

Files are read, split and encoded once; the linear baseline is fitted once; then every model is trained with the first
seed, with the second, and so on, so that the table is whole early. Each result is on disk before the next model
starts, and a run that was cut goes on where it stood. Imports torch only through `text_training`.
"""

from __future__ import annotations

import dataclasses
import datetime
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bilstm.config import to_mapping
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.records import Records
from bilstm.data.vocabulary import IdEncoder, TextEncoder
from bilstm.errors import InterruptedTrainingError, TrainingDivergedError, UsageError
from bilstm.evaluation.comparison import (
    ComparedModel,
    Comparison,
    build_comparison,
    comparison_chart,
    comparison_rows,
)
from bilstm.evaluation.drawing import duration
from bilstm.metrics import evaluate_classification, evaluate_multilabel
from bilstm.runtime.word_ids import encode_texts
from bilstm.tasks.compared_models import DEFAULT_MODELS, LINEAR, settings_of
from bilstm.tasks.comparison_results import FIGURE, PAGE, RESULTS, Result, ResultFolder
from bilstm.tasks.text_classification import Config, Texts, output_count, words_of
from bilstm.tasks.text_parts import build_encoder, development_part, fit_baseline, groups_line
from bilstm.tasks.text_report import model_name
from bilstm.tasks.text_run import Job, Parts, ReadOptions, read_part, split_parts
from bilstm.tasks.text_training import fit
from bilstm.training import events
from bilstm.training.word_vectors import Memory, remembered_word_vectors
from bilstm.versions import environment

__all__ = ["ComparisonJob", "ComparisonResult", "compare"]

_SCORES = {
    "binary": ("accuracy", "accuracy"),
    "multiclass": ("accuracy", "accuracy"),
    "multilabel": ("micro_f1", "micro F1"),
}
Tell = Callable[[Any], None]


@dataclass(frozen=True)
class ComparisonJob:
    """What to compare on what.

    Parameters
    ----------
    data : sequence of path
        Training data.
    output : path
        Folder of results, table and figure.
    config : Config
        Settings that all models share; `config.seed` draws the rows of each part and is the first seed.
    models : sequence of str
        See `compared_models.settings_of`.
    seeds : int
        Trainings of each model, with the seeds config.seed, config.seed + 1, ...
    reading : ReadOptions
    test : path, optional
        File whose rows are scored.
    valid, split
        As in `text_run.Job`. Without `test` and `split` the development part is scored.
    overwrite : bool
        Start again where results stand already.
    command : str
        For the page: what repeats the comparison.
    """

    data: Sequence[str]
    output: str
    config: Config
    models: Sequence[str] = DEFAULT_MODELS
    seeds: int = 3
    reading: ReadOptions = field(default_factory=ReadOptions)
    test: str | None = None
    valid: str | None = None
    split: str | None = None
    overwrite: bool = False
    command: str = ""


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison gave: the folder, the comparison as drawn, and what `--json` prints."""

    folder: Path
    comparison: Comparison
    summary: dict[str, Any]


def compare(job: ComparisonJob, tell: Tell) -> ComparisonResult:
    """Train and score all models with all seeds; results that `job.output` holds already are kept.

    Raises
    ------
    BilstmError
        Of its family: see errors.py. Results that were written stay.
    InterruptedTrainingError
        After Ctrl-C; the same command goes on.
    """
    _check(job)
    ResultFolder.check(job.output)
    rows = _read(job, tell)
    folder = ResultFolder(job.output, _identity(job, rows), job.config)
    if not job.overwrite:
        folder.read()
    pending = [(name, seed) for name, seed in _runs(job) if not folder.has(name, seed)]
    if done := len(_runs(job)) - len(pending):
        tell(events.Note(f"{done} of {len(_runs(job))} results stand in {folder.folder / RESULTS} already."))
    try:
        with remembered_word_vectors() as memory:
            _run_pending(job, rows, folder, pending, tell, memory)
    except KeyboardInterrupt as error:
        raise _interrupted(job, folder) from error
    comparison = _comparison(job, rows, folder)
    if not pending:
        _write(folder, comparison)  # the command may name fewer models or seeds than the last one
    return ComparisonResult(folder.folder, comparison, _summary(job, rows, comparison, folder))


def _check(job: ComparisonJob) -> None:
    if not job.models:
        raise UsageError("--models names no model.", f"Known are {', '.join(DEFAULT_MODELS)}.")
    for number, name in enumerate(job.models):
        if name != LINEAR:
            settings_of(name, job.config)
        if name in job.models[:number]:
            raise UsageError(f"--models names {name} twice.", "Name each model once.")
    if job.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {job.seeds}.")
    if job.test is not None and job.split is not None:
        raise UsageError("--test and --split both name a test part.", "Give one of them.")


# ---- rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    texts: Texts
    ids: Ragged
    targets: np.ndarray


@dataclass(frozen=True)
class _Rows:
    """The rows of the comparison, the same for all models, encoded."""

    records: Records
    labels: LabelSet
    encoder: TextEncoder | IdEncoder
    train: _Part
    dev: _Part
    test: _Part | None
    sources: list[str]

    @property
    def scored(self) -> _Part:
        return self.dev if self.test is None else self.test

    @property
    def scored_on(self) -> str:
        name = "development" if self.test is None else "test"
        return f"{name} part of {len(self.scored.targets):,} rows"

    @property
    def score_key(self) -> str:
        return _SCORES[self.labels.kind][0]


def _read(job: ComparisonJob, tell: Tell) -> _Rows:
    """Read, split and encode everything once."""
    records = read_part(job.data, job.reading, tell)
    assert records.labels is not None
    separator = job.reading.label_separator or records.label_separator
    labels = LabelSet.build(records.labels, job.reading.label_kind, separator, where=records.where)  # type: ignore[arg-type]
    tell(events.Note(labels.decision))
    if labels.kind not in _SCORES:
        raise UsageError(
            "compare scores classes, and these labels are numbers.",
            "If they name classes, add --label-kind multiclass; else train each model with bilstm train.",
        )
    targets = labels.encode(records.labels, where=records.where)
    named = Job(job.data, job.output, job.config, job.reading, valid=job.valid, split=job.split)
    parts = split_parts(records, targets, labels, named, tell)
    test = parts.test
    sources = _sources(records, "training") + (
        _sources(parts.valid[0], "development") if job.valid and parts.valid else []
    )
    if job.test is not None:
        given = read_part([job.test], job.reading, tell, columns=records)
        assert given.labels is not None
        test = (given, labels.encode(given.labels, where=given.where))
        sources += _sources(given, "test")
    return _encoded(job, records, labels, parts, test, sources, tell)


def _encoded(
    job: ComparisonJob,
    records: Records,
    labels: LabelSet,
    parts: Parts,
    test: tuple[Records, np.ndarray] | None,
    sources: list[str],
    tell: Tell,
) -> _Rows:
    train_rows, dev_rows, groups = development_part(
        _texts(parts.train), parts.train_targets, labels, job.config, parts.valid is not None
    )
    train = parts.train.select(train_rows)
    dev, dev_targets = parts.valid or (parts.train.select(dev_rows), parts.train_targets[dev_rows])
    encoder, train_ids = build_encoder(_texts(train), job.config)

    def part(records: Records, targets: np.ndarray, ids: Ragged | None = None) -> _Part:
        texts = _texts(records)
        return _Part(texts, encode_texts(encoder, texts) if ids is None else ids, targets)

    rows = _Rows(
        records=records,
        labels=labels,
        encoder=encoder,
        train=part(train, parts.train_targets[train_rows], train_ids),
        dev=part(dev, dev_targets),
        test=None if test is None else part(*test),
        sources=sources,
    )
    tell(events.Note(f"{len(train):,} rows train, {len(dev):,} choose the epoch; scored is the {rows.scored_on}."))
    if groups:
        tell(events.Note(groups_line(len(dev), groups)))
    if test is None:
        tell(events.Note(_FLATTERED))
    return rows


_FLATTERED = (
    "There is no --test and no --split: the scores are those of the development part, by which the best epoch was "
    "chosen, so they are a little too high."
)


def _texts(records: Records) -> Texts:
    return records.texts if records.ids is None else records.ids


def _sources(records: Records, use: str) -> list[str]:
    """Name each file without its folder, which may be another one tomorrow."""
    return [f"{Path(s.path).name} ({use}, {s.rows:,} rows, sha256 {(s.sha256 or '')[:16]})" for s in records.sources]


def _identity(job: ComparisonJob, rows: _Rows) -> dict[str, Any]:
    """Return what results must share to stand in one table."""
    return {
        "settings": to_mapping(job.config),
        "data": rows.sources,
        "columns": [rows.records.text_column, rows.records.label_column],
        "labels": [rows.labels.kind, *rows.labels.names],
        "split": job.split,
        "scored_on": rows.scored_on,
        "score": rows.score_key,
    }


# ---- runs ----------------------------------------------------------------------------------------------------------


def _runs(job: ComparisonJob) -> list[tuple[str, int | None]]:
    """List all trainings in order: the linear model once, then all models with the first seed, and so on."""
    first: list[tuple[str, int | None]] = [(LINEAR, None)] if LINEAR in job.models else []
    seeds = range(job.config.seed, job.config.seed + job.seeds)
    return first + [(name, seed) for seed in seeds for name in job.models if name != LINEAR]


def _run_pending(
    job: ComparisonJob,
    rows: _Rows,
    folder: ResultFolder,
    pending: Sequence[tuple[str, int | None]],
    tell: Tell,
    memory: Memory,
) -> None:
    for number, (name, seed) in enumerate(pending):
        tell(events.Note(_position(job, name, seed, _seconds_left(folder, pending[number:]))))
        result = _linear(rows, job.config.seed, tell) if seed is None else _trained(name, seed, job, rows, tell, memory)
        folder.results.append(result)
        _write(folder, _comparison(job, rows, folder))
        tell(events.Note(f"{name}: {rows.score_key.replace('_', ' ')} {result.score:.4f} on the {rows.scored_on}."))


def _position(job: ComparisonJob, name: str, seed: int | None, left_s: float | None) -> str:
    text = f"model {list(job.models).index(name) + 1} of {len(job.models)} ({name})"
    if seed is not None:
        text += f", seed {seed - job.config.seed + 1} of {job.seeds}"
    return text if left_s is None else f"{text}; about {duration(left_s)} left"


def _seconds_left(folder: ResultFolder, pending: Sequence[tuple[str, int | None]]) -> float | None:
    """Estimate the wall time of what is left from what was measured; None while nothing like it was."""
    measured = [result.seconds for result in folder.results if result.seed is not None]
    if not measured:
        return None
    typical = statistics.fmean(measured)
    own = {name: [result.seconds for result in folder.of(name)] for name, seed in pending if seed is not None}
    return sum(statistics.fmean(own[name]) if own[name] else typical for name, seed in pending if seed is not None)


def _linear(rows: _Rows, seed: int, tell: Tell) -> Result:
    """Fit the linear model on the same rows and words."""
    linear = fit_baseline(rows.train.texts, rows.train.targets, rows.dev.texts, rows.dev.targets, rows.labels, seed)
    for note in linear.notes:
        tell(events.Note(note))
    outputs = linear.dev_probabilities
    if rows.test is not None:
        outputs = linear.predict(words_of(rows.test.texts, {}))
    measure = evaluate_multilabel if rows.labels.kind == "multilabel" else evaluate_classification
    scores = _numbers(measure(outputs, rows.scored.targets, rows.labels.names))
    dev_scores = _numbers(measure(linear.dev_probabilities, rows.dev.targets, rows.labels.names))
    return _result(
        rows, LINEAR, None, scores, dev_scores,
        parameters=(sum(linear.settings["ngrams"]) + 1) * output_count(rows.labels),
        seconds=linear.seconds, name=linear.name,
    )  # fmt: skip


def _trained(name: str, seed: int, job: ComparisonJob, rows: _Rows, tell: Tell, memory: Memory) -> Result:
    """Train one model with one seed and score it; each counts the time of its word vectors, remembered or not."""
    memory.seconds = 0.0
    config = dataclasses.replace(settings_of(name, job.config), seed=seed)
    try:
        outcome = fit(
            rows.train.ids,
            rows.train.targets,
            rows.labels,
            config,
            valid=(rows.dev.ids, rows.dev.targets),
            baseline=False,
            encoder=rows.encoder,
            progress=tell,
        )
    except TrainingDivergedError as error:
        hint = f"{error.hint or ''} Or leave {name} out of --models; results so far are kept."
        raise TrainingDivergedError(f"{name}, seed {seed}: {error.message}", hint.strip()) from error
    if outcome.result.stopped_because == "interrupted":
        raise KeyboardInterrupt
    model = outcome.model
    outputs = outcome.dev_outputs if rows.test is None else model.decode(model.logits_of_ids(rows.test.ids))
    return _result(
        rows, name, seed,
        _numbers(model.measure(outputs, rows.scored.targets)),
        _numbers(outcome.dev_metrics),
        parameters=sum(weight.size for weight in model.weights.values()),
        seconds=memory.seconds + outcome.seconds.get("training", 0.0),
        name=model_name(config), best_epoch=outcome.result.best_epoch, epochs=len(outcome.result.history),
    )  # fmt: skip


def _result(
    rows: _Rows,
    model: str,
    seed: int | None,
    scores: dict[str, float | None],
    dev_scores: dict[str, float | None],
    **facts: Any,
) -> Result:
    score, dev_score = scores[rows.score_key], dev_scores[rows.score_key]
    assert score is not None  # accuracy and micro F1 are numbers for any rows
    assert dev_score is not None
    facts["seconds"] = round(facts["seconds"], 2)
    return Result(
        model=model, seed=seed, score=score, dev_score=dev_score, scores=scores, versions=_versions(), **facts
    )  # fmt: skip


def _numbers(scores: dict[str, Any]) -> dict[str, float | None]:
    return {name: value for name, value in scores.items() if value is None or isinstance(value, float)}


def _versions() -> dict[str, str]:
    return {name: version for name, version in environment().items() if version is not None}


def _interrupted(job: ComparisonJob, folder: ResultFolder) -> InterruptedTrainingError:
    done = sum(folder.has(name, seed) for name, seed in _runs(job))
    what = f"{done} of {len(_runs(job))} results are in {folder.folder}." if done else "No model was finished."
    return InterruptedTrainingError(f"Interrupted. {what}", "Run the same command again to go on.")


# ---- table and figure ----------------------------------------------------------------------------------------------


def _results_of(name: str, job: ComparisonJob, folder: ResultFolder) -> list[Result]:
    return [result for result in folder.of(name) if (name, result.seed) in _runs(job)]


def _comparison(job: ComparisonJob, rows: _Rows, folder: ResultFolder) -> Comparison:
    """Gather what is drawn: the models and seeds of this job that have results."""
    models = []
    for name in job.models:
        if results := _results_of(name, job, folder):
            dev = statistics.fmean(result.dev_score for result in results)
            models.append(
                ComparedModel(
                    name=name,
                    scores=[result.score for result in results],
                    seconds=[result.seconds for result in results],
                    parameters=results[0].parameters,
                    is_baseline=name == LINEAR,
                    note=results[0].name + ("" if rows.test is None else f"; dev {100 * dev:.2f}%"),
                )
            )
    return Comparison(
        title=f"Models on {rows.records.label_column or 'label'} of {', '.join(Path(path).name for path in job.data)}",
        models=models,
        scored_on=f"the {rows.scored_on}",
        command=job.command,
        score_name=_SCORES[rows.labels.kind][1],
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        notes=_notes(job, rows, folder),
        versions=_versions(),
    )


def _notes(job: ComparisonJob, rows: _Rows, folder: ResultFolder) -> list[str]:
    last = job.config.seed + job.seeds - 1
    seeds = f"seeds {job.config.seed} to {last}" if job.seeds > 1 else f"the seed {last}"
    notes = [
        f"Every model is trained on the same {len(rows.train.targets):,} rows with {seeds} for weights, order and "
        f"masks; the best epoch is chosen on the same {len(rows.dev.targets):,} development rows.",
        "Networks stand alone here: no n-gram model is joined to their logits, as bilstm train may do.",
        "Parameters are counted as torch keeps them, with two biases a recurrent layer.",
    ]
    if rows.test is None:
        notes.append(_FLATTERED)
    if LINEAR in job.models:
        notes.append("The linear model is fitted once: its problem has one optimum, so it does not depend on the seed.")
    missing = [f"{name} with seed {seed}" for name, seed in _runs(job) if not folder.has(name, seed)]
    if missing:
        notes.append(f"Not finished yet: {len(missing)} of {len(_runs(job))} trainings.")
    if len({tuple(sorted(result.versions.items())) for result in folder.results}) > 1:
        notes.append("The results were made with several versions of bilstm or its libraries; results.jsonl has each.")
    return notes


def _write(folder: ResultFolder, comparison: Comparison) -> None:
    figure = comparison_chart(comparison).svg(is_standalone=True)
    folder.write({FIGURE: figure, PAGE: build_comparison(comparison)})


def _summary(job: ComparisonJob, rows: _Rows, comparison: Comparison, folder: ResultFolder) -> dict[str, Any]:
    lines = []
    for row in comparison_rows(comparison):
        results = _results_of(row["model"], job, folder)
        lines.append({**row, "dev_mean": statistics.fmean(result.dev_score for result in results)})
    return {
        "scored_on": "development" if rows.test is None else "test",
        "score": rows.score_key,
        "rows": {
            "train": len(rows.train.targets),
            "dev": len(rows.dev.targets),
            "test": 0 if rows.test is None else len(rows.test.targets),
        },
        "notes": list(comparison.notes),
        "models": lines,
    }
