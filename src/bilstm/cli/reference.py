"""The table of settings in docs/cli.md, made from the settings; `python -m bilstm.cli.reference` rewrites it.

Imports the settings of the tasks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bilstm.cli.settings_flags import default_of, merged_settings
from bilstm.tasks import TASKS

__all__ = ["END", "START", "settings_table", "with_table"]

START, END = "<!-- settings: start -->", "<!-- settings: end -->"


def settings_table() -> str:
    """Write the settings of all tasks as a Markdown table."""
    merged = merged_settings({name: task.config_type for name, task in TASKS.items()})
    lines = ["| flag | allowed | default | what |", "|---|---|---|---|"]
    for by_task in merged.values():
        first = next(iter(by_task.values()))
        default = default_of(by_task, list(TASKS)).replace("default: ", "")
        cells = (f"`{first.flag}`", first.allowed, default, first.help)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Return a page with the table between its markers made anew."""
    before, rest = page.split(START)
    return f"{before}{START}\n{settings_table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/cli.md")
    file.write_text(with_table(file.read_text(encoding="utf-8")), encoding="utf-8")
