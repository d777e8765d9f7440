"""A server in its own process, and a client that sends exactly the bytes it is given."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """The code of a refusal."""
        return self.json["error"]["code"]


@dataclass
class Served:
    process: subprocess.Popen
    port: int
    log_file: Path
    address: str = field(init=False)

    def __post_init__(self):
        self.address = f"http://127.0.0.1:{self.port}"

    def call(self, method, path, body=None, headers=None, timeout=20):
        """One request on its own connection; `body` may be bytes or a JSON value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path, **headers):
        return self.call("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def predict(self, *texts, **more):
        return self.call("POST", "/v1/predict", {"texts": list(texts), **more})

    def raw(self, data, timeout=5.0, then=b""):
        """Send bytes; return what comes until the server closes or `timeout` is over."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            return received(connection)

    @property
    def log(self):
        """Events so far."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def events(self, name):
        return [event for event in self.log if event["event"] == name]

    def wait_for(self, name, count=1, seconds=20.0):
        end = time.monotonic() + seconds
        while len(found := self.events(name)) < count:
            assert time.monotonic() < end, f"no {name}: {self.log_file.read_text()[-2000:]}"
            assert self.process.poll() is None or name == "stopped", self.log_file.read_text()[-2000:]
            time.sleep(0.02)
        return found

    def resident_kb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def tell(self, number):
        os.kill(self.process.pid, number)

    def stop(self):
        """Stop and return the exit code."""
        if self.process.poll() is None:
            self.tell(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def received(connection):
    parts = []
    with contextlib.suppress(TimeoutError, ConnectionError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def serving(*models, options=(), environment=None, program=("-m", "bilstm.cli")):
    """A running server; it must end with code 0 unless the test has stopped it.

    `program` is what Python is called with in place of the usual command line.
    """
    log_file = Path(tempfile.mkstemp(suffix=".log")[1])
    command = [
        sys.executable,
        *program,
        "serve",
        *map(str, models),
        "--port",
        "0",
        "--threads",
        "1",
        *options,
    ]
    surroundings = {**os.environ, **(environment or {})}
    with open(log_file, "wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=surroundings)
    served = Served(process, 0, log_file)
    try:
        ready = served.wait_for("ready", seconds=60)[0]
        served.port = int(ready["address"].rsplit(":", 1)[1].strip("/"))
        served.address = f"http://127.0.0.1:{served.port}"
        yield served
        assert process.poll() is not None or served.stop() == 0
        assert not served.events("failed"), served.events("failed")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        log_file.unlink()
