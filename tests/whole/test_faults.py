"""No control codes on the screen or in files, no network calls, and Ctrl-C never breaks the prompt."""

from __future__ import annotations

import signal
import socket
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from monkey import Desk, Monkey, room
from tiny import ANSWERS, rows

from steerchat.conversation.app import history_path
from steerchat.engine.prompting import Prompter
from steerchat.terminal.repl import run_line

EVIL = [
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "\u202e",
    "[red]",
    "[/foo]",
    "<script>x()</script>",
    "\r",
    "\x08",
    "a",
]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A chat that nobody answers questions in, loaded."""
    with room(tmp_path) as model:
        desk = Desk(Monkey(0), model)
        desk.chat._ask = None
        desk.screen.console.width = 100
        desk.chat.settings.max_tokens = 20
        desk.chat.session.engine  # noqa: B018
        desk.take()
        yield desk
        desk.chat.close()


def say(desk: Desk, line: str) -> str:
    assert run_line(desk.chat, desk.screen, line), desk.take()
    return desk.take()


def obeyed(text: str) -> set[str]:
    """Characters that a terminal would obey instead of show."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cs", "Cf")}


@pytest.mark.slow
def test_a_model_that_sends_control_codes_moves_nothing(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def text(self: Prompter, ids: Sequence[int]) -> str:
        return "".join(EVIL[number % len(EVIL)] for number in ids)

    monkeypatch.setattr(Prompter, "text", text)
    say(desk, "/steer happy 2 4.0")
    shown = say(desk, "Well \x1b[31m\u202e?")
    assert "owned" in rows(history_path(), ANSWERS)[0]["normal"], "the model said nothing evil"
    for line in (
        "/history",
        "/history 1",
        "/history --search owned",
        "/why",
        "/probe happy",
        "/compare x",
        "/system \x1b[2J",
    ):
        shown += say(desk, line)
    for name in ("r.html", "r.md"):
        shown += say(desk, f"/report {name}")
        report = Path(name).read_text(encoding="utf-8")
        assert not {c for c in report if c not in "\n\t" and unicodedata.category(c) == "Cc"}
        assert "<script>x()" not in report
    assert obeyed(shown) == set()
    assert "[/foo]" in shown


@pytest.mark.slow
def test_nothing_is_called_in_a_start_a_chat_experiments_and_the_history(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def call(*args: object, **options: object) -> None:
        calls.append(args)
        raise OSError("no calls")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, call)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, call)
    desk.restart()
    for line in (
        "/steer happy 2 2.0",
        "Hello?",
        "/compare x",
        "/layers x",
        "/history",
        "/stats",
        "/model",
        "/report r.html",
    ):
        say(desk, line)
    assert calls == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="sends itself SIGINT")
@pytest.mark.parametrize("at", [1, 3, 6, 12])
def test_ctrl_c_twice_in_a_row_at_any_pass_leaves_a_chat_that_answers(desk: Desk, at: int) -> None:
    say(desk, "/steer happy 2 2.0")
    passes: list[int] = []

    def press(*args: object) -> None:
        passes.append(1)
        if len(passes) in (at, at + 1):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    handle = desk.chat.session.engine.blocks[0].register_forward_pre_hook(press)
    run_line(desk.chat, desk.screen, "One?")
    handle.remove()
    say(desk, "Two?")
    desk.whole()
    assert rows(history_path(), ANSWERS)[-1]["status"] == "complete"


@pytest.mark.slow
def test_a_disk_without_room_is_said_once_and_the_chat_goes_on(desk: Desk) -> None:
    store = desk.chat.session.journal.store
    assert store is not None
    say(desk, "One?")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    said = "".join(say(desk, "word " * 60 + str(number)) for number in range(40))
    said = " ".join(said.split())
    assert said.count("the disk is full") == 1 and "nothing is logged until this is fixed" in said
    desk.whole()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/steer happy 2 1e9", "exceeds 100"),
        ("/steer happy 2 nan", "finite number"),
        ("/set temperature -1", "from 0 to 5"),
        ("/set temperature 1e9", "from 0 to 5"),
        ("/set max-tokens 0", "from 1 to 100000"),
        ("/set max-tokens 1000000000", "from 1 to 100000"),
        ("/set seed 18446744073709551616", "from 0 to 9223372036854775807"),
        ("/mix happy:1e-320 2 1", "cancel out"),
        ("/compare --repeats 1000000 x", "at most"),
        (f"/compare --repeats {'9' * 400} x", "at most"),
        (f"/history --session {'9' * 400}", "error"),
        ("/report .", "ending"),
    ],
)
def test_numbers_out_of_bounds_are_told_what_the_bounds_are(desk: Desk, line: str, told: str) -> None:
    assert not run_line(desk.chat, desk.screen, line)
    assert told in desk.take()


@pytest.mark.slow
@pytest.mark.parametrize("strength", ["-0", "1e-30"])
def test_a_strength_of_nearly_nothing_steers_nothing(desk: Desk, strength: str) -> None:
    say(desk, f"/steer happy 2 {strength}")
    assert "identical answers" in say(desk, "Hello?")


def test_less_than_nothing_is_nothing(desk: Desk) -> None:
    assert "temperature is now 0.0" in say(desk, "/set temperature -0")


@pytest.mark.slow
def test_the_last_seed_there_is_is_followed_by_the_first(desk: Desk) -> None:
    say(desk, f"/set seed {2**63 - 1}")
    say(desk, "One?")
    say(desk, "Two?")
    assert [row["seed"] for row in rows(history_path(), ANSWERS)] == [2**63 - 1, 0]


def test_halves_of_characters_are_no_word_to_look_for(desk: Desk) -> None:
    assert not run_line(desk.chat, desk.screen, "/history --kind \udc80\udcff")
    assert "invalid Unicode" in desk.take()
