"""/session: the conversations of the history."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

from ..conversation.chat import Chat
from ..conversation.rerun import resume as go_on_with
from ..screen.lines import when
from ..slash.arguments import Int, Option, SessionId
from ..slash.registry import command
from ..values.page import Page, Table
from .notebook import confirmed, open_store

_GROUP = "Notebook"


@command("session", examples=["/session"], group=_GROUP)
def session(chat: Chat) -> Page:
    """Lists the conversations, newest first."""
    return session_list(chat)


@command("session list", examples=["/session list --limit 5"], group=_GROUP, shell=True, needs_model=False)
def session_list(chat: Chat, *, limit: Annotated[int, Option("how many", Int(least=1, most=100_000))] = 20) -> Page:
    """Lists the conversations, newest first, each with its title, model and pairs."""
    found = open_store(chat).sessions(limit)
    now = datetime.now().astimezone()
    own = chat.session.journal.session_id
    titles = [one.title + (" (this one)" if one.id == own else "") for one in found]
    rows = [
        (str(one.id), when(one.started, now), title, one.model, str(one.pairs))
        for one, title in zip(found, titles, strict=True)
    ]
    table = Table(
        ("id", "when", "title", "model", "pairs"),
        rows,
        right=frozenset({0, 4}),
        empty="no conversation yet; type a message to begin one",
    )
    return Page([table], [asdict(one) for one in found])


@command("session resume", examples=["/session resume", "/session resume 1"], group=_GROUP)
def session_resume(
    chat: Chat, session: Annotated[int | None, SessionId("which; the last one when left out")] = None
) -> list[object]:
    """Goes on with a conversation: its turns, its system message, and how it was steered last."""
    return go_on_with(chat.session, session)


@command("session delete", examples=["/session delete 1 --yes"], group=_GROUP, shell=True, needs_model=False)
def session_delete(
    chat: Chat,
    session: Annotated[int, SessionId("which")],
    *,
    yes: Annotated[bool, Option("without asking")] = False,
) -> str:
    """Deletes a conversation from the history, with all of its pairs and experiments."""
    store = open_store(chat)
    one = store.session(session)
    pairs = f"{one.pairs} pair{'' if one.pairs == 1 else 's'}"
    if not yes and not confirmed(chat, f"Delete session {session}, {one.title!r}, with {pairs}?"):
        return f"Session {session} stays."
    own = session == chat.session.journal.session_id
    if own:
        chat.session.new()
    store.delete_session(session)
    return f"Session {session} is deleted." + (" This is a new conversation." if own else "")
