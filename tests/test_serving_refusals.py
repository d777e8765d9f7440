"""What is malformed, too large, too slow or too much is refused with a clear 4xx or 503; the server lives on."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import served_models
from serving_process import received, serving

JSON = {"Content-Type": "application/json"}
POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LIMITS = ["--max-body-bytes", "20000", "--max-texts", "4", "--max-text-chars", "3000", "--max-waiting", "8"]
TIMES = ["--header-seconds", "1", "--body-seconds", "1", "--idle-seconds", "2", "--max-connections", "60"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = served_models.save(served_models.reviews(), tmp_path_factory.mktemp("models") / "reviews")
    with serving(folder, options=[*LIMITS, *TIMES]) as served:
        yield served
        assert served.predict("good").status == 200  # after all of it


def post(server, body, path="/v1/predict", **headers):
    return server.call(
        "POST", path, body, {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    )


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_request"),
        (b"{", 400, "bad_request"),
        (b"null", 422, "invalid"),
        (b"[]", 422, "invalid"),
        (b'"texts"', 422, "invalid"),
        (b"{}", 422, "invalid"),
        (b'{"texts": []}', 422, "invalid"),
        (b'{"texts": "good"}', 422, "invalid"),
        (b'{"texts": [1]}', 422, "invalid"),
        (b'{"texts": [null]}', 422, "invalid"),
        (b'{"texts": [["good"]]}', 422, "invalid"),
        (b'{"texts": [NaN]}', 422, "invalid"),
        (b'{"texts": [1e999]}', 422, "invalid"),
        (b'{"texts": [-Infinity]}', 422, "invalid"),
        (b'{"texts": [' + b"9" * 5000 + b"]}", 400, "bad_request"),
        (b'{"texts": ["a"], "more": 1}', 422, "invalid"),
        (b'{"texts": ["a"], "model": 5}', 422, "invalid"),
        (b'{"texts": ["a","b","c","d","e"]}', 422, "invalid"),
        (b'{"texts": ["' + b"x" * 3001 + b'"]}', 422, "text_too_long"),
        (b'{"texts": ["a"]} trailing', 400, "bad_request"),
        (b'{"texts": ["\\ud800"]}', 400, "bad_request"),  # half of a surrogate pair is no text
        (b'{"texts": ["\xff"]}', 400, "bad_request"),
        ('{"texts": ["ä"]}'.encode("utf-16"), 400, "bad_request"),
        (b'{"texts": ["a\nb"]}', 400, "bad_request"),
        (b"[" * 15_000, 400, "bad_request"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, 400, "bad_request"),
        (b'{"texts": ["' + b"x" * 20_000 + b'"]}', 413, "body_too_large"),
    ],
)
def test_bodies(server, body, status, code):
    answer = post(server, body)
    assert (answer.status, answer.code) == (status, code), answer.body
    assert answer.json["error"]["message"]
    assert len(answer.body) < 600


def test_a_message_names_the_place_and_not_the_content(server):
    error = post(server, {"texts": ["a", 7]}).json["error"]
    assert error["field"] == "texts[1]"
    error = post(server, {"texts": ["a"], "secret-key\u202e": "secret-value"}).json["error"]
    assert "secret-value" not in str(error)
    assert "\u202e" not in str(error)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": "APPLICATION/JSON"}, 200),
    ],
)
def test_content_types(server, headers, status):
    assert server.call("POST", "/v1/predict", b'{"texts": ["good"]}', headers).status == status


NOT_NAMES = [
    "../reviews", "..", ".", "/etc/passwd", "reviews/../reviews", "reviews\x00", "", "%2e%2e", "~", "C:\\x", "réviews",
    "..%2freviews", "reviews/", " reviews", "reviews\n", "x" * 65, "-x", "\\\\host\\share", "file:///etc/passwd",
]  # fmt: skip
NO_MODELS = ["...", "..my_model", "review", "Reviews", "reviews.bak", "constructor", "__proto__"]


@pytest.mark.parametrize("name", NOT_NAMES)
def test_model_names_that_are_paths(server, name):
    answer = post(server, {"texts": ["a"], "model": name})
    assert (answer.status, answer.code) == (422, "invalid")


@pytest.mark.parametrize("name", [name for name in NO_MODELS if name[0] not in "._"])
def test_model_names_that_do_not_exist(server, name):
    answer = post(server, {"texts": ["a"], "model": name})
    assert (answer.status, answer.code) == (404, "model_not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../etc/passwd", "/v1/models/..%2f..%2fetc%2fpasswd/report", "/v1/models/%2e%2e/card",
        "/v1/models/....//card", "/page/../routes.py", "/page/..%2froutes.py", "/page/%2e%2e/%2e%2e/errors.py",
        "/page/..%5croutes.py", "/page/", "/page//etc/passwd", "/page/page.js%00", "/page/.", "/static/../../x",
        "/v1/models/%00",
        "/v1/models/%ff/report", "/v1/models/reviews%2f..%2freviews/card", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
    ],
)  # fmt: skip
def test_paths_lead_nowhere(server, path):
    answer = server.get(path)
    assert answer.status in (400, 404), answer.body
    assert b"root:" not in answer.body
    assert b"import" not in answer.body


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND"])
def test_methods(server, method):
    answer = server.call(method, "/v1/predict")
    assert answer.status in (400, 405)
    assert server.call("POST", "/v1/models", {"texts": ["a"]}).status == 405


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # begins TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        POST + b"Content-Length: -5\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        POST + b"Content-Length: 99999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 8000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
)
def test_broken_http(server, data):
    answer = server.raw(data, timeout=4)
    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    status = int(answer[9:12])
    assert status in (400, 403, 408, 413, 431)


def test_connections_that_are_closed_half_way(server):
    whole = POST + b'Content-Length: 19\r\n\r\n{"texts": ["good"]}'
    for end in range(1, len(whole) + 1, 3):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(whole[:end])
    assert server.predict("good").status == 200


def test_slow_heads_and_bodies_are_ended_and_others_do_not_wait(server):
    starts = [
        b"",
        b"GET",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n",
    ]
    body = POST + b"Content-Length: 50\r\n\r\n{"
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(40)]
    for number, connection in enumerate(slow):
        connection.sendall([*starts, body][number % 5])
    assert server.predict("good").status == 200
    deadline = time.monotonic() + 8
    for number, connection in enumerate(slow):
        answer = received(connection)
        assert time.monotonic() < deadline
        expected = b"" if number % 5 == 0 else b"HTTP/1.1 408"
        assert answer.startswith(expected)
        assert answer or number % 5 == 0
        connection.close()


def test_a_head_that_dribbles_is_ended(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        start = time.monotonic()
        try:
            for letter in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1000:
                connection.sendall(bytes([letter]))
                time.sleep(0.05)
                assert time.monotonic() - start < 8
        except ConnectionError:
            return
    pytest.fail("the connection stayed open")


def test_too_many_connections(server):
    many = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(75)]
    refused = [connection for connection in many[60:] if received_at_once(connection).startswith(b"HTTP/1.1 503")]
    assert len(refused) >= 10
    for connection in many:
        connection.close()
    deadline = time.monotonic() + 5
    while server.predict("good").status != 200:
        assert time.monotonic() < deadline


def received_at_once(connection):
    connection.settimeout(1.0)
    try:
        return connection.recv(4096)
    except (TimeoutError, ConnectionError):
        return b""


def test_requests_sent_without_waiting_are_answered_in_order(server):
    """Far more than one read brings; each with a text of its own, so that no answer can take another's place."""
    texts = [f"good {'bad ' * (number % 7)}film" for number in range(1500)]
    alone = {text: server.predict(text).json["predictions"] for text in set(texts)}
    assert len({json.dumps(answer) for answer in alone.values()}) == 7
    bodies = [json.dumps({"texts": [text]}).encode() for text in texts]
    sent = b"".join(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        stream = connection.makefile("rb")
        for text in texts:
            head = b"".join(iter(stream.readline, b"\r\n")).lower()
            assert head.startswith(b"http/1.1 200"), head
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            assert json.loads(stream.read(length))["predictions"] == alone[text]
        sender.join()


def test_requests_without_end_and_answers_never_read_are_not_kept(server):
    """A client that only sends: uvicorn alone takes all it sends, here hundreds of megabytes."""
    body = b'{"texts": ["good film"]}'
    many = (POST + b"Content-Length: %d\r\n\r\n" % len(body) + body) * 500
    before = server.resident_kb()
    flooding = [socket.create_connection(("127.0.0.1", server.port), timeout=0.5) for _ in range(3)]
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for connection in flooding:
            try:
                connection.send(many)
            except TimeoutError:  # the server reads no more
                continue
        assert server.predict("good").status == 200
    assert server.resident_kb() - before < 30_000
    for connection in flooding:
        connection.close()


def test_a_head_without_end_behind_a_request_is_refused(server):
    text = "good bad " * 300
    body = json.dumps({"texts": [text] * 4}).encode()
    first = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    answer = server.raw(first + b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: yyyyyyyy\r\n" * 5000, timeout=5)
    assert b"HTTP/1.1 431" in answer


def test_a_large_body_is_told_why_and_not_kept(server):
    before = server.resident_kb()
    for _ in range(10):
        answer = post(server, b'{"texts": ["' + b"x" * 8_000_000 + b'"]}')
        assert (answer.status, answer.code) == (413, "body_too_large")
        assert "--max-body-bytes" in answer.json["error"]["message"]
    chunks = b"".join(b"%x\r\n%s\r\n" % (1000, b"x" * 1000) for _ in range(100))
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert server.raw(head + chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 413")
    assert server.resident_kb() - before < 20_000


def test_an_overload_is_503_with_a_time_and_nothing_is_lost(server):
    text = "good bad " * 300
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(lambda _: server.predict(text, text, text, text), range(150)))
    refused = [answer for answer in answers if answer.status == 503]
    assert {answer.status for answer in answers} <= {200, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(answer.code in ("overloaded", "connection_limit") for answer in refused)
    assert any(answer.status == 200 for answer in answers)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["texts", "model", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSON_VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
def test_any_body_gets_an_answer_that_says_what_is_wrong(server, body):
    answer = post(server, body)
    assert answer.status in (200, 400, 404, 422), (body, answer.body)
    assert answer.status == 200 or answer.json["error"]["message"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=300), keep=st.booleans())
def test_any_bytes_leave_the_server_alive(server, data, keep):
    start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" if keep else b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(start + data + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert not received(connection).startswith(b"HTTP/1.1 5")


def test_nothing_failed_inside(server):
    assert server.predict("good").status == 200
    assert not server.events("failed")
    assert not [event for event in server.log if event["level"] == "error"]
