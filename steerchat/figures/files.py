"""A figure as the bytes of a file."""

from __future__ import annotations

import io

from ..values.chart import Drawn
from .drawing import figure
from .looks import GROUND, style
from .svg import standing

_DPI = 300  # what printers want


def to_file(drawn: Drawn, ending: str) -> bytes:
    """A chart whole, with its title.

    Args:
        ending: `.png` at 300 dots per inch, `.svg` with alternative text, or `.pdf`.
    """
    made = figure(drawn)
    if ending == ".svg":
        return standing(made).encode()
    about: dict[str, dict[str, str | None]] = {
        ".pdf": {"Title": drawn.title, "CreationDate": None},
        ".png": {"Title": drawn.title, "Description": drawn.in_words},
    }
    out = io.BytesIO()
    with style():
        made.savefig(out, format=ending[1:], dpi=_DPI, facecolor=GROUND, metadata=about[ending])
    return out.getvalue()
