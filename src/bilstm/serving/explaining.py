"""Explanations as plain values. Imports `explanation` when the first one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bilstm.errors import BilstmError
from bilstm.serving.refusal import Refusal
from bilstm.serving.served_model import ServedModel

__all__ = ["can_explain", "explain_texts"]


def can_explain(model: ServedModel) -> bool:
    """Whether single words of a text can be scored for the answers of a model."""
    return model.task == "text-classification"


def explain_texts(model: ServedModel, label: str | None, method: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Explain the answers to texts.

    Parameters
    ----------
    model : ServedModel
    label : str or None
        None: the predicted label.
    method : str
    texts : sequence of str

    Raises
    ------
    Refusal
        404 for a label that the model does not have, 409 for a model or method that cannot explain here.
    """
    from bilstm.explanation import explain

    if not can_explain(model):
        raise Refusal(
            409, "not_supported", "Taggers have no explanations.", "Their spans say which words count.", field="model"
        )
    if label is not None and label not in model.labels:
        shown = ", ".join(model.labels[:20])
        raise Refusal(404, "label_not_found", "The model has no such label.", f"It has: {shown}.", field="label")
    try:
        explanations = explain(model.model, list(texts), method=method, target=label)
    except BilstmError as error:
        raise Refusal(409, "not_supported", error.message, error.hint, field="method") from error
    return [_described(model, explanation) for explanation in explanations.to_json()]


def _described(model: ServedModel, explanation: dict[str, Any]) -> dict[str, Any]:
    """Take what the caller may see: never the training texts that an explanation may name."""
    text = explanation["text"]
    return {
        "label": None if model.kind == "regression" else explanation["targets"][0],
        "prediction": explanation["prediction"],
        "probability": explanation["probability"],
        "method": explanation["method"],
        "unit": explanation["unit"],
        "baseline": explanation["baseline"],
        "tokens": [
            {"start": start, "end": end, "text": text[start:end], "score": scores[0]}
            for (start, end), scores in zip(explanation["spans"], explanation["attributions"], strict=True)
        ],
        "notes": explanation["notes"],
    }
