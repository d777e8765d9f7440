"""Every verb of the command: what it prints where, its exit code, its files."""

import csv
import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import bilstm
from bilstm.cli import app
from bilstm.cli import train as train_verb
from cli_runs import FAST, labelled_rows, run, write_csv


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """train.csv and test.csv with columns text, label and a further one."""
    folder = tmp_path_factory.mktemp("data")
    write_csv(folder / "train.csv", labelled_rows(120))
    rows = [(*row, number) for number, row in enumerate(labelled_rows(10))]
    write_csv(folder / "test.csv", rows, ("text", "label", "id"))
    return folder


@pytest.fixture(scope="module")
def model(data):
    assert app.main(["train", str(data / "train.csv"), "-o", str(data / "model"), "--quiet", *FAST]) == 0
    return data / "model"


# ---- the command itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", app.VERBS)
def test_verbs_are_listed_with_the_first_line_of_their_help(capsys, name):
    done = run(capsys, "--help")
    assert done.code == 0
    assert name in done.out
    shown = run(capsys, name, "--help")
    assert shown.code == 0
    assert " ".join(app.VERBS[name].split()) in " ".join(shown.out.replace("│", " ").split())


def test_version_and_no_arguments(capsys):
    assert run(capsys, "--version").out.startswith("bilstm ")
    assert "Usage: bilstm" in run(capsys).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predcit"], "No such command 'predcit'. Did you mean 'predict'?"),
        (["train"], "Missing argument"),
        (["train", "a.csv"], "Missing option '--output'"),
        (["train", "a.csv", "-o", "m", "--epochs", "3"], "No such option: --epochs"),
        (["train", "a.csv", "-o", "m", "--max-epochs", "0"], "--max-epochs must be a whole number at least 1"),
        (["train", "a.csv", "-o", "m", "--cell", "lstmm"], "--cell must be one of lstm, gru, rnn, none, got 'lstmm'"),
        (["train", "a.csv", "-o", "m", "--task", "text-clasification"], "Did you mean 'text-classification'?"),
        (["train", "a.csv", "-o", "m", "--head", "crf"], "--head is a setting of sequence-tagging"),
        (["train", "a.csv", "-o", "m", "--budget", "20m"], "--budget is for a training with --unlabelled"),
        (["train", "a.conll", "-o", "m", "--preset", "imdb-16"], "no meaning for the task sequence-tagging"),
        (["train", "a.csv", "-o", "m", "--preset", "imdb"], "imdb-16"),
        (["predict", "m"], "give texts, - (standard input) or --file"),
        (["predict", "m", "a", "--file", "b.csv"], "got TEXT and --file"),
        (["predict", "m", "a", "-o", "b.csv"], "--output needs --file"),
        (["info", "--threads", "2"], "No such option"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_line_and_code_2(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "stdin", _Terminal())
    done = run(capsys, *arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.splitlines()[-1].startswith("bilstm: ")
    assert done.out == ""
    again = run(capsys, *arguments, "--json")
    assert again.json["error"]["exit_code"] == 2


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colours_only_in_a_terminal_that_wants_them(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    app.main(["nonsense"])
    assert "\033[31m" in terminal.getvalue()
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setattr(sys, "stderr", terminal := _Terminal())
        monkeypatch.setenv(name, value)
        app.main(["nonsense"])
        assert "\033" not in terminal.getvalue()


def test_standard_output_that_is_full_or_closed():
    python = [sys.executable, "-m", "bilstm", "info"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(python, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 74
    assert done.stderr == "bilstm: standard output: cannot be written: No space left on device.\n"
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {' '.join(python)} --json | true"], capture_output=True, text=True
    )
    assert (piped.returncode, piped.stderr) == (0, "")


# ---- train ---------------------------------------------------------------------------------------------------------


def test_train_writes_a_model_and_prints_scores_beside_the_baseline(capsys, data, tmp_path):
    output = tmp_path / "model"
    done = run(capsys, "train", data / "train.csv", "-o", output, "--split", "0.75:0.25", *FAST)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["BiLSTM", "linear", "baseline"]
    assert any(line.startswith("dev accuracy") for line in lines)
    assert any(line.startswith("test accuracy") for line in lines)
    assert "on 30 test rows" in done.out
    assert f"report: {output / 'report.html'}" in done.out
    assert "took column 'label' for the labels" in done.err
    assert "2 classes: 'neg' (60), 'pos' (60)" in done.err
    assert "epoch 3/3" in done.err
    assert f'next:   bilstm predict {output} "a text"' in done.err
    assert f'also:   bilstm explain {output} "a text"   |   bilstm serve {output}' in done.err
    names = {path.name for path in output.iterdir()}
    assert {"manifest.json", "config.json", "metrics.json", "report.html", "README.md", "settings.toml"} <= names
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_train_json_is_one_object(capsys, data, tmp_path):
    done = run(capsys, "train", data / "train.csv", "-o", tmp_path / "model", "--json", "--quiet", *FAST)
    assert done.json["rows"] == {"train": 108, "dev": 12, "test": 0}
    assert done.json["dev"]["accuracy"] == 1.0
    assert done.json["linear_baseline"]["dev"]["accuracy"] == 1.0
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["best_epoch"] == done.json["best_epoch"]
    assert done.err == ""


def test_the_written_settings_repeat_the_run(capsys, data, model, tmp_path):
    output = tmp_path / "again"
    done = run(capsys, "train", data / "train.csv", "-o", output, "--config", model / "settings.toml", "--quiet")
    assert done.code == 0
    assert (output / "weights.safetensors").read_bytes() == (model / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("rows", "kind", "score"),
    [
        ([(f"it is {word} now", word) for word in ("red", "green", "blue") * 1] * 20, "multiclass", "accuracy"),
        ([("red round", "r|o"), ("red", "r"), ("round", "o")] * 20, "multilabel", "micro F1"),
        ([("very good", "9.5"), ("good", "7"), ("bad", "3.25")] * 20, "regression", "RMSE"),
    ],
    ids=["multiclass", "multilabel", "regression"],
)
def test_other_labels(capsys, tmp_path, rows, kind, score):
    table = write_csv(tmp_path / "data.csv", rows)
    separator = ["--label-separator", "|"] if kind == "multilabel" else []
    done = run(capsys, "train", table, "-o", tmp_path / "m", "--label-kind", kind, *separator, *FAST)
    assert done.code == 0, done.err
    assert f"dev {score}" in done.out
    scores = run(capsys, "evaluate", tmp_path / "m", table, "--json").json
    assert scores["rows"] == 60
    answers = run(capsys, "predict", tmp_path / "m", "red", "good", "--json", "--threads", "1").json["predictions"]
    assert len(answers) == 2
    assert ("probabilities" in answers[0]) == (kind != "regression")
    assert run(capsys, "predict", tmp_path / "m", "red").out.count("\n") == 1


def test_a_model_that_loses_to_the_baseline_is_told_so(capsys):
    from bilstm.cli.scores import print_training_scores

    summary = {"kind": "binary", "model": "BiLSTM", "rows": {"dev": 50}, "dev": {"accuracy": 0.7}}
    summary["linear_baseline"] = {"name": "NB-SVM", "dev": {"accuracy": 0.9}}
    print_training_scores(summary)
    out = capsys.readouterr().out
    assert "does NOT beat the linear baseline: it is 20.00 points of accuracy behind on 50 dev rows" in out
    numbers = {**summary, "kind": "regression", "dev": {"root_mean_squared_error": 1.0}}
    numbers["linear_baseline"] = {"name": "ridge", "dev": {"root_mean_squared_error": 1.5}}
    print_training_scores(numbers)
    assert "beats the linear baseline by 0.5 RMSE" in capsys.readouterr().out


def test_ctrl_c_saves_the_best_and_resume_ends_as_if_nothing_had_been(capsys, monkeypatch, data, tmp_path):
    from bilstm.training import events
    from bilstm.training.progress import ProgressPrinter

    arguments = ["train", data / "train.csv", "--no-baseline", *FAST, "--max-epochs", "5"]
    assert run(capsys, *arguments, "-o", tmp_path / "whole", "--quiet").code == 0

    class Interrupting(ProgressPrinter):
        def __call__(self, event):
            super().__call__(event)
            if isinstance(event, events.StepDone) and (event.epoch, event.position) == (3, 2):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train_verb, "ProgressPrinter", Interrupting)
    cut = run(capsys, *arguments, "-o", tmp_path / "cut")
    monkeypatch.undo()
    assert cut.code == 130
    last = cut.err.splitlines()[-1]
    assert last.startswith("bilstm: Interrupted; the best model so far (epoch ")
    assert "--resume" in last
    assert (tmp_path / "cut.checkpoint").is_dir()
    assert bilstm.load(tmp_path / "cut", threads=1).predict(["film was good"])
    resumed = run(capsys, *arguments, "-o", tmp_path / "cut", "--resume", "--json", "--quiet")
    assert resumed.code == 0
    whole, again = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut"))
    assert again == whole
    assert not (tmp_path / "cut.checkpoint").exists()


def test_ctrl_c_before_training(capsys, monkeypatch, data, tmp_path):
    from bilstm.tasks import text_run

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(text_run, "read_records", interrupt)
    done = run(capsys, "train", data / "train.csv", "-o", tmp_path / "m", "--json", *FAST)
    assert done.code == 130
    assert "nothing was written" in done.json["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_not_enough_memory_is_told(capsys, monkeypatch, data, tmp_path):
    from bilstm.tasks import text_run

    def refuse(*arguments, **options):
        raise MemoryError("40 GiB")

    monkeypatch.setattr(text_run, "read_records", refuse)
    done = run(capsys, "train", data / "train.csv", "-o", tmp_path / "m", *FAST)
    assert done.code == 71
    assert done.error.startswith("bilstm: not enough memory (40 GiB).")


# ---- evaluate ------------------------------------------------------------------------------------------------------


def test_evaluate(capsys, data, model):
    done = run(capsys, "evaluate", model, data / "test.csv")
    assert done.code == 0
    assert done.out.startswith("10 rows of ")
    assert "accuracy" in done.out
    assert "true neg" in done.out
    assert "pred. pos" in done.out
    found = run(capsys, "evaluate", model, data / "test.csv", "--json", "--backend", "numpy").json
    assert found["accuracy"] == 1.0
    assert found["confusion_matrix"] == [[5, 0], [0, 5]]
    assert {row["class"] for row in found["per_class"]} == {"neg", "pos"}


def test_evaluate_many_classes_does_not_print_a_wide_matrix(capsys):
    from bilstm.cli.scores import print_evaluation

    names = [f"class {number}" for number in range(20)]
    print_evaluation({"classes": names, "confusion_matrix": np.eye(20, dtype=int).tolist()}, 20, ["a.csv"])
    done = capsys.readouterr()
    assert "--json" in done.err
    assert max(map(len, done.out.splitlines())) < 80


# ---- predict -------------------------------------------------------------------------------------------------------


def feed(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_predict_texts(capsys, model):
    done = run(capsys, "predict", model, "film 1 was good", "film 2\twas\nbad")
    assert [line.split("\t")[0] for line in done.out.splitlines()] == ["pos", "neg"]
    assert done.out.splitlines()[1].endswith("\tfilm 2 was bad")
    found = run(capsys, "predict", model, "film 1 was good", "--json", "--precision", "auto").json
    assert found["predictions"][0]["prediction"] == "pos"
    assert sum(found["predictions"][0]["probabilities"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize("arguments", [["-"], []])
def test_predict_standard_input(capsys, monkeypatch, model, arguments):
    feed(monkeypatch, "was good\r\n\nwas bad, überaus".encode())
    done = run(capsys, "predict", model, *arguments)
    assert [line.split("\t")[2] for line in done.out.splitlines()] == ["was good", "", "was bad, überaus"]
    assert "1 of 3 texts hold no known word" in done.err
    feed(monkeypatch, b"was good\nwas bad\n")
    answers = run(capsys, "predict", model, *arguments, "--json").json["predictions"]
    assert [answer["prediction"] for answer in answers] == ["pos", "neg"]


def test_predict_standard_input_that_is_not_utf_8(capsys, monkeypatch, model):
    feed(monkeypatch, b"was good\nwas b\xe4d\n")
    done = run(capsys, "predict", model, "-")
    assert done.code == 65
    assert "standard input:2: not UTF-8 text (byte 6 of the line)" in done.error


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_predict_a_file_keeps_its_columns(capsys, data, model, tmp_path, ending):
    output = tmp_path / f"answers.{ending}"
    done = run(capsys, "predict", model, "--file", data / "test.csv", "-o", output)
    assert (done.code, done.out) == (0, "")
    assert "10 rows predicted, written to" in done.err
    with open(output, encoding="utf-8", newline="") as file:
        rows = (
            [json.loads(line) for line in file]
            if ending == "jsonl"
            else list(csv.DictReader(file, delimiter="\t" if ending == "tsv" else ","))
        )
    assert [row["prediction"] for row in rows] == ["neg", "pos"] * 5
    assert [str(row["id"]) for row in rows] == [str(number) for number in range(10)]
    assert list(rows[0]) == ["text", "label", "id", "prediction", "probability neg", "probability pos"]
    assert list(tmp_path.iterdir()) == [output]


def test_predict_files_to_standard_output(capsys, data, model, tmp_path):
    for name in ("a", "b"):
        write_csv(tmp_path / f"{name}.csv", labelled_rows(4))
    printed = list(csv.DictReader(io.StringIO(run(capsys, "predict", model, "-f", tmp_path / "*.csv").out)))
    assert [row["prediction"] for row in printed] == ["neg", "pos"] * 4
    found = run(capsys, "predict", model, "-f", tmp_path / "a.csv", "-f", tmp_path / "b.csv", "--json").json
    assert found["rows"] == 8
    assert [row["prediction"] for row in found["predictions"]] == ["neg", "pos"] * 4
    told = run(capsys, "predict", model, "-f", tmp_path / "a.csv", "-o", tmp_path / "c.jsonl", "--json").json
    assert told["rows"] == 4
    assert "predictions" not in told
    assert run(capsys, "predict", model, "-f", tmp_path / "x*.csv").code == 66
    different = run(capsys, "predict", model, "-f", tmp_path / "a.csv", "-f", data / "test.csv")
    assert different.code == 65
    assert "other columns than" in different.err


def test_a_failed_prediction_leaves_the_old_answers(capsys, model, tmp_path):
    old = tmp_path / "answers.csv"
    old.write_text("old")
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"text\n" + b"was good\n" * 6000 + b"was b\xe4d\n")
    done = run(capsys, "predict", model, "--file", bad, "-o", old)
    assert done.code == 65
    assert f"{bad}:6002" in done.err
    assert old.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"answers.csv", "bad.csv"}
    assert run(capsys, "predict", model, "--file", bad, "-o", tmp_path / "no" / "a.csv").code == 73
    assert "must be .csv, .tsv or .jsonl" in run(capsys, "predict", model, "--file", bad, "-o", "a.xlsx").err


# ---- demo, sample, info --------------------------------------------------------------------------------------------


def test_demo_says_that_its_data_are_generated_and_names_lasting_places(capsys, monkeypatch, tmp_path):
    from bilstm.cli import demo

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(demo.SETTINGS, "max_epochs", 1)
    monkeypatch.setitem(demo.SETTINGS, "threads", 1)
    done = run(capsys, "demo")
    assert done.code == 0
    assert "GENERATED" in done.err
    assert "demo-model-data/train.csv" in done.err
    assert "/tmp" not in done.out + done.err
    assert "linear baseline" in done.out
    assert "1,000 further generated reviews" in done.out
    assert {path.name for path in tmp_path.iterdir()} == {"demo-model", "demo-model-data"}


def test_sample(capsys, tmp_path):
    done = run(capsys, "sample", tmp_path / "data")
    assert done.out.splitlines() == [str(tmp_path / "data" / name) for name in ("train.csv", "test.csv")]
    assert "next:" in done.err
    assert run(capsys, "sample", tmp_path / "data", "--json").json["data"] == "generated"
    (tmp_path / "data" / "train.csv").write_text("mine")
    assert run(capsys, "sample", tmp_path / "data").code == 73
    assert (tmp_path / "data" / "train.csv").read_text() == "mine"


def test_info(capsys, monkeypatch):
    done = run(capsys, "info")
    assert done.code == 0
    for line in ("numpy", "processor", "training", "prediction", "--precision auto"):
        assert any(row.startswith(line) for row in done.out.splitlines())
    found = run(capsys, "info", "--json").json
    assert found["prediction"]["backend"] in ("engine", "numpy")
    assert found["prediction"]["why"]
    monkeypatch.setenv("BILSTM_ENGINE_LIBRARY", "/nowhere/engine.so")
    without = run(capsys, "info", "--json").json
    assert without["prediction"] == {"backend": "numpy", "why": without["prediction"]["why"]}
    assert "/nowhere/engine.so" in without["prediction"]["why"]
    assert without["training"]["backend"] == "torch"
    assert "engine" in run(capsys, "info").out


def test_an_explicit_backend_that_cannot_run_is_an_error(capsys, monkeypatch, data, model):
    monkeypatch.setenv("BILSTM_ENGINE_LIBRARY", "/nowhere/engine.so")
    for verb in (["predict", model, "a"], ["evaluate", model, data / "test.csv"]):
        done = run(capsys, *verb, "--backend", "engine")
        assert done.code == 2
        assert "the engine cannot run: no native library at /nowhere/engine.so" in done.error
    assert run(capsys, "predict", model, "was good").out.startswith("pos")
    assert run(capsys, "predict", model, "was good", "--precision", "auto").out.startswith("pos")


# ---- sequence tagging ----------------------------------------------------------------------------------------------


def test_tagging_is_guessed_by_the_name_and_every_verb_knows_it(capsys, tmp_path):
    sentence = "Anna B-PER\nsaw O\nRome B-LOC\n\nBob B-PER\nleft O\nParis B-LOC\n\n"
    table = tmp_path / "train.conll"
    table.write_text(sentence * 30)
    settings = ["--max-epochs", "4", "--word-size", "8", "--hidden-size", "8", "--characters", "none", "--threads", "1"]
    done = run(capsys, "train", table, "-o", tmp_path / "m", "--learning-rate", "0.05", *settings)
    assert done.code == 0, done.err
    assert "Task: sequence-tagging (by the name train.conll)" in done.err
    assert run(capsys, "evaluate", tmp_path / "m", table, "--json").json["f1"] > 0.9
    assert "[Anna]" in run(capsys, "predict", tmp_path / "m", "Anna saw Rome").out
    spans = run(capsys, "predict", tmp_path / "m", "Anna saw Rome", "--json").json["predictions"][0]["spans"]
    assert [(span["start"], span["end"], span["label"]) for span in spans] == [(0, 4, "PER"), (9, 13, "LOC")]


def test_a_table_given_to_the_tagger_is_told_which_task_is_for_tables(capsys, data, tmp_path):
    done = run(capsys, "train", data / "train.csv", "-o", tmp_path / "m", "--task", "sequence-tagging")
    assert done.code == 65
    assert "--task text-classification" in done.err.splitlines()[-1]
