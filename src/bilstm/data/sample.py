"""The bundled demonstration data: short reviews made by a seeded generator, on which counting words must fail.

Most reviews hold praise and blame in the same words for both labels; which of them counts is decided by the order of
the clauses or by a few words far away from them: "although the brochure had promised that", "I would not say that",
"or so my aunt had said; not a word of it is true". A linear model over words and pairs of words sees these parts but
not how they belong together. The sentences are ours, and generated: say so wherever they are shown. Imports the
standard library.
"""

from __future__ import annotations

import csv
import io
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bilstm.errors import OutputError, WriteFailedError

__all__ = ["sample_reviews", "write_sample"]

LABELS = ("negative", "positive")

# What is reviewed, and the parts of it that can be praised or blamed.
_DOMAINS = {
    "film": ("plot", "acting", "music", "ending", "dialogue", "camera work", "opening scene", "second half", "humour"),
    "restaurant": (
        "soup",
        "service",
        "wine",
        "dessert",
        "bread",
        "fish",
        "table by the window",
        "coffee",
        "main course",
    ),
    "hotel": ("room", "breakfast", "view", "bed", "lobby", "front desk", "pool", "bathroom", "garden"),
    "phone": ("screen", "battery", "sound", "keyboard", "camera", "charger", "speaker", "menu", "case"),
    "novel": ("story", "prose", "first chapter", "translation", "heroine", "villain", "last page", "tone", "style"),
    "concert": ("singing", "drumming", "sound", "hall", "encore", "lighting", "first set", "piano", "choice of songs"),
}
_ADJECTIVES = {
    1: (
        "wonderful", "charming", "superb", "delightful", "excellent", "lovely", "splendid", "impressive", "outstanding",
        "pleasing", "remarkable", "brilliant", "terrific", "great", "good", "marvellous", "satisfying", "admirable",
        "beautiful", "fantastic",
    ),
    -1: (
        "awful", "dreadful", "terrible", "poor", "bad", "disappointing", "mediocre", "horrible", "lousy", "miserable",
        "dismal", "unpleasant", "annoying", "weak", "shabby", "feeble", "wretched", "appalling", "sloppy", "atrocious",
    ),
}  # fmt: skip
_DEGREES = ("", "", "", "really ", "quite ", "truly ", "rather ", "simply ", "frankly ")
_SOURCES = (
    "my brother", "my sister", "a friend", "the brochure", "our neighbour", "the newspaper", "everyone at work",
    "the man at the counter", "my oldest friend", "a colleague", "some critic", "the blurb", "my aunt", "the radio",
)  # fmt: skip
_PEOPLE = ("my brother", "my sister", "a friend", "our neighbour", "everyone at work", "my aunt", "a colleague")
_SAID = (
    "had told us that",
    "kept insisting that",
    "had written that",
    "swore that",
    "had promised that",
    "claimed that",
)
_OPENERS = (
    "I had waited months for this {thing}", "This {thing} was a birthday present", "My family chose this {thing}",
    "I came to this {thing} by pure chance", "There were six of us", "It was late and we were tired",
    "I paid the full price", "Nobody had warned me", "This is our second {thing} this year", "I am no expert",
    "We had talked about this {thing} all summer", "I wrote this down on the train home",
    "My daughter asked me to review this {thing}", "It rained all day",
)  # fmt: skip
_ASIDES = (
    "after an hour or so", "when all is said and done", "with the whole family around", "as far as I can judge",
    "once the first excitement was over", "between you and me", "on a long and quiet evening", "having slept on it",
    "seen with a little distance", "after a week of thinking about it", "in my humble opinion",
    "with my coat still on", "for what it is worth", "to the surprise of us all", "in the harsh light of day",
)  # fmt: skip
_CLOSERS = (
    "I took the bus home.", "That is all I have to say.", "My wife agrees with me.", "We talked about it for days.",
    "The rest you know.", "I have no more to add.", "Make of that what you will.", "So much for our Saturday.",
    "I will tell the neighbours so.", "Ask my family, they were there.", "Thank you for reading this far.",
)  # fmt: skip
_OWN = (
    "I can tell you that",
    "I found that",
    "we all agreed that",
    "it turned out that",
    "there is no doubt that",
    "we saw that",
)
_BUT = ("but", "yet", "still,", "and yet", "however,")
_WHATEVER = ("although", "even though", "never mind that", "no matter that", "despite the fact that")
_TRUE_THAT = (
    "I would say that", "it is quite true that", "anyone could see that", "I am ready to swear that",
    "nobody can deny that", "I have to admit that",
)  # fmt: skip
_UNTRUE_THAT = (
    "I would not say that", "it is quite untrue that", "nobody could claim that", "I cannot confirm that",
    "I refuse to believe that", "it is a myth that",
)  # fmt: skip
_RIGHT = (
    "that is right on every count", "and every word of it is true", "I can only agree", "and that is how it was",
    "no exaggeration there", "and so it was",
)  # fmt: skip
_WRONG = (
    "that is wrong on every count", "and not a word of it is true", "I can only disagree", "and that is not how it was",
    "a pure invention", "and so it was not",
)  # fmt: skip
_FIRST_TIME = ("at first", "in the beginning", "for the first few minutes", "to begin with", "early on")
_LAST_TIME = ("in the end", "by the time we left", "at long last", "before it was over", "when it mattered")
_UNDERSTATEMENTS = ("not {} at all", "not {}", "anything but {}", "far from {}", "not in the least {}", "never {}")
_FEW_WORDS = (
    "{}", "it was {}", "this was {}", "the {thing} was {}", "the {part} was {}",
    "{article} {} {thing}", "what {article} {} {thing}", "I found the {part} {}",
)  # fmt: skip
_NEVER = ("not once", "not for a moment", "at no point", "never")


