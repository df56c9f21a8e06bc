"""The screen: the only place that prints what a chat has to say.

Every text goes through `clean` and into `rich.text.Text`, never through markup: a model may write `[/foo]` or
send terminal escapes. In plain mode (no terminal) there are no styles and no cursor movement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from ..system.settings import View
from ..values.chart import Drawn, Picture
from ..values.errors import SteerchatError
from ..values.page import Page
from ..values.recipe import format_strength
from ..values.results import Delta, Event, Finished, Notice, Pair, PairDone, Probed, Progress, Started
from ..values.text import Mark, cell_len, clean
from .columns import GAP, SIDE_BY_SIDE, Block, Stream
from .lines import LONGEST, flow, lines_of, measure_lines, paragraph
from .painter import ACCENT, DIM, Bar, Painter

Marks = tuple[list[Mark], list[Mark]]


class Screen:
    """Draws values and streams of events.

    Args:
        console: the output; None for standard output, with errors and progress on standard error.
        plain: no colour and no cursor movement; None: plain unless the console is a terminal.
        verdict: gives a pair's measures in words, with what to try next if that is wanted; None for a pair without.
        images: gives what shows a chart as an image on this terminal, or None where it can only be text.
        marks: gives what stands out in both answers of a pair, of the pair and the two texts as they are shown.
        speed: whether to show a pair's tokens per second.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        console: Console | None = None,
        plain: bool | None = None,
        *,
        verdict: Callable[[Pair, bool], str | None] = lambda pair, advise: None,
        marks: Callable[[Pair, str, str], Marks] = lambda pair, normal, steered: ([], []),
        images: Callable[[Drawn], str | None] = lambda drawn: None,
        speed: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        own = console is None
        self.console = Console(highlight=False) if console is None else console
        errors = Console(highlight=False, stderr=True) if console is None else console
        self.plain = _is_plain(self.console, own) if plain is None else plain
        self.verdict = verdict
        self.marks = marks
        self.images = images
        self.speed = speed
        self._clock = clock
        self._painter = Painter(self.console, self.plain)
        self._error_painter = Painter(errors, _is_plain(errors, own) if plain is None else plain)
        self._bar = Bar(self._error_painter, clock)

    @property
    def width(self) -> int:
        """Cells in a line, now."""
        return max(self.console.width, 1)

    # Streaming

    def stream(self, events: Iterable[Event], view: View = "both") -> Pair | None:
        """Draws events as they come.

        Args:
            events: from the session. An exception from them is raised again, after all text so far is printed.
            view: which columns to show.

        Returns:
            the last pair, or None when no pair was completed.
        """
        stream: Stream | None = None
        pair: Pair | None = None
        base: float | None = None  # the strength that a share is of
        notices: list[Notice] = []  # held back while text streams, so that they do not interrupt it
        try:
            for event in events:
                if not isinstance(event, Progress):
                    self._bar.clear()
                match event:
                    case Started(titles, thinking, strength):
                        if stream:
                            stream.close()
                        stream = self._start(titles, view, thinking)
                        base = strength
                    case Delta(row, text, share) if stream:
                        stream.add(row, clean(text), _turned(base, share))
                    case Finished(row, answer) if stream:
                        stream.finish(row, clean(answer.text), _note(answer.ending))
                    case Page():
                        self.show(event)
                    case PairDone():
                        pair = event.pair
                        if stream:
                            stream.close()
                        self._print(self._measures(pair, stream.block.extent if stream else self.width))
                        stream = None
                    case Probed(strips):
                        every = view == "both" or pair is None or pair.steered is None
                        self.show(Probed(tuple(strip for strip in strips if every or strip.column == view)))
                    case Notice():
                        notices.append(event)
                    case Progress() if stream is None or stream.block.closed:
                        self.show(event)
                if stream is None or stream.block.closed:
                    self._show_all(notices)
        finally:
            self._bar.clear()
            if stream:
                stream.close()
            self._show_all(notices)
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

    def _show_all(self, notices: list[Notice]) -> None:
        for notice in notices:
            self.show(notice)
        notices.clear()

    # Values

    def show(self, value: object) -> None:
        """Draws any value that a command returns, or several; None draws nothing.

        Raises TypeError for a value that has no drawing.
        """
        match value:
            case None:
                pass
            case Progress(label, done, total):
                self._bar.show(label, done, total)
            case SteerchatError():
                self.error(value)
            case Pair():
                self._pair(value)
            case Picture(drawn):
                image = None if self.plain else self.images(drawn)
                if image is None:
                    self.show(drawn)
                else:
                    self._bar.clear()
                    self._painter.send(image)
            case Page(parts) | list(parts):
                for part in parts:
                    self.show(part)
            case _:
                self._print(lines_of(value, self.width, self.plain))

    def aside(self, event: Notice | Progress) -> None:
        """Shows what accompanies a result on standard error, so that the result can be piped."""
        if isinstance(event, Progress):
            self.show(event)
        else:
            self._bar.clear()
            self._error_painter.draw(lines_of(event, self.width))

    def error(self, error: SteerchatError) -> None:
        """What happened, and what to do about it."""
        self._bar.clear()
        lines = paragraph(f"error: {error.message}", self.width, "red")
        self._error_painter.draw([*lines, *paragraph(error.hint, self.width, DIM)])

    def banner(self, name: str, facts: Sequence[str], keys: Sequence[str], prompts: Sequence[str] = ()) -> None:
        """The first lines of a chat.

        Args:
            name: program and version.
            facts: about the model, as far as they are known yet.
            keys: what to type for help and to leave.
            prompts: some on which steering shows.
        """
        left, right = clean("  ".join((name, *facts))), clean("  ".join(keys))
        blanks = min(self.width, LONGEST) - cell_len(left) - cell_len(right)
        if blanks >= GAP:
            lines = [Text(left).append(" " * blanks + right, DIM)]
        else:
            lines = [Text(line) for line in flow(map(clean, (name, *facts)), self.width, gap=2)]
            lines += paragraph(right, self.width, DIM)
        lines[0].stylize("bold", 0, len(name))
        if prompts:
            lines += paragraph("Steering shows well on:", self.width, DIM)
            lines += [line for prompt in prompts for line in paragraph(prompt, self.width, indent="    ")]
        self._print(lines)

    def _pair(self, pair: Pair) -> None:
        """A finished pair, whole, with its marks."""
        self._print(paragraph(f"> {pair.prompt}", self.width, "bold", indent=""))
        answers = [("normal", pair.normal)]
        if pair.steered is not None:
            answers.append((f"steered: {pair.recipe}", pair.steered))
        texts = [clean(answer.text) for _, answer in answers]
        spans = self.marks(pair, texts[0], texts[1]) if len(texts) == 2 else ([], [])
        block = self._block([(title, index == 1) for index, (title, _) in enumerate(answers)])
        for column, text, marked, (_, answer) in zip(block.columns, texts, spans, answers, strict=False):
            if self.plain:  # signs around the words where there is no style
                for low, high, parting in reversed(marked):
                    sign = "_" if parting else "*"
                    text = f"{text[:low]}{sign}{text[low:high]}{sign}{text[high:]}"
            else:
                counted = f"bold {ACCENT}" if column.accent else "bold"
                column.marks += [(low, high, "underline" if parting else counted) for low, high, parting in marked]
            column.feed(text)
            column.close(_note(answer.ending))
        self._print([*block.take(), *self._measures(pair, block.extent, advise=False)])

    def _measures(self, pair: Pair, width: int, advise: bool = True) -> list[Text]:
        shown = pair if self.speed else replace(pair, tokens_per_second=0.0)
        return measure_lines(shown, width, self.verdict(pair, advise))

    def _print(self, lines: Iterable[Text]) -> None:
        self._bar.clear()
        self._painter.draw(lines)


def _turned(strength: float | None, share: float) -> str:
    """The margin's mark of text that was written at another strength than the recipe's; empty at all of it."""
    if share == 1.0:
        return ""
    return f"x{share:g}" if strength is None else format_strength(round(strength * share, 2))


def _note(ending: str) -> str:
    return f"({ending})" if ending else ""


def _is_plain(console: Console, own: bool) -> bool:
    # FORCE_COLOR makes rich call a pipe a terminal, but a pipe has no cursor to move.
    if own and not console.file.isatty():
        return True
    return not console.is_terminal or console.is_dumb_terminal
