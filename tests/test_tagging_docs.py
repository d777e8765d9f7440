"""The guide to tagging says what is true: its Python runs, its schemes and options are those of the program."""

import re
import shlex
from pathlib import Path
from typing import get_args

import torch

from bilstm.cli.app import VERBS
from bilstm.config import describe
from bilstm.data.tags import Scheme, Span, spans_to_tags
from bilstm.tasks.sequence_tagging import Config

torch.set_num_threads(1)

PAGE = (Path(__file__).parent.parent / "docs" / "tagging.md").read_text(encoding="utf-8")


def test_python_runs(capsys):
    scope = {}
    for part in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(part, scope)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[['B-PER', 'O', 'O', 'B-LOC']]"
    assert lines[1].startswith("0 4 PER Anna")
    assert lines[-1].startswith("['Anna', 'lives', 'in', 'Rome', '.'] [(0, 4),")


def test_schemes_are_written_as_the_table_says():
    rows = re.findall(r"^\| (IOB1|IOB2|IOBES|BILOU|BMES)[^|]*\| `(.*?)` \| `(.*?)` \| `(.*?)` \|$", PAGE, re.MULTILINE)
    assert {name for name, *_ in rows} == set(get_args(Scheme)) - {"none"}
    for scheme, *cells in rows:
        for cell, spans in zip(cells, ([(0, 1)], [(0, 3)], [(0, 1), (1, 2)]), strict=True):
            found = spans_to_tags([Span(*place, "X") for place in spans], spans[-1][1], scheme)
            assert " ".join(tag.removesuffix("-X") for tag in found) == cell


def test_commands_and_options_exist():
    for line in re.findall(r"^    (bilstm .*)$", PAGE, re.MULTILINE):
        assert shlex.split(line, comments=True)[1] in VERBS
    settings = {"--" + setting.name.replace("_", "-") for setting in describe(Config)}
    verbs = {
        "--task",
        "--valid",
        "--label",
        "--text",
        "--json",
        "--file",
        "--format",
        "--unlabelled",
        "--skip-bad-rows",
    }
    assert set(re.findall(r"--[a-z][a-z-]*", PAGE)) <= settings | verbs
