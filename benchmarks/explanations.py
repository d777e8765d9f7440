"""How true and how fast explanations are, on a trained text model and its test texts.

    bilstm train train.csv.gz -o model
    python benchmarks/explanations.py --model model --data test.csv.gz --name imdb     # one line of results
    python benchmarks/explanations.py --planted train.csv.gz --seeds train.csv.gz
    python benchmarks/explanations.py --table                                          # results/explanations.md

500 texts are drawn by a fixed seed; the slow methods are measured on the first of them only (`FEWER`). Nothing is
chosen here: the default method was chosen on development texts. Times are processor seconds of one thread; a busy
machine makes them longer, so ratios are of runs that take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import bilstm
from bilstm.data.records import read_records
from bilstm.explanation import explain
from bilstm.explanation.decomposition import can_decompose, decompose
from bilstm.explanation.explaining import subject_of
from bilstm.explanation.faithfulness import measure_faithfulness, pointing_game, rank_agreement
from bilstm.explanation.gradients import integrated_gradients
from bilstm.explanation.methods import METHODS, attribute_all, default_method
from bilstm.explanation.occlusion import advancing
from bilstm.explanation.pooled_pass import pools_one_layer
from bilstm.explanation.recurrent_trace import directions_of
from bilstm.explanation.relevance import relevance
from bilstm.explanation.subject import TextSubject
from bilstm.explanation.words import TextWords
from text_runs import RESULTS, append_line, describe, read_lines

TEXTS = 500
FEWER = {"near-occlusion": 200, "occlusion": 100, "integrated-gradients": 60, "contextual-decomposition": 20}
TURNS = 7
TOLERANCES = (0.0, 1e-6, 1e-4, 1e-2)
EXACT_TEXTS = 60  # on which near occlusion is compared with the exact one
FILE = RESULTS / "explanations.jsonl"


def measure(folder: str, data: str, name: str) -> dict[str, Any]:
    """Measure all methods on one model."""
    model = bilstm.load(folder, threads=1)
    records = read_records([data])
    assert records.labels is not None
    rows = np.random.default_rng(0).permutation(len(records))[:TEXTS]
    texts = [records.texts[row] for row in rows]
    truths = model.labels.encode([records.labels[row] for row in rows])
    subject = subject_of(model)
    words = subject.words(texts)
    logits = subject.logits(words)
    targets = subject.chosen_targets(logits, None)
    accuracy = float((subject.probabilities(logits).argmax(axis=1) == truths).mean())
    methods = [measured(subject, texts, words, targets, logits, "random")]
    for method in sorted(METHODS, key=lambda one: -FEWER.get(one, TEXTS)):
        if method != "attention" and (method != "contextual-decomposition" or can_decompose(subject.network)):
            methods.append(measured(subject, texts, words, targets, logits, method))
            print(methods[-1], flush=True)
    return {
        "kind": "model",
        "name": name,
        "default": default_method(subject),
        "texts": len(texts),
        "median_words": statistics.median(len(one) for one in words),
        "accuracy": accuracy,
        "methods": methods,
        "checks": checks(model, subject, words[:20]),
        "speed": speed(model, subject, texts, words),
        "memory": memory(subject, words),
        **describe(None),
    }


def measured(
    subject: TextSubject,
    texts: Sequence[str],
    words: Sequence[TextWords],
    targets: np.ndarray,
    logits: np.ndarray,
    method: str,
) -> dict[str, Any]:
    """Measure one method: faithfulness, pointing game, completeness gap, time."""
    count = FEWER.get(method, len(words))
    words, targets, texts = words[:count], targets[:count], texts[:count]
    random = np.random.default_rng(0)

    def attribute(some: Sequence[TextWords], wanted: np.ndarray) -> list[np.ndarray]:
        if method == "random":
            return [random.random((len(one), 1)) for one in some]
        return [one.values for one in attribute_all(subject, some, wanted, method)]

    started = time.process_time()
    if method == "random":
        values, gaps = [one[:, 0] for one in attribute(words, targets)], []
    else:
        found = attribute_all(subject, words, targets, method)
        values, gaps = [one.values[:, 0] for one in found], [one.gap for one in found if one.gap is not None]
    seconds = time.process_time() - started
    faithfulness = measure_faithfulness(subject, words, targets[:, 0], values)
    sureness = subject.probabilities(logits[:count]).max(axis=1)
    surest = np.argsort(-sureness, kind="stable")[:100]
    pairs = 50 if method not in FEWER else 8
    pointing = pointing_game(subject, [texts[row] for row in surest], targets[surest, 0], attribute, pairs=pairs)
    return {
        "method": method,
        **faithfulness.to_json(),
        "pointing": pointing and {"share": pointing[0], "questions": pointing[1]},
        "gap_median": float(np.median(gaps)) if gaps else None,
        "gap_largest": float(np.max(gaps)) if gaps else None,
        "milliseconds": seconds / count * 1e3,
    }


def checks(model: Any, subject: TextSubject, words: Sequence[TextWords]) -> dict[str, float | None]:
    """Return the largest differences from what each method must equal."""
    vectors = subject.vectors(words)
    targets = subject.chosen_targets(subject.logits(words), None)
    contrasts = subject.contrasts()[targets][:, 0]
    texts = [one.text for one in words]
    different = []
    for one, found in zip(words, attribute_all(subject, words, targets, "occlusion"), strict=True):
        contrast = subject.contrasts()[targets[texts.index(one.text)]]
        keeps = [np.arange(len(one)) != at for at in range(len(one))]
        brute = subject.logits_of_kept([one] * len(one), keeps)
        scores = subject.logits([one]) @ contrast.T - brute @ contrast.T
        different.append(np.abs(scores - found.values).max(initial=0.0))
    checked: dict[str, float | None] = {
        "occlusion_from_brute_force": float(max(different)),
        "relevance_not_conserved": float(relevance(subject.network, vectors, contrasts).gap.max()),
        "decomposition_from_logits": None,
    }
    if can_decompose(subject.network):
        rows = np.arange(min(len(words), 5))
        spans = np.array([(0, max(1, len(words[row].ids) // 3)) for row in rows])
        parts = decompose(subject.network, vectors, rows, spans)
        whole = subject.network.run(vectors)[rows]
        checked["decomposition_from_logits"] = float(np.abs(parts[0] + parts[1] - whole).max())
    checked["gradients_from_captum"] = from_captum(subject, words[:5], contrasts[:5])
    return checked


def from_captum(subject: TextSubject, words: Sequence[TextWords], contrasts: np.ndarray) -> float:
    """Return the largest difference from Captum's integrated gradients on the torch model of the same weights."""
    import torch
    from captum.attr import IntegratedGradients

    from bilstm.data.ragged import Ragged
    from bilstm.layers import Randomness, build_model

    network = subject.network
    module = build_model(network.layers, Randomness(0)).eval()
    named = {f"layers.{at}.{name}": value for at, part in enumerate(network.weights) for name, value in part.items()}
    module.load_state_dict({name: torch.tensor(value) for name, value in named.items()})
    largest = 0.0
    for one, contrast in zip(words, contrasts, strict=True):
        batch = subject.vectors([one])
        chosen = torch.tensor(contrast, dtype=torch.float32)

        def forward(values: torch.Tensor, chosen: torch.Tensor = chosen) -> torch.Tensor:
            offsets = torch.arange(len(values) + 1) * values.shape[1]
            return module(Ragged(values.reshape(-1, values.shape[2]), offsets)) @ chosen

        base = np.broadcast_to(subject.baseline, batch.values.shape).copy()
        wanted = IntegratedGradients(forward).attribute(
            torch.tensor(batch.values)[None], torch.tensor(base)[None], n_steps=8, method="gausslegendre"
        )
        found = integrated_gradients(network, batch, subject.baseline, contrast[None], points=8)
        largest = max(largest, float(np.abs(found.values - wanted[0].sum(dim=1).numpy()).max()))
    return largest


