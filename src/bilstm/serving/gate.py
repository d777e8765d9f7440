"""What every request passes before it reaches a route: host, origin, key, size and time; and what every answer gets.

An ASGI application around another. It reads the body within its limits, so that a route never waits for a client, adds
the security headers, counts and logs. Standard library only, beside this package.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bilstm.serving.access_key import ENVIRONMENT_NAME, AccessKeys, Tickets
from bilstm.serving.batching import ClientPresence
from bilstm.serving.json_log import JsonLog
from bilstm.serving.measurements import Measurements
from bilstm.serving.refusal import Refusal
from bilstm.serving.settings import ServingSettings

__all__ = ["FACTS", "PRESENCE", "Gate", "RequestFacts", "ServerPhase", "is_loopback", "path_label"]

FACTS, PRESENCE = "bilstm.facts", "bilstm.presence"  # keys of the ASGI scope
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_OPEN_TO_ALL = re.compile(r"/|/healthz|/readyz|/docs|/page/[a-z.-]+|/favicon\.ico")
_TICKETED = re.compile(r"/v1/models/[^/]+/(?:card|report)")
_LABELS = frozenset({"/", "/v1/predict", "/v1/explain", "/v1/models", "/healthz", "/readyz", "/metrics", "/docs"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ALL_BODIES_BYTES = 64 * 2**20  # that are being read at once, whatever the single limit is
_DRAIN_SECONDS, _DRAIN_BYTES = 2.0, 32 * 2**20
# Of every answer, unless it brings its own.
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]


@dataclass
class ServerPhase:
    """Whether the server still takes requests: stopping, it is not ready; when it listens no more, answers are last."""

    is_stopping: bool = False
    is_closed: bool = False
    in_flight: int = 0
    body_bytes: int = 0


@dataclass
class RequestFacts:
    """What is known about a request; routes add what they learn, the log and the measurements read it."""

    id: str
    presence: ClientPresence
    body: bytes = b""
    status: int = 0
    model: str | None = None
    version: str | None = None
    texts: int | None = None
    chars: int | None = None
    shown_texts: list[str] | None = None
    code: str | None = None


@dataclass
class _Answer:
    """What has been sent so far."""

    is_started: bool = False
    is_body_read: bool = True
    extra: dict[str, str] = field(default_factory=dict)


class Gate:
    """Checks, then hands over.

    Parameters
    ----------
    app : ASGI application
    settings : ServingSettings
    keys : AccessKeys, optional
        None: everybody may do everything.
    tickets : Tickets
    measurements : Measurements
    log : JsonLog
    phase : ServerPhase
    """

    def __init__(
        self,
        app: Any,
        settings: ServingSettings,
        keys: AccessKeys | None,
        tickets: Tickets,
        measurements: Measurements,
        log: JsonLog,
        phase: ServerPhase,
    ):
        self._app, self._settings, self.keys = app, settings, keys
        self._tickets, self._measurements, self._log, self._phase = tickets, measurements, log, phase
        self._hosts = _allowed_hosts(settings)
        self._id_start, self._numbers = secrets.token_hex(4), itertools.count(1)
        self._origins = frozenset(settings.cors_origins or ())

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        start = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given_id = headers.get(b"x-request-id", b"").decode("latin-1")
        facts = RequestFacts(
            given_id if _REQUEST_ID.fullmatch(given_id) else f"{self._id_start}-{next(self._numbers)}",
            scope.get(PRESENCE) or ClientPresence(),
        )
        scope[FACTS] = facts
        answer = _Answer()
        sender = self._sender(send, facts, answer)
        self._phase.in_flight += 1
        try:
            await self._answer(scope, headers, receive, sender, facts, answer)
        except Refusal as refusal:
            await self._refuse(refusal, receive, sender, facts, answer)
        except Exception as error:  # the last place where anything can be answered at all
            trace = traceback.format_exception(error)
            self._log.write("error", "failed", request=facts.id, path=scope["path"], trace="".join(trace))
            if not answer.is_started:
                broken = Refusal(500, "internal", "The server failed; its log says why.", f"Request {facts.id}.")
                await self._refuse(broken, receive, sender, facts, answer)
        finally:
            self._phase.in_flight -= 1
            self._phase.body_bytes -= len(facts.body)
            self._note(scope, facts, time.perf_counter() - start)

    async def _answer(
        self,
        scope: MutableMapping[str, Any],
        headers: dict[bytes, bytes],
        receive: Receive,
        sender: Send,
        facts: RequestFacts,
        answer: _Answer,
    ) -> None:
        has_body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        answer.is_body_read = not has_body
        self._check_host(scope, headers)
        if self._cross_origin(scope, headers, answer):
            await sender({"type": "http.response.start", "status": 204, "headers": []})
            await sender({"type": "http.response.body", "body": b""})
            return
        self._check_key(scope, headers)
        if scope["method"] == "POST":
            self._check_content(headers)
            if has_body:
                await self._read_body(headers, receive, facts)
            answer.is_body_read = True

        async def replay() -> Message:
            return {"type": "http.request", "body": facts.body, "more_body": False}

        await self._app(scope, replay, sender)

    # ---- checks ----------------------------------------------------------------------------------------------------

    def _check_host(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> None:
        """Refuse names that are not ours: a page of a stranger may have pointed its name to this machine."""
        count = sum(name == b"host" for name, _ in scope["headers"])
        if count != 1:
            raise Refusal(400, "bad_request", f"The request has {count} Host headers; it must have one.")
        host = _without_port(headers[b"host"].decode("latin-1").lower())
        if self._hosts is not None and host not in self._hosts:
            raise Refusal(
                403,
                "forbidden_host",
                "The host name of the request is not one of this server's.",
                "Use http://localhost, or start the server with --allowed-hosts.",
            )

    def _cross_origin(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], answer: _Answer) -> bool:
        """Let pages of other origins in only if they are named; return whether this is only a question about that."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or urlsplit(origin).netloc == headers[b"host"].decode("latin-1"):
            return False
        if origin not in self._origins:
            raise Refusal(
                403, "forbidden_origin", "Pages of other origins may not call this server.", "See --cors-origins."
            )
        answer.extra = {"access-control-allow-origin": origin, "vary": "Origin"}
        if scope["method"] != "OPTIONS" or b"access-control-request-method" not in headers:
            return False
        answer.extra["access-control-allow-methods"] = "GET, POST"
        answer.extra["access-control-allow-headers"] = "Authorization, Content-Type, X-API-Key, X-Request-Id"
        answer.extra["access-control-max-age"] = "600"
        return True

    def _check_key(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> None:
        if self.keys is None or _OPEN_TO_ALL.fullmatch(scope["path"]):
            return
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        if self.keys.match(given):
            return
        if scope["method"] == "GET" and _TICKETED.fullmatch(scope["path"]):
            tickets = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8).get("ticket", [])
            if len(tickets) == 1 and self._tickets.accepts(scope["path"], tickets[0]):
                return
        raise Refusal(
            401,
            "unauthorized",
            "The API key is missing or wrong.",
            f"Send it as 'Authorization: Bearer KEY'; the server reads its own from a file or {ENVIRONMENT_NAME}.",
            headers={"WWW-Authenticate": 'Bearer realm="bilstm"'},
        )

    def _check_content(self, headers: dict[bytes, bytes]) -> None:
        kind = headers.get(b"content-type", b"").decode("latin-1")
        media, _, parameters = kind.partition(";")
        charset = parameters.strip().lower()
        if media.strip().lower() != "application/json" or charset not in ("", "charset=utf-8", 'charset="utf-8"'):
            raise Refusal(
                415, "unsupported_media_type", "The body must be JSON.", "Send 'Content-Type: application/json'."
            )
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refusal(415, "unsupported_media_type", "The body must not be compressed.", "Send it as it is.")

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive, facts: RequestFacts) -> None:
        largest = self._settings.max_body_bytes
        announced = int(headers.get(b"content-length", b"0"))
        if announced > largest:
            raise self._too_large()
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        facts.presence.is_gone = True
                        raise Refusal(400, "bad_request", "The client left before its request was whole.")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > largest:
                        raise self._too_large()
                    if self._phase.body_bytes + size > _ALL_BODIES_BYTES:
                        raise Refusal(
                            503, "overloaded", "Too many large requests at once.", "Try again later.", retry_after=1
                        )
                    parts.append(part)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Refusal(
                408,
                "too_slow",
                f"The body did not arrive within {self._settings.body_seconds:g} s (--body-seconds).",
                headers={"Connection": "close"},
            ) from None
        facts.body = b"".join(parts)
        self._phase.body_bytes += size

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "body_too_large",
            f"The body is larger than {self._settings.max_body_bytes:,} bytes (--max-body-bytes).",
            "Send fewer texts at a time.",
        )

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _sender(self, send: Send, facts: RequestFacts, answer: _Answer) -> Send:
        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.is_started = True
                facts.status = message["status"]
                added = [*_HEADERS, (b"x-request-id", facts.id.encode())]
                added += [(name.encode(), value.encode("latin-1")) for name, value in answer.extra.items()]
                if self._phase.is_closed or not answer.is_body_read:
                    added.append((b"connection", b"close"))
                given: list[tuple[bytes, bytes]] = list(message["headers"])
                own = {name for name, _ in given}
                message["headers"] = [*given, *(header for header in added if header[0] not in own)]
            await send(message)

        return sender

    async def _refuse(
        self, refusal: Refusal, receive: Receive, sender: Send, facts: RequestFacts, answer: _Answer
    ) -> None:
        if answer.is_started:
            return
        facts.code = refusal.code
        body = json.dumps(refusal.to_json()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), value.encode("latin-1")) for name, value in refusal.headers.items()),
        ]
        is_body_read = answer.is_body_read or facts.presence.is_gone
        await sender({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await sender({"type": "http.response.body", "body": body, "more_body": not is_body_read})
        if not is_body_read:
            # Closing while a client still writes would reset the connection before it has read why.
            await _drain(receive)
            await sender({"type": "http.response.body", "body": b""})

    def _note(self, scope: MutableMapping[str, Any], facts: RequestFacts, seconds: float) -> None:
        label = path_label(scope["path"])
        self._measurements.request(label, facts.status, seconds)
        if facts.code is not None:
            self._measurements.refused(facts.code)
        if not self._settings.log_requests:
            return
        client = scope.get("client")
        fields = {
            "request": facts.id,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": facts.status,
            "ms": round(seconds * 1000, 2),
            "client": client[0] if client else None,
            "model": facts.model,
            "version": facts.version,
            "texts": facts.texts,
            "chars": facts.chars,
            "code": facts.code,
            "text": facts.shown_texts,
        }
        self._log.write("info", "request", **{name: value for name, value in fields.items() if value is not None})


async def _drain(receive: Receive) -> None:
    size = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while size < _DRAIN_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def path_label(path: str) -> str:
    """Return a path as it is counted: one of a fixed set."""
    if path in _LABELS:
        return path
    if path.startswith("/v1/models/"):
        return "/v1/models/{name}"
    return "/page" if path.startswith("/page/") else "other"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _allowed_hosts(settings: ServingSettings) -> frozenset[str] | None:
    if settings.allowed_hosts is not None:
        return frozenset(host.lower() for host in settings.allowed_hosts)
    if not is_loopback(settings.host):
        return None
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    return frozenset({"localhost", "127.0.0.1", "[::1]", own})


def _without_port(host: str) -> str:
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdigit() else host
