"""Experiments: outside the conversation, each also a subcommand of the shell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from ..arguments import Int, Option, Rest
from ..chat import Chat
from ..registry import command
from ..results import Event

_GROUP = "Experiments"


@command("compare", examples=["/compare Tell me about the weather", "/compare --repeats 5"], group=_GROUP, shell=True)
def compare(
    chat: Chat,
    prompt: Annotated[str, Rest("what to answer; the last message when left out")] = "",
    *,
    repeats: Annotated[int, Option("how many seeds", Int(least=1, most=200))] = 1,
    raw: Annotated[bool, Option("go on from the prompt itself, without the chat template")] = False,
) -> Iterator[Event]:
    """Answers a prompt normal and steered, outside the conversation."""
    return chat.session.compare(prompt or chat.session.last_prompt(), raw=raw, repeats=repeats)
