"""The live dial: keys in a pseudo-terminal that change the strength of an answer while it streams."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pseudo_terminal import Terminal, chat_line

UP, DOWN, STOP = b"\x1b[1;3A", b"\x1b[1;3B", b"\x1b0"


def answers(home: Path) -> list[dict[str, Any]]:
    [path] = home.rglob("history.db")
    with sqlite3.connect(path) as db:
        db.row_factory = sqlite3.Row
        query = "SELECT kind, token_ids, dial FROM pairs JOIN answers ON answers.id = steered_id ORDER BY pairs.id"
        return [dict(row) | {"dial": json.loads(row["dial"])} for row in db.execute(query)]


@pytest.mark.slow
@pytest.mark.subprocess
def test_keys_turn_the_strength_of_what_is_still_to_come_and_a_rerun_turns_it_at_the_same_tokens(
    tmp_path: Path, deep: Path, deep_home: Path
) -> None:
    # Deep enough that an answer takes longer than a person who presses three keys.
    home = shutil.copytree(deep_home, tmp_path / "home")
    terminal = Terminal(chat_line(deep, 400), home)
    try:
        terminal.wait("Ctrl-D quits")
        terminal.send(b"/set view steered\r")
        terminal.wait("view")
        terminal.send(b"/steer happy 2 4.0\r")
        terminal.wait("typical length")
        terminal.send(b"How are you?\r")
        terminal.wait("steered: happy")
        for keys, strength in ((UP, "5.0"), (STOP, "0.0"), (UP + UP + DOWN, "1.0")):
            terminal.send(keys)
            terminal.wait(f"│ {strength}")
        terminal.send(b"/why\r")  # typed ahead, for the next prompt
        terminal.wait("pair 1")
        terminal.wait("The dial was turned: x1.25 from token")
        terminal.send(b"/history rerun 1\r")
        terminal.wait("token for token")
    finally:
        terminal.close()
    first, again = answers(home)
    assert [share for _, share in first["dial"]] == [1.25, 0.0, 0.25]
    tokens = [token for token, _ in first["dial"]]
    assert tokens == sorted(set(tokens)) and 0 <= tokens[0] < tokens[-1] < 400
    assert again["kind"] == "rerun" and (again["token_ids"], again["dial"]) == (first["token_ids"], first["dial"])


@pytest.mark.slow
@pytest.mark.subprocess
def test_what_is_pasted_while_an_answer_streams_is_one_message_at_the_next_prompt(
    tmp_path: Path, deep: Path, deep_home: Path
) -> None:
    home = shutil.copytree(deep_home, tmp_path / "home")
    terminal = Terminal(chat_line(deep, 200), home)
    pasted = "erste Zeile\nzweite 天气 Zeile\n/quit\nlast"
    try:
        terminal.wait("Ctrl-D quits")
        terminal.send(b"/set view steered\r")
        terminal.wait("view")
        terminal.send(b"/steer happy 2 4.0\r")
        terminal.wait("typical length")
        terminal.send(b"How are you?\r")
        terminal.wait("\x1b[?2004l")  # the prompt is over; a terminal marks a paste only when it is told to
        assert "\x1b[?2004h" in terminal.wait("steered: happy")
        mark = b"\x1b[200~", b"\x1b[201~"
        terminal.send(mark[0] + pasted.replace("\n", "\r").encode() + mark[1])
        terminal.wait("pair 1")
        terminal.send(b"\r")
        terminal.wait("pair 2")
        # A hundred kilobytes, of which the end comes after the answer has begun.
        terminal.send(b"Again\r")
        terminal.wait("steered: happy")
        terminal.send(mark[0] + b"word " * 20_000 + mark[1])
        terminal.wait("pair 3")
        terminal.send(b"\r")
        terminal.wait("tokens and the model holds")
    finally:
        terminal.close()
    [path] = home.rglob("history.db")
    with sqlite3.connect(path) as db:
        prompts = [prompt for (prompt,) in db.execute("SELECT prompt FROM pairs ORDER BY id")]
    assert prompts == ["How are you?", pasted, "Again"]