def speed(model: Any, subject: TextSubject, texts: Sequence[str], words: Sequence[TextWords]) -> dict[str, Any]:
    """Time one text of about 230 words, or the longest below.

    Everything is run in turns, so that the rest of the machine slows all alike; a time is the mean of the runs of its
    turn, and what is given are medians over the turns, of times and of ratios.
    """
    row = min(range(len(words)), key=lambda at: abs(len(words[at]) - 230))
    one, text = words[row], texts[row]
    shorter = [" ".join(one.keys[:at] + one.keys[at + 1 :]) for at in range(len(one))]

    def one_by_one() -> None:
        for each in shorter:
            model.predict_proba([each])

    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "one by one": (one_by_one, 1),
        "in one batch": (lambda: model.predict_proba(shorter), 2),
        "occlusion": (lambda: explain(model, text, "occlusion"), 3),
        "near-occlusion": (lambda: explain(model, text, "near-occlusion"), 10),
        "default": (lambda: explain(model, text), 15),
        "predict": (lambda: model.predict_proba([text]), 30),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):  # the first one warms up
        for name, (run, repeats) in runs.items():
            started = time.process_time()
            for _ in range(repeats):
                run()
            if turn:
                times[name].append((time.process_time() - started) / repeats * 1e3)
    ratios = {
        f"{method} than {naive}": statistics.median(a / b for a, b in zip(times[naive], times[method], strict=True))
        for method in ("occlusion", "near-occlusion")
        for naive in ("one by one", "in one batch")
    }
    targets = subject.chosen_targets(subject.logits(words[:EXACT_TEXTS]), None)
    exact, near = (
        [each.values[:, 0] for each in attribute_all(subject, words[:EXACT_TEXTS], targets, method)]
        for method in ("occlusion", "near-occlusion")
    )
    errors = np.concatenate([np.abs(a - b) for a, b in zip(near, exact, strict=True)])
    return {
        "words": len(one),
        "precision": model.model.precision,
        "milliseconds": {name: statistics.median(found) for name, found in times.items()},
        "least_milliseconds": {name: min(found) for name, found in times.items()},
        "times_faster": ratios,
        "near": {
            "texts": EXACT_TEXTS,
            "words": len(errors),
            "median_error": float(np.median(errors)),
            "error_of_99_percent": float(np.quantile(errors, 0.99)),
            "largest_error": float(errors.max()),
            "median_attribution": float(np.median(np.abs(np.concatenate(exact)))),
            "rank_agreement": rank_agreement(near, exact),
        },
    }


