"""Reports as one HTML page without scripts, fonts or network access, and a chapter as HTML for a notebook.

Every text of a user or a model goes through `_text`, so that it stays text. Colours derive from the text's own colour
where possible, since a notebook may be light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..measures.chance import verdict
from ..screen.lines import measured
from ..values.page import Table
from ..values.results import Answer, Notice, Pair
from ..values.text import changes, clean
from .report import Chapter, Facts, Report

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --ground: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #c5c8c6; --ground: #212121 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink); background: var(--ground);
  font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.2 }
section { border-top: 1px solid rgb(128 128 128 / .4); padding: 1.25rem 0 .5rem }
"""
# For a chapter in any page: every rule is limited to .steerchat, so that it changes nothing around it.
_CHAPTER = """
.steerchat { overflow-wrap: anywhere }
.steerchat h2 { font-size: 1.15rem; line-height: 1.3; margin: 0 0 .5rem }
.steerchat h3 { font-size: 1rem; margin: 0 0 .25rem }
.steerchat .faint, .steerchat dl { opacity: .75; font-size: .9rem }
.steerchat dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .75rem; margin: .5rem 0 }
.steerchat dd { margin: 0 }
.steerchat p { margin: .5rem 0; white-space: pre-line }
.steerchat .answers { display: grid; gap: 1rem; margin: .75rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)) }
.steerchat .text { white-space: pre-wrap }
.steerchat mark { color: inherit; background: rgb(200 80 200 / .22); border-radius: .2rem }
.steerchat .wide { margin: 1rem 0; overflow-x: auto }
.steerchat table { border-collapse: collapse; font: .8rem/1.35 ui-monospace, Menlo, Consolas, monospace }
.steerchat td, .steerchat th { padding: 0 1rem 0 0; text-align: left; white-space: pre }
.steerchat .right { text-align: right }
.steerchat tr.faint { font-size: inherit }
.steerchat details { margin: .75rem 0 } .steerchat summary { cursor: pointer }
"""
_HEAD = f"""\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{_STYLE}{_CHAPTER}</style>
"""  # by this policy the browser downloads nothing, whatever the page contains


def to_html(report: Report) -> str:
    """The whole page."""
    title = _text(report.title)
    chapters = "\n".join(map(_chapter, report.chapters))
    body = f'<body class="steerchat"><h1>{title}</h1>{_facts(report.facts)}\n{chapters}</body>'
    return f"{_HEAD}<title>{title}</title></head>\n{body}</html>\n"


def to_cell(chapter: Chapter) -> str:
    """A chapter for a notebook, with the styles that it needs."""
    return f'<div class="steerchat"><style>{_CHAPTER}</style>{_chapter(chapter)}</div>'


def _chapter(chapter: Chapter) -> str:
    content = [f"<h2>{_text(chapter.heading)}</h2>", _facts(chapter.facts), *map(_part, chapter.parts)]
    if chapter.answers:
        answers = "".join(_answer(heading, answer) for heading, answer in chapter.answers)
        content.append(f"<details><summary>The answers behind it</summary>{_answers(answers)}</details>")
    return f"<section>{''.join(content)}</section>"


def _part(part: object) -> str:
    match part:
        case Notice(text):
            return _faint(text)
        case str():
            return f"<p>{_text(part)}</p>"
        case Table():
            return table(part)
        case Pair(steered=Answer() as steered):
            return _pair(part, steered)
        case Pair():
            return _answers(_answer("normal", part.normal))
    raise TypeError(f"no HTML for {type(part).__name__}")


def _pair(pair: Pair, steered: Answer) -> str:
    spans = changes(clean(pair.normal.text), clean(steered.text))
    answers = _answer("normal", pair.normal, spans[0]) + _answer(f"steered: {pair.recipe}", steered, spans[1])
    return _answers(answers) + _faint(" · ".join(measured(pair, verdict(pair))))


def table(content: Table) -> str:
    """A table without its columns of excerpts, whose texts stand whole below it."""
    shown = [index for index in range(len(content.headings)) if index not in content.samples]

    def row(tag: str, cells: Sequence[str], faint: bool = False) -> str:
        classes = [' class="right"' if index in content.right else "" for index in shown]
        drawn = (f"<{tag}{kind}>{_text(cells[index])}</{tag}>" for kind, index in zip(classes, shown, strict=True))
        return ('<tr class="faint">' if faint else "<tr>") + "".join(drawn) + "</tr>"

    rows = [row("td", cells, number in content.dim) for number, cells in enumerate(content.rows)]
    return f'<div class="wide" tabindex="0"><table>{row("th", content.headings)}{"".join(rows)}</table></div>'


def _answer(heading: str, answer: Answer, marked: Sequence[tuple[int, int]] = ()) -> str:
    text, at, pieces = clean(answer.text) or "(no text)", 0, []
    for low, high in marked:
        pieces.append(f"{escape(text[at:low])}<mark>{escape(text[low:high])}</mark>")
        at = high
    body = "".join([*pieces, escape(text[at:])])
    note = _faint(f"({answer.ending})") if answer.ending else ""
    return f'<div><h3>{_text(heading)}</h3><div class="text">{body}</div>{note}</div>'


def _answers(answers: str) -> str:
    return f'<div class="answers">{answers}</div>'


def _faint(text: str) -> str:
    return f'<p class="faint">{_text(text)}</p>'


def _facts(facts: Facts) -> str:
    entries = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts)
    return f"<dl>{entries}</dl>" if entries else ""


def _text(text: str) -> str:
    """Text as it stands: no tag, no entity, no control character."""
    return escape(clean(text))
