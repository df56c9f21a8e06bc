"""Trouble with the history is reported, in the toolbar too, and the chat goes on."""

from __future__ import annotations

import io
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chats import Start, say, shown
from places import ROOT, SUPPORT
from prompt_toolkit.formatted_text import to_plain_text
from rich.console import Console

from steerchat.conversation.app import history_path
from steerchat.conversation.chat import Chat
from steerchat.screen.render import Screen
from steerchat.slash.registry import registry
from steerchat.storage.file import check
from steerchat.storage.migrations import MIGRATIONS
from steerchat.storage.store import Store
from steerchat.system.folders import write_whole
from steerchat.system.settings import Settings
from steerchat.terminal import repl
from steerchat.values.errors import SteerchatError


def not_sqlite(path: Path) -> None:
    path.write_text("A shopping list, named like a database. " * 100)


def another_programs(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipes (soup TEXT)")
    db.close()


def newer(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()


def a_folder(path: Path) -> None:
    path.mkdir()


def toolbar(chat: Chat) -> str:
    return to_plain_text(repl._toolbar(chat, 100))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message", "hint"),
    [
        (not_sqlite, "it is not a SQLite file", "move it away and start again"),
        (another_programs, "is another program's database", "move it away and start again"),
        (newer, "was written by a newer steerchat", "pip install -U steerchat"),
        (a_folder, "it cannot be opened", "STEERCHAT_HOME"),
    ],
)
def test_a_history_that_cannot_be_used_is_told_before_anything_is_said(
    start: Start, spoil: Callable[[Path], None], message: str, hint: str
):
    first, _ = start()
    path = history_path()
    first.close()
    for file in path.parent.glob("history.db*"):
        if file.is_file():
            file.unlink()
    spoil(path)
    screen = Screen(Console(file=io.StringIO(), width=100, color_system=None))
    chat = Chat(Settings(model=first.settings.model, device="cpu", max_tokens=4), registry, screen.show)
    told = " ".join(shown(screen).split())
    assert message in told and "this chat is not logged" in told and hint in told
    chat.start()
    assert "NOT LOGGED" in toolbar(chat)
    assert "─ normal" in say(chat, screen, "How are you?")
    for line in ("/history", "/session", "/stats", "/history rerun 1", "/session resume"):
        assert re.search("error: (this chat is not|nothing is) logged", say(chat, screen, line))
    chat.close()


def test_a_sound_history_has_its_pairs_counted_in_the_toolbar(start: Start):
    chat, screen = start()
    say(chat, screen, "How are you?")
    assert "1 logged" in toolbar(chat) and "NOT" not in toolbar(chat)


FULL_DISK = """
import io, os, resource, sys
from pathlib import Path
import torch
from prompt_toolkit.formatted_text import to_plain_text
from rich.console import Console
from tiny import save_model, write_concepts
from steerchat import commands
from steerchat.system import folders
from steerchat.terminal import repl
from steerchat.conversation.chat import Chat
from steerchat.system.settings import Settings
from steerchat.slash.registry import registry
from steerchat.screen.render import Screen

torch.set_num_threads(1)
folder = Path(sys.argv[1])
os.environ["STEERCHAT_HOME"] = str(folder / "home")
shipped = write_concepts(folder / "shipped")
folders.packaged = lambda name: shipped
model = save_model(folder / "tiny")
screen = Screen(Console(width=100, color_system=None))
chat = Chat(Settings(model=str(model), device="cpu", max_tokens=8), registry, screen.show).start()
repl.run_line(chat, screen, "/steer happy 2 4.0")
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
for number in range(60):
    assert repl.run_line(chat, screen, f"Number {number}?")
    repl.run_line(chat, screen, "/new")
    print("TOOLBAR", to_plain_text(repl._toolbar(chat, 100)), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
print("ROOM")
assert repl.run_line(chat, screen, "Number 60?")
print("TOOLBAR", to_plain_text(repl._toolbar(chat, 100)), flush=True)
chat.close()
"""


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a limit on file sizes stands in for a full disk, and Windows has none")
def test_a_disk_that_fills_up_in_mid_chat_is_told_and_the_chat_goes_on(tmp_path: Path):
    process = run(FULL_DISK, tmp_path)
    out = process.stdout
    assert process.returncode == 0, process.stderr
    assert out.count("Traceback") == 0
    text = " ".join(out.split())  # without the line breaks of wrapped sentences
    full, room = text.split("ROOM")
    before, *_ = full.split("nothing is logged until this is fixed")
    assert "NOT LOGGED" not in before and full.count("NOT LOGGED") > 5 and "NOT LOGGED" not in room
    assert text.count("the history can be written again") == text.count("nothing is logged until this is fixed")
    assert out.count("─ steered: happy") == 61
    finished = {int(found) for found in re.findall(r" pair (\d+)$", out, re.MULTILINE)}
    with Store.open(tmp_path / "home" / "history.db") as store:
        complete = {stored.id for stored in store.pairs(limit=100) if stored.status == "complete"}
        assert complete >= finished and len(finished) > 2
        assert check(store.path) == []


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_chats_killed_at_random_moments_lose_nothing_that_was_shown_as_finished(tmp_path: Path):
    command = [sys.executable, str(SUPPORT / "kills.py"), str(tmp_path), "6"]
    process = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("6 kills: ")


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT)]), "PYTHONIOENCODING": "utf-8"}


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        ("<&-", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("| head -c 1", 0, ""),
        ("--json > /dev/full", 1, "the output cannot be read or written: No space left on device"),
        ("> /dev/full", 1, "the output cannot be read or written"),
    ],
)
def test_streams_that_are_closed_or_full_are_no_traceback(tmp_path: Path, redirection: str, code: int, told: str):
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("needs a device that is always full")
    line = f"exec '{sys.executable}' -m steerchat config {redirection}"
    settings = {**environment(), "STEERCHAT_HOME": str(tmp_path)}
    process = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=settings)
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr and "steerchat failed" not in process.stderr
    assert told in " ".join(process.stderr.split())


def test_a_file_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path):
    for place in (Path(), tmp_path, tmp_path / "file" / "under a file"):
        (tmp_path / "file").touch()
        with pytest.raises(SteerchatError, match="cannot be written") as caught:
            write_whole(place, b"x")
        assert "name another file" in caught.value.hint
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
