"""Figures as escape sequences for terminals that show images, by each of the three protocols.

What a terminal of another kind would make of them is its own: see `terminal.images` for who gets which.
"""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

Protocol = Literal["kitty", "iterm2", "sixel"]

_CHUNK = 4096  # of base64, the most that kitty takes at a time
_COLOURS = 64  # a figure has few
_BAND = 6  # rows of pixels in a line of sixels


def sequence(protocol: Protocol, png: bytes, columns: int) -> str:
    """What draws an image at the cursor and leaves the cursor on a new line below it.

    Args:
        png: of so many pixels as its cells have, for sixels; the other protocols scale it.
        columns: the cells that it is wide.
    """
    match protocol:
        case "kitty":
            return _kitty(png, columns) + "\n"
        case "iterm2":
            return _iterm2(png, columns) + "\n"
        case "sixel":
            return _sixel(png) + "\n"


def _kitty(png: bytes, columns: int) -> str:
    """Kitty's graphics protocol; `q=2`: no answer, which would look as if it were typed."""
    data = base64.standard_b64encode(png).decode()
    parts = []
    for start in range(0, len(data), _CHUNK):
        keys = "" if start else f"a=T,f=100,q=2,c={columns},"
        more = int(start + _CHUNK < len(data))
        parts.append(f"\x1b_G{keys}m={more};{data[start : start + _CHUNK]}\x1b\\")
    return "".join(parts)


def _iterm2(png: bytes, columns: int) -> str:
    """iTerm2's inline images."""
    data = base64.standard_b64encode(png).decode()
    return f"\x1b]1337;File=inline=1;size={len(png)};width={columns}:{data}\x07"


def _sixel(png: bytes) -> str:
    """Sixels: each line is six rows of pixels, in which each colour of the palette is drawn by itself."""
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS)
    palette = (np.array(image.getpalette() or [], dtype=int).reshape(-1, 3) * 100 + 127) // 255
    pixels = np.asarray(image)
    height, width = pixels.shape
    out = [f'\x1bPq"1;1;{width};{height}']
    out += [f"#{colour};2;{';'.join(map(str, palette[colour]))}" for colour in np.unique(pixels)]
    for top in range(0, height, _BAND):
        band = pixels[top : top + _BAND]
        bits = 1 << np.arange(len(band))[:, None]
        for colour in np.unique(band):
            marks = ((band == colour) * bits).sum(axis=0) + 63
            out.append(f"#{colour}{_runs(marks)}$")
        out.append("-")
    return "".join(out) + "\x1b\\"


def _runs(marks: Any) -> str:
    """A line of one colour, with equal marks in a row counted."""
    import numpy as np

    starts = np.flatnonzero(np.diff(marks, prepend=-1))
    lengths = np.diff(starts, append=len(marks))
    pairs = zip(marks[starts].tolist(), lengths.tolist(), strict=True)
    return "".join(f"!{length}{chr(mark)}" if length > 3 else chr(mark) * length for mark, length in pairs)
