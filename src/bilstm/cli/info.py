"""`bilstm info`: versions, processor, threads, and what would run the recurrent layers and why."""

from __future__ import annotations

import os
import platform
from typing import Annotated, Any

import typer

from bilstm.cli.output import print_json, print_line, print_table

__all__ = ["command", "facts"]


def facts() -> dict[str, Any]:
    """Gather what decides speed and results on this machine."""
    from bilstm.engine import available_threads, describe, kernels, status
    from bilstm.versions import environment

    engine = status()
    return {
        "versions": environment(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": available_threads(),
        "engine": {
            "available": engine.available,
            "runs": describe(),
            "kernels": kernels() if engine.available else {},
            "reason": engine.reason,
        },
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Print versions, processor, threads and which backend runs, and why."""
    found = facts()
    if as_json:
        print_json(found)
        return
    rows = [[name, version or "not installed"] for name, version in found["versions"].items()]
    rows += [["processor", found["processor"]], ["cores / threads", f"{found['cores']} / {found['threads']}"]]
    print_table(["what", "version or value"], rows)
    print_line()
    print_line(f"engine: {found['engine']['runs']}")
    for name, reason in found["engine"]["kernels"].items():
        print_line(f"  {name:<9} {'runs' if reason is None else 'does not run: ' + reason}")
