"""Text that is safe to put on a screen, broken into lines of a given width, and tables of it.

Nothing here draws. Widths are in terminal cells: most characters take one, East Asian ones and emoji two,
combining marks none.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from rich.cells import cell_len

Span = tuple[int, int]

REPLACEMENT = "\ufffd"
_TAB = "    "
MOST_MARKS = 8  # no script puts as many on one letter
_ZERO_WIDTH_NON_JOINER = "\u200c"  # Persian is misspelt without it, and it moves nothing
# Terminals disagree on how wide a character is with one of these after it; columns would come out ragged.
_MODIFIERS = re.compile("[\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0100-\U000e01ef]")


@lru_cache(maxsize=4096)
def _safe(char: str) -> str:
    if char == "\n" or char == _ZERO_WIDTH_NON_JOINER:
        return char
    if char == "\t":
        return _TAB
    if char == "\r" or _MODIFIERS.match(char):
        return ""
    category = unicodedata.category(char)
    if category in ("Zl", "Zp"):
        return "\n"
    if category == "Cf":  # bidirectional overrides, joiners, invisible tags
        return ""
    return REPLACEMENT if category in ("Cc", "Cs", "Cn") else char


def clean(text: str) -> str:
    """`text` without anything that a terminal would obey instead of show.

    Each character is judged alone, so a text cleaned in pieces is the same text cleaned at once, wherever the
    pieces end, even inside an escape sequence. Newlines stay, a tab becomes four blanks, control characters
    (ESC among them) become U+FFFD, invisible format characters (bidirectional overrides, joiners) go.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_safe, text))


