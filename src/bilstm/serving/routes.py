"""The HTTP interface: FastAPI routes over the models of a shelf. Imports FastAPI.

Bodies are validated by pydantic from their bytes; errors name the place in the request and never repeat its content.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from bilstm.serving import schemas
from bilstm.serving.access_key import AccessKeys, Tickets
from bilstm.serving.batching import Batcher
from bilstm.serving.explaining import can_explain, explain_texts
from bilstm.serving.gate import FACTS, RequestFacts, ServerPhase
from bilstm.serving.measurements import CONTENT_TYPE, Measurements
from bilstm.serving.model_shelf import ModelShelf
from bilstm.serving.page_files import CARD_HEADERS, REPORT_HEADERS, PageFile, page_files
from bilstm.serving.refusal import Refusal
from bilstm.serving.served_model import ServedModel
from bilstm.serving.settings import ServingSettings
from bilstm.versions import tool_version

__all__ = ["Parts", "build_app"]

T = TypeVar("T")
_CARD, _REPORT = "card", "report"
_STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": description}
    for status, description in {
        400: "Not HTTP or JSON as it should be.",
        401: "The API key is missing or wrong (if the server needs one).",
        403: "Host or origin is not allowed.",
        404: "There is no such model, label or page.",
        405: "Not with this method.",
        408: "The body arrived too slowly.",
        413: "The body is too large.",
        415: "The body is not plain JSON.",
        422: "The body does not fit the schema.",
        503: "Overloaded, too late or stopping; Retry-After says when to come again.",
    }.items()
}
_NOT_SUPPORTED = {"model": schemas.ErrorAnswer, "description": "This model has no such explanation."}


@dataclass(frozen=True)
class Parts:
    """What routes work with."""

    settings: ServingSettings
    shelf: ModelShelf
    predictions: Batcher
    explanations: Batcher
    measurements: Measurements
    phase: ServerPhase
    tickets: Tickets
    keys: Callable[[], AccessKeys | None]


def build_app(parts: Parts) -> FastAPI:
    """Make the application; it needs `gate.Gate` around it."""
    app = FastAPI(
        title="bilstm", version=tool_version(), docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.add_exception_handler(Refusal, _refused)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _not_routed)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _failed)
    _add_answers(app, parts)
    _add_models(app, parts)
    _add_state(app, parts)
    _add_page(app)
    return app


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Write plain values; letters stay letters, NaN is an error."""
    content = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(content, status, headers, media_type="application/json")


async def _refused(request: Request, refusal: Refusal) -> Response:
    request.scope[FACTS].code = refusal.code
    return json_response(refusal.to_json(), refusal.status, refusal.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """Answer before the gate, to which the error is raised on, writes it to the log."""
    identity = request.scope[FACTS].id
    return await _refused(
        request, Refusal(500, "internal", "The server failed; its log says why.", f"Request {identity}.")
    )


async def _not_routed(request: Request, error: HTTPException) -> Response:
    message = {404: "There is nothing at this address.", 405: "This address does not know this method."}
    code: Any = _STATUS_CODES.get(error.status_code, "bad_request")
    refusal = Refusal(
        error.status_code,
        code,
        message.get(error.status_code, "The request cannot be answered."),
        "See /docs.",
        headers=dict(error.headers or {}),
    )
    return await _refused(request, refusal)


# ---- answers -------------------------------------------------------------------------------------------------------


def _add_answers(app: FastAPI, parts: Parts) -> None:
    settings = parts.settings
    predict_request, explain_request = schemas.predict_request(settings), schemas.explain_request(settings)

    @app.post(
        "/v1/predict",
        summary="Answer for texts",
        responses={200: {"model": schemas.PredictAnswer}, **_REFUSALS},
        openapi_extra=_body_of(predict_request),
    )
    async def predict(request: Request) -> Response:
        facts: RequestFacts = request.scope[FACTS]
        given: Any = _validated(predict_request, facts.body)
        model = parts.shelf.find(given.model)
        _note(facts, settings, model, given.texts)
        future = parts.predictions.submit(model.predict, given.texts, facts.presence, settings.request_seconds)
        answers = await _in_time(future, settings)
        parts.measurements.texts(model.name, len(answers))
        return json_response(
            {"model": model.name, "version": model.version, "task": model.task, "predictions": answers}
        )

    @app.post(
        "/v1/explain",
        summary="Say how much each word spoke for a label",
        responses={200: {"model": schemas.ExplainAnswer}, **_REFUSALS, 409: _NOT_SUPPORTED},
        openapi_extra=_body_of(explain_request),
    )
    async def explain(request: Request) -> Response:
        facts: RequestFacts = request.scope[FACTS]
        given: Any = _validated(explain_request, facts.body)
        model = parts.shelf.find(given.model)
        _note(facts, settings, model, [given.text])
        run = functools.partial(explain_texts, model, given.label, given.span, given.method)
        future = parts.explanations.submit(run, [given.text], facts.presence, settings.request_seconds)
        (answer,) = await _in_time(future, settings)
        return json_response({"model": model.name, "version": model.version, "task": model.task, **answer})


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schemas.schema_of(model)}},
        }
    }


