"""A report as one HTML page that needs nothing else: no script, no font, no network; a chapter of it for a notebook.

Both are trees of elements, so that whatever a model said stays text. Charts are the screen's own tables, drawn as SVG
by rich. Colours follow the text's own wherever they can: a notebook is light or dark as it likes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ..screen import lines as pages
from ..screen.picture import LIGHT_THEME, recorder
from ..values.page import Table
from ..values.results import Answer, Notice, Pair
from ..values.text import changes, clean, column_widths
from .markdown import NOTES, Chapter, Facts, Report, Verdict

_INDENT = 2
_SCALE = 0.72  # of rich's letters, to those of the page
# What rich draws, less its window, its shadow and the font that it would fetch.
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
# Of a chapter, wherever it stands: nothing here may touch what is around it.
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
.steerchat .said { white-space: pre-wrap }
.steerchat mark { color: inherit; background: rgb(200 80 200 / .22); border-radius: .2rem }
.steerchat figure { margin: 1rem 0; overflow-x: auto }
.steerchat svg { display: block; height: auto; max-width: 100%; min-width: 24rem }
.steerchat details { margin: .75rem 0 } .steerchat summary { cursor: pointer }
"""
# Nothing is fetched, whatever the page holds.
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
    page = _Page(report.verdict)
    chapters = [_element("h1", title), *_facts(report.facts), *map(page.chapter, report.chapters)]
    body = _element("body", {"class": "steerchat"}, *chapters)
    html = _element("html", {"lang": "en"}, head, body)
    return "<!DOCTYPE html>\n" + ElementTree.tostring(html, encoding="unicode", method="html") + "\n"


def to_cell(chapter: Chapter, verdict: Verdict) -> str:
    """A chapter for a notebook, with the style that it needs."""
    # Styles of a chart hold wherever its name does, and a notebook has many cells.
    name = f"chart{hashlib.sha256(repr(chapter).encode(errors='replace')).hexdigest()[:12]}n"
    drawn = _Page(verdict, name).chapter(chapter)
    cell = _element("div", {"class": "steerchat"}, _element("style", _CHAPTER), drawn)
    return ElementTree.tostring(cell, encoding="unicode", short_empty_elements=False)


class _Page:
    """Chapters as elements; each chart has a name of its own, which begins with `charts`."""

    def __init__(self, verdict: Verdict, charts: str = "chart") -> None:
        self._verdict = verdict
        self._name = charts
        self._charts = 0

    def chapter(self, chapter: Chapter) -> Element:
        children = [_element("h2", clean(chapter.heading)), *_facts(chapter.facts)]
        for part in chapter.parts:
            children += self._part(part, chapter.heading)
        if chapter.answers:
            answers = _element("div", {"class": "answers"}, *(_answer(*one) for one in chapter.answers))
            children.append(_element("details", _element("summary", "The answers behind it"), answers))
        return _element("section", *children)

    def _part(self, part: object, heading: str) -> list[Element]:
        match part:
            case Notice(text):
                return [_element("p", {"class": "faint"}, clean(text))]
            case str():
                return [_element("p", clean(part))]
            case Table():
                self._charts += 1
                return [_element("figure", {"tabindex": "0"}, chart(part, f"{self._name}{self._charts}", heading))]
            case Pair():
                return self._pair(part)
        raise TypeError(f"no HTML for {type(part).__name__}")

    def _pair(self, pair: Pair) -> list[Element]:
        if pair.steered is None:
            return [_element("div", {"class": "answers"}, _answer("normal", pair.normal))]
        spans = changes(clean(pair.normal.text), clean(pair.steered.text))
        answers = (
            _answer("normal", pair.normal, spans[0]),
            _answer(f"steered: {pair.recipe}", pair.steered, spans[1]),
        )
        told = " · ".join(pages.measured(pair, self._verdict(pair)))
        return [_element("div", {"class": "answers"}, *answers), _element("p", {"class": "faint"}, clean(told))]


def chart(table: Table, name: str, label: str) -> Element:
    """A table as SVG, less its samples of longer texts.

    Args:
        table: at least one column that is no sample.
        name: for its styles and clips; of letters and digits, and its own on the page.
        label: what a screen reader says in place of it.
    """
    kept = [index for index in range(len(table.headings)) if index not in table.samples]
    rows = [[clean(row[index]) for index in kept] for row in table.rows]
    headings = [table.headings[index] for index in kept]
    right = frozenset(kept.index(index) for index in table.right if index in kept)
    widths = column_widths(headings, rows, 10_000, gap=2) or []
    width = _INDENT + sum(widths) + 2 * (len(widths) - 1) + 1
    console = recorder(width)
    for line in pages.table_lines(replace(table, headings=headings, rows=rows, right=right), width):
        console.print(line, soft_wrap=True)
    found = ElementTree.fromstring(console.export_svg(theme=LIGHT_THEME, code_format=_SVG, unique_id=name))
    style = found.find("{*}style")
    assert style is not None and style.text
    # Black becomes the text's own colour and grey a fainter one of it, on a light page and on a dark one.
    style.text = style.text.replace("fill: #000000", "fill: currentColor")
    style.text = re.sub(r"fill: #(..)\1\1", "fill: currentColor; fill-opacity: .65", style.text)
    for element in found.iter():
        element.tag = element.tag.rpartition("}")[2]  # an HTML page knows svg without its namespace
    found.set("width", str(round(_SCALE * float(found.get("viewBox", "").split()[2]))))
    found.set("aria-label", clean(label))
    return found


def _answer(heading: str, answer: Answer, marked: Sequence[tuple[int, int]] = ()) -> Element:
    text, at = clean(answer.text) or "(no text)", 0
    said: list[Element | str] = []
    for low, high in marked:
        said += [text[at:low], _element("mark", text[low:high])]
        at = high
    children = [_element("h3", clean(heading)), _element("div", {"class": "said"}, *said, text[at:])]
    if NOTES[answer.finish]:
        children.append(_element("div", {"class": "faint"}, f"({NOTES[answer.finish]})"))
    return _element("div", *children)


def _facts(facts: Facts) -> list[Element]:
    if not facts:
        return []
    told = [one for name, value in facts for one in (_element("dt", clean(name)), _element("dd", clean(value)))]
    return [_element("dl", *told)]


def _element(tag: str, *children: Element | str | dict[str, str], **attributes: str) -> Element:
    """An element with its attributes (a dictionary where a name is no Python name) and children."""
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
