"""Requests made from the OpenAPI document, right and wrong ones, are answered as the document says."""

import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

import served_models
from serving_process import serving

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'bilstm[test]'")

KEY = "a-key-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    folders = [
        served_models.save(served_models.reviews(), place / "reviews"),
        served_models.save(served_models.tagger(), place / "tags"),
    ]
    options = ["--max-text-chars", "400", "--max-explained-chars", "200", "--max-texts", "8"]
    with serving(*folders, options=options, environment={"BILSTM_API_KEY": KEY}) as served:
        yield served


@pytest.fixture(scope="module")
def document(server):
    return json.loads(server.get("/openapi.json", X_API_Key=KEY).body)


@pytest.fixture(scope="module")
def api_schema(server, document):
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=server.address)
    return schema


OPERATIONS = [
    ("POST", "/v1/predict"), ("POST", "/v1/explain"), ("GET", "/v1/models"), ("GET", "/v1/models/{name}"),
    ("GET", "/v1/models/{name}/card"), ("GET", "/v1/models/{name}/report"), ("GET", "/healthz"), ("GET", "/readyz"),
    ("GET", "/metrics"),
]  # fmt: skip


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_operation_does_what_the_document_says(api_schema, method, path, mode):
    operation = api_schema[path][method]
    seen = set()

    @settings(
        max_examples=60 if method == "POST" else 6,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
        derandomize=True,
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case):
        response = case.call(headers={"Authorization": f"Bearer {KEY}"})
        assert response.status_code < 500, response.text
        case.validate_response(response)
        seen.add(response.status_code)

    try:
        run()
    except Unsatisfiable:
        pytest.skip("nothing of this operation can be wrong")
    if method == "POST":
        assert (200 if mode is schemathesis.GenerationMode.POSITIVE else 422) in seen


def test_the_document_is_whole(document):
    assert set(document["paths"]) == {
        "/v1/predict", "/v1/explain", "/v1/models", "/v1/models/{name}", "/v1/models/{name}/card",
        "/v1/models/{name}/report", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["security"] == ([] if path in ("/healthz", "/readyz") else [{"key": []}])
            assert operation["summary"]
    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["additionalProperties"] is False
    assert body["properties"]["texts"]["maxItems"] == 8
    assert "http" not in json.dumps(document["paths"]).replace("https://json-schema.org", "")
