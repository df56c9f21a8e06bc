"""The conversation itself: new, again, back, further."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from ..conversation.chat import Chat
from ..slash.arguments import Choice, Rest
from ..slash.registry import command
from ..values.results import Event

_GROUP = "Conversation"


@command("new", examples=["/new"], group=_GROUP, aliases=["reset", "clear"])
def new(chat: Chat) -> str:
    """Begins a new conversation; the recipe stays."""
    session = chat.session
    had = bool(session.turns)
    old = session.new()
    where = f" The old one is session {old}; /session resume {old} brings it back." if had and old is not None else ""
    return f"A new conversation.{where} Steering stays: {session.recipe}."


@command("retry", examples=["/retry", "/retry same"], group=_GROUP)
def retry(
    chat: Chat, how: Annotated[str, Choice("same", meaning="with the same seed and recipe")] = ""
) -> Iterator[Event]:
    """Answers the last message again, freshly or with the same seed."""
    return chat.session.retry(same=how == "same")


@command("undo", examples=["/undo"], group=_GROUP)
def undo(chat: Chat) -> str:
    """Takes the last message and its answers back."""
    turn = chat.session.undo()
    left = len(chat.session.turns)
    return f"Taken back: {turn.user[:60]!r}. {left} {'turn' if left == 1 else 'turns'} left."


@command("edit", examples=["/edit", "/edit Tell me about the sea"], group=_GROUP)
def edit(chat: Chat, text: Annotated[str, Rest("the message to say instead")] = "") -> Iterator[Event] | None:
    """Changes the last message and answers it again; alone, puts it on the line to be changed."""
    if not text:
        chat.editing = chat.session.undo().user
        return None
    return chat.session.edit(text)


@command("continue", examples=["/continue The meeting went"], group=_GROUP)
def carry_on(chat: Chat, text: Annotated[str, Rest("what the model goes on from")]) -> Iterator[Event]:
    """Carries a text on itself, without the chat template."""
    return chat.session.carry_on(text)


@command("system", examples=["/system You answer in one sentence.", "/system"], group=_GROUP)
def system(chat: Chat, text: Annotated[str | None, Rest("the system message; - takes it away")] = None) -> str:
    """Sets the system message, or shows it."""
    if text:
        chat.session.system = "" if text == "-" else text
    return f"System message: {chat.session.system}" if chat.session.system else "No system message of yours."
