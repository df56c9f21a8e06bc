"""What a command returns: tables, headings and texts that a screen or a report draws, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        headings: one for each column.
        rows: the cells, as text.
        right: indices of the right-aligned columns, such as numbers.
        dim: indices of the rows that matter less.
        empty: what to show in place of a table without rows.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    dim: frozenset[int] = frozenset()
    empty: str = "nothing here yet"


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
    """A command's result in both forms.

    Attributes:
        parts: sentences, notices, pairs and tables, in the order in which they are shown.
        objects: the same content as JSON objects, one for each line.
    """

    parts: Sequence[object]
    objects: Sequence[Mapping[str, object]] = ()

    def to_json(self) -> dict[str, object]:
        """As an event of a stream, for programs."""
        return {"event": "page", "objects": list(self.objects)}
