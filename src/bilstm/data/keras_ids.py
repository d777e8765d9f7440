"""Sequences of word ids from `.npz` files, without ever running a pickle: Keras' `imdb.npz`, or values with offsets.

Step `read` of the way of the data. Keras stores a numpy array of Python lists, which numpy can only load by running the
pickle inside, and a pickle may run any program. Here the few instructions that build such an array are interpreted; any
other one is an error. Imports numpy and the standard library.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bilstm.data.byte_streams import RATIO_FREE_BYTES, RATIO_LIMIT, ByteStream, Source
from bilstm.data.ragged import Ragged, check_offsets
from bilstm.errors import DataError, ShapeError, UsageError

__all__ = ["is_ids_path", "read_ids"]

PARTS = ("train", "test")
MAX_HEADER_BYTES = 10_000


def is_ids_path(path: str) -> bool:
    """Return whether the name is that of an `.npz` file, with or without a part (`imdb.npz:test`)."""
    return _split_part(path)[0].lower().endswith(".npz")


def _split_part(path: str) -> tuple[str, str | None]:
    stem, colon, part = path.rpartition(":")
    return (stem, part) if colon and stem.lower().endswith(".npz") else (path, None)


def read_ids(
    path: str | os.PathLike[str], max_bytes: int | None = None
) -> tuple[Ragged, list[str] | None, Source, list[str]]:
    """Read sequences of ids and their labels.

    Parameters
    ----------
    path : path
        An `.npz` file with `x_train`, `y_train`, `x_test`, `y_test` (Keras; part `train` unless the path ends in
        `:test`), or with `values`, `offsets` and perhaps `labels`.
    max_bytes : int, optional
        Most bytes an array may unpack to. None: 100 times its packed size, once it is more than 64 MiB.

    Returns
    -------
    ids : Ragged of int64
    labels : list of str or None
        As text, like labels from any other file.
    source : Source
    notes : list of str

    Raises
    ------
    DataError
        Damaged file, missing arrays, ids that are not whole numbers of at least 0, a pickle that does anything else
        than build lists of whole numbers.
    """
    file, part = _split_part(os.fspath(path))
    if part is not None and part not in PARTS:
        raise UsageError(f"{path}: there is no part {part!r}.", f"Parts are {' and '.join(PARTS)}.")
    with ByteStream(file) as stream:
        data = stream.read_all()
    notes: list[str] = []
    arrays = _Archive(data, file, max_bytes)
    if "values" in arrays.names and "offsets" in arrays.names:
        ids, labels = _own_form(arrays, file)
    else:
        if part is None and {"x_train", "x_test"} <= arrays.names:
            notes.append(f"{file}: took the part train; for the other write {file}:test.")
        is_test_alone = "x_test" in arrays.names and "x_train" not in arrays.names
        ids, labels = _keras_form(arrays, part or PARTS[is_test_alone], file)
    if len(ids.values) and ids.values.min() < 0:
        raise DataError(f"{file}: negative id {ids.values.min()}.", "Ids count words from 0.")
    if not len(ids):
        raise DataError(f"{file}: there are no sequences.", "Is this the right file?")
    if labels is not None and len(labels) != len(ids):
        raise DataError(f"{file}: {len(labels)} labels for {len(ids)} sequences.", "The file is damaged.")
    return ids, labels, stream.source(len(ids)), notes


def _own_form(arrays: _Archive, file: str) -> tuple[Ragged, list[str] | None]:
    values, offsets = (_whole_numbers(arrays.read(name), name, file) for name in ("values", "offsets"))
    try:
        check_offsets(offsets, len(values))
    except ShapeError as error:
        raise DataError(f"{file}: {error.message}", "The file is damaged.") from error
    labels = _label_texts(arrays.read("labels"), file) if "labels" in arrays.names else None
    return Ragged(values, offsets), labels


def _keras_form(arrays: _Archive, part: str, file: str) -> tuple[Ragged, list[str] | None]:
    name = f"x_{part}"
    if name not in arrays.names:
        raise DataError(
            f"{file}: holds no array {name!r} (it holds {', '.join(sorted(arrays.names)[:8])}).",
            "Expected x_train, y_train, x_test, y_test as Keras writes them, or values, offsets, labels.",
        )
    sequences = arrays.read(name)
    if isinstance(sequences, np.ndarray):
        if sequences.ndim != 2:
            raise DataError(f"{file}: {name} must hold one sequence a row, found shape {sequences.shape}.")
        sequences = Ragged.of(_whole_numbers(sequences.reshape(-1), name, file).reshape(sequences.shape))
    labels = arrays.read(f"y_{part}") if f"y_{part}" in arrays.names else None
    return sequences, None if labels is None else _label_texts(labels, file)


def _whole_numbers(values: Any, name: str, file: str) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(f"{file}: {name} must hold whole numbers.")
    return values.astype(np.int64)


def _label_texts(labels: Any, file: str) -> list[str]:
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iufbU":
        raise DataError(f"{file}: labels must be one number or text a sequence.")
    return [str(label) for label in labels.tolist()]


class _Archive:
    """The arrays of an `.npz` file, unpacked within a limit."""

    def __init__(self, data: bytes, file: str, max_bytes: int | None):
        self._file = file
        self._max_bytes = max_bytes
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError) as error:
            raise DataError(f"{file}: not an .npz file ({error}).", "It is damaged or not complete.") from error
        self.names = {name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")}

    def read(self, name: str) -> np.ndarray | Ragged:
        """Return an array of numbers or texts, or the sequences of an array of lists."""
        content = self._unpacked(name)
        shape, dtype, start = _header(content, f"{self._file}: {name}")
        if dtype.hasobject:
            return _ListsOfIds(content, start, f"{self._file}: {name}").read(shape)
        count = int(np.prod(shape, dtype=np.int64))
        if count * dtype.itemsize != len(content) - start:
            raise DataError(f"{self._file}: {name} has another size than it says.", "The file is damaged.")
        return np.frombuffer(content, dtype=dtype, count=count, offset=start).reshape(shape)

    def _unpacked(self, name: str) -> bytes:
        entry = self._zip.getinfo(f"{name}.npy")
        limit = self._max_bytes
        if limit is None:
            limit = max(RATIO_FREE_BYTES, RATIO_LIMIT * entry.compress_size)
        try:
            with self._zip.open(entry) as file:
                content = file.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{self._file}: {name} cannot be unpacked ({error}).", "The file is damaged.") from error
        if len(content) > limit:
            hint = "If you trust the file, allow its size with --max-bytes."
            raise DataError(f"{self._file}: {name} unpacks to more than {limit} bytes.", hint)
        return content


def _header(content: bytes, name: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape, type and start of the data of an `.npy` file."""
    file = io.BytesIO(content)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in read:
            raise ValueError(f"version {version}")
        shape, is_fortran, dtype = read[version](file, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, TypeError, SyntaxError, EOFError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name} is no numpy array ({reason}).", "The file is damaged.") from error
    if min(shape, default=0) < 0 or (is_fortran and len(shape) > 1):
        raise DataError(f"{name} has shape {shape}, which cannot be read.", "The file is damaged.")
    return shape, dtype, file.tell()


