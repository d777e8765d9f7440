import dataclasses
import tomllib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from bilstm.config import (
    FLAGS,
    Settings,
    changed_settings,
    describe,
    field,
    from_mapping,
    parse_text,
    read_toml,
    resolve,
    to_mapping,
    to_toml,
)
from bilstm.errors import InputNotFoundError, UsageError
from bilstm.train_config import TrainConfig


@dataclass(frozen=True)
class Inner(Settings):
    size: int = field(8, help="Size.", minimum=1, maximum=64, unit="features")
    rate: float | None = field(0.5, help="Rate.", minimum=0.0, below=1.0)


@dataclass(frozen=True)
class Outer(Settings):
    name: str = field("a", help="Name.")
    kind: Literal["one", "two"] = field("one", help="Kind.", flag="--which")
    is_on: bool = field(False, help="Switch.", changes_result=False)
    sizes: tuple[int, ...] = field((1, 2), help="Sizes.", minimum=1)
    pair: tuple[float, float] = field((0.5, 1.0), help="Pair.", above=0.0)
    inner: Inner = field(default_factory=Inner, help="Inner.")


def test_defaults_are_within_their_own_ranges():
    assert TrainConfig() == from_mapping(TrainConfig, to_mapping(TrainConfig()))


def test_every_setting_has_help_ending_in_a_full_stop_and_a_flag_of_its_own():
    settings = describe(TrainConfig)
    assert [s.name for s in settings] == [f.name for f in dataclasses.fields(TrainConfig)]
    assert len({s.flag for s in settings}) == len(settings)
    assert all(s.help.endswith(".") and s.flag.startswith("--") for s in settings)


def test_describe_lists_sections_with_dotted_names_and_own_flags():
    names = {s.name: s for s in describe(Outer)}
    assert list(names) == ["name", "kind", "is_on", "sizes", "pair", "inner.size", "inner.rate"]
    assert names["kind"].flag == "--which"
    assert names["kind"].choices == ("one", "two")
    assert names["inner.size"].allowed == "a whole number at least 1 and at most 64 features"
    assert names["inner.rate"].allowed == "a number at least 0 and below 1, or none"
    assert names["pair"].allowed == "a list of 2 numbers above 0"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"inner": {"size": 3}}, Outer(inner=Inner(size=3))),
        ({"inner.size": 3, "inner": {"rate": None}}, Outer(inner=Inner(size=3, rate=None))),
        ({"inner.rate": "none"}, Outer(inner=Inner(rate=None))),
        ({"sizes": [4], "pair": [1, 2]}, Outer(sizes=(4,), pair=(1.0, 2.0))),
        ({"inner.rate": 0}, Outer(inner=Inner(rate=0.0))),
        ({"inner.size": np.int64(5)}, Outer(inner=Inner(size=5))),
    ],
)
def test_values_are_taken(given, expected):
    found = from_mapping(Outer, given)
    assert found == expected
    assert type(found.inner.size) is int


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"inner.size": 0}, "run.toml: inner.size must be a whole number at least 1 and at most 64 features, got 0."),
        ({"inner.size": 65}, "at most 64"),
        ({"inner.size": 2.0}, "got 2.0"),
        ({"inner.size": True}, "got True"),
        ({"inner.size": "8"}, "got '8'"),
        ({"inner.rate": 1.0}, "below 1"),
        ({"inner.rate": float("nan")}, "got nan"),
        ({"inner.rate": float("inf")}, "got inf"),
        ({"inner": 3}, "inner is a section with its own settings, got 3"),
        ({"is_on": 1}, "true or false, got 1"),
        ({"name": None}, "name must be text, got none"),
        ({"kind": "three"}, "one of one, two, got 'three'"),
        ({"pair": [1.0]}, "a list of 2 numbers"),
        ({"pair": [1.0, 0.0]}, "above 0"),
        ({"sizes": [1, "x"]}, "got [1, 'x']"),
        ({"nmae": "x"}, "unknown setting 'nmae'. Did you mean 'name'?"),
        ({"inner": {"sise": 1}}, "unknown setting 'inner.sise'. Did you mean 'inner.size'?"),
        ({"qqqq": 1}, "Known are: name, kind,"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line_that_names_it(given, words):
    with pytest.raises(UsageError) as caught:
        from_mapping(Outer, given, "run.toml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("run.toml: ")
    assert "\n" not in str(caught.value)


def test_a_config_made_by_hand_is_checked_too():
    with pytest.raises(UsageError, match="learning_rate must be a number above 0 and at most 100, got -1"):
        TrainConfig(learning_rate=-1)
    with pytest.raises(UsageError, match="patience"):
        dataclasses.replace(TrainConfig(), patience=0)


def test_errors_from_the_command_line_name_the_flag():
    with pytest.raises(UsageError, match="--learning-rate must be a number above 0"):
        resolve(TrainConfig, flags={"learning_rate": 0.0})
    with pytest.raises(UsageError, match=r"unknown setting '--learning-rte'. Did you mean '--learning-rate'\?"):
        from_mapping(TrainConfig, {"learning_rte": 1}, FLAGS)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("inner.size", "12", 12),
        ("inner.rate", "none", None),
        ("inner.rate", "0.25", 0.25),
        ("is_on", "yes", True),
        ("is_on", "Off", False),
        ("kind", "two", "two"),
        ("name", "none", "none"),
        ("sizes", "4,5, 6", (4, 5, 6)),
        ("pair", "0.9,0.99", (0.9, 0.99)),
    ],
)
def test_text_after_a_flag(name, text, value):
    setting = {s.name: s for s in describe(Outer)}[name]
    assert parse_text(setting, text) == value


