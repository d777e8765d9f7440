"""Accuracy and speed of the tagger on public data; every choice on the official development part, test scored once.

    python benchmarks/tagging.py ewt    --data DATA --seed 0     # parts of speech; one line a seed in the result file
    python benchmarks/tagging.py snips  --data DATA --seed 0     # slots and intents
    python benchmarks/tagging.py wnut17 --data DATA --seed 0     # entities
    python benchmarks/tagging.py crfsuite --data DATA            # WNUT-17, hand features, tuned on the same dev part
    python benchmarks/tagging.py speed  --data DATA              # training, against plain torch with a loop CRF
    python benchmarks/tagging.py table                           # mean and deviation over seeds

DATA holds ewt/*.conllu, snips/{train,valid,test}/ and wnut17/. Results go to benchmarks/results/tagging.jsonl, one JSON
object a line, so that seeds can be run at different times, and the table to benchmarks/results/tagging.md.

While a recipe is being chosen, `--dev-only --room ROOM` keeps the model in ROOM and leaves the test part alone; once
all is chosen, `python benchmarks/tagging.py score --data DATA --room ROOM` scores the kept models, each once.
`python benchmarks/tagging.py intents ...` does the same for kept models of SNIPS whose networks were trained before
anything was joined to their intents: it joins as training does, then scores.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import bilstm
from bilstm.config import from_mapping, to_mapping
from bilstm.data.ragged import Ragged
from bilstm.data.tagged_files import read_tagged
from bilstm.data.tagged_sentences import TaggedSentences
from bilstm.data.tags import convert_tags, tags_to_spans
from bilstm.metrics import fit_temperature
from bilstm.metrics.spans import known_spans, score_spans, unseen_span_scores
from bilstm.runtime.crf import build_lattice
from bilstm.tasks.joined_intents import expected_counts, join_intents, tag_log_shares
from bilstm.tasks.sequence_tagging import Config
from bilstm.tasks.tagging_training import fit_tagger
from text_runs import append_line, describe, read_lines, shown, write_table

SETS = {
    "ewt": ("ewt/en_ewt-ud-train.conllu", "ewt/en_ewt-ud-dev.conllu", "ewt/en_ewt-ud-test.conllu"),
    "snips": ("snips/train", "snips/valid", "snips/test"),
    "wnut17": ("wnut17/wnut17train.conll", "wnut17/emerging.dev.conll", "wnut17/emerging.test.annotated"),
}
RESULTS = Path(__file__).parent / "results" / "tagging.jsonl"
SHOWN = ("token_accuracy", "f1", "precision", "recall", "sentence_accuracy")
CRFSUITE = "wnut17 with python-crfsuite and hand features"
CRFSUITE_GRID = [(0.1, 0.1), (0.0, 1.0), (0.0, 0.1), (0.05, 0.01), (0.3, 0.0)]


def read_parts(data: Path, name: str) -> list[TaggedSentences]:
    return [read_tagged(data / path) for path in SETS[name]]


def append(row: dict[str, Any]) -> None:
    append_line(RESULTS, row)
    shown = {key: value for key, value in row.items() if key not in ("machine", "settings")}
    sys.stdout.write(json.dumps(shown, indent=1) + "\n")


def shown_scores(scores: dict[str, Any]) -> dict[str, float]:
    """The figures that the table shows."""
    found = {key: scores[key] for key in SHOWN if key in scores}
    found["unseen_word_accuracy"] = scores["unseen_words"]["accuracy"]
    if "unseen_spans" in scores:
        found["unseen_span_f1"] = scores["unseen_spans"]["f1"]
        found["unseen_span_recall"] = scores["unseen_spans"]["recall"]
        found["surface_f1"] = scores["surface_forms"]["f1"]
    if "intent" in scores:
        found["intent_accuracy"] = scores["intent"]["accuracy"]
    return found


def accuracy(name: str, data: Path, seed: int, settings: dict[str, Any], room: Path | None) -> None:
    """Train with one seed; score the development part, then the test part unless the model is kept for later."""
    train, dev = (read_tagged(data / path) for path in SETS[name][:2])
    config = from_mapping(Config, {"seed": seed, **settings}, "--set")

    def tell(event: Any) -> None:
        if type(event).__name__ == "EpochDone":
            sys.stderr.write(f"epoch {event.row.epoch}: dev {event.row.dev_score:.4f}, {event.row.seconds:.0f} s\n")

    started, used = time.perf_counter(), time.process_time()
    outcome = fit_tagger(train, config, valid=dev, progress=tell)
    row = {
        "what": name,
        "seed": seed,
        "dev": shown_scores(outcome.dev_metrics),
        "dev_baseline": shown_scores(outcome.baseline_metrics),
        "best_epoch": outcome.result.best_epoch,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "tokens_per_second": round(
            sum(map(len, train.tokens)) * len(outcome.result.history) / outcome.seconds["training"]
        ),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "given_settings": settings,
        "settings": to_mapping(outcome.config),
        **describe(None),
    }
    if room is not None:
        outcome.model.save(room / f"{name}-{seed}", settings=outcome.config, overwrite=True)
        (room / f"{name}-{seed}.json").write_text(json.dumps(row), encoding="utf-8")
        sys.stdout.write(json.dumps({key: row[key] for key in ("what", "seed", "dev", "cpu_seconds")}) + "\n")
        return
    append({**row, "test": shown_scores(outcome.model.evaluate(read_tagged(data / SETS[name][2])))})


def score(data: Path, room: Path) -> None:
    """Score the test part with each kept model, once; its line then stands among the results."""
    for path in sorted(room.glob("*-*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        model = bilstm.load(path.with_suffix(""))
        append({**row, "test": shown_scores(model.evaluate(read_tagged(data / SETS[row["what"]][2])))})
        path.rename(path.with_suffix(".scored"))


def intents(data: Path, room: Path) -> None:
    """Join tags and words to the intents of each kept model, as training does; then score it once on test."""
    train, dev, test = read_parts(data, "snips")
    for path in sorted(room.glob("snips-*.json")):
        row, model = json.loads(path.read_text(encoding="utf-8")), bilstm.load(path.with_suffix(""))
        used = time.process_time()
        targets = [np.array([model.intents.index(name) for name in part.intents or []]) for part in (train, dev)]
        numbers = [[model.tags.index(t) for t in convert_tags(tags, model.inner_scheme)] for tags in train.tags or []]
        emissions, logits = model.scores(model.encode(dev.tokens))
        alone = fit_temperature(logits, targets[1])
        model.joined, note = join_intents(
            (train.tokens, targets[0]),
            (dev.tokens, targets[1]),
            logits,
            expected_counts(build_lattice(emissions, model.tagger.crf).marginals, emissions.offsets),
            tag_log_shares(Ragged.of(numbers), targets[0], (len(model.intents), len(model.tags))),
            alone.loss_after,
            row["seed"],
        )
        used = time.process_time() - used
        sys.stderr.write(f"seed {row['seed']}: {note}\n")
        changed = {
            "dev": shown_scores(model.evaluate(dev)),
            "test": shown_scores(model.evaluate(test)),
            "cpu_seconds": round(row["cpu_seconds"] + used, 1),
            "settings": {**row["settings"], "join_linear": True},
            "network_commit": row["commit"],
            "network_command": row["command"],
        }
        append({**row, **describe(None), **changed})
        path.rename(path.with_suffix(".scored"))


def crfsuite(data: Path) -> None:
    """Train python-crfsuite with each setting of the grid; the best on the development part is scored on test."""
    train, dev, test = read_parts(data, "wnut17")
    row: dict[str, Any] = {"what": CRFSUITE, **describe(None)}
    try:
        import pycrfsuite  # type: ignore[import-not-found]  # noqa: F401

        from peers_tagging import crfsuite_tags
    except ImportError as error:
        append({**row, "not_run": f"{error}; pip install python-crfsuite"})
        return
    known = known_spans(train.tokens, [tags_to_spans(tags) for tags in train.tags or []])

    def scored(part: TaggedSentences, tags: list[list[str]]) -> dict[str, float]:
        gold, found = ([tags_to_spans(row) for row in rows] for rows in (part.tags or [], tags))
        micro, unseen = score_spans(gold, found).micro, unseen_span_scores(part.tokens, gold, found, known)
        scores = {"f1": micro.f1, "precision": micro.precision, "recall": micro.recall}
        return scores | {"unseen_span_f1": unseen.f1, "unseen_span_recall": unseen.recall}

    tried = []
    for c1, c2 in CRFSUITE_GRID:
        dev_tags, test_tags = crfsuite_tags((train.tokens, train.tags or []), [dev.tokens, test.tokens], c1, c2)
        tried.append({"c1": c1, "c2": c2, "dev": scored(dev, dev_tags), "tags": test_tags})
        sys.stderr.write(f"c1 {c1}, c2 {c2}: dev F1 {tried[-1]['dev']['f1']:.4f}\n")
    best = max(tried, key=lambda one: one["dev"]["f1"])
    append(
        {**row, "seed": 0, "c1": best["c1"], "c2": best["c2"], "dev": best["dev"], "test": scored(test, best["tags"])}
    )


def speed(data: Path, rounds: int, threads: int) -> None:
    """Time whole training steps of the same model, ours and plain torch in turn; losses are compared first."""
    import torch

    from bilstm.data.batching import epoch_batches
    from bilstm.data.tags import allowed_tags, convert_tags
    from bilstm.data.word_encoder import WordEncoder
    from bilstm.layers.randomness import Randomness
    from bilstm.layers.tagger import Tagger
    from bilstm.tasks.sequence_tagging import describe_tagger
    from peers_tagging import PlainTagger

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    train = read_parts(data, "ewt")[0]
    names = sorted({tag for tags in train.tags or [] for tag in tags})
    encoder = WordEncoder.build(train.tokens)
    encoded = encoder.encode(train.tokens)
    gold = encoded.types.with_values(
        np.array([names.index(t) for tags in train.tags or [] for t in convert_tags(tags, "none")])
    )
    config = from_mapping(Config, {"word_dropout": 0.0, "embedding_dropout": 0.0, "dropout": 0.0})
    layers = describe_tagger(config, encoder, len(names), 0)
    batches = epoch_batches(encoded.lengths, max_rows=32, max_steps=4000, seed=0, epoch=1)[:40]

    def loss_of(model: Any, rows: np.ndarray) -> torch.Tensor:
        tags = torch.from_numpy(gold.select(rows).values)
        if isinstance(model, PlainTagger):
            return model(encoded.batch(rows), tags)
        emissions = model(encoded.batch(rows)).emissions
        return model.crf.loss(emissions, emissions.with_values(tags)).sum() / len(tags)

    models: dict[str, Any] = {}
    for precision in ("float32", "bfloat16"):
        models[f"ours, {precision}"] = Tagger(
            layers, allowed_tags(names, "none"), Randomness(0), precision=precision, threads=threads
        )
    with torch.no_grad():  # weights of a CRF start at zero: random ones, so that equal losses mean something
        for weight in models["ours, float32"].crf.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(weight.ndim))
    models["ours, bfloat16"].load_state_dict(models["ours, float32"].state_dict())
    models["plain torch, packed LSTM, loop CRF"] = PlainTagger(models["ours, float32"])
    losses = {
        name: np.array([float(loss_of(model, rows).detach()) for rows in batches[:5]]) for name, model in models.items()
    }
    first = losses["ours, float32"]
    worst = max(float(np.abs(found / first - 1).max()) for name, found in losses.items() if "bfloat16" not in name)
    if worst > 1e-4:
        raise SystemExit(f"the losses do not agree: {losses}")
    optimizers = {name: torch.optim.Adam(model.parameters(), fused=True) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    tokens = sum(int(encoded.lengths[rows].sum()) for rows in batches)
    # On one thread time of the processor: work of others on the same machine does not count.
    clock, clock_name = (time.process_time, "CPU time") if threads == 1 else (time.perf_counter, "wall time")
    for number in range(rounds + 1):  # the first round warms up
        for name, model in models.items():
            started = clock()
            for rows in batches:
                optimizers[name].zero_grad(set_to_none=True)
                loss_of(model, rows).backward()
                optimizers[name].step()
            if number:
                times[name].append(clock() - started)
    append(
        {
            "what": "speed",
            **describe(None),
            "threads": threads,
            "tokens": tokens,
            "clock": clock_name,
            "largest_relative_difference_of_losses": worst,
            "tokens_per_second": {
                name: {
                    "median": round(tokens / statistics.median(found)),
                    "least": round(tokens / max(found)),
                    "most": round(tokens / min(found)),
                }
                for name, found in times.items()
            },
        }
    )


def table() -> None:
    """Print and write mean, deviation and every value."""
    rows = read_lines(RESULTS, ("what", "seed", "given_settings", "threads"))
    scored = [row for row in rows if "test" in row]
    paragraphs = [
        "Mean ± standard deviation over seeds, then every value, in percent. Official splits, no external vectors,"
        " default settings; every choice was made on the development part, the test part was scored once a seed."
    ]
    for what in sorted({row["what"] for row in scored}, key=[*SETS, CRFSUITE].index):
        chosen = sorted((row for row in scored if row["what"] == what), key=lambda row: row["seed"])
        lines = [f"## {what}", "", "| score | dev | test |", "|---|---|---|"]
        for key in chosen[0]["test"]:
            cells = [shown([row[part][key] for row in chosen]) for part in ("dev", "test")]
            lines.append(f"| {key.replace('_', ' ')} | {cells[0]} | {cells[1]} |")
        if "cpu_seconds" in chosen[0]:
            minutes = ", ".join(f"{row['cpu_seconds'] / 60:.1f}" for row in chosen)
            memory = max(row["peak_memory_bytes"] for row in chosen) / 2**30
            lines += ["", f"CPU minutes of training, each seed: {minutes}. Peak memory: {memory:.2f} GiB."]
        if "network_commit" in chosen[0]:
            lines += [
                "",
                f"Networks of commit {chosen[0]['network_commit'][:10]}; joined to their intents what training",
            ]
            lines[-1] += f" joins since, at commit {chosen[0]['commit'][:10]}."
        paragraphs.append("\n".join(lines))
    paragraphs += [_speed_table(row) for row in rows if row["what"] == "speed"]
    machines = sorted({f"{row['machine']['cpu']}, {row['machine']['cores']} cores" for row in rows})
    commits = ", ".join(sorted({row[key][:10] for row in rows for key in ("commit", "network_commit") if key in row}))
    commands = "\n".join(
        f"    {command}"
        for command in sorted({row[key] for row in rows for key in ("command", "network_command") if key in row})
    )
    paragraphs.append(f"Machine: {'; '.join(machines)}. Commits: {commits}. Made by:\n\n{commands}")
    write_table(RESULTS.with_suffix(".md"), "Tagging", paragraphs)


def _speed_table(row: dict[str, Any]) -> str:
    lines = [
        f"## Speed of training, {row['threads']} thread",
        "",
        f"Whole steps (loss, gradients, Adam) of the same model on {row['tokens']:,} tokens of EWT, in turn; losses"
        f" agree to {row['largest_relative_difference_of_losses']:.0e}. Tokens per second of {row['clock']}.",
        "",
        "| model | median | least | most |",
        "|---|---|---|---|",
    ]
    for name, found in row["tokens_per_second"].items():
        lines.append(f"| {name} | {found['median']:,} | {found['least']:,} | {found['most']:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*SETS, "crfsuite", "speed", "score", "intents", "table"])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dev-only", action="store_true", help="leave the test part alone, keep the model in --room")
    parser.add_argument("--room", type=Path, help="folder for kept models")
    parser.add_argument("--rounds", type=int, default=5, help="of the speed comparison")
    parser.add_argument("--threads", type=int, default=1, help="of the speed comparison")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="settings other than the defaults")
    given = parser.parse_args()
    if given.what == "table":
        table()
        return
    if given.data is None:
        parser.error("--data is needed")
    if (given.dev_only or given.what in ("score", "intents")) != (given.room is not None):
        parser.error("--room goes with --dev-only, with score and with intents")
    if given.what == "crfsuite":
        crfsuite(given.data)
    elif given.what == "speed":
        speed(given.data, given.rounds, given.threads)
    elif given.what == "score":
        score(given.data, given.room)
    elif given.what == "intents":
        intents(given.data, given.room)
    else:
        settings = {name: json.loads(value) for name, value in (entry.split("=", 1) for entry in given.set)}
        accuracy(given.what, given.data, given.seed, settings, given.room)


if __name__ == "__main__":
    main()
