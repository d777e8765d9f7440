"""`bilstm pretrain` and what follows from it, by the command line."""

import json
import re
from pathlib import Path

import pytest

from bilstm.cli.reference import with_table
from bilstm.tasks import load
from cli_runs import run, write_csv

SMALL = [
    "--embedding-size", "6", "--hidden-size", "5", "--max-epochs", "2", "--epoch-words", "400", "--batch-size", "16",
    "--sample-size", "5", "--threads", "1", "--precision", "float32",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts(order_texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    return write_csv(path / "more.csv", zip(*order_texts, strict=True))


@pytest.fixture(scope="module")
def language(texts, tmp_path_factory):
    from bilstm.cli import main

    folder = tmp_path_factory.mktemp("pretrained") / "language"
    assert main(["pretrain", str(texts), "-o", str(folder), "--quiet", *SMALL]) == 0
    return folder


def test_the_folder_holds_all_that_a_model_folder_holds(language):
    metrics = json.loads((language / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["task"] == "language-model"
    assert metrics["epochs"] == 2
    assert metrics["steps_per_second"] > 0
    assert 1 < metrics["dev"]["perplexity"] < metrics["dev"]["vocabulary_size"] + 1
    report = (language / "report.html").read_text(encoding="utf-8")
    assert f"{metrics['dev']['perplexity']:.1f}" in report
    assert "<svg" in report
    card = (language / "README.md").read_text(encoding="utf-8")
    assert "--start-from FOLDER" in card
    assert len(json.loads((language / "history.json").read_text(encoding="utf-8"))["epochs"]) == 2
    assert "epoch_words = 400" in (language / "settings.toml").read_text(encoding="utf-8")


def test_progress_tells_words_and_perplexity(texts, tmp_path, capsys):
    done = run(capsys, "pretrain", texts, "-o", tmp_path / "m", *SMALL)
    assert done.code == 0
    found = re.search(r"epoch 2/2  perplexity ([\d.]+)  dev perplexity ([\d.]+) .*words/s", done.err)
    assert found is not None, done.err
    assert "dev perplexity" in done.err.split("training ended")[1]
    assert f"both directions{float(found[2]):>15.1f}"[:15] in done.out


def test_evaluate_measures_perplexity(language, texts, tmp_path, capsys):
    done = run(capsys, "evaluate", language, texts, "--json")
    assert done.json["perplexity"] == pytest.approx(load(language).evaluate(read(texts))["perplexity"])
    plain = tmp_path / "texts.txt"
    plain.write_text("the film was good\nthe end was dull\n", encoding="utf-8")
    done = run(capsys, "evaluate", language, plain)
    assert done.code == 0
    assert "8 words in 2 texts" in done.out
    assert run(capsys, "evaluate", language, texts, "--label", "label").code == 2


def read(path):
    import csv

    with open(path, encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def test_a_classifier_begins_with_it(language, texts, tmp_path, capsys):
    done = run(
        capsys, "train", texts, "--start-from", language, "-o", tmp_path / "model", "--max-epochs", "1",
        "--threads", "1", "--no-baseline", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["task"] == "text-classification"
    settings = (tmp_path / "model" / "settings.toml").read_text(encoding="utf-8")
    assert "hidden_size = 5" in settings
    model = load(tmp_path / "model")
    assert model.encoder.vocabulary.tokens == load(language).encoder.vocabulary.tokens
    again = run(capsys, "predict", tmp_path / "model", "the film was good")
    assert again.code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--hidden-size", "9"], 2, "--hidden-size 9: the weights in"),
        (["--preset", "imdb-16"], 2, "--embedding-size 16: the weights in"),
    ],
)
def test_settings_that_contradict_the_weights(language, texts, tmp_path, capsys, arguments, code, words):
    done = run(capsys, "train", texts, "--start-from", language, "-o", tmp_path / "m", *arguments)
    assert done.code == code
    assert words in done.err
    assert not (tmp_path / "m").exists()


def test_bad_input_is_named_and_nothing_is_written(language, texts, tmp_path, capsys):
    empty = tmp_path / "empty.csv"
    empty.write_text("text\n", encoding="utf-8")
    nothing = tmp_path / "nothing.csv"
    nothing.write_text("", encoding="utf-8")
    one = write_csv(tmp_path / "one.csv", [("a text", "x")])
    output = ["-o", tmp_path / "m", *SMALL]
    for data, extra, code, words in (
        (tmp_path / "absent.csv", [], 66, "absent.csv"),
        (empty, [], 65, "empty.csv"),
        (nothing, [], 65, "nothing.csv"),
        (one, [], 65, "1 texts are too few"),
        (texts, ["--text", "review"], 65, "review"),
        (texts, ["--adversarial-norm", "1"], 2, "no meaning"),
        (texts, ["--sample-size", "0"], 2, "--sample-size"),
    ):
        done = run(capsys, "pretrain", data, *output, *extra)
        assert (done.code, words in done.err) == (code, True), done.err
        assert not (tmp_path / "m").exists()
    assert run(capsys, "train", texts, "--task", "language-model", *output[:2]).code == 2
    assert run(capsys, "train", texts, "--start-from", tmp_path / "absent", *output[:2]).code == 66
    for verb in (["predict", language, "a text"], ["export", language, "--onnx", tmp_path / "m.onnx"]):
        done = run(capsys, *verb)
        assert (done.code, "is a language model" in done.err) == (2, True), done.err
    assert run(capsys, "explain", language, "a text").code == 2


def test_a_run_that_is_cut_goes_on(texts, tmp_path, capsys, monkeypatch):
    from bilstm.training import loop

    whole = tmp_path / "whole"
    assert run(capsys, "pretrain", texts, "-o", whole, *SMALL).code == 0
    steps = 0
    step = loop._Run._step

    def cut(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        step(self, *arguments)

    monkeypatch.setattr(loop._Run, "_step", cut)
    output = [tmp_path / "cut", *SMALL, "--checkpoint-steps", "1"]
    done = run(capsys, "pretrain", texts, "-o", *output)
    assert done.code == 130
    assert "--resume" in done.err
    monkeypatch.setattr(loop._Run, "_step", step)
    assert run(capsys, "pretrain", texts, "-o", *output, "--resume").code == 0
    ours, theirs = load(tmp_path / "cut").weights, load(whole).weights
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert not Path(f"{tmp_path / 'cut'}.checkpoint").exists()


def test_the_documented_settings_are_the_settings():
    page = (Path(__file__).parent.parent / "docs" / "language_model.md").read_text(encoding="utf-8")
    assert with_table(page, "pretrain") == page, "run python -m bilstm.cli.reference"
    assert page.count("| `--") > 30
