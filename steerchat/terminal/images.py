"""Figures in the scrollback of a terminal that shows images: it is asked once what it is, and nothing is assumed.

A terminal answers three questions: its name, the size of a cell, and its attributes, among which are sixels. Any
terminal answers the last one, so the answer to it ends the wait. They are control sequences of the common form, which
a terminal that does not know them leaves out; the sequences that draw go to terminals alone that said that they can.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..figures import available
from ..figures.protocols import Protocol
from ..values.chart import Drawn
from .dial import silent

_QUESTIONS = "\x1b[>q\x1b[16t\x1b[c"
_NAME = re.compile(r"\x1bP>\|([^\x1b]*)\x1b\\")
_CELL = re.compile(r"\x1b\[6;(\d+);(\d+)t")
_ATTRIBUTES = re.compile(r"\x1b\[\?([\d;]*)c")
_PATIENCE = 1.0  # seconds that the answers may take: a terminal may be far away
# By what their names begin with; any other terminal whose attributes have it gets sixels.
_BY_NAME: dict[str, Protocol] = {"kitty": "kitty", "ghostty": "kitty", "iTerm2": "iterm2", "WezTerm": "iterm2"}
_SIXEL = "4"  # among the attributes
_WIDEST = 100  # cells


@dataclass(frozen=True)
class Terminal:
    """What a terminal said of itself."""

    protocol: Protocol | None  # by which it shows images; None: it shows none
    cell: tuple[int, int] = (10, 20)  # width and height of a cell, in pixels


class Images:
    """Draws charts as images, where the terminal shows some and the user wants them.

    Args:
        wanted: asked each time.
        size: gives the columns and rows of the screen.
        typed: receives what the user typed while the terminal was asked.
    """

    def __init__(
        self,
        wanted: Callable[[], bool],
        size: Callable[[], tuple[int, int]],
        typed: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._wanted = wanted
        self._size = size
        self._typed = typed
        self._terminal: Terminal | None = None

    def __call__(self, drawn: Drawn) -> str | None:
        """What draws a chart on the terminal; None where a text has to do."""
        if not self._wanted() or not available() or os.environ.get("TERM") in (None, "", "dumb", "linux"):
            return None
        if self._terminal is None:
            self._terminal = ask(self._typed)
        if self._terminal.protocol is None:
            return None
        from ..figures.files import to_screen

        return to_screen(drawn, self._terminal.protocol, self._terminal.cell, *self._room())

    def _room(self) -> tuple[int, int]:
        columns, rows = self._size()
        return min(columns, _WIDEST), max(rows - 2, 1)


def ask(typed: Callable[[str], None] = lambda text: None) -> Terminal:
    """Ask the terminal of standard input and output. One that does not answer shows no images."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return Terminal(None)
    terminal = sys.stdin.fileno()
    with silent(terminal, key_by_key=True) as silenced:  # the answers are not shown
        if not silenced:
            return Terminal(None)
        sys.stdout.write(_QUESTIONS)
        sys.stdout.flush()
        heard = _hear(terminal)
    answers = [pattern.search(heard) for pattern in (_NAME, _CELL, _ATTRIBUTES)]
    for answer in filter(None, answers):
        heard = heard.replace(answer[0], "", 1)
    if heard:
        typed(heard)
    return _known(*(answer and answer.groups() for answer in answers))


def _known(name: tuple[str, ...] | None, cell: tuple[str, ...] | None, attributes: tuple[str, ...] | None) -> Terminal:
    has_sixels = attributes is not None and _SIXEL in attributes[0].split(";")
    protocol: Protocol | None = "sixel" if has_sixels else None
    for known, its_own in _BY_NAME.items():
        if name and name[0].startswith(known):
            protocol = its_own
    if cell is None or "0" in cell:
        return Terminal(protocol)
    height, width = map(int, cell)
    return Terminal(protocol, (width, height))


def _hear(terminal: int) -> str:
    """What comes from the terminal, until it has told its attributes or the patience is over."""
    heard, until = b"", time.monotonic() + _PATIENCE
    while (left := until - time.monotonic()) > 0 and select.select([terminal], [], [], left)[0]:
        heard += os.read(terminal, 1 << 12)
        if _ATTRIBUTES.search(heard.decode(errors="replace")):
            break
    return heard.decode(errors="replace")
