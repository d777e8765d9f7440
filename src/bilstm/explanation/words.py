"""The words of a text that an explanation speaks about, and which steps of the network belong to each.

Place: `text -> words, steps -> attribution`. A word is what the tokenizer of words finds; the steps of a finer
tokenizer (characters, byte pairs) are added up within their word. Imports numpy and `data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.tokenizers import WordTokenizer
from bilstm.data.vocabulary import UNKNOWN_ID, IdEncoder, TextEncoder
from bilstm.errors import UsageError

__all__ = ["TextWords", "words_of_texts"]


@dataclass(frozen=True, eq=False)
class TextWords:
    """One text cut into words.

    Parameters
    ----------
    text : str
    tokens : tuple of str
        Words as they stand in the text.
    spans : tuple of (int, int)
        Place of each word in the text, in characters.
    keys : tuple of str
        The words as linear models read them.
    ids : ndarray of shape (steps,), int64
        What the network reads.
    word_of_step : ndarray of shape (steps,), int64
        Never decreasing: the steps of a word stand together; a word may have none (beyond the longest length).
    """

    text: str
    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    keys: tuple[str, ...]
    ids: np.ndarray
    word_of_step: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def steps_of(self, start: int, end: int) -> tuple[int, int]:
        """Return the first step of words `start` to `end - 1` and the one after the last."""
        first, last = np.searchsorted(self.word_of_step, [start, end])
        return int(first), int(last)

    def notes(self) -> tuple[str, ...]:
        """Say what a reader of the explanation should know."""
        found = []
        if not len(self.tokens):
            found.append("The text holds no word.")
        elif not (self.ids != UNKNOWN_ID).any():
            found.append("No word of the text is known to the network.")
        if unread := len(self.tokens) - len(np.unique(self.word_of_step)):
            found.append(f"{unread:,} of {len(self.tokens):,} words are not read by the network: the text is cut.")
        return tuple(found)


def words_of_texts(encoder: TextEncoder | IdEncoder, texts: Sequence[str] | Ragged) -> list[TextWords]:
    """Cut texts into words and steps.

    Parameters
    ----------
    encoder : TextEncoder or IdEncoder
    texts : sequence of str, or Ragged of ids for an `IdEncoder`
        The text of ids is the ids, joined by blanks.

    Raises
    ------
    UsageError
        If the texts are not what the encoder reads.
    """
    if isinstance(encoder, IdEncoder):
        if not isinstance(texts, Ragged):
            raise UsageError("this model reads word ids, not texts.", "Give a Ragged of ids.")
        return [_of_ids(encoder, texts[row]) for row in range(len(texts))]
    if isinstance(texts, Ragged):
        raise UsageError("this model reads texts, not word ids.")
    return [_of_text(encoder, text) for text in texts]


def _of_ids(encoder: IdEncoder, ids: np.ndarray) -> TextWords:
    tokens = tuple(str(token) for token in ids.tolist())
    starts = np.concatenate([[0], np.cumsum([len(token) + 1 for token in tokens])]).tolist()
    spans = tuple((start, start + len(token)) for start, token in zip(starts, tokens, strict=False))
    kept = encoder.encode(Ragged.of([ids])).values
    places = np.arange(len(ids), dtype=np.int64)
    if len(kept) < len(ids):
        cut = IdEncoder(max(len(ids), 1), encoder.max_length, encoder.keep)
        places = cut.encode(Ragged.of([places])).values
    return TextWords(" ".join(tokens), tokens, spans, tokens, kept, places)


def _of_text(encoder: TextEncoder, text: str) -> TextWords:
    tokenizer = WordTokenizer()
    spans = tokenizer.spans(text)
    keys = tokenizer.tokens(text)
    tokens = tuple(text[start:end] for start, end in spans)
    if encoder.tokenizer == tokenizer and (encoder.max_length is None or len(keys) <= encoder.max_length):
        ids = np.array(encoder.vocabulary.encode(keys), dtype=np.int64)
        return TextWords(text, tokens, tuple(spans), tuple(keys), ids, np.arange(len(ids)))
    ids = np.array(encoder.vocabulary.encode(encoder.tokens(text)), dtype=np.int64)
    places = encoder.spans(text)
    if not spans and len(ids):  # signs that are no words: the text as a whole is one
        spans, keys, tokens = [(0, len(text))], [text], (text,)
    # what stands between two words is read with the word before it
    word_starts = np.array([start for start, _ in spans], dtype=np.int64)
    step_starts = np.array([start for start, _ in places], dtype=np.int64)
    word_of_step = np.maximum(np.searchsorted(word_starts, step_starts, side="right") - 1, 0)
    return TextWords(text, tokens, tuple(spans), tuple(keys), ids, np.maximum.accumulate(word_of_step))
