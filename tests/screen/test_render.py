"""What reaches the screen: transcripts in plain mode, and the live display on a small terminal emulator."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyte import modes
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from steerchat.screen.render import Screen, View
from steerchat.slash.registry import Registry
from steerchat.values.chart import Matrix
from steerchat.values.errors import SteerchatError
from steerchat.values.gate import Condition, Gate
from steerchat.values.page import Table
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import (
    Answer,
    Column,
    Delta,
    Event,
    Finish,
    Finished,
    Notice,
    Pair,
    PairDone,
    Probed,
    Progress,
    Started,
    Strip,
)
from steerchat.values.text import Mark, Wrapper, clean, fit, wrap

HAPPY = Recipe((Term((("happy", 1.0),), (16,), 2.0),))
TITLES = ("normal", "steered: happy 16 x 2.0")


def answer(text: str, finish: Finish = "end", perplexity: float | None = None) -> Answer:
    return Answer(text, len(text.split()), finish, perplexity)


def a_pair(normal: str = "It is mild.", steered: str | None = "It is lovely!", **changed) -> Pair:
    other = None if steered is None else answer(steered)
    return replace(Pair(12, "How is it?", "SmolLM2", HAPPY, 7, answer(normal), other), **changed)


def ticking(step: float = 0.06) -> Callable[[], float]:
    times = itertools.count()
    return lambda: next(times) * step


def a_screen(width: int = 80, height: int = 24, terminal: bool = False, term: str = "xterm", **options) -> Screen:
    console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        color_system=None,
        force_terminal=terminal,
        legacy_windows=False,
        _environ={"TERM": term},
    )
    return Screen(console, clock=options.pop("clock", ticking()), **options)


def written(screen: Screen) -> str:
    file = screen.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def drawn(width: int = 80, **options) -> tuple[Screen, Callable[[], list[str]]]:
    screen = a_screen(width, **options)
    return screen, lambda: written(screen).splitlines()


class Terminal:
    """A terminal of a given size that remembers what scrolled away."""

    def __init__(self, width: int, height: int) -> None:
        self.emulated = pyte.HistoryScreen(width, height, history=100_000, ratio=0.5)
        self.emulated.set_mode(modes.LNM)
        self._stream = pyte.Stream(self.emulated)
        self._read = 0
        self.scrollback: list[str] = []

    def read(self, screen: Screen) -> None:
        text = written(screen)
        self._stream.feed(text[self._read :])
        self._read = len(text)
        gone, columns = self.emulated.history.top, range(self.emulated.columns)
        for line in itertools.islice(gone, len(self.scrollback), None):
            self.scrollback.append("".join(line[x].data for x in columns).rstrip())

    @property
    def lines(self) -> list[str]:
        shown = "\n".join([*self.scrollback, *(line.rstrip() for line in self.emulated.display)])
        return shown.rstrip("\n").split("\n")


def watched(events: Iterable[Event], look: Callable[[Event], object]) -> Iterator[Event]:
    """The events, with `look` called after the screen has drawn each of them."""
    for event in events:
        yield event
        look(event)


def chunks(text: str, sizes: Iterable[int]) -> list[str]:
    pieces, at = [], 0
    for size in itertools.chain(sizes, itertools.repeat(7)):
        if at >= len(text):
            return pieces
        pieces.append(text[at : at + size])
        at += size
    return pieces


def turn(texts: list[str], sizes: Iterable[int] = (), finish: Finish = "end") -> Iterator[Event]:
    """The events of a pair whose rows get a piece each a step; a row that is done has no more."""
    sizes = list(sizes)
    yield Started(TITLES[: len(texts)])
    pieces = [chunks(text, sizes[row:]) for row, text in enumerate(texts)]
    for step in range(max(map(len, pieces), default=0) + 1):
        for row, parts in enumerate(pieces):
            if step < len(parts):
                yield Delta(row, parts[step])
            if step == len(parts):
                yield Finished(row, answer(texts[row], finish))
    yield PairDone(a_pair(texts[0], texts[1] if len(texts) > 1 else None))


LONG = "\n\n".join(" ".join(f"w{paragraph}-{word}" for word in range(60)) for paragraph in range(4))
LONGER = "\n".join(" ".join(f"s{paragraph}_{word}" for word in range(30)) for paragraph in range(14))
LINES = "\n".join(f"l{line}" for line in range(80))


# Text that is safe


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2Jgone", "\ufffd[2Jgone"),
        ("a\x9b31mb\x07", "a\ufffd31mb\ufffd"),
        ("left\u202eright\u2066", "leftright"),
        ("a\tb\r\nc", "a    b\nc"),
        ("one\u2028two", "one\ntwo"),
        ("\ud800", "\ufffd"),
        ("naïve 好 [/foo]", "naïve 好 [/foo]"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_or_dropped(hostile, shown):
    assert clean(hostile) == shown


@given(st.text(st.characters(exclude_categories=[])), st.integers(0, 50))
def test_a_text_cleaned_in_pieces_is_the_text_cleaned_at_once(text, cut):
    assert clean(text[:cut]) + clean(text[cut:]) == clean(text)
    assert not any((ord(char) < 32 and char != "\n") or 127 <= ord(char) < 160 for char in clean(text))


def test_markup_and_escapes_of_a_model_reach_the_screen_as_text():
    screen, lines = drawn(terminal=True)
    screen.stream(turn(["[bold]x[/foo] \x1b[31mred", "fine"]))
    assert any("[bold]x[/foo] \ufffd[31mred" in line for line in lines())


def test_an_escape_sequence_split_over_two_events_stays_text():
    screen, _ = drawn()
    screen.stream(turn(["ab\x1b[2Jcd", "fine"], sizes=[3, 1, 1]))
    assert "\x1b" not in written(screen)
    assert "ab\ufffd[2Jcd" in written(screen)


def test_a_screen_that_cannot_show_a_character_gets_a_question_mark():
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=60, _environ={})
    Screen(console).stream(turn(["caf\u00e9 \U0001f600", "fine"]))
    console.file.flush()
    shown = raw.getvalue().decode("ascii")
    assert "caf? ?" in shown
    assert "- normal ---" in shown


# Wrapping


def test_lines_break_at_words_and_keep_paragraphs_and_indentation():
    assert wrap("\n\none two three\n\n  - four\n\n\n", 8) == ["one two", "three", "", "  - four"]


def test_a_word_longer_than_the_line_is_broken():
    assert wrap("ab abcdefghij k", 4) == ["ab", "abcd", "efgh", "ij k"]


def test_wide_characters_count_two_cells():
    assert wrap("好好好 a", 5) == ["好好", "好 a"]


def test_a_line_that_is_just_full_leaves_no_blank_one():
    assert wrap("abcd  \nef", 4) == ["abcd", "ef"]


@given(st.text("ab \n好e\u0301", max_size=120), st.lists(st.integers(1, 9)), st.integers(2, 12))
def test_how_a_text_is_cut_into_pieces_does_not_change_its_lines(text, sizes, width):
    wrapper = Wrapper(width)
    for piece in chunks(text, sizes):
        wrapper.feed(piece)
    wrapper.close()
    lines = [line.text for line in wrapper.lines]
    assert lines == wrap(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.text("ab \n好", max_size=120), st.integers(0, 120), st.integers(2, 9), st.integers(2, 30), st.data())
def test_another_width_in_the_middle_loses_and_repeats_nothing(text, cut, first, second, data):
    wrapper = Wrapper(first)
    wrapper.feed(text[:cut])
    kept = data.draw(st.integers(0, len(wrapper.lines)))
    before = [line.text for line in wrapper.lines[:kept]]
    wrapper.rewrap(second, kept)
    wrapper.feed(text[cut:])
    wrapper.close()
    lines = [line.text for line in wrapper.lines]
    assert lines[:kept] == before
    assert all(cell_len(line) <= second for line in lines[kept:])
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.text("ab 好", max_size=40), st.integers(0, 20))
def test_a_shortened_text_fits(text, width):
    assert cell_len(fit(text, width)) <= width


# Streaming


def test_plain_mode_shows_one_answer_under_the_other():
    screen, lines = drawn(60)
    pair = screen.stream(turn(["It is mild.", "It is lovely!"]))
    assert pair is not None and pair.id == 12
    assert lines() == [
        "─ normal " + "─" * 51,
        "It is mild.",
        "─ steered: happy 16 x 2.0 " + "─" * 34,
        "It is lovely!",
        "  " + " " * 51 + "pair 12",
    ]


@pytest.mark.parametrize(("view", "shown", "hidden"), [("normal", "mild", "lovely"), ("steered", "lovely", "mild")])
def test_a_view_of_one_column_hides_the_other(view: View, shown, hidden):
    screen, _ = drawn(120, terminal=True)
    screen.stream(turn(["It is mild.", "It is lovely!"]), view)
    assert shown in written(screen)
    assert hidden not in written(screen)


def test_an_unsteered_turn_is_shown_in_every_view():
    for view in ("both", "normal", "steered"):
        screen, _ = drawn()
        screen.stream(turn(["It is mild."]), view)
        assert "It is mild." in written(screen)


def test_a_wide_terminal_has_the_answers_side_by_side():
    screen, terminal = a_screen(120, terminal=True), Terminal(120, 24)
    screen.stream(turn(["It is mild.\n\nReally.", "It is lovely!"]))
    terminal.read(screen)
    assert terminal.lines[0].startswith("─ normal ──")
    assert terminal.lines[0].index("─ steered") == terminal.lines[1].index("It is lovely!") == 61
    assert terminal.lines[2:4] == ["", "Really."]


def test_a_dumb_terminal_gets_no_cursor_movement():
    screen, _ = drawn(120, terminal=True, term="dumb")
    screen.stream(turn([LONG, LONGER]))
    assert "\x1b" not in written(screen)


@pytest.mark.slow
@pytest.mark.parametrize("height", [10, 24])
@pytest.mark.parametrize("width", [20, 80, 120])
@pytest.mark.parametrize("texts", [[LONG, LONGER], [LINES, LONG], [LONGER, "short"], ["short", LONG], [LONG]])
def test_an_answer_taller_than_the_screen_leaves_each_line_once_and_moves_nothing(width, height, texts):
    reference, tall = a_screen(width, 1000, terminal=True), Terminal(width, 1000)
    reference.stream([Started(TITLES[: len(texts)]), *(Finished(row, answer(text)) for row, text in enumerate(texts))])
    tall.read(reference)
    expected = tall.lines
    screen, terminal = a_screen(width, height, terminal=True), Terminal(width, height)

    def check(_: Event) -> None:
        terminal.read(screen)
        gone = terminal.scrollback
        assert gone[-50:] == expected[: len(gone)][-50:]

    events = list(turn(texts, sizes=[5, 1, 9, 3]))
    screen.stream(watched(events[:-1], check))
    terminal.read(screen)
    assert terminal.lines == expected
    words = " ".join(line for line in terminal.lines if "─" not in line).split()
    assert sorted(words) == sorted(" ".join(texts).split())


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text("abc \n\t好[]\x1b/", max_size=300), min_size=2, max_size=2),
    st.lists(st.integers(1, 20)),
    st.sampled_from([20, 60, 110]),
    st.sampled_from([4, 10]),
)
@example(["a\n\n\nb", "c"], [1, 1], 110, 4)
def test_any_chunking_ends_as_the_same_screen(texts, sizes, width, height):
    for terminal in (False, True):
        screen, emulated = a_screen(width, height, terminal=terminal), Terminal(width, height)
        screen.stream(turn(texts, sizes))
        emulated.read(screen)
        whole, reference = a_screen(width, height, terminal=terminal), Terminal(width, height)
        whole.stream([Started(TITLES), *(Finished(row, answer(text)) for row, text in enumerate(texts))])
        whole.stream([PairDone(a_pair(texts[0], texts[1]))])
        reference.read(whole)
        assert emulated.lines[:-1] == reference.lines[:-1]  # the measures' width follows the block


def test_redrawing_is_throttled():
    sizes = [1] * 400
    idle, busy = a_screen(terminal=True, clock=lambda: 0.0), a_screen(terminal=True, clock=ticking(1.0))
    for screen in (idle, busy):
        screen.stream(turn(["a " * 200], sizes))
    assert written(idle).count("\r") <= 2
    assert written(busy).count("\r") > 100


def test_both_rows_of_a_step_are_on_the_screen_when_it_ends():
    now = 0.0
    screen, terminal = a_screen(120, terminal=True, clock=lambda: now), Terminal(120, 24)
    seen = []

    def look(event: Event) -> None:
        nonlocal now
        if isinstance(event, Started):
            now += 1.0  # the model takes a second a step
        terminal.read(screen)
        if event == Delta(1, "lovely"):
            seen.append(terminal.lines[-1].split())

    screen.stream(watched([Started(TITLES), Delta(0, "mild"), Delta(1, "lovely")], look))
    assert seen == [["mild", "lovely"]]


def test_a_terminal_made_narrower_goes_on_with_narrower_columns_and_repeats_nothing():
    now = 0.0
    screen = a_screen(120, terminal=True, clock=lambda: now)
    terminal = Terminal(40, 24)  # as narrow from the start: long lines lie in it as in one that was made narrower

    def narrow(event: Event) -> None:
        nonlocal now
        if event in (Delta(0, "left3 "), Delta(0, "left4 ")):
            now += 1.0  # a redraw at 120 cells, then one at 40
        if event == Delta(0, "left4 "):
            screen.console.width = 40

    deltas = [Delta(row, f"{name}{n} ") for n in range(40) for row, name in enumerate(("left", "right"))]
    screen.stream(watched([Started(TITLES), *deltas], narrow))
    terminal.read(screen)
    words = [word for line in terminal.lines for word in line.split() if word.startswith(("left", "right"))]
    assert sorted(words) == sorted(f"{name}{n}" for n in range(40) for name in ("left", "right"))


@pytest.mark.parametrize(("finish", "note"), [("interrupted", "(stopped)"), ("length", "(max tokens)")])
def test_an_answer_that_did_not_end_says_why(finish: Finish, note):
    screen, lines = drawn()
    screen.stream(turn(["It is", "It is so"], finish=finish))
    assert f"It is {note}" in lines()
    assert f"It is so {note}" in lines()


def test_an_answer_without_text_says_so():
    screen, lines = drawn()
    screen.stream(turn(["\n\n", "fine"]))
    assert "(no text)" in lines()


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_what_came_before_an_error_stays_and_the_cursor_comes_back(error):
    def events() -> Iterator[Event]:
        yield Started(TITLES)
        yield Delta(0, "some text")
        yield Delta(1, "more text")
        raise error

    screen, terminal = a_screen(terminal=True, clock=lambda: 0.0), Terminal(80, 24)
    with pytest.raises(type(error)):
        screen.stream(events())
    terminal.read(screen)
    assert "some text" in terminal.lines
    assert "more text" in terminal.lines
    assert written(screen).rindex("\x1b[?25h") > written(screen).rindex("\x1b[?25l")
    assert terminal.emulated.cursor.x == 0


def test_a_notice_waits_until_the_answers_are_whole():
    screen, lines = drawn()
    events = [Started(("normal",)), Delta(0, "one "), Notice("context is full"), Delta(0, "two")]
    screen.stream([*events, Finished(0, answer("one two")), PairDone(a_pair("one two", None))])
    assert lines()[1:3] == ["one two", "  context is full"]


def test_an_answer_that_did_not_stream_is_drawn_when_it_is_finished():
    screen, lines = drawn()
    screen.stream([Started(TITLES), Finished(0, answer("kept")), Finished(1, answer("fresh"))])
    assert "kept" in lines()
    assert "fresh" in lines()


# Measures


def test_the_measures_line_says_all_that_is_known():
    pair = a_pair(effect=0.94, chance=(-0.2, 0.3), diverges_at=2, tokens_per_second=25.3)
    pair = replace(pair, normal=answer("a", perplexity=10.0), steered=answer("b", perplexity=16.0))
    screen, lines = drawn(120, verdict=lambda pair, advise: "clear, still fluent")
    screen.stream([PairDone(pair)])
    expected = (
        "  effect +0.9 (random pushes -0.2 .. +0.3)   cost x1.6   clear, still fluent   diverges at token 3   25 tok/s"
    )
    assert lines() == [expected.ljust(113) + "pair 12"]


def test_measures_that_are_unknown_are_left_out():
    screen, lines = drawn()
    screen.stream([PairDone(a_pair(id=None, diverges_at=4))])
    assert lines() == ["  diverges at token 5"]


def test_identical_answers_are_called_so():
    screen, lines = drawn()
    screen.stream([PairDone(a_pair("Same.", "Same.", id=None))])
    assert lines() == ["  identical answers"]


def test_measures_break_between_parts_on_a_narrow_screen():
    screen, lines = drawn(32)
    screen.stream([PairDone(a_pair(effect=-0.01, diverges_at=2, tokens_per_second=25.0))])
    assert lines() == ["  effect +0.0", "  diverges at token 3   25 tok/s", "  " + " " * 23 + "pair 12"]


# Values


def test_a_finished_pair_looks_as_it_did_when_it_streamed():
    live, whole = Terminal(120, 24), Terminal(120, 24)
    streamed, kept = a_screen(120, terminal=True), a_screen(120, terminal=True)
    texts = ["It is mild. " * 20, "It is lovely! " * 12]
    streamed.stream(turn(texts))
    kept.show(a_pair(texts[0], texts[1]))
    live.read(streamed)
    whole.read(kept)
    assert whole.lines[0] == "> How is it?"
    assert whole.lines[2:] == live.lines[1:]


def marked(pair: Pair, normal: str, steered: str) -> tuple[list[Mark], list[Mark]]:
    """The fourth word of both is where they part; the steered one has a counted word too."""
    return [Mark(8, 12, True)], [Mark(8, 13, True), Mark(14, 20)]


def test_where_answers_part_and_what_is_counted_is_marked_even_without_colour():
    screen, lines = drawn(marks=marked)
    screen.show(a_pair("It is a mild day.", "It is a truly lovely day."))
    assert "It is a _mild_ day." in lines()
    assert "It is a _truly_ *lovely* day." in lines()


def test_where_answers_part_is_underlined_and_what_is_counted_bold_on_a_terminal():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", _environ={})
    screen = Screen(console, marks=marked)
    screen.show(a_pair("It is a mild day.", "It is a truly lovely day."))
    assert "\x1b[4mmild\x1b[0m" in written(screen) and "\x1b[4mtruly\x1b[0m" in written(screen)
    assert "\x1b[1;35mlovely\x1b[0m" in written(screen)


def test_no_color_leaves_no_colour():
    environ = {"TERM": "xterm-256color", "NO_COLOR": "1"}
    console = Console(file=io.StringIO(), width=80, force_terminal=True, _environ=environ)
    screen = Screen(console)
    screen.error(SteerchatError("it broke", "mend it"))
    screen.show(a_pair())
    assert "\x1b[31m" not in written(screen)
    assert "35m" not in written(screen)


def test_an_error_is_two_lines():
    screen, lines = drawn()
    screen.show(SteerchatError("no concept called 'hapy'", "did you mean happy?"))
    assert lines() == ["  error: no concept called 'hapy'", "  did you mean happy?"]


def test_errors_of_the_program_go_to_standard_error_and_results_to_standard_output(capsys):
    screen = Screen()
    screen.error(SteerchatError("it broke"))
    screen.show("all is well")
    assert capsys.readouterr() == ("  all is well\n", "  error: it broke\n")


def test_force_color_moves_no_cursor_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    Screen().stream(turn(["one", "two"]))
    assert "\x1b" not in capsys.readouterr().out


def test_a_recipe_is_echoed_whole():
    screen, lines = drawn()
    more = HAPPY.add(Term((("sad", 0.7), ("calm", -0.3)), tuple(range(10, 19)), -1.5))
    screen.show(replace(more, scope="all", on=False))
    assert lines() == [
        "  happy at layer 16, strength 2.0: a push of 25% of that layer's typical length",
        "  sad:0.7,calm:-0.3 at layers 10-18, strength -1.5: a push of 2.1% of each",
        "layer's typical length".rjust(24),
        "  scope all: the prompt is pushed too",
        "  off for now; /steer on resumes it",
    ]


def test_a_turn_is_told_in_degrees():
    screen, lines = drawn()
    happy = (("happy", 1.0),)
    turns = (Term(happy, (16,), 2.0), Term((("sad", 1.0),), (3, 4), -2.0), Term(happy, (5,), 45.0))
    screen.show(Recipe(tuple(replace(term, operation="rotate") for term in turns)))
    assert lines() == [
        "  rotate happy at layer 16, strength 2.0: a turn by 14 degrees at that layer",
        "  rotate sad at layers 3-4, strength -2.0: a turn by 7.2 degrees at each layer",
        "  rotate happy at layer 5, strength 45.0: a turn by 322 degrees at that layer",
    ]


def test_what_is_written_at_another_strength_has_it_in_the_margin():
    screen, lines = drawn(40)
    words = [f"word{number:02} " for number in range(24)]
    shares = [1.0] * 8 + [1.25] * 8 + [0.0] * 4 + [1.0] * 4
    deltas = [Delta(0, word, share) for word, share in zip(words, shares, strict=True)]
    answer = Answer("".join(words), 24, "end")
    screen.stream([Started(("steered: happy",), strength=2.0), *deltas, Finished(0, answer)])
    assert lines()[1:] == [
        "word00 word01 word02 word03 word04",
        "word05 word06 word07 word08      │ 2.5",
        "word09 word10 word11 word12      │ 2.5",
        "word13 word14 word15 word16      │ 0.0",
        "word17 word18 word19 word20",
        "word21 word22 word23",
    ]


def test_a_gate_is_echoed_in_words():
    screen, lines = drawn()
    gate = Gate(Condition("sad", True, 1.0), first=20)
    screen.show(Recipe((Term((("sad", 1.0),), (3,), 1.0, "cap", gate),)))
    assert lines() == [
        "  cap sad at layer 3, level 1.0: no position lies further; only while the answer",
        "  so far scores more than 1 on sad, up to token 20",
    ]


def test_a_table_too_wide_for_the_screen_runs_on():
    screen, lines = drawn(20)
    screen.show(Table(["name", "what", "why"], [["happy", "joy and light", "because it can"], ["sad", "", "no"]]))
    assert lines() == ["  happy", "    joy and light", "    because it can", "  sad  no"]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (60, ["  concept excit   sad", "  happy    +1.2  -0.5", "  sad     -12.3  +3.4"]),
        (18, ["  concept exc sad", "  happy    +1  -1", "  sad     -12  +3"]),
        (14, ["  happy", "    +1.2  -0.5", "  sad  -12.3", "    +3.4"]),
    ],
)
def test_a_heat_map_rounds_its_numbers_on_a_narrow_screen(width, expected):
    screen, lines = drawn(width)
    screen.show(Matrix("", "concept", ["excited", "sad"], [("happy", [1.2, -0.51]), ("sad", [-12.3, 3.4])]))
    assert lines() == expected


def test_a_table_without_rows_says_so():
    screen, lines = drawn()
    screen.show(Table(["name"], [], empty="no concepts"))
    assert lines() == ["  no concepts"]


@pytest.mark.parametrize("width", [20, 60, 120])
def test_help_is_drawn_from_the_registry(width):
    registry = Registry()

    @registry.command("steer", examples=["/steer happy"], group="Steering")
    def steer(chat: object, *, very_long_option: bool = False) -> None:
        """Replaces the recipe that every later message is answered under.

        With nothing else it shows it.
        """

    screen, lines = drawn(width)
    screen.show(registry.help())
    screen.show(registry.help("steer"))
    text = " ".join(" ".join(lines()).split())
    assert text.startswith("Steering /steer")
    assert "With nothing else it shows it." in text
    assert text.endswith("Examples /steer happy")
    assert all(cell_len(line) <= width for line in lines())


def test_the_banner_fits_and_keeps_every_fact():
    for width in (20, 60, 120):
        screen, lines = drawn(width)
        screen.banner(
            "steerchat 0.1", ["SmolLM2", "30 layers", "cpu float32"], ["/help", "Ctrl-D quits"], ["Describe a city"]
        )
        text = " ".join(" ".join(lines()).split())
        assert text.startswith("steerchat 0.1 SmolLM2 30 layers cpu float32 /help Ctrl-D quits")
        assert text.endswith("Describe a city")
        assert all(cell_len(line) <= width for line in lines())


def test_nothing_is_drawn_for_none_and_the_unknown_is_refused():
    screen, lines = drawn()
    screen.show(None)
    assert lines() == []
    with pytest.raises(TypeError):
        screen.show(3.5)


# Long work


def test_progress_on_a_terminal_leaves_nothing_behind():
    screen, terminal = a_screen(40, terminal=True, clock=ticking(1.0)), Terminal(40, 10)
    seen = []

    def look(_: Event) -> None:
        terminal.read(screen)
        seen.append(terminal.lines)

    screen.stream(watched([Progress("loading", 5, 10), Progress("reading", 1, None), Notice("ready")], look))
    assert seen[0][0].startswith("  loading  ━━")
    assert seen[0][0].endswith(" 50%")
    assert seen[1:] == [["  reading ..."], ["  ready"]]


def test_progress_in_plain_mode_is_a_few_lines():
    screen, lines = drawn(clock=ticking(0.01))
    for done in range(1001):
        screen.show(Progress("fetching", done, 1000))
    assert lines()[0] == "  fetching ..."
    assert lines()[-1] == "  fetching: done"
    assert len(lines()) <= 12


def test_a_value_drawn_during_progress_takes_its_line():
    screen, terminal = a_screen(40, terminal=True), Terminal(40, 10)
    screen.show(Progress("loading", 5, 10))
    screen.show("all is well")
    terminal.read(screen)
    assert terminal.lines == ["  all is well"]


# Strips


def a_strip(column: Column, values: list[float], concept: str = "happy") -> Strip:
    return Strip(concept, column, ["x"] * len(values), values, 1.25)


def test_a_strip_is_a_mark_for_each_token_the_higher_the_more_of_the_concept():
    screen = a_screen(80, terminal=True)
    screen.show(Probed((a_strip("normal", [-1.0, 0.0, 1.0, 3.0, 9.0, -9.0]), a_strip("steered", [3.0], "sad"))))
    lines = [line.rstrip() for line in Text.from_ansi(written(screen)).plain.splitlines()]
    assert lines == ["  happy in normal  ▁▃▅██▁  +1.2", "  sad in steered   █  +1.2"]


def test_a_screen_without_the_marks_draws_others():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    screen = Screen(Console(file=file, width=80))
    screen.show(Probed((a_strip("normal", [-1.0, 0.0, 1.0, 3.0]),)))
    screen.show(Table(("", ""), [["1.0", "──░░│███"], ["2.0", "███·· +1.0"]]))
    shown = file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "--..|###" in shown and "###.. +1.0" in shown and " :=#  +1.2" in shown and "?" not in shown


@pytest.mark.parametrize("width", [30, 80, 120])
def test_a_strip_of_a_long_answer_fits_and_keeps_its_order(width: int):
    screen = a_screen(width)
    screen.show(Probed((a_strip("normal", [index / 250 - 1 for index in range(1000)]),)))
    [line] = written(screen).splitlines()
    assert cell_len(line) <= width
    marks = line.split("in normal")[1].split()[0]
    assert list(marks) == sorted(marks) and marks[0] != marks[-1]


def test_strips_of_a_hidden_column_are_hidden_and_follow_the_measures():
    strips = (a_strip("normal", [0.0, 1.0]), a_strip("steered", [0.0, 1.0]))
    screen = a_screen()
    screen.stream([*turn(["mild", "lovely"]), Probed(strips)], "steered")
    screen.stream([*turn(["mild"]), Probed(strips[:1])], "steered")
    first, _, second = written(screen).partition("happy in steered")
    assert first.index("lovely") < first.index("pair 12") and "happy in normal" not in first
    assert "happy in normal" in second  # an unsteered turn is shown in every view
