"""Answers over HTTP are those of the library, bit for bit; keys, hosts and origins are what they should be."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bilstm
import served_models
from bilstm.explanation import explain
from bilstm.explanation.tagger import explain_spans
from bilstm.serving import schemas
from serving_process import serving

KEY = "a-key-of-the-tests-0123456789"
OTHER_KEY = "another-key-of-the-tests-012345"
ODD_TEXTS = ["", " ", "good", "\x00\x07", "good \N{GRINNING FACE} fine", "<script>alert(1)</script>", "bad " * 3000]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    texts, labels = served_models.review_texts(120)
    topics = [text.split()[1] for text in texts]
    several = [
        f"{topic}|{label}" if number % 3 else topic
        for number, (topic, label) in enumerate(zip(topics, labels, strict=True))
    ]
    numbers = [str(float(len(text))) for text in texts]
    return {
        "reviews": served_models.save(served_models.reviews(), place / "reviews"),
        "tags": served_models.save(served_models.tagger(), place / "tags"),
        "topics": served_models.save(served_models.classifier(texts, topics), place / "topics"),
        "several": served_models.save(
            served_models.classifier(texts, several, "multilabel", separator="|"), place / "several"
        ),
        "lengths": served_models.save(served_models.classifier(texts, numbers, "regression"), place / "lengths"),
    }


@pytest.fixture(scope="module")
def server(folders):
    with serving(*(f"{name}={folder}" for name, folder in folders.items())) as served:
        yield served


def assert_fits(schema, answer):
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    return schema.model_validate_json(answer.body)


def test_class_probabilities_are_those_of_the_library_bit_for_bit(server, folders):
    texts = [*served_models.review_texts(40, 9)[0], *ODD_TEXTS]
    model = bilstm.load(folders["reviews"])
    answer = server.predict(*texts)
    assert_fits(schemas.PredictAnswer, answer)
    for text, found in zip(texts, answer.json["predictions"], strict=True):
        alone = model.predict_proba([text])[0]
        assert [found["probabilities"][name] for name in model.classes_] == alone.tolist()
        assert found["prediction"] == model.predict([text])[0]
        assert found["probability"] == alone.max()


def test_requests_that_are_joined_get_what_they_get_alone(server, folders):
    texts = [*served_models.review_texts(64, 11)[0], *ODD_TEXTS]
    model = bilstm.load(folders["reviews"])
    before = server.get("/metrics").body.decode()
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(server.predict, texts))
    for text, answer in zip(texts, answers, strict=True):
        row = answer.json["predictions"][0]["probabilities"]
        assert [row[name] for name in model.classes_] == model.predict_proba([text])[0].tolist()
    metrics = server.get("/metrics").body.decode()

    def value(page, name):
        return float(next(line for line in page.splitlines() if line.startswith(name + " ")).split()[1])

    counted = value(metrics, "bilstm_batch_texts_sum") - value(before, "bilstm_batch_texts_sum")
    batches = value(metrics, "bilstm_batch_requests_count") - value(before, "bilstm_batch_requests_count")
    assert counted == len(texts)
    assert batches < len(texts)  # some were joined


def test_all_kinds_of_labels(server, folders):
    texts = served_models.review_texts(10, 5)[0]
    for name in ("topics", "several", "lengths"):
        model = bilstm.load(folders[name])
        answer = server.predict(*texts, model=name)
        assert_fits(schemas.PredictAnswer, answer)
        expected = model.predict(texts)
        found = [row["prediction"] for row in answer.json["predictions"]]
        assert found == [list(row) if name == "several" else row for row in expected]
    assert isinstance(found[0], float)


def test_tags_with_places_in_characters(server, folders):
    text = "\N{GRINNING FACE} Anna visits Rome today ."
    answer = server.predict(text, model="tags")
    assert_fits(schemas.PredictAnswer, answer)
    row = answer.json["predictions"][0]
    assert row["intent"] == "visits"
    assert all(text[span["start"] : span["end"]] == span["text"] for span in row["spans"])
    assert ("LOC", "Rome") in [(span["label"], span["text"]) for span in row["spans"]]
    expected = bilstm.load(folders["tags"]).annotate([text])[0]
    assert row["tags"] == expected.tags
    assert [span["score"] for span in row["spans"]] == [span.score for span in expected.spans]


def test_an_odd_text_has_tags_too(server):
    for text in ODD_TEXTS:
        assert_fits(schemas.PredictAnswer, server.predict(text, model="tags"))


def test_models_cards_and_reports(server, folders):
    answer = assert_fits(schemas.ModelsAnswer, server.get("/v1/models"))
    assert [model.name for model in answer.models] == list(folders)
    for model in answer.models:
        assert assert_fits(schemas.ModelAnswer, server.get(f"/v1/models/{model.name}")) == model
    reviews = answer.models[0]
    assert reviews.labels == ["negative", "positive"]
    assert reviews.parameters == sum(weight.size for weight in bilstm.load(folders["reviews"]).weights.values())
    card, report = server.get(reviews.card), server.get(reviews.report)
    assert card.body.decode() == served_models.CARD
    assert card.headers["content-type"].startswith("text/plain")
    assert report.body.decode() == served_models.REPORT
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_state_and_measurements(server):
    assert server.get("/healthz").json == {"status": "ok"}
    assert server.get("/readyz").json == {"status": "ready"}
    server.get("/nothing/here")
    lines = server.get("/metrics").body.decode().splitlines()
    assert any(line.startswith('bilstm_requests_total{path="other",status="404"}') for line in lines)
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)


def test_every_answer_carries_its_headers_and_identity(server):
    for path in ("/", "/healthz", "/nothing", "/v1/models", "/page/page.js"):
        answer = server.get(path, X_Request_Id="mine-1")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"] == "mine-1"
        assert "server" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
    forged = server.get("/healthz", X_Request_Id='x" onload="y')
    assert forged.headers["x-request-id"] != 'x" onload="y'
    numbers = {server.get("/healthz").headers["x-request-id"] for _ in range(5)}
    assert len(numbers) == 5


def test_the_page_is_not_sent_twice(server):
    first = server.get("/page/page.css")
    again = server.get("/page/page.css", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")


def test_texts_are_not_logged(server):
    secret = "xyzzy-plugh-of-this-test"
    server.predict(f"good {secret}")
    server.call("POST", "/v1/predict", {"texts": [secret], secret: 1})
    server.call("POST", "/v1/predict", f'{{"texts": ["{secret}'.encode(), {"Content-Type": "application/json"})
    server.get(f"/v1/models/reviews?text={secret}")
    time.sleep(0.1)
    assert secret not in server.log_file.read_text()
    request = server.events("request")[-1]
    assert {"request", "method", "path", "status", "ms", "client"} <= request.keys()


def test_hosts_and_origins(server):
    assert server.get("/v1/models", Host="localhost:1").status == 200
    assert server.get("/v1/models", Host="[::1]:8000").status == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        answer = server.get("/v1/models", Host=host)
        assert (answer.status, answer.code) == (403, "forbidden_host")
    foreign = server.call("POST", "/v1/predict", {"texts": ["a"]}, {"Origin": "https://evil.example"})
    assert (foreign.status, foreign.code) == (403, "forbidden_origin")
    assert server.call("POST", "/v1/predict", {"texts": ["a"]}, {"Origin": "null"}).status == 403
    own = server.call("POST", "/v1/predict", {"texts": ["a"]}, {"Origin": server.address})
    assert own.status == 200


PROTECTED = [
    ("GET", "/v1/models"), ("GET", "/v1/models/reviews"), ("GET", "/v1/models/reviews/report"), ("GET", "/metrics"),
    ("GET", "/openapi.json"), ("GET", "/nothing"), ("POST", "/v1/predict"), ("POST", "/v1/explain"),
    ("PUT", "/v1/predict"),
    ("GET", "/V1/models"), ("GET", "//v1/models"), ("GET", "/page/../v1/models"), ("OPTIONS", "/v1/predict"),
]  # fmt: skip


@pytest.fixture(scope="module")
def locked(folders, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# of the tests\n{KEY}\n")
    keys.chmod(0o600)
    origins = ["--cors-origins", "https://friend.example", "--log-texts", "yes"]
    with serving(f"reviews={folders['reviews']}", options=["--api-key-file", keys, *origins]) as served:
        served.keys = keys
        yield served


def test_without_the_key_nothing_but_the_empty_page(locked):
    for method, path in PROTECTED:
        body = {"texts": ["good"]} if method == "POST" else None
        answer = locked.call(method, path, body)
        assert (answer.status, answer.code) == (401, "unauthorized"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in ("/", "/page/page.js", "/healthz", "/readyz", "/docs"):
        assert locked.get(path).status == 200


@pytest.mark.parametrize(
    "given",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"X-API-Key": ""},
        {"X-API-Key": "x" * 5000},
        {"X-API-Key": "\xff\xfe"},
        {"Cookie": f"key={KEY}"},
        {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/healthz", "X-Rewrite-URL": "/healthz"},
    ],
)
def test_tampered_keys(locked, given):
    assert locked.call("GET", "/v1/models", headers=given).status == 401


def test_the_key_opens_and_stays_secret(locked):
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}):
        assert locked.call("GET", "/v1/models", headers=headers).status == 200
    assert locked.call("GET", f"/v1/models?key={KEY}").status == 401
    text = locked.log_file.read_text()
    assert KEY not in text
    assert KEY not in locked.call("GET", "/openapi.json", headers={"X-API-Key": KEY}).body.decode()


def test_tickets_open_one_page(locked):
    model = locked.call("GET", "/v1/models/reviews", headers={"X-API-Key": KEY}).json
    report = model["report"]
    assert locked.get(report).status == 200
    path, ticket = report.split("?ticket=")
    end, _, signature = ticket.partition(".")
    wrong = "0" if signature[0] != "0" else "1"
    for bad in (
        path,
        f"{path}?ticket=",
        f"{path}?ticket={int(end) + 1}.{signature}",
        f"{path}?ticket={end}.{wrong}{signature[1:]}",
        f"{path}?ticket={end}.\xe9".encode().decode("latin-1").replace("\xc3\xa9", "%C3%A9"),
        f"{path}?ticket={ticket}&ticket={ticket}",
        f"/v1/models/reviews/card?ticket={ticket}",
        f"/v1/models?ticket={ticket}",
    ):
        assert locked.get(bad).status == 401, bad


def test_only_named_origins_may_call(locked):
    asked = {"Origin": "https://friend.example", "Access-Control-Request-Method": "POST"}
    allowed = locked.call("OPTIONS", "/v1/predict", headers=asked)
    assert allowed.status == 204
    assert allowed.headers["access-control-allow-origin"] == "https://friend.example"
    answer = locked.call(
        "POST", "/v1/predict", {"texts": ["good"]}, {"X-API-Key": KEY, "Origin": "https://friend.example"}
    )
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://friend.example")
    for origin in ("https://friend.example.evil", "http://friend.example", "https://evil.example"):
        answer = locked.call("OPTIONS", "/v1/predict", headers={**asked, "Origin": origin})
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


def test_texts_are_logged_when_asked_for(locked):
    locked.call("POST", "/v1/predict", {"texts": ["good and\nfine"]}, {"X-API-Key": KEY})
    time.sleep(0.1)
    assert locked.events("request")[-1]["text"] == ["good and\nfine"]


def test_keys_are_exchanged_while_running(locked):
    locked.keys.write_text(f"{KEY}\n{OTHER_KEY}\n")
    locked.tell(signal.SIGHUP)
    locked.wait_for("model_read")
    assert locked.call("GET", "/v1/models", headers={"X-API-Key": OTHER_KEY}).status == 200
    os.chmod(locked.keys, 0o644)
    locked.tell(signal.SIGHUP)
    locked.wait_for("key_not_read")
    assert locked.call("GET", "/v1/models", headers={"X-API-Key": KEY}).status == 200  # the old ones stay


def test_a_small_model_is_not_what_makes_this_true():
    """The library itself gives other bits for other texts: equality above says something."""
    model = served_models.reviews()
    one, two = model.predict_proba(["good film"]), model.predict_proba(["good book"])
    assert not np.array_equal(one, two)


def test_explanations_are_those_of_the_library(server, folders):
    text = "the film was good \N{GRINNING FACE} but dull"
    for name, label in (("reviews", None), ("reviews", "negative"), ("topics", None), ("lengths", None)):
        question = {"text": text, "model": name, "method": "occlusion", **({"label": label} if label else {})}
        answer = server.call("POST", "/v1/explain", question)
        assert_fits(schemas.ExplainAnswer, answer)
        (expected,) = explain(bilstm.load(folders[name]), [text], "occlusion", label)
        found = answer.json
        assert [token["score"] for token in found["tokens"]] == pytest.approx(
            expected.attributions[:, 0].tolist(), abs=1e-6
        )
        assert [text[token["start"] : token["end"]] for token in found["tokens"]] == list(expected.tokens)
        assert [token["text"] for token in found["tokens"]] == list(expected.tokens)
        assert found["label"] == (None if name == "lengths" else expected.targets[0])
        assert found["prediction"] == expected.prediction


def test_spans_are_explained(server, folders):
    text = "Anna visits Rome today ."
    model = bilstm.load(folders["tags"])
    for span in ("Rome", None):
        question = {"text": text, "model": "tags", **({"span": span} if span else {})}
        found = assert_fits(schemas.ExplainAnswer, server.call("POST", "/v1/explain", question))
        expected = explain_spans(model, text, span)[0]
        assert [token.score for token in found.tokens] == pytest.approx(expected.attributions[:, 0].tolist(), abs=1e-6)
        assert found.label == ("LOC: Rome" if span else "PER: Anna")
    nothing = assert_fits(schemas.ExplainAnswer, server.call("POST", "/v1/explain", {"text": "", "model": "tags"}))
    assert (nothing.tokens, nothing.notes) == ([], ["No span was found."])


def test_what_cannot_be_explained(server):
    for question, status, code in (
        ({"text": "a", "model": "tags", "label": "LOC"}, 409, "not_supported"),
        ({"text": "a", "model": "tags", "span": "b"}, 404, "not_found"),
        ({"text": "a b", "model": "tags", "span": " "}, 404, "not_found"),
        ({"text": "a", "span": "a"}, 409, "not_supported"),
        ({"text": "a", "label": "nonsense"}, 404, "label_not_found"),
        ({"text": "a", "method": "nonsense"}, 422, "invalid"),
        ({"text": "a", "method": "attention"}, 409, "not_supported"),  # this model pools without attention
        ({"text": "a" * 4001}, 422, "text_too_long"),
    ):
        answer = server.call("POST", "/v1/explain", question)
        assert (answer.status, answer.code) == (status, code), question
