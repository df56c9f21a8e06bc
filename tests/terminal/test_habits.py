"""What people do at a terminal beside typing messages: resize it, suspend the chat, type ahead, read through a pipe."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pyte
import pytest
from places import ROOT

pseudo_terminal = pytest.importorskip("pseudo_terminal")  # not on Windows
Terminal, chat_line = pseudo_terminal.Terminal, pseudo_terminal.chat_line
pytestmark = [pytest.mark.subprocess, pytest.mark.slow]


@pytest.fixture
def home(tmp_path: Path, deep_home: Path) -> Path:
    return shutil.copytree(deep_home, tmp_path / "home")


def pairs(home: Path) -> list[tuple[str, str, str]]:
    """Prompt, status and normal answer of each pair."""
    [path] = home.rglob("history.db")
    with sqlite3.connect(path) as db:
        query = "SELECT prompt, status, text FROM pairs JOIN answers ON answers.id = normal_id ORDER BY pairs.id"
        return db.execute(query).fetchall()


def screen(columns: int, text: str) -> list[str]:
    """The lines that a terminal shows after this output."""
    shown = pyte.Screen(columns, 200)
    pyte.Stream(shown).feed(text)
    return [line.rstrip() for line in shown.display]


def test_a_terminal_that_is_resized_in_an_answer_gets_the_rest_at_its_new_width(deep: Path, home: Path) -> None:
    terminal = Terminal(chat_line(deep, 300), home, columns=120)
    try:
        terminal.wait("Ctrl-D quits")
        terminal.send(b"/steer happy 2 4.0\r")
        terminal.wait("typical length")
        terminal.send(b"How are you?\r")
        terminal.wait("steered: happy")
        terminal.resize(60)
        terminal.wait("pair 1")
        terminal.send(b"/set\r")
        page = terminal.wait("max-tokens") + terminal.wait("temperature")
    finally:
        terminal.close()
    assert max(map(len, screen(200, page))) <= 60
    [(prompt, status, _)] = pairs(home)
    assert (prompt, status) == ("How are you?", "complete")


def test_a_chat_that_is_suspended_goes_on_where_it_stood(deep: Path, home: Path) -> None:
    terminal = Terminal(["bash", "--norc", "-i"], home, PS1="shell$ ")
    try:
        terminal.wait("shell$ ")
        terminal.send(" ".join(chat_line(deep, 300)).encode() + b"\r")
        terminal.wait("Ctrl-D quits")
        # At the prompt the keys are the program's own, from when it lets the terminal mark pastes.
        terminal.wait("\x1b[?2004h")
        terminal.send(b"Hello")
        terminal.wait("Hello")
        terminal.send(b"\x1a")
        terminal.wait("Stopped")
        terminal.send(b"fg\r")
        terminal.wait("view both")
        terminal.send(b" there\r")
        terminal.wait("normal")
        # In an answer they are the terminal's, and the shell leaves it modes of its own.
        terminal.send(b"\x1a")
        terminal.wait("Stopped")
        terminal.wait("shell$ ")
        terminal.send(b"stty echo icanon; fg\r")
        terminal.wait("--max-tokens")  # the shell says what goes on
        terminal.wait("\x1b[?2004h")
        terminal.send(b"/set seed 5\r")
        assert "/set seed" not in terminal.wait("pair 1")
        terminal.wait("/set seed")
        terminal.send(b"/quit\r")
        terminal.wait("shell$ ")
        terminal.send(b"echo code=$?\r")
        terminal.wait("code=0")
    finally:
        terminal.close()
    [(prompt, status, text)] = pairs(home)
    assert (prompt, status) == ("Hello there", "complete") and text


def test_a_line_typed_while_an_answer_streams_waits_on_the_prompt(deep: Path, home: Path) -> None:
    terminal = Terminal(chat_line(deep, 300), home)
    try:
        terminal.wait("Ctrl-D quits")
        terminal.send(b"How are you?\r")
        terminal.wait("normal")
        terminal.send(b"and half of it")
        terminal.wait("pair 1")
        terminal.wait("and half of it")
        terminal.send(b", then the rest\r")
        terminal.wait("pair 2")
    finally:
        terminal.close()
    assert [prompt for prompt, _, _ in pairs(home)] == ["How are you?", "and half of it, then the rest"]


@pytest.mark.parametrize("way", ["dumb", "no colour", "file", "head"])
def test_output_that_is_no_usual_terminal_has_no_control_codes(way: str, deep: Path, home: Path) -> None:
    line = [*chat_line(deep, 12), "compare", "How are you?", "--steer", "happy:2:4.0"]
    if way in ("dumb", "no colour"):
        terminal = Terminal(line, home, **({"TERM": "dumb"} if way == "dumb" else {"NO_COLOR": "1"}))
        try:
            shown = terminal.wait("pair 1")
        finally:
            terminal.close()
        assert "How are you?" in shown or "normal" in shown
        assert "\x1b" not in shown if way == "dumb" else "\x1b[3" not in shown
        return
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STEERCHAT_HOME": str(home), "TERM": "xterm-256color"}
    command = f"{' '.join(map(repr, line))} {'> said.txt' if way == 'file' else '| head -n 1 > said.txt'}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = (home / "said.txt").read_text(encoding="utf-8")
    assert said.strip() and "\x1b" not in said and "Traceback" not in done.stderr
    assert (done.returncode == 0 and "pair 1" in said) if way == "file" else len(said.splitlines()) == 1


def test_a_menu_keeps_its_columns_whatever_the_script(deep: Path, home: Path) -> None:
    said = {
        "zha": "今天天气怎么样 end",
        "zhb": "مرحبا بالعالم end",
        "zhc": "สวัสดีชาวโลก end",
        "zhd": "🙂 ok end",
        "zhe": "plain end",
    }
    (home / "concepts").mkdir(exist_ok=True)
    for name, description in said.items():
        example = '[[examples]]\npositive = "I am glad."\nnegative = "I am here."\n'
        text = f'name = "{name}"\nkind = "emotion"\ndescription = "{description}"\n{example}'
        (home / "concepts" / f"{name}.toml").write_text(text, encoding="utf-8")
    terminal = Terminal(chat_line(deep, 12), home, columns=100)
    try:
        terminal.wait("Ctrl-D quits")
        terminal.wait("\x1b[?2004h")
        terminal.send(b"/steer zh")
        shown = terminal.wait("plain end")
    finally:
        terminal.close()
    emulated = pyte.Screen(100, 40)
    pyte.Stream(emulated).feed(shown + "plain end")
    rows = [row for y in range(40) if (row := emulated.buffer[y]) and "zh" in "".join(row[x].data for x in range(30))]
    beginnings = {next(x for x in range(12, 100) if row[x].data.strip()) for row in rows[1:]}
    assert len(rows) == 1 + len(said) and len(beginnings) == 1
