"""Command line flags made from settings dataclasses, so that no default or range is written twice.

The verb `train` has the settings of all tasks; which of them may be given is known when the task is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from bilstm.config import Setting, describe, parse_text
from bilstm.errors import UsageError

__all__ = ["given_settings", "merged_settings", "with_settings"]


_METAVARS = {int: "N", float: "X", bool: "yes|no", str: "TEXT", tuple: "A,B,..."}


def merged_settings(types: Mapping[str, type]) -> dict[str, dict[str, Setting]]:
    """Return name of a setting -> task -> its description, for the settings of all tasks in the order of the first."""
    merged: dict[str, dict[str, Setting]] = {}
    for task, settings_type in types.items():
        for setting in describe(settings_type):
            merged.setdefault(setting.name, {})[task] = setting
    return merged


def with_settings(types: Mapping[str, type], panel_of: Callable[[str], str]) -> Callable[[Callable[..., Any]], Any]:
    """Add one option a setting to a command, which receives the texts that were given as `flags: dict[str, str]`.

    Parameters
    ----------
    types : mapping of task to a dataclass derived from `Settings`
    panel_of : callable
        Heading in `--help` under which a setting, by name, stands.
    """
    merged = merged_settings(types)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(**values: Any) -> Any:
            texts = {name: values.pop(name) for name in merged}
            return command(**values, flags={name: text for name, text in texts.items() if text is not None})

        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "flags"]
        added = [_parameter(by_task, list(types), panel_of(name)) for name, by_task in merged.items()]
        wrapped.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return wrapped

    return decorate


def _parameter(by_task: dict[str, Setting], tasks: list[str], panel: str) -> inspect.Parameter:
    first = next(iter(by_task.values()))
    choices = list(dict.fromkeys(choice for setting in by_task.values() for choice in setting.choices))
    allowed = f" One of {', '.join(choices)}." if choices else ""
    option = typer.Option(
        first.flag,
        help=f"{first.help}{allowed} [{default_of(by_task, tasks)}]",
        rich_help_panel=panel,
        show_default=False,
        metavar="NAME" if choices else _METAVARS[first.kind],
    )
    return inspect.Parameter(
        first.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def default_of(by_task: Mapping[str, Setting], tasks: list[str]) -> str:
    """Say the default of a setting: `default: 8; sequence-tagging: 20`, or for which task alone it is."""
    first, *others = by_task.items()
    if len(by_task) < len(tasks):
        return f"{', '.join(by_task)}; default: {shown(first[1].default)}"
    differing = [f"{task}: {shown(s.default)}" for task, s in others if s.default != first[1].default]
    return "; ".join([f"default: {shown(first[1].default)}", *differing])


def shown(default: Any) -> str:
    """Write a default as it is typed."""
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)


def given_settings(types: Mapping[str, type], task: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Read the texts of the flags that were given, as the settings of one task.

    Raises
    ------
    UsageError
        Naming the flag, what was given and what is allowed, or the task that the flag belongs to.
    """
    merged = merged_settings(types)
    values = {}
    for name, text in texts.items():
        by_task = merged[name]
        if task not in by_task:
            flag = next(iter(by_task.values())).flag
            raise UsageError(f"{flag} is a setting of {', '.join(by_task)}; the task is {task}.", "Leave it out.")
        values[name] = parse_text(by_task[task], text)
    return values
