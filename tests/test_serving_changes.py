"""Stopping and exchanging models under load: no accepted request is lost, no answer is of no model."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import threading
import time

import pytest

import bilstm
import served_models
from serving_process import serving

TEXTS = served_models.review_texts(30, 21)[0]


class Client(threading.Thread):
    """Sends requests one after the other on a connection that is kept; notes what came back."""

    def __init__(self, port, number):
        super().__init__()
        self.port, self.number = port, number
        self.answers, self.lost, self.refused = [], [], 0
        self.is_over = False

    def run(self):
        connection, sent = None, 0
        while not self.is_over:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
                try:
                    connection.connect()
                except ConnectionRefusedError:  # the server listens no more: nothing was accepted
                    self.refused += 1
                    return
            text = TEXTS[(self.number + sent) % len(TEXTS)]
            sent += 1
            try:
                connection.request(
                    "POST", "/v1/predict", json.dumps({"texts": [text]}), {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                body = json.loads(response.read())
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            self.answers.append((response.status, text, body))
            if response.getheader("Connection") == "close":
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


@contextlib.contextmanager
def load(port, count=12):
    clients = [Client(port, number) for number in range(count)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.is_over = True
        for client in clients:
            client.join(30)
        assert not any(client.is_alive() for client in clients)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path):
    return served_models.save(served_models.reviews(), tmp_path / "reviews")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_under_load_loses_nothing(folder, number):
    with serving(folder) as server, load(server.port) as clients:
        until(lambda: all(len(client.answers) >= 3 for client in clients))
        server.tell(number)
        assert server.process.wait(20) == 0
        until(lambda: not any(client.is_alive() for client in clients))
        assert [client.lost for client in clients if client.lost] == []
        statuses = [status for client in clients for status, _, _ in client.answers]
        assert set(statuses) == {200}
        assert all(client.refused == 1 for client in clients)  # each went on until nobody listened
        assert server.events("stopped")[0]["in_flight"] == 0


def test_what_runs_when_it_is_told_to_stop_is_finished(folder):
    with serving(folder, options=["--max-text-chars", "300000", "--max-body-bytes", "8000000"]) as server:
        answers = []
        body = {"texts": ["good bad " * 30_000] * 28}  # a second or more, longer than connections are still taken
        thread = threading.Thread(target=lambda: answers.append(server.call("POST", "/v1/predict", body)))
        thread.start()
        until(lambda: b"bilstm_in_flight 2.0" in server.get("/metrics").body)
        server.tell(signal.SIGTERM)
        thread.join(30)
        assert server.process.wait(20) == 0
        assert answers[0].status == 200
        assert answers[0].headers["connection"] == "close"


def test_not_ready_while_stopping(folder):
    with serving(folder) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            assert connection.getresponse().read() == b'{"status":"ready"}'
            server.tell(signal.SIGTERM)
            server.wait_for("stopping")
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            assert (response.status, response.getheader("Retry-After")) == (503, "1")
        assert server.process.wait(20) == 0


def test_a_second_signal_stops_at_once(folder):
    options = ["--max-body-bytes", "3000000", "--max-text-chars", "2000000", "--request-seconds", "100"]
    with serving(folder, options=options) as server:
        sender = threading.Thread(target=slow, args=(server,))
        sender.start()
        until(lambda: b"bilstm_in_flight 2.0" in server.get("/metrics").body)
        server.tell(signal.SIGTERM)
        server.wait_for("stopping")
        server.tell(signal.SIGTERM)
        assert server.process.wait(20) == 1
        sender.join(20)
        assert server.events("forced")


def slow(server):
    """A request that takes a while."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        server.call("POST", "/v1/predict", {"texts": ["good bad " * 200_000]}, timeout=60)


def test_a_model_is_exchanged_under_load(folder, tmp_path):
    other = served_models.reviews(seed=7)
    spare = served_models.save(other, tmp_path / "spare")
    by_version = {}
    with serving(folder, options=["--watch-seconds", "0.1"]) as server, load(server.port, 6) as clients:
        by_version[server.get("/v1/models/reviews").json["version"]] = bilstm.load(folder)
        until(lambda: all(client.answers for client in clients))
        served_models.save(other, folder, overwrite=True)  # a changed folder
        server.wait_for("model_read")
        by_version[server.get("/v1/models/reviews").json["version"]] = bilstm.load(folder)
        until(lambda: all(client.answers[-1][2].get("version") in list(by_version)[1:] for client in clients))
        for _ in range(5):
            server.tell(signal.SIGHUP)
            server.wait_for("model_read", 2)
        assert len(by_version) == 2
    assert bilstm.load(spare).predict(TEXTS) == by_version[list(by_version)[1]].predict(TEXTS)
    assert not [client.lost for client in clients if client.lost]
    seen = set()
    for client in clients:
        for status, text, body in client.answers:
            assert status == 200
            seen.add(body["version"])
            row = body["predictions"][0]["probabilities"]
            assert list(row.values()) == by_version[body["version"]].predict_proba([text])[0].tolist()
    assert seen == set(by_version)


def test_a_broken_folder_leaves_the_old_model(folder):
    with serving(folder, options=["--watch-seconds", "0.1"]) as server:
        before = server.predict(*TEXTS).json
        weights = bytearray((folder / "weights.safetensors").read_bytes())
        weights[-1] ^= 1
        (folder / "weights.safetensors").write_bytes(weights)
        server.tell(signal.SIGHUP)
        event = server.wait_for("model_not_read")[0]
        assert "weights.safetensors" in event["message"]
        shutil.rmtree(folder)
        server.tell(signal.SIGHUP)
        server.wait_for("model_not_read", 2)
        assert server.predict(*TEXTS).json == before
        served_models.save(served_models.reviews(seed=3), folder)
        server.wait_for("model_read")
        assert server.predict(*TEXTS).json["version"] != before["version"]


# A server that keeps 20 kB and a file of every request.
LEAKING = """
import sys
from bilstm.serving.gate import Gate
answer, kept = Gate.__call__, []
async def leak(self, scope, receive, send):
    kept.append((bytearray(b"x" * 20_000), open("/dev/null")))
    await answer(self, scope, receive, send)
Gate.__call__ = leak
from bilstm.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("is_leaking", [False, True], ids=["as it is", "with a planted leak"])
def test_memory_files_and_threads_do_not_grow(folder, is_leaking):
    """Mixed requests, good and bad; the longer run is in benchmarks/serving.py. A leak would be seen."""
    program = {"program": ("-c", LEAKING)} if is_leaking else {}
    with serving(folder, options=["--log-requests", "no"], **program) as server:

        def mixed(count):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            bodies = ['{"texts": ["good film"]}', '{"texts": ["' + "bad " * 400 + '"]}', "{", '{"texts": []}', "[1]"]
            with contextlib.closing(connection):
                for number in range(count):
                    body = bodies[number % len(bodies)]
                    connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
                    connection.getresponse().read()

        def state():
            task = f"/proc/{server.process.pid}"
            return server.resident_kb(), len(os.listdir(f"{task}/fd")), len(os.listdir(f"{task}/task"))

        mixed(200 if is_leaking else 500)
        before = state()
        mixed(300 if is_leaking else 1000)
        after = state()
        if is_leaking:
            assert after[0] - before[0] > 3000
            assert after[1] > before[1] + 1
            return
        assert after[0] - before[0] < 3000  # kilobytes
        assert after[1] <= before[1] + 1
        assert after[2] <= before[2]
