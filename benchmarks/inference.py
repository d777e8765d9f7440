"""From raw text to label: throughput, latency, memory and size of a trained model, beside its peers.

    python benchmarks/inference.py MODEL --texts IMDB/test.csv.gz --column review --core-python PYTHON

Same model, same texts, same cores. Every peer is given the ids of our own reader, whose time is counted for all alike;
each runs the batch size that is fastest for it, over texts sorted by length; where a peer answers otherwise in padded
batches than alone, only texts of equal length share one. The n-gram models that may stand beside
the network are measured too, and left out where peers are compared. Timings are processor time of one thread, the best
of several rounds that alternate between all runners; outputs are compared before anything is timed. PYTHON is one with
the core installed only: there the command line is timed from its start. Peers that this environment lacks, such as
OpenVINO, are taken from the site-packages of another one (--peers).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import bilstm
from bilstm.data.ragged import Ragged
from bilstm.export.onnx_export import onnx_session
from bilstm.export.onnx_model import build_text_onnx, padded
from bilstm.versions import environment

BATCHES = (1, 4, 8, 16, 32)
ROUNDS = 5
REVIEW_WORDS = 230
PaddedRunner = Callable[[np.ndarray, np.ndarray], np.ndarray]
MOST_DIFFERENCE = 1e-3  # of logits, of a peer in float32: beyond it, it reads the padding


def texts_of(path: str, column: str, rows: int) -> list[str]:
    """Take `rows` texts, evenly spread over the file."""
    csv.field_size_limit(2**30)
    content = Path(path).read_bytes()
    content = gzip.decompress(content) if path.endswith(".gz") else content
    texts = [row[column] for row in csv.DictReader(io.StringIO(content.decode(), newline=""))]
    return texts[:: max(len(texts) // rows, 1)][:rows]


def in_batches(ids: Ragged, size: int, run: PaddedRunner, equal_lengths: bool = False) -> np.ndarray:
    """Run padded batches of texts of like length, or of the same; logits in the order of the texts."""
    order = np.argsort(ids.lengths, kind="stable")
    cuts = np.flatnonzero(np.diff(ids.lengths[order])) + 1 if equal_lengths else []
    found: list[np.ndarray] = []
    for rows in np.split(order, cuts):
        for start in range(0, len(rows), size):
            part = ids.select(rows[start : start + size])
            found.append(run(padded(part), np.asarray(part.lengths)))
    result = np.empty_like(np.concatenate(found))
    result[order] = np.concatenate(found)
    return result


def onnx_runner(path: str) -> PaddedRunner:
    session = onnx_session(path, flush_denormals=True)
    return lambda ids, lengths: session.run(["logits"], {"ids": ids, "lengths": lengths})[0]


def int8_runner(path: str, room: Path) -> PaddedRunner:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = room / "int8.onnx"
    quantize_dynamic(path, target, weight_type=QuantType.QInt8)
    return onnx_runner(str(target))


def openvino_runner(path: str) -> PaddedRunner:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda ids, lengths: compiled({"ids": ids, "lengths": lengths})["logits"]


def torch_runner(model: Any) -> PaddedRunner:
    """Run torch's own layers over packed sequences, as its users do."""
    import torch

    from bilstm.layers import Randomness, build_model, load_weights

    torch.set_num_threads(1)
    net = build_model(model.model.description, Randomness(0), backend="torch").eval()
    load_weights(net, {name: array.copy() for name, array in model.weights.items()})  # torch wants to own them

    def run(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        rows = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        with torch.inference_mode():
            return net(Ragged.of(rows)).numpy()

    return run


def peers_of(model: Any, path: str, room: Path) -> dict[str, Any]:
    """Every peer that is installed; the others with the reason."""
    makers: dict[str, Callable[[], Any]] = {
        "onnxruntime float32": lambda: onnx_runner(path),
        "onnxruntime int8 (dynamic)": lambda: int8_runner(path, room),
        "openvino float32": lambda: openvino_runner(path),
        "torch float32": lambda: torch_runner(model),
    }
    found: dict[str, Any] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError as error:
            found[name] = f"not run: {error}"
    return found


def versions_of_peers() -> dict[str, str]:
    """Versions of the peers that were loaded."""
    names = ("onnxruntime", "openvino")
    return {name: str(sys.modules[name].__version__) for name in names if name in sys.modules}


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def fastest_batch(ids: Ragged, run: Callable[[Ragged, int], np.ndarray]) -> int:
    """Try every batch size twice on some of the texts."""
    return min(BATCHES, key=lambda size: min(seconds_of(lambda: run(ids, size)) for _ in range(2)))


def reads_padding(run: PaddedRunner, ids: Ragged, reference: np.ndarray) -> bool:
    """Whether padded batches change the answers of a peer that answers rightly without padding."""
    alone, together = (np.abs(in_batches(ids, size, run) - reference).max() for size in (1, 8))
    return bool(alone < MOST_DIFFERENCE < together)


def throughput(folder: str, texts: list[str], room: Path) -> dict[str, Any]:
    """Microseconds a text from raw text to label, of every runner."""
    models = {name: bilstm.load(folder, threads=1, precision=name) for name in ("float32", "bfloat16")}
    model = models["float32"]
    path = room / "network.onnx"
    path.write_bytes(build_text_onnx(model, network_only=model.joined is not None))
    ids, words = model.encode(texts)
    for other in models.values():  # tables that come when they pay are made before anything is timed
        for _ in range(3):
            other.predict_proba(texts)
    reference = model.logits_of_ids(ids)
    runs: dict[str, Callable[[], np.ndarray]] = {
        f"bilstm {name}": (lambda other=other: other.logits_of_ids(ids)) for name, other in models.items()
    }
    margins = None if model.joined is None else model.joined.linear.margins_of_numbers
    result: dict[str, Any] = {"texts": len(texts), "words_a_text": len(ids.values) / len(texts)}
    peers = peers_of(model, str(path), room)
    for name, run in peers.items():
        if isinstance(run, str):
            result[name] = run
            continue
        some = np.arange(0, len(ids), 8)
        equal = reads_padding(run, ids.select(some), reference[some])
        best = fastest_batch(
            ids.select(some), lambda ids, size, run=run, equal=equal: in_batches(ids, size, run, equal)
        )
        title = f"{name}, {'equal lengths' if equal else 'padded'}, batch {best}"
        runs[title] = lambda best=best, run=run, equal=equal: in_batches(ids, best, run, equal)
    difference = {name: float(np.abs(run() - reference).max()) for name, run in runs.items()}
    best_of = dict.fromkeys([*runs, "reading", "n-gram models"], np.inf)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            best_of[name] = min(best_of[name], seconds_of(run))
        best_of["reading"] = min(best_of["reading"], seconds_of(lambda: model.encode(texts)))
        if margins is not None:
            best_of["n-gram models"] = min(best_of["n-gram models"], seconds_of(lambda: margins(words)))
    micros = {name: seconds / len(texts) * 1e6 for name, seconds in best_of.items() if np.isfinite(seconds)}
    reading = micros.pop("reading")
    ngrams = micros.pop("n-gram models", 0.0)
    base = next(value for name, value in micros.items() if name.startswith("onnxruntime float32")) + reading
    result["microseconds_a_text"] = {"reading": reading, "n-gram models": ngrams, **micros}
    result["times_onnxruntime_float32"] = {name: base / (value + reading) for name, value in micros.items()}
    result["largest_difference_of_logits"] = difference
    classes = [other.predict(texts) for other in models.values()]
    result["bfloat16_same_label"] = float(np.mean([one == two for one, two in zip(*classes, strict=True)]))
    return result


def latency(folder: str, texts: list[str]) -> dict[str, Any]:
    """Milliseconds of one review of about 230 words, from raw text to label, in a warm process."""
    review = min(texts, key=lambda text: abs(len(text.split()) - REVIEW_WORDS))
    result: dict[str, Any] = {"words": len(review.split())}
    for precision in ("float32", "bfloat16"):
        model = bilstm.load(folder, threads=1, precision=precision)
        for _ in range(3):
            model.predict(texts)
        wall, processor = [], []
        for _ in range(1000):
            start, busy = time.perf_counter(), time.process_time()
            model.predict([review])
            wall.append(time.perf_counter() - start)
            processor.append(time.process_time() - busy)
        result[precision] = {
            "wall_ms": {f"p{level}": float(np.percentile(wall, level) * 1e3) for level in (50, 95, 99)},
            "processor_ms_p50": float(np.percentile(processor, 50) * 1e3),
        }
    return result


# Run by a small process of its own: a child counts the memory of the process that it was forked from as its own.
_LAUNCHER = """
import json, os, sys, time
found = []
for _ in range(7):
    start = time.perf_counter()
    null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=null)
    _, status, usage = os.wait4(child, 0)
    assert status == 0, status
    found.append([time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024])
print(json.dumps(found))
"""


def cold_start(python: str, folder: str) -> dict[str, Any]:
    """One text on the command line of another Python: wall and processor seconds, resident memory, installed size."""
    command = [python, "-m", "bilstm.cli", "predict", folder, "Not bad at all."]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    launch = [python, "-S", "-c", _LAUNCHER, *command]
    launched = subprocess.run(launch, capture_output=True, text=True, check=True, env=alone)
    wall, processor, memory = zip(*json.loads(launched.stdout), strict=True)
    purelib = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True, env=alone
    ).strip()
    size = sum(file.stat().st_size for file in Path(purelib).rglob("*") if file.is_file())
    absent = "import importlib.util as u; print([n for n in ('torch', 'sklearn', 'scipy', 'polars') if u.find_spec(n)])"
    extras = subprocess.check_output([python, "-c", absent], text=True, env=alone).strip()
    return {
        "wall_seconds_best": min(wall),
        "wall_seconds_median": float(np.median(wall)),
        "processor_seconds_median": float(np.median(processor)),
        "resident_bytes": max(memory),
        "site_packages_bytes": size,
        "extras_found": extras,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--texts", required=True, help="CSV file, may be gzipped")
    parser.add_argument("--column", default="review")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--core-python", help="a Python in which only the core is installed")
    parser.add_argument("--peers", help="site-packages folder with further peers, of the same Python version")
    parser.add_argument("--small-model", help="model of the cold start; default: the same")
    parser.add_argument("-o", "--output", default="benchmarks/results/inference.json")
    options = parser.parse_args()
    if options.peers:
        sys.path.append(options.peers)  # at the end: what is installed here comes first
    texts = texts_of(options.texts, options.column, options.rows)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as room:
        result: dict[str, Any] = {
            "load_average_at_start": load,
            "throughput": throughput(options.model, texts, Path(room)),
            "latency": latency(options.model, texts[:300]),
        }
    if options.core_python:
        result["cold_start"] = cold_start(options.core_python, options.small_model or options.model)
    result["environment"] = {**environment(), **versions_of_peers()}
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
