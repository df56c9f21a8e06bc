"""The live dial: keys that turn the strength of an answer up and down while it streams.

Alt-Up and Alt-Down change it by a quarter of what the recipe says, Alt-0 stops the push. Whatever else is typed
meanwhile waits for the next prompt.
"""

from __future__ import annotations

import codecs
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import Output

STEP, MOST = 0.25, 4.0
# The marks that a terminal puts around what is pasted, and how long the rest of a paste may take to come, in seconds.
_PASTE, _PASTED = "\x1b[200~", "\x1b[201~"
_PATIENCE = 1.0
_TURNS = {Keys.Up: STEP, Keys.Down: -STEP, "0": -MOST}


@contextmanager
def silent(terminal: int, key_by_key: bool = False, resumed: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """A terminal does not echo what is typed, and hands over each key at once if `key_by_key`.

    Gives whether it does: no file and no terminal of Windows can be silenced so. After Ctrl-Z the shell has the
    terminal with modes of its own; once the program goes on, these are set again, and `resumed` is called.
    """
    try:
        import termios
    except ImportError:  # Windows echoes only while a program reads
        yield False
        return
    if not os.isatty(terminal):
        yield False
        return
    before = termios.tcgetattr(terminal)
    changed = [*before]
    changed[3] &= ~(termios.ECHO | (termios.ICANON if key_by_key else 0))
    changed[3] |= termios.NOFLSH  # Ctrl-C stops the answer, and not what was typed for the next prompt

    def again(*_: object) -> None:
        termios.tcsetattr(terminal, termios.TCSANOW, changed)
        resumed()

    termios.tcsetattr(terminal, termios.TCSANOW, changed)
    main = threading.current_thread() is threading.main_thread()
    earlier = signal.signal(signal.SIGCONT, again) if main else None
    try:
        yield True
    finally:
        if main:
            signal.signal(signal.SIGCONT, earlier)
        termios.tcsetattr(terminal, termios.TCSANOW, before)


class Dial:
    """Reads the keys of a terminal between the tokens of an answer.

    Args:
        input, output: the terminal's, for which prompts read too.
    """

    def __init__(self, input: Input, output: Output) -> None:
        self._input, self._output = input, output
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pasting = False  # whether a paste has begun and not ended
        self._tail = ""  # the end of what was read, which may be the beginning of a mark
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
        with silent(self._input.fileno(), key_by_key=True, resumed=self._mark_pastes) as self._open:
            if not self._open:
                yield
                return
            self._mark_pastes()
            try:
                yield
            finally:
                self._open = False
                self._read()
                while self._pasting and self._read(_PATIENCE):
                    pass
                self._parser.flush()
                self._turn()
                store_typeahead(self._input, [*self._keys])
                self._keys.clear()
                self._output.disable_bracketed_paste()
                self._output.flush()

    def put_back(self, text: str) -> None:
        """Take what was typed and read by somebody else."""
        self._parser.feed(text)

    def _mark_pastes(self) -> None:
        """Let the terminal mark what is pasted, as it does at the prompt: its lines stay one message."""
        self._output.enable_bracketed_paste()
        self._output.flush()

    def _read(self, patience: float = 0.0) -> bool:
        """Take what was typed. Returns whether there was something, within so many seconds."""
        terminal, found = self._input.fileno(), False
        while select.select([terminal], [], [], patience)[0]:
            data = os.read(terminal, 1 << 16)
            if not data:
                return False
            text = self._decoder.decode(data)
            self._parser.feed(text)
            seen = self._tail + text
            begun, ended = seen.rfind(_PASTE), seen.rfind(_PASTED)
            self._pasting = begun > ended or (self._pasting and begun == ended)
            self._tail = seen[1 - len(_PASTE) :]
            found, patience = True, 0.0
        return found

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