@dataclass
class _Writer:
    """Makes clauses about one thing; each part is mentioned once."""

    random: random.Random

    def __post_init__(self) -> None:
        self.thing = self.random.choice(tuple(_DOMAINS))
        self._parts = self.random.sample(_DOMAINS[self.thing], 5)

    def pick(self, choices: tuple[str, ...]) -> str:
        """Choose one phrase and fill in the thing."""
        return self.random.choice(choices).format(thing=self.thing)

    def part(self) -> str:
        """Choose a part that was not mentioned yet."""
        return self._parts.pop()

    def quality(self, sign: int) -> str:
        """Praise (1) or blame (-1), with a degree."""
        return self.random.choice(_DEGREES) + self.random.choice(_ADJECTIVES[sign])

    def claim(self, sign: int) -> str:
        """Say something good or bad, always in these words, so that the neighbours of an adjective tell nothing."""
        part = self.part()
        if self._parts and self.random.random() < 0.3:
            return f"the {part} was {self.quality(sign)} and the {self.part()} {self.quality(sign)}"
        return f"the {part} was {self.quality(sign)}"

    def inverted(self, sign: int) -> str:
        """Say the same in the order that a negation at the front asks for."""
        return f"was the {self.part()} {self.quality(sign)}"

    def maybe_aside(self) -> str:
        """Words that keep the decisive ones apart, in three of four reviews."""
        return f", {self.pick(_ASIDES)}," if self.random.random() < 0.75 else ""


def _plain(w: _Writer, sign: int) -> str:
    return f"{w.claim(sign)}{w.maybe_aside()} and {w.claim(sign)}"


def _hearsay_first(w: _Writer, sign: int) -> str:
    said = f"{w.pick(_SOURCES)} {w.pick(_SAID)} {w.claim(-sign)}"
    return f"{said}, {w.pick(_BUT)}{w.maybe_aside()} {w.pick(_OWN)} {w.claim(sign)}"


def _hearsay_last(w: _Writer, sign: int) -> str:
    own = f"{w.pick(_OWN)} {w.claim(sign)}"
    return f"{own}{w.maybe_aside()} {w.pick(_WHATEVER)} {w.pick(_SOURCES)} {w.pick(_SAID)} {w.claim(-sign)}"


def _denial(w: _Writer, sign: int) -> str:
    if w.random.random() < 0.5:
        return f"{w.pick(_TRUE_THAT)}{w.maybe_aside()} {w.claim(sign)}"
    return f"{w.pick(_UNTRUE_THAT)}{w.maybe_aside()} {w.claim(-sign)}"


def _verdict_at_the_end(w: _Writer, sign: int) -> str:
    is_right = w.random.random() < 0.5
    claimed = sign if is_right else -sign
    said = f"{w.claim(claimed)}, or so {w.pick(_SOURCES)} had said{w.maybe_aside()}"
    return f"{said.rstrip(',')}; {w.pick(_RIGHT if is_right else _WRONG)}"


def _not_only(w: _Writer, sign: int) -> str:
    if w.random.random() < 0.5:
        return f"not only {w.inverted(sign)}{w.maybe_aside() or ','} {w.claim(sign)} as well"
    return f"{w.pick(_NEVER)} {w.inverted(-sign)}{w.maybe_aside() or ','} that much I can say"


def _change(w: _Writer, sign: int) -> str:
    if w.random.random() < 0.5:
        return f"{w.pick(_FIRST_TIME)} {w.claim(-sign)}, {w.pick(_BUT)} {w.pick(_LAST_TIME)} {w.claim(sign)}"
    return f"{w.pick(_LAST_TIME)} {w.claim(sign)}, {w.pick(_WHATEVER)} {w.pick(_FIRST_TIME)} {w.claim(-sign)}"


