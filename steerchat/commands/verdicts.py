"""What a person made of pairs: /rate, /review without knowing which is which, /stats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, cast

from ..conversation.chat import Chat
from ..slash.arguments import Concept, Int, Option, PairId, Rest
from ..slash.registry import command
from ..storage.records import Filters, Verdict
from ..storage.store import Store
from ..storage.verdicts import Blind, Tally, agreement, asked_for, by_effect, by_recipe, tally, unseen
from ..values.errors import UsageError, shorten
from ..values.page import Page, Table
from ..values.results import Event, Finished, Notice, Pair, Started
from ..values.text import fit
from .notebook import open_store

_GROUP = "Notebook"
_CELLS = 10  # of a bar
_MOST = 100_000  # judged pairs that are counted


@command("rate", examples=["/rate steered", "/rate 3 tie both were dull"], group=_GROUP)
def rate(chat: Chat, verdict: Annotated[str, Rest("[ID] steered|normal|tie [NOTE]")]) -> Notice:
    """Notes which answer showed the concept, in your own judgement: steered, normal or tie.

    Without a number it is the last pair whose two answers were shown. A later verdict replaces an earlier one.
    """
    store = open_store(chat)
    first, _, rest = verdict.strip().partition(" ")
    number = first.removeprefix("#")
    if number.isdecimal():
        pair = PairId().parse(number)
        first, _, rest = rest.strip().partition(" ")
    elif chat.session.shown is not None and chat.session.shown.id is not None:
        pair = chat.session.shown.id
    else:
        raise UsageError("there is no pair to judge yet", "/rate 3 steered judges pair 3; /history lists them")
    store.rate(pair, cast(Verdict, first.lower()), rest.strip())
    return Notice(f"pair {pair}, {shorten(store.pair(pair).pair.prompt, 40)!r}: {first.lower()}")


@command("review", examples=["/review", "/review --concept happy"], group=_GROUP)
def review(
    chat: Chat,
    *,
    concept: Annotated[str | None, Option("only pairs pushed towards it", Concept)] = None,
    kind: Annotated[str | None, Option("only pairs of one kind: chat, compare, layers ...")] = None,
    session: Annotated[int | None, Option("only this session's pairs", Int(least=1))] = None,
    limit: Annotated[int, Option("how many", Int(least=1, most=500))] = 10,
) -> Iterator[Event]:
    """Shows pairs that you have not judged, both answers unlabelled and in random order, and asks about them.

    Which is which, and what was measured, is told after your verdict. Ctrl-C ends it; what was judged is kept.
    """
    store = open_store(chat)
    if not chat.can_ask:
        raise UsageError("a review asks questions, and nobody is there to answer", "/rate 3 steered judges pair 3")
    pairs = unseen(store, Filters(concept=concept, kind=kind, session=session, rated=False), limit)
    return _review(chat, store, pairs)


def _review(chat: Chat, store: Store, pairs: Sequence[Blind]) -> Iterator[Event]:
    judged = 0
    for number, blind in enumerate(pairs, 1):
        pair = blind.stored.pair
        yield Notice(f"{number} of {len(pairs)}: {pair.prompt}")
        yield Started(("a", "b"))
        for row, answer in enumerate(blind.answers):
            yield Finished(row, answer)
        sides: dict[str, Verdict] = {"a": blind.order[0], "b": blind.order[1], "tie": "tie"}
        shows = chat.ask(f"Which one is {asked_for(pair.recipe)}?", ("a", "b", "tie", "skip", "end"))
        if shows == "end":
            break
        if shows == "skip":
            continue
        reads = chat.ask("Which one reads better?", ("a", "b", "tie"))
        store.rate(blind.stored.id, sides[shows], reads_better=sides[reads], shown_first=blind.order[0])
        judged += 1
        yield Notice(_revealed(pair, "ab"[blind.order.index("steered")]))
    yield Notice(_after(judged, len(pairs)))


def _revealed(pair: Pair, steered: str) -> str:
    facts = [f"{steered} was steered: {pair.recipe}"]
    if pair.effect is not None:
        facts.append(f"effect {pair.effect:+.1f}")
    if pair.perplexity_ratio is not None:
        facts.append(f"cost x{pair.perplexity_ratio:.1f}")
    return "   ".join([*facts, f"pair {pair.id}"])


def _after(judged: int, shown: int) -> str:
    if not shown:
        return "No steered pair waits to be judged. /steer happy and say something, or /compare --repeats 5."
    return f"{judged} judged. /stats shows how often the steered answer was the one."


@command("stats", examples=["/stats", "/stats --concept happy"], group=_GROUP, shell=True, needs_model=False)
def stats(
    chat: Chat,
    *,
    concept: Annotated[str | None, Option("only pairs pushed towards it", Concept)] = None,
    kind: Annotated[str | None, Option("only pairs of one kind: chat, compare, layers ...")] = None,
    session: Annotated[int | None, Option("only this session's pairs", Int(least=1))] = None,
) -> Page:
    """Shows how often the steered answer was judged to show the concept, by setting and by measured effect."""
    filters = Filters(concept=concept, kind=kind, session=session, rated=True)
    judged = [one for one in open_store(chat).pairs(filters, limit=_MOST) if one.pair.steered is not None]
    if not judged:
        return Page([Notice("No steered pair was judged yet: /review shows some, /rate judges the last one.")])
    recipes = by_recipe(judged)
    every = tally("all", judged)
    blind = sum(one.shown_first is not None for one in judged)
    parts: list[object] = [
        _table("steered", recipes),
        Notice("The bar is how often the steered answer was the one, ties left out; | is one in two, as by guessing."),
    ]
    effects = by_effect(judged)
    if len(effects) > 1:
        parts.append(_table("measured effect", effects))
    low, high = every.range
    normal = every.judged - every.ties - every.steered
    parts.append(
        f"{every.judged} judged, {blind} of them blind: {every.steered} for the steered answer, {normal} for the "
        f"normal one, ties {every.ties}. So few leave its share between {100 * low:.0f}% and {100 * high:.0f}% (95%)."
    )
    agreeing, decided = agreement(judged)
    if decided:
        parts.append(f"The measured effect agrees with {agreeing} of {decided} verdicts.")
    objects = [{"by": "recipe", **one.to_json()} for one in recipes]
    return Page(parts, [*objects, *({"by": "effect", **one.to_json()} for one in effects)])


def _table(heading: str, rows: Sequence[Tally]) -> Table:
    return Table(
        (heading, "shows it", "ties", "reads better", "effect"),
        [
            (
                fit(one.label, 30),
                _share(one),
                str(one.ties),
                f"{one.reads} of {one.compared}" if one.compared else "",
                "" if one.effect is None else f"{one.effect:+.1f}",
            )
            for one in rows
        ],
        right=frozenset({2, 3, 4}),
    )


def _share(one: Tally) -> str:
    """A bar from 0 to all, with the half marked, and the figures."""
    decided = one.judged - one.ties
    if not decided:
        return "only ties"
    line = ("#" * round(one.share * _CELLS)).ljust(_CELLS, ".")
    return f"{line[: _CELLS // 2]}|{line[_CELLS // 2 :]} {one.steered} of {decided}"
