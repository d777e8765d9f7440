"""Bad input through the command: one clear line, the documented exit code, no traceback, nothing half-written.

One case a kind; what the readers notice in full stands in test_bad_input.py and test_tables.py.
"""

import gzip
import os
import resource
import shutil
import signal
from unittest.mock import patch

import numpy as np
import pytest

import bilstm
from bilstm import model_folder
from bilstm.cli import main
from cli_runs import FAST, labelled_rows, run, write_csv

GOOD = "text,label\n" + "".join(f"{text},{label}\n" for text, label in labelled_rows(40))


def utf8(text):
    return text.encode("utf-8")


# content of the file, further arguments, exit code, what the line says
FILES = {
    "empty file": (b"", [], 65, ["data.csv", "empty"]),
    "blank lines only": (b"\n\n\n", [], 65, ["data.csv"]),
    "header only": (b"text,label\n", [], 65, ["data.csv", "no data rows, only a header"]),
    "no header": (utf8(GOOD.split("\n", 1)[1]), [], 65, ["data.csv:1", "looks like a row"]),
    "missing column": (utf8(GOOD), ["--text", "txet"], 65, ["no column 'txet' (--text)", "Did you mean 'text'?"]),
    "missing label column": (utf8(GOOD), ["--label", "labels"], 65, ["no column 'labels'", "Did you mean 'label'?"]),
    "one class": (utf8(GOOD.replace("neg", "pos")), [], 65, ["pos"]),
    "labels missing": (utf8(GOOD + "no label,\n"), [], 65, ["data.csv:42", "1 of 41 rows", "--skip-bad-rows"]),
    "not UTF-8": (utf8(GOOD) + b"sch\xf6n,pos\n", [], 65, ["data.csv:42", "--encoding"]),
    "UTF-16 cut short": (GOOD.encode("utf-16")[:-1], [], 65, ["data.csv"]),
    "NUL bytes": (utf8(GOOD) + b"a\0b,pos\n", [], 65, ["data.csv:42", "NUL"]),
    "row too long": (utf8(GOOD + "a,b,c\n"), [], 65, ["data.csv:42", "--skip-bad-rows"]),
    "row too short": (utf8(GOOD + "alone\n"), [], 65, ["data.csv:42", "--skip-bad-rows"]),
    "unclosed quote": (utf8(GOOD + '"never ends,pos\n'), [], 65, ["data.csv:42", "quot"]),
    "duplicate header": (utf8(GOOD.replace("text,label", "text,text", 1)), [], 65, ["data.csv", "text"]),
    "more than a limit": (utf8(GOOD), ["--max-bytes", "100"], 65, ["data.csv", "100"]),
    "gzip bomb": (gzip.compress(b"text,label\n" + (b"a" * 2**20 + b",b\n") * 80, 1), [], 65, ["data.csv", "unpack"]),
    "gzip cut short": (gzip.compress(utf8(GOOD))[:-20], [], 65, ["data.csv"]),
    "Excel workbook": (b"PK\x03\x04rest", [], 65, ["data.csv", "Unpack"]),
    "unknown encoding": (utf8(GOOD), ["--encoding", "utf-99"], 2, ["utf-99"]),
    "numbers that are none": (utf8(GOOD), ["--label-kind", "regression"], 65, ["data.csv:2", "neg"]),
    "unknown label kind": (utf8(GOOD), ["--label-kind", "colour"], 2, ["colour"]),
    "split of nothing": (utf8(GOOD), ["--split", "half"], 2, ["half"]),
    "split of more rows": (utf8(GOOD), ["--split", "100:10"], 65, ["110", "40"]),
    "only empty texts": (b"text,label\n" + b'"",a\n"",b\n' * 10, [], 65, ["no word"]),
    "one row": (b"text,label\nfine,a\n", [], 65, ["nothing to learn from one class"]),
    "settings file missing": (utf8(GOOD), ["--config", "none.toml"], 66, ["none.toml"]),
    "development file missing": (utf8(GOOD), ["--valid", "none.csv"], 66, ["none.csv"]),
}


