"""The server as a process: reads models, listens, exchanges models, and stops without losing a request.

Stopping: no more is accepted; connections that are open may still send what they were about to, and every answer says
that it is the last one; what is in flight is finished; then the process ends with code 0. Imports uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from bilstm.errors import BilstmError, OutputError, UsageError
from bilstm.serving.access_key import ENVIRONMENT_NAME, AccessKeys, Tickets, read_keys
from bilstm.serving.batching import Batcher, BatchLimits
from bilstm.serving.connections import ConnectionLimits, limited_protocol
from bilstm.serving.gate import Gate, ServerPhase, is_loopback
from bilstm.serving.json_log import JsonLog, route_library_logs
from bilstm.serving.long_lived import release, set_aside
from bilstm.serving.measurements import Measurements
from bilstm.serving.model_shelf import ModelShelf
from bilstm.serving.routes import Parts, build_app
from bilstm.serving.served_model import ServedModel
from bilstm.serving.settings import ServingSettings

__all__ = ["Server", "serve"]

_HEADER_BYTES = 16_384
_LINGER_SECONDS = 0.5  # in which an open connection may bring a request that was on its way
_ACCEPT_SECONDS = 0.1  # for the loop to take what waits to be accepted
_BACKLOG = 1024


def serve(
    folders: dict[str, Path],
    settings: ServingSettings,
    *,
    key_file: str | None = None,
    backend: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
    log: JsonLog | None = None,
) -> None:
    """Serve models until SIGTERM or SIGINT; a second one stops at once.

    Parameters
    ----------
    folders : dict of str to Path
        Model folders by name; the first one answers where a request names none.
    settings : ServingSettings
    key_file : path, optional
        API keys, one a line; read again on SIGHUP. Without it the environment variable BILSTM_API_KEY counts.
    backend, precision, threads
        As `bilstm.load`.
    log : JsonLog, optional

    Raises
    ------
    UsageError
        If the address may be reached from other machines and there is no key.
    OutputError
        If the address cannot be listened on.
    BilstmError
        If a model or the key file cannot be read.
    """
    keys = read_keys(key_file)
    _check_address(settings, keys)
    log = log or JsonLog()
    route_library_logs(log)
    if keys is None and not is_loopback(settings.host):
        log.write("warning", "open", message=f"{settings.host} can be reached from other machines, without a key.")
    listener = _listener(settings)
    try:
        shelf = ModelShelf(folders, backend=backend, precision=precision, threads=threads)
    except BilstmError:
        listener.close()
        raise
    server = Server(shelf, settings, keys, log, key_file)
    server.run([listener])
    if server.was_forced:
        sys.stderr.flush()
        os._exit(1)  # the engine may still run in a thread: Python must not clear up under it


def _check_address(settings: ServingSettings, keys: AccessKeys | None) -> None:
    if is_loopback(settings.host) or keys is not None or settings.without_key:
        return
    raise UsageError(
        f"--host {settings.host} can be reached from other machines, and there is no API key.",
        f"Give --api-key-file FILE or set {ENVIRONMENT_NAME}; --without-key yes serves everybody.",
    )


def _listener(settings: ServingSettings) -> socket.socket:
    """Open the port before models are read, so that a port in use is said at once."""
    host = settings.host.strip("[]")
    listener = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"{settings.host}:{settings.port} cannot be listened on: {reason}.", "Choose another --port or --host."
        ) from error
    return listener


class Server(uvicorn.Server):
    """The HTTP server around a shelf of models.

    Parameters
    ----------
    shelf : ModelShelf
    settings : ServingSettings
    keys : AccessKeys or None
    log : JsonLog
    key_file : path, optional
        Read again on SIGHUP.
    """

    def __init__(
        self,
        shelf: ModelShelf,
        settings: ServingSettings,
        keys: AccessKeys | None,
        log: JsonLog,
        key_file: str | None = None,
    ):
        self._shelf, self._settings, self._keys, self._log, self._key_file = shelf, settings, keys, log, key_file
        self._phase = ServerPhase()
        self._measurements = Measurements()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._batchers: list[Batcher] = []
        self._gate: Gate | None = None
        self.was_forced = False
        limits = ConnectionLimits(
            settings.max_connections,
            settings.header_seconds,
            _HEADER_BYTES,
            settings.header_seconds + settings.body_seconds + settings.request_seconds + 30.0,
        )
        super().__init__(
            uvicorn.Config(
                self._answer,
                http=limited_protocol(limits),
                ws="none",
                lifespan="off",
                loop="uvloop" if _has_uvloop() else "asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=settings.idle_seconds,  # type: ignore[arg-type]  # seconds of any kind
                interface="asgi3",
            )
        )

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        assert self._gate is not None  # made before the first connection
        await self._gate(scope, receive, send)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until told to stop."""
        loop = asyncio.get_running_loop()
        settings = self._settings
        limits = BatchLimits(
            settings.batch_texts,
            settings.batch_steps,
            settings.batch_ms,
            settings.max_waiting,
            settings.max_waiting_chars,
        )
        single = BatchLimits(1, 1, 0.0, settings.max_waiting, settings.max_waiting_chars)
        predictions = Batcher("predictions", limits, loop, self._measurements.batch)
        explanations = Batcher("explanations", single, loop)
        self._batchers = [predictions, explanations]
        tickets = Tickets()
        parts = Parts(
            settings,
            self._shelf,
            predictions,
            explanations,
            self._measurements,
            self._phase,
            tickets,
            lambda: self._keys,
        )
        self._gate = Gate(build_app(parts), settings, self._keys, tickets, self._measurements, self._log, self._phase)
        self._measurements.watch(
            lambda: self._phase.in_flight,
            lambda: predictions.waiting + explanations.waiting,
            lambda: len(self.server_state.connections),
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload)
        watcher = asyncio.create_task(self._watch_folders())
        try:
            await self._serve(sockets)
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
            release()
            if not self.was_forced:
                for batcher in self._batchers:
                    await asyncio.to_thread(batcher.stop)
            self._log.write("info", "stopped", in_flight=self._phase.in_flight)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets)
        set_aside()
        host, port = (sockets or [])[0].getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        models = {model.name: model.version for model in self._shelf}
        self._log.write("info", "ready", address=address, models=models, process=os.getpid())
        if sys.stderr.isatty():
            sys.stderr.write(f"Open {address} in a browser. Ctrl-C stops.\n")

    # ---- models ----------------------------------------------------------------------------------------------------

    def _told_to_reload(self) -> None:
        task = asyncio.create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        if self._key_file is not None:
            try:
                self._keys = read_keys(self._key_file)
                assert self._gate is not None
                self._gate.keys = self._keys
            except BilstmError as error:
                self._log.write("error", "key_not_read", message=str(error))
        await self._shelf.reload(self._tell_of_model, only_changed=False)

    def _tell_of_model(self, model: ServedModel, error: BilstmError | None) -> None:
        self._measurements.reloaded(model.name, error is None)
        if error is None:
            set_aside()
            self._log.write("info", "model_read", model=model.name, version=model.version)
        else:
            self._log.write("error", "model_not_read", model=model.name, kept=model.version, message=str(error))

    async def _watch_folders(self) -> None:
        if self._settings.watch_seconds is None:
            return
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            await self._shelf.reload(self._tell_of_model, only_changed=True)

    # ---- stopping --------------------------------------------------------------------------------------------------

    def _told_to_stop(self) -> None:
        if self.should_exit:
            self._log.write("warning", "forced", in_flight=self._phase.in_flight)
            self.force_exit = self.was_forced = True
            return
        self._log.write("info", "stopping", in_flight=self._phase.in_flight)
        self._phase.is_stopping = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.stop_seconds
        # Connections that the system has taken for us already are ours to answer: let no more of them wait, take those
        # that do, then close. Only now are clients told to come back on a new connection, which they will not get here.
        for listener in sockets or []:
            listener.listen(0)
        await asyncio.sleep(_ACCEPT_SECONDS)
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self._phase.is_closed = True
        linger_end = loop.time() + _LINGER_SECONDS
        while not self.force_exit and loop.time() < end:
            connections: list[Any] = list(self.server_state.connections)
            if loop.time() >= linger_end:
                for connection in connections:
                    if connection.is_idle:
                        connection.transport.close()
            if not connections and not self.server_state.tasks:
                return
            await asyncio.sleep(0.02)
        left = list(self.server_state.connections)
        if left:
            self._log.write("warning", "cut_off", connections=len(left))
        for connection in left:
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.sleep(0)


def _has_uvloop() -> bool:
    from importlib.util import find_spec

    return find_spec("uvloop") is not None
