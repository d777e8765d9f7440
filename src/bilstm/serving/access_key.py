"""The API key: read from a file or the environment, compared in constant time, never shown.

Also tickets: addresses that open one page for some minutes, for links and frames, which cannot send a key. Standard
library only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from bilstm.errors import InputNotFoundError, UsageError

__all__ = ["ENVIRONMENT_NAME", "AccessKeys", "Tickets", "read_keys"]

ENVIRONMENT_NAME = "BILSTM_API_KEY"
SHORTEST_KEY, LONGEST_KEY = 16, 512
TICKET_SECONDS = 600
_MAX_FILE_BYTES = 65_536


class AccessKeys:
    """Keys that open the server.

    Parameters
    ----------
    keys : sequence of str
        Several while one is being replaced by another.
    """

    def __init__(self, keys: list[str]):
        self._digests = [_digest(key.encode()) for key in keys]

    def match(self, given: bytes) -> bool:
        """Whether this is a key; takes the same time wherever a wrong one differs, and however long it is."""
        digest = _digest(given)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(file: str | Path | None, environment: Mapping[str, str] | None = None) -> AccessKeys | None:
    """Read keys from a file (one a line, # starts a comment), else from the environment; None if neither is given.

    Raises
    ------
    InputNotFoundError
        If the file is not there.
    UsageError
        If the file may be read by everybody, or a key is too short or holds other than visible ASCII.
    """
    environment = os.environ if environment is None else environment
    if file is None:
        key = environment.get(ENVIRONMENT_NAME)
        return None if key is None else AccessKeys([_checked(key, ENVIRONMENT_NAME)])
    path = Path(file)
    try:
        state = path.stat()
        data = path.read_bytes()[: _MAX_FILE_BYTES + 1]
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: a key must be visible ASCII characters.") from error
    except OSError as error:
        raise InputNotFoundError(f"{file}: the key file cannot be read: {error.strerror}.") from error
    if state.st_mode & stat.S_IROTH:
        raise UsageError(f"{file}: everybody on this machine may read it.", f"Close it: chmod 600 {file}")
    lines = [line.strip() for line in text.splitlines()]
    keys = [_checked(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line and line[0] != "#"]
    if not keys:
        raise UsageError(f"{file}: holds no key.", "Write one: openssl rand -hex 32")
    return AccessKeys(keys)


def _checked(key: str, where: str) -> str:
    if not SHORTEST_KEY <= len(key) <= LONGEST_KEY or not all(33 <= ord(character) <= 126 for character in key):
        raise UsageError(
            f"{where}: a key must be {SHORTEST_KEY} to {LONGEST_KEY} visible ASCII characters, found {len(key)}.",
            "Make one: openssl rand -hex 32",
        )
    return key


class Tickets:
    """Signed, short-lived permissions for one path each; the secret lives as long as the process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def issue(self, path: str) -> str:
        """Return a ticket that opens `path` for some minutes."""
        end = int(time.time()) + TICKET_SECONDS
        return f"{end}.{self._sign(path, end)}"

    def accepts(self, path: str, ticket: str) -> bool:
        """Whether a ticket opens `path` now."""
        end, _, signature = ticket.partition(".")
        if not (end.isascii() and end.isdigit()) or len(end) > 12 or not signature.isascii():
            return False
        return hmac.compare_digest(signature, self._sign(path, int(end))) and int(end) > time.time()

    def _sign(self, path: str, end: int) -> str:
        return hmac.new(self._secret, f"{end}:{path}".encode(), hashlib.sha256).hexdigest()
