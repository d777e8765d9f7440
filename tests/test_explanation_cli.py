"""`bilstm explain`: every way in and out, refusals, and taggers span by span."""

import json

import numpy as np
import pytest

from bilstm.errors import UsageError
from bilstm.explanation.tagger import TAGGER_METHODS, explain_spans
from bilstm.runtime.crf import decode
from cli_runs import run, write_csv
from explained_models import some_texts, text_model
from made_models import tagger_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_model("binary").save(tmp_path_factory.mktemp("explained") / "model")


@pytest.fixture
def texts_file(tmp_path):
    return write_csv(tmp_path / "texts.csv", [(text, "good") for text in some_texts(25, seed=4)])


def test_a_text_is_shown_with_signs_where_there_are_no_colours(capsys, folder):
    done = run(capsys, "explain", folder, "good film, not bad <b>", "--phrases")
    assert done.code == 0
    assert "probability of" in done.out
    assert "completeness gap" in done.out
    assert "together" in done.out
    assert "\x1b" not in done.out


def test_json_of_texts(capsys, folder):
    done = run(capsys, "explain", folder, "good w1", "", "--json", "--method", "occlusion", "--class", "all")
    entries = done.json["explanations"]
    assert [entry["text"] for entry in entries] == ["good w1", ""]
    assert entries[0]["targets"] == ["bad", "good"]
    assert np.array(entries[0]["attributions"]).shape == (2, 2)
    assert entries[1]["attributions"] == []


@pytest.mark.parametrize("ending", ["html", "json", "jsonl"])
def test_a_file_of_texts(capsys, folder, texts_file, tmp_path, ending):
    output = tmp_path / f"explained.{ending}"
    done = run(capsys, "explain", folder, "--file", texts_file, "-o", output)
    assert done.code == 0
    assert "25 explanations written" in done.err
    content = output.read_text(encoding="utf-8")
    if ending == "html":
        assert content.count('class="explained"') == 25
    else:
        entries = (
            json.loads(content)["explanations"] if ending == "json" else list(map(json.loads, content.splitlines()))
        )
        assert [entry["text"] for entry in entries] == some_texts(25, seed=4)


def test_html_on_standard_output(capsys, folder):
    done = run(capsys, "explain", folder, "<script>x</script> good", "--html")
    assert done.out.startswith("<!DOCTYPE html>")
    assert "<script" not in done.out


def test_over_all_texts(capsys, folder, texts_file):
    done = run(capsys, "explain", folder, "--file", texts_file, "--global")
    assert "words that speak for good, over 25 texts" in done.out
    as_json = run(capsys, "explain", folder, "--file", texts_file, "--global", "--json").json
    assert as_json["texts"] == 25
    assert set(as_json["classes"]) == {"bad", "good"}


def test_nearest_training_texts(capsys, folder, texts_file):
    done = run(capsys, "explain", folder, some_texts(25, seed=4)[3], "--training-file", texts_file, "--json")
    near = done.json["explanations"][0]["neighbours"]
    assert near[0]["row"] == 3
    assert near[0]["similarity"] == pytest.approx(1.0, abs=1e-5)


def test_standard_input(capsys, folder, monkeypatch):
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("good\nbad w1\n"))
    assert [one["text"] for one in run(capsys, "explain", folder, "-", "--json").json["explanations"]] == [
        "good",
        "bad w1",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got none"),
        (["good", "--file", "x.csv"], "got both"),
        (["good", "--html", "--json"], "exclude each other"),
        (["good", "-o", "x.txt"], "the ending must be .html, .json, .jsonl"),
        (["good", "--global", "--html"], "--global writes a table or JSON"),
        (["good", "--span", "good"], "--span is for taggers"),
        (["good", "--method", "magic"], "no method 'magic'"),
        (["good", "--method", "attention"], "has no attention"),
        (["good", "--class", "maybe"], "no class 'maybe'"),
    ],
)
def test_refusals(capsys, folder, arguments, message):
    done = run(capsys, "explain", folder, *arguments)
    assert done.code == 2
    assert message in done.error
    assert done.out == "" or "--json" in arguments


def test_a_missing_file_leaves_nothing_behind(capsys, folder, tmp_path):
    output = tmp_path / "out.html"
    done = run(capsys, "explain", folder, "--file", tmp_path / "none.csv", "-o", output)
    assert done.code == 66
    assert not output.exists()


# ---- taggers ----


@pytest.mark.parametrize("method", list(TAGGER_METHODS))
def test_spans_of_a_tagger(method):
    model = tagger_model()
    found = explain_spans(model, "Anna saw Bo Lee .", "Bo Lee", method)
    assert len(found) >= 1
    for one in found:
        assert one.tokens == ("Anna", "saw", "Bo", "Lee", ".")
        assert np.isfinite(one.attributions).all()
        if one.gap is not None and method != "gradient-x-input":
            assert np.abs(one.attributions.sum() - (one.score - one.baseline_score)[0]) == pytest.approx(
                one.gap, abs=1e-6
            )
        json.dumps(one.to_json(), allow_nan=False)


def test_score_of_a_span_is_that_of_its_tags_over_the_others():
    model = tagger_model()
    tokens = ["Anna", "saw", "Bo"]
    emissions, _ = model.scores(model.encode([tokens]))
    best = decode(emissions, model.tagger.crf)[0][0]
    scores = emissions.values.astype(float)
    rest = [scores[at][best[at]] - np.delete(scores[at], best[at]).mean() for at in range(3)]
    for one in explain_spans(model, tokens, "saw", "occlusion"):
        words = one.targets[0].split(": ", 1)[1].split()
        covered = [at for at, token in enumerate(tokens) if token in words]
        assert float(one.score[0]) == pytest.approx(np.mean([rest[at] for at in covered]), abs=1e-5)


def test_the_model_explains_itself():
    model = tagger_model()
    assert [one.targets for one in model.explain("Anna saw Bo", "saw")] == [
        one.targets for one in explain_spans(model, "Anna saw Bo", "saw")
    ]


def test_refused_spans():
    model = tagger_model()
    with pytest.raises(UsageError, match="does not hold the span 'Paris'"):
        explain_spans(model, "Anna saw Bo", "Paris")
    with pytest.raises(UsageError, match="holds no word"):
        explain_spans(model, "Anna saw Bo", " ")
    with pytest.raises(UsageError, match="a tagger has no method 'contextual-decomposition'"):
        explain_spans(model, "Anna saw Bo", "Bo", "contextual-decomposition")


def test_command_explains_a_span(capsys, tmp_path):
    folder = tagger_model().save(tmp_path / "tagger")
    done = run(capsys, "explain", folder, "Anna saw Bo Lee .", "--span", "saw", "--json")
    assert done.json["explanations"][0]["tokens"] == ["Anna", "saw", "Bo", "Lee", "."]
    refused = run(capsys, "explain", folder, "Anna saw Bo", "--phrases")
    assert refused.code == 2
    assert "a tagger explains texts given as arguments" in refused.error
