"""What the report of a training says about explanations; and that Ctrl-C there loses no model."""

import json
import re

import numpy as np
import pytest

from bilstm.evaluation.page import Html, write_page
from bilstm.explanation.explaining import subject_of
from bilstm.explanation.faithfulness import Faithfulness
from bilstm.explanation.methods import default_method
from bilstm.explanation.report import STYLE, MeasuredMethod, explain_for_report, sections_of, trust_sentence
from bilstm.tasks import text_run
from cli_runs import FAST, run, write_csv
from explained_models import some_texts, text_model


def explained(kind, rows=40):
    model, texts = text_model(kind), some_texts(rows, seed=8)
    outputs = model.predict_proba(texts)
    random = np.random.default_rng(1)
    if kind == "regression":
        targets = random.normal(size=rows)
    elif kind == "multilabel":
        targets = random.integers(0, 2, outputs.shape).astype(float)
    else:
        targets = random.integers(0, outputs.shape[1], rows)
    return explain_for_report(model, texts, outputs, targets, [f"<{row}>" for row in range(rows)], 0)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_sections_of_every_kind(kind):
    found = explained(kind)
    page = write_page("t", Html(""), [(k, n, f(None, k)) for k, n, f in sections_of(found) if f(None, k)], "", STYLE)
    assert "Why it answered so" in page
    assert "&lt;" in page  # the made-up labels, escaped
    assert "style=" not in page
    if kind == "regression":
        assert found.measured == ()
        assert "Furthest from the truth" in page
        return
    assert "How far to trust the explanations" in page
    assert [one.name for one in found.measured] == ["quick-gradients", "gradient-x-input", "random"]
    assert "What mattered over many texts" in page
    if kind != "multilabel":
        assert {name for name, _, _ in found.examples} == {"Right and sure", "Wrong, though sure", "Least sure"}
    json.dumps(found.to_json(), allow_nan=False)


def measured(comprehensiveness, sufficiency):
    return MeasuredMethod("m", Faithfulness(comprehensiveness, sufficiency, 10, ()), 1.0, None)


@pytest.mark.parametrize(
    ("method", "random", "says"),
    [
        ((0.5, 0.0), (0.02, 0.3), "name words on which the answers rest"),
        ((0.05, 0.2), (0.04, 0.3), "take them as hints"),
        ((0.02, 0.4), (0.04, 0.3), "Do not trust"),
        ((0.5, 0.4), (0.04, 0.3), "Do not trust"),
    ],
)
def test_plain_sentence_follows_the_figures(method, random, says):
    sentence = trust_sentence(measured(*method), measured(*random))
    assert says in sentence
    assert f"falls by {round(100 * method[0])} points" in sentence


def test_networks_without_a_gradient_fall_to_occlusion_by_name():
    model = text_model(merge="sum", pooling=("last",))
    assert default_method(subject_of(model)) == "occlusion"
    assert model.explain("good w1 bad").method == "occlusion"


@pytest.fixture
def data(tmp_path):
    texts = some_texts(80, seed=2)
    return write_csv(
        tmp_path / "data.csv", [(f"{t} {'fine' if n % 2 else 'awful'}", n % 2) for n, t in enumerate(texts)]
    )


def test_training_writes_the_sections_and_the_figures(capsys, data, tmp_path):
    assert run(capsys, "train", data, "-o", tmp_path / "model", *FAST).code == 0
    report = (tmp_path / "model" / "report.html").read_text(encoding="utf-8")
    for title in ("Why it answered so", "What mattered over many texts", "How far to trust the explanations"):
        assert title in report
    assert not re.search(r"<script|style=|https?://(?!www\.w3\.org)", report)
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["explanations"]["methods"].keys() == {"quick-gradients", "gradient-x-input", "random"}


def test_interruption_leaves_out_explanations_not_the_model(capsys, data, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(text_run, "explain_for_report", interrupted)
    done = run(capsys, "train", data, "-o", tmp_path / "model", *FAST)
    assert done.code == 0
    assert "explanations of the report are left out" in done.err
    assert "Why it answered so" not in (tmp_path / "model" / "report.html").read_text(encoding="utf-8")
    assert run(capsys, "predict", tmp_path / "model", "good").code == 0
