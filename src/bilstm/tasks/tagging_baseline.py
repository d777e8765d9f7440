"""What every tagger must beat: each word with the tag that training gave it most often."""

from __future__ import annotations

from collections import Counter

from bilstm.data.tagged_sentences import TaggedSentences
from bilstm.data.tags import Scheme, convert_tags

__all__ = ["most_frequent_tags"]


def most_frequent_tags(train: TaggedSentences, sentences: TaggedSentences, scheme: Scheme) -> list[list[str]]:
    """Tag every word as training did most often, unknown words as training tags words that stand once."""
    counts: dict[str, Counter[str]] = {}
    for words, tags in zip(train.tokens, train.tags or [], strict=True):
        for word, tag in zip(words, tags, strict=True):
            counts.setdefault(word.lower(), Counter())[tag] += 1
    best = {word: max(sorted(tags), key=tags.__getitem__) for word, tags in counts.items()}
    rare = Counter(tag for tags in counts.values() if tags.total() == 1 for tag in tags)
    default = max(sorted(rare), key=rare.__getitem__) if rare else max(best.values())
    answers = [[best.get(word.lower(), default) for word in words] for words in sentences.tokens]
    return [convert_tags(row, scheme) for row in answers]
