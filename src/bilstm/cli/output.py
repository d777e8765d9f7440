"""What the command line prints: one JSON object or lines on standard output, notes and errors on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from bilstm.errors import WriteFailedError

__all__ = [
    "abandon_output",
    "colours_are_welcome",
    "flush_output",
    "note",
    "print_error",
    "print_json",
    "print_line",
    "print_table",
    "write_output",
]


def write_output(text: str) -> None:
    """Write to standard output.

    Raises
    ------
    WriteFailedError
        If that fails, for example on a full disk.
    BrokenPipeError
        If nobody reads it any more.
    """
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_output()
        raise WriteFailedError(f"standard output: cannot be written: {error.strerror}.") from error


def flush_output() -> None:
    """Hand over what was written; errors as `write_output`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_output()
        raise WriteFailedError(f"standard output: cannot be written: {error.strerror}.") from error


def abandon_output() -> None:
    """Send what is still unwritten nowhere, so that Python does not complain about it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def print_json(value: Any) -> None:
    """Print one JSON value on standard output; NaN is refused, letters stay letters."""
    write_output(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    flush_output()


def print_line(text: str = "") -> None:
    """Print a line of data on standard output."""
    write_output(text + "\n")


def note(text: str) -> None:
    """Print a line for the person at the terminal, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def colours_are_welcome(stream: Any) -> bool:
    """Whether a stream is a terminal that has colours and whose user has not declined them (NO_COLOR)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_error(message: str, hint: str | None = None) -> None:
    """Print an error on standard error: one line, red in a terminal that has colours."""
    line = " ".join(f"{message}{' ' + hint if hint else ''}".split())
    prefix = "\033[31mbilstm:\033[0m " if colours_are_welcome(sys.stderr) else "bilstm: "
    note(prefix + line)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a plain table; the first column is aligned left, the others right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print_line("  ".join(cells).rstrip())