def memory(subject: TextSubject, words: Sequence[TextWords]) -> dict[str, Any] | None:
    """Return how far behind a left-out word the states of the text of `speed` are those of the whole text again.

    Of all steps behind all gaps: the share before the first one at which h and c differ by at most a tolerance in every
    unit, 0 being the same bits; it bounds what reusing the rest of the text can save.
    """
    if not pools_one_layer(subject.network.layers):
        return None
    one = min(words, key=lambda each: abs(len(each) - 230))
    network, batch = subject.network.parts(subject.vectors([one]))[0]
    count = len(batch.values)
    cuts = np.stack([np.arange(count), np.arange(count) + 1], axis=1)
    before = {tolerance: 0 for tolerance in TOLERANCES}
    for direction in directions_of(network.layers[0], network.weights[0], 0):
        values = np.ascontiguousarray(batch.values[::-1] if direction.is_backward else batch.values)
        advance = advancing(network, direction, values, "float32")
        size = direction.hidden_size
        h, c = np.zeros((count + 1, size), np.float32), np.zeros((count + 1, size), np.float32)
        for at in range(count):  # the whole text, step by step
            ran = advance(np.array([at]), np.array([1]), h[at : at + 1], c[at : at + 1])
            h[at + 1], c[at + 1] = ran.h[0], ran.c[0]
        own_h, own_c, reached = h[cuts[:, 0]], c[cuts[:, 0]], np.full((count, len(TOLERANCES)), count)
        for lag in range(1, count):
            rows = np.arange(count - lag)
            ran = advance(cuts[rows, 1] + lag - 1, np.ones(len(rows), np.int64), own_h[rows], own_c[rows])
            own_h[rows], own_c[rows] = ran.h, ran.c
            at = cuts[rows, 1] + lag
            gap = np.maximum(np.abs(ran.h - h[at]).max(axis=1), np.abs(ran.c - c[at]).max(axis=1))
            for number, tolerance in enumerate(TOLERANCES):
                reached[rows[gap <= tolerance], number] = np.minimum(reached[rows[gap <= tolerance], number], lag)
        left = count - cuts[:, 1]
        for number, tolerance in enumerate(TOLERANCES):
            before[tolerance] += int(np.minimum(reached[:, number], left).sum())
    steps = 2 * int((count - cuts[:, 1]).sum()) if network.layers[0].bidirectional else int((count - cuts[:, 1]).sum())
    return {"words": count, "steps": steps, "share_before": {str(key): value / steps for key, value in before.items()}}


