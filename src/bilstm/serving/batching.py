"""Requests that wait together are run together: fewer, larger calls of the model, the same answers.

A thread takes what waits for one model, oldest first, until the batch is full (texts, steps) or its oldest request has
waited for `batch_ms`. A request that is alone is run at once. What is left when nobody waits for it any more, because
the client has gone or its time is over, is never run. Answers do not depend on what else is in the batch, so joining
changes nothing but speed. Standard library only.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bilstm.serving.refusal import Refusal

__all__ = ["BatchLimits", "Batcher", "ClientPresence", "Work", "rough_steps"]

CHARACTERS_A_STEP = 4  # fewer than words of any language written with spaces have on the average


@dataclass
class ClientPresence:
    """Whether the client of a request is still there; set by the protocol."""

    is_gone: bool = False


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of a batch and of the queue.

    Parameters
    ----------
    texts, steps : int
        Of a batch; one larger request forms its own batch.
    wait_ms : float
        How long a batch may wait for more.
    waiting, waiting_chars : int
        Requests and characters that may wait.
    """

    texts: int
    steps: int
    wait_ms: float
    waiting: int
    waiting_chars: int


class Runs(Protocol):
    """What can run a batch."""

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        """Answer for texts, in their order."""
        ...


@dataclass(eq=False)
class Work:
    """A request that waits."""

    run: Runs
    texts: Sequence[str]
    future: asyncio.Future[list[Any]]
    presence: ClientPresence
    deadline: float
    since: float
    steps: int
    chars: int


@dataclass(frozen=True)
class BatchReport:
    """What the thread did, for measurements."""

    requests: int
    texts: int
    seconds: float
    waited: list[float] = field(default_factory=list)


