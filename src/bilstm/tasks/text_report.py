"""What the report of a text model shows: from the outcome of a training to `ReportData` and the model card.

Imports `evaluation` and `metrics`; no torch.
"""

from __future__ import annotations

import datetime
import os
import platform
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm.config import to_mapping
from bilstm.data.labels import LabelSet
from bilstm.evaluation.report_data import (
    BaselineData,
    InputFile,
    Mistake,
    PairedOutcome,
    ReportData,
    TellingWords,
    classification_mistakes,
    describe_part,
    group_by_length,
    multilabel_mistakes,
    paired_closeness,
    paired_outcome,
    regression_mistakes,
)
from bilstm.model_summary import describe_layers
from bilstm.tasks.precision_scores import precision_lines
from bilstm.tasks.text_classification import Config, Texts
from bilstm.versions import environment

if TYPE_CHECKING:
    from bilstm.tasks.text_training import Outcome

__all__ = [
    "JOINED",
    "Provenance",
    "ScoredPart",
    "describe_run",
    "members_note",
    "members_text",
    "model_card",
    "model_name",
    "peak_memory",
]


JOINED = " + n-grams"  # after the name of a network to which the linear model is joined
_FIRST_SHOWN = "The curves show the first member's epochs; history.json holds those of all."


@dataclass(frozen=True)
class Provenance:
    """Where the data came from and how to repeat the run.

    Parameters
    ----------
    title : str
    command : str
    files : sequence of InputFile
    notes : sequence of str
    """

    title: str
    command: str
    files: Sequence[InputFile] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ScoredPart:
    """The rows whose scores the report shows: the test part if there is one, else the development part.

    Parameters
    ----------
    name : str
        For example "the development part of 2,500 rows".
    texts : Texts
    lengths : ndarray of shape (rows,)
        Words of each text.
    targets, outputs : ndarray
        As `TextModel.decode` gives them.
    scores : dict
    where : sequence of str
        File and line of each row.
    baseline_outputs : ndarray, optional
    baseline_scores : dict, optional
    is_final : bool
        Nothing was chosen on these rows.
    """

    name: str
    texts: Texts
    lengths: np.ndarray
    targets: np.ndarray
    outputs: np.ndarray
    scores: dict[str, Any]
    where: Sequence[str]
    baseline_outputs: np.ndarray | None = None
    baseline_scores: dict[str, Any] | None = None
    is_final: bool = False
    extra_parts: Sequence[Any] = field(default_factory=tuple)


def model_name(config: Config, members: int = 1) -> str:
    """Name the model in the words of the field, for example "BiLSTM (2 layers)" or "3 x BiLSTM"."""
    cells = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
    layers = len(config.layer_sizes) if config.layer_sizes else config.num_layers
    if config.cell == "none":
        name = "feed-forward model"
    else:
        name = ("Bi" if config.bidirectional else "") + cells[config.cell]
        name = f"{name} ({layers} layers)" if layers > 1 else name
    return f"{members} x {name}" if members > 1 else name


_SCORES = {"multilabel": "micro_f1", "regression": "root_mean_squared_error"}


def members_text(outcome: Outcome) -> str:
    """Say how many members there are, for example "2 members"."""
    count = len(outcome.members)
    return f"{count} member{'s' if count > 1 else ''}"


def members_note(outcome: Outcome) -> str:
    """Say what each network of an ensemble scores on the development part, and what they score together."""
    name = _SCORES.get(outcome.model.labels.kind, "accuracy")
    said = [
        f"seed {member.seed}: {member.dev_metrics[name]:.4f} (epoch {member.result.best_epoch})"
        for member in outcome.members
    ]
    together = outcome.network_metrics[name]
    note = f"{members_text(outcome)}, {name.replace('_', ' ')} on the development part: {'; '.join(said)}"
    note += f"; all together {together:.4f}."
    if "log_loss" in outcome.network_metrics:
        losses = [member.dev_metrics["log_loss"] for member in outcome.members]
        note += (
            f" Log loss {sum(losses) / len(losses):.4f} on average, {outcome.network_metrics['log_loss']:.4f} together."
        )
    return note


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _is_right(outputs: np.ndarray, targets: np.ndarray, labels: LabelSet) -> np.ndarray:
    if labels.kind == "multilabel":
        return ((outputs > 0.5) == (targets > 0.5)).all(axis=1)
    return outputs.argmax(axis=1) == targets


def _paired(part: ScoredPart, labels: LabelSet) -> PairedOutcome | None:
    if part.baseline_outputs is None:
        return None
    if labels.kind == "regression":
        return paired_closeness(part.outputs - part.targets, part.baseline_outputs - part.targets)
    return paired_outcome(
        _is_right(part.outputs, part.targets, labels), _is_right(part.baseline_outputs, part.targets, labels)
    )


def _mistakes(part: ScoredPart, labels: LabelSet) -> list[Mistake]:
    if not isinstance(part.texts, list):
        return []  # word ids say nothing to a reader
    if labels.kind == "regression":
        return regression_mistakes(part.outputs, part.targets, part.texts, part.where)
    chosen = multilabel_mistakes if labels.kind == "multilabel" else classification_mistakes
    return chosen(part.outputs, part.targets, labels.names, part.texts, part.where)


def _telling(outcome: Outcome, labels: LabelSet) -> list[TellingWords]:
    if outcome.baseline is None:
        return []
    names = ("lower numbers", "higher numbers") if labels.kind == "regression" else labels.names
    return [TellingWords(name, words) for name, words in zip(names, outcome.baseline.telling(), strict=True)]


