"""Verdicts of the user on pairs: /rate, /review (blind) and /stats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, cast

from ..conversation.chat import Chat
from ..slash.arguments import Int, PairId, Rest
from ..slash.registry import registry
from ..storage.pages import verdict_chart
from ..storage.ratings import Blind, agreement, asked_for, by_effect, by_recipe, rated_pairs, tally, unseen
from ..storage.records import Filters, Rating
from ..storage.store import Store
from ..values.errors import UsageError, shorten
from ..values.page import Page
from ..values.results import Event, Finished, Notice, Pair, Started, format_cost, format_effect
from .notebook import OnlyConcept, OnlyKind, OnlySession

command = partial(registry.command, group="Notebook")


@command("rate", examples=["/rate steered", "/rate 3 tie both were dull"])
def rate(chat: Chat, verdict: Annotated[str, Rest("[ID] steered|normal|tie [NOTE]")]) -> Notice:
    """Records which answer showed the concept, in your judgement: steered, normal or tie.

    Without an ID, the verdict is for the last pair that the screen showed. A new verdict replaces the old one.
    """
    store = chat.session.store
    first, _, rest = verdict.strip().partition(" ")
    number = first.removeprefix("#")
    if number.isdecimal():
        pair = PairId().parse(number)
        first, _, rest = rest.strip().partition(" ")
    elif chat.session.shown is not None and chat.session.shown.id is not None:
        pair = chat.session.shown.id
    else:
        raise UsageError("no pair was shown yet", "/rate 3 steered rates pair 3; /history lists the pairs")
    store.rate(pair, cast(Rating, first.lower()), rest.strip())
    return Notice(f"pair {pair}, {shorten(store.pair(pair).pair.prompt, 40)!r}: {first.lower()}")


@command("review", examples=["/review", "/review --concept happy"])
def review(
    chat: Chat,
    *,
    concept: OnlyConcept = None,
    kind: OnlyKind = None,
    session: OnlySession = None,
    limit: Annotated[int, Int("the most pairs to show", least=1, most=500)] = 10,
) -> Iterator[Event]:
    """Shows pairs that you have not rated, their answers unlabelled and in random order, and asks for a verdict.

    After each verdict it shows which answer was steered, and the measures. Ctrl-C ends it and keeps your verdicts.
    """
    store = chat.session.store
    if not chat.can_ask:
        raise UsageError("/review asks questions, and nobody is there to answer", "/rate 3 steered rates pair 3")
    pairs = unseen(store, Filters(concept=concept, kind=kind, session=session, rated=False), limit)
    return _review(chat, store, pairs)


def _review(chat: Chat, store: Store, pairs: Sequence[Blind]) -> Iterator[Event]:
    rated = 0
    for number, blind in enumerate(pairs, 1):
        pair = blind.stored.pair
        yield Notice(f"{number} of {len(pairs)}: {pair.prompt}")
        yield Started(("a", "b"))
        for row, answer in enumerate(blind.answers):
            yield Finished(row, answer)
        sides: dict[str, Rating] = {"a": blind.order[0], "b": blind.order[1], "tie": "tie"}
        shows = chat.ask(f"Which one is {asked_for(pair.recipe)}?", ("a", "b", "tie", "skip", "end"))
        if shows == "end":
            break
        if shows == "skip":
            continue
        reads = "end"  # also when the question is left
        try:
            reads = chat.ask("Which one reads better?", ("a", "b", "tie", "skip", "end"))
        finally:
            store.rate(blind.stored.id, sides[shows], reads_better=sides.get(reads), shown_first=blind.order[0])
        rated += 1
        yield Notice(_revealed(pair, "ab"[blind.order.index("steered")]))
        if reads == "end":
            break
    if pairs:
        yield Notice(f"{rated} rated. /stats shows how often the steered answer won.")
    else:
        yield Notice("No steered pair waits for a verdict. /steer happy and say something, or /compare --repeats 5.")


def _revealed(pair: Pair, steered: str) -> str:
    facts = [f"{steered} was steered: {pair.recipe}"]
    if pair.effect is not None:
        facts.append(f"effect {format_effect(pair.effect)}")
    if pair.perplexity_ratio is not None:
        facts.append(f"cost {format_cost(pair.perplexity_ratio)}")
    return "   ".join([*facts, f"pair {pair.id}"])


@command("stats", examples=["/stats", "/stats --concept happy"], shell=True, needs_model=False)
def stats(chat: Chat, *, concept: OnlyConcept = None, kind: OnlyKind = None, session: OnlySession = None) -> Page:
    """Shows how often you chose the steered answer, by setting and by measured effect."""
    rated = rated_pairs(chat.session.store, Filters(concept=concept, kind=kind, session=session, rated=True))
    if not rated:
        return Page([Notice("No steered pair has a verdict yet: /review shows some, /rate is for the last one.")])
    recipes = by_recipe(rated)
    every = tally("all", rated)
    blind = sum(stored.shown_first is not None for stored in rated)
    parts: list[object] = [verdict_chart(recipes, "recipe")]
    effects = by_effect(rated)
    if len(effects) > 1:
        parts.append(verdict_chart(effects, "measured effect"))
    low, high = every.range
    normal = every.judged - every.ties - every.steered
    parts.append(
        f"{every.judged} rated, {blind} of them blind: {every.steered} for the steered answer, {normal} for the "
        f"normal one, {every.ties} ties. The share of the steered answer is {100 * low:.0f}% to {100 * high:.0f}% "
        "(95% interval)."
    )
    agreeing, decided = agreement(rated)
    if decided:
        parts.append(f"The measured effect agrees with {agreeing} of {decided} verdicts.")
    objects = [{"by": "recipe", **row.to_json()} for row in recipes]
    return Page(parts, [*objects, *({"by": "effect", **row.to_json()} for row in effects)])
