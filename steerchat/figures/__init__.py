"""Charts as figures: files at print quality, and SVG inside a page. Drawn by matplotlib, which is an extra.

May import: values. Nothing else imports matplotlib.
Start reading: drawing.py, then svg.py.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

# It would write into the chat that it builds its font cache, or where it keeps that.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

HOW = "pip install 'steerchat[plot]' draws figures"
ENDINGS = (".png", ".svg", ".pdf")


def available() -> bool:
    """Whether the library that draws them is installed."""
    return find_spec("matplotlib") is not None
