"""How figures look: colours, fonts, and the settings of matplotlib. Importing this needs the extra `plot`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib

from ..values.text import clean, fit

# Colours that read on white. `svg` replaces them where a page may be dark.
INK, FAINT, ACCENT, OTHER, GROUND = "#1d1d1f", "#6b6b70", "#a626a4", "#0a6e78", "#ffffff"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "text.parse_math": False,  # a dollar in a prompt is a dollar
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "steerchat",  # equal figures give equal files
    "pdf.fonttype": 42,
}
DOTS = ("o", "s", "^", "D")  # a shape for each series, so that colour is not all that tells them apart
_LONGEST = 24  # characters of a label


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings while a figure is drawn or written; a user's own stay as they are elsewhere."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # In an SVG the reader's own fonts show the characters that this one lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def label(text: str) -> str:
    """A name beside an axis."""
    return fit(clean(text), _LONGEST)
