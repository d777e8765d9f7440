"""Show a training run on standard error: a live bar in a terminal, plain lines anywhere else. Imports `events`, rich.

    epoch  2/20  loss 0.412  dev score 0.8731 (best)  dev loss 0.301  1,234 sequences/s  12.3 s

Standard output stays free for data. With NO_COLOR set the bar is there but has no colours.
"""

from __future__ import annotations

import math
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
    rows_name : str, default="sequences"
        What the rows of a batch are, for example "words".
    is_perplexity : bool, default=False
        The loss is the mean surprise of a word, in nats: show its exponential, the perplexity, in its place and in
        that of the score.

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
        rows_name: str = "sequences",
        is_perplexity: bool = False,
    ):
        self.stream = stream if stream is not None else sys.stderr
        if mode == "auto":
            mode = "bar" if self.stream.isatty() and os.environ.get("TERM") != "dumb" else "lines"
        self.mode = mode
        self.score_name = score_name
        self.rows_name, self.is_perplexity = rows_name, is_perplexity
        self._bar = _Bar(self.stream, rows_name, is_perplexity) if mode == "bar" else None
        self._spoke_at = time.monotonic()
        self._remaining = _Remaining()
        self._phase_remaining = _Remaining()

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
                self._bar.best = f"best {_score_text(event.row.dev_score, self.is_perplexity)}"
            names = (self.score_name, self.rows_name, self.is_perplexity)
            self._say(epoch_line(event.row, event.max_epochs, event.is_best, *names))
        elif isinstance(event, events.Note):
            self._say(event.text)
        elif isinstance(event, events.PhaseStarted):
            self._phase_remaining = _Remaining()
            self._say(f"{event.name} ...")
        elif isinstance(event, events.PhaseAdvanced):
            self._show_advance(event)
        elif isinstance(event, events.PhaseDone):
            if self._bar is not None:
                self._bar.end_phase()
            if event.seconds >= _WORTH_TELLING_SECONDS:
                self._say(f"{event.name}: {event.seconds:.1f} s")
        elif isinstance(event, events.TrainingEnded):
            self.close()
            self._say(_end_line(event, self.score_name, self.is_perplexity))
        elif self._bar is not None:
            self._bar.show(event)
        elif isinstance(event, events.StepDone):
            left = self._remaining.of_run(event)
            if time.monotonic() - self._spoke_at >= _QUIET_SECONDS:
                self._say(f"{_step_line(event, self.rows_name, self.is_perplexity)}  {left} left at most")

    def _show_advance(self, event: events.PhaseAdvanced) -> None:
        left = self._phase_remaining.after(event.done, event.total)
        if self._bar is not None:
            self._bar.show_advance(event, left)
        elif time.monotonic() - self._spoke_at >= _QUIET_SECONDS:
            self._say(f"{event.name}  {event.done / max(event.total, 1):.0%}  {left} left")

    def _say(self, line: str) -> None:
        self._spoke_at = time.monotonic()
        if self._bar is not None and self._bar.is_shown:
            self._bar.say(line)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()


