"""Cut running text into tokens with their places, for tagging; nothing of the text is changed or lost.

Part of the step `read` for tagging. Penn-like: punctuation stands alone, `n't` and `'s` are cut off, numbers with
inner points and commas, abbreviations like `U.S.`, addresses, mentions and hash tags stay whole. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["cut_at", "token_spans"]

# What comes first wins at each place of the text.
_TOKEN = re.compile(
    r"""
    (?:https?://|www\.)\S*[^\s.,;:!?)\]}'"]          # web address, without the punctuation that follows it
  | [\w.+-]+@[\w-]+(?:\.[\w-]+)+                      # mail address
  | [@\#]\w+                                          # mention, hash tag
  | [:;=8][-o*']?[)\](\[dDpP/\\|@3<>]+(?!\w)          # emoticon
  | <3
  | (?:[A-Za-z]\.){2,}                                # abbreviation: U.S.
  | (?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|No|Inc|Ltd|Co|Corp)\.(?=\s)
  | \d+(?:[.,:]\d+)+                                  # 1,000.50  10:30
  | \w+?(?=n['’]t\b)                                  # did|n't
  | n['’]t\b
  | ['’](?:s|m|d|re|ve|ll)\b                          # 's 'll
  | \w+(?:['’]\w+)*?(?=['’](?:s|m|d|re|ve|ll)\b)
  | \w+(?:['’]\w+)*
  | \.{2,} | -{2,} | ([!?])\1+                        # ... -- !!!
  | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def token_spans(text: str) -> list[tuple[int, int]]:
    """Place of each token in `text`, in characters, end excluded, from left to right.

    Every character that is not white space belongs to exactly one token.

    Examples
    --------
    >>> text = "Don't visit U.S. ports (yet)."
    >>> [text[begin:end] for begin, end in token_spans(text)]
    ['Do', "n't", 'visit', 'U.S.', 'ports', '(', 'yet', ')', '.']
    """
    return [match.span() for match in _TOKEN.finditer(text)]


def cut_at(spans: list[tuple[int, int]], borders: Iterable[int]) -> tuple[list[tuple[int, int]], int]:
    """Cut tokens where a border falls inside of them; give the tokens and how many were cut.

    Examples
    --------
    >>> cut_at([(0, 5), (6, 10)], [2, 6])
    ([(0, 2), (2, 5), (6, 10)], 1)
    """
    ordered = sorted(set(borders))
    found, count, at = [], 0, 0
    for begin, end in spans:
        while at < len(ordered) and ordered[at] <= begin:
            at += 1
        pieces = [begin]
        while at < len(ordered) and ordered[at] < end:
            pieces.append(ordered[at])
            at += 1
        count += len(pieces) > 1
        found += list(zip(pieces, [*pieces[1:], end], strict=True))
    return found, count