_INT_RUN = re.compile(rb"(?:K.|M..|J....)+", re.DOTALL)
_INT = re.compile(rb"K(.)|M(..)|J(....)", re.DOTALL)
_MARK = object()
_ARRAY_MAKERS = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
_KNOWN_GLOBALS = _ARRAY_MAKERS | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _Global(tuple[str, str]):
    """The name of something that a pickle would import; here only compared, never looked up."""


class _Made(list[Any]):
    """What a pickle would have called: the name and the arguments; `state` when it was set."""

    state: Any = None


class _ListsOfIds:
    """Interprets the few pickle instructions that build an array of lists of whole numbers.

    The machine has a stack, marks on it and a memo, as described in the standard library's `pickletools`. Names of
    functions are only compared with those of numpy's array maker; nothing is imported or called.
    """

    def __init__(self, content: bytes, start: int, name: str):
        self._data = content
        self._at = start
        self._name = name
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[int, Callable[[], None]] = {
            0x80: lambda: self._skip(1),  # PROTO
            0x95: lambda: self._skip(8),  # FRAME
            ord("("): lambda: self._stack.append(_MARK),
            ord("N"): lambda: self._stack.append(None),
            0x88: lambda: self._stack.append(True),
            0x89: lambda: self._stack.append(False),
            ord("K"): self._ints,
            ord("M"): self._ints,
            ord("J"): self._ints,
            0x8A: self._long,
            0x8C: lambda: self._text(1),  # SHORT_BINUNICODE
            ord("X"): lambda: self._text(4),  # BINUNICODE
            ord("U"): lambda: self._text(1),  # SHORT_BINSTRING, written by Python 2
            ord("C"): lambda: self._text(1),  # SHORT_BINBYTES
            ord("c"): self._global,
            0x93: self._stack_global,
            0x94: lambda: self._memoize(len(self._memo)),
            ord("q"): lambda: self._memoize(self._number(1)),
            ord("r"): lambda: self._memoize(self._number(4)),
            ord("h"): lambda: self._stack.append(self._memo[self._number(1)]),
            ord("j"): lambda: self._stack.append(self._memo[self._number(4)]),
            ord("]"): lambda: self._stack.append([]),
            ord("a"): self._append,
            ord("e"): self._extend,
            ord(")"): lambda: self._stack.append(()),
            0x85: lambda: self._tuple(1),
            0x86: lambda: self._tuple(2),
            0x87: lambda: self._tuple(3),
            ord("t"): lambda: self._stack.append(tuple(self._pop_to_mark())),
            ord("R"): self._reduce,
            ord("b"): self._build,
        }

    def read(self, shape: tuple[int, ...]) -> Ragged:
        """Run to the end and return the lists.

        Raises
        ------
        DataError
            For any other instruction or object.
        """
        try:
            while (code := self._number(1)) != ord("."):
                step = self._steps.get(code)
                if step is None:
                    raise self._refused(f"instruction 0x{code:02X}")
                step()
            return self._sequences(self._stack.pop(), shape)
        except (IndexError, KeyError, StopIteration, UnicodeDecodeError) as error:
            raise DataError(
                f"{self._name}: the pickled lists are damaged at byte {self._at}.", "Fetch the file again."
            ) from error

    def _sequences(self, made: Any, shape: tuple[int, ...]) -> Ragged:
        is_array = isinstance(made, _Made) and made and made[0] in _ARRAY_MAKERS
        state = made.state if is_array else None
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[4], list):
            raise self._refused("something else than an array of lists")
        rows = state[4]
        if len(shape) != 1 or len(rows) != shape[0]:
            raise DataError(f"{self._name}: {len(rows)} lists where the array says {shape}.", "The file is damaged.")
        total = 0
        for row in rows:
            if not isinstance(row, list) or not all(type(value) is int for value in row):
                raise self._refused("entries that are no lists of whole numbers")
            total += len(row)
            # each number takes two bytes or more; the same list taken again and again could fill any memory
            if total > len(self._data):
                raise self._refused("the same list repeated without end")
        return Ragged.of(rows)

    def _refused(self, what: str) -> DataError:
        return DataError(
            f"{self._name}: its pickle holds {what} (byte {self._at}); only lists of whole numbers are read.",
            "Nothing was run. Save the data as arrays `values` and `offsets` of whole numbers instead.",
        )

    def _skip(self, count: int) -> None:
        self._at += count

    def _bytes(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise IndexError
        self._at += count
        return taken

    def _number(self, size: int) -> int:
        return int.from_bytes(self._bytes(size), "little")

    def _ints(self) -> None:
        run = _INT_RUN.match(self._data, self._at - 1)
        if run is None:
            raise IndexError
        self._at = run.end()
        self._stack += [
            one[0] if one else two[0] | two[1] << 8 if two else int.from_bytes(four, "little", signed=True)
            for one, two, four in _INT.findall(run.group())
        ]

    def _long(self) -> None:
        value = int.from_bytes(self._bytes(self._number(1)), "little", signed=True)
        if not -(2**63) <= value < 2**63:
            raise self._refused("a number of more than 64 bits")
        self._stack.append(value)

    def _text(self, size: int) -> None:
        self._stack.append(self._bytes(self._number(size)).decode())

    def _global(self) -> None:
        lines = self._data[self._at : self._at + 200].split(b"\n", 2)
        self._at += len(lines[0]) + len(lines[1]) + 2
        self._push_global(lines[0].decode(), lines[1].decode())

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push_global(module, name)

    def _push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise IndexError
        if (module, name) not in _KNOWN_GLOBALS:
            raise self._refused(f"a call of {f'{module}.{name}'[:80]!r}")
        self._stack.append(_Global((module, name)))

    def _memoize(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _append(self) -> None:
        value = self._stack.pop()
        self._top_list().append(value)

    def _extend(self) -> None:
        values = self._pop_to_mark()
        self._top_list().extend(values)

    def _top_list(self) -> list[Any]:
        target = self._stack[-1]
        if type(target) is not list:
            raise IndexError
        return target

    def _pop_to_mark(self) -> list[Any]:
        # identity, not equality: comparing lists that hold each other would not end
        at = next(at for at in range(len(self._stack) - 1, -1, -1) if self._stack[at] is _MARK)
        taken = self._stack[at + 1 :]
        del self._stack[at:]
        return taken

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        taken = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(taken)

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise self._refused("a call")
        self._stack.append(_Made([tuple(function), *arguments]))

    def _build(self) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        if not isinstance(made, _Made):
            raise self._refused("an object with a state")
        made.state = state
