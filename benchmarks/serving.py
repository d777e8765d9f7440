"""The server under load from a second process: saturation, waiting times, memory, malformed requests; beside a peer.

    python benchmarks/serving.py MODEL --texts IMDB/test.csv.gz -o benchmarks/results/serving.json

The peer is FastAPI over ONNX Runtime with the same model (`serving_onnx.py`). Both are asked for the same answers
before they are timed. Waiting times are taken at 70 % of a server's own saturation, with arrivals at random times whose
delays count (`serving_load.py`). The load generator shares the cores with the server; its own time is in the result.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine_machine import describe_machine

HERE = Path(__file__).resolve().parent
LONGEST_TEXT = 19_000  # characters; the server's default allows 20,000
BAD_BODIES = [
    b"", b"{", b"null", b"[]", b"{}", b'{"texts": []}', b'{"texts": [1]}', b'{"texts": [NaN]}', b"[" * 9000,
    b'{"texts": ["\\ud800"]}', b'{"texts": ["a"], "x": 1}', b'{"texts": ["\xff"]}',
    b'{"texts": ["' + b"x" * 21_000 + b'"]}', b'{"texts": ["' + b"x" * 1_100_000 + b'"]}',
    b'{"model": "../x", "texts": ["a"]}', b'{"model": "none", "texts": ["a"]}',
]  # fmt: skip


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    """Start a server, give its process number when it answers, and stop it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server did not start: {' '.join(command)}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ours(model: str, port: int, threads: int) -> list[str]:
    options = ["--port", str(port), "--threads", str(threads), "--log-requests", "no"]
    return [sys.executable, "-m", "bilstm.cli", "serve", f"m={model}", *options]


