"""Labelled files for a model that exists already: read, checked against its labels. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.records import Records, read_records
from bilstm.data.vocabulary import IdEncoder
from bilstm.errors import DataError
from bilstm.tasks.text_classification import TextModel, Texts

__all__ = ["read_for_model", "texts_for_model"]


def read_for_model(
    model: TextModel,
    data: Sequence[str],
    *,
    text: str | None = None,
    label: str | None = None,
    encoding: str | None = None,
    skip_bad_rows: bool = False,
    max_bytes: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Records, Texts, np.ndarray]:
    """Read labelled files and encode their labels as the model knows them.

    Returns
    -------
    Records, texts, targets

    Raises
    ------
    DataError
        Also for a label that the training data did not have; the message names file and row.
    """
    records = read_records(
        list(data),
        text=text,
        label=label,
        encoding=encoding,
        skip_bad_rows=skip_bad_rows,
        max_bytes=max_bytes,
        keep_empty_labels=model.labels.kind == "multilabel",
        keep_extras=False,
    )
    for line in records.notes:
        tell(line)
    assert records.labels is not None
    raw = records.labels
    if records.label_separator is not None and records.label_separator != model.labels.separator:
        separator = model.labels.separator or ""
        raw = [label.replace(records.label_separator, separator) for label in raw]
    return records, texts_for_model(model, records), model.labels.encode(raw, where=records.where)


def texts_for_model(model: TextModel, records: Records) -> Texts:
    """Return what the model reads: texts, or word ids.

    Raises
    ------
    DataError
        If the records hold texts and the model reads ids, or the other way round.
    """
    reads_ids = isinstance(model.encoder, IdEncoder)
    if reads_ids != (records.ids is not None):
        found, wanted = ("texts", "word ids") if reads_ids else ("word ids", "texts")
        name = records.sources[0].name if records.sources else "the input"
        raise DataError(f"{name}: holds {found}, the model reads {wanted}.", "Give data of the form it was trained on.")
    texts: Texts | Ragged = records.ids if records.ids is not None else records.texts
    return texts
