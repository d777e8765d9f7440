"""Journeys of users, as they type them: from a table to a score, an interrupted training, a notebook.

The commands run as processes of their own, as in a terminal, where it matters; else in this process.
"""

import os
import re
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

import bilstm
from bilstm.cli import main
from cli_runs import FAST, Done, labelled_rows, write_csv

FLAGS = shlex.join(FAST)


@pytest.fixture
def type_command(capsys, monkeypatch, tmp_path):
    """Type a command line in an empty folder; what is counted is what a user types."""
    monkeypatch.chdir(tmp_path)
    typed = []

    def type_it(line):
        typed.append(line)
        words = shlex.split(line)
        assert words[0] == "bilstm"
        return Done(main(words[1:]), *capsys.readouterr())

    type_it.typed = typed
    return type_it


# ---- a table of texts, five minutes --------------------------------------------------------------------------------


def test_from_a_table_to_a_score_and_answers(type_command, tmp_path):
    write_csv("reviews.csv", labelled_rows(160), ("review", "sentiment"))
    write_csv("test.csv", labelled_rows(20), ("review", "sentiment"))
    trained = type_command(f"bilstm train reviews.csv -o m {FLAGS}")
    assert trained.code == 0
    # what was guessed is said, and what will happen
    assert "took column 'sentiment' for the labels" in trained.err
    assert "took column 'review' for the texts" in trained.err
    assert "144 texts to train on" in trained.err
    assert "16 to choose the epoch by" in trained.err
    # the score stands beside the linear one, and the next step is printed
    assert re.search(r"dev accuracy +1\.0000 +1\.0000", trained.out)
    next_steps, more_steps = trained.err.splitlines()[-2:]
    assert next_steps.startswith("next:")
    assert more_steps.startswith("also:")
    predict, evaluate = (step.strip() for step in next_steps.removeprefix("next:").split("|"))
    explain, serve = (step.strip() for step in more_steps.removeprefix("also:").split("|"))
    scored = type_command(evaluate)  # as printed
    assert scored.code == 0
    assert re.search(r"^accuracy +1\.0000$", scored.out, re.MULTILINE)
    assert type_command(predict).code == 0
    assert type_command(explain).code == 0
    assert serve == "bilstm serve m"
    report = (tmp_path / "m" / "report.html").read_text(encoding="utf-8")
    assert "bilstm" in report
    assert "<script" not in report
    assert len([line for line in type_command.typed if line.startswith(("bilstm train", "bilstm evaluate"))]) <= 3
    # nothing is written outside the given folder
    assert set(os.listdir(tmp_path)) == {"reviews.csv", "test.csv", "m"}


def test_three_mistakes_are_told_in_one_line_each(type_command):
    write_csv("reviews.csv", labelled_rows(20), ("review", "sentiment"))
    mistakes = {
        "bilstm train reviews.csv --text revew -o m": "Did you mean 'review'?",
        "bilstm train reviws.csv -o m": "Similar names there: reviews.csv.",
        "bilstm train reviews.csv --task text-regression -o m": "Did you mean 'text-classification'?",
    }
    for line, help_given in mistakes.items():
        done = type_command(line)
        assert done.code in (2, 65, 66)
        assert help_given in done.error
        assert done.out == ""
    assert os.listdir() == ["reviews.csv"]


def test_a_pipe(type_command, tmp_path):
    write_csv("reviews.csv", labelled_rows(80))
    assert type_command(f"bilstm train reviews.csv -o m --quiet {FLAGS}").code == 0
    answer = subprocess.run(
        f'echo "film was good" | {sys.executable} -m bilstm predict m/ -', shell=True, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split("\t")[0] == "pos"
    assert answer.stderr == ""


# ---- an interrupted training ---------------------------------------------------------------------------------------


def test_ctrl_c_and_the_same_command_again(type_command, tmp_path):
    """A real process gets the signal in the middle of its training; the end is that of a run never interrupted."""
    write_csv("big.csv", labelled_rows(1200))
    command = f"bilstm train big.csv -o m --no-baseline {FLAGS} --max-epochs 12 --batch-size 4"
    process = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(command)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        for line in process.stderr:
            if line.startswith("epoch  1/12"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("bilstm: Interrupted; the best model so far (epoch ")
    assert last.endswith("Add --resume to the same command to go on.")
    assert bilstm.load("m", threads=1).predict(["film was good"])
    again = type_command(command)  # without --resume it is not thrown away
    assert again.code != 0
    resumed = type_command(f"{command} --resume")
    assert resumed.code == 0, resumed.err
    whole = type_command(command.replace("-o m", "-o whole"))
    assert whole.code == 0
    cut, never_cut = (bilstm.load(name).weights for name in ("m", "whole"))
    assert cut.keys() == never_cut.keys()
    assert all(np.array_equal(cut[name], never_cut[name]) for name in cut)
    assert not os.path.exists("m.checkpoint")


# ---- a notebook ----------------------------------------------------------------------------------------------------


def test_a_notebook(tmp_path):
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    settings = {"max_epochs": 3, "embedding_size": 8, "hidden_size": 8, "batch_size": 16, "learning_rate": 0.03}
    settings |= {"vectors": "random", "adversarial_norm": None, "average_decay": None, "threads": 1}
    settings |= {"join_linear": False, "word_dropout": 0.0}
    texts, labels = map(list, zip(*labelled_rows(80), strict=True))
    classifier = bilstm.TextClassifier(**settings).fit(texts, labels)
    assert classifier.score(texts, labels) == 1.0
    upper = FunctionTransformer(lambda rows: [row.upper() for row in rows])
    scores = cross_val_score(make_pipeline(upper, bilstm.TextClassifier(**settings)), texts, labels, cv=2)
    assert scores.min() > 0.9
    classifier.save(tmp_path / "m")
    assert bilstm.load(tmp_path / "m").predict(["film was good"]) == ["pos"]
    assert "hidden_size=8" in repr(classifier)
    assert "TextClassifier" in classifier._repr_html_()
