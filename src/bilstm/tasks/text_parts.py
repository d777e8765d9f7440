"""What a text classifier learns from: rows that train and rows that choose, the encoder, ids, the linear baseline.

Place in the way of the data: texts and targets -> `text_training.fit`. Imports scikit-learn only inside the functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bilstm import description
from bilstm.data.alike import FEWEST_TEXTS, groups_of
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.splitting import draw_groups, split_rows
from bilstm.data.tokenizers import WordTokenizer, tokenizer_for
from bilstm.data.vocabulary import UNKNOWN_ID, IdEncoder, TextEncoder, Vocabulary
from bilstm.errors import DataError
from bilstm.runtime.word_ids import count_tokens, encode_texts
from bilstm.tasks.text_classification import (
    Config,
    Texts,
    describe_model,
    dev_rows_of,
    output_count,
    words_of,
)
from bilstm.tasks.text_network import vocabulary_size_of

if TYPE_CHECKING:
    from bilstm.evaluation.baseline import LinearBaseline
    from bilstm.training.events import Listener

__all__ = [
    "TextParts",
    "build_encoder",
    "development_part",
    "divide",
    "fit_baseline",
    "groups_line",
    "plan_line",
    "standardisation",
    "unlabelled_ids",
]

FOREIGN_SHARE = 0.3  # of unlabelled words that no labelled text has; above it the user is told
FEW_ROWS = 1_000  # below it a word that stands once may still be the only sign of its class


@dataclass(frozen=True)
class TextParts:
    """The training part and the development part.

    Parameters
    ----------
    train_rows, dev_rows : ndarray of int64
        Rows of the given texts; `dev_rows` is empty if a development part was given.
    train, dev : sequence of str, or Ragged of word ids
    train_targets, dev_targets : ndarray
    dev_groups : int
        Groups of alike texts that the development part was drawn from; 0 where single rows were drawn.
    """

    train_rows: np.ndarray
    dev_rows: np.ndarray
    train: Texts
    train_targets: np.ndarray
    dev: Texts
    dev_targets: np.ndarray
    dev_groups: int = 0


def divide(
    texts: Texts, targets: np.ndarray, labels: LabelSet, config: Config, valid: tuple[Texts, np.ndarray] | None
) -> TextParts:
    """Set the development part apart, or take the one that was given.

    Raises
    ------
    DataError
        If there are too few rows.
    """
    train_rows, dev_rows, groups = development_part(texts, targets, labels, config, valid is not None)
    dev, dev_targets = valid if valid is not None else (_take(texts, dev_rows), targets[dev_rows])
    if len(dev_targets) == 0:
        raise DataError("the development part has no rows.", "Give more rows, or a file with --valid.")
    return TextParts(train_rows, dev_rows, _take(texts, train_rows), targets[train_rows], dev, dev_targets, groups)


def development_part(
    texts: Texts, targets: np.ndarray, labels: LabelSet, config: Config, is_given: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return rows that train, rows that choose, and of how many groups of alike texts the latter are, 0 if single."""
    count = len(texts)
    if is_given:
        return np.arange(count), np.zeros(0, dtype=np.int64), 0
    if count < 2:
        raise DataError(f"{count} rows are too few to train on and to choose by.", "Give more rows.")
    dev = dev_rows_of(config, count)
    is_stratified = labels.kind in ("binary", "multiclass")
    if config.dev_groups and count >= FEWEST_TEXTS:
        groups = groups_of(_numbered_words(texts), config.seed)
        train_rows, dev_rows = draw_groups(targets, groups, dev, config.seed, is_stratified=is_stratified)
        return train_rows, dev_rows, len(np.unique(groups[dev_rows]))
    train_rows, dev_rows = split_rows(targets, [count - dev, dev], config.seed, is_stratified=is_stratified)
    return train_rows, dev_rows, 0


def _numbered_words(texts: Texts) -> Ragged:
    """Return a number for each word that stands twice at least, -1 for others."""
    if isinstance(texts, Ragged):
        return texts
    tokenizer = WordTokenizer(True)
    encoder = TextEncoder(tokenizer, Vocabulary.of_counts(count_tokens(tokenizer, texts), None, 2))
    ids = encode_texts(encoder, texts)
    return ids.with_values(np.where(ids.values == UNKNOWN_ID, -1, ids.values))


def _take(texts: Texts, rows: np.ndarray) -> Texts:
    if isinstance(texts, Ragged):
        return texts.select(rows)
    return [texts[int(row)] for row in rows]


