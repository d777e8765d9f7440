"""`bilstm train --unlabelled`: files of further texts, good and bad, and what is said about them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bilstm import TextClassifier, TextRegressor
from bilstm.errors import UsageError
from bilstm.tasks import text_mixing, text_teaching
from cli_runs import FAST, run, write_csv

RANDOM = np.random.default_rng(0)
WORDS = ["film", "plot", "actor", "scene", "music", "story"]


def rows_of(count: int) -> list[list[str]]:
    rows = []
    for number in range(count):
        words = [str(word) for word in RANDOM.choice(WORDS, 5)]
        words[number % 5] = "good" if number % 2 else "bad"
        rows.append([" ".join(words) + f" {number}", "pos" if number % 2 else "neg"])
    return rows


@pytest.fixture
def files(tmp_path):
    write_csv(tmp_path / "labelled.csv", rows_of(60))
    write_csv(tmp_path / "more.csv", [[text] for text, _ in rows_of(100)], header=("text",))
    return tmp_path


def train(capsys, files, *arguments):
    fast = [*FAST, "--no-baseline", "--budget", "9s", "--overwrite"]
    return run(capsys, "train", files / "labelled.csv", "-o", files / "model", *fast, *arguments)


def test_a_model_from_labelled_and_unlabelled_files(capsys, files):
    done = train(capsys, files, "--unlabelled", files / "more.csv", "--json")
    assert done.code == 0, done.err
    labelled, second = [phase["name"] for phase in done.json["phases"]][:2]
    assert labelled == "labelled texts"
    assert second in ("language model", "linear teacher", "mixed objective")  # a slow machine has no time for the first
    assert "100 unlabelled texts." in done.err
    assert "Budget: " in done.err
    page = (files / "model" / "report.html").read_text(encoding="utf-8")
    assert f"{second}: kept" in page or f"{second}: turned off" in page
    assert not (files / "model.checkpoint").exists()
    stored = json.loads((files / "model" / "config.json").read_text(encoding="utf-8"))["settings"]
    assert stored["hidden_size"] == 8  # what was given goes before what the budget suggests
    assert run(capsys, "predict", files / "model", "a good film").code == 0


def test_labels_among_the_unlabelled_are_not_read(capsys, files):
    write_csv(files / "more.csv", rows_of(50))
    done = train(capsys, files, "--unlabelled", files / "more.csv")
    assert done.code == 0, done.err
    assert "more.csv: the column 'label' looks like labels; it is not read" in done.err


def test_texts_of_the_test_part_among_the_unlabelled_are_counted(capsys, files):
    rows = rows_of(60)
    write_csv(files / "labelled.csv", rows)
    write_csv(files / "more.csv", [[text] for text, _ in rows[:30]], header=("text",))
    write_csv(files / "valid.csv", [*rows[:7], *rows_of(6)])
    done = train(capsys, files, "--unlabelled", files / "more.csv", "--valid", files / "valid.csv")
    assert done.code == 0, done.err
    assert "Warning: 7 of 13 texts of the development part stand among the unlabelled texts too" in done.err
    done = train(capsys, files, "--unlabelled", files / "more.csv", "--split", "0.8:0.2")
    assert "of 12 texts of the test part stand among the unlabelled texts too" in done.err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text\n", "more.csv"),
        ("text\n \n \n", "no row holds a text"),
        ("number\n1\n2\n", "more.csv"),
    ],
    ids=["no rows", "empty rows", "no text column"],
)
def test_bad_unlabelled_files(capsys, files, content, told):
    (files / "more.csv").write_text(content, encoding="utf-8")
    done = train(capsys, files, "--text", "text", "--unlabelled", files / "more.csv")
    assert done.code == 65
    assert told in done.err.splitlines()[-1]
    assert not (files / "model").exists()


def test_a_missing_file_and_a_budget_that_is_no_time(capsys, files):
    assert train(capsys, files, "--unlabelled", files / "none.csv").code == 66
    done = run(
        capsys, "train", files / "labelled.csv", "-o", files / "m", "--unlabelled", files / "more.csv",
        "--budget", "soon",
    )  # fmt: skip
    assert done.code == 2
    assert "--budget 'soon' is no time" in done.error


def test_numbers_and_several_labels_learn_word_vectors_alone(capsys, files):
    rows = [[text, str(number / 7)] for number, (text, _) in enumerate(rows_of(40))]
    write_csv(files / "labelled.csv", rows)
    done = train(
        capsys, files, "--label-kind", "regression", "--vectors", "in-domain", "--unlabelled", files / "more.csv",
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "word vectors alone" in done.err
    assert "phases" not in done.json


def test_estimators_take_unlabelled_texts(monkeypatch):
    monkeypatch.setattr(text_mixing, "FEWEST_STEPS", 10)
    monkeypatch.setattr(text_mixing, "MOST_PASSES", 2)
    monkeypatch.setattr(text_teaching, "SELF_STEPS", 20)
    rows, more = rows_of(60), [text for text, _ in rows_of(80)]
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    small = {"embedding_size": 8, "hidden_size": 8, "max_epochs": 2, "threads": 1, "join_linear": False}
    model = TextClassifier(**small).fit(texts, labels, unlabelled=more, budget=None)
    assert set(model.predict(texts)) <= {"pos", "neg"}
    assert len(model.history_) > 2  # those of the mixed objective follow
    assert TextRegressor(**small).fit(texts, np.arange(60.0), unlabelled=more).predict(texts).shape == (60,)
    with pytest.raises(UsageError, match="0 sample"):
        TextClassifier(**small).fit(texts, labels, unlabelled=[])
