"""A folder of classes, one text a file: `pos/*.txt`, `neg/*.txt` (the layout of the Large Movie Review Dataset).

Step `read` of the way of the data. The name of each subfolder is the label. Imports the standard library.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from bilstm.data.byte_streams import ByteStream, Source, TextStream
from bilstm.data.tables import Table
from bilstm.errors import DataError, InputNotFoundError

__all__ = ["FILE_COLUMN", "FolderOfClasses"]

FILE_COLUMN = "file"
UNLABELLED_FOLDERS = ("unsup", "unlabelled", "unlabeled")


class FolderOfClasses:
    """A folder whose subfolders are classes of `.txt` files; read in the order of class and file name.

    Parameters
    ----------
    path : str
    encoding : str, optional
        Of every file; None: UTF-8, or what a byte order mark says.
    max_bytes : int, optional
        Most bytes that all files together may hold.

    Raises
    ------
    DataError
        If there are no class folders with `.txt` files, or the folder holds parts (`train/`, `test/`) instead.
    """

    def __init__(self, path: str, encoding: str | None = None, max_bytes: int | None = None):
        self._path = path
        self._encoding = encoding
        self._left = max_bytes
        self._hash = hashlib.sha256()
        self._bytes = 0
        notes: list[str] = []
        self._files = list(_text_files(path, notes))
        self.table = Table(path, [FILE_COLUMN, "text", "label"], self._rows(), notes)

    def source(self, rows: int) -> Source:
        """Describe the folder; only after all its files were read."""
        return Source(self._path, self._hash.hexdigest(), self._bytes, rows, is_folder=True)

    def _rows(self) -> Iterator[tuple[int, list[str | None]]]:
        for number, (label, file) in enumerate(self._files, 1):
            with ByteStream(os.path.join(self._path, label, file), self._left) as stream:
                text = "".join(TextStream(stream, self._encoding))
                source = stream.source(1)
            self._bytes += source.bytes
            if self._left is not None:
                self._left -= source.bytes
            self._hash.update(f"{label}/{file}\n{source.sha256}\n".encode("utf-8", "surrogateescape"))
            yield number, [f"{label}/{file}", text, label]


def _text_files(path: str, notes: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (class, file name), sorted; note folders and files that are passed over."""
    classes = [name for name in _names(path) if (Path(path) / name).is_dir() and not name.startswith(".")]
    unlabelled = [name for name in classes if name in UNLABELLED_FOLDERS]
    found = {name: [file for file in _names(os.path.join(path, name)) if file.endswith(".txt")] for name in classes}
    found = {name: files for name, files in found.items() if files and name not in unlabelled}
    if not found:
        parts = [name for name in ("train", "test") if name in classes]
        hint = (
            f"Give one of its parts, for example {os.path.join(path, parts[0])}."
            if parts
            else "Expected subfolders named like the classes, for example pos/*.txt and neg/*.txt; or give the files."
        )
        raise DataError(f"{path}: no class folders with .txt files in this folder.", hint)
    for name in unlabelled:
        notes.append(f"{path}: folder {name!r} holds texts without labels; passed over.")
    for name in classes:
        if name not in found and name not in unlabelled:
            notes.append(f"{path}: folder {name!r} holds no .txt files; passed over.")
    notes.append(f"{path}: classes by folder: " + ", ".join(f"{name} ({len(found[name])})" for name in found) + ".")
    for name, files in found.items():
        yield from ((name, file) for file in files)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        raise InputNotFoundError(f"{path}: the folder cannot be read ({error.strerror}).") from error
