"""Reports: a conversation, an experiment or a pair as a file to keep, as Markdown or JSON; `html` makes pages.

What a model or a user said is data in each of them: nothing in it is a heading, a link, a tag or a terminal's order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._version import __version__
from ..screen import lines as pages
from ..storage.records import storable
from ..values.page import Table
from ..values.results import Answer, Notice, Pair
from ..values.text import clean
from ..values.text import to_json as as_json

NOTES = {"end": "", "length": "max tokens", "interrupted": "stopped", "failed": "failed"}
Facts = Sequence[tuple[str, str]]
Verdict = Callable[[Pair], str | None]
_COLUMNS = 100  # of a table in Markdown
# Marks that mean something inside a line of Markdown, and those that do at its beginning.
_INLINE = re.compile(r"([\\`*_\[\]<>#|~&$])")
_LEADING = re.compile(r"^( *)(\d*)([-+=.)])")


@dataclass(frozen=True)
class Chapter:
    """A turn or an experiment.

    Attributes:
        heading: the prompt, mostly.
        facts: when, with what, how judged: names and values.
        parts: what the screen showed: sentences, notices, pairs and tables.
        answers: texts behind the tables, with their headings.
    """

    heading: str
    facts: Facts
    parts: Sequence[object]
    answers: Sequence[tuple[str, Answer]] = ()


@dataclass(frozen=True)
class Report:
    """What is written.

    Attributes:
        title: what it is about.
        facts: about all of it.
        chapters: in the order in which they happened.
        data: the same for programs.
        verdict: a pair's measures in words, or None for a pair without.
    """

    title: str
    facts: Facts
    chapters: Sequence[Chapter]
    data: Mapping[str, Any]
    verdict: Verdict = lambda pair: None


def to_json(report: Report) -> str:
    """One object, indented."""
    data = {"steerchat": __version__, "title": report.title, **report.data}
    return as_json(data, indent=1) + "\n"


def to_markdown(report: Report) -> str:
    """Headings, lists, quotations, and tables as text in columns."""
    lines = [f"# {literal(report.title)}", "", *_facts(report.facts)]
    for chapter in report.chapters:
        lines += [f"## {literal(chapter.heading)}", "", *_facts(chapter.facts)]
        for part in chapter.parts:
            lines += [*_part(part, report.verdict), ""]
        for heading, answer in chapter.answers:
            lines += [*_answer(heading, answer), ""]
    return storable("\n".join(lines).rstrip() + "\n")


def literal(text: str) -> str:
    """`text` on one line of Markdown that shows it as it is."""
    return _line(" ".join(clean(text).split()))


def quotation(text: str) -> list[str]:
    """`text` as a quotation that shows it as it is, line by line."""
    lines = [_line(line.rstrip()) for line in clean(text).strip("\n").split("\n")]
    return [f"> {line}  " if line else ">" for line in lines]


def _line(text: str) -> str:
    text = _INLINE.sub(r"\\\1", text)
    text = _LEADING.sub(lambda found: f"{found[1]}{found[2]}\\{found[3]}", text)
    words = text.lstrip(" ")
    return "\u00a0" * (len(text) - len(words)) + words  # blanks at the beginning would make it code


def _facts(facts: Facts) -> list[str]:
    return [*(f"- {literal(name)}: {literal(value)}" for name, value in facts), ""] if facts else []


def _part(part: object, verdict: Verdict) -> list[str]:
    match part:
        case Notice(text):
            return _paragraphs(text)
        case str():
            return _paragraphs(part)
        case Table():
            shown = [line.plain.rstrip() for line in pages.table_lines(part, _COLUMNS)]
            # No line of a table can end the fence, for each begins with blanks and a fence's end is all there is.
            fence = "`" * (1 + max((len(run) for line in shown for run in re.findall("`+", line)), default=2))
            return [f"{fence}text", *shown, fence]
        case Pair():
            lines = _answer("normal", part.normal)
            if part.steered is not None:
                lines += ["", *_answer(f"steered: {part.recipe}", part.steered), ""]
                lines.append(literal("   ".join(pages.measured(part, verdict(part)))))
            return lines
    raise TypeError(f"no Markdown for {type(part).__name__}")


def _paragraphs(text: str) -> list[str]:
    """Sentences; their own line breaks are kept."""
    return [f"{_line(line)}  " if line else "" for line in clean(text).split("\n")]


def _answer(heading: str, answer: Answer) -> list[str]:
    note = f" ({NOTES[answer.finish]})" if NOTES[answer.finish] else ""
    return [f"**{literal(heading)}**{note}", "", *quotation(answer.text or "(no text)")]
