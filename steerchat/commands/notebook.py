"""The notebook: what was logged."""

from __future__ import annotations

from typing import Annotated, Any

from ..arguments import Int, Option, PairId
from ..chat import Chat
from ..errors import StoreError
from ..registry import command
from ..store import Filters, Store

_GROUP = "Notebook"


@command("history", examples=["/history", "/history 3", "/history --search weather"], group=_GROUP, shell=True)
def history(
    chat: Chat,
    pair: Annotated[int | None, PairId("a pair to show whole")] = None,
    *,
    search: Annotated[str, Option("only pairs with these words")] = "",
    limit: Annotated[int, Option("how many", Int(least=1, most=100_000))] = 20,
) -> Any:
    """Lists the pairs, newest first, or shows one whole."""
    store = open_store(chat)
    if pair is not None:
        return store.pair(pair)
    if search:
        return [hit.stored for hit in store.search(search, limit=limit)]
    return store.pairs(Filters(), limit=limit)


def open_store(chat: Chat) -> Store:
    """The history. Raises StoreError when this chat keeps none."""
    if chat.session.journal.store is None:
        raise StoreError("this chat is not logged", "the first lines said why")
    return chat.session.journal.store
