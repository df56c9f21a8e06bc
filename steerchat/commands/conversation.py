"""/new, /retry, /undo, /edit, /continue, /system: the turns of the conversation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated

from ..conversation.chat import Chat
from ..slash.arguments import Choice, Rest
from ..slash.registry import registry
from ..values.errors import shorten
from ..values.results import Event
from ..values.text import counted

command = partial(registry.command, group="Conversation")


@command("new", examples=["/new"], aliases=["reset", "clear"])
def new(chat: Chat) -> str:
    """Begins a new conversation; the recipe stays."""
    session = chat.session
    had_turns = bool(session.turns)
    old = session.new()
    note = (
        f" The old one is session {old}; /session resume {old} continues it." if had_turns and old is not None else ""
    )
    return f"A new conversation.{note} Steering stays: {session.recipe}."


@command("retry", examples=["/retry", "/retry same"])
def retry(
    chat: Chat, how: Annotated[str, Choice("same", meaning="with the same seed and recipe")] = ""
) -> Iterator[Event]:
    """Answers the last message again, with a new seed or the same one."""
    return chat.session.retry(same=how == "same")


@command("undo", examples=["/undo"])
def undo(chat: Chat) -> str:
    """Takes back the last message and its answers."""
    turn = chat.session.undo()
    return f"Taken back: {shorten(turn.prompt)!r}. {counted(len(chat.session.turns), 'turn')} left."


@command("edit", examples=["/edit", "/edit Tell me about the sea"])
def edit(chat: Chat, text: Annotated[str, Rest("the new message")] = "") -> Iterator[Event] | None:
    """Replaces the last message and answers it; without a text, puts the last message on the line for editing."""
    if not text:
        chat.editing = chat.session.undo().prompt
        return None
    return chat.session.edit(text)


@command("continue", examples=["/continue The meeting went"])
def carry_on(chat: Chat, text: Annotated[str, Rest("the text to continue")]) -> Iterator[Event]:
    """Continues a text, without the chat template."""
    return chat.session.carry_on(text)


@command("system", examples=["/system You answer in one sentence.", "/system"])
def system(chat: Chat, text: Annotated[str | None, Rest("the system message; off removes it")] = None) -> str:
    """Sets the system message, or shows it."""
    if text:
        chat.session.system = "" if text.lower() in ("off", "clear", "-") else text
    system = chat.session.system
    return f"System message: {system}   (/system off removes it)" if system else "No system message is set."
