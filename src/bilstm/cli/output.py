"""What the command line prints: one JSON object or lines on standard output, notes and errors on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from bilstm.errors import BilstmError

__all__ = ["note", "print_error", "print_json", "print_line", "print_table"]


def print_json(value: Any) -> None:
    """Print one JSON value on standard output; NaN is refused, letters stay letters."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_line(text: str = "") -> None:
    """Print a line of data on standard output."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print a line for the person at the terminal, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_error(error: BilstmError | str, hint: str | None = None) -> None:
    """Print an error on standard error: one line, red in a terminal that has colours."""
    message = f"{error.message}{' ' + error.hint if error.hint else ''}" if isinstance(error, BilstmError) else error
    line = " ".join(f"{message}{' ' + hint if hint else ''}".split())
    prefix = "bilstm: "
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        prefix = "\033[31mbilstm:\033[0m "
    note(prefix + line)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], to_stdout: bool = True) -> None:
    """Print a plain table; the first column is aligned left, the others right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for number, line in enumerate(lines):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text = "  ".join(cells).rstrip()
        (print_line if to_stdout else note)(text)
        if number == 0:
            (print_line if to_stdout else note)("  ".join("-" * width for width in widths))
