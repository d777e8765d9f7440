"""Scores by precision: what `evaluate` would say, and what stands in the model card."""

import numpy as np
import pytest

from bilstm import engine
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.description import Recurrent
from bilstm.tasks import precision_scores as module
from bilstm.tasks.precision_scores import precision_lines, precision_scores
from test_export_onnx import VOCABULARY, stack, text_model


def ids_and_targets(rows=60):
    random = np.random.default_rng(2)
    ids = Ragged.of([random.integers(0, VOCABULARY, length) for length in random.integers(1, 20, rows)])
    return ids, random.integers(0, 3, rows)


@pytest.mark.parametrize(
    ("labels", "score"), [(LabelSet("multiclass", ("a", "b", "c")), "accuracy"), (LabelSet("regression"), None)]
)
def test_float32_is_what_evaluate_says(labels, score):
    outputs = 1 if labels.kind == "regression" else 3
    model = text_model(stack(Recurrent("lstm", 6, 4), kinds=("max",), outputs=outputs), labels)
    ids, targets = ids_and_targets()
    found = precision_scores(model, ids, targets)
    assert found["score"] == (score or "root_mean_squared_error")
    assert found["float32"] == model.measure(model.predict_proba(ids), targets)[found["score"]]
    has_bfloat16 = engine.status().available and engine.choose_precision("auto") == "bfloat16"
    assert ("bfloat16" in found) == has_bfloat16


def test_without_the_instructions_there_is_no_score_of_bfloat16(monkeypatch):
    monkeypatch.setattr(module, "resolve_precision", lambda *_: "float32")
    model = text_model(stack(Recurrent("lstm", 6, 4), kinds=("max",)))
    assert precision_scores(model, *ids_and_targets()).keys() == {"score", "float32", "int8_weights"}


def test_the_card_has_a_line_each():
    lines = precision_lines({"score": "micro_f1", "float32": 0.91234, "bfloat16": 0.9})
    assert lines[1:] == [
        "| `--precision` | micro f1 on the development part |",
        "|---|---|",
        "| float32 | 0.9123 |",
        "| bfloat16 | 0.9000 |",
    ]
    assert precision_lines(None) == []
