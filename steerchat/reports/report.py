"""What a report is made of, and its form as JSON. `chapters` builds reports; `markdown` and `html` write them.

In every form, what a model or a user wrote stays data: it cannot become a heading, a link, a tag or an escape sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._version import __version__
from ..values.results import Answer
from ..values.text import to_json as as_json

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Chapter:
    """A turn or an experiment.

    Attributes:
        heading: usually the prompt.
        facts: names and values: date, model, seed, rating.
        parts: what the screen showed: sentences, notices, pairs and tables.
        answers: the texts behind the tables, each with a heading.
    """

    heading: str
    facts: Facts
    parts: Sequence[object]
    answers: Sequence[tuple[str, Answer]] = ()


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: its subject.
        facts: names and values that hold for all of it.
        chapters: in chronological order.
        data: the content as JSON, for programs.
    """

    title: str
    facts: Facts
    chapters: Sequence[Chapter]
    data: Mapping[str, Any]


def to_json(report: Report) -> str:
    """One object, indented."""
    data = {"steerchat": __version__, "title": report.title, **report.data}
    return as_json(data, indent=1) + "\n"
