"""Figures in the scrollback, in a pseudo-terminal that answers as terminals do."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from places import ROOT
from rich.console import Console

from steerchat.screen.render import Screen
from steerchat.terminal import images
from steerchat.terminal.images import Images, Terminal, ask
from steerchat.values.chart import Chart, Picture, Series

CHART = Chart("dose", "strength", ["1", "2"], [Series("effect", [1.0, 2.0], rest=0.0)], at=[1.0, 2.0])
KITTY = "\x1bP>|kitty(0.40.0)\x1b\\\x1b[6;20;10t\x1b[?62;c"
XTERM = "\x1bP>|XTerm(390)\x1b\\\x1b[6;15;7t\x1b[?64;1;2;4;6;9c"
PLAIN = "\x1b[?62;22c"


@contextmanager
def a_terminal(answer: str, monkeypatch: pytest.MonkeyPatch, typed: str = "") -> Iterator[list[str]]:
    """A terminal that answers once to what it is asked, and what it was asked; `typed` comes before the answer."""
    master, slave = pty.openpty()
    asked: list[str] = []

    def terminal() -> None:
        asked.append(os.read(master, 1000).decode())
        os.write(master, (typed + answer).encode())

    with os.fdopen(slave, "r+b", buffering=0) as end, io.TextIOWrapper(end, write_through=True) as text:
        monkeypatch.setattr(sys, "stdin", text)
        monkeypatch.setattr(sys, "stdout", text)
        monkeypatch.setenv("TERM", "xterm-256color")
        thread = threading.Thread(target=terminal, daemon=True)
        thread.start()
        yield asked
        monkeypatch.undo()
    os.close(master)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (KITTY, Terminal("kitty", (10, 20))),
        (KITTY.replace("kitty(0.40.0)", "ghostty 1.1"), Terminal("kitty", (10, 20))),
        ("\x1bP>|iTerm2 3.5.10\x1b\\\x1b[?62;4c", Terminal("iterm2")),
        (XTERM, Terminal("sixel", (7, 15))),
        ("\x1bP>|tmux 3.4\x1b\\\x1b[6;0;0t\x1b[?1;2;4c", Terminal("sixel")),
        ("\x1b[?4c", Terminal("sixel")),
        (PLAIN, Terminal(None)),
        ("\x1bP>|foot(1.20)\x1b\\\x1b[?62;14;24c", Terminal(None)),  # 14 and 24 are no 4
    ],
)
def test_a_terminal_is_what_it_says(answer: str, expected: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_terminal(answer, monkeypatch) as asked:
        assert ask() == expected
    assert asked == ["\x1b[>q\x1b[16t\x1b[c"]


def test_what_is_typed_meanwhile_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[str] = []
    with a_terminal(XTERM, monkeypatch, typed="hello"):
        assert ask(typed.append).protocol == "sixel"
    assert typed == ["hello"]


def test_a_terminal_that_says_nothing_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_PATIENCE", 0.01)
    show = Images(lambda: True, lambda: (80, 24))
    with a_terminal("", monkeypatch) as asked:
        assert show(CHART) is None and show(CHART) is None
    assert len(asked) == 1


def test_nothing_is_asked_where_no_image_can_be_or_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ask", lambda typed: pytest.fail("asked"))
    assert Images(lambda: False, lambda: (80, 24))(CHART) is None
    monkeypatch.setenv("TERM", "dumb")
    assert Images(lambda: True, lambda: (80, 24))(CHART) is None
    monkeypatch.undo()
    assert ask() == Terminal(None)  # standard output is no terminal here


def test_a_screen_shows_the_image_or_the_text_and_a_pipe_never_gets_a_sequence() -> None:
    def shown(image: str | None, force_terminal: bool = False) -> str:
        console = Console(file=io.StringIO(), width=80, color_system=None, force_terminal=force_terminal)
        Screen(console, images=lambda drawn: image).show(Picture(CHART))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    text = shown(None)
    assert "strength" in text and "\x1b" not in text
    assert shown("\x1b_Gimage\x1b\\\n") == text
    assert shown("\x1b_Gimage\x1b\\\n", force_terminal=True).endswith("\x1b_Gimage\x1b\\\n")
    assert "strength" in shown(None, force_terminal=True)


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("answer", "off", "starts"), [(KITTY, False, True), (PLAIN, False, False), (KITTY, True, False)]
)
def test_the_program_draws_what_the_terminal_can_show(answer: str, off: bool, starts: bool, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = '{"concept": "happy", "method": "%s", "gain": [1, 0, 2], "specificity": [1, 0, 2], "cost": 1.5, "right": 0.5}'
    rows.write_text("\n".join(row % method for method in ("add", "rotate")))
    master, slave = pty.openpty()
    environment = os.environ | {
        "STEERCHAT_HOME": str(tmp_path),
        "TERM": "xterm",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "80",
    }
    environment |= {"STEERCHAT_IMAGES": "off"} if off else {}
    command = [sys.executable, "-m", "steerchat", "plot", "methods", "--rows", str(rows)]
    program = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, env=environment)
    os.close(slave)
    seen, answered = b"", False
    while True:
        try:
            seen += os.read(master, 1 << 16)
        except OSError:  # the program has ended
            break
        if not answered and b"\x1b[c" in seen:
            os.write(master, answer.encode())
            answered = True
    assert program.wait() == 0
    os.close(master)
    assert answered != off
    assert (b"\x1b_Ga=T" in seen) == starts and (b"specific" in seen) != starts
