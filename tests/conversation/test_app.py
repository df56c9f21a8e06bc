"""One set of parts for the chat, the shell and Python: several conversations on one model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import finish

from steerchat.conversation.app import App
from steerchat.system.settings import Settings
from steerchat.values.recipe import parse_term

LINES = ("How are you?", "Why?", "What is rain?")


@pytest.mark.slow
def test_conversations_of_one_app_do_not_disturb_each_other(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))

    def app() -> App:
        return App(Settings(model=str(tiny_folder), device="cpu", max_tokens=6)).start()

    def said(*steered: str) -> list[list[tuple[str, int]]]:
        """What conversations with these terms answer by turns, and how many positions each answer computed."""
        shared = app()
        conversations = [shared.conversation() for _ in steered]
        for conversation, term in zip(conversations, steered, strict=True):
            conversation.steer([parse_term(term)])
        answers: list[list[tuple[str, int]]] = [[] for _ in steered]
        for line in LINES:
            for conversation, own in zip(conversations, answers, strict=True):
                before = shared.engine().passes.positions
                pair = finish(conversation.say(f"{line} {len(own)}"))
                assert pair.steered is not None
                own.append((pair.normal.text + pair.steered.text, shared.engine().passes.positions - before))
        return answers

    terms = ("happy 2 4.0", "sad 1 -4.0")
    together, alone = said(*terms), [said(term)[0] for term in terms]
    assert [[text for text, _ in own] for own in together] == [[text for text, _ in own] for own in alone]
    # Later turns go on from what a conversation kept: its own contexts, or another's with the same beginning.
    for own, single in zip(together, alone, strict=True):
        assert all(count <= most for (_, count), (_, most) in zip(own[1:], single[1:], strict=True))
