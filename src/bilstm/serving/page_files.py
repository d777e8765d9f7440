"""The page: plain files of the package, read once, sent with a policy that lets nothing else in.

Standard library only.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from dataclasses import dataclass

__all__ = ["CARD_HEADERS", "REPORT_HEADERS", "PageFile", "page_files"]

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# No inline script or style, no other origin, no frame around the page, and no string that becomes markup.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# The report is a page of its own, with styles but no script, and comes from a folder: it gets no origin at all.
REPORT_HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
}
CARD_HEADERS = {"content-security-policy": "sandbox; default-src 'none'; frame-ancestors 'none'"}


@dataclass(frozen=True)
class PageFile:
    """A file of the page: bytes and headers."""

    content: bytes
    headers: dict[str, str]

    @property
    def etag(self) -> str:
        """Return the value that names this content."""
        return self.headers["etag"]


def page_files() -> dict[str, PageFile]:
    """Read all files of the page, by name."""
    found = {}
    for file in importlib.resources.files("bilstm.serving").joinpath("page").iterdir():
        ending = file.name.rpartition(".")[2]
        if ending in _TYPES:
            content = file.read_bytes()
            headers = {
                "content-type": _TYPES[ending],
                "etag": f'"{hashlib.sha256(content).hexdigest()[:16]}"',
                "cache-control": "no-cache",
                "content-security-policy": PAGE_POLICY,
            }
            found[file.name] = PageFile(content, headers)
    return found
