"""Show a training run on standard error: a live bar in a terminal, plain lines anywhere else. Imports `events`, rich.

    epoch  2/20  loss 0.412  dev score 0.8731 (best)  dev loss 0.301  1,234 sequences/s  12.3 s

Standard output stays free for data. With NO_COLOR set the bar is there but has no colours.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Literal, TextIO

from bilstm.training import events
from bilstm.training.events import EpochRow, Event

__all__ = ["ProgressPrinter", "epoch_line"]

_WORTH_TELLING_SECONDS = 1.0  # of a phase that has ended
_QUIET_SECONDS = 10.0  # plain lines inside an epoch come this far apart


class ProgressPrinter:
    """Shows training events; give it to `train` as `progress`, inside a `with` block.

    Parameters
    ----------
    mode : {"auto", "bar", "lines", "silent"}, default="auto"
        "auto" is "bar" in a terminal and "lines" elsewhere (files, pipes, TERM=dumb).
    stream : text file, optional
        Default standard error.
    score_name : str, default="dev score"
        What the development score is, for example "dev accuracy".

    Examples
    --------
    >>> with ProgressPrinter("silent") as progress:
    ...     progress(events.Note("nothing is shown"))
    """

    def __init__(
        self,
        mode: Literal["auto", "bar", "lines", "silent"] = "auto",
        stream: TextIO | None = None,
        score_name: str = "dev score",
    ):
        self.stream = stream if stream is not None else sys.stderr
        if mode == "auto":
            mode = "bar" if self.stream.isatty() and os.environ.get("TERM") != "dumb" else "lines"
        self.mode = mode
        self.score_name = score_name
        self._bar = _Bar(self.stream) if mode == "bar" else None
        self._spoke_at = time.monotonic()
        self._remaining = _Remaining()

    def __enter__(self) -> ProgressPrinter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away; harmless if there is none."""
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self.mode == "silent":
            return
        if isinstance(event, events.EpochDone):
            if self._bar is not None and event.is_best and event.row.dev_score is not None:
                self._bar.best = f"best {event.row.dev_score:.4f}"
            self._say(epoch_line(event.row, event.max_epochs, event.is_best, self.score_name))
        elif isinstance(event, events.Note):
            self._say(event.text)
        elif isinstance(event, events.PhaseStarted):
            self._say(f"{event.name} ...")
        elif isinstance(event, events.PhaseDone):
            if event.seconds >= _WORTH_TELLING_SECONDS:
                self._say(f"{event.name}: {event.seconds:.1f} s")
        elif isinstance(event, events.TrainingEnded):
            self.close()
            self._say(_end_line(event, self.score_name))
        elif self._bar is not None:
            self._bar.show(event)
        elif isinstance(event, events.StepDone):
            left = self._remaining.after(event)
            if time.monotonic() - self._spoke_at >= _QUIET_SECONDS:
                self._say(f"{_step_line(event)}  {left} left at most")

    def _say(self, line: str) -> None:
        self._spoke_at = time.monotonic()
        if self._bar is not None and self._bar.is_shown:
            self._bar.say(line)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()


class _Remaining:
    """Time that a run still takes at most, from the batches since it was first asked; evaluations are counted in."""

    def __init__(self) -> None:
        self._started: tuple[float, int] | None = None

    def after(self, event: events.StepDone) -> str:
        """Return it as m:ss or h:mm:ss; "-:--" at the first batch."""
        done = (event.epoch - 1) * event.batches + event.position
        now = time.monotonic()
        if self._started is None:
            self._started = now, done
        began, first = self._started
        if done == first:
            return "-:--"
        seconds = round((now - began) / (done - first) * (event.max_epochs * event.batches - done))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Bar:
    """The live line of rich: epoch, bar, loss, speed, remaining time of the whole run at most."""

    def __init__(self, stream: TextIO):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[note]}"),
            console=Console(file=stream, no_color="NO_COLOR" in os.environ or None),
            transient=True,
            refresh_per_second=4,
        )
        self._task: object = None
        self.best = ""
        self.is_shown = False
        self._remaining = _Remaining()

    def show(self, event: Event) -> None:
        if isinstance(event, events.EpochStarted):
            if not self.is_shown:
                self._progress.start()
                self.is_shown = True
            if self._task is not None:
                self._progress.remove_task(self._task)  # type: ignore[arg-type]
            name = f"epoch {event.epoch}/{event.max_epochs}"
            self._task = self._progress.add_task(name, total=event.batches, completed=event.position, note="")
        elif isinstance(event, events.StepDone):
            left = self._remaining.after(event)
            note = f"loss {event.loss:.4f}  {event.sequences_per_second:,.0f}/s  {left} left  {self.best}"
            self._update(completed=event.position, note=note)
        elif isinstance(event, events.EvaluationStarted):
            self._update(note="scoring the development part")
        elif isinstance(event, events.CheckpointStarted):
            self._update(note="saving a checkpoint")

    def _update(self, **fields: object) -> None:
        if self._task is not None:
            self._progress.update(self._task, **fields)  # type: ignore[arg-type]

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self.is_shown:
            self._progress.stop()
            self.is_shown = False


def epoch_line(row: EpochRow, max_epochs: int, is_best: bool, score_name: str = "dev score") -> str:
    """Write an epoch as one plain line."""
    parts = [f"epoch {row.epoch:>{len(str(max_epochs))}}/{max_epochs}", f"loss {row.train_loss:.4f}"]
    if row.train_score is not None:
        parts.append(f"train score {row.train_score:.4f}")
    if row.dev_score is not None:
        parts.append(f"{score_name} {row.dev_score:.4f}{' (best)' if is_best else ''}")
    if row.dev_loss is not None:
        parts.append(f"dev loss {row.dev_loss:.4f}")
    parts += [f"{row.sequences_per_second:,.0f} sequences/s", f"{row.seconds:.1f} s"]
    return "  ".join(parts)


def _step_line(event: events.StepDone) -> str:
    share = event.position / event.batches
    return (
        f"epoch {event.epoch}/{event.max_epochs}  {share:.0%}  loss {event.loss:.4f}  "
        f"{event.sequences_per_second:,.0f} sequences/s"
    )


def _end_line(event: events.TrainingEnded, score_name: str) -> str:
    reasons = {
        "finished": "all epochs are done",
        "no gain": "the score no longer rose",
        "interrupted": "Ctrl-C",
        "stopped": "asked to stop",
        "diverged": "the numbers are no longer finite",
    }
    kept = "the last weights are kept"
    if event.best_epoch:
        score = "" if event.best_score is None else f" ({score_name} {event.best_score:.4f})"
        kept = f"the weights of epoch {event.best_epoch}{score} are kept"
    return f"training ended after {event.seconds:.1f} s ({reasons[event.stopped_because]}); {kept}"
