"""What `/metrics` tells: counts, times and sizes in the text format of Prometheus. Imports prometheus_client."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from bilstm.serving.batching import BatchReport

__all__ = ["CONTENT_TYPE", "Measurements"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measurements:
    """Own registry, so that several servers may live in one process (in tests)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter("bilstm_requests", "Requests.", ["path", "status"], registry=self.registry)
        self._seconds = Histogram(
            "bilstm_request_seconds", "Time from head to answer.", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self._refused = Counter("bilstm_refused", "Requests refused, by code.", ["code"], registry=self.registry)
        self._texts = Counter("bilstm_texts", "Texts answered for.", ["model"], registry=self.registry)
        self._batch_requests = Histogram(
            "bilstm_batch_requests", "Requests joined in a batch.", buckets=_COUNTS, registry=self.registry
        )
        self._batch_texts = Histogram(
            "bilstm_batch_texts", "Texts of a batch.", buckets=_COUNTS, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "bilstm_batch_seconds", "Time a batch ran.", buckets=_SECONDS, registry=self.registry
        )
        self._waited = Histogram(
            "bilstm_waiting_seconds", "Time a request waited for its batch.", buckets=_SECONDS, registry=self.registry
        )
        self._reloads = Counter(
            "bilstm_model_reloads", "Models read again, by outcome.", ["model", "outcome"], registry=self.registry
        )
        self._in_flight = Gauge("bilstm_in_flight", "Requests under way.", registry=self.registry)
        self._waiting = Gauge("bilstm_waiting", "Requests that wait for a batch.", registry=self.registry)
        self._connections = Gauge("bilstm_connections", "Open connections.", registry=self.registry)

    def watch(
        self, in_flight: Callable[[], float], waiting: Callable[[], float], connections: Callable[[], float]
    ) -> None:
        """Say where the state of the moment is read when somebody asks."""
        self._in_flight.set_function(in_flight)
        self._waiting.set_function(waiting)
        self._connections.set_function(connections)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; `path` is one of a fixed set, so that strangers cannot make new series."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def refused(self, code: str) -> None:
        """Count a refusal."""
        self._refused.labels(code).inc()

    def texts(self, model: str, count: int) -> None:
        """Count texts that were answered for."""
        self._texts.labels(model).inc(count)

    def batch(self, report: BatchReport) -> None:
        """Count a batch."""
        self._batch_requests.observe(report.requests)
        self._batch_texts.observe(report.texts)
        self._batch_seconds.observe(report.seconds)
        for seconds in report.waited:
            self._waited.observe(seconds)

    def reloaded(self, model: str, is_done: bool) -> None:
        """Count a model that was read again, or could not be."""
        self._reloads.labels(model, "done" if is_done else "failed").inc()

    def text(self) -> bytes:
        """Return all of it in the text format."""
        return generate_latest(self.registry)
