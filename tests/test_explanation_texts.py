"""Explanations of odd texts, of all kinds of labels, and what pages, JSON and terminals make of them."""

import gc
import io
import json
import re
import weakref

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import spearmanr

from bilstm.data.ragged import Ragged
from bilstm.errors import DataError, UsageError
from bilstm.explanation import Explanation, explain
from bilstm.explanation.explaining import explain_many, subject_of
from bilstm.explanation.faithfulness import measure_faithfulness, rank_agreement
from bilstm.explanation.methods import METHODS
from bilstm.explanation.neighbours import Neighbourhood
from bilstm.explanation.overview import Overview
from bilstm.explanation.phrases import LONGEST_TREE, grow_tree, score_phrases
from bilstm.explanation.terminal import render
from bilstm.explanation.words import words_of_texts
from bilstm.runtime import Model
from bilstm.tasks.text_classification import TextModel
from explained_models import NAMES, WORDS, some_texts, text_model

ODD = {
    "empty": "",
    "blank": "  \n ",
    "signs alone": "&&& ---",
    "one word": "good",
    "unknown words": "zzz qqq xxx",
    "markup": '<script>alert("w1")</script> <b onclick=x>good</b> &amp; <img src=x onerror=y>',
    "right to left": "\u202e فيلم good רע w1",
    "control": "good\x1b[31m bad\x07\x00",
    "many words": " ".join(np.random.default_rng(0).choice(WORDS, 2500)),
}
ALL = [name for name in METHODS if name != "attention"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("method", ["auto", "occlusion", "relevance", "integrated-gradients"])
def test_odd_texts(name, method):
    model, text = text_model(), ODD[name]
    one = explain(model, text, method)
    assert one.text == text
    assert [text[start:end] for start, end in one.spans] == list(one.tokens)
    assert np.isfinite(one.attributions).all()
    assert one.prediction == model.predict([text])[0]
    assert one.probability == pytest.approx(model.predict_proba([text])[0].max())
    if name == "unknown words":
        assert any("known to the network" in note for note in one.notes)
    if name in ("empty", "blank", "signs alone"):
        assert len(one) == 0
        assert one.notes == ("The text holds no word.",)
    json.dumps(one.to_json(), allow_nan=False)
    page = one.to_html()
    assert ">1 text, explained by " in page
    assert "<script" not in page
    assert "onerror=y>" not in page
    assert "\x1b" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_text_of_many_words_by_the_slow_methods_is_cut_into_blocks():
    text = " ".join(np.random.default_rng(0).choice(WORDS, 400))
    model = text_model()
    for method in ("contextual-decomposition", "near-occlusion", "occlusion"):
        assert len(explain(model, text, method)) == 400


def test_several_texts_are_explained_as_each_alone():
    model, texts = text_model("multiclass"), some_texts(40, seed=9)
    for method in ALL:
        together = explain(model, texts, method, target="all")
        assert len(together) == 40
        for one, text in list(zip(together, texts, strict=True))[::13]:
            alone = explain(model, text, method, target="all")
            # one number of points for the whole batch: more points change what the quick ones leave open
            np.testing.assert_allclose(one.attributions, alone.attributions, atol=2e-5)
            assert one.prediction == alone.prediction


def test_html_shows_the_text_escaped_and_marked_by_more_than_colour():
    page = explain(text_model(), '<b>good</b> bad "w1" & not').to_html()
    assert re.search(r'&lt;b&gt;<mark class="[pn]\d" title="[+-][\d.]+">good</mark>&lt;/b&gt;', page)
    assert "dashed" in page
    assert "solid" in page
    policy = re.search(r'content="(default-src[^"]+)"', page)[1]
    assert "default-src 'none'" in policy
    assert "style=" not in page


def test_notebook_fragment_carries_its_style_and_no_script():
    shown = explain(text_model(), ["good <i>bad</i>", "w1"])._repr_html_()
    assert shown.startswith("<style>")
    assert "&lt;i&gt;" in shown
    assert "<script" not in shown


def test_terminal_marks_by_signs_without_colours_and_lets_no_control_through():
    one = explain(text_model(), ODD["control"], phrases=True)
    stream = io.StringIO()
    Console(file=stream, no_color=True, width=100).print(render(one, signs=True))
    shown = stream.getvalue()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert re.search(r"[+-]good[+-]", shown)
    coloured = io.StringIO()
    Console(file=coloured, force_terminal=True, width=100).print(render(one))
    assert "\x1b[" in coloured.getvalue()


def test_targets():
    model = text_model("multiclass")
    every = explain(model, "good bad w1", target="all")
    assert every.targets == NAMES["multiclass"]
    one = explain(model, "good bad w1", target="b")
    np.testing.assert_allclose(one.attributions[:, 0], every.attributions[:, 1], atol=1e-6)
    two = explain(model, "good bad w1", target=["c", "a"])
    np.testing.assert_allclose(two.attributions, every.attributions[:, [2, 0]], atol=1e-6)
    assert explain(model, "good bad w1").targets == (model.predict(["good bad w1"])[0],)
    with pytest.raises(UsageError, match=r"no class 'q'\. Its classes are: a, b, c\."):
        explain(model, "good", target="q")
    with pytest.raises(UsageError, match="no class is given"):
        explain(model, "good", target=[])
    with pytest.raises(UsageError, match="no method 'magic'"):
        explain(model, "good", "magic")
    with pytest.raises(UsageError, match="cannot be explained"):
        explain(object(), "good")


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_labels_and_numbers(kind):
    model = text_model(kind)
    one = explain(model, "good bad w1 w2")
    assert one.prediction == model.predict(["good bad w1 w2"])[0]
    if kind == "regression":
        assert one.unit == "number"
        assert one.probability is None
        assert float(one.score[0]) == pytest.approx(one.prediction, abs=1e-5)
        json.dumps(one.to_json(), allow_nan=False)


def test_steps_of_characters_are_added_up_by_word():
    model = text_model(encoder="characters", joined=False)
    one = explain(model, "good, bad; w1")
    assert one.tokens == ("good", "bad", "w1")
    assert np.abs(one.attributions.sum() - (one.score - one.baseline_score)[0]) == pytest.approx(one.gap, abs=1e-6)
    signs = explain(model, ",;")
    assert signs.tokens == (",;",)


def test_words_beyond_the_longest_length_get_the_linear_part_only():
    text = "w1 w2 w3 good bad not w4"
    words = words_of_texts(text_model(max_length=3).encoder, [text])[0]
    assert words.word_of_step.tolist() == [0, 1, 2]
    one = explain(text_model(max_length=3), text)
    assert len(one) == 7
    assert any("4 of 7 words are not read" in note for note in one.notes)
    alone = explain(text_model(max_length=3, joined=False), text)
    assert (alone.attributions[3:] == 0).all()
    assert (alone.attributions[:3] != 0).any()


def test_word_ids():
    model = text_model(encoder="ids")
    found = explain(model, Ragged.of([[3, 4, 99], [], [1]]))
    assert [one.text for one in found] == ["3 4 99", "", "1"]
    assert found[0].spans == ((0, 1), (2, 3), (4, 6))
    with pytest.raises(UsageError, match="reads word ids"):
        explain(model, "text")
    with pytest.raises(UsageError, match="reads texts"):
        explain(text_model(), Ragged.of([[1]]))


def test_the_opened_model_lives_as_long_as_the_model():
    model = text_model()
    opened = weakref.ref(subject_of(model))
    assert subject_of(model) is opened()
    del model
    gc.collect()
    assert opened() is None


def test_progress_is_told():
    told = []
    list(explain_many(text_model(), some_texts(70), progress=lambda done, of: told.append((done, of))))
    assert told[-1] == (70, 70)
    assert len(told) >= 2


# ---- phrases ----


def test_phrases_grow_into_one_tree():
    scores = {(0, 2): 2.0, (1, 3): 0.1, (0, 3): 2.0}

    def score(spans):
        return np.array([scores.get(tuple(span), 0.0) for span in spans])

    root = grow_tree(3, score)
    assert (root.start, root.end, root.score, root.interaction) == (0, 3, 2.0, 0.0)
    assert [(child.start, child.end) for child in root.children] == [(0, 2), (2, 3)]
    assert root.children[0].interaction == 2.0


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_tree_of_a_text_covers_it(cell):
    model = text_model(cell=cell)
    one = explain(model, "w1 not bad , w2 good ! w3", phrases=True)
    root = one.phrases[0]
    assert (root.start, root.end) == (0, len(one))

    def check(phrase):
        if phrase.end - phrase.start == 1:
            assert phrase.children == ()
            return
        assert [phrase.start, phrase.children[0].end, phrase.end] == [
            phrase.children[0].start, phrase.children[1].start, phrase.children[1].end,
        ]  # fmt: skip
        parts = sum(child.score for child in phrase.children)
        assert phrase.interaction == pytest.approx(phrase.score - parts)
        for child in phrase.children:
            check(child)

    check(root)
    entry = one.to_json()["phrases"][0]
    assert entry["text"] == "w1 not bad , w2 good ! w3"
    long = explain(model, "good " * (LONGEST_TREE + 1), phrases=True)
    assert long.phrases == ()
    assert any(f"{LONGEST_TREE + 1} words" in note for note in long.notes)  # it says why


def test_phrase_of_the_whole_text_by_occlusion_is_the_fall_to_the_empty_text():
    model = text_model("multiclass")
    subject = subject_of(model)
    words = subject.words(["w1 not bad good"])[0]
    contrast = subject.contrasts()[[1]]
    found = score_phrases(subject, words, contrast, [(0, 4), (1, 3)], "occlusion")
    logits = model.logits(["w1 not bad good", "", "w1 good"])
    scores = logits @ contrast[0]
    np.testing.assert_allclose(found, scores[0] - scores[1:], atol=1e-5)


# ---- truth ----


def test_faithfulness_is_what_taking_words_away_does():
    model = text_model("multiclass")
    subject = subject_of(model)
    texts = ["w1 not bad good w2 w3 w4 w5 w6 w7", "good w9"]
    words = subject.words(texts)
    attributions = [np.array([0.0, 9, 3, 5, 1, 0, 0, 0, 0, -4]), np.array([1.0, 2.0])]
    found = measure_faithfulness(subject, words, np.array([2, 0]), attributions, shares=(0.05, 0.2))
    p = model.predict_proba
    full = [p([texts[0]])[0, 2], p([texts[1]])[0, 0]]
    without = {
        0.05: [p(["w1 bad good w2 w3 w4 w5 w6 w7"])[0, 2], p(["good"])[0, 0]],
        0.2: [p(["w1 bad w2 w3 w4 w5 w6 w7"])[0, 2], p(["good"])[0, 0]],
    }
    alone = {0.05: [p(["not"])[0, 2], p(["w9"])[0, 0]], 0.2: [p(["not good"])[0, 2], p(["w9"])[0, 0]]}
    for share, comprehensiveness, sufficiency in found.by_share:
        assert comprehensiveness == pytest.approx(np.mean(np.array(full) - without[share]), abs=1e-6)
        assert sufficiency == pytest.approx(np.mean(np.array(full) - alone[share]), abs=1e-6)
    assert found.comprehensiveness == pytest.approx(np.mean([row[1] for row in found.by_share]))
    with pytest.raises(UsageError, match="predicts numbers"):
        measure_faithfulness(subject_of(text_model("regression")), words, np.zeros(2, int), attributions)
    with pytest.raises(UsageError, match="no text holds a word"):
        measure_faithfulness(subject, subject.words([""]), np.zeros(1, int), [np.zeros(0)])


def test_rank_agreement_is_spearmans():
    random = np.random.default_rng(0)
    first = [random.integers(0, 5, 12).astype(float) for _ in range(4)]
    second = [random.normal(size=12) for _ in range(4)]
    wanted = np.mean([spearmanr(one, two).statistic for one, two in zip(first, second, strict=True)])
    assert rank_agreement(first, second) == pytest.approx(wanted)
    assert np.isnan(rank_agreement([np.ones(1)], [np.ones(1)]))


@pytest.mark.parametrize("method", [name for name in ALL if name != "contextual-decomposition"])
def test_a_planted_word_is_found(method):
    """Embeddings of all words but one are those of the unknown word: that one is the cause."""
    model = text_model(joined=False, scale=0.7)
    table = model.weights["layers.0.weight"]
    planted = model.encoder.vocabulary.id_of["good"]
    kept = table[planted].copy()
    table[:] = table[0]
    table[planted] = kept
    runs = Model(model.model.description, model.weights, threads=1)
    rebuilt = TextModel(model.encoder, model.labels, runs, model.weights)
    for text in ("w1 w2 good w3 w4 w5", "good w1 w2 w3 w4 w5 w6 w7", "w1 w2 w3 good"):
        one = explain(rebuilt, text, method, target="good")
        values = np.abs(one.attributions[:, 0])
        if method != "relevance":  # which has no baseline: the unknown words have relevance of their own
            assert one.tokens[int(values.argmax())] == "good"
        if method.endswith(("gradients", "input")):
            np.testing.assert_allclose(np.delete(values, one.tokens.index("good")), 0, atol=1e-9)


# ---- over many texts, and near ones ----


def explanation(tokens, values, target="good"):
    text = " ".join(tokens)
    starts = np.cumsum([0, *(len(token) + 1 for token in tokens)])[:-1]
    spans = tuple((int(start), int(start) + len(token)) for start, token in zip(starts, tokens, strict=True))
    return Explanation(
        text, tuple(tokens), spans, (target,), np.array(values, dtype=float)[:, None], target, 0.9, np.array([1.0]),
        "log-odds", "made", "none",
    )  # fmt: skip


def test_overview_sums_by_class():
    overview = Overview(("bad", "good"))
    overview.add(explanation(["Not", "dull", "not"], [0.5, 1.0, 0.25]))
    overview.add(explanation(["dull"], [2.0], "bad"))
    words = {entry.text: (entry.total, entry.places, entry.texts) for entry in overview.telling("good")}
    assert words == {"not": (0.75, 2, 1)}  # "dull": 1 for good, 2 against it
    assert [(entry.text, entry.total) for entry in overview.telling("bad")] == [("dull", 1.0)]
    assert [entry.text for entry in overview.telling("good", phrases=True)] == ["not dull not"]
    json.dumps(overview.to_json(), allow_nan=False)


def test_nearest_training_texts():
    model, texts = text_model(), some_texts(30)
    near = Neighbourhood(subject_of(model), texts, ["good"] * 30)
    found = near.add(explain(model, texts[7]), 3).neighbours
    assert found[0].row == 7
    assert found[0].similarity == pytest.approx(1.0, abs=1e-5)
    assert found[0].similarity >= found[1].similarity >= found[2].similarity
    subject = subject_of(model)
    hidden = subject.network.trace(subject.vectors(subject.words([texts[7], texts[found[1].row]]))).hidden
    cosine = hidden[0] @ hidden[1] / np.linalg.norm(hidden[0]) / np.linalg.norm(hidden[1])
    assert found[1].similarity == pytest.approx(cosine, abs=1e-5)
    with pytest.raises(DataError, match="no training texts"):
        Neighbourhood(subject, [], [])
    with pytest.raises(UsageError, match="reads word ids"):
        Neighbourhood(subject_of(text_model(encoder="ids")), texts, ["good"] * 30)


def test_an_explanation_must_fit_its_words():
    with pytest.raises(UsageError, match="attributions must have shape"):
        explanation(["a", "b"], [1.0])
    assert repr(explanation(["a", "b"], [1.0, -2.0])) == "Explanation('good' (0.900) by made: b -2.00, a +1.00)"