class _Remaining:
    """Time that a piece of work still takes, from its speed since this was first asked."""

    def __init__(self) -> None:
        self._started: tuple[float, int] | None = None
        self._last = 0

    def of_run(self, event: events.StepDone) -> str:
        """Return what the run still takes at most; evaluations are counted in."""
        done = (event.epoch - 1) * event.batches + event.position
        return self.after(done, event.max_epochs * event.batches)

    def after(self, done: int, total: int) -> str:
        """Return it as m:ss or h:mm:ss; "-:--" when it is first asked."""
        now = time.monotonic()
        if self._started is None or done < self._last:  # another piece of work: a comparison trains one after the other
            self._started = now, done
        self._last = done
        began, first = self._started
        if done == first:
            return "-:--"
        seconds = round((now - began) / (done - first) * (total - done))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Bar:
    """The live line of rich: epoch, bar, loss, speed, remaining time of the whole run at most."""

    def __init__(self, stream: TextIO, rows_name: str, is_perplexity: bool):
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
        self._unit = "/s" if rows_name == "sequences" else f" {rows_name}/s"
        self._is_perplexity = is_perplexity
        self._is_phase = False
        self.best = ""
        self.is_shown = False
        self._remaining = _Remaining()

    def show(self, event: Event) -> None:
        if isinstance(event, events.EpochStarted):
            self._begin(f"epoch {event.epoch}/{event.max_epochs}", event.batches, event.position)
        elif isinstance(event, events.StepDone):
            left = self._remaining.of_run(event)
            loss = _loss_text(event.loss, self._is_perplexity)
            note = f"{loss}  {event.sequences_per_second:,.0f}{self._unit}  {left} left  {self.best}"
            self._update(completed=event.position, note=note)
        elif isinstance(event, events.EvaluationStarted):
            self._update(note="scoring the development part")
        elif isinstance(event, events.CheckpointStarted):
            self._update(note="saving a checkpoint")

    def show_advance(self, event: events.PhaseAdvanced, left: str) -> None:
        """Show how far a phase is, in hundredths: words by the million are nothing to read."""
        if not self._is_phase:
            self._begin(event.name, 100, 0)
            self._is_phase = True
        self._update(completed=100 * event.done // max(event.total, 1), note=f"{left} left")

    def end_phase(self) -> None:
        """Take the bar of a phase away."""
        if self._is_phase:
            self.close()

    def _begin(self, name: str, total: int, completed: int) -> None:
        self._is_phase = False
        if not self.is_shown:
            self._progress.start()
            self.is_shown = True
        if self._task is not None:
            self._progress.remove_task(self._task)  # type: ignore[arg-type]
        self._task = self._progress.add_task(name, total=total, completed=completed, note="")

    def _update(self, **fields: object) -> None:
        if self._task is not None:
            self._progress.update(self._task, **fields)  # type: ignore[arg-type]

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self.is_shown:
            self._progress.stop()
            self.is_shown = False
            self._is_phase = False


def _loss_text(loss: float, is_perplexity: bool) -> str:
    return f"perplexity {math.exp(min(loss, 700.0)):,.1f}" if is_perplexity else f"loss {loss:.4f}"


def _score_text(score: float, is_perplexity: bool) -> str:
    return f"{math.exp(min(-score, 700.0)):,.1f}" if is_perplexity else f"{score:.4f}"


def epoch_line(
    row: EpochRow,
    max_epochs: int,
    is_best: bool,
    score_name: str = "dev score",
    rows_name: str = "sequences",
    is_perplexity: bool = False,
) -> str:
    """Write an epoch as one plain line; the last three as `ProgressPrinter` has them."""
    parts = [f"epoch {row.epoch:>{len(str(max_epochs))}}/{max_epochs}", _loss_text(row.train_loss, is_perplexity)]
    if row.train_score is not None:
        parts.append(f"train score {row.train_score:.4f}")
    if row.dev_score is not None:
        parts.append(f"{score_name} {_score_text(row.dev_score, is_perplexity)}{' (best)' if is_best else ''}")
    if row.dev_loss is not None and not is_perplexity:
        parts.append(f"dev loss {row.dev_loss:.4f}")
    parts += [f"{row.sequences_per_second:,.0f} {rows_name}/s", f"{row.seconds:.1f} s"]
    return "  ".join(parts)


def _step_line(event: events.StepDone, rows_name: str, is_perplexity: bool) -> str:
    share = event.position / event.batches
    return (
        f"epoch {event.epoch}/{event.max_epochs}  {share:.0%}  {_loss_text(event.loss, is_perplexity)}  "
        f"{event.sequences_per_second:,.0f} {rows_name}/s"
    )


def _end_line(event: events.TrainingEnded, score_name: str, is_perplexity: bool) -> str:
    reasons = {
        "finished": "all epochs are done",
        "no gain": "the score no longer rose",
        "interrupted": "Ctrl-C",
        "stopped": "asked to stop",
        "diverged": "the numbers are no longer finite",
    }
    kept = "the last weights are kept"
    if event.best_epoch:
        score = "" if event.best_score is None else f" ({score_name} {_score_text(event.best_score, is_perplexity)})"
        kept = f"the weights of epoch {event.best_epoch}{score} are kept"
    return f"training ended after {event.seconds:.1f} s ({reasons[event.stopped_because]}); {kept}"