@pytest.mark.parametrize("case", FILES)
def test_training_on_bad_files(capsys, tmp_path, monkeypatch, case):
    content, arguments, code, parts = FILES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_bytes(content)
    done = run(capsys, "train", "data.csv", "-o", "model", "--no-baseline", *FAST, *arguments)
    line = done.err.splitlines()[-1]
    assert done.code == code, done.err
    assert line.startswith("bilstm: ")
    for part in parts:
        assert part in line, line
    assert "Traceback" not in done.err
    assert done.out == ""
    assert os.listdir(tmp_path) == ["data.csv"]


def test_errors_as_json(capsys, tmp_path):
    done = run(capsys, "train", tmp_path / "none.csv", "-o", tmp_path / "m", "--json")
    assert done.code == 66
    error = done.json["error"]
    assert (error["kind"], error["exit_code"]) == ("InputNotFoundError", 66)
    assert "no such file" in error["message"]


def test_a_missing_file_names_similar_ones(capsys, tmp_path):
    write_csv(tmp_path / "reviews.csv", labelled_rows(10))
    done = run(capsys, "train", tmp_path / "review.csv", "-o", tmp_path / "m")
    assert done.code == 66
    assert "reviews.csv" in done.error


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"\xef\xbb\xbf" + utf8(GOOD.replace("\n", "\r\n")), 40),
        (utf8(GOOD.replace(",", ";")), 40),
        (utf8(GOOD.replace(",", "\t")), 40),
        (GOOD.encode("utf-16"), 40),
        (utf8(GOOD + "\u05d8\u05d5\u05d1 \U0001f600,pos\n" + '"",neg\n'), 42),
        (utf8(GOOD + "NA,pos\nNone,neg\n007,pos\n"), 43),
        (gzip.compress(utf8(GOOD)), 40),
        (utf8(GOOD + "word " * 2_000_000 + ",pos\n"), 41),
    ],
    ids=["BOM and CRLF", "semicolons", "tabs", "UTF-16", "right to left, emoji, empty", "NA", "gzip", "10 MB field"],
)
def test_odd_files_that_are_fine(capsys, tmp_path, content, rows):
    (tmp_path / "data.csv").write_bytes(content)
    few = ["--max-epochs", "1", "--max-length", "50"]
    done = run(capsys, "train", tmp_path / "data.csv", "-o", tmp_path / "m", "--no-baseline", "--json", *FAST, *few)
    assert done.code == 0, done.err
    assert sum(done.json["rows"].values()) == rows


def test_bad_rows_left_out_are_counted(capsys, tmp_path):
    (tmp_path / "data.csv").write_text(GOOD + "no label,\na,b,c\n")
    done = run(capsys, "train", tmp_path / "data.csv", "-o", tmp_path / "m", "--no-baseline", "--skip-bad-rows", *FAST)
    assert done.code == 0
    assert "1 row without a label left out" in done.err


def test_texts_without_a_known_word_are_told(capsys, tmp_path):
    rows = labelled_rows(60)
    table = write_csv(tmp_path / "data.csv", [*rows, ("", "pos"), ("", "neg")])
    run(capsys, "train", table, "-o", tmp_path / "m", "--no-baseline", *FAST)
    assert "1 of 1 texts hold no known word" in run(capsys, "predict", tmp_path / "m", "xyzzy").err


# ---- output --------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "data.csv", labelled_rows(40))


def test_an_output_that_exists_is_kept(capsys, table, tmp_path):
    output = tmp_path / "model"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    for further in ([], ["--overwrite"]):
        done = run(capsys, "train", table, "-o", output, *FAST, *further)
        assert done.code == 73
        assert "model" in done.error
    assert os.listdir(output) == ["mine.txt"]
    file = tmp_path / "file"
    file.write_text("mine")
    assert run(capsys, "train", table, "-o", file, *FAST).code == 73
    assert run(capsys, "train", table, "-o", file / "below", *FAST).code == 73
    assert file.read_text() == "mine"


def test_overwrite_replaces_a_model(capsys, table, tmp_path):
    arguments = ["train", table, "-o", tmp_path / "m", "--no-baseline", "--quiet", *FAST]
    assert run(capsys, *arguments).code == 0
    refused = run(capsys, *arguments)
    assert refused.code == 73
    assert "--overwrite" in refused.error
    assert run(capsys, *arguments, "--overwrite").code == 0


