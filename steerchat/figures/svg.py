"""Figures as SVG: whole files, and pieces of a page that take its colours and its font."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from ..values.chart import Drawn
from ..values.text import clean
from .drawing import Drawing, panels
from .looks import ACCENT, FAINT, GROUND, INK, OTHER, style

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _LINK)
# The page's own colours; outside of one, those of the drawing.
_COLOURS = {INK: "ink", FAINT: "faint", ACCENT: "accent", OTHER: "other", GROUND: "ground"}
_ANY_COLOUR = re.compile("|".join(_COLOURS))
_FONT = "'DejaVu Sans'"


def standing(figure: Drawing) -> str:
    """A figure as an SVG file, with its alternative text."""
    svg = _written(figure)
    svg.set("role", "img")
    for name, text in (("desc", figure.drawn.in_words), ("title", figure.drawn.title)):
        element = ElementTree.Element(f"{{{_SVG}}}{name}")
        element.text = clean(text)
        svg.insert(0, element)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(svg, encoding="unicode")


def inline(drawn: Drawn, prefix: str) -> list[str]:
    """A chart's panels as SVG elements for a page.

    `prefix`: begins every id, so that no two figures of a page share one.
    """
    return [_piece(panel, f"{prefix}-{number}-") for number, panel in enumerate(panels(drawn))]


def _written(figure: Drawing) -> ElementTree.Element:
    out = io.BytesIO()
    with style():
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = ElementTree.fromstring(out.getvalue())
    for element in svg.findall(f"{{{_SVG}}}metadata"):
        svg.remove(element)
    return svg


def _piece(figure: Drawing, prefix: str) -> str:
    """One panel: its ids its own, its colours the page's. Only attributes change, never a text."""
    svg = _written(figure)
    used = {name for part in svg.iter() for value in part.attrib.values() for name in re.findall(r"#([\w-]+)", value)}
    for part in svg.iter():
        part.tag = part.tag.removeprefix(f"{{{_SVG}}}")
        for styles in part.findall(f"{{{_SVG}}}style"):  # it would hold for the whole page
            part.remove(styles)
        if (link := part.attrib.pop(f"{{{_LINK}}}href", None)) is not None:
            part.set("href", link)
        if (name := part.attrib.pop("id", None)) in used:
            part.set("id", f"{prefix}{name}")
        for key, value in part.attrib.items():
            value = _ANY_COLOUR.sub(lambda match: f"var(--steerchat-{_COLOURS[match[0]]}, {match[0]})", value)
            value = re.sub(r"(?<=url\(#)|(?<=^#)", prefix, value) if "url(" in value or key == "href" else value
            part.set(key, value.replace(_FONT, f"system-ui, {_FONT}"))
    svg.attrib = {
        "role": "img",
        "aria-label": clean(figure.drawn.in_words),
        "stroke-linejoin": "round",
        "viewBox": svg.attrib["viewBox"],
        # In CSS pixels; a page shrinks it where it has less room.
        "width": f"{figure.get_figwidth() * 96:.0f}",
    }
    return ElementTree.tostring(svg, encoding="unicode")
