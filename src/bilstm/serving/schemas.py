"""Requests and answers: closed pydantic schemas, from which the OpenAPI document is made.

The limits of a server stand in its schemas, so they are made for its settings. Imports pydantic and
`explanation.methods`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, create_model

from bilstm.explanation.methods import METHODS
from bilstm.serving.refusal import Code
from bilstm.serving.settings import ServingSettings

__all__ = [
    "NAME_PATTERN",
    "ErrorAnswer",
    "ExplainAnswer",
    "ModelAnswer",
    "ModelsAnswer",
    "PredictAnswer",
    "StatusAnswer",
    "explain_request",
    "predict_request",
]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


ModelName = Annotated[
    str, Field(pattern=NAME_PATTERN, description="Name of a model; left out: the first one of the server.")
]


def predict_request(settings: ServingSettings) -> type[BaseModel]:
    """Make the schema of a request for predictions."""
    text = Annotated[str, Field(max_length=settings.max_text_chars)]
    return create_model(
        "PredictRequest",
        __base__=_Closed,
        model=(ModelName | None, Field(default=None)),
        texts=(
            list[text],  # type: ignore[valid-type]
            Field(min_length=1, max_length=settings.max_texts, description="Texts to answer for."),
        ),
    )


def explain_request(settings: ServingSettings) -> type[BaseModel]:
    """Make the schema of a request for an explanation."""
    return create_model(
        "ExplainRequest",
        __base__=_Closed,
        model=(ModelName | None, Field(default=None)),
        text=(str, Field(max_length=settings.max_explained_chars, description="Text to explain the answer for.")),
        label=(
            Optional[Annotated[str, Field(max_length=1000)]],  # noqa: UP045  (pyright: Annotated has no |)
            Field(default=None, description="Label to explain; left out: the predicted one."),
        ),
        span=(
            Optional[Annotated[str, Field(min_length=1, max_length=settings.max_explained_chars)]],  # noqa: UP045
            Field(default=None, description="For taggers: the part of the text to explain; left out: the first span."),
        ),
        method=(
            Literal[("auto", *METHODS)],  # type: ignore[valid-type]
            Field(default="auto", description="Attribution method; auto: the one that was found best."),
        ),
    )


class Span(_Closed):
    """A span that a tagger found; places count characters (code points), the end excluded."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    label: str
    text: str
    score: float = Field(ge=0, le=1, description="Probability.")


class ClassPrediction(_Closed):
    """Answer of a classifier for one text."""

    prediction: str | list[str] = Field(description="The most probable label, or all labels above one half.")
    probability: float | None = Field(default=None, ge=0, le=1, description="Of the prediction, where it is one label.")
    probabilities: dict[str, float]


class NumberPrediction(_Closed):
    """Answer of a regression model for one text."""

    prediction: float


class TagPrediction(_Closed):
    """Answer of a tagger for one text."""

    tokens: list[str]
    tags: list[str]
    offsets: list[tuple[int, int]] = Field(description="Place of each token in the text, in characters (code points).")
    spans: list[Span]
    intent: str | None = None
    intent_score: float | None = None


class PredictAnswer(_Closed):
    """Answers in the order of the texts."""

    model: str
    version: str = Field(description="Changes when the folder of the model does.")
    task: str
    predictions: list[ClassPrediction] | list[NumberPrediction] | list[TagPrediction]


class TokenScore(_Closed):
    """What one word did; its place counts characters (code points), the end excluded."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    text: str
    score: float = Field(description="Positive: spoke for the label; negative: against it.")


class ExplainAnswer(_Closed):
    """How much each word spoke for a label."""

    model: str
    version: str
    task: str
    label: str | None = Field(description="What is explained; null for numbers.")
    prediction: str | float | list[str]
    probability: float | None = Field(ge=0, le=1, description="Of the label.")
    method: str = Field(description="Name of the attribution method.")
    unit: str = Field(description="log-odds, number or share: what the scores are.")
    baseline: str = Field(description="The text without information that this one is compared with.")
    tokens: list[TokenScore]
    notes: list[str]


class ModelAnswer(_Closed):
    """A model of the server."""

    name: str
    version: str
    task: str
    kind: str = Field(description="binary, multiclass, multilabel, regression or tagging.")
    labels: list[str]
    loaded_at: str
    parameters: int
    can_explain: bool
    card: str | None = Field(description="Address of the model card (Markdown).")
    report: str | None = Field(description="Address of the report (HTML); valid for some minutes if a key is needed.")


class ModelsAnswer(_Closed):
    """All models; the first one answers where a request names none."""

    models: list[ModelAnswer]
    limits: dict[str, int]


class StatusAnswer(_Closed):
    """State of the server."""

    status: Literal["ok", "ready"]


class _Error(_Closed):
    code: Code
    message: str
    hint: str | None = None
    field: str | None = None


class ErrorAnswer(_Closed):
    """Why a request was refused."""

    error: _Error


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a model for the OpenAPI document."""
    return model.model_json_schema(ref_template="#/components/schemas/{model}")
