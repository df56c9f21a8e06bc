"""A figure as the bytes of a file, or as what a terminal is sent."""

from __future__ import annotations

import io
import math

from ..values.chart import Drawn
from .drawing import figure
from .looks import GROUND, style
from .protocols import Protocol, sequence
from .svg import standing

_DPI = 300  # what printers want
_READABLE = 5.0  # dots per inch for each pixel of a cell's height, at which a figure's text is as large as the screen's


def to_file(drawn: Drawn, ending: str) -> tuple[bytes, str]:
    """A chart whole, with its title.

    Args:
        ending: `.png` at 300 dots per inch, `.svg` with alternative text, or `.pdf`.

    Returns:
        the file, and the characters that no font of this machine has: they are boxes there.
    """
    made = figure(drawn)
    if ending == ".svg":
        return standing(made).encode(), ""
    about: dict[str, dict[str, str | None]] = {
        ".pdf": {"Title": drawn.title, "CreationDate": None},
        ".png": {"Title": drawn.title, "Description": drawn.in_words},
    }
    out = io.BytesIO()
    with style(more_fonts=True) as lacking:
        made.savefig(out, format=ending[1:], dpi=_DPI, facecolor=GROUND, metadata=about[ending])
    return out.getvalue(), "".join(dict.fromkeys(lacking))


def to_screen(drawn: Drawn, protocol: Protocol, cell: tuple[int, int], columns: int, rows: int) -> str:
    """A chart whole, with its title, as what a terminal that shows images is sent.

    Args:
        cell: its width and height in pixels.
        columns, rows: the cells that there are.
    """
    made = figure(drawn)
    (width, height), (across, down) = made.get_size_inches(), cell
    dots = min(columns * across / width, rows * down / height, _READABLE * down)
    out = io.BytesIO()
    with style(more_fonts=True):
        made.savefig(out, format="png", dpi=dots, facecolor=GROUND)
    return sequence(protocol, out.getvalue(), math.ceil(width * dots / across))
