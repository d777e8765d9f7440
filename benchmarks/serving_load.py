"""A second process that loads an HTTP server: as fast as it answers, or at a fixed rate.

At a fixed rate requests are due at fixed times, whether the server has answered earlier ones or not, and the time of a
request counts from when it was due: a server that stalls cannot hide it. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections import Counter, deque
from pathlib import Path

import numpy as np


def http_request(port: int, path: str, text: str) -> bytes:
    """One request, ready to be sent."""
    body = json.dumps({"texts": [text]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """A connection that has at most one request under way."""

    def __init__(self, load: Load):
        self.load, self.due, self.buffer = load, 0.0, bytearray()

    def connection_made(self, transport):
        """Keep the transport."""
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        """Send a request whose time counts from `due`."""
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Read an answer."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self.buffer) < end + 4 + length:
            return
        self.buffer.clear()
        self.load.answered(self, int(head[9:12]), b"connection: close" in head)

    def connection_lost(self, error):
        """Count it."""
        self.load.lost(self)


class Load:
    """Requests, the connections that take them, and what came back."""

    def __init__(self, requests: list[bytes], seed: int):
        self.requests, self.random = requests, random.Random(seed)
        self.idle: deque[Connection] = deque()
        self.due: deque[float] = deque()
        self.seconds: list[float] = []
        self.status: Counter[int] = Counter()
        self.is_open = False  # requests come at a fixed rate
        self.is_over = False
        self.lost_connections = 0

    def next_request(self) -> bytes:
        """Return a request by chance."""
        return self.random.choice(self.requests)

    def answered(self, connection: Connection, status: int, is_last: bool) -> None:
        """Note an answer and send what is due."""
        now = time.perf_counter()
        self.seconds.append(now - connection.due)
        self.status[status] += 1
        if is_last or self.is_over:
            return
        if not self.is_open:
            connection.send(self.next_request(), now)
        elif self.due:
            connection.send(self.next_request(), self.due.popleft())
        else:
            self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """Take a closed connection out."""
        self.lost_connections += 1
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)


async def connected(load: Load, port: int, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: Connection(load), "127.0.0.1", port))[1] for _ in range(count)]


async def closed_loop(load: Load, port: int, count: int, seconds: float) -> float:
    connections = await connected(load, port, count)
    start = time.perf_counter()
    for connection in connections:
        connection.send(load.next_request(), time.perf_counter())
    await asyncio.sleep(seconds)
    load.is_over = True
    elapsed = time.perf_counter() - start
    done = len(load.seconds)
    await asyncio.sleep(0.3)
    return done / elapsed


async def open_loop(load: Load, port: int, count: int, seconds: float, rate: float) -> float:
    """Poisson arrivals: what many independent clients make."""
    load.is_open = True
    load.idle.extend(await connected(load, port, count))
    start = due = time.perf_counter()
    end = start + seconds
    while due < end:
        due += load.random.expovariate(rate)
        while (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if load.idle:
            load.idle.popleft().send(load.next_request(), due)
        else:
            load.due.append(due)
    for _ in range(100):  # what is still under way counts too
        if len(load.idle) == count:
            break
        await asyncio.sleep(0.05)
    return len(load.seconds) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/predict")
    parser.add_argument("--texts", required=True, help="JSON file: a list of texts")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, help="requests a second; left out: as many as are answered")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    texts = json.loads(Path(given.texts).read_text(encoding="utf-8"))
    load = Load([http_request(given.port, given.path, text) for text in texts], given.seed)
    cpu = time.process_time()

    async def run() -> float:
        if given.rate is None:
            return await closed_loop(load, given.port, given.connections, given.seconds)
        return await open_loop(load, given.port, given.connections, given.seconds, given.rate)

    try:
        import uvloop
    except ModuleNotFoundError:
        rate = asyncio.run(run())
    else:
        rate = uvloop.run(run())
    milliseconds = 1000 * np.array(load.seconds)
    result = {
        "requests": len(milliseconds),
        "requests_a_second": round(rate, 1),
        "status": {str(status): count for status, count in sorted(load.status.items())},
        "milliseconds": {
            name: round(float(np.percentile(milliseconds, share)), 3)
            for name, share in (("p50", 50), ("p95", 95), ("p99", 99), ("p99.9", 99.9), ("max", 100))
        },
        "client_cpu_seconds": round(time.process_time() - cpu, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
