"""Write a flat folder of files whole or not at all, also over an old one; never a torn mixture.

The files are written to a new folder beside the target, each one flushed to the disk, then the folder, then the two
names are exchanged in one step (`renameat2` with RENAME_EXCHANGE, Linux 3.15). Where the system cannot exchange, the
old folder is renamed aside first; `recover_folder` puts it back after a crash between the two renames. Folders left by
killed processes are removed by the next write: a living writer holds a lock (`flock`) on its own. Imports only
`errors`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bilstm.errors import OutputError, WriteFailedError

__all__ = ["backup_of", "check_target", "recover_folder", "remove_folder", "write_folder"]

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_CANNOT_CREATE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_CANNOT_CREATE |= {errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY}


def write_folder(folder: str | Path, files: Mapping[str, bytes], *, replaces: Collection[str] | None = None) -> None:
    """Write `files` as `folder`, so that the path holds the complete old or the complete new folder at each instant.

    Parameters
    ----------
    folder : path
        Target; folders above it are made. A link is followed and stays.
    files : mapping of str to bytes
        Content by plain file name.
    replaces : collection of str, optional
        Names that the folder standing there may hold, because the caller owns them; then it is replaced. None: a folder
        with any file in it is not touched.

    Raises
    ------
    OutputError
        If the target exists and may not be replaced, is not a folder, or nothing can be created there.
    WriteFailedError
        If writing failed; what stood at the path before is intact.
    """
    target = Path(os.path.realpath(folder))
    check_target(target, replaces=replaces)
    made = _make_parents(target.parent)
    is_done = False
    try:
        with _reported(target, sum(map(len, files.values()))):
            draft, lock = _make_draft(target)
            try:
                _write_files(draft, files)
                with _locked(target.parent):
                    _put_in_place(draft, target)
                is_done = True
            finally:
                if not is_done and _is_still(draft, lock):
                    _remove_quietly(draft)
                _close(lock)
    finally:
        if not is_done:
            _remove_parents(made)
    _remove_strays(target)


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether `folder` is the one that was opened; else the former folder was left there by a failed exchange."""
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except OSError:
        return False


def check_target(folder: str | Path, *, replaces: Collection[str] | None = None) -> None:
    """Raise what `write_folder` would raise before it has written anything; call it before long work.

    Raises
    ------
    OutputError
        As `write_folder`.
    """
    target = Path(os.path.realpath(folder))
    recover_folder(target)
    nearest = target
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if nearest == target:
        if not target.is_dir():
            raise OutputError(f"{target} exists and is not a folder.", "Choose another output folder.")
        held = _names(target)
        if held and replaces is None:
            hint = "Choose another output folder, or add --overwrite (overwrite=True)."
            raise OutputError(f"{target} exists already.", hint)
        if foreign := sorted(set(held) - set(replaces or ())):
            raise OutputError(
                f"{target} holds files that are not of this model ({foreign[0]!r}, {len(foreign)} in all); it is kept.",
                "Move them away, or choose another output folder.",
            )
        nearest = target.parent
    if not nearest.is_dir():
        raise OutputError(f"{nearest} is not a folder; {target} cannot be made.", "Choose another output folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{nearest} may not be written to; {target} cannot be made.", "Choose another output folder.")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be listed: {error.strerror}.", "Choose another output folder.") from error


