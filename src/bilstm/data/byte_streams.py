"""Bytes and characters of one input: opened once, counted, hashed, unpacked within limits, decoded strictly.

First step of the way of the data (`files -> read`). Every reader of text takes its input from here, so that the guards
hold for all formats: a gzip bomb stops at a limit, a truncated or damaged gzip file is an error, a file that changes
while it is read is an error, and bytes that are not text in the stated encoding are an error that names line and byte.
Imports the standard library only.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bilstm.errors import DataError, InputNotFoundError, UsageError

__all__ = ["STANDARD_INPUT", "ByteStream", "Source", "TextStream", "nearest_names", "quoted"]

STANDARD_INPUT = "-"
BLOCK_BYTES = 1 << 18
UNPACKED_BLOCK_BYTES = 1 << 20
HEAD_BYTES = 1 << 16
MAX_LINE_CHARACTERS = 64 << 20
MAX_COMPARED_CHARACTERS = 200
# A gzip file may unpack to this many times its own size, once it has given RATIO_FREE_BYTES; text rarely passes 20.
RATIO_LIMIT = 100
RATIO_FREE_BYTES = 64 << 20

_GZIP_MAGIC = b"\x1f\x8b"
_FOREIGN_MAGICS = {
    b"BZh": ("bzip2", "Unpack it first (bunzip2) or pack it with gzip."),
    b"\xfd7zXZ\x00": ("xz", "Unpack it first (unxz) or pack it with gzip."),
    b"\x28\xb5\x2f\xfd": ("zstd", "Unpack it first (unzstd) or pack it with gzip."),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "Unpack it first or pack it with gzip."),
    b"%PDF-": ("PDF", "Give the texts as CSV, TSV, JSONL or Parquet."),
    b"\xd0\xcf\x11\xe0": ("old Excel or Word", "Save the table as CSV (UTF-8) and give that file."),
}
_BYTE_ORDER_MARKS = (  # the longer marks first: UTF-32 little endian begins like UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Source:
    """What one input was when it was read.

    Parameters
    ----------
    path : str
        As given; "-" for standard input.
    sha256 : str or None
        Of the bytes as stored (before unpacking); for a folder, of its sorted file names and their hashes. None while
        the input is not read to its end.
    bytes : int
        Size as stored.
    rows : int
        Records taken from it.
    is_folder : bool
    """

    path: str
    sha256: str | None
    bytes: int
    rows: int
    is_folder: bool = False

    @property
    def name(self) -> str:
        """How messages call it."""
        return "standard input" if self.path == STANDARD_INPUT else self.path


def nearest_names(name: str, known: list[str], count: int = 3) -> list[str]:
    """Return up to `count` of the `known` names that look like `name`, the nearest first (letter case ignored)."""
    if len(name) > MAX_COMPARED_CHARACTERS:
        return []
    by_folded = {other.casefold(): other for other in reversed(known) if len(other) <= MAX_COMPARED_CHARACTERS}
    matches = difflib.get_close_matches(name.casefold(), list(by_folded), n=count, cutoff=0.5)
    return [by_folded[match] for match in matches]


def quoted(text: str, limit: int = 40) -> str:
    """Return `text` in quotes for a message: one line, at most about `limit` characters."""
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}..."


class ByteStream:
    """The unpacked bytes of a file or of standard input, block after block, once.

    Parameters
    ----------
    path : str or Path
        "-" reads standard input.
    max_bytes : int, optional
        Most bytes the unpacked content may have. None: no such limit, but a gzip file may not unpack to more than 100
        times its size once it has given 64 MiB. A number replaces that rule.

    Attributes
    ----------
    notes : list of str
        What a user should be told (for example a gzip file without the ending `.gz`).
    stored_bytes : int
        Bytes read so far, as stored.

    Raises
    ------
    InputNotFoundError
        The file is not there, is a folder, or may not be read.
    DataError
        While reading: damaged or truncated gzip, a limit passed, another archive format, a file that changes.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None):
        self.name = "standard input" if os.fspath(path) == STANDARD_INPUT else os.fspath(path)
        self.path = os.fspath(path)
        self.notes: list[str] = []
        self.stored_bytes = 0
        self.is_gzip = False
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._file, self._before = _open(self.path)
        self._waiting: list[bytes] = []
        self._blocks = self._unpacked()

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file (standard input stays open)."""
        if self.path != STANDARD_INPUT:
            self._file.close()

    def head(self, size: int = HEAD_BYTES) -> bytes:
        """Return at least the first `size` bytes (fewer only if there are fewer) without consuming them."""
        while sum(map(len, self._waiting)) < size and (block := next(self._blocks, None)) is not None:
            self._waiting.append(block)
        return b"".join(self._waiting)

    def __iter__(self) -> Iterator[bytes]:
        while self._waiting:
            yield self._waiting.pop(0)
        yield from self._blocks

    def read_all(self) -> bytes:
        """Return everything that has not been consumed."""
        return b"".join(self)

    @property
    def is_plain_file(self) -> bool:
        """Whether the content stands in a regular file as it is: other readers may then open it by its name."""
        return self._before is not None and not self.is_gzip

    def share_read(self) -> float | None:
        """Return how much of the file was read so far, 0 to 1; None where its size is not known (a pipe)."""
        return None if self._before is None else min(self.stored_bytes / max(self._before[0], 1), 1.0)

    def check_unchanged(self) -> None:
        """Raise DataError if the file is another one than when it was opened."""
        after = os.fstat(self._file.fileno())
        if self._before is not None and (after.st_size, after.st_mtime_ns) != self._before:
            raise DataError(f"{self.name}: the file changed while it was read.", "Copy it and read the copy.")

    def source(self, rows: int) -> Source:
        """Describe the input; only after all its blocks were read."""
        return Source(self.path, self._hash.hexdigest(), self.stored_bytes, rows)

    def _stored(self) -> Iterator[bytes]:
        """Yield the bytes as stored; hash and count them; at the end check that the file is still the same."""
        while True:
            try:
                block = self._file.read(BLOCK_BYTES)
            except OSError as error:
                raise InputNotFoundError(f"{self.name}: cannot be read ({error.strerror}).") from error
            if not block:
                break
            self._hash.update(block)
            self.stored_bytes += len(block)
            yield block
        if self._before is not None:
            after = os.fstat(self._file.fileno())
            if (after.st_size, after.st_mtime_ns) != self._before or self.stored_bytes != after.st_size:
                raise DataError(
                    f"{self.name}: the file changed while it was read "
                    f"({self._before[0]} bytes at the start, {after.st_size} at the end).",
                    "Wait until it is written completely, or copy it and read the copy.",
                )

    def _unpacked(self) -> Iterator[bytes]:
        stored = self._stored()
        first = next(stored, b"")
        while 0 < len(first) < 8 and (more := next(stored, b"")):  # a pipe may give single bytes
            first += more
        for magic, (kind, hint) in _FOREIGN_MAGICS.items():
            if first.startswith(magic):
                raise DataError(f"{self.name}: this is a {kind} file, which cannot be read here.", hint)
        self.is_gzip = first.startswith(_GZIP_MAGIC)
        named_gzip = self.path.lower().endswith(".gz")
        if self.is_gzip and not named_gzip and self.path != STANDARD_INPUT:
            self.notes.append(f"{self.name}: packed with gzip although its name does not end in .gz; unpacked.")
        if named_gzip and not self.is_gzip and first:
            self.notes.append(f"{self.name}: not packed with gzip although its name ends in .gz; read as it is.")
        unpack = self._gunzip if self.is_gzip else self._plain
        yield from unpack(first, stored)

    def _plain(self, first: bytes, stored: Iterator[bytes]) -> Iterator[bytes]:
        given = 0
        for block in _chain(first, stored):
            given += len(block)
            self._check_limit(given)
            yield block

    def _gunzip(self, first: bytes, stored: Iterator[bytes]) -> Iterator[bytes]:
        given = 0
        member = zlib.decompressobj(wbits=31)
        for block in _chain(first, stored):
            data, is_more_waiting = block, False
            while data or is_more_waiting:
                if member.eof:  # another gzip member may follow; zeros are padding
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    member = zlib.decompressobj(wbits=31)
                try:
                    out = member.decompress(data, UNPACKED_BLOCK_BYTES)
                except zlib.error as error:
                    raise DataError(
                        f"{self.name}: damaged gzip data near byte {self.stored_bytes} ({error}).",
                        "Fetch or pack the file again.",
                    ) from error
                data = member.unused_data if member.eof else member.unconsumed_tail
                # a full block may leave output inside zlib although all input was taken
                is_more_waiting = not member.eof and len(out) == UNPACKED_BLOCK_BYTES
                given += len(out)
                self._check_limit(given)
                if out:
                    yield out
        if not member.eof:
            raise DataError(
                f"{self.name}: the gzip file ends too early (after {self.stored_bytes} bytes).",
                "It was not copied completely; fetch it again.",
            )

    def _check_limit(self, given: int) -> None:
        if self._max_bytes is not None:
            if given > self._max_bytes:
                raise DataError(
                    f"{self.name}: holds more than the allowed {self._max_bytes} bytes.",
                    "Raise --max-bytes if the file is what you expect.",
                )
        elif self.is_gzip and given > RATIO_FREE_BYTES and given > RATIO_LIMIT * self.stored_bytes:
            raise DataError(
                f"{self.name}: unpacks to more than {RATIO_LIMIT} times its size "
                f"(stopped after {given} bytes from {self.stored_bytes}); this looks like a gzip bomb.",
                "If you trust the file, allow its size with --max-bytes.",
            )


class TextStream:
    """The characters of a `ByteStream`, block after block, decoded strictly.

    Parameters
    ----------
    stream : ByteStream
    encoding : str, optional
        Name of a Python text encoding. None: UTF-8, or UTF-16 or UTF-32 where a byte order mark or zero bytes show
        it.

    Raises
    ------
    UsageError
        For an encoding that does not exist.
    DataError
        While reading: bytes that are no text in this encoding, or a NUL character; the message names line and byte.
    """

    def __init__(self, stream: ByteStream, encoding: str | None = None):
        self.name = stream.name
        self.encoding = _sniffed_encoding(stream.head()) if encoding is None else _checked_encoding(encoding)
        if encoding is None and self.encoding not in ("utf-8", "utf-8-sig"):
            stream.notes.append(f"{stream.name}: read as {self.encoding.upper()}.")
        self._stream = stream
        self._waiting: list[str] = []
        self._blocks = self._decoded()

    def head(self, size: int = HEAD_BYTES) -> tuple[str, bool]:
        """Return at least the first `size` characters without consuming them, and whether that is all there is."""
        while sum(map(len, self._waiting)) < size:
            block = next(self._blocks, None)
            if block is None:
                return "".join(self._waiting), True
            self._waiting.append(block)
        return "".join(self._waiting), False

    def __iter__(self) -> Iterator[str]:
        while self._waiting:
            yield self._waiting.pop(0)
        yield from self._blocks

    def lines(self, line_end: str = "\n") -> Iterator[str]:
        """Yield lines with their ends; only `line_end` ends a line, other line separators are characters of it."""
        pieces: list[str] = []
        number = 1
        for block in self:
            lines = block.split(line_end)
            pieces.append(lines[0])
            if len(lines) == 1:
                if sum(map(len, pieces)) > MAX_LINE_CHARACTERS:
                    raise DataError(
                        f"{self.name}:{number}: the line is longer than {MAX_LINE_CHARACTERS} characters.",
                        "Is this the file you meant?",
                    )
                continue
            lines[0] = "".join(pieces)
            pieces = [lines.pop()]
            number += len(lines)
            for line in lines:
                yield line + line_end
        if last := "".join(pieces):
            yield last

    def _decoded(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.encoding)("strict")
        line = 1
        consumed = 0  # bytes given to the decoder before this block
        for block, is_last in _with_last(self._stream):
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, is_last)
            except UnicodeDecodeError as error:
                raise self._not_decodable(error, line, consumed - pending) from error
            consumed += len(block)
            if "\0" in text:
                at = line + _line_ends(text[: text.index("\0")])
                raise DataError(
                    f"{self.name}:{at}: NUL character (byte 0) in the text.",
                    "The file is damaged or not a text file; remove them (tr -d '\\000') or name its --encoding.",
                )
            line += _line_ends(text)
            yield text

    def _not_decodable(self, error: UnicodeDecodeError, line: int, base: int) -> DataError:
        before = error.object[: error.start]
        sound = before.decode(self.encoding, "ignore")
        at = line + _line_ends(sound)
        hint = "If the file is in another encoding, name it, for example --encoding cp1252 or --encoding latin-1."
        return DataError(
            f"{self.name}:{at}: byte 0x{error.object[error.start]:02X} at offset {base + error.start} is not "
            f"{self.encoding.removesuffix('-sig').upper()} text (after {sound[-20:]!r}).",
            hint,
        )


def _open(path: str) -> tuple[BinaryIO, tuple[int, int] | None]:
    """Open `path`; return the file and its size and change time, None where these say nothing (pipes)."""
    if path == STANDARD_INPUT:
        return sys.stdin.buffer, None
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by ByteStream.close)
    except FileNotFoundError as error:
        raise InputNotFoundError(f"{path}: there is no such file.", _near_files(path)) from error
    except IsADirectoryError as error:
        raise InputNotFoundError(f"{path}: this is a folder, not a file.", "Give the files in it.") from error
    except (PermissionError, NotADirectoryError, OSError) as error:
        raise InputNotFoundError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:  # a NUL character in the name
        raise InputNotFoundError(f"{path!r}: not a possible file name.") from error
    status = os.fstat(file.fileno())
    is_file = os.path.isfile(path)
    return file, (status.st_size, status.st_mtime_ns) if is_file else None


def _near_files(path: str) -> str | None:
    folder = Path(path).parent
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return None
    near = nearest_names(Path(path).name, names)
    return f"Similar names there: {', '.join(near)}." if near else None


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _with_last(blocks: ByteStream) -> Iterator[tuple[bytes, bool]]:
    """Yield every block, and an empty last one: only then does a decoder complain about an unfinished character."""
    for block in blocks:
        yield block, False
    yield b"", True


def _line_ends(text: str) -> int:
    """Count line ends: LF and CRLF, or CR where the text has no LF."""
    return text.count("\n") or text.count("\r")


def _sniffed_encoding(head: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    sample = head[: 4096 - 4096 % 2]
    half = len(sample) // 2
    if half >= 2:
        even, odd = sample[0::2].count(0) / half, sample[1::2].count(0) / half
        if odd > 0.3 and even < 0.05:
            return "utf-16-le"
        if even > 0.3 and odd < 0.05:
            return "utf-16-be"
    return "utf-8"


def _checked_encoding(name: str) -> str:
    try:
        "".encode(name)
        codec = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"--encoding {name}: there is no such text encoding.", "Common ones: utf-8, cp1252, latin-1, utf-16."
        ) from error
    return "utf-8-sig" if codec == "utf-8" else codec
