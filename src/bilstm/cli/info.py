"""`bilstm info`: versions, processor, threads, and what would run the recurrent layers and why."""

from __future__ import annotations

import os
import platform
from importlib.util import find_spec
from typing import Any

from bilstm.cli.options import AsJson
from bilstm.cli.output import print_json, print_line
from bilstm.engine import available_threads, choose_kernel, choose_precision, describe, kernels, status
from bilstm.versions import environment

__all__ = ["command", "facts"]


def facts() -> dict[str, Any]:
    """Gather what decides speed and results on this machine."""
    engine = status()
    return {
        "versions": environment(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": available_threads(),
        "training": _what_runs("torch") if find_spec("torch") is not None else _NO_TORCH,
        "prediction": _what_runs("numpy"),
        "precision_auto": choose_precision("auto") if engine.available else "float32",
        "kernel_auto": choose_kernel("auto", "auto") if engine.available else None,
        "engine": {
            "available": engine.available,
            "library": engine.path,
            "reason": engine.reason,
            "kernels": kernels() if engine.available else {},
        },
    }


_NO_TORCH = {"backend": None, "why": "torch is not installed: pip install 'bilstm[train]'"}


def _what_runs(other: str) -> dict[str, Any]:
    """Say what `--backend auto` in float32 takes: the engine, or `other` where the engine has nothing faster."""
    engine = status()
    if not engine.available:
        return {"backend": other, "why": f"the engine is not available: {engine.reason}"}
    if choose_kernel("auto", "float32") == "portable":
        return {"backend": other, "why": "the engine has only its portable kernel for this processor, which is slower"}
    return {"backend": "engine", "why": describe("auto", "float32", training=other == "torch")}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def command(as_json: AsJson = False) -> None:
    """Print versions, processor, threads and which backend runs, and why."""
    found = facts()
    if as_json:
        print_json(found)
        return
    rows = [[name, version or "not installed"] for name, version in found["versions"].items()]
    rows += [["processor", found["processor"]], ["cores / threads", f"{found['cores']} / {found['threads']}"]]
    width = max(len(name) for name, _ in [*rows, ("--precision auto", None)])
    for name, value in rows:
        print_line(f"{name:<{width}}  {value}")
    print_line()
    for verb in ("training", "prediction"):
        print_line(f"{verb:<{width}}  {found[verb]['backend'] or 'cannot run'}: {found[verb]['why']}")
    kernel = f" (kernel {found['kernel_auto']})" if found["kernel_auto"] is not None else ""
    print_line(f"{'--precision auto':<{width}}  {found['precision_auto']}{kernel}")
    if not found["engine"]["available"]:
        return
    print_line()
    print_line("kernels of the engine")
    for name, reason in found["engine"]["kernels"].items():
        print_line(f"  {name:<{width - 2}}  {'runs' if reason is None else f'does not run: {reason}'}")
