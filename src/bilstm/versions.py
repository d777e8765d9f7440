"""Versions of bilstm and of what it runs on, for reports, folders and `bilstm info`. Imports the standard library."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["environment", "tool_version"]

_LIBRARIES = ("numpy", "torch", "scikit-learn", "polars", "tokenizers", "safetensors")


def tool_version() -> str:
    """Return the installed version of bilstm, "source" when it runs from a tree that is not installed."""
    try:
        return version("bilstm")
    except PackageNotFoundError:
        return "source"


def environment() -> dict[str, str | None]:
    """Return name and version of Python, the platform and every library that matters; None: not installed."""
    found: dict[str, str | None] = {
        "bilstm": tool_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