def _expectation(w: _Writer, sign: int) -> str:
    is_met = w.random.random() < 0.5
    hoped = "love" if (sign == 1) == is_met else "hate"
    said = f"I expected to {hoped} this {w.thing} and had told {w.pick(_PEOPLE)} so"
    ends = ("and I did", "and that is what happened", "and I was not mistaken")
    turns = ("but I did not", "but that is not what happened", "but I was mistaken")
    return f"{said}{w.maybe_aside() or ','} {w.pick(ends if is_met else turns)}"


def _understatement(w: _Writer, sign: int) -> str:
    said = w.random.choice(_UNDERSTATEMENTS).format(w.random.choice(_ADJECTIVES[-sign]))
    return f"the {w.part()} was {said}{w.maybe_aside()} and {w.claim(sign)}"


def _in_a_word(w: _Writer, sign: int) -> str:
    """Say a few words and no more, as people type to try a model."""
    if w.random.random() < 0.6:
        adjective, degree = w.random.choice(_ADJECTIVES[sign]), w.random.choice(_DEGREES)
        words = f"{degree}{adjective}"
        article = "an" if words[0] in "aeiou" else "a"
        return w.random.choice(_FEW_WORDS).format(words, article=article, thing=w.thing, part=w.part())
    words = w.random.choice(_UNDERSTATEMENTS).format(w.random.choice(_ADJECTIVES[-sign]))
    return w.random.choice(_FEW_WORDS[:5]).format(words, thing=w.thing, part=w.part())


# The share of each form; only the plain reviews can be judged by their words alone.
_FORMS: tuple[tuple[Callable[[_Writer, int], str], int], ...] = (
    (_plain, 21),
    (_hearsay_first, 13),
    (_hearsay_last, 13),
    (_denial, 11),
    (_verdict_at_the_end, 10),
    (_not_only, 6),
    (_change, 8),
    (_expectation, 7),
    (_understatement, 5),
    (_in_a_word, 6),
)


def _review(chance: random.Random, sign: int) -> str:
    writer = _Writer(chance)
    form = chance.choices([form for form, _ in _FORMS], [share for _, share in _FORMS])[0]
    core = form(writer, sign)
    sentences = [f"{core}{'!' if chance.random() < 0.1 else '.'}"]
    if form is _in_a_word:
        return sentences[0][0].upper() + sentences[0][1:]
    is_short = len(core.split()) < 15
    if is_short or chance.random() < 0.5:
        sentences.insert(0, f"{writer.pick(_OPENERS)}.")
    if is_short or chance.random() < 0.5:
        sentences.append(writer.pick(_CLOSERS))
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def sample_reviews(rows: int, seed: int = 1) -> tuple[list[str], list[str]]:
    """Generate reviews, half of them positive, all different.

    Parameters
    ----------
    rows : int
    seed : int
        The same seed gives the same reviews.

    Returns
    -------
    texts, labels : list of str
        Labels are "negative" and "positive".
    """
    chance = random.Random(seed)
    texts: dict[str, str] = {}
    while len(texts) < rows:
        sign = 1 if len(texts) % 2 else -1
        texts.setdefault(_review(chance, sign), LABELS[sign == 1])
    order = list(texts.items())
    chance.shuffle(order)
    return [text for text, _ in order], [label for _, label in order]


def write_sample(
    folder: str | os.PathLike[str], train_rows: int = 4000, test_rows: int = 1000, seed: int = 1
) -> tuple[Path, Path]:
    """Write `train.csv` and `test.csv` (columns text, label) with no review in both.

    Raises
    ------
    OutputError
        If the folder cannot be made, or holds other files of these names.
    WriteFailedError
        If writing fails part-way; no torn file is left.
    """
    texts, labels = sample_reviews(train_rows + test_rows, seed)
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{place}: the folder cannot be made ({error.strerror}).", "Choose another.") from error
    paths = place / "train.csv", place / "test.csv"
    for path, rows in zip(paths, (slice(0, train_rows), slice(train_rows, None)), strict=True):
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows(zip(texts[rows], labels[rows], strict=True))
        _write_whole(path, buffer.getvalue().encode())
    return paths


def _write_whole(path: Path, content: bytes) -> None:
    """Write through a temporary file; a file of other content that stands there is not touched."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists():
            if path.read_bytes() != content:
                raise OutputError(f"{path}: another file of this name stands there.", "Choose another folder.")
            return
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        unfinished.unlink(missing_ok=True)
        raise WriteFailedError(f"{path}: cannot be written ({error.strerror}).", "Choose another folder.") from error
