"""Comparison of models: same rows and seeds for all, results on disk at once, going on after a cut."""

import csv
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bilstm import description
from bilstm.cli import main
from bilstm.data.labels import LabelSet
from bilstm.data.sample import sample_reviews
from bilstm.errors import DataError, InterruptedTrainingError, OutputError, UsageError
from bilstm.tasks.compared_models import DEFAULT_MODELS, settings_of
from bilstm.tasks.text_classification import Config, describe_model
from bilstm.tasks.text_comparison import ComparisonJob, compare
from bilstm.tasks.text_parts import development_part
from bilstm.tasks.text_run import ReadOptions
from bilstm.tasks.text_training import fit
from bilstm.training import events

TINY = {
    "embedding_size": 4,
    "hidden_size": 3,
    "max_epochs": 1,
    "vectors": "random",
    "adversarial_norm": None,
    "threads": 1,
}
FLAGS = ["--embedding-size", "4", "--hidden-size", "3", "--max-epochs", "1", "--vectors", "random"]
FLAGS += ["--adversarial-norm", "none", "--threads", "1"]


def write_table(path, texts, labels):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["review", "sentiment"])
        table.writerows(zip(texts, labels, strict=True))
    return str(path)


@pytest.fixture
def files(tmp_path):
    return {
        "train": write_table(tmp_path / "train.csv", *sample_reviews(120, seed=1)),
        "test": write_table(tmp_path / "test.csv", *sample_reviews(60, seed=2)),
        "output": str(tmp_path / "comparison"),
    }


def job_of(files, models=("linear", "rnn", "bilstm"), seeds=2, test=True, **others):
    config = Config(**{**TINY, **others.pop("settings", {})})
    given = files["test"] if test else None
    return ComparisonJob([files["train"]], files["output"], config, models=models, seeds=seeds, test=given, **others)


def ignore(event):
    """Hear nothing."""


