"""Stages import only what stands above them; importing bilstm is light."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "bilstm"
HEAVY = ("torch", "sklearn", "scipy", "polars", "gensim", "tokenizers", "pandas", "pydantic")
OUTSIDE = {"__init__", "__main__"}  # the doors: they name everything, and import it when it is asked for


def stages_of_the_table(text: str) -> dict[str, int]:
    """Name of a stage -> number of its row in the table of ARCHITECTURE.md."""
    rows = [line for line in text.split("## Stages")[1].split("\n## ")[0].splitlines() if line.startswith("| `")]
    return {
        name.removesuffix(".py").rstrip("/"): number
        for number, row in enumerate(rows)
        for name in re.findall(r"`([a-z_]+(?:\.py|/))`", row.split("|")[1])
    }


def imports_of(source: str) -> list[str]:
    """Full names of what a module imports from bilstm, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the stage"
            if node.module == "bilstm":
                found += [f"bilstm.{alias.name}" for alias in node.names]
            elif node.module and node.module.startswith("bilstm."):
                found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("bilstm.")]
    return found


def violations(sources: dict[str, str], stages: dict[str, int]) -> list[str]:
    """Imports from a later row of the table; the same row is allowed."""
    found = []
    for module, source in sources.items():
        stage = module.split(".")[1]
        if stage in OUTSIDE:
            continue
        for target in imports_of(source):
            wanted = target.split(".")[1]
            if stages[wanted] > stages[stage]:
                found.append(f"{module} imports {target}")
    return found


@pytest.fixture(scope="module")
def stages():
    return stages_of_the_table((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sources():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if text.strip():
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            found[".".join(parts)] = text
    return found


def test_every_module_has_a_stage(stages, sources):
    assert {module.split(".")[1] for module in sources} - OUTSIDE == set(stages) & {m.split(".")[1] for m in sources}
    assert len(sources) > 100


def test_stages_import_only_what_stands_above_them(stages, sources):
    assert violations(sources, stages) == []


@pytest.mark.parametrize(
    "planted",
    [
        "from bilstm.tasks import load",
        "from bilstm import estimators",
        "import bilstm.cli.app",
        "def later():\n    from bilstm.training.loop import train",
    ],
)
def test_a_planted_violation_is_found(stages, sources, planted):
    changed = {**sources, "bilstm.data.records": sources["bilstm.data.records"] + "\n" + planted}
    assert len(violations(changed, stages)) == 1


def modules_after(code: str, *arguments: str) -> list[str]:
    """Names of the modules that are loaded after some code, in a fresh interpreter."""
    program = f"import sys, json\n{code}\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stderr)


def heavy(modules: list[str]) -> list[str]:
    return [name for name in HEAVY if name in modules]


def test_import_bilstm_is_light():
    modules = modules_after("import bilstm")
    assert heavy(modules) == []
    assert "numpy" not in modules
    assert [name for name in modules if name.startswith("bilstm")] == ["bilstm"]
    assert len(modules) < 120  # measured: 70


def test_import_bilstm_takes_little_processor_time():
    program = "import time; t = time.process_time(); import bilstm; print(time.process_time() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds) < 0.3  # processor time, so that a busy machine does not count; measured: 0.01


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_is_light(arguments):
    code = f"from bilstm.cli import main\nassert main({arguments!r}) == 0"
    modules = modules_after(code)
    assert heavy(modules) == []
    assert "numpy" not in modules


@pytest.mark.parametrize(
    "code",
    [
        "import bilstm; bilstm.load",
        "import bilstm; bilstm.read_records",
        "import bilstm; bilstm.summary",
        "import bilstm.engine",
        "import bilstm.runtime.model",
        "import bilstm.tasks.text_classification",
        "import bilstm.tasks.sequence_tagging",
        "from bilstm.cli.app import VERBS, verb\nfor name in VERBS: verb(name)",
    ],
)
def test_predicting_needs_no_torch(code):
    assert heavy(modules_after(code)) == []


def test_names_of_the_package():
    import bilstm

    assert set(bilstm.__all__) <= set(dir(bilstm))
    for name in bilstm.__all__:
        assert getattr(bilstm, name) is not None
    # a module of the same name would take the place of the function once it is imported
    assert not {path.stem for path in PACKAGE.glob("*.py")} & set(bilstm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bilstm.nonsense
