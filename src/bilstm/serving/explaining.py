"""Explanations as plain values. Imports `explanation` when the first one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bilstm.errors import BilstmError
from bilstm.serving.refusal import Refusal
from bilstm.serving.served_model import ServedModel

__all__ = ["can_explain", "explain_texts"]

_NO_SPAN = "No span was found."


def can_explain(model: ServedModel) -> bool:
    """Whether single words of a text can be scored for the answers of a model."""
    return model.task in ("text-classification", "sequence-tagging")


def explain_texts(
    model: ServedModel, label: str | None, span: str | None, method: str, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Explain the answers to texts.

    Parameters
    ----------
    model : ServedModel
    label : str or None
        None: the predicted label.
    span : str or None
        For taggers, the part of the text; None: the first span that is found.
    method : str
    texts : sequence of str

    Raises
    ------
    Refusal
        404 for a label that the model does not have, 409 for a model or method that cannot explain here.
    """
    from bilstm.explanation import explain

    if model.kind == "tagging":
        return [_explain_span(model, label, span, method, text) for text in texts]
    if span is not None:
        raise Refusal(409, "not_supported", "Only taggers find spans.", "Leave span out.", field="span")
    if label is not None and label not in model.labels:
        shown = ", ".join(model.labels[:20])
        raise Refusal(404, "label_not_found", "The model has no such label.", f"It has: {shown}.", field="label")
    try:
        explanations = explain(model.model, list(texts), method=method, target=label)
    except BilstmError as error:
        raise Refusal(409, "not_supported", error.message, error.hint, field="method") from error
    return [_described(model, explanation) for explanation in explanations.to_json()]


def _explain_span(model: ServedModel, label: str | None, span: str | None, method: str, text: str) -> dict[str, Any]:
    from bilstm.explanation.tagger import explain_spans

    if label is not None:
        raise Refusal(409, "not_supported", "A tagger explains its own spans.", "Leave label out.", field="label")
    if span is not None and (not span.strip() or span not in text):  # said without repeating the text
        raise Refusal(404, "not_found", "The text does not hold this span.", "Give words as they stand.", field="span")
    try:
        found = explain_spans(model.model, text, span, method).to_json()
    except BilstmError as error:
        raise Refusal(409, "not_supported", error.message, error.hint, field="method") from error
    if found:
        return _described(model, found[0])
    nothing: dict[str, Any] = dict.fromkeys(("label", "probability"))
    return {
        **nothing,
        "prediction": [],
        "method": method,
        "unit": "",
        "baseline": "",
        "tokens": [],
        "notes": [_NO_SPAN],
    }


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
