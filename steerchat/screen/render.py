"""Everything that is drawn. Nothing else in the project writes to a screen.

Every text goes through `clean` and into `rich.text.Text`, never through markup: a model may say `[/foo]` or
send terminal escapes. In plain mode (no terminal) there are no styles and no cursor movement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Literal

from rich.console import Console
from rich.text import Text

from ..slash.registry import HelpPage
from ..values.errors import SteerchatError
from ..values.page import Heading, Page, Shaded, Table
from ..values.recipe import Recipe
from ..values.results import (
    BenchReport,
    Delta,
    Event,
    Finished,
    Notice,
    Pair,
    PairDone,
    Probed,
    Progress,
    Started,
    Strip,
)
from ..values.text import cell_len, changes, clean
from . import lines as pages
from .columns import GAP, SIDE_BY_SIDE, Block, Stream
from .painter import ACCENT, DIM, Bar, Painter

View = Literal["both", "steered", "normal"]

_NOTES = {"end": "", "length": "(max tokens)", "interrupted": "(stopped)", "failed": "(failed)"}


class Screen:
    """Draws values and streams of events.

    Args:
        console: where to; standard output when None, with errors and progress on standard error.
        plain: no colour and no cursor movement; None decides by whether the console is a terminal.
        verdict: a pair's measures in words, or None for a pair without.
        speed: whether a pair says how many tokens a second it came at.
        unit: the push of strength 1 as a share of a layer's typical length (`recipe.UNIT`), for echoing recipes.
        clock: seconds, from any start.
        now: the local time, with its zone.
    """

    def __init__(
        self,
        console: Console | None = None,
        plain: bool | None = None,
        *,
        verdict: Callable[[Pair], str | None] | None = None,
        speed: bool = True,
        unit: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        own = console is None
        self.console = Console(highlight=False) if console is None else console
        aside = Console(highlight=False, stderr=True) if console is None else console
        self.plain = _is_plain(self.console, own) if plain is None else plain
        self.verdict = verdict
        self.speed = speed
        self.unit = unit
        self._clock = clock
        self._now = now
        self._painter = Painter(self.console, self.plain)
        self._aside = Painter(aside, _is_plain(aside, own) if plain is None else plain)
        self._bar = Bar(self._aside, clock)

    @property
    def width(self) -> int:
        """Cells in a line, now."""
        return max(self.console.width, 1)

    # Streaming

    def stream(
        self, events: Iterable[Event], view: View = "both", on_step: Callable[[Event], object] | None = None
    ) -> Pair | None:
        """Draws events as they come.

        Args:
            events: from the session. What it raises is raised again, once all text that came is on the screen.
            view: which columns to show.
            on_step: called after each event.

        Returns:
            the last pair, or None when no pair was completed.
        """
        stream: Stream | None = None
        pair: Pair | None = None
        notices: list[str] = []  # those that came while text streamed, which they must not interrupt
        try:
            for event in events:
                if not isinstance(event, Progress):
                    self._bar.clear()
                match event:
                    case Started(titles, thinking):
                        if stream:
                            stream.close()
                        stream = self._start(titles, view, thinking)
                    case Delta(row, text) if stream:
                        stream.add(row, clean(text))
                    case Finished(row, answer) if stream:
                        stream.finish(row, clean(answer.text), _NOTES[answer.finish])
                    case PairDone():
                        pair = event.pair
                        if stream:
                            stream.close()
                        self._print(self._measures(pair, stream.block.extent if stream else self.width))
                        stream = None
                    case Probed(strips):
                        every = view == "both" or pair is None or pair.steered is None
                        self.strips([one for one in strips if every or one.column == view])
                    case Notice(text):
                        notices.append(text)
                    case Progress(label, done, total) if stream is None or stream.block.closed:
                        self._bar.show(label, done, total)
                if stream is None or stream.block.closed:
                    self._tell(notices)
                if on_step:
                    on_step(event)
        finally:
            self._bar.clear()
            if stream:
                stream.close()
            self._tell(notices)
        return pair

    def _start(self, titles: Sequence[str], view: View, thinking: bool) -> Stream:
        rows = list(range(len(titles)))
        if len(titles) == 2 and view != "both" and titles[0] == "normal":  # a blind review shows both
            rows = [0] if view == "normal" else [1]
        block = self._block([(titles[row], row > 0 or titles[row].startswith("steered")) for row in rows])
        for column in block.columns:
            column.opened = thinking
        columns = {row: column for column, row in enumerate(rows)}
        return Stream(self._painter, block, columns, lambda: self.width, self._clock)

    def _block(self, titles: Sequence[tuple[str, bool]]) -> Block:
        beside = len(titles) == 2 and self.width >= SIDE_BY_SIDE and not self.plain
        cleaned = [(clean(title), accent) for title, accent in titles]
        return Block(cleaned, self.width, beside)

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., None]]:
        """A line about long work, gone when the work is done: call what it gives with `done` and `total`."""
        try:
            yield lambda done, total=None: self._bar.show(label, done, total)
        finally:
            self._bar.clear()

    # Values

    def show(self, value: object) -> None:
        """Draws any value that a command gives back; None is nothing.

        Raises:
            TypeError: for a value that has no drawing.
        """
        match value:
            case None:
                pass
            case str():
                self.say(value)
            case Notice(text):
                self.notice(text)
            case Progress(label, done, total):
                self._bar.show(label, done, total)
            case SteerchatError():
                self.error(value)
            case Pair():
                self.pair(value, words=True)
            case Recipe():
                self.recipe(value)
            case Table():
                self.table(value)
            case Probed(strips):
                self.strips(strips)
            case Heading(text):
                self._print([Text(), *pages.paragraph(text, self.width, "bold")])
            case Shaded():
                self._print(pages.shaded_lines(value, self.width, self.plain))
            case Page(parts):
                for part in parts:
                    self.show(part)
            case BenchReport():
                self.notice(pages.bench_heading(value))
                self.table(pages.bench_table(value))
            case Mapping():
                self.help(value)
            case HelpPage():
                self.help_page(value)
            case pages.Stored():
                self.stored(value)
            case list() | tuple() if all(isinstance(row, pages.Stored) for row in value):
                self.history(value)
            case _:
                raise TypeError(f"no drawing for {type(value).__name__}")

    def say(self, text: str) -> None:
        """A result in words; its own line breaks are kept."""
        self._print(pages.paragraph(text, self.width))

    def notice(self, text: str) -> None:
        """A sentence about something that was done for the user."""
        self._print(pages.paragraph(text, self.width, DIM))

    def aside(self, event: Notice | Progress) -> None:
        """What is told beside a result, on standard error, so that a result can be piped."""
        if isinstance(event, Progress):
            self._bar.show(event.label, event.done, event.total)
        else:
            self._bar.clear()
            self._aside.draw(pages.paragraph(event.text, self.width, DIM))

    def error(self, error: SteerchatError) -> None:
        """What happened, and what to do about it."""
        self._bar.clear()
        lines = pages.paragraph(f"error: {error.message}", self.width, "red")
        self._aside.draw([*lines, *pages.paragraph(error.hint, self.width, DIM)])

    def banner(self, name: str, facts: Sequence[str], keys: Sequence[str], prompts: Sequence[str] = ()) -> None:
        """The first lines of a chat.

        Args:
            name: program and version.
            facts: about the model, as far as they are known yet.
            keys: what to type for help and to leave.
            prompts: some on which steering shows.
        """
        left, right = clean("  ".join((name, *facts))), clean("  ".join(keys))
        blanks = min(self.width, pages.LONGEST) - cell_len(left) - cell_len(right)
        if blanks >= GAP:
            lines = [Text(left).append(" " * blanks + right, DIM)]
        else:
            lines = [Text(line) for line in pages.flow(map(clean, (name, *facts)), self.width, gap=2)]
            lines += pages.paragraph(right, self.width, DIM)
        lines[0].stylize("bold", 0, len(name))
        self._print(lines)
        if prompts:
            self._print(pages.paragraph("Steering shows well on:", self.width, DIM))
            self._print([line for prompt in prompts for line in pages.paragraph(prompt, self.width, indent="    ")])

    def recipe(self, recipe: Recipe) -> None:
        """The whole recipe, a line for each term."""
        self.say(pages.recipe_text(recipe, self.unit))

    def pair(self, pair: Pair, words: bool = False) -> None:
        """A finished pair, whole; with `words`, the words that differ are marked."""
        self._print(pages.paragraph(f"> {pair.prompt}", self.width, "bold", indent=""))
        answers = [("normal", pair.normal)]
        if pair.steered is not None:
            answers.append((f"steered: {pair.recipe}", pair.steered))
        texts = [clean(answer.text) for _, answer in answers]
        spans = changes(texts[0], texts[1]) if words and len(texts) == 2 else ([], [])
        block = self._block([(title, index == 1) for index, (title, _) in enumerate(answers)])
        for column, text, marked, (_, answer) in zip(block.columns, texts, spans, answers, strict=False):
            if self.plain:  # no style to mark them with
                for low, high in reversed(marked):
                    text = f"{text[:low]}*{text[low:high]}*{text[high:]}"
            else:
                column.marks += [(low, high, f"bold {ACCENT}" if column.accent else "bold") for low, high in marked]
            column.feed(text)
            column.close(_NOTES[answer.finish])
        self._print([*block.take(), *self._measures(pair, block.extent)])

    def stored(self, row: pages.Stored) -> None:
        """A pair of the history, whole, under a line that says where it comes from."""
        self.notice(pages.origin(row, self._now()))
        self.pair(row.pair)

    def history(self, rows: Sequence[pages.Stored]) -> None:
        """Pairs, one a line, in the order given; an empty history says what to do."""
        self.table(pages.history_table(rows, self._now()))

    def strips(self, strips: Sequence[Strip]) -> None:
        """Concepts as they run through answers, one a line."""
        self._print(pages.strip_lines(strips, self.width))

    def table(self, table: Table) -> None:
        """Rows in aligned columns."""
        self._print(pages.table_lines(table, self.width))

    def help(self, groups: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        """Every command by group: usage and summary."""
        self._print(pages.help_lines(groups, self.width))

    def help_page(self, page: HelpPage) -> None:
        """One command's page."""
        self._print(pages.help_page_lines(page, self.width))

    def _measures(self, pair: Pair, width: int) -> list[Text]:
        shown = pair if self.speed else replace(pair, tokens_per_second=0.0)
        return pages.measures(shown, width, self.verdict(pair) if self.verdict else None)

    def _tell(self, notices: list[str]) -> None:
        for text in notices:
            self.notice(text)
        notices.clear()

    def _print(self, lines: Iterable[Text]) -> None:
        self._bar.clear()
        self._painter.draw(lines)


def _is_plain(console: Console, own: bool) -> bool:
    # FORCE_COLOR makes rich call a pipe a terminal, and a pipe has no cursor to move all the same
    if own and not console.file.isatty():
        return True
    return not console.is_terminal or console.is_dumb_terminal
