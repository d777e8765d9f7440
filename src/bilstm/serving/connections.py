"""Connections with deadlines: clients that are slow, silent or greedy are closed, those that leave are noticed.

uvicorn's protocol waits for ever for the head of a request, holds a head of any size, and of a client that sends
requests without waiting for answers takes as many as it sends. Imports uvicorn.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bilstm.serving.batching import ClientPresence
from bilstm.serving.gate import PRESENCE
from bilstm.serving.refusal import Refusal

__all__ = ["ConnectionLimits", "limited_protocol"]


_SLICE_BYTES = 4096  # parsed at once: bounds how many requests one slice can hold


class ConnectionLimits:
    """Bounds of connections; one object for all of a server.

    Parameters
    ----------
    connections : int
    header_seconds : float
        From the first byte that may begin a request, or the connection, to the end of its head.
    header_bytes : int
    response_seconds : float
        From the head of a request to the end of its answer, the time for a slow reader included.
    """

    def __init__(self, connections: int, header_seconds: float, header_bytes: int, response_seconds: float):
        self.connections, self.header_seconds = connections, header_seconds
        self.header_bytes, self.response_seconds = header_bytes, response_seconds


def limited_protocol(limits: ConnectionLimits) -> type[HttpToolsProtocol]:
    """Make the protocol class for uvicorn."""

    class LimitedProtocol(HttpToolsProtocol):
        _head_timer: asyncio.TimerHandle | None = None
        _answer_timer: asyncio.TimerHandle | None = None
        _head_bytes = 0
        _head_is_complete = _is_in_head = False
        _unparsed = b""
        _is_full = False  # a request waits for the answer to the one before it: nothing is parsed, nothing is read
        _presence: ClientPresence | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._refuse(Refusal(503, "connection_limit", "Too many connections.", retry_after=1))
                return
            resume = self.flow.resume_reading
            self.flow.resume_reading = lambda: None if self._is_full else resume()  # type: ignore[method-assign]
            self._head_timer = self.loop.call_later(limits.header_seconds, self._head_is_late)

        def data_received(self, data: bytes) -> None:
            self._unparsed += data
            self._parse()

        def _parse(self) -> None:
            """Parse what has come until a request must wait for another one's answer."""
            at = 0
            while at < len(self._unparsed) and not self.pipeline and not self.transport.is_closing():
                self._parse_slice(self._unparsed[at : at + _SLICE_BYTES])
                at += _SLICE_BYTES
            self._unparsed = b"" if self.transport.is_closing() else self._unparsed[at:]
            was_full, self._is_full = self._is_full, bool(self._unparsed or self.pipeline)
            if self._is_full:
                self.flow.pause_reading()
            elif was_full:
                self.flow.resume_reading()

        def _parse_slice(self, data: bytes) -> None:
            is_between = self.cycle is None or self.cycle.response_complete
            if is_between and self._head_timer is None:
                self._head_timer = self.loop.call_later(limits.header_seconds, self._head_is_late)
            self._head_is_complete = False
            super().data_received(data)
            if self._head_is_complete:
                self._head_bytes = len(data) if self._is_in_head else 0
            elif self._is_in_head or is_between:
                self._head_bytes += len(data)
            else:
                self._head_bytes = 0
            if self._head_bytes > limits.header_bytes and not self.transport.is_closing():
                message = f"The head of the request is larger than {limits.header_bytes:,} bytes."
                self._refuse(Refusal(431, "header_too_large", message))

        def on_message_begin(self) -> None:
            self._is_in_head = True
            super().on_message_begin()
            self._presence = ClientPresence()
            self.scope[PRESENCE] = self._presence  # type: ignore[typeddict-unknown-key]

        def on_headers_complete(self) -> None:
            self._head_is_complete, self._is_in_head = True, False
            self._stop_head_timer()
            if sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url) > limits.header_bytes:
                message = f"The head of the request is larger than {limits.header_bytes:,} bytes."
                self._refuse(Refusal(431, "header_too_large", message))
                raise ValueError(message)  # ends the parsing; the connection is closing
            super().on_headers_complete()
            if self._answer_timer is None:
                self._answer_timer = self.loop.call_later(limits.response_seconds, self._answer_is_late)

        def on_response_complete(self) -> None:
            self._stop_answer_timer()
            super().on_response_complete()
            if self.pipeline or not self.cycle.response_complete:
                self._answer_timer = self.loop.call_later(limits.response_seconds, self._answer_is_late)
            if self._is_full:
                self.loop.call_soon(self._parse)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_head_timer()
            self._stop_answer_timer()
            self._unparsed = b""
            if self._presence is not None:
                self._presence.is_gone = True
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            if not self.transport.is_closing():
                self._refuse(Refusal(400, "bad_request", "The request is not valid HTTP."))

        @property
        def is_idle(self) -> bool:
            """Whether no request is under way."""
            return (self.cycle is None or self.cycle.response_complete) and not self._unparsed

        def _refuse(self, refusal: Refusal) -> None:
            body = json.dumps(refusal.to_json()).encode()
            phrases = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
            head = [
                f"HTTP/1.1 {refusal.status} {phrases.get(refusal.status, 'Service Unavailable')}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "connection: close",
                *(f"{name.lower()}: {value}" for name, value in refusal.headers.items()),
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
            self.transport.close()

        def _head_is_late(self) -> None:
            self._head_timer = None
            if self.transport.is_closing():
                return
            if self._head_bytes:
                self._refuse(Refusal(408, "too_slow", "The head of the request did not arrive in time."))
            else:
                self.transport.close()

        def _answer_is_late(self) -> None:
            self._answer_timer = None
            self.transport.abort()

        def _stop_head_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _stop_answer_timer(self) -> None:
            if self._answer_timer is not None:
                self._answer_timer.cancel()
                self._answer_timer = None

    return LimitedProtocol
