"""One file that is written whole or not at all. Imports `errors`."""

from __future__ import annotations

import os
from pathlib import Path

from bilstm.errors import OutputError, WriteFailedError

__all__ = ["check_place", "write_file"]


def check_place(path: str | Path, overwrite: bool) -> None:
    """Raise what `write_file` would raise about the place, before long work is done for it.

    Raises
    ------
    OutputError
        If a file stands there and may not be replaced, or there is no such folder.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: a folder stands there.", "Give the name of a file.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already.", "Choose another name, or add --overwrite.")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}.", "Make it first.")


def write_file(path: str | Path, content: bytes) -> None:
    """Write a file beside its place and move it there.

    Raises
    ------
    OutputError, WriteFailedError
        What stood under the name before is then untouched.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        kind = WriteFailedError if partial.exists() else OutputError
        raise kind(f"{path}: cannot be written: {error.strerror}.", "Nothing was written under that name.") from error
    finally:
        partial.unlink(missing_ok=True)
