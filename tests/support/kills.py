"""Chats that are killed at random moments: `python tests/support/kills.py FOLDER [KILLS]`; the suite does a few.

Each chat runs a script on the tiny model, all of them on one history, and is sent SIGKILL within a second or two.
After each the file must be sound and every pair that the screen called finished must be there, whole. The chats are
forks of one process, so that torch is imported once.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
import transformers  # noqa: F401  # before the forks
from rich.console import Console
from tiny import save_model, write_concepts

from steerchat import commands  # noqa: F401  # declares the commands
from steerchat.conversation.app import history_path
from steerchat.conversation.chat import Chat
from steerchat.screen.render import Screen
from steerchat.slash.registry import registry
from steerchat.storage.file import check
from steerchat.storage.store import Store
from steerchat.system import folders
from steerchat.system.settings import Settings
from steerchat.terminal.repl import run_script

SCRIPT = """
/steer happy 2 4.0
How are you?
And the weather?
/retry
/mix happy:0.5,sad:0.5 2 4.0
A mix?
/compare --repeats 3 Three seeds
/strengths --repeats 2 --tokens 4 --concept happy --layer 2 A sweep
/undo
/history rerun 1
/continue The meeting went
/rate steered
/new
""".strip().splitlines()
MOST_SECONDS = 2.5  # about as long as the script takes


def chat(model: Path, pipe: int) -> None:
    """The script, again and again, on the screen that the parent reads."""
    with os.fdopen(pipe, "w", encoding="utf-8") as out:
        screen = Screen(Console(file=out, width=100, color_system=None))
        settings = Settings(model=str(model), device="cpu", max_tokens=8)
        talk = Chat(settings, registry, screen.show).start()
        while run_script(talk, screen, SCRIPT):
            pass
        print("a line failed", file=out, flush=True)


def killed(model: Path, after: float) -> str:
    """What was on the screen of a chat that lived so many seconds."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            chat(model, write)
        finally:
            os._exit(1)
    os.close(write)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(read, encoding="utf-8", errors="replace") as screen:
        return screen.read()


def main(folder: Path, kills: int) -> None:
    os.environ["STEERCHAT_HOME"] = str(folder / "home")
    shipped = write_concepts(folder / "shipped")
    shutil.copy(folders.packaged("vectors") / "texts" / "lexicons.toml", shipped / "texts")
    folders.packaged = lambda name: shipped  # type: ignore[assignment]
    model = save_model(folder / "tiny")
    torch.set_num_threads(1)
    moments = random.Random(kills)
    shown: set[int] = set()
    for number in range(kills):
        text = killed(model, moments.uniform(0.0, MOST_SECONDS))
        assert "a line failed" not in text, text[-2000:]
        shown |= {int(found) for found in re.findall(r" pair (\d+)$", text, re.MULTILINE)}
        with Store.open(history_path()) as store:
            assert check(store.path) == [], f"after {number + 1} kills"
            there = {stored.id: stored for stored in store.chosen(sorted(shown))}
        assert there.keys() == shown, f"lost: {shown - there.keys()}"
        broken = [one for one in there.values() if one.status != "complete" or not one.pair.normal.text]
        assert not broken, broken
    with Store.open(history_path()) as store:
        pairs = store.pairs(limit=1_000_000)
    running = sum(one.status == "running" for one in pairs)
    stopped = sum(one.status == "interrupted" for one in pairs)
    assert not running
    print(f"{kills} kills: {len(shown)} pairs shown as finished, all there; {stopped} of {len(pairs)} interrupted")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
