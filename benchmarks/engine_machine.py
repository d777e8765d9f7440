"""What a measurement has to say about where it comes from. Imports the standard library."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["describe_machine"]

_INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
)


def describe_machine() -> dict[str, Any]:
    """Return CPU model, cores, instruction sets, system, commit, command and time."""
    fields: dict[str, str] = {}
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "cpu_family_model_stepping": [fields.get(key) for key in ("cpu family", "model", "stepping")],
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "src", "csrc", "benchmarks/*.py")),
        "command": " ".join([Path(sys.executable).name, *map(without_folder, sys.argv)]),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def without_folder(word: str) -> str:
    """Return a word of a command; of an absolute path, which says something of this machine only, its last part."""
    return Path(word).name if Path(word).is_absolute() else word


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent.parent
    result = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else "unknown"
