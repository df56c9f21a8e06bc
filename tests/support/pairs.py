"""Pairs as a history holds them, made without a model."""

from __future__ import annotations

from steerchat.storage.records import PairRecord
from steerchat.storage.store import Store
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import Answer, Pair

HAPPY = Recipe((Term((("happy", 1.0),), (16,), 2.0),))


def record(prompt: str = "Tell me about the weather", recipe: Recipe = HAPPY, **more) -> PairRecord:
    return PairRecord(prompt=prompt, recipe=recipe, seed=7, model="smollm2", fingerprint="abc", **more)


def result(rec: PairRecord, normal: str = "It rains.", steered: str | None = "What glorious rain!", **more) -> Pair:
    return Pair(
        id=None,
        prompt=rec.prompt,
        model=rec.model,
        recipe=rec.recipe,
        seed=rec.seed,
        normal=Answer(normal, 3, "end", 10.0, 0.1, 0.0, (1, 2, 3)),
        steered=None if steered is None else Answer(steered, 4, "length", 15.0, 1.1, 0.25, (1, 2, 9, 9)),
        raw=rec.raw,
        layer=rec.layer,
        strength=rec.strength,
        **more,
    )


def log(store: Store, prompt: str = "Tell me about the weather", recipe: Recipe = HAPPY, **more) -> int:
    texts = {name: more.pop(name) for name in ("normal", "steered", "effect") if name in more}
    rec = record(prompt, recipe, **more)
    pair_id = store.begin_pair(rec)
    store.finish_pair(pair_id, result(rec, **texts))
    return pair_id
