"""What is marked in a pair's answers: where they part, and the words that the measures of its concepts count.

Behind the point where they part, two answers share hardly a word in its place: to mark each difference would mark all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..measures.words import RATES, counted_words
from ..values.results import Pair, shared_length
from ..values.text import Mark, Span


def measured_concepts(pair: Pair) -> list[str]:
    """The concepts of a pair whose words can be counted."""
    return [name for name in pair.recipe.concepts if name in RATES]


def marks(pair: Pair, normal: str, steered: str) -> tuple[list[Mark], list[Mark]]:
    """The marks in both answers, from left to right and none over another.

    Args:
        pair: with the recipe.
        normal: its answer as it is shown; likewise `steered`.
    """
    first, second = _parting(normal, steered)
    concepts = measured_concepts(pair)
    return _marks(normal, first, concepts), _marks(steered, second, concepts)


def _marks(text: str, parting: Span | None, concepts: Sequence[str]) -> list[Mark]:
    marked = [Mark(*parting, True)] if parting else []
    for start, end in sorted({span for name in concepts for span in counted_words(name, text)}):
        if all(end <= mark.start or start >= mark.end for mark in marked):
            marked.append(Mark(start, end))
    return sorted(marked, key=lambda mark: mark.start)


def _parting(first: str, second: str) -> tuple[Span | None, Span | None]:
    """The first word of each text that differs from the other's; None where a text has ended, or both are equal."""
    shared = shared_length(first.split(), second.split())
    words = ([word.span() for word in re.finditer(r"\S+", text)] for text in (first, second))
    in_first, in_second = (spans[shared] if shared < len(spans) else None for spans in words)
    return in_first, in_second
