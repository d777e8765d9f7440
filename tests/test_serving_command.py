"""`bilstm serve` refuses what is not safe or not there in one line, before it listens."""

import builtins
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import served_models
from bilstm.cli.reference import with_table
from bilstm.errors import UsageError
from bilstm.model_folder import load_model, save_model
from bilstm.serving.access_key import Tickets, read_keys
from bilstm.serving.gate import is_loopback, path_label
from bilstm.serving.model_shelf import named_folders
from bilstm.serving.refusal import CODES
from cli_runs import run
from serving_process import serving

KEY = "a-key-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return served_models.save(served_models.reviews(), tmp_path_factory.mktemp("models") / "reviews")


@pytest.fixture(autouse=True)
def no_key_outside(monkeypatch):
    monkeypatch.delenv("BILSTM_API_KEY", raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_need_a_key(capsys, folder, host):
    done = run(capsys, "serve", folder, "--host", host, "--port", "0")
    assert done.code == 2
    assert "no API key" in done.error
    assert "--api-key-file" in done.error


def test_without_a_key_only_when_it_is_said(folder):
    with serving(folder, options=["--host", "0.0.0.0", "--without-key", "yes"]) as server:
        assert server.predict("good").status == 200
        assert "without a key" in server.events("open")[0]["message"]


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("tiny7-key\n", 0o600, "16 to 512"),
        ("", 0o600, "holds no key"),
        ("# only a comment\n", 0o600, "holds no key"),
        ("a key with spaces in it, long enough\n", 0o600, "visible ASCII"),
        ("schlüssel-der-lang-genug-ist\n", 0o600, "visible ASCII"),
        (KEY, 0o644, "everybody"),
    ],
)
def test_key_files(capsys, folder, tmp_path, content, mode, message):
    keys = tmp_path / "keys"
    keys.write_text(content, encoding="utf-8")
    keys.chmod(mode)
    done = run(capsys, "serve", folder, "--api-key-file", keys, "--port", "0")
    assert done.code == 2
    assert message in done.error
    assert not content or content.strip() not in done.err


def test_a_key_file_that_is_not_there(capsys, folder, tmp_path):
    assert run(capsys, "serve", folder, "--api-key-file", tmp_path / "none").code == 66


def test_keys_are_compared_whole():
    keys = read_keys(None, {"BILSTM_API_KEY": KEY})
    assert keys.match(KEY.encode())
    for wrong in (b"", KEY[:-1].encode(), (KEY + " ").encode(), KEY.swapcase().encode(), KEY.encode("utf-16")):
        assert not keys.match(wrong)
    assert read_keys(None, {}) is None
    with pytest.raises(UsageError, match="16 to 512"):
        read_keys(None, {"BILSTM_API_KEY": "short"})


def test_tickets_end(monkeypatch):
    import time

    tickets, other = Tickets(), Tickets()
    ticket = tickets.issue("/a")
    assert tickets.accepts("/a", ticket)
    assert not tickets.accepts("/b", ticket)
    assert not other.accepts("/a", ticket)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert not tickets.accepts("/a", ticket)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [(["a/reviews"], ["reviews"]), (["x=a/reviews", "y=a/reviews"], ["x", "y"]), (["a/reviews/"], ["reviews"])],
)
def test_names(arguments, names):
    assert list(named_folders(arguments)) == names


@pytest.mark.parametrize("arguments", [[], ["a/b c"], ["x="], ["a/m", "b/m"], ["x=a", "x=b"], ["/"], ["..=a/b c"]])
def test_names_that_are_not_allowed(arguments):
    with pytest.raises(UsageError):
        named_folders(arguments)


def test_a_model_that_is_not_there(capsys, tmp_path):
    done = run(capsys, "serve", tmp_path / "none", "--port", "0")
    assert (done.code, "none" in done.error) == (66, True)


def test_a_model_of_a_task_that_is_not_served(capsys, folder, tmp_path):
    stored = load_model(folder)
    config = {**stored.config, "task": "language-model"}
    other = save_model(tmp_path / "other", config=config, weights=stored.weights, files=stored.files)
    done = run(capsys, "serve", other, "--port", "0")
    assert done.code == 2
    assert "language-model" in done.error


def test_a_port_in_use(capsys, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(capsys, "serve", folder, "--port", taken.getsockname()[1])
    assert done.code == 73
    assert "cannot be listened on" in done.error


@pytest.mark.parametrize(
    "flags", [["--port", "70000"], ["--batch-texts", "0"], ["--request-seconds", "nan"], ["--max-body-bytes", "1"]]
)
def test_settings_out_of_range(capsys, folder, flags):
    done = run(capsys, "serve", folder, *flags)
    assert done.code == 2
    assert flags[0] in done.error


def test_settings_from_a_file(folder, tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text("max_texts = 2\nmax_text_chars = 9\n")
    with serving(folder, options=["--config", file, "--max-text-chars", "10"]) as server:
        assert server.predict("x" * 10, "y").status == 200
        assert server.predict("x" * 11).code == "text_too_long"
        assert server.predict("a", "b", "c").status == 422


def test_without_the_extra(capsys, folder, monkeypatch):
    original = builtins.__import__

    def without_uvicorn(name, *rest):
        if name.partition(".")[0] == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return original(name, *rest)

    for name in [
        name for name in sys.modules if name.startswith(("bilstm.serving.http", "bilstm.serving.conn", "uvicorn"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_uvicorn)
    done = run(capsys, "serve", folder)
    assert done.code == 69
    assert "pip install 'bilstm[serve]'" in done.error


def test_serving_needs_no_torch(folder):
    program = (
        "import sys\nfrom pathlib import Path\n"
        "import bilstm.serving.http_server, bilstm.explanation\n"
        "from bilstm.serving.served_model import read_model\n"
        "from bilstm.serving.explaining import explain_texts\n"
        "model = read_model('m', Path(sys.argv[1]))\n"
        "explain_texts(model, None, None, 'auto', ['good film'])\n"
        "print(sorted({'torch', 'sklearn', 'scipy', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_small_parts():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")] == [True] * 5
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "")] == [False] * 5
    labels = {path_label(f"/v1/models/{number}/x") for number in range(50)} | {path_label(f"/{n}") for n in range(50)}
    assert labels == {"/v1/models/{name}", "other"}  # strangers cannot make new series


def test_the_page_of_the_docs_says_what_is_true():
    page = (Path(__file__).parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    assert with_table(page, "serve") == page, "run python -m bilstm.cli.reference"
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", page, re.MULTILINE)
    documented = {code for _, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert documented == set(CODES) - {"internal"}
    assert {int(status) for status, _ in rows} == {400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 431, 503}
