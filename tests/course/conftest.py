"""Fixtures of the course: a chat with all that ships, and a folder with a lesson of one's own."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chats import Start
from lessons import LESSON
from rich.console import Console

from steerchat.conversation.chat import Chat
from steerchat.screen.render import Screen
from steerchat.slash.registry import registry
from steerchat.system.settings import Settings


@pytest.fixture
def start(tmp_path: Path, tiny_folder: Path, shipped_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts chats with the tiny model and all that ships, in a home of their own."""
    monkeypatch.setenv("STEERCHAT_HOME", str(shutil.copytree(shipped_home, tmp_path / "home")))
    chats: list[Chat] = []

    def begin(lessons: Path | str = "shipped", **changes) -> tuple[Chat, Screen]:
        screen = Screen(Console(file=io.StringIO(), width=100, color_system=None))
        settings = Settings(
            **{"model": str(tiny_folder), "device": "cpu", "max_tokens": 4, "lessons": str(lessons), **changes}
        )
        chat = Chat(settings, registry, screen.show).start()
        chats.append(chat)
        return chat, screen

    yield begin
    for chat in chats:
        chat.close()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "lessons"
    folder.mkdir()
    (folder / "pushing.md").write_text(LESSON, encoding="utf-8")
    return folder
