"""A shell and a chat on the tiny model, run in this process; the fixtures `shell` and `start` make them."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tiny import ANSWERS, rows

from steerchat import commands  # noqa: F401  # declares the commands
from steerchat.conversation.app import history_path
from steerchat.conversation.chat import Chat
from steerchat.screen.render import Screen
from steerchat.slash.registry import registry
from steerchat.system.settings import Settings
from steerchat.terminal import cli
from steerchat.terminal.repl import run_line

STEER = ("--steer", "happy 2 4.0")

Start = Callable[..., tuple[Chat, Screen]]


class Shell:
    """Runs command lines in this process, with the tiny model, in a home of their own."""

    def __init__(self, home: Path, model: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._model = model
        self._capsys = capsys
        self._patch = patch

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> tuple[str, str]:
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        own = ("--model", str(self._model), "--max-tokens", "6", "--device", "cpu")
        self._capsys.readouterr()
        found = cli.main([*own, *arguments])
        out, err = self._capsys.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out, err

    def json(self, *arguments: str, stdin: str = "") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*arguments, "--json", stdin=stdin)[0].splitlines()]


def shown(screen: Screen) -> str:
    assert isinstance(screen.console.file, io.StringIO)
    return screen.console.file.getvalue()


def say(chat: Chat, screen: Screen, line: str) -> str:
    """What one line puts on the screen."""
    screen.console.file = io.StringIO()
    run_line(chat, screen, line)
    return shown(screen)


def history() -> list[dict]:
    return rows(history_path(), ANSWERS)


def prepare_home(home: Path, model: Path, concepts: Iterable[str]) -> None:
    """Makes a home with what a chat with a model measures first: its profile, and the vectors of these concepts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERCHAT_HOME", str(home))
        chat = Chat(Settings(model=str(model), device="cpu"), registry).start()
        engine = chat.session.engine
        for name in concepts:
            chat.library.vector(name, engine)
        chat.session.calibration.profile(engine)
        chat.close()
    for leftover in home.glob("history.db*"):  # a copy begins without a history, as a first start does
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
