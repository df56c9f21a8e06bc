"""/history: list, search, show, rerun, use, fork and delete logged pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

from ..conversation.chat import Chat
from ..conversation.rerun import fork, rerun, use
from ..slash.arguments import Concept, Float, Int, Kind, PairId
from ..slash.registry import registry
from ..storage.pages import pair_page, pair_table, when
from ..storage.records import Filters, SearchHit
from ..values.errors import UsageError, shorten
from ..values.page import Page, Shaded
from ..values.results import Event, Notice, format_effect
from .asking import Yes, confirm

command = partial(registry.command, group="Notebook")
_DAYS = {"today": 0, "yesterday": 1}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_AGO = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Range(Kind):
    """Two numbers with dots between them, either of which may be left out, or a single number."""

    meaning = "a strength, or from..to"
    metavar = "LOW..HIGH"

    def parse(self, text: str) -> tuple[float, float]:
        low, dots, high = text.strip().partition("..")
        with suppress(ValueError):
            bounds = (float(low or "-inf"), float(high or "inf")) if dots else (float(low), float(low))
            if bounds[0] <= bounds[1] and (low or high):
                return bounds
        raise UsageError(f"{shorten(text, 20)!r} is not a range", "use 1..3, 1.. (1 and more), ..3, or one number")


class Since(Kind):
    """A date, or a time ago."""

    meaning = "a time ago, such as 2d, or a date"
    metavar = "TIME"

    def parse(self, text: str) -> datetime:
        words = text.strip().lower()
        if words == "last week":
            words = "1w"
        today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        if words in _DAYS:
            return today - timedelta(days=_DAYS[words])
        if words in _WEEKDAYS:
            return today - timedelta(days=(today.weekday() - _WEEKDAYS.index(words)) % 7)
        ago = re.fullmatch(r"(\d{1,4}) ?(m|h|d|w|minutes?|hours?|days?|weeks?)(?: ago)?", words)
        if ago:
            return datetime.now().astimezone() - timedelta(**{_AGO[ago[2][0]]: int(ago[1])})
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(
                f"{shorten(text, 20)!r} is not a time", "use 30m, 12h, 2d, 1w, yesterday, monday, or 2026-01-31"
            ) from None


OnlyConcept = Annotated[str | None, Concept("only pairs steered with this concept, alone or in a mix")]
OnlyKind = Annotated[str | None, "only pairs of this kind: chat, compare, layers, strengths, mix ..."]
OnlySession = Annotated[int | None, Int("only pairs of this session", least=1)]
_Pair = Annotated[int, PairId("the pair")]


@command(
    "history",
    examples=["/history", "/history 3", "/history --search weather", "/history --concept happy --since 2d"],
    shell=True,
    needs_model=False,
    exports=True,
)
def history(
    chat: Chat,
    pair: Annotated[int | None, PairId("a pair to show in full")] = None,
    *,
    search: Annotated[str, "only pairs that contain these words"] = "",
    concept: OnlyConcept = None,
    layer: Annotated[int | None, Int("only pairs steered at this layer", least=0)] = None,
    strength: Annotated[tuple[float, float] | None, Range("only pairs steered with this strength")] = None,
    min_effect: Annotated[float | None, Float("only pairs with at least this effect")] = None,
    model: Annotated[str | None, "only pairs of this model, as the history names it"] = None,
    since: Annotated[datetime | None, Since("only pairs since this time")] = None,
    kind: OnlyKind = None,
    rated: Annotated[bool, "only pairs that you rated"] = False,
    session: OnlySession = None,
    limit: Annotated[int, Int("the most pairs to list", least=1, most=100_000)] = 20,
    before: Annotated[int | None, PairId("only pairs older than this pair")] = None,
) -> Page:
    """Lists the pairs, newest first, or shows one in full. A listed pair passes all filters.

    A search looks for every word in the prompt and both answers, and shows the places. A full page ends with the
    option that lists the next one.
    """
    store = chat.session.store
    if pair is not None:
        return pair_page(store.pair(pair))
    filters = Filters(concept, layer, strength, min_effect, model, since, kind, rated or None, session)
    # One pair more than the page shows tells whether there is a next page.
    if search:
        hits = store.search(search, filters, limit + 1, before)
        ids, objects = [hit.stored.id for hit in hits], [hit.to_json() for hit in hits[:limit]]
        parts: list[object] = [part for hit in hits[:limit] for part in _hit_lines(hit)]
        parts = parts or [Notice("No pair contains all of these words.")]
    else:
        pairs = store.pairs(filters, limit + 1, before)
        ids, objects = [stored.id for stored in pairs], [stored.to_json() for stored in pairs[:limit]]
        parts = [pair_table(pairs[:limit], filtered=filters != Filters() or before is not None)]
    if len(ids) > limit:
        parts.append(Notice(f"Older pairs: --before {ids[limit - 1]}"))
    return Page(parts, objects)


def _hit_lines(hit: SearchHit) -> list[object]:
    """A pair in a line, and under it the places of the words."""
    pair = hit.stored.pair
    facts = [f"pair {pair.id}", when(hit.stored.created), str(pair.recipe)]
    facts += [f"effect {format_effect(pair.effect)}"] if pair.effect is not None else []
    places = [Shaded([(f"{excerpt.where}: ", 0), *excerpt.pieces()]) for excerpt in hit.excerpts]
    return [Notice("   ".join(facts)), *places]


@command("history rerun", examples=["/history rerun 1"], shell=True)
def history_rerun(chat: Chat, pair: _Pair) -> Iterator[Event]:
    """Repeats a pair: gives the same two texts, or says what differs."""
    return rerun(chat.session, pair)


@command("history use", examples=["/history use 1"])
def history_use(chat: Chat, pair: _Pair) -> list[object]:
    """Takes over the recipe, settings and seed of a pair."""
    return use(chat.session, pair)


@command("history fork", examples=["/history fork 1"])
def history_fork(chat: Chat, pair: _Pair) -> list[object]:
    """Continues from a pair as a new conversation; the old one is unchanged."""
    return fork(chat.session, pair)


@command("history delete", examples=["/history delete 1 --yes"], shell=True, needs_model=False)
def history_delete(chat: Chat, pair: _Pair, *, yes: Yes = False) -> str:
    """Deletes a pair from the history, with its answers and measures."""
    store = chat.session.store
    prompt = shorten(store.pair(pair).pair.prompt)
    if not confirm(chat, f"Delete pair {pair}, {prompt!r}?", "--yes", yes):
        return f"Pair {pair} stays."
    store.delete_pair(pair)
    return f"Pair {pair} is deleted."