@pytest.mark.parametrize(
    ("name", "text"), [("inner.size", "x"), ("inner.size", "99"), ("is_on", "maybe"), ("pair", "1"), ("kind", "zwei")]
)
def test_text_that_is_no_value_is_refused(name, text):
    setting = {s.name: s for s in describe(Outer)}[name]
    with pytest.raises(UsageError, match=f"^{setting.flag} must be .*, got '?{text}'?[.]$"):
        parse_text(setting, text)


def test_flags_win_over_toml_and_toml_over_defaults(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('name = "b"\nkind = "two"\n[inner]\nsize = 9\nrate = 0.1\n', encoding="utf-8")
    found = resolve(Outer, path, {"kind": "one", "inner.rate": "none"})
    assert found == Outer(name="b", kind="one", inner=Inner(size=9, rate=None))


def test_toml_written_is_read_back_equal(tmp_path):
    config = Outer(name='q"\\\n\tü\x7f\u2028', is_on=True, sizes=(3,), pair=(1e-7, 3.0), inner=Inner(rate=None))
    path = tmp_path / "run.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert from_mapping(Outer, read_toml(path)) == config
    assert tomllib.loads(to_toml(TrainConfig()))["patience"] == 3


def test_a_bad_toml_file_is_refused_with_its_line(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("seed = 1\nseed = 2\n")
    with pytest.raises(UsageError, match=r"run.toml: not valid TOML: .*line 2"):
        read_toml(path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(UsageError, match=r"not UTF-8 text \(byte 8\)"):
        read_toml(path)
    with pytest.raises(InputNotFoundError, match="absent"):
        read_toml(tmp_path / "absent.toml")


def test_changed_settings_names_only_those_that_change_the_result():
    stored = to_mapping(Outer())
    now = Outer(name="b", is_on=True, inner=Inner(rate=None))
    assert changed_settings(stored, now) == ["name was a, is now b", "inner.rate was 0.5, is now none"]
    assert changed_settings(stored, Outer(is_on=True)) == []
    assert changed_settings({}, Outer(name="b"))[0] == "name was none, is now b"
