"""The report page: valid, whole, safe, small, and saying what the numbers say."""

import base64
import dataclasses
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from bilstm.errors import DataError, ShapeError
from bilstm.evaluation import report, report_data, verdict
from bilstm.evaluation.comparison import (
    ComparedModel,
    Comparison,
    build_comparison,
    comparison_chart,
    comparison_rows,
)
from bilstm.evaluation.page import Html, section, tag
from bilstm.evaluation.report import build_report, write_report
from bilstm.evaluation.report_data import BaselineData, InputFile, Mistake, PairedOutcome, ReportData, TellingWords
from bilstm.metrics import (
    Temperature,
    apply_temperature,
    evaluate_classification,
    evaluate_multilabel,
    evaluate_regression,
    fit_temperature,
)
from bilstm.model_summary import LayerRow
from bilstm.training.events import EpochRow

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "</td><script>alert('x')</script><img src=x onerror=alert(1)> \u202eevil \x00\x07\ud800 😀 סרט טוב"


class Page(HTMLParser):
    """Reads a page strictly: every element is closed, in order, ids are unique."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


def read(html: str) -> Page:
    html.encode("utf-8")  # no half surrogates
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert len(html.encode()) < report.MAX_BYTES
    return page


def classification(seed: int = 0, rows: int = 400, strength: float = 3.0, names=("negative", "positive"), **changes):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, len(names), rows)
    logits = strength * np.eye(len(names))[targets] + 2 * generator.normal(size=(rows, len(names)))
    other = 2.0 * np.eye(len(names))[targets] + 2 * generator.normal(size=(rows, len(names)))
    fitted = fit_temperature(logits, targets)
    after, before = apply_temperature(logits, fitted.value), apply_temperature(logits)
    theirs = apply_temperature(other)
    lengths = generator.integers(1, 500, rows)
    is_right, is_theirs = after.argmax(1) == targets, theirs.argmax(1) == targets
    texts = [f"text number {i} " + "word " * int(n) for i, n in enumerate(lengths)]
    data = ReportData(
        title="sentiment of reviews.csv",
        kind="classification",
        scores=evaluate_classification(after, targets, names),
        scored_on="the development part of 400 rows",
        model_name="BiLSTM",
        command="bilstm train reviews.csv -o model --seed 7",
        created="2026-01-02",
        files=[InputFile("reviews.csv", "training and development", 4000, "ab" * 32)],
        parts=[
            report_data.describe_part("training part", np.arange(1, 3601), np.arange(3600) % len(names), names),
            report_data.describe_part("development part", lengths, targets, names),
        ],
        notes=["3 rows without a label were left out."],
        baseline=BaselineData(
            "NB-SVM",
            evaluate_classification(theirs, targets, names),
            12.0,
            (),
            report_data.paired_outcome(is_right, is_theirs),
        ),
        epochs=[EpochRow(e, 1 / e, 1 - 0.5 / e, 0.4 + 0.01 * e, 0.9 - 0.2 / e, 9.0, 400.0, 0.001) for e in range(1, 6)],
        best_epoch=3,
        score_name="accuracy",
        scores_before=evaluate_classification(before, targets, names),
        temperature=fitted,
        length_groups=report_data.group_by_length(lengths, [is_right, is_theirs]),
        mistakes=report_data.classification_mistakes(
            after, targets, names, texts, [f"reviews.csv:{i}" for i in range(rows)]
        ),
        telling=[TellingWords(name, [(f"word for {name}", 2.0), ("other", 1.0)]) for name in names],
        layers=[
            LayerRow("0 Embedding(5,000 -> 16)", "(batch, steps, 16)", 80000, 0),
            LayerRow("1 Linear", "(batch, 1)", 17, 0),
        ],
        settings={"learning_rate": 0.001},
        versions={"bilstm": "0.1.0", "torch": "2.13.0"},
        seeds={"weights": 7},
        seconds=61.0,
        peak_memory=3 * 2**29,
    )
    return dataclasses.replace(data, **changes)


def test_a_whole_report_holds_the_facts():
    data = classification()
    page = read(build_report(data))
    scores, other = data.scores, data.baseline.scores
    low, high = scores["accuracy_interval"]
    for fact in (
        f"trained on 3,600 texts of reviews.csv, reaches {100 * scores['accuracy']:.1f}% accuracy",
        f"(95% interval {100 * low:.1f}% to {100 * high:.1f}%) on the development part of 400 rows",
        f"NB-SVM: {100 * other['accuracy']:.1f}% accuracy",
        f"{100 * scores['macro_f1']:.1f}%",
        f"{scores['log_loss']:.3f}",
        f"divides its logits by {data.temperature.value:.2f}",
        "3 rows without a label were left out.",
        "weights of epoch 3 of 5",
        "began to learn the training texts by heart",
        "The 20 most confident mistakes",
        data.mistakes[0].where,
        "word for negative",
        "80,017",
        "bilstm train reviews.csv -o model --seed 7",
        "1 min 1 s",
        "1.50 GiB",
        "2.13.0",
        "abababababababab",
        "Short and long texts",
    ):
        assert fact in page.text, fact
    assert page.count("h1") == 1
    assert page.count("svg") >= 8
    assert page.count("section") == 10


def test_next_to_nothing_and_all_right_are_said_plainly():
    data = classification()
    epochs = [EpochRow(e, 1 / e, 1 / e, 1 - 0.1 / e, 1 / e, 9.0, 400.0, 0.001) for e in (1, 2)]
    best_last = classification(epochs=epochs, best_epoch=2, scores={**data.scores, "log_loss": 2.29e-9})
    page = read(build_report(best_last))
    assert "more epochs may still help" in page.text
    assert "< 0.001" in page.text
    assert "e−09" not in page.text
    epochs[1] = dataclasses.replace(epochs[1], dev_score=1.0)
    assert "more epochs may still help" not in read(build_report(classification(epochs=epochs, best_epoch=2))).text


def test_nothing_from_outside_and_only_the_one_style_is_allowed():
    html = build_report(classification())
    page = read(html)
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {"src", "style", "srcset", "action"} & names
    assert not [name for name in names if name.startswith("on")]
    assert "http" not in html.replace("http-equiv", "")
    assert "@import" not in style
    assert "url(" not in style


def test_what_a_user_gives_is_text_only():
    hostile = classification(names=(HOSTILE, "b", "c" + HOSTILE))
    hostile = dataclasses.replace(
        hostile,
        title=HOSTILE,
        scored_on=HOSTILE,
        model_name=HOSTILE,
        command=HOSTILE,
        created=HOSTILE,
        notes=[HOSTILE],
        files=[InputFile(HOSTILE, "training" + HOSTILE, 3, HOSTILE)],
        baseline=dataclasses.replace(hostile.baseline, name=HOSTILE, notes=[HOSTILE]),
        score_name=HOSTILE,
        mistakes=[Mistake(HOSTILE * n, HOSTILE, HOSTILE, HOSTILE, HOSTILE) for n in (1, 30)],
        telling=[TellingWords(HOSTILE, [(HOSTILE, 1.0)])],
        telling_source=HOSTILE,
        layers=[LayerRow(HOSTILE, HOSTILE, 1, 0)],
        settings={HOSTILE: HOSTILE},
        versions={"bilstm": HOSTILE},
        machine={HOSTILE: HOSTILE},
        seeds={HOSTILE: 1},
    )
    clean = read(build_report(classification(names=("a", "b", "c"))))
    page = read(build_report(hostile))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
    assert "\x00" not in page.text
    assert "<script>alert('x')</script>" in page.text  # shown, not run
    assert "סרט טוב" in page.text
    assert page.count("script") == 0
    autos = [a for tag, a in page.tags if a.get("dir") == "auto"]
    assert len(autos) == 2  # each mistake's text finds its own direction


@pytest.mark.parametrize(
    ("own", "other", "paired", "side", "words"),
    [
        (0.90, 0.85, PairedOutcome(80, 30, 0.0001), "ahead", "5.0 points ahead of the linear baseline"),
        (0.86, 0.85, PairedOutcome(45, 41, 0.75), "equal", "does not clearly beat the linear baseline"),
        (0.85, 0.86, PairedOutcome(41, 45, 0.75), "equal", "The BiLSTM does not beat the linear baseline"),
        (0.80, 0.86, PairedOutcome(10, 70, 1e-9), "behind", "The BiLSTM does not beat the linear baseline"),
        (0.85, 0.85, PairedOutcome(40, 40, 1.0), "equal", "does no better than the linear baseline"),
        (0.85, 0.86, None, "behind", "The BiLSTM does not beat the linear baseline"),
    ],
)
def test_the_verdict_is_plain(own, other, paired, side, words):
    data = classification()
    baseline = BaselineData("NB-SVM", data.baseline.scores | {"accuracy": other}, 1.0, (), paired)
    data = dataclasses.replace(data, scores=data.scores | {"accuracy": own}, baseline=baseline)
    judged = verdict.compare_with_baseline(data)
    assert judged.side == side
    page = read(build_report(data))
    assert words in page.text
    assert [a for tag, a in page.tags if a.get("class") == f"verdict {side}"]
    if paired is not None:
        assert (
            f"only the BiLSTM has {paired.only_model} rows right, only the baseline {paired.only_baseline}" in page.text
        )


def test_what_is_not_given_is_left_out():
    full = classification()
    bare = ReportData(
        "t", "classification", full.scores, "500 rows of test.csv", "GRU", "bilstm evaluate m test.csv", True
    )
    page = read(build_report(bare))
    assert "linear baseline" not in page.text
    assert "Nothing was chosen on these rows" in page.text
    titles = re.findall(r"<h2>(.*?)</h2>", build_report(bare))
    assert titles == ["Result", "Which classes are confused", "Can the probabilities be believed?", "Repeat it"]


def test_a_score_without_a_value_is_a_dash_with_its_reason():
    scores = evaluate_classification(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 0]), ["a", "b"])
    page = read(build_report(ReportData("t", "classification", scores, "2 rows", "GRU", "c")))
    assert "roc_auc: ROC AUC needs rows of every class; class 'b' has none here." in page.text


def test_many_classes_show_those_with_most_mistakes():
    names = [f"class {i:02d}" for i in range(40)]
    data = classification(rows=2000, names=names)
    html = build_report(data)
    page = read(html)
    assert "The 15 of 40 classes with most mistakes" in page.text
    assert "40 classes, 90 to 90 rows each in the training part" in page.text
    wrong = np.array(data.scores["confusion_matrix"])
    wrong = wrong.sum(0) + wrong.sum(1) - 2 * np.diag(wrong)
    worst, least = names[int(wrong.argmax())], names[int(wrong.argmin())]
    confusion = html[html.index('id="confusion-title"') :]
    confusion = confusion[: confusion.index("</svg>")]
    assert worst in confusion
    assert least not in confusion
    matrix = np.array(data.scores["confusion_matrix"])
    np.fill_diagonal(matrix, 0)
    i, j = np.unravel_index(matrix.argmax(), matrix.shape)
    assert f"{names[i]} taken for {names[j]}: {matrix[i, j]}" in page.text


def test_a_page_stays_under_its_limit_and_says_what_it_cut():
    mistakes = [Mistake("שלום 😀 " * 5000, "a", "b", "99.0%") for _ in range(20)]
    data = classification(mistakes=mistakes)
    page = read(build_report(data))  # read checks the size
    assert re.search(r"… \([\d,]+ more characters\)", page.text)


def test_long_texts_open_on_demand_and_short_ones_do_not():
    long, short = "long " * 100, "short text"
    data = classification(
        mistakes=[Mistake(long, "a", "b", "99%"), Mistake(short, "a", "b", "98%"), Mistake(" ", "a", "b", "9%")]
    )
    html = build_report(data)
    listed = html[html.index('<ul class="mistakes">') :]
    listed = listed[: listed.index("</ul>")]
    assert listed.count("<details>") == 1
    assert "whole text" in listed
    assert '<p dir="auto">short text</p>' in listed
    assert "(empty text)" in listed


def test_regression_and_multilabel_have_their_own_pages():
    generator = np.random.default_rng(0)
    targets = generator.normal(size=200)
    predictions, other = targets + 0.1 * generator.normal(size=200), targets + generator.normal(size=200)
    paired = report_data.paired_closeness(predictions - targets, other - targets)
    data = ReportData(
        title="stars",
        kind="regression",
        scores=evaluate_regression(predictions, targets),
        scored_on="200 rows",
        model_name="BiLSTM",
        command="c",
        baseline=BaselineData("ridge", evaluate_regression(other, targets), 1.0, (), paired),
        predictions=list(zip(targets.tolist(), predictions.tolist(), strict=True)),
        mistakes=report_data.regression_mistakes(predictions, targets, ["some text"] * 200),
        length_groups=report_data.group_by_length(np.arange(200), [np.abs(predictions - targets)]),
        parts=[report_data.describe_part("training part", np.arange(200), targets)],
    )
    page = read(build_report(data))
    error = np.abs(predictions - targets).mean()
    assert f"reaches mean absolute error {error:.3f}" in page.text
    assert "closer than the linear baseline" in page.text
    assert "sign test" in page.text
    assert "The 20 farthest misses" in page.text
    assert "Predicted and true numbers" in page.text

    labels = generator.random((150, 3)) < 0.4
    probabilities = np.clip(0.3 + 0.4 * labels + 0.2 * generator.normal(size=(150, 3)), 0.01, 0.99)
    data = ReportData(
        title="labels",
        kind="multilabel",
        scores=evaluate_multilabel(probabilities, labels, ["x", "y", "z"]),
        scored_on="150 rows",
        model_name="BiLSTM",
        command="c",
        mistakes=report_data.multilabel_mistakes(probabilities, labels, ["x", "y", "z"], ["some text"] * 150),
    )
    page = read(build_report(data))
    assert f"{100 * data.scores['micro_f1']:.1f}% micro F1" in page.text
    assert "Each label" in page.text
    assert "Whole set right" in page.text


def test_other_tasks_bring_their_own_sections():
    def spans(data: ReportData, key: str) -> Html:
        return section(key, "Spans", tag("p", f"{data.model_name} & <spans>"))

    html = write_report(classification(), [("spans", "Spans", spans), report.REPEAT], header=tag("h1", "Tags"))
    page = read(html)
    assert "BiLSTM & <spans>" in page.text
    assert page.count("section") == 2
    assert "Tags" in page.text


def test_temperature_without_a_minimum_is_explained():
    note = "Every development row is right; there is no temperature to learn from them."
    page = read(build_report(classification(temperature=Temperature(1.0, 0.1, 0.1, 9, note))))
    assert note in page.text


def test_equal_lengths_never_part_and_groups_hold_the_means():
    lengths = np.array([1] * 30 + [2] * 30 + [9] * 40)
    is_right = np.array([True] * 15 + [False] * 15 + [True] * 30 + [True] * 10 + [False] * 30)
    groups = report_data.group_by_length(lengths, [is_right], 10)
    assert [(g.name, g.rows, g.values[0]) for g in groups] == [("1", 30, 0.5), ("2", 30, 1.0), ("9", 40, 0.25)]
    spread = report_data.group_by_length(np.arange(100), [np.arange(100.0)], 4)
    assert [(g.name, g.rows) for g in spread] == [("0–24", 25), ("25–49", 25), ("50–74", 25), ("75+", 25)]
    mean, (low, high) = spread[0].values[0], spread[0].intervals[0]
    assert mean == 12.0
    assert (high - low) / 2 == pytest.approx(1.96 * np.arange(25.0).std(ddof=1) / 5)
    assert report_data.group_by_length(np.zeros(0, int), []) == []
    assert len(report_data.group_by_length(np.arange(12), [np.ones(12, bool)])) == 1


def test_mistakes_are_the_wrong_rows_the_surest_first():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.99999, 0.00001]])
    found = report_data.classification_mistakes(probabilities, np.array([1, 1, 0, 1]), ["a", "b"], list("pqrs"))
    assert [(m.text, m.target, m.predicted, m.sureness) for m in found] == [
        ("s", "b", "a", "over 99.99%"),
        ("p", "b", "a", "90.0%"),
        ("r", "a", "b", "60.0%"),
    ]
    found = report_data.multilabel_mistakes(
        np.array([[0.9, 0.2], [0.9, 0.8]]), np.array([[0, 0], [1, 1]]), ["a", "b"], list("pq")
    )
    assert [(m.text, m.target, m.predicted, m.sureness) for m in found] == [("p", "no label", "a", "a: 90.0%")]
    found = report_data.regression_mistakes(np.array([1.0, 5.0]), np.array([1.5, 2.0]), list("pq"))
    assert [(m.text, m.target, m.predicted, m.sureness) for m in found] == [
        ("q", "2", "5", "off by +3"),
        ("p", "1.5", "1", "off by \u22120.5"),
    ]


def test_parts_and_pairs_are_counted():
    part = report_data.describe_part("p", np.array([3, 1, 2, 50]), np.array([0, 2, 2, 2]), ["a", "b", "c"])
    assert part.counts == {"a": 1, "b": 0, "c": 3}
    assert part.lengths[0] == 1
    assert part.lengths[3] == 50
    assert report_data.describe_part("p", np.array([1, 1]), np.array([[1, 0], [1, 1]]), ["a", "b"]).counts == {
        "a": 2,
        "b": 1,
    }
    assert report_data.describe_part("p", np.array([1, 1]), np.array([1.0, 4.0])).numbers == (1.0, 2.5, 4.0)
    assert report_data.describe_part("p", np.zeros(0, int), np.zeros(0, int), ["a"]).lengths is None
    paired = report_data.paired_outcome(np.array([1, 1, 1, 0, 0]), np.array([0, 0, 1, 1, 0]))
    assert (paired.only_model, paired.only_baseline, paired.p_value) == (2, 1, 1.0)
    with pytest.raises(ShapeError, match="row by row"):
        report_data.paired_outcome(np.array([1]), np.array([1, 0]))


def comparison(**changes):
    models = [
        ComparedModel("linear", [0.9], [3.0], 1000, is_baseline=True),
        ComparedModel("lstm", [0.88, 0.89, 0.90], [60.0, 70.0, 80.0], 2000, note="reported 86.2"),
        ComparedModel("bilstm", [0.92, 0.93], [90.0, 92.0], 4000),
    ]
    return dataclasses.replace(Comparison("films", models, "the test file", "bilstm compare a.csv"), **changes)


def test_comparison_table_page_and_figure_agree():
    rows = comparison_rows(comparison())
    assert rows[1]["mean"] == pytest.approx(0.89)
    assert rows[1]["standard_deviation"] == pytest.approx(0.01)
    assert rows[0]["standard_deviation"] is None
    assert rows[1]["seconds"] == pytest.approx(70.0)
    json.dumps(rows, allow_nan=False)
    page = read(build_comparison(comparison()))
    for fact in (
        "bilstm with 92.50% accuracy",
        "89.00% ± 1.00",
        "not better than it: lstm.",
        "1 min 10 s",
        "reported 86.2",
    ):
        assert fact in page.text, fact
    root = ElementTree.fromstring(comparison_chart(comparison()).svg(is_standalone=True))
    assert "92.50%" in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_comparison_says_when_nothing_beats_the_baseline():
    strong = ComparedModel("linear", [0.95], is_baseline=True)
    weak = comparison(models=[strong, ComparedModel(HOSTILE, [0.5], note=HOSTILE)])
    page = read(build_comparison(weak))
    assert "No model beats the linear baseline." in page.text
    assert page.count("script") == 0
    with pytest.raises(DataError, match="no score"):
        build_comparison(comparison(models=[ComparedModel("a", [])]))
    with pytest.raises(DataError, match="at least one model"):
        build_comparison(comparison(models=[]))
