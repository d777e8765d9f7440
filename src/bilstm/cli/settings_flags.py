"""Command line flags made from a settings dataclass, so that no default or range is written twice."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from bilstm.config import Setting, describe, parse_text

__all__ = ["given_settings", "with_settings"]


def with_settings(
    settings_type: type | tuple[type, ...], panel_of: Callable[[str], str]
) -> Callable[[Callable[..., Any]], Any]:
    """Add one option a setting to a command, which receives those that were given as `settings: dict[str, Any]`.

    Parameters
    ----------
    settings_type : type or tuple of types
        Dataclasses derived from `Settings`. Of a name that several have, the first one is shown; which task allows
        which value is checked when the settings of the task are made.
    panel_of : callable
        Heading in `--help` under which a setting, by name, stands.
    """
    types = settings_type if isinstance(settings_type, tuple) else (settings_type,)
    settings: dict[str, Setting] = {}
    for one in types:
        for setting in describe(one):
            settings.setdefault(setting.name, setting)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(**values: Any) -> Any:
            texts = {name: values.pop(name) for name in settings}
            return command(**values, settings=given_settings(settings, texts))

        hints = get_type_hints(command, include_extras=True)  # typer reads objects, not the names of annotations
        parameters = inspect.signature(command).parameters.values()
        own = [p.replace(annotation=hints[p.name]) for p in parameters if p.name != "settings"]
        added = [_parameter(setting, panel_of(name)) for name, setting in settings.items()]
        wrapped.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return wrapped

    return decorate


def _parameter(setting: Setting, panel: str) -> inspect.Parameter:
    default = "none" if setting.default is None else setting.default
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    metavar = "|".join(setting.choices) if setting.choices else setting.kind.__name__.upper().replace("TUPLE", "LIST")
    option = typer.Option(
        setting.flag,
        help=f"{setting.help} [default: {shown}]",
        rich_help_panel=panel,
        show_default=False,
        metavar=metavar,
    )
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def given_settings(settings: dict[str, Setting], texts: dict[str, str | None]) -> dict[str, Any]:
    """Read the texts of the flags that were given.

    Raises
    ------
    UsageError
        Naming the flag, what was given and what is allowed.
    """
    return {name: parse_text(settings[name], text) for name, text in texts.items() if text is not None}
