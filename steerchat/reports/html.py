"""Reports as one HTML page without scripts, fonts or network access, and a chapter as HTML for a notebook.

Both are trees of elements, so that whatever a model wrote stays text. Charts are the screen's tables, drawn as SVG by
rich. Colours derive from the text's own colour where possible, since a notebook may be light or dark.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ..measures.chance import verdict
from ..screen.lines import measured, table_lines
from ..screen.picture import LIGHT_THEME, recorder
from ..values.page import Table
from ..values.results import Answer, Notice, Pair
from ..values.text import changes, clean, column_widths
from .report import Chapter, Facts, Report

_INDENT = 2
_SCALE = 0.72  # from the size of rich's letters to the page's
# rich's own template, without the window, its shadow and the font that it would download.
_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {terminal_width} {terminal_height}" role="img">
<style>.{unique_id}-matrix {{ font: {char_height}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }}
{styles}</style>
<defs>{lines}</defs>
<g class="{unique_id}-matrix">{matrix}</g>
</svg>
"""
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
.steerchat figure { margin: 1rem 0; overflow-x: auto }
.steerchat svg { display: block; height: auto; max-width: 100%; min-width: 24rem }
.steerchat details { margin: .75rem 0 } .steerchat summary { cursor: pointer }
"""
# The browser downloads nothing, whatever the page contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def to_html(report: Report) -> str:
    """The whole page."""
    title = clean(report.title)
    head = _element(
        "head",
        _element("meta", charset="utf-8"),
        _element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _element("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        _element("title", title),
        _element("style", _STYLE + _CHAPTER),
    )
    chapters = [_chapter(chapter, f"chart{number}n") for number, chapter in enumerate(report.chapters)]
    body = _element("body", {"class": "steerchat"}, _element("h1", title), *_facts(report.facts), *chapters)
    html = _element("html", {"lang": "en"}, head, body)
    return "<!DOCTYPE html>\n" + ElementTree.tostring(html, encoding="unicode", method="html") + "\n"


def to_cell(chapter: Chapter) -> str:
    """A chapter for a notebook, with the styles that it needs."""
    # A chart's styles apply to every chart of the same name, and a notebook has many cells.
    name = f"chart{hashlib.sha256(repr(chapter).encode(errors='replace')).hexdigest()[:12]}n"
    cell = _element("div", {"class": "steerchat"}, _element("style", _CHAPTER), _chapter(chapter, name))
    return ElementTree.tostring(cell, encoding="unicode", short_empty_elements=False)


def _chapter(chapter: Chapter, charts: str) -> Element:
    """A chapter as an element; the names of its charts begin with `charts`."""
    children = [_element("h2", clean(chapter.heading)), *_facts(chapter.facts)]
    for number, part in enumerate(chapter.parts):
        children += _part(part, chapter.heading, f"{charts}{number}")
    if chapter.answers:
        answers = _element("div", {"class": "answers"}, *(_answer(*entry) for entry in chapter.answers))
        children.append(_element("details", _element("summary", "The answers behind it"), answers))
    return _element("section", *children)


def _part(part: object, heading: str, name: str) -> list[Element]:
    match part:
        case Notice(text):
            return [_element("p", {"class": "faint"}, clean(text))]
        case str():
            return [_element("p", clean(part))]
        case Table():
            return [_element("figure", {"tabindex": "0"}, chart(part, name, heading))]
        case Pair():
            return _pair(part)
    raise TypeError(f"no HTML for {type(part).__name__}")


def _pair(pair: Pair) -> list[Element]:
    if pair.steered is None:
        return [_element("div", {"class": "answers"}, _answer("normal", pair.normal))]
    spans = changes(clean(pair.normal.text), clean(pair.steered.text))
    normal = _answer("normal", pair.normal, spans[0])
    steered = _answer(f"steered: {pair.recipe}", pair.steered, spans[1])
    measures = clean(" · ".join(measured(pair, verdict(pair))))
    return [_element("div", {"class": "answers"}, normal, steered), _element("p", {"class": "faint"}, measures)]


def chart(table: Table, name: str, label: str) -> Element:
    """A table as SVG, without its columns of excerpts.

    Args:
        table: at least one of its columns is not in `samples`.
        name: letters and digits, unique on the page; the chart's styles and clips are named after it.
        label: the text for screen readers.
    """
    shown = [index for index in range(len(table.headings)) if index not in table.samples]
    rows = [[clean(row[index]) for index in shown] for row in table.rows]
    headings = [table.headings[index] for index in shown]
    right = frozenset(shown.index(index) for index in table.right if index in shown)
    widths = column_widths(headings, rows, 10_000, gap=2) or []
    width = _INDENT + sum(widths) + 2 * (len(widths) - 1) + 1
    console = recorder(width)
    for line in table_lines(replace(table, headings=headings, rows=rows, right=right), width):
        console.print(line, soft_wrap=True)
    svg = ElementTree.fromstring(console.export_svg(theme=LIGHT_THEME, code_format=_SVG, unique_id=name))
    style = svg.find("{*}style")
    assert style is not None and style.text
    # Black becomes the text's own colour and grey a fainter shade of it, so that both read on light and dark pages.
    style.text = style.text.replace("fill: #000000", "fill: currentColor")
    style.text = re.sub(r"fill: #(..)\1\1", "fill: currentColor; fill-opacity: .65", style.text)
    for element in svg.iter():
        element.tag = element.tag.rpartition("}")[2]  # HTML knows svg without its namespace
    svg.set("width", str(round(_SCALE * float(svg.get("viewBox", "").split()[2]))))
    svg.set("aria-label", clean(label))
    return svg


def _answer(heading: str, answer: Answer, marked: Sequence[tuple[int, int]] = ()) -> Element:
    text, at = clean(answer.text) or "(no text)", 0
    pieces: list[Element | str] = []
    for low, high in marked:
        pieces += [text[at:low], _element("mark", text[low:high])]
        at = high
    children = [_element("h3", clean(heading)), _element("div", {"class": "text"}, *pieces, text[at:])]
    if answer.ending:
        children.append(_element("div", {"class": "faint"}, f"({answer.ending})"))
    return _element("div", *children)


def _facts(facts: Facts) -> list[Element]:
    items = [item for name, value in facts for item in (_element("dt", clean(name)), _element("dd", clean(value)))]
    return [_element("dl", *items)] if items else []


def _element(tag: str, *children: Element | str | dict[str, str], **attributes: str) -> Element:
    """An element with its children and attributes; a dictionary holds attributes whose names Python does not allow."""
    element = Element(tag, attributes)
    for child in children:
        if isinstance(child, dict):
            element.attrib.update(child)
        elif isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element
