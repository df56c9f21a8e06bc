"""How `/history` shows stored pairs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from steerchat.storage.pages import pair_page, pair_table, when
from steerchat.storage.records import Filters, Origin
from steerchat.storage.store import Store
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import Answer, Notice, Pair

HAPPY = Recipe((Term((("happy", 1.0),), (16,), 2.0),))
NOW = datetime(2026, 5, 20, 18, 0, tzinfo=UTC)


def log(store: Store, recipe: Recipe = HAPPY, kind: str = "chat", effect: float | None = 0.94) -> int:
    pair = Pair(None, "Tell me about Norway " * 5, "SmolLM2", recipe, 7)
    pair_id = store.begin_pair(pair, Origin(fingerprint="a fingerprint", kind=kind))
    steered = Answer("It is lovely.", 3, "end") if recipe.active else None
    answered = replace(pair, normal=Answer("It is mild.", 3, "end"), steered=steered, effect=effect)
    store.finish_pair(pair_id, answered, "interrupted" if effect is None and recipe.active else "complete")
    return pair_id


def test_the_table_has_a_column_for_what_differs_between_the_pairs(tmp_path: Path):
    with Store.open(tmp_path / "history.db") as store:
        log(store, Recipe(), effect=None)
        log(store, effect=None)
        plain = pair_table(store.pairs(), NOW)
        log(store, kind="layers")
        store.mark_undone([log(store)])
        store.rate(3, "steered")
        table = pair_table(store.pairs(Filters(undone=True)))
    assert plain.headings == ["id", "when", "prompt", "recipe", "effect", "cost"]
    assert table.headings == ["id", "when", "kind", "prompt", "recipe", "rated", "effect", "cost"]
    assert [(row[0], row[2], row[4], row[5], row[6]) for row in table.rows] == [
        ("4", "chat", "happy 16 x 2.0", "", "undone"),
        ("3", "layers", "happy 16 x 2.0", "steered", "+0.9"),
        ("2", "chat", "happy 16 x 2.0", "", "stopped"),
        ("1", "chat", "-", "", ""),
    ]
    assert table.dim == {0} and table.right == {0, 6, 7}
    assert all(len(row[3]) <= 60 for row in table.rows)


def test_an_empty_history_says_what_to_do():
    assert pair_table([]).empty.startswith("no pairs yet; type a message")


def test_a_stored_pair_is_shown_under_its_origin(tmp_path: Path):
    with Store.open(tmp_path / "history.db") as store:
        stored = store.pair(log(store, effect=None))
    page = pair_page(stored)
    assert page.parts[1] == stored.pair and page.objects == [stored.to_json()]
    assert page.parts[0] == Notice(f"pair 1   {when(stored.created)}   SmolLM2   seed 7   stopped")


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        ("2026-05-20T14:03:00.000Z", "today 14:03"),
        ("2026-05-19T23:59:00.000Z", "yesterday 23:59"),
        ("2026-01-02T00:00:00.000Z", "2026-01-02"),
        ("another program's", "another program's"),
    ],
)
def test_a_time_is_given_by_the_day_while_it_is_recent(created: str, shown: str):
    assert when(created, NOW) == shown
