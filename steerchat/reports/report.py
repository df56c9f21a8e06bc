"""What a report is made of, and its form as JSON. `chapters` builds reports; `markdown` and `html` write them.

In every form, what a model or a user wrote stays data: it cannot become a heading, a link, a tag or an escape sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._version import __version__
from ..values.chart import Drawn
from ..values.results import Answer
from ..values.text import to_json as as_json

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Chapter:
    """A turn or an experiment."""

    heading: str  # usually the prompt
    facts: Facts  # names and values: date, model, seed, rating
    parts: Sequence[object]  # what the screen showed: sentences, notices, pairs, tables and charts
    answers: Sequence[tuple[str, Answer]] = ()  # the texts behind the tables, each with a heading
    command: str = ""  # the shell's line that repeats it; empty where there is none


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str  # its subject
    facts: Facts  # names and values that hold for all of it
    chapters: Sequence[Chapter]  # in chronological order
    data: Mapping[str, Any]  # the content as JSON, for programs

    @property
    def charts(self) -> list[Drawn]:
        """Those of all chapters."""
        return [part for chapter in self.chapters for part in chapter.parts if isinstance(part, Drawn)]


def to_json(report: Report) -> str:
    """One object, indented."""
    charts = [chart.to_json() for chart in report.charts]
    data = {"steerchat": __version__, "title": report.title, **report.data, "charts": charts}
    return as_json(data, indent=1) + "\n"