def test_a_place_that_cannot_be_written(capsys, table):
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs /proc, where not even root makes folders")
    done = run(capsys, "train", table, "-o", "/proc/self/model", *FAST)
    assert done.code == 73
    assert "/proc/" in done.error


@pytest.mark.parametrize("limit", [1_000, 6_000])
def test_a_full_disk_leaves_the_old_model(capsys, table, tmp_path, limit):
    """A limit on the size of files stands for the full disk: writes fail part-way in the same manner."""
    arguments = ["train", table, "-o", tmp_path / "m", "--no-baseline", *FAST]
    assert run(capsys, *arguments, "--quiet").code == 0
    before = (tmp_path / "m" / "weights.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = main([str(argument) for argument in [*arguments, "--overwrite", "--seed", "1"]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    err = capsys.readouterr().err
    assert code == 74
    assert err.splitlines()[-1].startswith("bilstm: ")
    assert (tmp_path / "m" / "weights.safetensors").read_bytes() == before
    assert run(capsys, "predict", tmp_path / "m", "good").code == 0


def test_diverged_training_writes_no_model(capsys, table, tmp_path):
    done = run(capsys, "train", table, "-o", tmp_path / "m", "--no-baseline", *FAST,
               "--learning-rate", "100", "--max-epochs", "200", "--clip-norm", "none", "--cell", "rnn",
               "--label-kind", "binary", "--weight-decay", "10", "--optimizer", "adamw")  # fmt: skip
    assert done.code == 70, done.err[-300:]
    assert "No model was written" in done.err
    assert not (tmp_path / "m").exists()


# ---- model folder --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    table = write_csv(folder / "data.csv", labelled_rows(40))
    assert main(["train", str(table), "-o", str(folder / "m"), "--no-baseline", "--quiet", *FAST]) == 0
    return folder / "m"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def newer(folder):
    """Write the model as a later version of this tool would."""
    model = bilstm.load(folder)
    with patch.object(model_folder, "FORMAT_VERSION", 99):
        written = model.save(folder.with_name("newer"))
    shutil.rmtree(folder)
    written.rename(folder)


DAMAGE = {
    "bit flipped in the weights": (lambda m: flip(m / "weights.safetensors"), "weights.safetensors"),
    "bit flipped in the vocabulary": (lambda m: flip(m / "vocabulary.json"), "vocabulary.json"),
    "truncated": (lambda m: os.truncate(m / "weights.safetensors", 100), "weights.safetensors"),
    "a file is missing": (lambda m: (m / "config.json").unlink(), "config.json"),
    "no manifest": (lambda m: (m / "manifest.json").unlink(), "manifest.json"),
    "a newer format": (newer, "pip install --upgrade bilstm"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_damaged_models_are_refused(capsys, model, tmp_path, case, verb):
    damage, part = DAMAGE[case]
    copied = shutil.copytree(model, tmp_path / "m")
    damage(copied)
    done = run(capsys, verb, copied, "good" if verb == "predict" else model.parent / "data.csv")
    assert done.code == 65
    assert part in done.error
    assert done.out == ""


@pytest.mark.parametrize("name", ["none", "data.csv", "."])
def test_what_is_no_model(capsys, model, name):
    done = run(capsys, "predict", model.parent / name, "good")
    assert done.code in (65, 66)
    assert done.error.startswith("bilstm: ")


def test_labels_that_training_did_not_have(capsys, model, tmp_path):
    table = write_csv(tmp_path / "test.csv", [("good", "pos"), ("so", "neutral")])
    done = run(capsys, "evaluate", model, table)
    assert done.code == 65
    assert "test.csv:3" in done.err
    assert "neutral" in done.err


def test_ids_given_to_a_model_of_texts(capsys, model, tmp_path):
    np.savez(tmp_path / "ids.npz", ids=np.arange(6), offsets=np.array([0, 3, 6]), labels=np.array([0, 1]))
    done = run(capsys, "evaluate", model, tmp_path / "ids.npz")
    assert done.code == 65
    assert "bilstm: " in done.err
