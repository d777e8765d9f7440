"""Settings: frozen dataclasses whose fields say their help, unit, range and flag.

From one dataclass come the command line flags, the keys of a TOML file, the table in the docs and the checks. A task
composes `train_config.TrainConfig` with its own fields, by inheritance or as a section. Imports only `errors`.

Examples
--------
>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Config(Settings):
...     rate: float = field(0.1, help="Share of words dropped.", minimum=0.0, below=1.0)
...     seed: int = field(0, help="Seed of the masks.", minimum=0)
>>> from_mapping(Config, {"rate": 0.2}).rate
0.2
>>> [setting.flag for setting in describe(Config)]
['--rate', '--seed']
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bilstm.errors import InputNotFoundError, UsageError

__all__ = [
    "FLAGS",
    "Setting",
    "Settings",
    "changed_settings",
    "describe",
    "field",
    "from_mapping",
    "parse_text",
    "read_toml",
    "resolve",
    "to_mapping",
    "to_toml",
]

FLAGS = "command line"  # as `source`: errors then name the flag instead of the key

T = TypeVar("T")

_BOOL_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Setting:
    """One field of a settings dataclass, described.

    Parameters
    ----------
    name : str
        Key in TOML and in `to_mapping`; dotted (`"train.seed"`) when the field stands in a section.
    flag : str
        Command line flag, for example `"--learning-rate"`.
    kind : type
        `int`, `float`, `bool`, `str` or `tuple`.
    item_kinds : tuple of type
        For `tuple`: the kind of each item; one kind then `...` for any number of items.
    choices : tuple of str
        Allowed values; empty when any value of the kind is allowed.
    is_optional : bool
        None is allowed; in TOML and on the command line it is written `none`.
    default : Any
    help : str
        One sentence.
    unit : str or None
        For example "rows", "seconds".
    minimum, maximum : float or None
        Inclusive bounds, of every item for a tuple.
    above, below : float or None
        Exclusive bounds.
    changes_result : bool
        False for settings that a resumed run may change, because the trained weights do not depend on them.
    """

    name: str
    flag: str
    kind: type
    item_kinds: tuple[Any, ...]
    choices: tuple[str, ...]
    is_optional: bool
    default: Any
    help: str
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    changes_result: bool = True

    @property
    def allowed(self) -> str:
        """What is allowed, in words: type, range, unit."""
        if self.choices:
            text = "one of " + ", ".join(self.choices)
        else:
            names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a list"}
            text = names[self.kind] + (f" of {len(self.item_kinds)} numbers" if self._has_fixed_items else "")
        bounds = [
            f"{word} {_plain(bound)}"
            for word, bound in (
                ("at least", self.minimum),
                ("above", self.above),
                ("at most", self.maximum),
                ("below", self.below),
            )
            if bound is not None
        ]
        text += (" " + " and ".join(bounds)) if bounds else ""
        text += f" {self.unit}" if self.unit else ""
        return text + (", or none" if self.is_optional else "")

    @property
    def _has_fixed_items(self) -> bool:
        return bool(self.item_kinds) and self.item_kinds[-1] is not ...


def field(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    default_factory: Any = dataclasses.MISSING,
    unit: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    flag: str | None = None,
    changes_result: bool = True,
) -> Any:
    """Declare a field of a settings dataclass; see `Setting` for the parameters.

    With `default_factory`, another settings dataclass, the field is a section: a table of its own in TOML.
    """
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata={"section": help})
    details = {
        "help": help,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
        "flag": flag,
        "changes_result": changes_result,
    }
    return dataclasses.field(default=default, metadata={"setting": details})


@dataclass(frozen=True)
class Settings:
    """Base of settings dataclasses: every instance is checked when it is made.

    Raises
    ------
    UsageError
        Naming the field, the value found and what is allowed.
    """

    def __post_init__(self) -> None:
        for name, setting in _own_settings(type(self)).items():
            object.__setattr__(self, name, _checked(setting, getattr(self, name), ""))


@functools.cache
def _own_settings(settings_type: type) -> dict[str, Setting]:
    """Fields of `settings_type` that are not sections, by field name."""
    hints = get_type_hints(settings_type)
    return {
        member.name: _setting_of(member, hints[member.name])
        for member in dataclasses.fields(settings_type)
        if "setting" in member.metadata
    }


def _sections(settings_type: type) -> dict[str, type]:
    hints = get_type_hints(settings_type)
    return {f.name: hints[f.name] for f in dataclasses.fields(settings_type) if "section" in f.metadata}


def _setting_of(member: dataclasses.Field[Any], hint: Any) -> Setting:
    is_union = get_origin(hint) is Union or type(hint).__name__ == "UnionType"
    options = [option for option in get_args(hint) if option is not type(None)] if is_union else [hint]
    if len(options) != 1:
        raise TypeError(f"{member.name}: a setting has one type, or one type and None, not {hint}")
    is_optional = is_union and type(None) in get_args(hint)
    hint = options[0]
    choices: tuple[str, ...] = ()
    item_kinds: tuple[Any, ...] = ()
    kind = hint
    if get_origin(hint) is Literal:
        choices, kind = get_args(hint), str
    elif get_origin(hint) is tuple:
        item_kinds, kind = get_args(hint), tuple
    if kind not in (int, float, bool, str, tuple):
        raise TypeError(f"{member.name}: {hint} is not a type of setting")
    details = dict(member.metadata["setting"])
    flag = details.pop("flag") or "--" + member.name.replace("_", "-")
    return Setting(
        name=member.name,
        flag=flag,
        kind=kind,
        item_kinds=item_kinds,
        choices=choices,
        is_optional=is_optional,
        default=member.default,
        **details,
    )


def describe(settings_type: type, prefix: str = "") -> tuple[Setting, ...]:
    """List all settings of a dataclass in order, those of its sections with dotted names."""
    sections = _sections(settings_type)
    own = _own_settings(settings_type)
    found: list[Setting] = []
    for member in dataclasses.fields(settings_type):
        if member.name in sections:
            found += describe(sections[member.name], f"{prefix}{member.name}.")
        elif member.name in own:
            found.append(dataclasses.replace(own[member.name], name=prefix + member.name))
    return tuple(found)


def from_mapping(
    settings_type: type[T], mapping: Mapping[str, Any], source: str = "settings", base: T | None = None
) -> T:
    """Make settings from plain values; what is not named keeps the value of `base` or the default.

    Parameters
    ----------
    settings_type : type
        A dataclass derived from `Settings`.
    mapping : mapping
        Nested (`{"train": {"seed": 1}}`) or dotted (`{"train.seed": 1}`) names.
    source : str
        Where the values stand, for messages: a file name, or `FLAGS`.
    base : settings_type, optional
        Start from these values instead of the defaults.

    Raises
    ------
    UsageError
        For an unknown key (the nearest known one is named), a wrong type or a value out of range.
    """
    return _from_mapping(settings_type, mapping, source, base, "")


def _from_mapping(settings_type: type[T], mapping: Mapping[str, Any], source: str, base: T | None, prefix: str) -> T:
    """Do `from_mapping`; `prefix` is the dotted path of the section that `mapping` is."""
    sections = _sections(settings_type)
    own = _own_settings(settings_type)
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in mapping.items():
        head, _, rest = str(key).partition(".")
        if head in sections:
            if not rest and not isinstance(value, Mapping):
                raise UsageError(f"{source}: {prefix}{head} is a section with its own settings, got {value!r}.")
            nested.setdefault(head, {}).update({rest: value} if rest else value)
        elif key in own:
            values[key] = _checked(dataclasses.replace(own[key], name=prefix + key), value, source)
        else:
            raise _unknown_key(settings_type, prefix, str(key), source)
    for name, part in nested.items():
        inner = getattr(base, name) if base is not None else None
        values[name] = _from_mapping(sections[name], part, source, inner, f"{prefix}{name}.")
    return dataclasses.replace(base, **values) if base is not None else settings_type(**values)  # type: ignore[type-var]


def _unknown_key(settings_type: type, prefix: str, key: str, source: str) -> UsageError:
    settings = describe(settings_type, prefix)
    known = [setting.flag for setting in settings] if source == FLAGS else [setting.name for setting in settings]
    shown = "--" + key.replace("_", "-") if source == FLAGS else prefix + key
    written = shown if source == FLAGS else shown.replace("-", "_")
    nearest = difflib.get_close_matches(written, known, 1, 0.5)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known are: {', '.join(known)}."
    return UsageError(f"{source}: unknown setting {shown!r}.", hint)


def _checked(setting: Setting, value: Any, source: str) -> Any:
    """Return `value` in the type of `setting`, or raise UsageError."""
    shown = setting.flag if source == FLAGS else f"{source}: {setting.name}" if source else setting.name
    if value is None or (isinstance(value, str) and value == "none" and setting.is_optional):
        if setting.is_optional:
            return None
        raise UsageError(f"{shown} must be {setting.allowed}, got none.")
    converted = _converted(setting, value)
    if converted is None or not _is_in_range(setting, converted):
        raise UsageError(f"{shown} must be {setting.allowed}, got {value!r}.")
    return converted


def _converted(setting: Setting, value: Any) -> Any:
    """Return `value` as `setting.kind` where nothing is lost by it, else None."""
    if setting.kind is not tuple:
        value = _as_kind(setting.kind, value)
        return value if not setting.choices or value in setting.choices else None
    if not isinstance(value, list | tuple):
        return None
    kinds = setting.item_kinds
    if setting._has_fixed_items and len(value) != len(kinds):
        return None
    items = [_as_kind(kinds[i] if setting._has_fixed_items else kinds[0], item) for i, item in enumerate(value)]
    return None if None in items else tuple(items)


def _as_kind(kind: type, value: Any) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    if type(value) is kind:
        return value
    if kind is int and hasattr(value, "__index__") and not isinstance(value, bool):  # numpy integers, from searches
        return int(value.__index__())
    return None


def _is_in_range(setting: Setting, value: Any) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    return all(
        (setting.minimum is None or item >= setting.minimum)
        and (setting.maximum is None or item <= setting.maximum)
        and (setting.above is None or item > setting.above)
        and (setting.below is None or item < setting.below)
        for item in items
    )


def parse_text(setting: Setting, text: str) -> Any:
    """Read the text that follows a flag: `none`, `0.5`, `yes`, `0.9,0.999`.

    Raises
    ------
    UsageError
        If the text is not a value of this setting.
    """
    if text == "none" and setting.is_optional:
        return None
    kinds = setting.item_kinds if setting.kind is tuple else (setting.kind,)
    parts = text.split(",") if setting.kind is tuple else [text]
    if setting.kind is tuple and not setting._has_fixed_items:
        kinds = (kinds[0],) * len(parts)
    if len(parts) != len(kinds):
        raise UsageError(f"{setting.flag} must be {setting.allowed}, got {text!r}.")
    values = [_read_word(kind, part) for kind, part in zip(kinds, parts, strict=True)]
    if None in values:
        raise UsageError(f"{setting.flag} must be {setting.allowed}, got {text!r}.")
    return _checked(setting, tuple(values) if setting.kind is tuple else values[0], FLAGS)


def _read_word(kind: type, word: str) -> Any:
    """Return `word` as a value of `kind`, None if it is not one."""
    if kind is bool:
        return _BOOL_WORDS.get(word.strip().lower())
    try:
        return kind(word)
    except ValueError:
        return None


def to_mapping(config: Any) -> dict[str, Any]:
    """Write settings as plain nested values for JSON; tuples become lists."""
    plain = {}
    for member in dataclasses.fields(config):
        value = getattr(config, member.name)
        if dataclasses.is_dataclass(value):
            value = to_mapping(value)
        plain[member.name] = list(value) if isinstance(value, tuple) else value
    return plain


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of settings into plain values.

    Raises
    ------
    InputNotFoundError
        If the file is not there or may not be read.
    UsageError
        If it is not valid TOML; the message names the line.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise InputNotFoundError(f"{path}: cannot read the settings file: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start}).", "Save the settings file as UTF-8.") from error
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}.") from error


def resolve(settings_type: type[T], toml: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> T:
    """Merge defaults < TOML file < flags.

    Parameters
    ----------
    settings_type : type
        A dataclass derived from `Settings`.
    toml : path, optional
        Settings file.
    flags : mapping, optional
        Values by (dotted) name. A flag that was not given is left out.

    Raises
    ------
    UsageError, InputNotFoundError
        As `from_mapping` and `read_toml`.
    """
    settings = settings_type()
    if toml is not None:
        settings = from_mapping(settings_type, read_toml(toml), str(toml), settings)
    return from_mapping(settings_type, flags or {}, FLAGS, settings)


def to_toml(config: Any) -> str:
    """Write settings as a TOML file that `read_toml` and `from_mapping` read back to equal settings."""
    return "\n".join(_toml_lines(config, "")) + "\n"


def _toml_lines(config: Any, path: str) -> Iterator[str]:
    sections = _sections(type(config))
    for name, setting in _own_settings(type(config)).items():
        yield f"# {setting.help} ({setting.allowed})"
        yield f"{name} = {_toml_value(getattr(config, name))}"
    for name in sections:
        yield f"\n[{path}{name}]"
        yield from _toml_lines(getattr(config, name), f"{path}{name}.")


def _toml_value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        special = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
        escaped = (special.get(c) or (c if c.isprintable() else f"\\U{ord(c):08X}") for c in value)
        return '"' + "".join(escaped) + '"'
    return repr(value)


def changed_settings(before: Mapping[str, Any], now: Any) -> list[str]:
    """Name the settings that differ between a stored mapping and settings, of those that change the result.

    Returns
    -------
    list of str
        For example `["learning_rate was 0.001, is now 0.01"]`; empty if training may go on with `now`.
    """
    lines = []
    for setting in describe(type(now)):
        was, value = _dotted(before, setting.name), _dotted(to_mapping(now), setting.name)
        if setting.changes_result and was != value:
            lines.append(f"{setting.name} was {_plain(was)}, is now {_plain(value)}")
    return lines


def _dotted(mapping: Any, name: str) -> Any:
    for part in name.split("."):
        mapping = mapping.get(part) if isinstance(mapping, Mapping) else None
    return mapping


def _plain(value: Any) -> str:
    return "none" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)
