"""The live dial: keys that turn the strength of an answer up and down while it streams.

Alt-Up and Alt-Down change it by a quarter of what the recipe says, Alt-0 stops the push. Whatever else is typed
meanwhile waits for the next prompt.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

STEP, MOST = 0.25, 4.0
_TURNS = {Keys.Up: STEP, Keys.Down: -STEP, "0": -MOST}


class Dial:
    """Reads the keys of a terminal between the tokens of an answer.

    Args:
        input: the terminal's, for which prompts read too.
    """

    def __init__(self, input: Input) -> None:
        self._input = input
        self._keys: list[KeyPress] = []
        self._parser = Vt100Parser(self._keys.append)
        self._share = 1.0
        self._open = False

    def __call__(self, token: int) -> float:
        """The share of the recipe's strength with which the token of this index is chosen; each answer begins at 1."""
        if token == 0:
            self._share = 1.0
        if self._open:
            self._read()
            self._turn()
        return self._share

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take the terminal's keys, unechoed, and give those that turn nothing to the next prompt."""
        try:
            import termios
        except ImportError:  # Windows
            yield
            return
        terminal = self._input.fileno()
        if not os.isatty(terminal):
            yield
            return
        before = termios.tcgetattr(terminal)
        silent = [*before]
        silent[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(terminal, termios.TCSANOW, silent)
        self._open = True
        try:
            yield
        finally:
            self._open = False
            self._read()
            self._parser.flush()
            self._turn()
            store_typeahead(self._input, [*self._keys])
            self._keys.clear()
            termios.tcsetattr(terminal, termios.TCSANOW, before)

    def _read(self) -> None:
        terminal = self._input.fileno()
        while select.select([terminal], [], [], 0)[0]:
            data = os.read(terminal, 1024)
            if not data:
                return
            self._parser.feed(data.decode("utf-8", "replace"))

    def _turn(self) -> None:
        """Take the turns out of the keys."""
        place = 0
        while place + 1 < len(self._keys):
            turn = _TURNS.get(self._keys[place + 1].key)
            if self._keys[place].key != Keys.Escape or turn is None:
                place += 1
                continue
            self._share = min(MOST, max(0.0, self._share + turn))
            del self._keys[place : place + 2]
