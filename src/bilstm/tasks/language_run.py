"""The whole job on files of texts: read, train, measure, write the model folder with report and card.

What `bilstm pretrain` runs; the counterpart of `text_run.py`. Imports torch only through `language_training`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilstm.config import to_mapping, to_toml
from bilstm.data.records import Records, read_records
from bilstm.errors import DataError, InterruptedTrainingError, TrainingDivergedError
from bilstm.evaluation.language_report import build_language_report
from bilstm.evaluation.report_data import InputFile, ReportData, describe_part
from bilstm.model_folder import check_output
from bilstm.model_summary import LayerRow, describe_layers
from bilstm.runtime.next_word_head import head_shapes
from bilstm.tasks.language_model import TASK, Config, LanguageModel
from bilstm.tasks.language_training import LanguageOutcome, fit
from bilstm.tasks.text_report import peak_memory
from bilstm.tasks.text_run import checkpoint_of
from bilstm.training import events
from bilstm.versions import environment

__all__ = ["LanguageJob", "LanguageResult", "model_name", "read_texts", "run"]


@dataclass(frozen=True)
class LanguageJob:
    """What to learn from what.

    Parameters
    ----------
    data : sequence of path
        Files of texts; labels are not looked at.
    output : path
        Model folder to write.
    config : Config
    text, encoding, skip_bad_rows, max_bytes
        See `bilstm.data.records.read_records`.
    valid : path, optional
        Development part; by default drawn from the data.
    resume : bool
        Go on from the checkpoint beside `output`.
    overwrite : bool
        Replace a model at `output`.
    command : str
        For the report: what repeats the run.
    """

    data: Sequence[str]
    output: str
    config: Config
    text: str | None = None
    encoding: str | None = None
    skip_bad_rows: bool = False
    max_bytes: int | None = None
    valid: str | None = None
    resume: bool = False
    overwrite: bool = False
    command: str = ""


@dataclass(frozen=True)
class LanguageResult:
    """What a job gave: the folder, the outcome, and what `--json` prints and metrics.json holds."""

    folder: Path
    outcome: LanguageOutcome
    summary: dict[str, Any]


def run(job: LanguageJob, tell: Callable[[Any], None]) -> LanguageResult:
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
    records = _read(job, job.data, tell)
    valid = None if job.valid is None else _read(job, [job.valid], tell, records.text_column)
    checkpoint = checkpoint_of(job.output)
    try:
        outcome = fit(
            records.texts,
            job.config,
            valid=None if valid is None else valid.texts,
            checkpoint=checkpoint,
            resume=job.resume,
            progress=tell,
        )
    except TrainingDivergedError as error:
        raise TrainingDivergedError(error.message, f"{error.hint or ''} No model was written.".strip()) from error
    if outcome.result.best_epoch == 0:
        raise InterruptedTrainingError(
            f"Interrupted before the first epoch ended; there is no model yet. The checkpoint {checkpoint} is kept.",
            "Add --resume to the same command to go on.",
        )
    result = _write(job, records, valid, outcome, time.perf_counter() - started)
    if outcome.result.stopped_because == "interrupted":
        raise InterruptedTrainingError(
            f"Interrupted; the best model so far (epoch {outcome.result.best_epoch}) is saved in {job.output}.",
            "Add --resume to the same command to go on.",
        )
    shutil.rmtree(checkpoint, ignore_errors=True)
    return result


def read_texts(
    data: Sequence[str],
    *,
    text: str | None = None,
    encoding: str | None = None,
    skip_bad_rows: bool = False,
    max_bytes: int | None = None,
) -> Records:
    """Read files of texts; their labels, where they have some, are not looked at.

    Raises
    ------
    DataError
        Also for files of word ids, and for files without rows.
    """
    records = read_records(
        list(data),
        text=text,
        labels="none",
        encoding=encoding,
        skip_bad_rows=skip_bad_rows,
        max_bytes=max_bytes,
        keep_extras=False,
    )
    if records.ids is not None:
        raise DataError(f"{records.sources[0].name}: holds word ids; a language model reads texts.")
    if not len(records):
        raise DataError(f"{', '.join(map(str, data))}: no texts.", "Give a file with at least two.")
    return records


def _read(
    job: LanguageJob, data: Sequence[str], tell: Callable[[Any], None], text_column: str | None = None
) -> Records:
    records = read_texts(
        data,
        text=job.text or text_column,
        encoding=job.encoding,
        skip_bad_rows=job.skip_bad_rows,
        max_bytes=job.max_bytes,
    )
    for note in records.notes:
        tell(events.Note(note))
    return records


def model_name(config: Config) -> str:
    """Name the model in the words of the field."""
    return f"Bi{ {'lstm': 'LSTM', 'gru': 'GRU', 'rnn': 'RNN'}[config.cell] } language model"


def _write(
    job: LanguageJob, records: Records, valid: Records | None, outcome: LanguageOutcome, seconds: float
) -> LanguageResult:
    summary: dict[str, Any] = {
        "task": TASK,
        "model": model_name(outcome.config),
        "rows": {"train": len(outcome.train_ids), "dev": len(outcome.dev_ids)},
        "words": {"train": len(outcome.train_ids.values), "dev": len(outcome.dev_ids.values)},
        "best_epoch": outcome.result.best_epoch,
        "epochs": len(outcome.result.history),
        "stopped_because": outcome.result.stopped_because,
        "steps": outcome.result.steps,
        "steps_per_second": round(outcome.result.steps / max(outcome.result.seconds, 1e-9), 3),
        "dev": outcome.dev_metrics,
        "seconds": {
            **{name: round(value, 2) for name, value in outcome.seconds.items()},
            "all": round(seconds, 2),
        },
        "peak_memory_bytes": peak_memory(),
    }
    data = _report_data(job, records, valid, outcome, seconds)
    history = [dataclasses.asdict(row) for row in outcome.result.history]
    folder = outcome.model.save(
        job.output,
        settings=outcome.config,
        metrics=summary,
        files={
            "report.html": build_language_report(data),
            "README.md": _model_card(data),
            "history.json": json.dumps({"epochs": history}, indent=1),
            "settings.toml": to_toml(outcome.config),
        },
        overwrite=job.overwrite or job.resume,
    )
    return LanguageResult(folder, outcome, summary)


def _report_data(
    job: LanguageJob, records: Records, valid: Records | None, outcome: LanguageOutcome, seconds: float
) -> ReportData:
    files = [InputFile(source.path, "training", source.rows, source.sha256 or "") for source in records.sources]
    if valid is not None:
        files += [InputFile(s.path, "development", s.rows, s.sha256 or "") for s in valid.sources]
    return ReportData(
        title=f"{records.text_column or 'texts'} of {', '.join(Path(path).name for path in job.data)}",
        kind="language",
        scores=outcome.dev_metrics,
        scored_on=f"the development part of {len(outcome.dev_ids):,} texts",
        model_name=model_name(outcome.config),
        command=job.command,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        files=files,
        parts=[
            describe_part("training part", outcome.train_ids.lengths),
            describe_part("development part", outcome.dev_ids.lengths),
        ],
        notes=list(records.notes),
        epochs=outcome.result.history,
        best_epoch=outcome.result.best_epoch or None,
        score_name="perplexity",
        score_is_share=False,
        layers=_layer_rows(outcome.model),
        settings=to_mapping(outcome.config),
        versions={name: version for name, version in environment().items() if version is not None},
        machine={"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        seeds={"seed": outcome.config.seed},
        seconds=seconds,
        peak_memory=peak_memory(),
    )


def _layer_rows(model: LanguageModel) -> list[LayerRow]:
    words = len(model.encoder.vocabulary)
    own = {name: array.size for name, array in model.weights.items() if name in head_shapes(1, 1, 1)}
    title = "head: projections, boundary, bias (word vectors shared)"
    return [
        *describe_layers(model.model.description),
        LayerRow(title, f"(batch, steps, 2, {words + 1})", sum(own.values()), 0),
    ]


def _model_card(data: ReportData) -> str:
    """Write README.md of the model folder."""
    scores = data.scores
    lines = [
        "---",
        "library_name: bilstm",
        "---",
        f"# {data.title}",
        "",
        f"A {data.model_name}, trained with bilstm {data.versions.get('bilstm', '')} on {data.created}: one layer that",
        "reads forwards and backwards, each direction predicting the next word on its way.",
        "",
        f"| perplexity on {data.scored_on} | |",
        "|---|---|",
        f"| both directions | {scores['perplexity']:.1f} |",
        f"| forwards | {scores['forward']['perplexity']:.1f} |",
        f"| backwards | {scores['backward']['perplexity']:.1f} |",
        "",
        f"Over {scores['vocabulary_size']:,} known words; {100 * scores['unknown_share']:.1f} % of the words read are",
        "none of them and count as one word.",
        "",
        "## Data",
        "",
        *(f"- `{file.name}`: {file.rows:,} texts, {file.use}, sha256 `{file.sha256}`" for file in data.files),
        *(f"- {part.name}: {part.rows:,} texts" for part in data.parts),
        "",
        "## Use",
        "",
        "    bilstm train labelled.csv --start-from FOLDER -o model",
        "    bilstm evaluate FOLDER texts.csv",
        "",
        "## Repeat",
        "",
        f"    {data.command}",
        "",
        "The model knows only the words and the kind of text it was trained on.",
        "",
    ]
    return "\n".join(lines)
