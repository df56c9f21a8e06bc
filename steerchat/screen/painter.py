"""Prints final lines once, with a changing tail below them.

A final line is printed and never changed again, so that it scrolls away like any other output. Only the tail, the lines
that may still change, is erased and redrawn, and it is never longer than the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from ..values.text import cell_len, clean, fit

ACCENT = "magenta"  # for steering; one of the few colours that read on light and dark backgrounds
DIM = "dim"
REDRAW_SECONDS = 0.1
# Replacements for the characters of bars, charts and strips on a screen without Unicode.
_ASCII = str.maketrans("─━│┃█▓▒░·▁▂▃▄▅▆▇", "-=||##-.. .:-=+*")
_LINE_SECONDS = 5.0  # between two progress lines of one task, in plain mode


class Painter:
    """Prints final lines once, with a changing tail below them.

    Args:
        console: the output; a recording console gets no tail, because nothing can be erased in a recording.
        plain: no colour and no cursor movement, and therefore no tail.
    """

    def __init__(self, console: Console, plain: bool) -> None:
        self.console = console
        self.plain = plain
        self.still = plain or console.record
        self._tail: list[Text] = []

    def draw(self, final: Iterable[Text], tail: Sequence[Text] = ()) -> None:
        """Prints `final` in place of the old tail, and then `tail`, cut to the screen's height."""
        final = list(final)
        if self.still:
            for line in final:
                self._print(Text(line.plain) if self.plain else line)
            return
        shown = list(tail[: max(self.console.height - 1, 1)])
        if not final and shown == self._tail:
            return
        with self.console:  # writes everything at once, so that nothing flickers
            self._erase()
            for line in final:
                self._print(line)
            for index, line in enumerate(shown):
                self._print(line, end="\n" if index < len(shown) - 1 else "")
        self._tail = shown

    def send(self, sequence: str) -> None:
        """Sends the terminal a control sequence as it is, in place of the tail; it ends on a new line."""
        self.draw([])
        self.console.file.write(sequence)
        self.console.file.flush()

    @property
    def unicode(self) -> bool:
        """Whether the console encodes Unicode."""
        return self.console.encoding.lower().startswith("utf")

    def _print(self, line: Text, end: str = "\n") -> None:
        if not self.unicode:
            line.plain = (
                line.plain.translate(_ASCII).encode(self.console.encoding, "replace").decode(self.console.encoding)
            )
        self.console.print(line, end=end, soft_wrap=True, highlight=False)

    def _erase(self) -> None:
        if not self._tail:
            return
        width = max(self.console.width, 1)
        # A tail drawn before the terminal became narrower takes more rows now.
        rows = sum(max(1, -(-cell_len(line.plain) // width)) for line in self._tail)
        up = [(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * (rows - 1)
        self.console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up))
        self._tail = []


class Bar:
    """The progress of a long task: one line that is redrawn in place, or a few lines in plain mode."""

    def __init__(self, painter: Painter, clock: Callable[[], float]) -> None:
        self._painter = painter
        self._clock = clock
        self._label = ""
        self._drawn = 0.0

    def show(self, label: str, done: float, total: float | None) -> None:
        """Shows that the task `label` has done `done` of `total` steps (None: unknown)."""
        label = clean(label)
        started, complete = label != self._label, total is not None and done >= total
        wait = _LINE_SECONDS if self._painter.plain else REDRAW_SECONDS
        if not started and not complete and self._clock() - self._drawn < wait:
            return
        share = min(max(done / total, 0.0), 1.0) if total else None
        if not self._painter.plain:
            self._painter.draw([], [self._line(label, share)])
        elif complete:
            self._painter.draw([Text(f"  {label}: done")])
        elif started:
            self._painter.draw([Text(f"  {label} ...")])
        elif share is not None:
            self._painter.draw([Text(f"  {label}: {share:.0%}")])
        self._label, self._drawn = label, self._clock()

    def clear(self) -> None:
        """Removes the line."""
        if self._label:
            self._painter.draw([])
        self._label = ""

    def _line(self, label: str, share: float | None) -> Text:
        width = self._painter.console.width
        line = Text("  " + fit(label, width - 8))
        if share is None:
            return line.append(" ...")
        cells = min(width - line.cell_len - 8, 30)
        if cells >= 8:
            line.append("  ").append("━" * round(cells * share), ACCENT)
            line.append("─" * (cells - round(cells * share)), DIM)
        return line.append(f" {share:4.0%}")
