"""Pairs as a history holds them, made without a model."""

from __future__ import annotations

from dataclasses import replace

from steerchat.storage.records import Origin
from steerchat.storage.store import Store
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import Answer, Pair

HAPPY = Recipe((Term((("happy", 1.0),), (16,), 2.0),))


def asked(prompt: str = "Tell me about the weather", recipe: Recipe = HAPPY, **more) -> Pair:
    """A pair before its first token."""
    return Pair(None, prompt, "smollm2", recipe, 7, **more)


def origin(**more) -> Origin:
    return Origin(fingerprint="abc", **more)


def answered(pair: Pair, normal: str = "It rains.", steered: str | None = "What glorious rain!", **more) -> Pair:
    return replace(
        pair,
        normal=Answer(normal, 3, "end", 10.0, 0.1, 0.0, (1, 2, 3)),
        steered=None if steered is None else Answer(steered, 4, "length", 15.0, 1.1, 0.25, (1, 2, 9, 9)),
        **more,
    )


def log(store: Store, prompt: str = "Tell me about the weather", recipe: Recipe = HAPPY, **more) -> int:
    texts = {name: more.pop(name) for name in ("normal", "steered", "effect") if name in more}
    place = {name: more.pop(name) for name in ("raw", "layer", "strength") if name in more}
    pair = asked(prompt, recipe, **place)
    pair_id = store.begin_pair(pair, origin(**more))
    store.finish_pair(pair_id, answered(pair, **texts))
    return pair_id
