"""/session: list, resume and delete the conversations of the history."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated

from ..conversation.chat import Chat
from ..conversation.rerun import resume
from ..slash.arguments import Int, SessionId
from ..slash.registry import registry
from ..storage.pages import when
from ..values.page import Page, Table
from ..values.text import counted
from .asking import Yes, confirm

command = partial(registry.command, group="Notebook")


@command(
    "session",
    examples=["/session", "/session --limit 5"],
    aliases=["sessions", "session list"],
    shell=True,
    needs_model=False,
)
def session(chat: Chat, *, limit: Annotated[int, Int("the most sessions to list", least=1, most=100_000)] = 20) -> Page:
    """Lists the conversations, newest first, each with its title, model and pairs."""
    sessions = chat.session.store.sessions(limit)
    own = chat.session.journal.session_id
    rows = [
        (
            str(stored.id),
            when(stored.started),
            stored.title + (" (this one)" if stored.id == own else ""),
            stored.model,
            str(stored.pairs),
        )
        for stored in sessions
    ]
    table = Table(
        ("id", "when", "title", "model", "pairs"),
        rows,
        right=frozenset({0, 4}),
        empty="no conversation yet; type a message to begin one",
    )
    return Page([table], [asdict(stored) for stored in sessions])


@command("session resume", examples=["/session resume", "/session resume 1"])
def session_resume(
    chat: Chat, session: Annotated[int | None, SessionId("the session; by default the last one")] = None
) -> list[object]:
    """Continues a conversation, with its turns, its system message and its last recipe."""
    return resume(chat.session, session)


@command("session delete", examples=["/session delete 1 --yes"], shell=True, needs_model=False)
def session_delete(chat: Chat, session: Annotated[int, SessionId("the session")], *, yes: Yes = False) -> str:
    """Deletes a conversation from the history, with all of its pairs and experiments."""
    store = chat.session.store
    stored = store.session(session)
    question = f"Delete session {session}, {stored.title!r}, with {counted(stored.pairs, 'pair')}?"
    if not confirm(chat, question, "--yes", yes):
        return f"Session {session} stays."
    own = session == chat.session.journal.session_id
    if own:
        chat.session.new()
    store.delete_session(session)
    return f"Session {session} is deleted." + (" This is a new conversation." if own else "")
