"""Answers that stream in columns, and which of their lines are final."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.text import Text

from ..values.text import Line, Wrapper, fit
from ..values.thinking import OPEN, reply_start, thinking
from .painter import ACCENT, DIM, REDRAW_SECONDS, Painter

SIDE_BY_SIDE = 100  # cells from which two columns fit next to each other
GAP = 3
MAX_COLUMN, MAX_SINGLE = 80, 100  # longer lines are hard to read


@dataclass
class Column:
    """One answer: its heading, its text, and the styles of parts of it."""

    title: str
    accent: bool
    text: Wrapper
    marks: list[tuple[int, int, str]] = field(default_factory=list)
    taken: int = 0
    opened: bool = False  # whether the answer begins inside a thought
    _said: str | None = ""  # the answer, until it is known where its thought ends
    _thought: int = 0  # its first characters, which are the thought's

    def feed(self, text: str) -> None:
        """Appends clean `text`; a thought before the reply is dimmed."""
        if self._said is not None:
            self._said += text
            goes_on = thinking(self._said, self.opened)
            self._thought = len(self._said) if goes_on else reply_start(self._said, self.opened)
            if not goes_on:
                self._said = None
        self.text.feed(text)

    def head(self) -> Text:
        """`─ title ──────`, as wide as the column."""
        width = self.text.width
        head = Text().append("─ ", DIM)
        head.append(fit(self.title, width - 4), f"bold {ACCENT}" if self.accent else "bold")
        return head.append(" " + "─" * (width - head.cell_len - 1), DIM)

    def draw(self, line: Line) -> Text:
        """`line` in its styles."""
        drawn, end = Text(line.text), line.start + len(line.text)
        for low, high, style in [(0, self._thought, DIM), *self.marks]:
            if low < end and high > line.start:
                drawn.stylize(style, max(low - line.start, 0), high - line.start)
        return drawn

    def close(self, note: str) -> None:
        note = note or ("(no text)" if self.text.empty else "")
        if self._said is not None and not self.opened and not self._said.lstrip().startswith(OPEN):
            self._thought = 0  # as short as the beginning of a tag
        start = self.text.close(note)
        self.marks.append((start, start + len(note), DIM))


class Block:
    """Columns of answers, side by side or one under the other, that tell their final lines from the others.

    Args:
        titles: each column's heading, and whether it is a steered one.
        width: cells of the whole block.
        beside: side by side; else the second column follows when the first is complete.
    """

    def __init__(self, titles: Sequence[tuple[str, bool]], width: int, beside: bool) -> None:
        self.beside = beside
        self.columns = [Column(title, accent, Wrapper(1)) for title, accent in titles]
        self._headed = 0  # columns whose heading is out
        self.resize(width)

    def resize(self, width: int) -> None:
        """Lays out what is not yet final for another width."""
        self.width = width
        share = min((width - GAP) // 2, MAX_COLUMN) if self.beside else min(width, MAX_SINGLE)
        for column in self.columns:
            column.text.rewrap(max(share, 1), column.taken)

    @property
    def extent(self) -> int:
        """Cells that it covers from the left edge."""
        return sum(c.text.width for c in self.columns) + GAP if self.beside else self.columns[0].text.width

    @property
    def closed(self) -> bool:
        return all(column.text.closed for column in self.columns)

    def take(self) -> list[Text]:
        """The lines that have become final since the last call."""
        return self._take_beside() if self.beside else self._take_stacked()

    def tail(self) -> list[Text]:
        """The lines after the final ones, as they look now."""
        if self.beside:
            return self._rows([[*c.text.lines[c.taken :], *c.text.tail] for c in self.columns])
        open_column = next((c for c in self.columns if not c.text.closed), None)
        return [] if open_column is None else [open_column.draw(line) for line in open_column.text.tail]

    def _take_stacked(self) -> list[Text]:
        lines: list[Text] = []
        for index, column in enumerate(self.columns):
            if index == self._headed:
                lines.append(column.head())
                self._headed += 1
            new = column.text.lines[column.taken :]
            lines += map(column.draw, new)
            column.taken += len(new)
            if not column.text.closed:
                break
        return lines

    def _take_beside(self) -> list[Text]:
        lines: list[Text] = []
        if not self._headed:
            self._headed = len(self.columns)
            lines.append(self._join([column.head() for column in self.columns]))
        taken = self.columns[0].taken  # the columns go in step: a row is final when each one's line is
        lengths = [len(column.text.lines) for column in self.columns]
        waiting = [length for length, c in zip(lengths, self.columns, strict=True) if not c.text.closed]
        ready = min(waiting) if waiting else max(lengths)
        if ready > taken:
            lines += self._rows([column.text.lines[taken:ready] for column in self.columns])
            for column in self.columns:
                column.taken = ready
        return lines

    def _rows(self, columns: Sequence[Sequence[Line]]) -> list[Text]:
        count = max(map(len, columns))
        return [
            self._join(
                [
                    column.draw(lines[row]) if row < len(lines) else Text()
                    for column, lines in zip(self.columns, columns, strict=True)
                ]
            )
            for row in range(count)
        ]

    def _join(self, cells: Sequence[Text]) -> Text:
        left, right = cells
        if right.plain:
            left.append(" " * (self.columns[0].text.width - left.cell_len + GAP))
        return left.append_text(right)


class Stream:
    """A block while its answers arrive.

    Args:
        block: where they go.
        rows: for each row of the events the column it goes to; other rows are not shown.
        width: gives the block's width, which changes when the terminal's does.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        painter: Painter,
        block: Block,
        rows: dict[int, int],
        width: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._painter = painter
        self.block = block
        self._columns = {row: block.columns[column] for row, column in rows.items()}
        self._width = width
        self._clock = clock
        self._drawn = clock()
        if not painter.plain:
            painter.console.show_cursor(False)
        self._draw()

    def add(self, row: int, text: str) -> None:
        """Appends clean `text` to a row, on the screen at the latest a moment later."""
        column = self._columns.get(row)
        if column is None or column.text.closed:
            return
        column.feed(text)
        # The rows of a step come together: drawing before the last of them would leave it a step behind.
        last = max(r for r, c in self._columns.items() if not c.text.closed)
        if row == last and self._clock() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def finish(self, row: int, text: str, note: str) -> None:
        """Completes a row; `text` is all of it, for when it did not stream."""
        column = self._columns.get(row)
        if column is None or column.text.closed:
            return
        if column.text.empty:
            column.feed(text)
        column.close(note)
        self._draw()

    def close(self) -> None:
        """Prints whatever is left, finished or not, and gives the cursor back."""
        for column in self.block.columns:
            if not column.text.closed:
                column.close("")
        self._draw()
        if not self._painter.plain:
            self._painter.console.show_cursor(True)

    def _draw(self) -> None:
        width = self._width()
        if width != self.block.width:
            self.block.resize(width)
        self._painter.draw(self.block.take(), self.block.tail())
        self._drawn = self._clock()
