"""The pages of docs/ say what is true: the table of settings, the exit codes, the examples."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from bilstm import errors
from bilstm.cli.app import VERBS
from bilstm.cli.reference import with_table

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def page():
    return (DOCS / "cli.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_settings(page):
    assert with_table(page) == page, "run python -m bilstm.cli.reference"
    assert page.count("| `--") > 50
    assert with_table(page.replace("| `--seed`", "| `--sed`")) == page


def test_every_exit_code_is_documented(page):
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.BilstmError]
    assert documented == {kind.exit_code for kind in kinds} | {0, 71}


def test_every_verb_is_shown_and_no_other(page):
    lines = re.findall(r"^    (?:cat \S+ \| )?bilstm (\w+)", page, re.MULTILINE)
    assert set(lines) == set(VERBS)
    for line in re.findall(r"^    (bilstm .*)$", page, re.MULTILINE):
        assert shlex.split(line, comments=True)[1] in VERBS


def test_the_examples_of_python_run(capsys):
    code = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    scope = {}
    for part in code:
        exec(part, scope)
    out = capsys.readouterr().out
    assert "['pos']" in out
    assert "Bidirectional LSTM" in out
    assert isinstance(scope["classifier"].predict(["good"]), np.ndarray)
