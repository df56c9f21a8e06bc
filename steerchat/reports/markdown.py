"""Reports as Markdown: headings, lists, quotations, and tables as text in columns."""

from __future__ import annotations

import re

from ..measures.chance import verdict
from ..screen.charts import numbers
from ..screen.lines import lines_of, measured
from ..storage.records import storable
from ..values.chart import Chart, Matrix, Points, Tokens
from ..values.page import Table
from ..values.results import Answer, Notice, Pair
from ..values.text import clean
from .report import Facts, Report

_COLUMNS = 100  # of a table
# Characters with a meaning inside a line of Markdown, and those with one at its beginning.
_INLINE = re.compile(r"([\\`*_\[\]<>#|~&$])")
_LEADING = re.compile(r"^( *)(\d*)([-+=.)])")


def to_markdown(report: Report) -> str:
    """The whole report."""
    lines = [f"# {literal(report.title)}", "", *_facts(report.facts)]
    for chapter in report.chapters:
        lines += [f"## {literal(chapter.heading)}", "", *_facts(chapter.facts)]
        for part in chapter.parts:
            lines += [*_part(part), ""]
        if chapter.command:
            lines += [f"To repeat: {literal(chapter.command)}", ""]
        for heading, answer in chapter.answers:
            lines += [*_answer(heading, answer), ""]
    return storable("\n".join(lines).rstrip() + "\n")


def literal(text: str) -> str:
    """`text` on one line, escaped so that Markdown shows every character of it."""
    return _escape(" ".join(clean(text).split()))


def quotation(text: str) -> list[str]:
    """`text` as a block quotation, escaped, with its line breaks."""
    lines = [_escape(line.rstrip()) for line in clean(text).strip("\n").split("\n")]
    return [f"> {line}  " if line else ">" for line in lines]


def _escape(line: str) -> str:
    line = _INLINE.sub(r"\\\1", line)
    line = _LEADING.sub(r"\1\2\\\3", line)
    words = line.lstrip(" ")
    return "\u00a0" * (len(line) - len(words)) + words  # Markdown would take leading blanks for code


def _facts(facts: Facts) -> list[str]:
    return [*(f"- {literal(name)}: {literal(value)}" for name, value in facts), ""] if facts else []


def _part(part: object) -> list[str]:
    match part:
        case Notice(text):
            return _paragraphs(text)
        case str():
            return _paragraphs(part)
        case Table() | Chart() | Matrix() | Points() | Tokens():
            shown = [part, numbers(part)] if isinstance(part, Tokens) else [part]
            rows = [line.plain.rstrip() for each in shown for line in lines_of(each, _COLUMNS, plain=True)]
            # Every row begins with blanks and has text, so that none can close the fence.
            fence = "`" * (1 + max((len(run) for row in rows for run in re.findall("`+", row)), default=2))
            return [f"{fence}text", *rows, fence]
        case Pair():
            lines = _answer("normal", part.normal)
            if part.steered is not None:
                lines += ["", *_answer(f"steered: {part.recipe}", part.steered), ""]
                lines.append(literal("   ".join(measured(part, verdict(part)))))
            return lines
    raise TypeError(f"no Markdown for {type(part).__name__}")


def _paragraphs(text: str) -> list[str]:
    """Sentences, with their own line breaks."""
    return [f"{_escape(line)}  " if line else "" for line in clean(text).split("\n")]


def _answer(heading: str, answer: Answer) -> list[str]:
    note = f" ({answer.ending})" if answer.ending else ""
    return [f"**{literal(heading)}**{note}", "", *quotation(answer.text or "(no text)")]