def _outcomes(part: ScoredPart, labels: LabelSet) -> list[np.ndarray]:
    given = [part.outputs, *([part.baseline_outputs] if part.baseline_outputs is not None else [])]
    if labels.kind == "regression":
        return [np.abs(outputs - part.targets) for outputs in given]
    return [_is_right(outputs, part.targets, labels) for outputs in given]


def describe_run(
    outcome: Outcome,
    config: Config,
    part: ScoredPart,
    provenance: Provenance,
    train_lengths: np.ndarray,
    train_targets: np.ndarray,
    seconds: float,
) -> ReportData:
    """Gather everything that the report shows about a training run."""
    model, labels = outcome.model, outcome.model.labels
    names = labels.names
    baseline = None
    if outcome.baseline is not None and part.baseline_scores is not None:
        linear = outcome.baseline
        baseline = BaselineData(linear.name, part.baseline_scores, linear.seconds, linear.notes, _paired(part, labels))
    kind = labels.kind if labels.kind in ("multilabel", "regression") else "classification"
    seeds = [member.seed for member in outcome.members] or [config.seed]
    is_share = labels.kind != "regression"
    return ReportData(
        title=provenance.title,
        kind=kind,  # type: ignore[arg-type]
        scores=part.scores,
        scored_on=part.name,
        model_name=model_name(config, len(outcome.members)) + (JOINED if model.joined is not None else ""),
        command=provenance.command,
        is_final=part.is_final,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        files=provenance.files,
        parts=[
            describe_part("training part", train_lengths, train_targets, names),
            *part.extra_parts,
            describe_part(part.name.removeprefix("the ").split(" of ")[0], part.lengths, part.targets, names),
        ],
        notes=[
            *provenance.notes,
            *outcome.notes,
            *([members_note(outcome), _FIRST_SHOWN] if len(outcome.members) > 1 else []),
        ],
        baseline=baseline,
        epochs=outcome.result.history,
        best_epoch=outcome.result.best_epoch or None,
        score_name={"multilabel": "micro F1", "regression": "negative RMSE"}.get(labels.kind, "accuracy"),
        score_is_share=is_share,
        scores_before=outcome.dev_metrics_before if not part.is_final else None,
        temperature=outcome.temperature if not part.is_final else None,
        length_groups=group_by_length(part.lengths, _outcomes(part, labels)),
        mistakes=_mistakes(part, labels),
        telling=_telling(outcome, labels),
        predictions=_sample(part, config.seed) if labels.kind == "regression" else (),
        layers=describe_layers(model.model.description),
        settings=to_mapping(config),
        versions={name: version for name, version in environment().items() if version is not None},
        machine={"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        seeds={"seed": seeds[0] if len(seeds) == 1 else ", ".join(map(str, seeds))},
        seconds=seconds,
        peak_memory=peak_memory(),
    )


def _sample(part: ScoredPart, seed: int, most: int = 1000) -> list[tuple[float, float]]:
    rows = np.random.default_rng(seed).permutation(len(part.targets))[:most]
    return [(float(part.targets[row]), float(part.outputs[row])) for row in rows]


def model_card(data: ReportData, metrics: Mapping[str, Any]) -> str:
    """Write README.md of the model folder: what the model is, what it was trained on, how good, how to use it."""
    name = _SCORES.get(data.kind, "accuracy")
    lines = [
        "---",
        "library_name: bilstm",
        "pipeline_tag: text-classification",
        "---",
        f"# {data.title}",
        "",
        f"A {data.model_name} for text, trained with bilstm {data.versions.get('bilstm', '')} on {data.created}.",
        "",
        "| model | scored on | " + name.replace("_", " ") + " |",
        "|---|---|---|",
        f"| {data.model_name} | {data.scored_on} | {_number(data.scores.get(name))} |",
    ]
    if data.baseline is not None:
        lines.append(f"| {data.baseline.name} | {data.scored_on} | {_number(data.baseline.scores.get(name))} |")
    lines += _member_lines(metrics.get("members"), metrics.get("network_alone", metrics), name)
    lines += precision_lines(metrics.get("precisions"))
    lines += ["", "## Data", ""]
    lines += [f"- `{file.name}`: {file.rows:,} rows, {file.use}, sha256 `{file.sha256}`" for file in data.files]
    lines += [f"- {part.name}: {part.rows:,} rows" for part in data.parts]
    if classes := metrics.get("classes"):
        lines.append(f"- classes: {', '.join(classes)}")
    lines += [
        "",
        "## Use",
        "",
        '    bilstm predict FOLDER "a text"',
        "    bilstm evaluate FOLDER labelled.csv",
        "",
        "## Repeat",
        "",
        f"    {data.command}",
        "",
        "The model knows only the words and the kind of text it was trained on; scores on other texts may be lower.",
        "",
    ]
    return "\n".join(lines)


def _member_lines(members: Sequence[Mapping[str, Any]] | None, together: Mapping[str, Any], name: str) -> list[str]:
    """Write the score of each network of an ensemble, and of all together."""
    if not members:
        return []
    lines = ["", f"| member | best epoch | {name.replace('_', ' ')} on the development part |", "|---|---|---|"]
    lines += [f"| seed {one['seed']} | {one['best_epoch']} | {_number(one['dev'].get(name))} |" for one in members]
    return [*lines, f"| mean of {len(members)} | - | {_number(together['dev'].get(name))} |"]


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}"
