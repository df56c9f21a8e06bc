"""Painting lines: each final one exactly once, and a changing tail under them.

A final line is printed and never touched again, so that it scrolls away like any other output. Only the
lines that may still change are erased and drawn again, and never more of them than the screen has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from ..values.text import cell_len, clean, fit

ACCENT = "magenta"  # what steering did; one of the few that read on a light and on a dark ground
DIM = "dim"
REDRAW_SECONDS = 0.1
# What bars, charts and strips are drawn with, on screens that have none of it.
_ASCII = str.maketrans("─━│┃█▓▒░·▁▂▃▄▅▆▇", "-=||##-.. .:-=+*")
_LINE_SECONDS = 5.0  # between two lines about the same long work, in plain mode


class Painter:
    """Prints final lines once and keeps a changing tail under them.

    Args:
        console: where to; one that records gets no tail, for nothing can be erased in a recording.
        plain: no colour and no cursor movement, hence no tail.
    """

    def __init__(self, console: Console, plain: bool) -> None:
        self.console = console
        self.plain = plain
        self.still = plain or console.record
        self._tail: list[Text] = []

    def draw(self, final: Iterable[Text], tail: Sequence[Text] = ()) -> None:
        """Prints `final` where the old tail was, and `tail` after it, cut to the screen's height."""
        final = list(final)
        if self.still:
            for line in final:
                self._print(Text(line.plain) if self.plain else line)
            return
        shown = list(tail[: max(self.console.height - 1, 1)])
        if not final and shown == self._tail:
            return
        with self.console:  # one write for all of it, so that nothing flickers
            self._erase()
            for line in final:
                self._print(line)
            for index, line in enumerate(shown):
                self._print(line, end="\n" if index < len(shown) - 1 else "")
        self._tail = shown

    @property
    def unicode(self) -> bool:
        """Whether the screen can show more than its own code page."""
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
        # a tail drawn before the terminal became narrower takes more rows now
        rows = sum(max(1, -(-cell_len(line.plain) // width)) for line in self._tail)
        up = [(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * (rows - 1)
        self.console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up))
        self._tail = []


class Bar:
    """One line about long work: redrawn in place on a terminal, a few lines in plain mode."""

    def __init__(self, painter: Painter, clock: Callable[[], float]) -> None:
        self._painter = painter
        self._clock = clock
        self._label = ""
        self._drawn = 0.0

    def show(self, label: str, done: float, total: float | None) -> None:
        """The work called `label` is at `done` of `total` (None: unknown)."""
        label = clean(label)
        fresh, complete = label != self._label, total is not None and done >= total
        wait = _LINE_SECONDS if self._painter.plain else REDRAW_SECONDS
        if not fresh and not complete and self._clock() - self._drawn < wait:
            return
        share = min(max(done / total, 0.0), 1.0) if total else None
        if not self._painter.plain:
            self._painter.draw([], [self._line(label, share)])
        elif complete:
            self._painter.draw([Text(f"  {label}: done")])
        elif fresh:
            self._painter.draw([Text(f"  {label} ...")])
        elif share is not None:
            self._painter.draw([Text(f"  {label}: {share:.0%}")])
        self._label, self._drawn = label, self._clock()

    def clear(self) -> None:
        """Takes the line away."""
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
