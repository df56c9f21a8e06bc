"""Blind reviews of pairs, and the statistics of the verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from chats import Shell, Start, history, say, shown
from pairs import HAPPY, log

from steerchat.storage.ratings import agreement, asked_for, by_effect, by_recipe, tally, unseen
from steerchat.storage.records import Filters
from steerchat.storage.store import Store
from steerchat.values.errors import Interrupted
from steerchat.values.recipe import Recipe, parse_parts
from steerchat.values.recipe import Term as RecipeTerm


def term(what: str, strength: float, operation: str = "add") -> RecipeTerm:
    return RecipeTerm(parse_parts(what), (2,), strength, operation)  # type: ignore[arg-type]


def test_the_question_follows_what_was_pushed():
    assert asked_for(Recipe((term("happy", 2.0),))) == "more happy"
    assert asked_for(Recipe((term("happy:1,sad:-1", 2.0),))) == "more happy and less sad"
    assert asked_for(Recipe((term("happy", -2.0), term("sad", 0.0, "ablate")))) == "less happy and less sad"


@pytest.mark.slow
def test_a_review_shows_nothing_of_which_is_which_before_the_verdict_and_keeps_the_order(start: Start):
    seen: list[tuple[str, str]] = []

    def ask(question: str, choices: Sequence[str]) -> str:
        seen.append((question, shown(screen)))
        return "b" if "reads" in question else "a"

    chat, screen = start(ask)
    say(chat, screen, "/view steered")
    say(chat, screen, "/steer happy 2 6.0")
    for number in range(16):
        say(chat, screen, f"Prompt {number}?")
    say(chat, screen, "/steer random 2 6.0")
    say(chat, screen, "not to be asked about")
    text = say(chat, screen, "/review --limit 12")
    rated = {row["id"]: row for row in history() if row["rating"]}
    assert len(seen) == 24 and len(rated) == 12
    for index, (question, before) in enumerate(seen):
        page = before[before.rindex(" of 12: ") :]
        assert question == ("Which one is more happy?", "Which one reads better?")[index % 2]
        assert "─ a ─" in page and "─ b ─" in page
        assert not any(word in page for word in ("steered", "normal", "effect", "cost", "pair"))
    assert {row["shown_first"] for row in rated.values()} == {"steered", "normal"}  # chance of one alone: 1 in 2048
    for row in rated.values():
        page = text[text.index(row["prompt"]) :]
        first = page[page.index("─ a ─") : page.index("─ b ─")]
        assert row[row["shown_first"]].split()[0] in first
        assert row["rating"] == row["shown_first"] != row["reads_better"]
    assert text.count("was steered: happy 2 x 6.0   effect") == 12 and "not to be asked" not in text
    assert "12 rated. /stats" in text


@pytest.mark.slow
def test_a_review_skips_ends_and_keeps_what_was_judged_when_it_is_stopped(start: Start):
    answers: list[str] = []

    def ask(question: str, choices: Sequence[str]) -> str:
        assert all(answer in choices for answer in answers[:1])
        if not answers:
            raise Interrupted("the question")
        return answers.pop(0)

    chat, screen = start(ask)
    assert "No steered pair waits" in say(chat, screen, "/review")
    say(chat, screen, "/steer happy 2 6.0")
    for prompt in ("One?", "Two?", "Three?"):
        say(chat, screen, prompt)
    answers[:] = ["skip", "tie", "tie", "end"]
    assert "1 rated" in say(chat, screen, "/review")
    answers[:] = ["a", "tie"]
    say(chat, screen, "/review")  # stopped at the second one
    assert sorted(row["rating"] is None for row in history()) == [False, False, True]
    assert {row["reads_better"] for row in history() if row["rating"]} == {"tie"}
    answers[:] = ["a"]  # and in the middle of a pair, whose first verdict stays
    say(chat, screen, "/review")
    assert not [row for row in history() if row["rating"] is None]
    assert [row["reads_better"] for row in history()].count(None) == 1
    silent, screen = start()
    assert "nobody is there" in say(silent, screen, "/review")


def judged(store: Store, verdict: str, effect: float, recipe: Recipe = HAPPY, blind: bool = False) -> None:
    number = log(store, recipe=recipe, effect=effect)
    first = "steered" if blind else None
    store.rate(number, verdict, reads_better="normal" if blind else None, shown_first=first)  # type: ignore[arg-type]


def test_verdicts_add_up_by_setting_and_by_effect(store: Store):
    strong = Recipe((term("happy", 4.0),))
    for verdict, effect in (("steered", 1.5), ("steered", 0.5), ("normal", -0.5), ("tie", 0.2)):
        judged(store, verdict, effect)
    judged(store, "steered", 9.0, strong, blind=True)
    log(store, effect=5.0)
    pairs = store.pairs(Filters(rated=True))
    first, second = by_recipe(pairs)
    assert (second.label, second.judged, second.steered, second.ties) == (str(HAPPY), 4, 2, 1)
    assert second.share == pytest.approx(2 / 3) and second.effect == pytest.approx(0.425)
    assert (first.judged, first.reads, first.compared, first.effect) == (1, 0, 1, 9.0)
    assert [(one.label, one.judged) for one in by_effect(pairs)] == [
        ("below 0", 1),
        ("0 to 1", 2),
        ("1 to 2", 1),
        ("4 or more", 1),
    ]
    assert agreement(pairs) == (4, 4)
    only_ties = tally("", [one for one in pairs if one.rating == "tie"])
    assert only_ties.share == 0.5 and only_ties.range == (0.0, 1.0)


def test_the_range_is_wilsons(store: Store):
    for number in range(10):
        judged(store, "steered" if number < 8 else "normal", 1.0)
    low, high = tally("", store.pairs(Filters(rated=True))).range
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # as published for 8 of 10


def test_what_cannot_be_told_apart_or_named_is_not_reviewed(store: Store):
    log(store, normal="the same", steered="the same")
    log(store, recipe=Recipe(), steered=None)
    log(store, recipe=Recipe((term("random", 2.0),)))
    log(store, kind="rerun")
    good = log(store)
    assert [blind.stored.id for blind in unseen(store, Filters(rated=False), 10)] == [good]


@pytest.mark.slow
def test_stats_are_a_chart_and_json(shell: Shell):
    assert "No steered pair has a verdict" in shell("stats")[0]
    shell(stdin="/steer happy 2 6.0\nOne?\n/rate steered\nTwo?\n/rate normal\n/steer sad 1 6.0\nThree?\n/rate 3 tie\n")
    text = shell("stats")[0]
    rows = {row.split()[0]: row for row in text.splitlines() if row.split()[1:3] in (["2", "x"], ["1", "x"])}
    assert "50% (9%..91%)" in rows["happy"] and "1 of 2, 0 ties" in rows["happy"]
    assert "?" in rows["sad"] and "0 of 0, 1 tie" in rows["sad"]
    [chart] = shell.json("plot", "history")
    assert [series["name"] for series in chart["series"]] == ["shows it", "effect"]  # nobody said which reads better
    assert chart["series"][0]["values"] == [0.5, None]
    assert chart["labels"] == ["happy 2 x 6.0", "sad 1 x 6.0"]
    assert "3 rated, 0 of them blind: 1 for the steered answer, 1 for the normal one, 1 ties." in " ".join(text.split())
    found = shell.json("stats")
    assert [(one["label"], one["steered"]) for one in found if one["by"] == "recipe"] == [
        ("happy 2 x 6.0", 1),
        ("sad 1 x 6.0", 0),
    ]
    assert sum(one["judged"] for one in found if one["by"] == "effect") == 3
    assert shell.json("stats", "--concept", "sad")[0]["judged"] == 1
