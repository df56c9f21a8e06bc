"""Reports as one HTML page without scripts, fonts or network access, and a chapter as HTML for a notebook.

Every text of a user or a model goes through `_text`, so that it stays text. Colours derive from the text's own colour
where possible, since a notebook may be light or dark. Charts are figures where the extra `plot` is there, with their
numbers in a table below; without it, the table has bars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..figures import available
from ..measures.chance import verdict
from ..screen.charts import chart_table, columns, matrix_table, numbers
from ..screen.lines import measured
from ..values.chart import Chart, Drawn, Matrix, Points, Tokens, in_form
from ..values.page import Table
from ..values.results import Answer, Notice, Pair
from ..values.text import Mark, clean, counted
from .marks import marks, measured_concepts
from .report import Chapter, Facts, Report

_FEWEST_LISTED = 3  # from how many chapters on there is a list of them
_LONG, _SHOWN = 1600, 1000  # characters: from how many on an answer is folded, and how many stand before the fold
_STYLE, _CHAPTER = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "chapter.css"))
_SHADES = "Underlined: less likely than 10% without the push; bold: than 1%; marked: than 0.1%. The pointer shows each."
_HEAD = f"""\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
{_STYLE}
{_CHAPTER}</style>
"""  # by this policy the browser downloads nothing, whatever the page contains


def to_html(report: Report) -> str:
    """The whole page."""
    title = _text(report.title)
    chapters = "\n".join(_chapter(chapter, f' id="c{number}"') for number, chapter in enumerate(report.chapters, 1))
    header = f"<header><h1>{title}</h1>{_facts(report.facts)}</header>{_contents(report.chapters)}"
    body = f'<body class="steerchat">{header}\n<main>{chapters}</main></body>'
    return f"{_HEAD}<title>{title}</title></head>\n{body}</html>\n"


def to_cell(chapter: Chapter) -> str:
    """A chapter for a notebook, with the styles that it needs."""
    return f'<div class="steerchat"><style>\n{_CHAPTER}</style>{_chapter(chapter)}</div>'


def _contents(chapters: Sequence[Chapter]) -> str:
    if len(chapters) < _FEWEST_LISTED:
        return ""
    items = (f'<li><a href="#c{number}">{_text(item.heading)}</a></li>' for number, item in enumerate(chapters, 1))
    listed = f"<details open><summary>Contents</summary><ol>{''.join(items)}</ol></details>"
    return f'\n<nav aria-label="Contents">{listed}</nav>'


def _chapter(chapter: Chapter, identity: str = "") -> str:
    heading = f"<h2>{_text(chapter.heading)}</h2>" if chapter.heading else ""
    content = [heading, _facts(chapter.facts), *map(_part, chapter.parts)]
    if chapter.command:
        content.append(f'<p class="faint">To repeat:</p><pre class="again">{_text(chapter.command)}</pre>')
    if chapter.answers:
        answers = "".join(_answer(heading, answer) for heading, answer in chapter.answers)
        content.append(f"<details><summary>The answers behind it</summary>{_answers(answers)}</details>")
    return f"<section{identity}>{''.join(content)}</section>"


def _part(part: object) -> str:
    match part:
        case Notice(text):
            return _faint(text)
        case str():
            return f"<p>{_text(part)}</p>"
        case Table():
            return table(part)
        case Tokens():
            return _shaded(part) + (_figure(part) if available() else _drawn_as_text(part))
        case Chart() | Matrix() | Points():
            return _figure(part) if available() else _drawn_as_text(part)
        case Pair(steered=Answer() as steered):
            return _pair(part, steered)
        case Pair():
            return _answers(_answer("normal", part.normal))
    raise TypeError(f"no HTML for {type(part).__name__}")


# Charts


def _figure(drawn: Drawn) -> str:
    """The panels, a caption, and the numbers folded below."""
    from ..figures.svg import inline

    prefix = "f" + hashlib.sha256(repr(drawn).encode()).hexdigest()[:10]
    panels = inline(drawn, prefix)
    match drawn:
        case Matrix():
            shown = f'<div class="matrix" tabindex="0">{panels[0]}</div>'
        case Points(clouds=[_, _, *_]):
            shown = _slides([cloud.name for cloud in drawn.clouds], panels, prefix)
        case _:
            shown = f'<div class="panels">{"".join(panels)}</div>'
    below = f"<details><summary>The numbers</summary>{table(numbers(drawn))}</details>"
    return f"<figure>{shown}<figcaption>{_text(drawn.title)}</figcaption>{below}</figure>"


def _slides(names: Sequence[str], panels: Sequence[str], prefix: str) -> str:
    """One panel at a time, chosen by its name or with the arrow keys; the middle one at first. No script is needed."""
    slides = []
    for number, (name, panel) in enumerate(zip(names, panels, strict=True)):
        identity, checked = f"{prefix}-{number}-chosen", " checked" if number == len(names) // 2 else ""
        chosen = f'<input type="radio" name="{prefix}" id="{identity}"{checked}>'
        slides.append(f'{chosen}<label for="{identity}">{_text(name)}</label><div>{panel}</div>')
    legend = "<legend>Choose one; the arrow keys go through them</legend>"
    return f'<fieldset class="slides">{legend}{"".join(slides)}</fieldset>'


def _drawn_as_text(drawn: Drawn) -> str:
    """As on a terminal, less the excerpts of answers, which stand whole below."""
    if isinstance(drawn, Matrix):
        return table(matrix_table(drawn) if drawn.texts else numbers(drawn))
    if isinstance(drawn, Points | Tokens):
        return table(numbers(drawn))
    if drawn.at and not drawn.notes:
        return f'<div class="wide" tabindex="0"><pre>{_text(chr(10).join(columns(drawn)))}</pre></div>'
    return table(chart_table(drawn, noted=False))


def _shaded(tokens: Tokens) -> str:
    """The text; each token stands out as it is unlikely, and has its probability under the pointer."""
    pieces = (
        f'<span class="s{shade}" title="{in_form("probability", likely)}">{_text(token)}</span>'
        for token, shade, likely in zip(tokens.tokens, tokens.shades, tokens.probabilities, strict=True)
    )
    return f'<div class="text tokens">{"".join(pieces)}</div>' + _faint(_SHADES)


# Pairs, tables and sentences


def _pair(pair: Pair, steered: Answer) -> str:
    spans = marks(pair, clean(pair.normal.text), clean(steered.text))
    answers = _answer("normal", pair.normal, spans[0]) + _answer(f"steered: {pair.recipe}", steered, spans[1])
    told = ["Underlined: where they part."] if any(mark.parting for mark in (*spans[0], *spans[1])) else []
    if any(not mark.parting for mark in (*spans[0], *spans[1])):
        told.append(f"Marked: what the word measure of {' and '.join(measured_concepts(pair))} counts.")
    return (
        _answers(answers) + _faint(" · ".join(measured(pair, verdict(pair)))) + (_faint(" ".join(told)) if told else "")
    )


def table(content: Table) -> str:
    """A table that scrolls where it is too wide."""

    def row(tag: str, cells: Sequence[str], faint: bool = False) -> str:
        kinds = [' class="right"' if index in content.right else "" for index in range(len(cells))]
        drawn = (f"<{tag}{kind}>{_text(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return ('<tr class="faint">' if faint else "<tr>") + "".join(drawn) + "</tr>"

    rows = [row("td", cells, number in content.dim) for number, cells in enumerate(content.rows)]
    return f'<div class="wide" tabindex="0"><table>{row("th", content.headings)}{"".join(rows)}</table></div>'


def _answer(heading: str, answer: Answer, marked: Sequence[Mark] = ()) -> str:
    text = clean(answer.text) or "(no text)"
    cut = len(text) if len(text) < _LONG else text.rfind(" ", 0, _SHOWN) + 1 or _SHOWN
    body = _marked(text, marked, 0, cut)
    if cut < len(text):
        more = counted(len(text[cut:].split()), "more word")
        rest = f'<div class="text">{_marked(text, marked, cut, len(text))}</div>'
        body += f"</div><details><summary>{more}</summary>{rest}</details><div>"
    note = _faint(f"({answer.ending})") if answer.ending else ""
    return f'<div><h3>{_text(heading)}</h3><div class="text">{body}</div>{note}</div>'


def _marked(text: str, marked: Sequence[Mark], start: int, end: int) -> str:
    """A part of a text with the marks in it."""
    at, pieces = start, []
    for mark in marked:
        low, high = max(mark.start, start), min(mark.end, end)
        if low < high:
            kind = ' class="parting"' if mark.parting else ""
            pieces.append(f"{escape(text[at:low])}<mark{kind}>{escape(text[low:high])}</mark>")
            at = high
    return "".join([*pieces, escape(text[at:end])])


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
