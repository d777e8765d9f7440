"""The long recipe: the mixed objective with 512 units over labelled and unlabelled reviews, on a GPU or a CPU.

    python benchmarks/long_recipe.py --inputs inputs.npz.xz --state STATE --out OUT --minutes 9 --total-minutes 24
    python benchmarks/long_recipe.py --inputs inputs.npz.xz --state STATE --out OUT --final     # the test part, once

Inputs come from `long_recipe_inputs.py`. The same command goes on where it stopped, as often as needed: STATE holds
the whole run, OUT the curve (curve.jsonl) and the weights in 16 bits, in files of less than 16 MiB, from which a run
goes on too (`--start-from OUT`) where STATE was lost. The learning rate falls with the time trained, to 0 after
--total-minutes.

The recipe is that of Sachan, Zaheer, Salakhutdinov 2019 (arXiv:2009.04007) in larger batches: one BiLSTM layer, max
pooling over time, in-domain vectors, word dropout, cross entropy + adversarial + virtual adversarial + entropy, Adam
with beta1 0 and beta2 0.98. Every choice is made on the part of the training rows that `dev_rows` names.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bilstm import description
from bilstm.data.batching import epoch_batches, ordered_batches
from bilstm.data.ragged import Ragged
from bilstm.layers.model import Model, build_model
from bilstm.layers.packed import plan_packed
from bilstm.layers.randomness import Randomness
from bilstm.training.averaging import WeightAverage
from bilstm.training.objectives import binary_cross_entropy
from bilstm.training.virtual_adversarial import mixed_terms, standardize_embedding

EMBEDDING = "layers.1.weight"
SPARE_SECONDS = 20.0  # for the last evaluation and the files
LOSS_SCALE = 1024.0  # of float16, whose smallest numbers would vanish otherwise


@dataclass(frozen=True)
class Texts:
    """Reviews as ids, and their labels where they have some."""

    ids: Ragged
    labels: np.ndarray


class DeviceRandomness(Randomness):
    """Masks drawn on the device itself: a large mask drawn on the CPU would cost more than the step."""

    def __init__(self, seed: int, device: str):
        super().__init__(seed)
        self.weights_generator, self._device, self._seed = self.generator, device, seed

    def on_device(self) -> None:
        """Draw on the device from now on; initial weights are drawn before."""
        self.generator = torch.Generator(device=self._device)
        self.start_step(self._seed, 0)

    def mask(self, shape: tuple[int, ...], rate: float, like: Tensor | None = None) -> Tensor:
        """Draw a dropout mask."""
        kept = torch.rand(shape, generator=self.generator, device=self._device) >= rate
        return kept.to(torch.float32 if like is None else like.dtype) * (1.0 / (1.0 - rate))

    def chosen(self, shape: tuple[int, ...], rate: float, device: torch.device | None = None) -> Tensor:
        """Draw booleans."""
        return torch.rand(shape, generator=self.generator, device=self._device) < rate


# ---- inputs --------------------------------------------------------------------------------------------------------


def read_inputs(path: Path, max_length: int) -> tuple[dict[str, Texts], np.ndarray]:
    """Return the texts (fit, dev, unlabelled, test) and the word vectors.

    Texts that are learned from keep `max_length` words, half from each end; those that are scored keep four times that.
    """
    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as stored:
        arrays = {name: stored[name] for name in stored.files}
    train = _ragged(arrays, "train")
    labels, fit, dev = arrays["train_labels"].astype(np.int64), arrays["fit_rows"], arrays["dev_rows"]
    rest = _ragged(arrays, "unlabelled")
    every = Ragged(
        np.concatenate([train.values, rest.values]),
        np.concatenate([train.offsets, rest.offsets[1:] + train.offsets[-1]]),
    )
    none = np.zeros(0, dtype=np.int64)
    texts = {
        "fit": Texts(shortened(train.select(fit), max_length), labels[fit]),
        "dev": Texts(shortened(train.select(dev), 4 * max_length), labels[dev]),
        "unlabelled": Texts(shortened(every, max_length), none),
        "test": Texts(shortened(_ragged(arrays, "test"), 4 * max_length), arrays["test_labels"].astype(np.int64)),
    }
    return texts, arrays["vectors"].astype(np.float32) * arrays["vector_scales"]


def _ragged(arrays: dict[str, np.ndarray], name: str) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum(arrays[f"{name}_lengths"].astype(np.int64))])
    return Ragged(arrays[f"{name}_ids"].astype(np.int64), offsets)


def joined(first: Ragged, second: Ragged) -> Ragged:
    """Put one batch behind another."""
    offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    return Ragged(np.concatenate([first.values, second.values]), offsets)


def shortened(ids: Ragged, most: int) -> Ragged:
    """Keep the first and the last words of longer texts."""
    place = np.arange(len(ids.values)) - np.repeat(ids.offsets[:-1], ids.lengths)
    left = np.repeat(ids.lengths, ids.lengths) - place
    kept = (place < most - most // 2) | (left <= most // 2)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(ids.lengths, most))])
    return Ragged(ids.values[kept], offsets)


def mixed_batches(texts: dict[str, Texts], rows: int, max_steps: int, seed: int, epoch: int) -> list[tuple]:
    """Pair each labelled batch of an epoch with an unlabelled one of like length: row numbers of both."""
    limits = {"max_rows": rows, "max_steps": max_steps}
    fit, rest = texts["fit"].ids.lengths, texts["unlabelled"].ids.lengths
    own = epoch_batches(fit, **limits, seed=seed, epoch=epoch)
    others = epoch_batches(rest, **limits, seed=seed + 1, epoch=epoch)
    others.sort(key=lambda batch: int(rest[batch].max()))
    ranks = np.argsort(np.argsort([int(fit[batch].max()) for batch in own], kind="stable"), kind="stable")
    random = np.random.default_rng([seed, epoch, 2])
    places = (ranks + random.random(len(own))) / len(own) * len(others)
    return [(batch, others[int(place)]) for batch, place in zip(own, places, strict=True)]


# ---- the run -------------------------------------------------------------------------------------------------------


class Run:
    """Model, optimizer, running mean and where the run stands."""

    def __init__(self, options: Any, texts: dict[str, Texts], vectors: np.ndarray):
        self.options, self.texts, self.device = options, texts, options.device
        self.place: dict[str, Any] = {"step": 0, "epoch": 1, "position": 0, "seconds": 0.0, "best": None}
        randomness = DeviceRandomness(options.seed, options.device)
        layers = (
            description.WordDropout(options.word_dropout),
            description.Embedding(*vectors.shape),
            description.Dropout(options.embedding_dropout, variational=True),
            description.Recurrent("lstm", vectors.shape[1], options.units, weight_dropout=options.weight_dropout),
            description.Pooling(2 * options.units, ("max",)),
            description.Dropout(options.dropout),
            description.Linear(2 * options.units, 1),
        )
        self.net: Model = build_model(layers, randomness).to(self.device)
        randomness.on_device()
        counts = np.bincount(texts["unlabelled"].ids.values, minlength=len(vectors))
        self.shares = torch.tensor(counts / counts.sum(), dtype=torch.float32, device=self.device)
        table = self.net.get_parameter(EMBEDDING)
        with torch.no_grad():
            table.copy_(torch.from_numpy(vectors))
        standardize_embedding(table.data, self.shares)
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), lr=options.learning_rate, betas=(0.0, 0.98), fused=True
        )
        self.average = WeightAverage(self.net, options.average_decay)
        self.best: dict[str, Tensor] | None = None
        self.side = torch.cuda.Stream() if self.device == "cuda" else None
        self.precision = "float32"
        self.scaler = torch.amp.GradScaler(self.device, LOSS_SCALE, growth_interval=2**30, enabled=False)

    # -- one step

    def prepare(self, pair: tuple[np.ndarray, np.ndarray]) -> tuple[Ragged, Tensor]:
        """Bring a batch to the device, labelled rows first, while the step before still runs there."""
        with torch.cuda.stream(self.side) if self.side is not None else nullcontext():
            ids = joined(self.texts["fit"].ids.select(pair[0]), self.texts["unlabelled"].ids.select(pair[1]))
            values = torch.as_tensor(ids.values, device=self.device)
            targets = torch.as_tensor(self.texts["fit"].labels[pair[0]], device=self.device)
            plan = plan_packed(ids.offsets.tobytes(), values.device)
        if self.side is not None:  # their memory must not be used again before the step is through with it
            for tensor in (values, targets, plan.rows, plan.row_places, plan.order, plan.places):
                tensor.record_stream(torch.cuda.current_stream())
        return Ragged(values, torch.from_numpy(ids.offsets)), targets

    def terms(self, batch: Ragged, targets: Tensor, unlabelled_weight: float = 1.0) -> Any:
        """Compute the four terms in the run's precision."""
        dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(self.precision)
        with torch.autocast(self.device, dtype=dtype) if dtype is not None else nullcontext():
            return mixed_terms(
                lambda embedded: self.net.run_from_embedded(embedded).float(),  # type: ignore[union-attr]
                self.net.embed(batch),
                targets,
                binary_cross_entropy,
                norm=self.options.norm,
                unlabelled_weight=unlabelled_weight,
            )

    def step(self, batch: Ragged, targets: Tensor) -> Tensor:
        """Train on one batch; return the terms, (4,), on the device."""
        options, done = self.options, self.done()
        rate = options.learning_rate * min(1.0, done / options.warmup + 1e-3) * max(1.0 - done, 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.net.randomness.start_step(options.seed, self.place["step"])
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.terms(batch, targets, min(1.0, done / options.ramp))
        self.scaler.scale(terms.total).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.place["step"] += 1
        if self.place["step"] % options.standardize_steps == 0:
            standardize_embedding(self.net.get_parameter(EMBEDDING).data, self.shares)
        self.average.update()
        return torch.stack([terms.supervised, terms.adversarial, terms.virtual, terms.entropy])

    def done(self) -> float:
        """Share of the whole run that lies behind."""
        return min(self.place["seconds"] / (60 * self.options.total_minutes), 1.0)

    # -- precision

    def choose_precision(self, wanted: str) -> None:
        """Take the fastest precision whose gradient agrees with that of float32, and say what was measured."""
        names = ["float32", "tf32", "float16", "bfloat16"] if wanted == "auto" else [wanted]
        pairs = mixed_batches(self.texts, self.options.rows, self.options.max_steps, self.options.seed, 1)
        pair = sorted(pairs, key=lambda pair: int(self.texts["fit"].ids.lengths[pair[0]].sum()))[len(pairs) // 2]
        batch, targets = self.prepare(pair)
        self._wait()
        reference, times, differences = None, {}, {}
        for name in names:
            self._use(name)
            try:
                gradient = self._gradient(batch, targets)
                self._wait()
                started = time.perf_counter()
                for _ in range(3):
                    gradient = self._gradient(batch, targets)
                self._wait()
            except RuntimeError as error:  # a kernel that this build of torch does not have
                print(f"precision {name}: cannot run here: {str(error).splitlines()[0]}", flush=True)
                continue
            times[name] = (time.perf_counter() - started) / 3
            reference = gradient if reference is None else reference
            differences[name] = float((gradient - reference).norm() / reference.norm())
            print(
                f"precision {name}: {times[name]:.4f} s a pass, gradient differs by {differences[name]:.4f}", flush=True
            )
        fit = [name for name in times if differences[name] < 0.1]
        if not fit:
            raise SystemExit(f"no precision of {', '.join(names)} runs here")
        self._use(min(fit, key=times.__getitem__))
        self.scaler = torch.amp.GradScaler(
            self.device, LOSS_SCALE, growth_interval=2**30, enabled=self.precision == "float16"
        )
        print(f"precision {self.precision}", flush=True)

    def _use(self, name: str) -> None:
        self.precision = name
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name != "float32"

    def _gradient(self, batch: Ragged, targets: Tensor) -> Tensor:
        """Gradient of the whole loss with the masks of step 0."""
        self.net.train()
        self.net.randomness.start_step(self.options.seed, 0)
        loss = self.terms(batch, targets).total
        wanted = [p for name, p in self.net.named_parameters() if name != EMBEDDING]
        parts = torch.autograd.grad(loss * LOSS_SCALE, wanted)
        return torch.cat([part.flatten() for part in parts]) / LOSS_SCALE

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    # -- scores

    @torch.no_grad()
    def score(self, part: str) -> dict[str, float]:
        """Accuracy and mean loss of the weights that are in the model now."""
        ids, labels = self.texts[part].ids, torch.as_tensor(self.texts[part].labels, device=self.device)
        logits = torch.zeros(len(ids), 1, device=self.device)
        self.net.eval()
        for rows in ordered_batches(ids.lengths, max_rows=512, max_steps=131_072 if self.device == "cuda" else 16_384):
            logits[torch.as_tensor(rows, device=self.device)] = self.net(ids.select(rows)).float()  # type: ignore[union-attr]
        self.net.train()
        accuracy = float(((logits[:, 0] > 0).long() == labels).float().mean())
        return {"accuracy": accuracy, "loss": float(binary_cross_entropy(logits, labels))}

    def evaluate(self, terms: Tensor, speed: float) -> None:
        """Score the running mean on the development part, keep it if it is the best, write a line of the curve."""
        with self.average.in_place():
            dev = self.score("dev")
            key = (dev["accuracy"], -dev["loss"])
            if self.place["best"] is None or key > tuple(self.place["best"]):
                self.place["best"] = list(key)
                self.best = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        names = ("supervised", "adversarial", "virtual", "entropy")
        line = {
            "seconds": round(self.place["seconds"], 1),
            "step": self.place["step"],
            "epoch": self.place["epoch"],
            "dev_accuracy": round(dev["accuracy"], 5),
            "dev_loss": round(dev["loss"], 5),
            "best_dev_accuracy": round(self.place["best"][0], 5),
            "seconds_per_step": round(speed, 4),
            "precision": self.precision,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **{name: round(float(value), 5) for name, value in zip(names, terms, strict=True)},
        }
        self.place.setdefault("curve", []).append(line)
        print(json.dumps(line), flush=True)

    # -- the way through time

    def go(self, deadline: float) -> bool:
        """Train until the deadline (of `time.monotonic`) or the end; return whether the end was reached."""
        options, place = self.options, self.place
        self.net.train()
        sums, count, scored_at, since = torch.zeros(4, device=self.device), 0, place["seconds"], time.perf_counter()
        batches = self._prepared()
        while self.done() < 1.0 and time.monotonic() < deadline:
            after, batch, targets = next(batches)
            sums += self.step(batch, targets)
            place.update(after)
            count += 1
            if count % options.wait_steps == 0 or self.device == "cpu":
                self._wait()
                now = time.perf_counter()
                place["seconds"] += now - since
                since = now
            if place["seconds"] - scored_at >= options.score_seconds:
                self._check(sums)
                self.evaluate(sums / count, (place["seconds"] - scored_at) / count)
                sums, count, scored_at = torch.zeros_like(sums), 0, place["seconds"]
                since = time.perf_counter()
        self._wait()
        place["seconds"] += time.perf_counter() - since
        if count:
            self._check(sums)
            self.evaluate(sums / count, (place["seconds"] - scored_at) / count)
        return self.done() >= 1.0

    def _check(self, sums: Tensor) -> None:
        if not math.isfinite(float(sums.sum())):
            raise SystemExit(f"step {self.place['step']}: the loss is not finite; the last written state is kept.")

    def _prepared(self) -> Iterator[tuple[dict[str, int], Ragged, Tensor]]:
        """Give the place after each batch and the batch, prepared while the one before is trained on."""
        ahead = None
        for after, pair in self._pairs():
            prepared = self.prepare(pair)
            if ahead is not None:
                yield ahead
            if self.side is not None:
                torch.cuda.current_stream().wait_stream(self.side)
            ahead = (after, *prepared)

    def _pairs(self) -> Iterator[tuple[dict[str, int], tuple]]:
        """Give pairs of row numbers, each with the place after it."""
        epoch, position = self.place["epoch"], self.place["position"]
        while True:
            pairs = mixed_batches(self.texts, self.options.rows, self.options.max_steps, self.options.seed, epoch)
            for number in range(position, len(pairs)):
                yield {"epoch": epoch, "position": number + 1}, pairs[number]
            epoch, position = epoch + 1, 0

    # -- files

    def save(self, state: Path, out: Path) -> None:
        """Write the whole run to `state`; the curve and the best weights, in 16 bits and parts, to `out`."""
        state.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"sums.{name}": value for name, value in self.average.sums.items()}
        tensors |= {f"best.{name}": value for name, value in (self.best or {}).items()}
        for number, own in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in own.items()}
        held = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        place = json.dumps({**self.place, "average_steps": self.average.steps})
        save_file(held, state / "run.part", metadata={"place": place})
        os.replace(state / "run.part", state / "run.safetensors")
        lines = "".join(json.dumps(line) + "\n" for line in self.place.get("curve", []))
        (out / "curve.jsonl").write_text(lines, encoding="utf-8")
        place = {name: value for name, value in self.place.items() if name != "curve"}
        (out / "place.json").write_text(json.dumps(place), encoding="utf-8")
        with self.average.in_place():
            last = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        weights = {name: value.half().cpu().numpy() for name, value in (self.best or last).items()}
        table = weights.pop(EMBEDDING)
        np.savez(out / "layers.npz", **weights)  # type: ignore[arg-type]
        for number, part in enumerate(np.array_split(table, math.ceil(table.nbytes / 13e6))):
            np.save(out / f"embedding-{number}.npy", part)

    def load(self, state: Path) -> None:
        """Go on from a whole run."""
        with safe_open(state / "run.safetensors", "pt", device=self.device) as stored:
            self.place = json.loads(stored.metadata()["place"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # no mapping

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.net.load_state_dict(under("net."))
        groups = self.optimizer.state_dict()["param_groups"]
        numbers = range(len(groups[0]["params"]))
        self.optimizer.load_state_dict({"state": {n: under(f"adam.{n}.") for n in numbers}, "param_groups": groups})
        for name, value in under("sums.").items():
            self.average.sums[name].copy_(value)
        self.average.steps, self.best = self.place.pop("average_steps"), under("best.") or None

    def load_weights(self, out: Path) -> None:
        """Go on from the weights in 16 bits, with the optimizer and the running mean begun anew."""
        parts = sorted(out.glob("embedding-*.npy"), key=lambda path: int(path.stem.split("-")[1]))
        with np.load(out / "layers.npz") as stored:
            weights = {name: stored[name] for name in stored.files}
        weights[EMBEDDING] = np.concatenate([np.load(path) for path in parts])
        self.net.load_state_dict({name: torch.from_numpy(value).float() for name, value in weights.items()})
        self.place = json.loads((out / "place.json").read_text(encoding="utf-8"))
        lines = (out / "curve.jsonl").read_text(encoding="utf-8").splitlines()
        self.place["curve"] = [json.loads(line) for line in lines]
        self.best = {name: value.detach().clone() for name, value in self.net.state_dict().items()}


def final(run: Run, out: Path) -> None:
    """Score the best weights on the development part and, once, on the test part."""
    if run.best is None:
        raise SystemExit("there are no weights to score yet.")
    run.net.load_state_dict(run.best)
    run._use("tf32")
    result = {"dev": run.score("dev"), "test": run.score("test"), "place": run.place, "options": vars(run.options)}
    text = json.dumps(result, default=str)
    (out / "final.json").write_text(text, encoding="utf-8")
    print(json.dumps({"dev": result["dev"], "test": result["test"]}), flush=True)


def read_options() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start-from", type=Path, help="a folder --out of a run whose state was lost")
    parser.add_argument("--final", action="store_true", help="score the test part instead of training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "tf32", "float16", "bfloat16"])
    parser.add_argument("--seed", type=int, default=0)
    for name, value in (("minutes", 9.0), ("total-minutes", 24.0), ("learning-rate", 1e-3), ("norm", 5.0)):
        parser.add_argument(f"--{name}", type=float, default=value)
    for name, value in (("word-dropout", 0.5), ("embedding-dropout", 0.2), ("dropout", 0.5), ("weight-dropout", 0.2)):
        parser.add_argument(f"--{name}", type=float, default=value)
    for name, value in (("average-decay", 0.999), ("clip-norm", 1.0), ("warmup", 0.02), ("ramp", 0.05)):
        parser.add_argument(f"--{name}", type=float, default=value)
    for name, value in (("units", 512), ("rows", 128), ("max-length", 512), ("max-steps", 50_000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("score-seconds", 30), ("standardize-steps", 50), ("wait-steps", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main() -> None:
    """Train a piece of the run, or score it."""
    began = time.monotonic()
    options = read_options()
    texts, vectors = read_inputs(options.inputs, options.max_length)
    print(
        f"inputs read in {time.monotonic() - began:.1f} s: { ({k: len(v.ids) for k, v in texts.items()}) }", flush=True
    )
    run = Run(options, texts, vectors)
    if (options.state / "run.safetensors").exists():
        run.load(options.state)
    elif options.start_from is not None:
        run.load_weights(options.start_from)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.final:
        final(run, options.out)
        return
    run.choose_precision(options.precision if options.device == "cuda" else "float32")
    print(f"goes on at step {run.place['step']}, {run.place['seconds']:.0f} s of training done", flush=True)
    is_end = run.go(began + 60 * options.minutes - SPARE_SECONDS)
    run.save(options.state, options.out)
    print(f"{'the end' if is_end else 'stopped; the same command goes on'}; best {run.place['best']}", flush=True)


if __name__ == "__main__":
    main()