def _validated(schema: type[BaseModel], body: bytes) -> BaseModel:
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    place = ascii(place)[1:-1][:80]
    if first["type"] == "json_invalid":
        raise Refusal(
            400, "bad_request", f"The body is not what it should be. {first['msg'][:200]}.", "Send JSON in UTF-8."
        )
    is_text = first["type"] == "string_too_long" and place != "model"
    raise Refusal(
        422,
        "text_too_long" if is_text else "invalid",
        f"{place}: {first['msg']}." if place else f"{first['msg']}.",
        "See /docs.",
        field=place or None,
    )


def _note(facts: RequestFacts, settings: ServingSettings, model: ServedModel, texts: list[str]) -> None:
    facts.model, facts.version = model.name, model.version
    facts.texts, facts.chars = len(texts), sum(map(len, texts))
    if settings.log_texts:
        facts.shown_texts = texts


async def _in_time(future: Awaitable[T], settings: ServingSettings) -> T:
    try:
        async with asyncio.timeout(settings.request_seconds):
            return await future
    except TimeoutError:
        raise Refusal(
            503,
            "timeout",
            f"There was no answer within {settings.request_seconds:g} s (--request-seconds).",
            "Send fewer or shorter texts, or try again later.",
            retry_after=1,
        ) from None


# ---- models --------------------------------------------------------------------------------------------------------


def _add_models(app: FastAPI, parts: Parts) -> None:
    settings = parts.settings
    limits = {
        name: int(getattr(settings, name))
        for name in ("max_body_bytes", "max_texts", "max_text_chars", "max_explained_chars")
    }

    def described(model: ServedModel) -> dict[str, Any]:
        def address(kind: str, content: bytes | None) -> str | None:
            if content is None:
                return None
            path = f"/v1/models/{quote(model.name)}/{kind}"
            return path if parts.keys() is None else f"{path}?ticket={parts.tickets.issue(path)}"

        return {
            "name": model.name,
            "version": model.version,
            "task": model.task,
            "kind": model.kind,
            "labels": list(model.labels),
            "loaded_at": model.loaded_at,
            "parameters": model.parameters,
            "can_explain": can_explain(model),
            "card": address(_CARD, model.card),
            "report": address(_REPORT, model.report),
        }

    @app.get("/v1/models", summary="All models", responses={200: {"model": schemas.ModelsAnswer}, **_REFUSALS})
    async def models() -> Response:
        return json_response({"models": [described(model) for model in parts.shelf], "limits": limits})

    named = {**_REFUSALS}

    @app.get("/v1/models/{name}", summary="One model", responses={200: {"model": schemas.ModelAnswer}, **named})
    async def model(name: str) -> Response:
        return json_response(described(parts.shelf.find(name)))

    @app.get(
        "/v1/models/{name}/card",
        summary="Model card, Markdown",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Markdown."}, **named},
    )
    async def card(name: str) -> Response:
        found = _file_of(parts.shelf.find(name).card, "model card")
        return Response(found, headers=CARD_HEADERS, media_type="text/plain; charset=utf-8")

    @app.get(
        "/v1/models/{name}/report",
        summary="Report of the training, HTML",
        response_class=Response,
        responses={200: {"content": {"text/html": {}}, "description": "A page."}, **named},
    )
    async def report(name: str) -> Response:
        found = _file_of(parts.shelf.find(name).report, "report")
        return Response(found, headers=REPORT_HEADERS, media_type="text/html; charset=utf-8")


def _file_of(content: bytes | None, what: str) -> bytes:
    if content is None:
        raise Refusal(404, "not_found", f"The folder of this model has no {what}.")
    return content


# ---- state and page ------------------------------------------------------------------------------------------------


def _add_state(app: FastAPI, parts: Parts) -> None:
    @app.get("/healthz", summary="Whether the process lives", responses={200: {"model": schemas.StatusAnswer}})
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @app.get(
        "/readyz",
        summary="Whether requests are taken",
        responses={200: {"model": schemas.StatusAnswer}, 503: _REFUSALS[503]},
    )
    async def readyz() -> Response:
        if parts.phase.is_stopping:
            raise Refusal(503, "stopping", "The server is stopping.", retry_after=1)
        return json_response({"status": "ready"})

    @app.get(
        "/metrics",
        summary="Measurements in the text format of Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Text."}, 401: _REFUSALS[401]},
    )
    async def metrics() -> Response:
        return Response(parts.measurements.text(), media_type=CONTENT_TYPE)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return json_response(_document(app, parts))


def _document(app: FastAPI, parts: Parts) -> dict[str, Any]:
    document = get_openapi(
        title="bilstm",
        version=tool_version(),
        summary="Answers and explanations of trained models",
        routes=app.routes,
    )
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    if parts.keys() is not None:
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path in ("/healthz", "/readyz") else [{"key": []}]
    return document


def _add_page(app: FastAPI) -> None:
    files = page_files()

    def sent(request: Request, file: PageFile | None) -> Response:
        if file is None:
            raise Refusal(404, "not_found", "There is nothing at this address.")
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=file.headers)
        return Response(file.content, headers=file.headers)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return sent(request, files.get("index.html"))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return sent(request, files.get("docs.html"))

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:
        return sent(request, files.get("icon.svg"))

    @app.get("/page/{name}", include_in_schema=False)
    async def page(request: Request, name: str) -> Response:
        return sent(request, files.get(name))
