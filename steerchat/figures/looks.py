"""How figures look: colours, fonts, and the settings of matplotlib. Importing this needs the extra `plot`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes

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
# With characters that the first one lacks, where they are installed: Chinese, Japanese, Korean, and pictures.
_MORE = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "PingFang SC", "Hiragino Sans"),
    *("Apple SD Gothic Neo", "Microsoft YaHei", "Malgun Gothic", "WenQuanYi Zen Hei"),
    *("Noto Emoji", "Segoe UI Emoji", "Symbola"),
)
_GLYPH = re.compile(r"Glyph (\d+) ")  # of matplotlib's warning
DOTS = ("o", "s", "^", "D")  # a shape for each series, so that colour is not all that tells them apart
_LONGEST = 24  # characters of a label
_LEGEND = 0.22  # of the axis' height


@contextmanager
def style(more_fonts: bool = False) -> Iterator[list[str]]:
    """matplotlib's settings while a figure is drawn or written; a user's own stay as they are elsewhere.

    Args:
        more_fonts: look for characters in this machine's fonts too, for a file that holds its fonts or none. In an SVG
            the reader's own fonts show what this one lacks.

    Yields:
        the characters that no font has: of what is drawn meanwhile, and complete at the end.
    """
    lacking: list[str] = []
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message="Glyph")
        if more_fonts:
            there = {font.name for font in font_manager.fontManager.ttflist}
            matplotlib.rcParams["font.sans-serif"] = [*_STYLE["font.sans-serif"], *(f for f in _MORE if f in there)]
        yield lacking
    for warning in caught:
        if glyph := _GLYPH.match(str(warning.message)):
            lacking.append(chr(int(glyph[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def legend(axes: Axes, gap: float | None = None) -> None:
    """Names the series in the upper left corner, in room added at the top. `gap`: between a mark and its name."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + _LEGEND * (high - low))
    axes.legend(loc="upper left", ncols=2, frameon=False, fontsize=8, handletextpad=gap, borderpad=0)


def label(text: str) -> str:
    """A name beside an axis."""
    return fit(clean(text), _LONGEST)
