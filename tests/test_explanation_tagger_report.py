"""What the report of a tagger says about explanations; and that Ctrl-C there loses no model."""

import json
import re

import numpy as np
import pytest
import torch

import bilstm
from bilstm.cli.app import main
from bilstm.data.conll import write_conll
from bilstm.data.ragged import Ragged
from bilstm.explanation import tagger_report
from bilstm.explanation.tagger_report import explain_tagger_for_report
from bilstm.runtime.crf import build_lattice
from bilstm.tasks import tagging_run
from test_sequence_tagging import made_up
from test_tagging_run import FLAGS

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    for name, count, seed in (("train", 120, 0), ("dev", 40, 1)):
        tokens, tags, _ = made_up(count, seed)
        (folder / f"{name}.conll").write_text(write_conll(zip(tokens, tags, strict=True)))
    return folder


def train(files, output, epochs="8"):
    given = ["train", str(files / "train.conll"), "--valid", str(files / "dev.conll"), "-o", str(output)]
    return main([*given, "--max-epochs", epochs, *FLAGS])


@pytest.fixture(scope="module")
def model(files):
    assert train(files, files / "ner") == 0
    return files / "ner"


def test_training_writes_the_sections_and_the_figures(model):
    page = (model / "report.html").read_text(encoding="utf-8")
    assert "Why it answered so" in page
    assert "How far to trust the explanations" in page
    assert "Milliseconds a span" in page
    assert not re.search(r"<script|style=|https?://(?!www\.w3\.org)", page)
    metrics = json.loads((model / "metrics.json").read_text(encoding="utf-8"))["explanations"]
    assert metrics["methods"].keys() == {"quick-gradients", "gradient-x-input", "random"}
    assert metrics["spans"] > 0


def test_groups_agree_with_the_truth(model):
    tagger = bilstm.load(model)
    tokens, tags, _ = made_up(60, 5)
    tags = [list(row) for row in tags]
    tags[::2] = [["O"] * len(row) for row in tags[::2]]  # every second truth without spans: their answers are wrong
    found = explain_tagger_for_report(tagger, tokens, tags, 0)
    assert {name for name, _, _ in found.examples} == {"Right and sure", "Wrong, though sure", "Least sure"}
    for name, one, truth in found.examples:
        if name == "Right and sure":
            assert truth == one.targets[0]
        if name == "Wrong, though sure":
            assert truth != one.targets[0]
    assert len({one.text for _, one, _ in found.examples}) == len(found.examples)


def test_span_probabilities_are_those_of_the_model_without_these_words(model):
    """The measure on features equals predicting a sentence whose words are replaced by an unknown word."""
    tagger = bilstm.load(model)
    tokens = made_up(20, 9)[0]
    row = next(row for row in tagger.annotate(tokens) if row.spans)
    one = row.spans[0]
    first = [start for start, _ in row.offsets].index(one.start)
    last = [end for _, end in row.offsets].index(one.end) + 1
    found = tagger_report._Found(0, (first, last, one.label, one.score), True, "")
    network, empty = tagger_report.network_of_tagger(tagger), tagger_report.empty_word(tagger)
    vectors = tagger.tagger.features(tagger.encode([row.tokens]).batch([0])).values
    paths = tagger_report._lattice_of(tagger, [row])[1]
    values = np.zeros(len(vectors))
    values[first] = 1.0  # the first word of the span is the strongest; 1 % of the words is this one
    measured = tagger_report._faithfulness(tagger, network, [found], [vectors], paths, empty, [values])
    gone = vectors.copy()
    gone[first] = empty
    batch = Ragged(gone, np.array([0, len(gone)], dtype=np.int64))
    lattice = build_lattice(batch.with_values(network.run(batch)), tagger.tagger.crf)
    by_hand = one.score - lattice.path_probability(0, first, paths[0][first:last])
    assert by_hand > 0.01
    assert measured.by_share[0][1] == pytest.approx(by_hand, abs=1e-5)


def test_plain_tags_explain_words(tmp_path):
    tokens, tags, _ = made_up(80, 3)
    plain = [["X" if tag == "O" else "Y" for tag in row] for row in tags]
    (tmp_path / "train.conll").write_text(write_conll(zip(tokens, plain, strict=True)))
    (tmp_path / "dev.conll").write_text(write_conll(zip(tokens[:20], plain[:20], strict=True)))
    assert train(tmp_path, tmp_path / "pos", "3") == 0
    tagger = bilstm.load(tmp_path / "pos")
    assert tagger.scheme == "none"
    found = explain_tagger_for_report(tagger, tokens[:20], plain[:20], 0)
    assert found.measured[0].faithfulness.texts == min(
        tagger_report.MEASURED_SPANS, sum(len(row) for row in tokens[:20])
    )
    assert {one.prediction for _, one, _ in found.examples} <= {"X", "Y"}


def test_no_span_gives_no_section(model):
    found = explain_tagger_for_report(bilstm.load(model), [["."]], [["O"]], 0)
    shown = [write(None, key) for key, _, write in tagger_report.tagger_sections_of(found)]
    assert (shown == [None, None]) == (not bilstm.load(model).predict_spans([["."]])[0])


def test_interruption_leaves_out_explanations_not_the_model(files, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tagging_run, "explain_tagger_for_report", interrupted)
    assert train(files, tmp_path / "model", "2") == 0
    assert "Why it answered so" not in (tmp_path / "model" / "report.html").read_text(encoding="utf-8")
    assert bilstm.load(tmp_path / "model").predict([["a", "b"]])
