"""Answers that stream in columns, and the lines of them that are final."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from rich.text import Text

from ..values.text import Line, Wrapper, fit
from ..values.thinking import begins_thought, reply_start, thinking
from .lines import styled
from .painter import ACCENT, DIM, REDRAW_SECONDS, Painter

SIDE_BY_SIDE = 100  # cells from which two columns fit next to each other
GAP = 3
_MARGIN = 8  # cells for the strength beside lines that were written at another than the recipe's
MAX_COLUMN, MAX_SINGLE = 80, 100  # longer lines are hard to read


@dataclass
class Column:
    """One answer: its heading, its text, and the styles of parts of it."""

    title: str
    accent: bool
    text: Wrapper
    marks: list[tuple[int, int, str]] = field(default_factory=list)
    taken: int = 0  # final lines that are printed
    turns: list[tuple[int, str]] = field(default_factory=list)  # (offset in the text, mark in the margin from there on)
    length: int = 0  # of the text
    opened: bool = False  # whether the answer begins inside a thought
    _beginning: str | None = ""  # the answer so far, until the end of its thought is known
    _thought: int = 0  # length of the thought at the answer's beginning

    def feed(self, text: str) -> None:
        """Appends clean `text`; a thought before the reply is dimmed."""
        if self._beginning is not None:
            self._beginning += text
            unfinished = thinking(self._beginning, self.opened)
            self._thought = len(self._beginning) if unfinished else reply_start(self._beginning, self.opened)
            if not unfinished:
                self._beginning = None
        self.length += len(text)
        self.text.feed(text)

    def turn(self, mark: str) -> None:
        """The margin has this mark beside what comes now; the lines from here on are narrower, to make room for one."""
        if mark == (self.turns[-1][1] if self.turns else ""):
            return
        if not self.turns:
            self.text.rewrap(max(1, self.text.width - _MARGIN), self.taken)
        self.turns.append((self.length, mark))

    def head(self) -> Text:
        """The heading `─ title ──────`, as wide as the column."""
        width = self.text.width + (_MARGIN if self.turns else 0)
        head = Text().append("─ ", DIM)
        head.append(fit(self.title, width - 4), f"bold {ACCENT}" if self.accent else "bold")
        return head.append(" " + "─" * (width - head.cell_len - 1), DIM)

    def draw(self, line: Line) -> Text:
        """`line` with its styles."""
        drawn = styled(line, [(0, self._thought, DIM), *self.marks])
        mark = next((mark for start, mark in reversed(self.turns) if start < line.start + len(line.text)), "")
        if mark:
            drawn.append(" " * (self.text.width - drawn.cell_len + 1))
            drawn.append(f"│ {mark}", ACCENT)
        return drawn

    def close(self, note: str) -> None:
        """Completes the text, with a dim `note` at its end."""
        note = note or ("(no text)" if self.text.empty else "")
        if self._beginning is not None and not self.opened and not begins_thought(self._beginning):
            self._thought = 0  # the whole answer only looked like the beginning of a tag
        start = self.text.close(note)
        self.marks.append((start, start + len(note), DIM))


class Block:
    """Answers in columns, whose final lines are known apart from those that may change.

    Args:
        titles: each column's heading, and whether it is the steered one.
        beside: side by side; if not, the second column follows when the first is complete.
    """

    def __init__(self, titles: Sequence[tuple[str, bool]], width: int, beside: bool) -> None:
        self.columns = [Column(title, accent, Wrapper(1)) for title, accent in titles]
        # The columns of a group are side by side, and the next group follows when they are complete.
        self._groups = [self.columns] if beside else [[column] for column in self.columns]
        self._headed = 0  # groups whose heading is printed
        self.resize(width)

    def resize(self, width: int) -> None:
        """Wraps the lines that are not printed yet for another width."""
        self.width = width
        share = min(width, MAX_SINGLE) if len(self._groups[0]) == 1 else min((width - GAP) // 2, MAX_COLUMN)
        self._share = max(share, 1)
        for column in self.columns:
            column.text.rewrap(max(1, self._share - (_MARGIN if column.turns else 0)), column.taken)

    @property
    def extent(self) -> int:
        """Cells from the left edge to the right end of the block."""
        return len(self._groups[0]) * (self._share + GAP) - GAP

    @property
    def closed(self) -> bool:
        return all(column.text.closed for column in self.columns)

    def take(self) -> list[Text]:
        """The lines that became final since the last call."""
        lines: list[Text] = []
        for index, group in enumerate(self._groups):
            if index == self._headed:
                lines.append(self._row([column.head() for column in group]))
                self._headed += 1
            # A row is final when its line in each column is.
            unfinished = [len(column.text.lines) for column in group if not column.text.closed]
            ready = min(unfinished, default=max(len(column.text.lines) for column in group))
            lines += self._rows(group, [column.text.lines[column.taken : ready] for column in group])
            for column in group:
                column.taken = ready
            if unfinished:
                break
        return lines

    def tail(self) -> list[Text]:
        """The lines after the final ones, in their present form."""
        group = next((group for group in self._groups if not all(column.text.closed for column in group)), [])
        return self._rows(group, [[*column.text.lines[column.taken :], *column.text.tail] for column in group])

    def _rows(self, group: Sequence[Column], lines: Sequence[Sequence[Line]]) -> list[Text]:
        return [
            self._row([Text() if line is None else column.draw(line) for column, line in zip(group, row, strict=True)])
            for row in zip_longest(*lines)
        ]

    def _row(self, cells: Sequence[Text]) -> Text:
        row = Text()
        for index, cell in enumerate(cells):
            if cell.plain:
                row.append(" " * (index * (self._share + GAP) - row.cell_len)).append_text(cell)
        return row


class Stream:
    """Draws a block while its answers arrive.

    Args:
        rows: the column of each row of the events; other rows are not shown.
        width: gives the present width for the block, which follows the terminal's.
    """

    def __init__(
        self, painter: Painter, block: Block, rows: dict[int, int], width: Callable[[], int], clock: Callable[[], float]
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

    def add(self, row: int, text: str, mark: str = "") -> None:
        """Appends clean `text` to a row, `mark` in its margin, and draws unless the last drawing is very recent."""
        column = self._columns.get(row)
        if column is None or column.text.closed:
            return
        column.turn(mark)
        column.feed(text)
        # The rows of a decoding step arrive together; drawing before the last of them would show it a step late.
        last = max(r for r, c in self._columns.items() if not c.text.closed)
        if row == last and self._clock() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def finish(self, row: int, text: str, note: str) -> None:
        """Completes a row; `text` is the whole answer, which is shown if it did not stream."""
        column = self._columns.get(row)
        if column is None or column.text.closed:
            return
        if column.text.empty:
            column.feed(text)
        column.close(note)
        self._draw()

    def close(self) -> None:
        """Prints the remaining lines, finished or not, and shows the cursor again."""
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