def lines_of(output):
    with open(os.path.join(output, "results.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def without_time(line):
    return {name: value for name, value in line.items() if name != "seconds"}


# ---- models by name ------------------------------------------------------------------------------------------------


def recurrent_of(name, **settings):
    layers = describe_model(settings_of(name, Config(hidden_size=6, **settings)), 50, 1)
    return [layer for layer in layers if isinstance(layer, description.Recurrent)]


@pytest.mark.parametrize(
    ("name", "cell", "is_bidirectional", "layers"),
    [
        ("rnn", "rnn", False, 1),
        ("gru", "gru", False, 1),
        ("lstm", "lstm", False, 1),
        ("bilstm", "lstm", True, 1),
        ("bilstm-2", "lstm", True, 2),
        ("bigru", "gru", True, 1),
        ("rnn-12", "rnn", False, 12),
    ],
)
def test_names_say_cell_directions_and_layers(name, cell, is_bidirectional, layers):
    (layer,) = recurrent_of(name)
    assert (layer.cell, layer.bidirectional, layer.num_layers) == (cell, is_bidirectional, layers)


def test_a_model_takes_as_many_layer_sizes_as_it_has_layers():
    assert [layer.hidden_size for layer in recurrent_of("bilstm-2", layer_sizes=(5, 4))] == [5, 4]
    assert [layer.hidden_size for layer in recurrent_of("gru", layer_sizes=(5, 4))] == [5]
    with pytest.raises(UsageError, match="bilstm-3 has 3 layers, but layer-sizes names 2"):
        settings_of("bilstm-3", Config(layer_sizes=(5, 4)))


def test_feedforward_is_a_layer_over_pooled_vectors():
    config = settings_of("feedforward", Config(embedding_size=7, hidden_size=6, pooling=("last", "max")))
    layers = [layer for layer in describe_model(config, 50, 1) if not isinstance(layer, description.Dropout)]
    assert layers[-3:] == [
        description.Pooling(7, ("mean", "max")),  # a last word alone says nothing
        description.Linear(14, 6, "relu"),
        description.Linear(6, 1),
    ]


@pytest.mark.parametrize("name", ["bilstn", "lstm-1", "lstm-0", "bi", "bilinear", "lstm-65", ""])
def test_an_unknown_model_is_refused(name):
    with pytest.raises(UsageError, match=re.escape(repr(name))):
        settings_of(name, Config())


def test_a_misspelt_model_names_the_nearest():
    with pytest.raises(UsageError, match=r"Did you mean bilstm\?"):
        settings_of("bilstn", Config())


# ---- results -------------------------------------------------------------------------------------------------------


def test_table_figure_and_page_hold_every_model_and_seed(files):
    result = compare(job_of(files, models=DEFAULT_MODELS), ignore)
    head, *lines = lines_of(files["output"])
    assert [(line["model"], line["seed"]) for line in lines] == [("linear", None)] + [
        (name, seed) for seed in (0, 1) for name in DEFAULT_MODELS if name != "linear"
    ]
    assert head["scored_on"] == "test part of 60 rows"
    rows = {row["model"]: row for row in result.summary["models"]}
    assert tuple(rows) == DEFAULT_MODELS
    for name, row in rows.items():
        own = [line for line in lines if line["model"] == name]
        assert row["scores"] == [line["score"] for line in own]
        assert row["mean"] == pytest.approx(np.mean(row["scores"]))
        assert row["dev_mean"] == pytest.approx(np.mean([line["dev_score"] for line in own]))
        assert row["parameters"] == own[0]["parameters"]
        if name != "linear":
            assert row["standard_deviation"] == pytest.approx(np.std(row["scores"], ddof=1))
    assert rows["linear"]["standard_deviation"] is None
    # embedding, GRU of 4 -> 3 with both biases of torch, output over max and mean
    vocabulary = (rows["gru"]["parameters"] - 3 * 3 * (4 + 3 + 2) - (2 * 3 + 1)) / 4
    # the RNN has a third of the GRU's recurrent weights over the same vectors
    assert rows["rnn"]["parameters"] == vocabulary * 4 + 3 * (4 + 3 + 2) + 7
    figure = Path(files["output"], "comparison.svg").read_text(encoding="utf-8")
    page = Path(files["output"], "index.html").read_text(encoding="utf-8")
    for name in DEFAULT_MODELS:
        assert name in figure
        assert name in page
    assert "60 rows" in page


def test_a_result_is_that_of_training_on_the_same_rows_alone(files):
    """Encoding once, for all models and seeds, must change nothing."""
    compare(job_of(files, models=("bilstm",), seeds=2), ignore)
    texts, raw = sample_reviews(120, seed=1)
    test_texts, test_raw = sample_reviews(60, seed=2)
    labels = LabelSet.build(raw)
    targets, test_targets = labels.encode(raw), labels.encode(test_raw)
    train_rows, dev_rows, _ = development_part(texts, targets, labels, Config(), False)

    def take(rows):
        return [texts[row] for row in rows]

    for line in lines_of(files["output"])[1:]:
        outcome = fit(
            take(train_rows),
            targets[train_rows],
            labels,
            Config(**TINY, seed=line["seed"]),
            valid=(take(dev_rows), targets[dev_rows]),
            baseline=False,
        )
        outputs = outcome.model.predict_proba(test_texts)
        assert line["score"] == np.mean(outputs.argmax(axis=1) == test_targets)
        assert line["scores"]["log_loss"] == pytest.approx(
            -np.mean(np.log(outputs[np.arange(60), test_targets])), abs=1e-9
        )
        assert line["dev_score"] == outcome.dev_metrics["accuracy"]


def test_without_a_test_part_the_development_part_is_scored_and_said(files):
    heard = []
    result = compare(job_of(files, models=("linear", "rnn"), seeds=1, test=False), heard.append)
    assert result.summary["scored_on"] == "development"
    assert result.summary["rows"] == {"train": 108, "dev": 12, "test": 0}
    assert all(line["score"] == line["dev_score"] for line in lines_of(files["output"])[1:])
    notes = [event.text for event in heard if isinstance(event, events.Note)]
    assert any("development part" in note and "too high" in note for note in notes)
    assert any("too high" in note for note in result.summary["notes"])


def test_split_names_the_test_part(files):
    result = compare(job_of(files, models=("rnn",), seeds=1, test=False, split="80:10:30"), ignore)
    assert result.summary["rows"] == {"train": 80, "dev": 10, "test": 30}


def test_several_labels_are_scored_by_micro_f1(tmp_path):
    texts = ["red fish", "blue fish", "red and blue fish", "old red thing", "blue old thing"] * 12
    raw = ["red", "blue", "red;blue", "red;old", "blue;old"] * 12
    files = {"train": write_table(tmp_path / "train.csv", texts, raw), "output": str(tmp_path / "out")}
    reading = ReadOptions(label_kind="multilabel", label_separator=";")
    result = compare(job_of(files, models=("linear", "rnn"), seeds=1, test=False, reading=reading), ignore)
    assert result.summary["score"] == "micro_f1"
    assert result.summary["models"][0]["mean"] == 1.0  # words name the labels


def test_numbers_are_refused(tmp_path):
    texts, _ = sample_reviews(40, seed=1)
    files = {
        "train": write_table(tmp_path / "n.csv", texts, [f"{n}.5" for n in range(40)]),
        "output": str(tmp_path / "o"),
    }
    with pytest.raises(UsageError, match="numbers"):
        compare(job_of(files, test=False), ignore)
    assert not (tmp_path / "o").exists()


# ---- going on ------------------------------------------------------------------------------------------------------


class CutAt:
    """Presses Ctrl-C for good when the n-th model begins to train."""

    def __init__(self, number):
        self.left = number
        self.trained = 0

    def __call__(self, event):
        if isinstance(event, events.EpochStarted):
            self.trained += 1
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_after_a_cut_the_same_command_goes_on(files, tmp_path):
    whole = {**files, "output": str(tmp_path / "whole")}
    compare(job_of(whole), ignore)
    with pytest.raises(InterruptedTrainingError, match=r"3 of 5 results are in .*comparison.* again"):
        compare(job_of(files), CutAt(3))
    kept = lines_of(files["output"])
    assert [(line["model"], line["seed"]) for line in kept[1:]] == [("linear", None), ("rnn", 0), ("bilstm", 0)]
    rest = CutAt(0)
    compare(job_of(files), rest)
    assert rest.trained == 2
    lines = lines_of(files["output"])
    assert lines[:4] == kept
    assert list(map(without_time, lines)) == list(map(without_time, lines_of(whole["output"])))


def test_ctrl_c_inside_a_training_leaves_its_result_out(files):
    def press(event):
        if isinstance(event, events.StepDone):
            os.kill(os.getpid(), signal.SIGINT)  # the loop notes the first one and ends the training early

    with pytest.raises(InterruptedTrainingError, match="No model was finished"):
        compare(job_of(files, models=("rnn",)), press)
    assert not os.path.exists(files["output"])


def test_a_killed_comparison_loses_the_model_in_progress_alone(files):
    command = [
        sys.executable,
        "-m",
        "bilstm",
        "compare",
        files["train"],
        "--test",
        files["test"],
        "-o",
        files["output"],
    ]
    command += ["--models", "rnn,lstm", "--seeds", "200", *FLAGS]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    path = os.path.join(files["output"], "results.jsonl")
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline and process.poll() is None:
            if os.path.exists(path) and len(lines_of(files["output"])) > 3:
                break
            time.sleep(0.02)
        assert process.poll() is None, "the comparison ended by itself"
    finally:
        process.kill()
        process.wait()
    kept = lines_of(files["output"])
    assert len(kept) > 3
    rest = CutAt(0)
    seeds = 1 + max(line["seed"] for line in kept[1:])
    compare(job_of(files, models=("rnn", "lstm"), seeds=seeds), rest)
    assert rest.trained == 2 * seeds - (len(kept) - 1)
    assert lines_of(files["output"])[: len(kept)] == kept


def test_more_models_and_seeds_are_added(files):
    compare(job_of(files, models=("rnn",), seeds=1), ignore)
    more = CutAt(0)
    result = compare(job_of(files, models=("linear", "rnn", "gru"), seeds=2), more)
    assert more.trained == 3
    assert {row["model"]: row["seeds"] for row in result.summary["models"]} == {"linear": 1, "rnn": 2, "gru": 2}
    fewer = compare(job_of(files, models=("rnn",), seeds=1), ignore)
    assert [(row["model"], row["seeds"]) for row in fewer.summary["models"]] == [("rnn", 1)]
    assert len(lines_of(files["output"])) == 6  # nothing was thrown away


@pytest.mark.parametrize(
    ("settings", "others", "said"),
    [
        ({"max_epochs": 2}, {}, "max_epochs was 1, is now 2"),
        ({"seed": 4}, {}, "seed was 0, is now 4"),
        ({}, {"test": False}, "scored_on was test part of 60 rows, is now development part of 12 rows"),
    ],
)
def test_results_of_another_comparison_are_refused_and_kept(files, settings, others, said):
    compare(job_of(files, models=("rnn",), seeds=1), ignore)
    before = lines_of(files["output"])
    with pytest.raises(OutputError, match=re.escape(said)):
        compare(job_of(files, models=("rnn",), seeds=1, settings=settings, **others), ignore)
    assert lines_of(files["output"]) == before


def test_changed_data_are_noticed_and_overwrite_starts_again(files):
    compare(job_of(files, models=("rnn",), seeds=2), ignore)
    texts, labels = sample_reviews(120, seed=3)
    with open(files["train"], "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("review", "sentiment"), *zip(texts, labels, strict=True)])
    with pytest.raises(OutputError, match=r"data was .*train\.csv"):
        compare(job_of(files, models=("rnn",), seeds=1), ignore)
    compare(job_of(files, models=("rnn",), seeds=1, overwrite=True), ignore)
    assert len(lines_of(files["output"])) == 2


def test_files_of_others_in_the_folder_are_kept(files):
    os.mkdir(files["output"])
    with open(os.path.join(files["output"], "thesis.txt"), "w") as file:
        file.write("years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        compare(job_of(files), ignore)
    assert os.listdir(files["output"]) == ["thesis.txt"]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: lines[1:],
        lambda lines: [lines[0], lines[1].replace('"score": ', '"score": "high", "x": ')],
        lambda lines: [lines[0], lines[1].replace('"seed": 0', '"seed": true')],
        lambda lines: [lines[0], "[]"],
        lambda lines: ["", *lines],
    ],
)
def test_a_damaged_results_file_is_refused_with_its_line(files, change):
    compare(job_of(files, models=("rnn",), seeds=1), ignore)
    path = Path(files["output"], "results.jsonl")
    path.write_text("\n".join(change(path.read_text(encoding="utf-8").splitlines())), encoding="utf-8")
    with pytest.raises(DataError, match=r"results\.jsonl:[123]: .*--overwrite"):
        compare(job_of(files, models=("rnn",), seeds=1), ignore)


def test_the_time_left_is_an_estimate_from_what_was_measured(files):
    heard = []
    compare(job_of(files, models=("rnn", "lstm"), seeds=2), heard.append)
    said = [event.text for event in heard if isinstance(event, events.Note) and event.text.startswith("model ")]
    assert [line.split(";")[0] for line in said] == [
        "model 1 of 2 (rnn), seed 1 of 2",
        "model 2 of 2 (lstm), seed 1 of 2",
        "model 1 of 2 (rnn), seed 2 of 2",
        "model 2 of 2 (lstm), seed 2 of 2",
    ]
    assert ["left" in line for line in said] == [False, True, True, True]


# ---- command line --------------------------------------------------------------------------------------------------


def test_command_prints_the_table_and_the_verdict(files, capsys):
    arguments = [files["train"], "--test", files["test"], "-o", files["output"], "--models", "linear,lstm", *FLAGS]
    assert main(["compare", *arguments, "--seeds", "2"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^model +test accuracy +spread +seeds +dev score +parameters +seconds$", shown.out, re.MULTILINE)
    lstm = [line for line in lines_of(files["output"]) if line.get("model") == "lstm"]
    mean = statistics.fmean(line["score"] for line in lstm)
    assert re.search(rf"^lstm +{mean:.4f} ", shown.out, re.MULTILINE)
    assert "linear baseline" in shown.out
    assert "model 2 of 2 (lstm), seed 1 of 2" in shown.err
    assert main(["compare", *arguments, "--seeds", "2", "--json", "-q"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in answer["models"]] == ["linear", "lstm"]
    assert answer["models"][1]["mean"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--models", "linear,bilstn"], 2, "Did you mean bilstm?"),
        (["--models", "lstm,lstm"], 2, "names lstm twice"),
        (["--models", ","], 2, "names no model"),
        (["--seeds", "0"], 2, "--seeds"),
        (["--cell", "gru"], 2, "--cell: not a setting of a comparison"),
        (["--join-linear", "no"], 2, "--join-linear: not a setting of a comparison"),
        (["--preset", "imdb-17"], 2, "imdb-17"),
        (["--split", "0.5:0.5"], 2, "--test and --split"),
        (["--label", "sentimet"], 65, "sentiment"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(files, capsys, arguments, code, said):
    command = ["compare", files["train"], "--test", files["test"], "-o", files["output"], *FLAGS, *arguments]
    assert main(command) == code
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("bilstm: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert shown.out == ""
    assert not os.path.exists(files["output"])


def test_a_missing_test_file_and_a_strange_label_in_it(files, tmp_path, capsys):
    command = ["compare", files["train"], "-o", files["output"], "--models", "rnn", *FLAGS]
    assert main([*command, "--test", str(tmp_path / "none.csv")]) == 66
    strange = write_table(tmp_path / "strange.csv", ["a good film", "a bad film"], ["positive", "meh"])
    assert main([*command, "--test", strange]) == 65
    assert "strange.csv:3" in capsys.readouterr().err
    assert not os.path.exists(files["output"])


def test_models_of_one_seed_share_their_word_vectors(files):
    heard = []
    job = job_of(files, models=("rnn", "bilstm"), seeds=2, settings={"vectors": "in-domain"})
    result = compare(job, heard.append)
    phases = [event for event in heard if isinstance(event, events.PhaseDone) and event.name == "word vectors"]
    remembered = [event for event in heard if isinstance(event, events.Note) and "learned before" in event.text]
    assert (len(phases), len(remembered)) == (4, 2)
    trained = sum(event.seconds for event in heard if isinstance(event, events.PhaseDone) and event.name == "training")
    # every model counts the time of its vectors, also where they were remembered (rounded to hundredths of a second)
    counted = sum(line.get("seconds", 0.0) for line in lines_of(result.folder))
    assert counted >= trained + phases[0].seconds - 0.1
