"""Make the n-th call to the system fail, for every n, once and from then on: the old model stays, nothing is claimed.

The loop is that of SQLite's tests: n = 1, 2, 3, ... until the operation succeeds without meeting its failure.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bilstm import atomic_folder
from bilstm.errors import OutputError, WriteFailedError
from bilstm.model_folder import load_model, save_model

CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "exchange", "listdir", "unlink", "rmdir")
REAL_EXCHANGE = atomic_folder.exchange


class FailingSystem:
    """Stands for `os` inside `atomic_folder`: counts the calls, fails the n-th (0: none), and all later ones if asked.

    A failing close closes all the same, as the kernel does; a failing write may have written a part first.
    """

    def __init__(self, n, code, is_lasting, has_exchange=True):
        self.n, self.code, self.is_lasting, self.has_exchange = n, code, is_lasting, has_exchange
        self.calls, self.failed = 0, []

    def __getattr__(self, name):
        real = getattr(os, name) if name != "fsync" else lambda descriptor: None  # hundreds of real ones take minutes
        return self.counted(name, real) if name in CALLS else real

    def counted(self, name, real):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self.n or (self.is_lasting and self.calls > self.n):
                self.failed.append(name)
                if name == "close":
                    real(*args)
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call

    def exchange(self, first, second):
        if not self.has_exchange:
            return False
        return self.counted("exchange", REAL_EXCHANGE)(first, second)


def save(folder, number, **options):
    weights = {"w": np.full(1000, number, np.float32)}
    save_model(folder, config={"number": number}, weights=weights, files={"vocabulary.txt": "a\n" * 9}, **options)


def number_of(folder):
    model = load_model(folder)
    assert (model.weights["w"] == model.config["number"]).all()
    return model.config["number"]


def failing(monkeypatch, system):
    monkeypatch.setattr(atomic_folder, "os", system)
    monkeypatch.setattr(atomic_folder, "exchange", system.exchange)


@pytest.mark.parametrize("has_exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_overwriting_with_every_call_failing(tmp_path, monkeypatch, code, is_lasting, has_exchange):
    path = tmp_path / "model"
    seen = set()
    for n in range(1, 500):
        monkeypatch.undo()
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        failing(monkeypatch, FailingSystem(0, 0, False))
        save(path, 1)
        system = FailingSystem(n, code, is_lasting, has_exchange)
        failing(monkeypatch, system)
        try:
            save(path, 2, overwrite=True)
        except (OutputError, WriteFailedError) as error:
            monkeypatch.undo()
            check_refusal(tmp_path, path, error, system)
        else:
            monkeypatch.undo()
            assert number_of(path) == 2  # a failure that was met only stopped the sweeping up
            if not system.failed:
                break
        seen.update(system.failed)
        failing(monkeypatch, FailingSystem(0, 0, False))
        save(path, 3, overwrite=True)  # what was left behind does not stand in the way, and is swept up
        assert number_of(path) == 3
        assert [name for name in os.listdir(tmp_path) if name != "model"] == []
    else:
        pytest.fail("saving never succeeded")
    assert seen >= {"open", "write", "fsync", "close", "mkdir", "listdir"}
    assert seen & {"exchange", "rename"}


def check_refusal(parent, path, error, system):
    text = str(error)
    assert "\n" not in text
    assert error.exit_code == (73 if system.code == errno.EACCES or "listed" in text or "created" in text else 74)
    assert str(parent) in text
    if number_of(path) == 1:
        return
    # Only when putting the old model back failed as well: the new one is complete at the path, the old one beside it
    assert system.is_lasting
    assert system.failed[0] in ("open", "fsync")  # flushing the folder above, after the exchange
    beside = [name for name in os.listdir(parent) if name != "model"]
    assert [number_of(parent / name) for name in beside] == [1]


@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "from then on"])
def test_a_first_save_with_every_call_failing_leaves_nothing_or_the_whole(tmp_path, monkeypatch, is_lasting):
    path = tmp_path / "runs" / "model"
    for n in range(1, 500):
        monkeypatch.undo()
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        system = FailingSystem(n, errno.ENOSPC, is_lasting)
        failing(monkeypatch, system)
        try:
            save(path, 2)
        except (OutputError, WriteFailedError):
            monkeypatch.undo()
            if path.exists():  # renamed into place, then neither flushed nor taken back
                assert system.is_lasting
                assert number_of(path) == 2
            elif not is_lasting:
                assert os.listdir(tmp_path) == []
            save(path, 3, overwrite=True)
        else:
            monkeypatch.undo()
            assert number_of(path) == 2
            if not system.failed:
                return
        assert os.listdir(path.parent) == ["model"]
    pytest.fail("saving never succeeded")


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    class Short:
        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, descriptor, data):
            return os.write(descriptor, data[:7])

    monkeypatch.setattr(atomic_folder, "os", Short())
    save(tmp_path / "model", 5)
    assert number_of(tmp_path / "model") == 5


def test_a_full_disk_says_how_much_is_needed_and_what_is_intact(tmp_path, monkeypatch):
    save(tmp_path / "model", 1)

    class Full:
        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, descriptor, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_folder, "os", Full())
    with pytest.raises(WriteFailedError) as caught:
        save(tmp_path / "model", 2, overwrite=True)
    text = str(caught.value)
    assert "writing failed: No space left on device (0.0 MB needed, " in text
    assert "What stood there is intact." in text
    assert "Free some space" in text
    assert caught.value.exit_code == 74
    assert number_of(tmp_path / "model") == 1


CHILD = """
import resource, signal, sys
import numpy as np
from bilstm.errors import BilstmError
from bilstm.model_folder import save_model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails with EFBIG
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    save_model(sys.argv[1], config={}, weights={"w": np.ones(500_000, np.float32)}, overwrite=True)
except BilstmError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
print("saved")
"""


def test_a_real_limit_of_file_size_ends_with_code_74(tmp_path):
    save(tmp_path / "model", 1)
    for limit in (100, 10_000, 1_000_000):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, tmp_path / "model", str(limit)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (74, ""), done.stderr
        assert "File too large" in done.stderr
        assert done.stderr.count("\n") == 1
        assert number_of(tmp_path / "model") == 1
        assert os.listdir(tmp_path) == ["model"]


def test_a_real_full_disk_ends_with_code_74(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        save(disk / "model", 1)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, disk / "model", "0"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (74, ""), done.stderr
        assert "No space left on device (2.0 MB needed" in done.stderr
        assert number_of(disk / "model") == 1
        assert os.listdir(disk) == ["model"]
    finally:
        subprocess.run(["umount", disk], check=True)


SAVER = """
import os, sys
import numpy as np
from bilstm.model_folder import save_model
print("ready", flush=True)
for line in sys.stdin:
    if os.fork() == 0:
        number = int(line)
        print(os.getpid(), flush=True)
        while True:
            number += 1
            weights = {"w": np.full(250_000, number, np.float32)}
            save_model(sys.argv[1], config={"number": number}, weights=weights, overwrite=True)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_kill_9_while_overwriting_leaves_a_complete_model(tmp_path):
    drawn, path, strays = random.Random(6), tmp_path / "model", 0
    save(path, 1)
    command = [sys.executable, "-c", SAVER, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == "ready\n"
        for kills in range(1, 300):
            server.stdin.write(f"{number_of(path)}\n")
            server.stdin.flush()
            process = int(server.stdout.readline())
            time.sleep(drawn.uniform(0.0, 0.06 + 0.01 * kills))  # the longer, the slower the disk
            os.kill(process, signal.SIGKILL)
            assert server.stdout.readline() == f"{-signal.SIGKILL}\n"
            assert number_of(path) >= 1
            strays += len(os.listdir(tmp_path)) > 1
            if kills >= 20 and strays >= 5 and number_of(path) >= 5:
                break
        else:
            pytest.fail("kills and saves did not meet")
    save(path, 3, overwrite=True)
    assert os.listdir(tmp_path) == ["model"]
