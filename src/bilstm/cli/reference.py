"""The tables of settings in docs, made from the settings; `python -m bilstm.cli.reference` rewrites them.

Imports the settings of the tasks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bilstm.cli.settings_flags import default_of, merged_settings
from bilstm.serving.settings import ServingSettings
from bilstm.tasks import TASKS

__all__ = ["END", "START", "settings_table", "with_table"]

START, END = "<!-- settings: start -->", "<!-- settings: end -->"


def settings_table(verb: str = "train") -> str:
    """Write the settings of a verb, of all tasks that it trains, as a Markdown table."""
    types = {name: task.config_type for name, task in TASKS.items() if task.verb == verb}
    if verb == "serve":
        types = {verb: ServingSettings}
    merged = merged_settings(types)
    lines = ["| flag | allowed | default | what |", "|---|---|---|---|"]
    for by_task in merged.values():
        first = next(iter(by_task.values()))
        default = default_of(by_task, list(types)).replace("default: ", "")
        cells = (f"`{first.flag}`", first.allowed, default, first.help)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def with_table(page: str, verb: str = "train") -> str:
    """Return a page with the table of a verb's settings between its markers made anew."""
    before, rest = page.split(START)
    return f"{before}{START}\n{settings_table(verb)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    docs = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name, verb in (("cli.md", "train"), ("language_model.md", "pretrain"), ("serving.md", "serve")):
        file = docs / name
        file.write_text(with_table(file.read_text(encoding="utf-8"), verb), encoding="utf-8")
