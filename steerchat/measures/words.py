"""Measures of a text that use no concept's vector: word lists, endings, marks and length.

They answer whether steering did what its name says, where the concept score could only say that it moved along its
own direction. They count words, so they know nothing of negation or sense ("not happy" is a hit for happy): read
them over many texts and against controls, never on one. The lists are in `vectors/texts/lexicons.toml`.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

from ..system import folders
from ..system.untrusted import read_toml
from ..values.errors import SteerchatError

MOST_PER_WORD = 3
"""How often one word counts in one text, so that repeating it does not raise a score without bound."""

FEWEST_WORDS = 20
"""A rate is taken over at least so many words, so that one hit in a short text does not outweigh a whole answer."""


_FREQUENT = re.compile(
    "the|of|and|to|a|in|is|it|you|that|for|on|are|with|as|be|this|at|have|or|can|but|not|by|your|we|i|so|if|an"
)
_ENGLISH = 0.1  # the least share of them
_FEWEST_LETTERS = 60  # characters that tell
_RARE = 0.1  # the share of answers that have a rare word


@dataclass(frozen=True)
class Measure:
    """One figure of a text that is independent of every vector.

    Args:
        name: the concept that it measures.
        unit: what `score` counts, for a table's heading.
        score: the figure; 0.0 for an empty text. May be negative.
        direction: +1 when more of the concept gives a higher score, -1 when it gives a lower one (brief counts words).
    """

    name: str
    unit: str
    score: Callable[[str], float]
    direction: Literal[1, -1] = 1

    def towards(self, text: str) -> float:
        """The score of `text`, turned so that higher is always more of the concept."""
        return self.direction * self.score(text)


@dataclass(frozen=True)
class Part:
    """A word list and its weight in a rate; words of the list `unless` are no hits."""

    words: str
    weight: float = 1.0
    unless: str = ""


EXCLAMATION = Part("exclamation")
CONTRACTIONS = Part("contractions")

RATES: dict[str, tuple[str, tuple[Part, ...]]] = {
    # A neutral chat answer is cheerful already, so happy and sad count what pulls the other way too.
    "happy": ("joyful less unhappy words", (Part("joy"), Part("gloom", -1), Part("displeasure", -1))),
    "sad": ("sad words less half the joyful ones", (Part("gloom"), Part("joy", -0.5))),
    "angry": ("angry words", (Part("rage"),)),
    "fearful": ("fearful words", (Part("dread"),)),
    "excited": ("excited words and exclamations", (Part("thrill"), EXCLAMATION)),
    "calm": ("calm less excited words", (Part("serenity"), Part("thrill", -1), Part("exclamation", -1))),
    "formal": (
        "formal words, long Latinate ones by half, less contractions",
        (Part("formal_words"), Part("latinate_endings", 0.5), Part("contractions", -1)),
    ),
    "casual": ("contractions, slang and fillers", (CONTRACTIONS, Part("slang"), Part("fillers"))),
    "poetic": ("words of imagery", (Part("imagery"),)),
    # Endings alone are weak evidence: every longer English text has some.
    "technical": (
        "terms, units and numbers, technical endings by a quarter",
        (Part("terms"), Part("units"), Part("term_endings", 0.25, unless="term_endings_not")),
    ),
    "pirate": ("pirate words and -in' endings", (Part("pirate_words"), Part("pirate_endings"))),
    "shakespeare": (
        "early modern words and endings",
        (Part("early_modern"), Part("early_modern_endings", unless="early_modern_endings_not")),
    ),
    "enthusiastic": ("words of praise, exclamations by half", (Part("praise"), Part("exclamation", 0.5))),
    "pessimistic": ("words of doubt and failure", (Part("doubt"),)),
    "friendly": ("warm words", (Part("warmth"),)),
}
"""For each concept that is measured by a rate: what is counted, and the parts whose weighted hits are added up."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
# The numbers of a numbered list say nothing about the text's style.
_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_MARKS = {"#": r"\d+(?:[.,]\d+)*", "*!": r"[^\W_][\w']*(?=[\"')*_]*!)"}
_WILD = {"*": "[a-z]*", "?": "[a-z]", "_": r"\s+"}


