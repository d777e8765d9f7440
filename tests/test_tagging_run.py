"""Tagging from files: train, evaluate and predict by the command line, the folder, the report, clear messages."""

import json

import pytest
import torch
from seqeval.metrics import f1_score, precision_score

import bilstm
from bilstm.cli.app import main
from bilstm.data.conll import write_conll
from bilstm.data.tagged_files import read_tagged
from test_sequence_tagging import made_up

torch.set_num_threads(1)

FLAGS = [
    "--hidden-size", "16", "--word-size", "16", "--character-size", "8", "--character-features", "8",
    "--trait-size", "4", "--learning-rate", "0.02", "--batch-size", "16", "--average-decay", "0.9",
    "--vectors", "random", "--adversarial-norm", "none", "--threads", "1", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagging")
    for name, count, seed in (("train", 120, 0), ("dev", 40, 1), ("test", 40, 2)):
        tokens, tags, _ = made_up(count, seed)
        (folder / f"{name}.conll").write_text(write_conll(zip(tokens, tags, strict=True)))
    return folder


@pytest.fixture(scope="module")
def model(files):
    output = files / "ner"
    given = ["train", str(files / "train.conll"), "--valid", str(files / "dev.conll"), "-o", str(output)]
    assert main([*given, "--max-epochs", "8", *FLAGS]) == 0
    return output


def run(capsys, *arguments):
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_folder_report_and_card(model):
    names = {path.name for path in model.iterdir()}
    assert {
        "config.json",
        "weights.safetensors",
        "vocabulary.json",
        "report.html",
        "README.md",
        "history.json",
    } <= names
    page = (model / "report.html").read_text()
    for piece in ("Sequence tagging", "PER", "LOC", "How training went", "train.conll", "BiLSTM-CRF", "Each type"):
        assert piece in page
    card = (model / "README.md").read_text()
    assert "token-classification" in card
    assert "types of spans: LOC, PER" in card
    metrics = json.loads((model / "metrics.json").read_text())
    assert metrics["dev"]["f1"] > 0.9
    assert metrics["baseline"]["name"] == "each word with its most frequent tag"
    assert metrics["scheme"] == "IOB2"


def test_evaluate_gives_the_scores_of_seqeval(model, files, capsys):
    code, out, _ = run(capsys, "evaluate", model, files / "test.conll", "--json")
    assert code == 0
    scores = json.loads(out)
    gold = read_tagged(files / "test.conll")
    answers = bilstm.load(model).predict(gold.tokens)
    assert scores["f1"] == pytest.approx(f1_score(gold.tags, answers), abs=1e-9)
    assert scores["precision"] == pytest.approx(precision_score(gold.tags, answers), abs=1e-9)
    code, out, _ = run(capsys, "evaluate", model, files / "test.conll")
    assert code == 0
    assert "F1 of unseen spans" in out


def test_predict_as_text_json_and_conll(model, files, capsys):
    text = "Anna Sato visits New York on Monday ."
    code, out, _ = run(capsys, "predict", model, text)
    assert (code, out) == (0, "[Anna Sato]PER visits [New York]LOC on Monday .\n")
    _, out, _ = run(capsys, "predict", model, text, "--json")
    (found,) = json.loads(out)["predictions"]
    assert [(text[span["start"] : span["end"]], span["label"]) for span in found["spans"]] == [
        ("Anna Sato", "PER"),
        ("New York", "LOC"),
    ]
    assert all(0 < span["score"] <= 1 for span in found["spans"])
    _, out, _ = run(capsys, "predict", model, text, "--format", "conll")
    assert out.splitlines()[:3] == ["Anna\tB-PER", "Sato\tI-PER", "visits\tO"]
    assert out.endswith("\n\n")


def test_predict_files(model, files, capsys):
    answers = files / "answers.conll"
    code, _, err = run(capsys, "predict", model, "--file", files / "test.conll", "-o", answers)
    assert code == 0
    assert "40 sentences tagged" in err
    read = read_tagged(answers)
    gold = read_tagged(files / "test.conll")
    assert read.tokens == gold.tokens
    assert read.tags == bilstm.load(model).predict(gold.tokens)
    (files / "raw.txt").write_text("Bo visits Lima.\n\nEva leaves Rome.\n")
    code, out, _ = run(capsys, "predict", model, "--file", files / "raw.txt", "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == ["Bo visits Lima.", "", "Eva leaves Rome."]
    assert rows[1]["tags"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nb\n", r"bad.conll:2: 1 column where the file has 2"),
        ("", "bad.conll: the file is empty"),
        ("a O\nb O\n\nc O\n", "All 3 training tokens have the same tag 'O'"),
        ("a B-X\n\nb 0\n\nc O\n", r"bad.conll:3: tag '0' is neither O nor a letter and a type"),
    ],
)
def test_planted_mistakes_are_named(files, capsys, content, message):
    path = files / "bad.conll"
    path.write_text(content)
    code, _, err = run(capsys, "train", path, "--valid", path, "-o", files / "none", "--max-epochs", "1", *FLAGS)
    assert code == 65
    assert message in err
    assert "Traceback" not in err
    assert not (files / "none").exists()


def test_options_that_do_not_fit(model, files, capsys):
    train = files / "train.conll"
    for arguments, message in [
        (("train", train, "-o", files / "none", "--label", "5"), "the file has columns 1 to 2"),
        (("train", train, "-o", files / "none", "--head", "linear"), "--head must be one of crf, softmax"),
        (("predict", model, "x", "--format", "xml"), "--format"),
        (("train", train, "-o", files / "none", "--auxiliary", "xyz", "--max-epochs", "1"), "no column 'xyz'"),
    ]:
        code, _, err = run(capsys, *arguments)
        assert code == 2, err
        assert message in err


def test_slots_split_unlabelled_and_json(tmp_path, capsys):
    tokens, tags, intents = made_up(150, 3)
    folder = tmp_path / "train"
    folder.mkdir()
    for name, rows in (("seq.in", tokens), ("seq.out", tags)):
        (folder / name).write_text("".join(" ".join(row) + "\n" for row in rows))
    (folder / "label").write_text("".join(f"{intent}\n" for intent in intents))
    (tmp_path / "more.txt").write_text("Zanzibar is far.\nZanzibar is big.\n" * 3)
    flags = [flag if flag != "random" else "in-domain" for flag in FLAGS]
    more = ["--unlabelled", tmp_path / "more.txt", "--split", "0.7:0.15:0.15", "--max-epochs", "8", "--json"]
    code, out, err = run(capsys, "train", folder, "-o", tmp_path / "nlu", *more, *flags)
    assert code == 0, err
    summary = json.loads(out)
    assert summary["intents"] == ["come", "go"]
    assert summary["test"]["intent"]["accuracy"] > 0.9
    assert summary["rows"]["test"] in (22, 23)
    assert bilstm.load(tmp_path / "nlu").encoder.is_known("zanzibar")
    code, out, _ = run(capsys, "predict", tmp_path / "nlu", "Farid leaves Lima .")
    assert out == "come\t[Farid]PER leaves [Lima]LOC .\n"
    assert "intent" in (tmp_path / "nlu" / "report.html").read_text()


def test_part_of_speech_from_conllu(tmp_path, capsys):
    lines = []
    for tokens in made_up(60, 4)[0]:
        for place, token in enumerate(tokens, start=1):
            tag = "PUNCT" if token == "." else "VERB" if token in ("visits", "leaves") else "NOUN"
            lines.append(f"{place}\t{token}\t_\t{tag}\t_\t_\t0\troot\t_\t_")
        lines.append("")
    path = tmp_path / "en.conllu"
    path.write_text("\n".join(lines))
    code, out, err = run(capsys, "train", path, "--label", "upos", "-o", tmp_path / "pos", "--max-epochs", "6", *FLAGS)
    assert code == 0, err
    assert "Tokens right" in out
    _, out, _ = run(capsys, "predict", tmp_path / "pos", "Bo visits Lima .")
    assert out == "Bo/NOUN visits/VERB Lima/NOUN ./PUNCT\n"
    assert "Each tag" in (tmp_path / "pos" / "report.html").read_text()


def test_resumed_run_ends_with_the_same_weights(files, tmp_path, capsys, monkeypatch):
    from bilstm.training import loop

    given = ["train", str(files / "dev.conll"), "--max-epochs", "3", "--checkpoint-steps", "1", *FLAGS]
    assert main([*given, "-o", str(tmp_path / "whole")]) == 0
    step, steps = loop._Run._step, []

    def cut(self, *arguments):
        if len(steps) == 4:
            raise RuntimeError("the power is gone")
        steps.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(loop._Run, "_step", cut)
    with pytest.raises(RuntimeError, match="the power is gone"):
        main([*given, "-o", str(tmp_path / "cut")])
    monkeypatch.undo()
    assert main([*given, "-o", str(tmp_path / "cut"), "--resume"]) == 0
    one, other = (bilstm.load(tmp_path / name).weights for name in ("whole", "cut"))
    for name in one:
        assert (one[name] == other[name]).all(), name
