"""Text that is safe on a screen, wrapped into lines of a given width.

Widths are in terminal cells: most characters take one cell, East Asian ones and emoji two, combining marks none.
"""

from __future__ import annotations

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
MOST_MARKS = 8  # combining marks on one letter; no script uses as many
_ZERO_WIDTH_NON_JOINER = "\u200c"  # part of Persian spelling, and it moves no other character
# Terminals disagree on the width of a character that one of these follows, which would break columns.
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
    """`text` without characters that control a terminal.

    Each character is handled on its own, so that cleaning a text in pieces gives the same as cleaning it whole, even
    where a piece ends inside an escape sequence. Newlines stay, a tab becomes four blanks, control characters such as
    ESC become U+FFFD, and invisible format characters (bidirectional overrides, joiners) are removed.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_safe, text))


_UNSAFE = re.compile(
    "[\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_BEYOND = re.compile("[\ud800-\udfff\U000e0000-\U000e007f]")


def to_json(value: object, indent: int | None = None) -> str:
    """JSON in which characters that control a terminal are escaped; a program reads the same value from it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:  # JSON has no NaN and no infinity
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)
    text = _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return _BEYOND.sub(lambda match: json.dumps(match[0])[1:-1], text)


def in_encoding(json_text: str, encoding: str) -> str:
    """The same JSON with escapes for the characters that an encoding lacks."""
    try:
        json_text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in json_text)
    return json_text


def _finite(value: object) -> object:
    """`value` with None for numbers that are not finite."""
    match value:
        case Mapping():
            return {name: _finite(member) for name, member in value.items()}
        case list() | tuple():
            return [_finite(member) for member in value]
        case float() if not math.isfinite(value):
            return None
    return value


def only_text(text: str) -> str:
    """`text` for a file: as `clean`, but tabs and invisible format characters stay."""
    return "".join(REPLACEMENT if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text)


def thin(text: str) -> str:
    """`text` with at most `MOST_MARKS` combining marks in a row; a hostile letter may have a thousand."""
    if text.isascii():
        return text
    chars, marks = [], 0
    for char in text:
        marks = 0 if cell_len(char) else marks + 1
        if marks <= MOST_MARKS:
            chars.append(char)
    return "".join(chars)


class Line(NamedTuple):
    """A line of a wrapped text, and its offset in that text."""

    text: str
    start: int


class Wrapper:
    """Wraps a text that arrives in pieces into lines, at blanks where possible.

    Newlines, indentation and blank lines inside the text stay; blank lines before and after it are removed. A piece
    takes time in proportion to its own length, not to the text's. The result does not depend on how the text is cut.

    Attributes:
        width: cells in a line.
        lines: the final lines, which further text cannot change.
        closed: whether the text is complete.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[Line] = []
        self.closed = False
        self._pieces: list[str] = []
        self._at = 0  # offset of the next character
        self._line, self._start, self._cells = "", 0, 0
        self._blank: list[int] = []  # offsets of blank lines that count only if text follows
        self._wrapped = False  # whether the unfinished line continues a paragraph
        self._marks = 0  # combining marks since the last other character

    @property
    def empty(self) -> bool:
        """Whether the text has no visible character."""
        return not self.lines and not self._line.strip(" ")

    @property
    def tail(self) -> list[Line]:
        """The lines after `lines`, which may still change: the unfinished line and the blank lines before it."""
        if not self._line:
            return []
        return [*(Line("", at) for at in self._blank), Line(self._line, self._start)]

    def feed(self, text: str) -> None:
        """Appends clean `text`."""
        self._pieces.append(text)
        for char in text:
            self._put(char)

    def close(self, note: str = "") -> int:
        """Completes the text, with `note` at its end. Returns the offset at which the note starts."""
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
        """Changes the width; the first `kept` of `lines` stay as they are."""
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
        """Starts a new line, because `char` does not fit on this one."""
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


class Mark(NamedTuple):
    """A span of an answer that stands out; `parting` where it is the first word that the other answer does not have."""

    start: int
    end: int
    parting: bool = False


def wrap(text: str, width: int) -> list[str]:
    """The lines of clean `text` at `width` cells."""
    wrapper = Wrapper(max(width, 1))
    wrapper.feed(text)
    wrapper.close()
    return [line.text for line in wrapper.lines]


def fit(text: str, width: int) -> str:
    """`text` on one line of at most `width` cells; a longer one is cut and ends in dots."""
    line = thin(" ".join(text.split()))
    if cell_len(line) <= width:
        return line
    dots = "..."[: max(width, 0)]
    room, cells = width - len(dots), 0
    for index, char in enumerate(line):
        cells += cell_len(char)
        if cells > room:
            return line[:index].rstrip() + dots
    return line


def pad(text: str, width: int, right: bool = False) -> str:
    """`text` padded with blanks to `width` cells, on its left if `right`."""
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def column_widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], room: int, gap: int, least: int = 6
) -> list[int] | None:
    """The width of each column so that all fit in `room`, or None. The widest column shrinks first."""
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    excess = sum(widths) + gap * (len(widths) - 1) - room
    while excess > 0:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= least:
            return None
        widths[widest] -= 1
        excess -= 1
    return widths


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 pair`, `3 pairs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