# ---- a cause that is known, and two seeds --------------------------------------------------------------------------


def planted(data: str, rows: int = 1500, words: int = 60) -> dict[str, Any]:
    """Train on reviews with random labels and one planted word a class; count how often it is the top attribution."""
    random = np.random.default_rng(0)
    records = read_records([data])
    chosen = random.permutation(len(records))[: rows + TEXTS]
    names, texts, labels = ("zorp", "blick"), [], []
    for row in chosen:
        text = records.texts[row].split()[:words]
        label = int(random.integers(2))
        text.insert(int(random.integers(len(text) + 1)), names[label])
        texts.append(" ".join(text))
        labels.append(label)
    settings = {"max_epochs": 6, "vectors": "random", "hidden_size": 48, "embedding_size": 48, "threads": 1}
    found: dict[str, Any] = {}
    models = []
    for seed in (0, 1):
        classifier = bilstm.TextClassifier(**settings, join_linear=False, random_state=seed)
        models.append(classifier.fit(texts[:rows], labels[:rows]).model_)
    tests, truth = texts[rows:], np.array(labels[rows:])
    subject = subject_of(models[0])
    cut = subject.words(tests)
    targets = truth[:, None]
    for method in METHODS:
        if method == "attention":
            continue
        values = attribute_all(subject, cut, targets, method)
        hits = [one.keys[int(each.values[:, 0].argmax())] in names for one, each in zip(cut, values, strict=True)]
        found[method] = float(np.mean(hits))
    return {
        "kind": "planted",
        "rows": rows,
        "texts": len(tests),
        "accuracy": float((models[0].predict_proba(tests).argmax(axis=1) == truth).mean()),
        "top_is_planted": found,
        "chance": float(np.mean([1 / len(one) for one in cut])),
        **describe(None),
    }


def seeds(data: str, rows: int = 3000, words: int = 80, texts: int = 200) -> dict[str, Any]:
    """Train two models that differ by the seed alone; compare the ranks of their attributions."""
    records = read_records([data])
    assert records.labels is not None
    chosen = np.random.default_rng(1).permutation(len(records))[: rows + texts]
    given = [" ".join(records.texts[row].split()[:words]) for row in chosen]
    labels = [records.labels[row] for row in chosen]
    models = []
    for seed in (0, 1):
        classifier = bilstm.TextClassifier(
            max_epochs=6, hidden_size=64, embedding_size=64, threads=1, random_state=seed
        )
        models.append(classifier.fit(given[:rows], labels[:rows]).model_)
    subjects = [subject_of(one) for one in models]
    cut = [subject.words(given[rows:]) for subject in subjects]
    targets = subjects[0].chosen_targets(subjects[0].logits(cut[0]), None)
    agreement = {}
    for method in METHODS:
        if method in ("attention", "contextual-decomposition"):
            continue
        both = [
            [one.values[:, 0] for one in attribute_all(subject, part, targets, method)]
            for subject, part in zip(subjects, cut, strict=True)
        ]
        agreement[method] = rank_agreement(*both)
    same = [model.predict(given[rows:]) for model in models]
    return {
        "kind": "seeds",
        "rows": rows,
        "texts": texts,
        "same_answer": float(np.mean([one == two for one, two in zip(*same, strict=True)])),
        "rank_agreement": agreement,
        **describe(None),
    }