def build_encoder(
    texts: Texts, config: Config, unlabelled: Texts | None = None
) -> tuple[TextEncoder | IdEncoder, Ragged]:
    """Build the encoder from the training part, and encode that part.

    Words of unlabelled texts follow those of the training part as far as `config.vocabulary_size` allows.
    """
    if isinstance(texts, Ragged):
        largest = int(texts.values.max(initial=0))
        encoder = IdEncoder(min(largest + 1, config.vocabulary_size), config.max_length, config.keep)
        return encoder, encoder.encode(texts)
    tokenizer = tokenizer_for(config.tokenizer, texts, config.vocabulary_size, config.lowercase)
    built = TextEncoder.of_counts(
        count_tokens(tokenizer, texts),
        tokenizer,
        max_size=config.vocabulary_size,
        min_count=config.min_count if len(texts) >= FEW_ROWS else 1,
        max_length=config.max_length,
        keep=config.keep,
    )
    if unlabelled is not None and not isinstance(unlabelled, Ragged):
        counts = count_tokens(tokenizer, unlabelled)
        counted = Vocabulary.of_counts(counts, config.vocabulary_size, max(config.min_count, 2))
        known = built.vocabulary
        added = tuple(token for token in counted.tokens if token not in known.id_of)
        tokens = known.tokens + added[: max(config.vocabulary_size - len(known), 0)]
        built = TextEncoder(tokenizer, Vocabulary(tokens), config.max_length, config.keep)
    return built, encode_texts(built, texts)


def unlabelled_ids(
    texts: Texts, encoder: TextEncoder | IdEncoder, train_ids: Ragged, has_ids: bool, tell: Listener
) -> Ragged:
    """Encode the unlabelled texts; tell where they look unlike the labelled ones.

    Raises
    ------
    DataError
        If they are of another kind than the labelled ones, or hold no known word.
    """
    from bilstm.training import events

    if isinstance(texts, Ragged) != (has_ids or isinstance(encoder, IdEncoder)):
        raise DataError("the unlabelled texts and the labelled ones must both be texts, or both word ids.")
    ids = texts if has_ids else encode_texts(encoder, texts)
    assert isinstance(ids, Ragged)
    if not ids.values.any():
        raise DataError(f"the {len(ids):,} unlabelled texts hold no known word.", "Is the text column the right one?")
    seen = np.zeros(max(vocabulary_size_of(encoder), 1), dtype=bool)
    seen[train_ids.values] = True
    foreign = float((~seen[ids.values]).mean())
    if foreign > FOREIGN_SHARE:
        tell(
            events.Note(
                f"{foreign:.0%} of the words of the unlabelled texts do not stand in the labelled ones: another "
                "language or domain? The development part decides what is kept."
            )
        )
    return ids


def groups_line(rows: int, groups: int) -> str:
    """Say how the development part was drawn, where it was drawn in groups."""
    return (
        f"The {rows:,} development rows are {groups:,} groups of texts that share rare words such as names; texts of "
        "these groups do not train."
    )


def plan_line(
    train_ids: Ragged, dev_ids: Ragged, encoder: TextEncoder | IdEncoder, labels: LabelSet, config: Config
) -> str:
    """Say in one line what is about to happen."""
    known = vocabulary_size_of(encoder)
    shapes = description.weight_shapes(describe_model(config, known, output_count(labels))).values()
    parameters = sum(math.prod(shape) for shape in shapes)
    plan = (
        f"{len(train_ids):,} texts to train on (median {int(np.median(train_ids.lengths)):,} tokens), "
        f"{len(dev_ids):,} to choose the epoch by; {known:,} known tokens, {parameters:,} parameters."
    )
    if config.members > 1:
        plan += (
            f" {config.members} members of so many each, one after the other: {config.members} times the time, "
            "and as many times the memory and the time of an answer."
        )
    return plan


def fit_baseline(
    train_texts: Texts,
    train_targets: np.ndarray,
    dev_texts: Texts,
    dev_targets: np.ndarray,
    labels: LabelSet,
    seed: int,
) -> LinearBaseline:
    """Fit the linear n-gram model on the words of the training part, tuned on the development part."""
    from bilstm.evaluation.baseline import fit_linear_baseline

    known: dict[str, str] = {}  # one object per different word: a list of words is then 8 bytes a word
    kind = labels.kind if labels.kind in ("multilabel", "regression") else "classification"
    return fit_linear_baseline(
        words_of(train_texts, known),
        train_targets,
        words_of(dev_texts, known),
        dev_targets,
        kind,  # type: ignore[arg-type]
        len(labels.names) or None,
        seed,
    )


def standardisation(targets: np.ndarray, labels: LabelSet) -> tuple[float, float]:
    """Return shift and scale of numbers: mean and standard deviation of the training part; 0 and 1 for classes."""
    if labels.kind != "regression":
        return 0.0, 1.0
    spread = float(targets.std(dtype=np.float64))
    return float(targets.mean(dtype=np.float64)), spread if spread > 0 else 1.0
