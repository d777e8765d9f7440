"""The table of the speed benchmark, from its result file. Imports the standard library.

Run alone it writes the table again: `python benchmarks/engine_report.py [results/engine.json]`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["write_table"]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _family(variant: str) -> str:
    return "bf16" if "bf16" in variant or "int8" in variant else "fp32"


def _kind(variant: str) -> str:
    """Name of the floor that a variant of ours is held against."""
    return variant.removeprefix("bilstm-")


def _best(peers: dict[str, Any], *, fp32_only: bool) -> str | None:
    others = [name for name in peers if not name.startswith("bilstm") and not peers[name]["notes"]]
    if fp32_only:
        others = [name for name in others if _family(name) == "fp32"]
    return max(others, key=lambda name: peers[name]["sequences_per_s"]["median"], default=None)


def _summary_rows(cell: dict[str, Any]) -> list[str]:
    """Ours, the best peer and the floor: one row for each of our variants."""
    rows = []
    for name in (name for name in cell["peers"] if name.startswith("bilstm")):
        ours = cell["peers"][name]
        best = _best(cell["peers"], fp32_only=_family(name) == "fp32")
        ratio, best_shown = "-", "-"
        if best is not None:
            times = ours["times_faster_than"][best]
            ratio = f"{times['median']:.2f} ({times['min']:.2f}-{times['max']:.2f})"
            best_shown = f"{best} {_number(cell['peers'][best]['sequences_per_s']['median'])}"
        floor = cell["floor"].get(_kind(name))
        share = f"{100 * ours['sequences_per_s']['median'] / floor:.0f} % of {_number(floor)}" if floor else "-"
        speed = ours["sequences_per_s"]
        shown = f"{_number(speed['median'])} ({_number(speed['min'])}-{_number(speed['max'])})"
        where = f"| {cell['work']} {cell['mode']} | {cell['threads']} | {_kind(name)} "
        rows.append(f"{where}| {shown} | {best_shown} | {ratio} | {share} |")
    return rows


def _detail(cell: dict[str, Any]) -> list[str]:
    lines = [
        f"### {cell['work']} {cell['mode']}, {cell['threads']} thread{'s' if cell['threads'] > 1 else ''}",
        "",
        f"{cell['title']}.",
        f"{cell['rounds']} rounds, load average {cell['load_average']:.1f}, commit {cell['commit'][:10]}.",
        "",
        "| peer | sequences/s median (min-max) | per CPU second | step p50 / p99 ms | relative error | notes |",
        "|---|---|---|---|---|---|",
    ]
    ordered = sorted(cell["peers"].items(), key=lambda item: -item[1]["sequences_per_s"]["median"])
    for name, peer in ordered:
        speed, step = peer["sequences_per_s"], peer["step_ms"]
        versions = ", ".join(f"{key} {value}" for key, value in peer["versions"].items())
        notes = "; ".join(part for part in (versions, peer["notes"]) if part)
        shown = f"{_number(speed['median'])} ({_number(speed['min'])}-{_number(speed['max'])})"
        lines.append(
            f"| {name} | {shown} | {_number(peer['sequences_per_cpu_s']['median'])} "
            f"| {step['p50']:.3g} / {step['p99']:.3g} | {peer['relative_error']:.1e} | {notes} |"
        )
    lines += [f"| {name} | not run | - | - | - | {reason} |" for name, reason in cell["not_run"].items()]
    lines += ["", *(f"DISAGREES: {line}" for line in cell["disagreements"]), ""]
    return lines


def write_table(document: dict[str, Any], path: Path) -> str:
    """Write the tables as Markdown to `path` and return the summary."""
    summary = [
        "| work | threads | ours | sequences/s (min-max) | best peer | times faster, pair by pair | of the floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in document["cells"]:
        summary += _summary_rows(cell)
    head = [
        "# Speed of the engine",
        "",
        f"{document['cpu']}, {document['cores']} cores, {', '.join(document['instructions'])}. "
        "A row of bfloat16 is held against the best peer of all, one of float32 against the best float32 peer.",
        "",
    ]
    detail = [line for cell in document["cells"] for line in _detail(cell)]
    path.write_text("\n".join([*head, *summary, "", *detail]) + "\n")
    return "\n".join(summary)


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "engine.json"
    print(write_table(json.loads(source.read_text()), source.with_suffix(".md")))