def leaking(model: str, port: int) -> list[str]:
    """The same server with a planted leak, which the measurement of memory must see."""
    program = (
        "import sys\n"
        "from bilstm.cli import main\n"
        "from bilstm.serving.gate import Gate\n"
        "kept, call = [], Gate.__call__\n"
        "async def leak(self, scope, receive, send):\n"
        "    kept.append(bytearray(b'x' * 65536))\n"
        "    await call(self, scope, receive, send)\n"
        "Gate.__call__ = leak\n"
        "main(sys.argv[1:])"
    )
    return [sys.executable, "-c", program, *ours(model, port, 1)[3:]]


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int) -> float:
    return int(Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def load(process: int, port: int, texts: Path, **options: float) -> dict[str, Any]:
    """Run the load generator; add the processor time that the server took for a request."""
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    before = cpu_seconds(process)
    command = [sys.executable, str(HERE / "serving_load.py"), "--port", str(port), "--texts", str(texts), *flags]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    result["server_cpu_ms_a_request"] = round(1000 * (cpu_seconds(process) - before) / max(result["requests"], 1), 4)
    return result


def measure(command: list[str], port: int, texts: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Saturation over several numbers of connections, then waiting times at 70 % of it."""
    with running(command, port) as process:
        load(process, port, texts, connections=16, seconds=given.seconds / 2)  # warm
        tried = {
            count: load(process, port, texts, connections=count, seconds=given.seconds) for count in given.connections
        }
        best = max(tried.values(), key=lambda one: one["requests_a_second"])
        rate = 0.7 * best["requests_a_second"]
        at_rate = load(process, port, texts, connections=256, seconds=2 * given.seconds, rate=rate)
        return {
            "saturation": best["requests_a_second"],
            "by_connections": {str(count): one for count, one in tried.items()},
            "at_70_percent": {"rate": round(rate, 1), **at_rate},
            "resident_mb": round(resident_mb(process), 1),
        }


def answers(port: int, texts: list[str]) -> list[dict[str, float]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found = []
    for text in texts:
        connection.request("POST", "/v1/predict", json.dumps({"texts": [text]}), {"Content-Type": "application/json"})
        found.append(json.loads(connection.getresponse().read())["predictions"][0]["probabilities"])
    connection.close()
    return found


def check_equal(model: str, file: str, texts: list[str]) -> float:
    """Ask both servers for the same texts; return the largest difference of a probability."""
    one, two = free_port(), free_port()
    with running(ours(model, one, 1), one), running(peer(model, file, two, 1), two):
        pairs = zip(answers(one, texts), answers(two, texts), strict=True)
        difference = max(abs(a[name] - b[name]) for a, b in pairs for name in a)
    if difference > 1e-5:
        raise SystemExit(f"the two servers give other answers (difference {difference:.2g}): nothing is timed")
    return difference


def peer(model: str, file: str, port: int, threads: int) -> list[str]:
    return [sys.executable, str(HERE / "serving_onnx.py"), model, file, "--port", str(port), "--threads", str(threads)]


def memory(command: list[str], port: int, texts: list[str], requests: int) -> dict[str, Any]:
    """Good, bad and abandoned requests one after another; growth from a tenth of them to the end."""
    chance = random.Random(0)
    with running(command, port) as process:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for start in range(0, len(texts), 64):  # also the steps after which the engine makes its vocabulary table
            body = json.dumps({"texts": texts[start : start + 64]})
            connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
        status: Counter[int] = Counter()
        first = 0.0
        for number in range(requests):
            if number == requests // 10:
                first = resident_mb(process)
            if number % 50 == 0:  # one that leaves half-way
                with socket.create_connection(("127.0.0.1", port)) as gone:
                    gone.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            is_bad = number % 10 == 0
            body = (
                chance.choice(BAD_BODIES[:-4])
                if is_bad
                else json.dumps({"texts": [chance.choice(texts)[:300]]}).encode()
            )
            connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            status[answer.status] += 1
        last = resident_mb(process)
        state = {
            "open_files": len(os.listdir(f"/proc/{process}/fd")),
            "threads": len(os.listdir(f"/proc/{process}/task")),
        }
        connection.close()
    growth = 100 * (last - first) / first
    counts = {str(one): count for one, count in sorted(status.items())}
    sizes = {"first_mb": round(first, 1), "last_mb": round(last, 1), "growth_percent": round(growth, 2)}
    return {"requests": requests, "status": counts, **sizes, **state}


def malformed(command: list[str], port: int, requests: int) -> dict[str, Any]:
    """Bad bodies and random bytes; counts what came back, and whether the server lives."""
    chance = random.Random(1)
    status: Counter[str] = Counter()
    with running(command, port) as process:
        before = resident_mb(process)
        for number in range(requests):
            if number % 2:
                data = chance.randbytes(chance.randrange(1, 400)) + b"\r\n\r\n"
            else:
                body = chance.choice(BAD_BODIES)
                cut = chance.randrange(len(body) + 1) if number % 6 == 0 else len(body)
                head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                data = head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body[:cut]
            answer = b""
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=15) as one:
                with contextlib.suppress(OSError):
                    one.sendall(data)
                    one.shutdown(socket.SHUT_WR)
                while part := one.recv(65_536):
                    answer += part
            status[answer[9:12].decode("latin-1") or "closed"] += 1
        lives = bool(answers(port, ["still here"]))
        grown = resident_mb(process) - before
    wrong = {one: count for one, count in status.items() if one.startswith("5") and one != "503"}
    return {"requests": requests, "status": dict(sorted(status.items())), "other_5xx": wrong, "lives": lives,
            "growth_mb": round(grown, 1)}  # fmt: skip


def runtime_latency(model_folder: str, texts: list[str]) -> dict[str, Any]:
    """One review of about 230 words through `predict_proba`, one thread: milliseconds."""
    import bilstm

    model = bilstm.load(model_folder, threads=1)
    chosen = [text for text in texts if 220 <= len(text.split()) <= 240][:50] or texts[:50]
    for text in chosen * 4:  # also the steps after which the engine makes its vocabulary table
        model.predict_proba([text])
    model.predict_proba(texts[:500])
    times, start = [], time.process_time()
    for _ in range(20):
        for text in chosen:
            before = time.perf_counter()
            model.predict_proba([text])
            times.append(1000 * (time.perf_counter() - before))
    cpu = 1000 * (time.process_time() - start) / len(times)
    words = float(np.mean([len(text.split()) for text in chosen]))
    p50, p99 = np.percentile(times, [50, 99])
    return {"words": round(words, 1), "p50_ms": round(p50, 4), "p99_ms": round(p99, 4), "cpu_ms": round(cpu, 4)}


def read_texts(file: str | None) -> list[str]:
    """The first 2,000 reviews of a table with a column `review` or `text`, or made-up ones."""
    if file is None:
        chance = random.Random(2)
        words = [
            "the",
            "film",
            "was",
            "good",
            "bad",
            "fine",
            "dull",
            "and",
            "but",
            "a",
            "very",
            "story",
            "end",
            "half",
            "actor",
            "scene",
            "not",
        ]
        return [
            " ".join(chance.choices(words, k=int(min(max(chance.lognormvariate(5.2, 0.6), 20), 1200))))
            for _ in range(500)
        ]
    opener: Any = gzip.open if file.endswith(".gz") else open
    with opener(file, "rt", encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        column = next(name for name in ("review", "text") if name in (rows.fieldnames or ()))
        texts = [row[column][:LONGEST_TEXT] for _, row in zip(range(2000), rows, strict=False)]
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--texts", help="table of texts; made-up ones if left out")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--requests", type=int, default=100_000, help="of the measurement of memory")
    parser.add_argument("--malformed", type=int, default=10_000)
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("-o", "--output", help="JSON file of the result; else it is printed only")
    given = parser.parse_args()
    texts = read_texts(given.texts)
    result: dict[str, Any] = {"machine": describe_machine(), "model": Path(given.model).name, "texts": len(texts)}
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "texts.json")
        file.write_text(json.dumps(texts), encoding="utf-8")
        result["runtime_one_review"] = runtime_latency(given.model, texts)
        say("runtime", result["runtime_one_review"])
        port = free_port()
        result["bilstm"] = measure(ours(given.model, port, given.threads), port, file, given)
        say("bilstm", result["bilstm"])
        if not given.without_peer:
            from bilstm.export.onnx_export import export_onnx
            from bilstm.tasks import load as load_folder

            exported = str(Path(place, "model.onnx"))
            loaded = load_folder(given.model, threads=1)
            export_onnx(loaded, exported, network_only=loaded.joined is not None)
            result["largest_difference"] = check_equal(given.model, exported, texts[:20])
            port = free_port()
            result["fastapi_onnxruntime"] = measure(peer(given.model, exported, port, given.threads), port, file, given)
            say("peer", result["fastapi_onnxruntime"])
        if given.requests:
            port = free_port()
            result["memory"] = memory(ours(given.model, port, given.threads), port, texts, given.requests)
            port = free_port()
            leak = memory(leaking(given.model, port), port, texts, max(given.requests // 10, 2000))
            result["memory_with_a_planted_leak"] = leak
            say("memory", [result["memory"]["growth_percent"], leak["growth_percent"]])
        if given.malformed:
            port = free_port()
            result["malformed"] = malformed(ours(given.model, port, given.threads), port, given.malformed)
            say("malformed", result["malformed"])
    text = json.dumps(result, indent=1) + "\n"
    if given.output:
        Path(given.output).write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def say(name: str, value: Any) -> None:
    """Show progress on standard error."""
    print(name, json.dumps(value), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