@contextmanager
def _reported(target: Path, size: int) -> Iterator[None]:
    """Turn an OSError inside into OutputError or WriteFailedError that says what is intact and what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError | WriteFailedError):
            raise
        where = error.filename or target
        reason = error.strerror or str(error)
        kept = "What stood there is intact." if os.path.lexists(target) else "Nothing was left behind."
        if error.errno in _CANNOT_CREATE:
            raise OutputError(
                f"{where}: cannot be created: {reason}. {kept}", "Choose another output folder."
            ) from error
        free = _free_bytes(target)
        room = f" ({size / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free)" if free is not None else ""
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "Free some space or choose another output folder, then save again." if is_full else "Check the disk."
        raise WriteFailedError(f"{where}: writing failed: {reason}{room}. {kept}", hint) from error


def _free_bytes(target: Path) -> int | None:
    try:
        state = os.statvfs(target.parent)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize


def _make_parents(parent: Path) -> list[Path]:
    """Make missing folders down to `parent`; return those made, the deepest first."""
    missing = []
    while not os.path.exists(parent):
        missing.append(parent)
        parent = parent.parent
    made: list[Path] = []
    for path in reversed(missing):
        try:
            os.mkdir(path)
        except FileExistsError:  # made by another process meanwhile
            continue
        except OSError as error:
            _remove_parents(made)
            raise OutputError(
                f"{path}: cannot be created: {error.strerror}.", "Choose another output folder."
            ) from error
        made.insert(0, path)
    return made


def _remove_parents(made: list[Path]) -> None:
    for path in made:
        with suppress(OSError):
            os.rmdir(path)


def _make_draft(target: Path) -> tuple[Path, int]:
    """Make a locked, empty folder beside `target`, after removing those of dead processes; return it and its lock."""
    with _locked(target.parent):  # so that no other writer takes the new folder for a stray before its lock is held
        _remove_strays_unlocked(target)
        draft = target.parent / f".{target.name}.bilstm-new-{secrets.token_hex(8)}"
        os.mkdir(draft)
        try:
            lock = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            _remove_quietly(draft)
            raise
        with suppress(OSError):  # a file system without locks; nothing of others is removed there either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return draft, lock


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _close(descriptor)


def _close(descriptor: int) -> None:
    """Close what was opened for reading: it is closed even if the system reports an error, and nothing can be lost."""
    with suppress(OSError):
        os.close(descriptor)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            try:
                rest = memoryview(content)
                while rest:  # a write may take less than it was given
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
    _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        _close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step; False where the system or file system cannot.

    Raises
    ------
    OSError
        If it can but failed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(second))


def _put_in_place(draft: Path, target: Path) -> None:
    """Make `draft` the folder at `target`. If the flush after it fails, the old folder is put back."""
    if not os.path.exists(target):
        os.rename(draft, target)
        undo = (target, draft)
    elif exchange(draft, target):
        undo = None
    else:
        backup = backup_of(target)
        os.rename(target, backup)
        try:
            os.rename(draft, target)
        except OSError:
            os.rename(backup, target)
            raise
        undo = (target, draft, backup, target)
    try:
        _sync(target.parent)
    except OSError:
        if undo is None:
            exchange(draft, target)
        else:
            for source, place in zip(undo[::2], undo[1::2], strict=True):
                os.rename(source, place)
        raise


def backup_of(target: Path) -> Path:
    """Where the old folder stands between the two renames of a system that cannot exchange."""
    return target.parent / f".{target.name}.bilstm-old"


def recover_folder(folder: str | Path) -> None:
    """Put the old folder back if a process died between the two renames; else do nothing.

    Raises
    ------
    OutputError
        If it is there but cannot be put back; the message names it.
    """
    target = Path(os.path.realpath(folder))
    backup = backup_of(target)
    if os.path.exists(target) or not os.path.exists(backup):
        return
    try:
        os.rename(backup, target)
    except OSError as error:
        if os.path.exists(target):  # another process was first
            return
        raise OutputError(
            f"{target} is missing and its former content {backup} cannot be renamed: {error.strerror}.",
            f"Rename {backup} to {target}.",
        ) from error


def remove_folder(folder: str | Path) -> None:
    """Remove a flat folder so that its path is either whole or gone: rename it aside, then delete the files.

    Raises
    ------
    WriteFailedError
        If it cannot be renamed.
    """
    target = Path(os.path.realpath(folder))
    recover_folder(target)
    if not os.path.exists(target):
        return
    aside = target.parent / f".{target.name}.bilstm-new-{secrets.token_hex(8)}"
    try:
        os.rename(target, aside)
    except OSError as error:
        raise WriteFailedError(f"{target}: cannot be removed: {error.strerror}.", "Remove it by hand.") from error
    _remove_quietly(aside)


def _remove_strays(target: Path) -> None:
    """Remove what killed or failed writers left beside `target`; a failure here loses nothing and is left for later."""
    with suppress(OSError), _locked(target.parent):
        _remove_strays_unlocked(target)


def _remove_strays_unlocked(target: Path) -> None:
    start = f".{target.name}.bilstm-new-"
    for name in os.listdir(target.parent):
        stray = target.parent / name
        if name.startswith(start) and _is_abandoned(stray):
            _remove_quietly(stray)
    if os.path.exists(target) and os.path.exists(backup_of(target)):
        _remove_quietly(backup_of(target))


def _is_abandoned(folder: Path) -> bool:
    """Whether no living process holds the lock of `folder` (the kernel drops the lock of a killed one)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        _close(descriptor)
    return True


def _remove_quietly(folder: Path) -> None:
    """Remove a flat folder; what cannot be removed stays and is tried again by the next writer."""
    with suppress(OSError):
        for name in os.listdir(folder):
            os.unlink(folder / name)
        os.rmdir(folder)
