"""The engine's own test program under the sanitizers: no bad access, no undefined behaviour, no data race."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++ to build the test program"
)
@pytest.mark.timeout(1200)  # the first build takes half a minute of processor time, more on a busy machine
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_native_program(sanitizers):
    # kept between runs (build/ is not under version control): only changed files are compiled again
    folder = ROOT / "build" / f"native-{sanitizers.replace(',', '-')}"
    for command in (
        ["cmake", "-S", ROOT / "tests" / "native", "-B", folder, f"-DBILSTM_SANITIZE={sanitizers}"],
        ["cmake", "--build", folder, "--parallel", "2"],
        [folder / "test_engine", "12"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all good" in done.stdout
