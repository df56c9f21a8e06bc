"""What a command returns: tables, headings and texts that a screen or a report draws, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows under headings."""

    headings: Sequence[str]  # one for each column
    rows: Sequence[Sequence[str]]  # the cells, as text
    right: frozenset[int] = frozenset()  # indices of the right-aligned columns, such as numbers
    dim: frozenset[int] = frozenset()  # indices of the rows that matter less
    empty: str = "nothing here yet"  # what to show in place of a table without rows


@dataclass(frozen=True)
class Heading:
    """The title of the parts that follow it."""

    text: str


@dataclass(frozen=True)
class Definitions:
    """Names with their meanings, under a heading: a command's options, for example."""

    heading: str
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Shaded:
    """A text in pieces, each with a shade from 0 (normal) to 3 (stands out most)."""

    pieces: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Page:
    """A command's result in both forms."""

    parts: Sequence[object]  # sentences, notices, pairs and tables, in the order in which they are shown
    objects: Sequence[Mapping[str, object]] = ()  # the same content as JSON objects, one for each line

    def to_json(self) -> dict[str, object]:
        """As an event of a stream, for programs."""
        return {"event": "page", "objects": list(self.objects)}
