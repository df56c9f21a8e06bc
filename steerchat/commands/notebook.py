"""The notebook: what was logged, found again and judged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from ..conversation.chat import Chat
from ..conversation.rerun import fork, rerun, use
from ..screen.lines import when
from ..slash.arguments import Concept, Float, Int, Kind, Option, PairId
from ..slash.registry import command
from ..storage.records import SearchHit, StoredPair
from ..storage.store import Filters, Store
from ..values.errors import StoreError, UsageError, shorten
from ..values.page import Page, Shaded
from ..values.results import Event, Notice

_GROUP = "Notebook"
_DAYS = {"today": 0, "yesterday": 1}
_AGO = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Range(Kind):
    """Two numbers with dots between them, or one that is both."""

    meaning = "a strength, or from..to"
    metavar = "LOW..HIGH"

    def parse(self, text: str) -> tuple[float, float]:
        low, dots, high = text.partition("..")
        try:
            found = float(low), float(high if dots else low)
        except ValueError:
            found = (1.0, 0.0)
        if not found[0] <= found[1]:
            raise UsageError(f"{shorten(text, 20)!r} is not a range", "1..3, or one number")
        return found


class Since(Kind):
    """A day, or how long ago."""

    meaning = "how long ago, such as 2d, or a day"
    metavar = "TIME"

    def parse(self, text: str) -> datetime:
        words = text.strip().lower()
        today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        if words in _DAYS:
            return today - timedelta(days=_DAYS[words])
        ago = re.fullmatch(r"(\d{1,4}) ?(m|h|d|w|minutes?|hours?|days?|weeks?)(?: ago)?", words)
        if ago:
            return datetime.now().astimezone() - timedelta(**{_AGO[ago[2][0]]: int(ago[1])})
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(
                f"{shorten(text, 20)!r} is not a time", "use 30m, 12h, 2d, 1w, yesterday, or 2026-01-31"
            ) from None


@command(
    "history",
    examples=["/history", "/history 3", "/history --search weather", "/history --concept happy --since 2d"],
    group=_GROUP,
    shell=True,
    needs_model=False,
    exports=True,
)
def history(
    chat: Chat,
    pair: Annotated[int | None, PairId("a pair to show whole")] = None,
    *,
    search: Annotated[str, Option("only pairs with these words")] = "",
    concept: Annotated[str | None, Option("only pairs pushed towards it, alone or in a mix", Concept)] = None,
    layer: Annotated[int | None, Option("only pairs pushed at this layer", Int(least=0))] = None,
    strength: Annotated[tuple[float, float] | None, Option("only pairs pushed so hard", Range)] = None,
    min_effect: Annotated[float | None, Option("only pairs with at least this effect", Float)] = None,
    model: Annotated[str | None, Option("only this model's pairs, by the name that the history shows")] = None,
    since: Annotated[datetime | None, Option("only pairs from then on", Since)] = None,
    kind: Annotated[str | None, Option("only pairs of one kind: chat, compare, layers, strengths, mix ...")] = None,
    rated: Annotated[bool, Option("only pairs that you judged")] = False,
    session: Annotated[int | None, Option("only this session's pairs", Int(least=1))] = None,
    limit: Annotated[int, Option("how many", Int(least=1, most=100_000))] = 20,
    before: Annotated[int | None, Option("only pairs older than this one", PairId(metavar="ID"))] = None,
) -> Any:
    """Lists the pairs, newest first, or shows one whole. What filters are given must all hold.

    A search looks for every word in the prompt and both answers, and shows where it is. A full page ends with
    the option that gives the next one.
    """
    store = open_store(chat)
    if pair is not None:
        return store.pair(pair)
    filters = Filters(concept, layer, strength, min_effect, model, since, kind, rated or None, session)
    # One more than is shown says whether there is another page.
    if not search:
        found = store.pairs(filters, limit + 1, before)
        return _page(found, [one.to_json() for one in found[:limit]], limit, found[:limit])
    hits = store.search(search, filters, limit + 1, before)
    parts = [part for hit in hits[:limit] for part in _hit(hit)] or [Notice("Nothing has all of these words.")]
    return _page([hit.stored for hit in hits], [hit.to_json() for hit in hits[:limit]], limit, *parts)


def _page(found: Sequence[StoredPair], objects: Sequence[Mapping[str, Any]], limit: int, *parts: object) -> Page:
    more = [Notice(f"Older ones: --before {found[limit - 1].id}")] if len(found) > limit else []
    return Page([*parts, *more], objects)


def _hit(hit: SearchHit) -> list[object]:
    """A pair in a line, and under it where the words are."""
    pair = hit.stored.pair
    facts = [f"pair {pair.id}", when(hit.stored.created, datetime.now().astimezone()), str(pair.recipe)]
    facts += [f"effect {pair.effect:+.1f}"] if pair.effect is not None else []
    places = [Shaded([(f"{one.where}: ", 0), *one.pieces()]) for one in hit.excerpts]
    return [Notice("   ".join(facts)), *places]


@command("history rerun", examples=["/history rerun 1"], group=_GROUP, shell=True)
def history_rerun(chat: Chat, pair: Annotated[int, PairId("which", metavar="ID")]) -> Iterator[Event]:
    """Answers a pair again as it was: the same two texts, or what differs from then."""
    return rerun(chat.session, pair)


@command("history use", examples=["/history use 1"], group=_GROUP)
def history_use(chat: Chat, pair: Annotated[int, PairId("which", metavar="ID")]) -> list[object]:
    """Steers from now on as a pair was, with its settings and seed."""
    return use(chat.session, pair)


@command("history fork", examples=["/history fork 1"], group=_GROUP)
def history_fork(chat: Chat, pair: Annotated[int, PairId("which", metavar="ID")]) -> list[object]:
    """Goes on from a pair as a new conversation; the old one stays as it is."""
    return fork(chat.session, pair)


@command("history delete", examples=["/history delete 1 --yes"], group=_GROUP, shell=True, needs_model=False)
def history_delete(
    chat: Chat,
    pair: Annotated[int, PairId("which", metavar="ID")],
    *,
    yes: Annotated[bool, Option("without asking")] = False,
) -> str:
    """Deletes a pair from the history, with its answers and measures."""
    store = open_store(chat)
    prompt = shorten(store.pair(pair).pair.prompt)
    if not yes and not confirmed(chat, f"Delete pair {pair}, {prompt!r}?"):
        return f"Pair {pair} stays."
    store.delete_pair(pair)
    return f"Pair {pair} is deleted."


def confirmed(chat: Chat, question: str) -> bool:
    """Whether the user says yes. Raises UsageError when nobody is there to be asked."""
    if not chat.can_ask:
        raise UsageError("deleting asks first, and nobody is there to answer", "--yes says so on the line")
    return chat.ask(question, ["yes", "no"]) == "yes"


def open_store(chat: Chat) -> Store:
    """The history. Raises StoreError when this chat keeps none."""
    if chat.session.journal.store is None:
        raise StoreError("this chat is not logged", "the first lines said why")
    return chat.session.journal.store
