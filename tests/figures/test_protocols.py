"""Figures as what a terminal that shows images is sent: decoded, it is the figure."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from steerchat.figures.files import to_screen
from steerchat.figures.protocols import sequence
from steerchat.values.chart import Chart, Series

CHART = Chart("dose", "strength", ["1", "2"], [Series("effect", [1.0, 2.0], rest=0.0)], at=[1.0, 2.0])


def a_png(width: int = 37, height: int = 20) -> tuple[bytes, np.ndarray]:
    """An image of a few colours whose height is no multiple of six, and its pixels."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[3:9, 5:30] = (166, 38, 164)
    pixels[height - 2 :, :4] = (10, 110, 120)
    pixels[7, ::3] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue(), pixels


def of_sixels(text: str) -> np.ndarray:
    """The pixels that a terminal makes of sixels."""
    whole = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\\n', text, re.DOTALL)
    assert whole is not None
    width, height = int(whole[1]), int(whole[2])
    pixels, colours = np.zeros((height + 6, width, 3)), {}
    x = y = colour = 0
    for number, red, green, blue, choice, count, sign in re.findall(
        r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|(?:!(\d+))?([?-~$-])", whole[3]
    ):
        if number:
            colours[int(number)] = np.array([red, green, blue], dtype=float) * 2.55
        elif choice:
            colour = int(choice)
        elif sign in "$-":
            x, y = 0, y + 6 * (sign == "-")
        else:
            end = x + int(count or 1)
            for bit in range(6):
                if (ord(sign) - 63) >> bit & 1:
                    pixels[y + bit, x:end] = colours[colour]
            x = end
    return pixels[:height]


def test_sixels_are_the_pixels_of_the_image() -> None:
    png, pixels = a_png()
    found = of_sixels(sequence("sixel", png, 4))
    assert found.shape == pixels.shape and np.abs(found - pixels).max() < 8


def test_kitty_gets_the_file_in_pieces_and_does_not_answer() -> None:
    png = a_png()[0] * 60  # long enough for several pieces
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", sequence("kitty", png, 45))
    assert len(pieces) > 1 and all(len(data) <= 4096 for _, data in pieces)
    assert pieces[0][0] == "a=T,f=100,q=2,c=45,m=1"
    assert [keys for keys, _ in pieces[1:]] == ["m=1"] * (len(pieces) - 2) + ["m=0"]
    assert base64.b64decode("".join(data for _, data in pieces)) == png


def test_iterm2_gets_the_file() -> None:
    png, _ = a_png()
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);width=45:(.*)\x07\n", sequence("iterm2", png, 45))
    assert found is not None and int(found[1]) == len(png) and base64.b64decode(found[2]) == png


def test_a_figure_fits_into_the_cells_that_there_are_and_is_no_larger_than_its_text_needs() -> None:
    def size(columns: int, rows: int, cell: tuple[int, int] = (10, 20)) -> tuple[int, int]:
        height, width, _ = of_sixels(to_screen(CHART, "sixel", cell, columns, rows)).shape
        return width, height

    assert size(30, 50)[0] == 300
    assert size(100, 6)[1] <= 120
    width, height = size(100, 50)
    assert (width, height) == (450, size(200, 100)[1])
    assert size(100, 50, (20, 40)) == (2 * width, 2 * height)
