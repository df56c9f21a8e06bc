"""What a lesson can show: each demonstration measures something on the model at hand and gives it as facts.

A lesson names one by `show = "strengths happy"`. Its facts are what the lesson's choices and goals may compare.
To add one, write a function with the decorator in `effects` or `states`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..values.page import Table


@dataclass(frozen=True)
class Shown:
    """The result of a demonstration: sentences and tables for the screen, and figures for the lesson's rules."""

    parts: Sequence[object]
    facts: Mapping[str, float] = field(default_factory=dict)


Show = Callable[..., Shown]


@dataclass(frozen=True)
class Demonstration:
    show: Show
    facts: frozenset[str]


_ALL: dict[str, Demonstration] = {}


def demonstrations() -> dict[str, Demonstration]:
    """All of them, by name."""
    from . import effects, states  # noqa: F401  # declare them, and need torch

    return _ALL


def demonstration(facts: str = "") -> Callable[[Show], Show]:
    """Declares the decorated function as a demonstration; `facts` are the names that it always measures."""

    def declare(show: Show) -> Show:
        _ALL[show.__name__] = Demonstration(show, frozenset(facts.split()))
        return show

    return declare


class _Figures(dict[str, Any]):
    def __missing__(self, name: str) -> float:
        return math.nan


def figures(corner: str, rows: Iterable[tuple[str, Mapping[str, Any]]], columns: Mapping[str, str]) -> Table:
    """A table of facts.

    Args:
        corner: the heading of the titles.
        rows: the title and the facts of each row.
        columns: the format of each column by its heading, such as `x{cost:.2f}`. A figure that is NaN, or no fact of
            its row, is left blank.
    """
    cells = []
    for title, facts in rows:
        values = [form.format_map(_Figures(facts)) for form in columns.values()]
        cells.append((title, *("" if "nan" in value else value for value in values)))
    return Table((corner, *columns), cells, frozenset(range(1, 1 + len(columns))))


def bar(value: float, most: float, mark: str, width: int = 24) -> str:
    return mark * round(max(0.0, value) / most * width) if most > 0 else ""