class Batcher:
    """A queue and the thread that empties it.

    Parameters
    ----------
    name : str
        Of the thread.
    limits : BatchLimits
    loop : asyncio loop
        On which `submit` is called and answers arrive.
    report : callable, optional
        Receives a BatchReport after every batch, on the loop.
    """

    def __init__(
        self,
        name: str,
        limits: BatchLimits,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[BatchReport], None] | None = None,
    ):
        self._limits, self._loop, self._report = limits, loop, report
        self._queues: dict[Runs, deque[Work]] = {}
        self._changed = threading.Condition()
        self._waiting = self._waiting_chars = 0
        self._is_busy = self._was_joined = self._is_stopping = False
        self._texts_a_second = 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._waiting

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        with self._changed:
            return not self._waiting and not self._is_busy

    def submit(
        self, run: Runs, texts: Sequence[str], presence: ClientPresence, seconds: float
    ) -> asyncio.Future[list[Any]]:
        """Queue texts; the future holds their answers.

        Raises
        ------
        Refusal
            503 if too much waits already, or the server stops.
        """
        chars = sum(map(len, texts))
        now = time.monotonic()
        work = Work(
            run, texts, self._loop.create_future(), presence, now + seconds, now, sum(map(rough_steps, texts)), chars
        )
        with self._changed:
            if self._is_stopping:
                raise Refusal(503, "stopping", "The server is stopping.", "Try again.", retry_after=1)
            is_full = self._waiting >= self._limits.waiting
            if is_full or (self._waiting and self._waiting_chars + chars > self._limits.waiting_chars):
                raise Refusal(
                    503,
                    "overloaded",
                    f"{self._waiting} requests wait already; that is all that may wait.",
                    "Try again later.",
                    retry_after=self._seconds_of_queue(),
                )
            self._queues.setdefault(run, deque()).append(work)
            self._waiting += 1
            self._waiting_chars += chars
            self._changed.notify()
        return work.future

    def stop(self) -> None:
        """Run what waits, then end the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    def _seconds_of_queue(self) -> int:
        texts = sum(len(work.texts) for queue in self._queues.values() for work in queue)
        return min(max(1, round(texts / self._texts_a_second)) if self._texts_a_second else 1, 60)

    # ---- the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                while not self._waiting and not self._is_stopping:
                    self._changed.wait()
                if not self._waiting:
                    return
                self._is_busy = True
                run = min(self._queues, key=lambda each: self._queues[each][0].since)
                self._let_it_fill(run)
                batch = self._take(run)
            expired = self._leave_out(batch)
            if batch:
                self._run(run, batch)
            if expired:
                self._deliver([(work, _too_late(work)) for work in expired])

    def _let_it_fill(self, run: Runs) -> None:
        """Wait for more, unless the last batch shows that there is one client only."""
        end = self._queues[run][0].since + self._limits.wait_ms / 1000
        while (self._was_joined or self._waiting > 1) and not self._is_stopping:
            queue = self._queues[run]
            is_full = (
                sum(len(work.texts) for work in queue) >= self._limits.texts
                or sum(work.steps for work in queue) >= self._limits.steps
            )
            left = end - time.monotonic()
            if is_full or left <= 0:
                return
            self._changed.wait(left)

    def _take(self, run: Runs) -> list[Work]:
        queue = self._queues[run]
        batch: list[Work] = []
        texts = steps = 0
        while queue:
            work = queue[0]
            if batch and (texts + len(work.texts) > self._limits.texts or steps + work.steps > self._limits.steps):
                break
            batch.append(queue.popleft())
            texts, steps = texts + len(work.texts), steps + work.steps
            self._waiting_chars -= work.chars
        if not queue:
            del self._queues[run]  # models that were replaced must not be kept alive
        self._waiting -= len(batch)
        self._was_joined = len(batch) > 1
        return batch

    def _leave_out(self, batch: list[Work]) -> list[Work]:
        """Remove what nobody waits for; return what is too late, which gets an answer that says so."""
        now = time.monotonic()
        expired = [work for work in batch if work.deadline <= now and not work.presence.is_gone]
        batch[:] = [work for work in batch if work.deadline > now and not work.presence.is_gone]
        return expired

    def _run(self, run: Runs, batch: list[Work]) -> None:
        start = time.monotonic()
        results: list[tuple[Work, Any]]
        try:
            answers = iter(run([text for work in batch for text in work.texts]))
            results = [(work, [next(answers) for _ in work.texts]) for work in batch]
        except Exception as error:  # whatever went wrong, the clients must hear of it and the thread must live
            if len(batch) > 1:  # one text must not spoil the answers to others
                for work in batch:
                    self._run(run, [work])
                return
            results = [(batch[0], error)]
        seconds = time.monotonic() - start
        texts = sum(len(work.texts) for work in batch)
        rate = texts / max(seconds, 1e-6)
        self._texts_a_second = 0.9 * self._texts_a_second + 0.1 * rate if self._texts_a_second else rate
        self._deliver(results, BatchReport(len(batch), texts, seconds, [start - work.since for work in batch]))

    def _deliver(self, results: list[tuple[Work, Any]], report: BatchReport | None = None) -> None:
        """Hand results to the loop: one wake-up for a whole batch."""

        def set_results() -> None:
            for work, result in results:
                if work.future.done():  # the request was given up
                    continue
                if isinstance(result, BaseException):
                    work.future.set_exception(result)
                else:
                    work.future.set_result(result)
            if report is not None and self._report is not None:
                self._report(report)

        self._loop.call_soon_threadsafe(set_results)


def _too_late(work: Work) -> Refusal:
    waited = time.monotonic() - work.since
    return Refusal(
        503, "timeout", f"The request waited {waited:.1f} s without being run.", "Try again later.", retry_after=1
    )


def rough_steps(text: str) -> int:
    """Count steps without cutting a text into tokens: never far below the truth for words of any script."""
    if text.isascii():
        return max(text.count(" ") + 1, -(-len(text) // CHARACTERS_A_STEP))
    return len(text)