def spread(measure: Measure, texts: Sequence[str]) -> float:
    """The unit in which gains by different measures compare: a measure's standard deviation over normal answers.

    A word that no normal answer has (`thou`) would give a spread of zero. So the spread is at least that of a word
    which one answer of ten has once.

    Args:
        texts: at least one.
    """
    values = [measure.score(text) for text in texts]
    length = max(statistics.fmean(map(word_count, texts)), FEWEST_WORDS)
    return max(statistics.pstdev(values), math.sqrt(_RARE * (1 - _RARE)) * 100.0 / length)


def is_english(texts: Sequence[str]) -> bool:
    """Whether texts are English, by how many of their words are its most frequent ones. Short texts pass.

    These are a quarter of a usual English text, and hardly a twentieth of one in a language that shares some of them.
    """
    whole = _plain(" ".join(texts))
    found = _WORD.findall(whole)
    return len(whole) < _FEWEST_LETTERS or sum(bool(_FREQUENT.fullmatch(word)) for word in found) >= _ENGLISH * len(
        found
    )


def word_count(text: str) -> int:
    """How many words and numbers `text` has; the numbers of a numbered list do not count."""
    return len(_WORD.findall(_plain(text)))


@cache
def word_lists(path: Path | None = None) -> Mapping[str, tuple[str, ...]]:
    """The entries of each list by its name, as they stand in the file (see its head for what `*`, `_` and `#` mean).

    Raises:
        SteerchatError: when the file cannot be read.
    """
    file = path or folders.packaged("vectors") / "texts" / "lexicons.toml"
    try:
        return {name: tuple(entries.split()) for name, entries in read_toml(file).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise SteerchatError(f"the word lists in {file} cannot be read", str(error)) from error


def counted_words(name: str, text: str) -> list[tuple[int, int]]:
    """Where a concept's rate counts something for the concept: (start, end) in `text`, from left to right.

    Args:
        name: a concept of `RATES`.
    """
    plain, lists = _plain(text), word_lists()
    return sorted(
        match.span(1)
        for part in RATES[name][1]
        if part.weight > 0
        for match in _pattern(part.words).finditer(plain)
        if match[1] not in (lists[part.unless] if part.unless else ())
    )


def _length(text: str) -> float:
    return float(word_count(text))


def _rate(text: str, parts: tuple[Part, ...]) -> float:
    """Weighted hits per 100 words."""
    plain = _plain(text)
    total = sum(part.weight * _hits(plain, part) for part in parts)
    return 100.0 * total / max(len(_WORD.findall(plain)), FEWEST_WORDS)


def _hits(plain: str, part: Part) -> int:
    found = Counter(_pattern(part.words).findall(plain))
    excluded = word_lists()[part.unless] if part.unless else ()
    return sum(min(count, MOST_PER_WORD) for word, count in found.items() if word not in excluded)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Finds the entries of one list in a plain text, longer entries first so that a phrase wins over its first word."""
    entries = sorted(word_lists()[name], key=len, reverse=True)
    marks = [_MARKS[entry] for entry in entries if entry in _MARKS]
    words = [_expression(entry) for entry in entries if entry not in _MARKS]
    # Quotation marks and a possessive may stand around a word; a number may run into its unit (10kg).
    either = [*marks, *([f"(?:{'|'.join(words)})(?=(?:'s?)?(?![\\w']))"] if words else [])]
    return re.compile(rf"(?<![\w])(?<![\w]')({'|'.join(either)})")


def _expression(entry: str) -> str:
    """An ending needs at least one letter before it; everything else of an entry stands for itself."""
    start, rest = ("[a-z]+", entry[1:]) if entry.startswith("*") else ("", entry)
    return start + "".join(_WILD.get(letter) or re.escape(letter) for letter in rest)


def _plain(text: str) -> str:
    """A text in lower case without the numbers of lists, each character in its place."""
    small = "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
    return _LIST_NUMBER.sub(lambda match: " " * len(match[0]), small.replace("\u2019", "'").replace("\u2018", "'"))


INDEPENDENT: dict[str, Measure] = {
    name: Measure(name, f"{counted}, per 100 words", partial(_rate, parts=parts))
    for name, (counted, parts) in RATES.items()
}
INDEPENDENT |= {"brief": Measure("brief", "words", _length, -1), "verbose": Measure("verbose", "words", _length)}
"""The measure of each of the seventeen shipped concepts, by the concept's name. Word lists are read when one scores."""
