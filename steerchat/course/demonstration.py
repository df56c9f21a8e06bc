"""A demonstration of a lesson, declared once: what it measures, shows and gives as facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shown:
    """What a demonstration found: sentences and tables for the screen, and figures for the lesson's rules."""

    parts: Sequence[object]
    facts: Mapping[str, float] = field(default_factory=dict)


Show = Callable[..., Shown]


@dataclass(frozen=True)
class Demonstration:
    show: Show
    facts: frozenset[str]


ALL: dict[str, Demonstration] = {}


def demonstration(facts: str = "") -> Callable[[Show], Show]:
    def declare(show: Show) -> Show:
        ALL[show.__name__.rstrip("_")] = Demonstration(show, frozenset(facts.split()))
        return show

    return declare


def number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def bar(value: float, most: float, mark: str, width: int = 24) -> str:
    return mark * round(max(0.0, value) / most * width) if most > 0 else ""