# ---- the table -----------------------------------------------------------------------------------------------------


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Write the results as Markdown; of each name the latest line."""
    latest = {(line["kind"], line.get("name"), line.get("rows")): line for line in lines}
    parts = ["# Explanations, measured\n", "Made by `python benchmarks/explanations.py --table`.\n"]
    for line in latest.values():
        if line["kind"] == "model":
            parts.append(_model_table(line))
        elif line["kind"] == "planted":
            parts.append(f"\n## A planted word\n\n{line['texts']} texts with random labels and one planted word; the "
                         f"model answers {line['accuracy']:.1%} right. Share in which the planted word is the top "
                         f"attribution (by chance {line['chance']:.1%}):\n")  # fmt: skip
            parts += [f"- {name}: {share:.1%}" for name, share in line["top_is_planted"].items()]
        else:
            parts.append(f"\n## Two seeds\n\nTwo models on the same {line['rows']:,} texts, rank agreement (Spearman) "
                         f"of {line['texts']} explanations; {line['same_answer']:.1%} of answers equal:\n")  # fmt: skip
            parts += [f"- {name}: {value:.3f}" for name, value in line["rank_agreement"].items()]
    return "\n".join(parts) + "\n"


def _model_table(line: dict[str, Any]) -> str:
    rows = [
        f"\n## {line['name']}\n",
        f"{line['texts']} test texts, {line['median_words']:.0f} words in the middle, accuracy {line['accuracy']:.1%}; "
        f"default method: {line['default']}.\n",
        "| method | comprehensiveness | sufficiency | pointing game | completeness gap, median | ms a text | texts |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in line["methods"]:
        pointing = "–" if one["pointing"] is None else f"{one['pointing']['share']:.1%}"
        gap = "–" if one["gap_median"] is None else f"{one['gap_median']:.2g}"
        rows.append(
            f"| {one['method']} | {one['comprehensiveness']:.4f} | {one['sufficiency']:.4f} | {pointing} | {gap} | "
            f"{one['milliseconds']:.1f} | {one['texts']} |"
        )
    rows += ["", *_speed_lines(line["speed"])]
    if memory := line["memory"]:
        shares = ", ".join(f"{share:.1%} until they agree to {name}" for name, share in memory["share_before"].items())
        rows.append(f"- states behind a left-out word, {memory['steps']:,} steps behind all gaps: {shares}")
    rows += [
        *(f"- {name.replace('_', ' ')}: {value:.1e}" for name, value in line["checks"].items() if value is not None),
    ]
    return "\n".join(rows)


def _speed_lines(speed: dict[str, Any]) -> list[str]:
    faster, took, near = speed["times_faster"], speed["milliseconds"], speed["near"]
    return [
        f"One text of {speed['words']} words, one thread, processor milliseconds (median over turns; least): "
        + ", ".join(f"{name} {took[name]:.1f} ({speed['least_milliseconds'][name]:.1f})" for name in took)
        + ". *One by one* is one prediction for each word left out, *in one batch* all of them in one call.",
        "",
        *(f"- {name}: {value:.1f} times faster" for name, value in faster.items()),
        f"- near occlusion beside the exact one, {near['words']:,} words of {near['texts']} texts: error "
        f"{near['median_error']:.1g} in the middle, {near['error_of_99_percent']:.2g} at the 99th percentile, "
        f"{near['largest_error']:.2g} at most, of attributions of {near['median_attribution']:.2g} in the middle; rank "
        f"agreement {near['rank_agreement']:.4f}",
    ]


def main() -> None:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder")
    parser.add_argument("--data", help="labelled test file")
    parser.add_argument("--name", help="name of the line of results")
    parser.add_argument("--planted", metavar="FILE", help="training file for the planted word")
    parser.add_argument("--seeds", metavar="FILE", help="training file for two models that differ by the seed")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.model:
        append_line(FILE, measure(given.model, given.data, given.name or Path(given.model).name))
    if given.planted:
        append_line(FILE, planted(given.planted))
    if given.seeds:
        append_line(FILE, seeds(given.seeds))
    if given.table:
        target = RESULTS / "explanations.md"
        target.write_text(table(read_lines(FILE, ("kind", "name", "rows"))), encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main()