_UNSAFE = re.compile(
    "[\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_BEYOND = re.compile("[\ud800-\udfff\U000e0000-\U000e007f]")


def to_json(value: object, indent: int | None = None) -> str:
    """JSON that says the same to a program, and that a terminal obeys no character of: those are escaped."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:  # JSON has no NaN and no infinity
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return _BEYOND.sub(lambda found: json.dumps(found[0])[1:-1], _UNSAFE.sub(lambda c: f"\\u{ord(c[0]):04x}", text))


def _finite(value: object) -> object:
    match value:
        case Mapping():
            return {name: _finite(one) for name, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case float() if not math.isfinite(value):
            return None
    return value


def only_text(text: str) -> str:
    """`text` for a file of lines that others read: as `clean`, but tabs and all that only joins or turns stay."""
    return "".join(REPLACEMENT if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text)


def thin(text: str) -> str:
    """`text` with at most `MOST_MARKS` characters without a width in a row: a letter may have a thousand accents."""
    if text.isascii():
        return text
    kept, run = [], 0
    for char in text:
        run = 0 if cell_len(char) else run + 1
        if run <= MOST_MARKS:
            kept.append(char)
    return "".join(kept)


class Line(NamedTuple):
    """A line of a wrapped text, and the offset in that text at which it starts."""

    text: str
    start: int


class Wrapper:
    """Breaks a text that arrives in pieces into lines, at blanks where it can.

    Newlines, indentation and blank lines inside the text are kept, blank lines around it are not. The work for
    a piece is in proportion to the piece, however long the text is by then; how the text was cut into pieces
    makes no difference.

    Attributes:
        width: cells a line may have.
        lines: the lines that more text cannot change.
        closed: whether the text is complete.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[Line] = []
        self.closed = False
        self._pieces: list[str] = []
        self._at = 0  # offset of the next character
        self._line, self._start, self._cells = "", 0, 0
        self._blank: list[int] = []  # offsets of blank lines that wait for text to follow them
        self._wrapped = False  # whether the unfinished line goes on a paragraph
        self._marks = 0  # characters without a width, since the last that has one

    @property
    def empty(self) -> bool:
        """Whether there is nothing to see."""
        return not self.lines and not self._line.strip(" ")

    @property
    def tail(self) -> list[Line]:
        """What follows `lines` and may still change: the unfinished line, after any blank ones before it."""
        if not self._line:
            return []
        return [*(Line("", at) for at in self._blank), Line(self._line, self._start)]

    def feed(self, text: str) -> None:
        """Appends clean `text`."""
        self._pieces.append(text)
        for char in text:
            self._put(char)

    def close(self, note: str = "") -> int:
        """Completes the text with `note` at its very end.

        Returns:
            the offset at which the note starts.
        """
        if not self._line.strip(" "):
            self._blank.clear()
            self._line, self._cells = "", 0
        elif note:
            self.feed(" ")
        start = self._at
        self.feed(note)
        self._flush()
        self.closed = True
        return start

    def rewrap(self, width: int, kept: int) -> None:
        """Goes on with another width; the first `kept` of `lines` stay as they are."""
        waiting = [*self.lines[kept:], *self.tail] or [Line("", at) for at in self._blank]
        del self.lines[kept:]
        self.width = width
        if not waiting:
            return
        rest = "".join(self._pieces)[waiting[0].start :]
        self._at = waiting[0].start
        self._line, self._cells, self._wrapped = "", 0, False
        self._blank.clear()
        for char in rest:
            self._put(char)
        if self.closed:
            self._flush()

    def _put(self, char: str) -> None:
        at = self._at
        self._at += 1
        if char == "\n":
            self._newline(at)
            return
        if not self._line:
            if self._wrapped and char == " ":
                return
            self._start = at
        cells = cell_len(char)
        self._marks = 0 if cells else self._marks + 1
        if self._marks > MOST_MARKS:
            return
        if self._line and self._cells + cells > self.width:
            self._break(char, at)
        else:
            self._line += char
            self._cells += cells

    def _newline(self, at: int) -> None:
        if self._line.strip(" "):
            self._flush()
        elif self.lines and not self._wrapped:
            self._blank.append(at)
        self._line, self._cells, self._wrapped = "", 0, False

    def _break(self, char: str, at: int) -> None:
        """Starts a new line, since `char` does not fit on this one."""
        line, start = self._line, self._start
        cut = line.rfind(" ")
        if not line.strip(" "):  # deeper indentation than there is room for
            if char != " ":
                self._restart(char, at)
        elif char == " ":
            self._emit(line, start)
            self._restart("", at)
        elif cell_len(line[: max(cut, 0)].strip(" ")):  # else the rest and `char` might not fit either
            self._emit(line[:cut], start)
            self._restart(line[cut + 1 :] + char, start + cut + 1)
        else:  # a word longer than the line
            self._emit(line, start)
            self._restart(char, at)

    def _restart(self, line: str, start: int) -> None:
        self._line, self._start, self._cells, self._wrapped = line, start, cell_len(line), True

    def _emit(self, text: str, start: int) -> None:
        self.lines.extend(Line("", at) for at in self._blank)
        self._blank.clear()
        self.lines.append(Line(text.rstrip(" "), start))

    def _flush(self) -> None:
        if self._line.strip(" "):
            self._emit(self._line, self._start)
        self._line, self._cells = "", 0


def wrap(text: str, width: int) -> list[str]:
    """The lines of clean `text` at `width` cells."""
    wrapper = Wrapper(max(width, 1))
    wrapper.feed(text)
    wrapper.close()
    return [line.text for line in wrapper.lines]


def fit(text: str, width: int) -> str:
    """`text` on one line of at most `width` cells, its end left out when it is longer."""
    line = thin(" ".join(text.split()))
    if cell_len(line) <= width:
        return line
    dots = "..."[: max(width, 0)]
    room, kept = width - len(dots), 0
    for index, char in enumerate(line):
        kept += cell_len(char)
        if kept > room:
            return line[:index].rstrip() + dots
    return line


def pad(text: str, width: int, right: bool = False) -> str:
    """`text` filled up with blanks to `width` cells; `right` puts them before it."""
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def changes(first: str, second: str) -> tuple[list[Span], list[Span]]:
    """The runs of words in which two texts differ, as spans of offsets in each."""
    words = [list(re.finditer(r"\S+", text)) for text in (first, second)]
    names = [[match[0] for match in matches] for matches in words]
    spans: tuple[list[Span], list[Span]] = ([], [])
    for tag, *ends in difflib.SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for found, matches, (low, high) in zip(spans, words, (ends[:2], ends[2:]), strict=True):
            if low < high:
                found.append((matches[low].start(), matches[high - 1].end()))
    return spans


def column_widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], room: int, gap: int, least: int = 6
) -> list[int] | None:
    """Cells for each column so that all fit in `room`, the widest giving way first; None when they cannot."""
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    excess = sum(widths) + gap * (len(widths) - 1) - room
    while excess > 0:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= least:
            return None
        widths[widest] -= 1
        excess -= 1
    return widths
