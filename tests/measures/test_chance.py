"""The chance band, and the verdict on a pair that follows from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from steerchat.measures.chance import Chance, ChanceCell, clarity, fluency, load_chance, total_strength, verdict
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import Answer, Pair

SMALL = ChanceCell(1.0, 40, 0.1, 0.2, 0.5)
LARGE = ChanceCell(4.0, 40, 0.5, 0.6, 1.0)
LONG = ChanceCell(4.0, 160, 0.5, 0.3, 0.4)
CHANCE = Chance("f" * 64, (SMALL, LARGE, LONG))


def answer(perplexity: float, repetition: float = 0.0) -> Answer:
    return Answer("some words", 2, "end", perplexity, 0.0, repetition, (1, 2))


def pair(effect: float, ratio: float = 1.5, repetition: float = 0.0, strength: float = 2.0) -> Pair:
    recipe = Recipe((Term((("happy", 1.0),), (16,), strength),))
    return Pair(
        1, "hi", "tiny", recipe, 0, answer(10.0), answer(10.0 * ratio, repetition), False, effect, chance=(-1, 1)
    )


def test_the_band_is_that_of_the_nearest_length_and_strength() -> None:
    low, high = CHANCE.band(0.5, 30)
    assert (low + high) / 2 == pytest.approx(0.1)
    assert CHANCE.band(-3.5, 45) == CHANCE.band(4.0, 40) != CHANCE.band(4.0, 200)


def test_a_recipe_whose_size_is_up_to_the_state_has_the_band_of_the_strongest_pushes() -> None:
    def strength(*terms: tuple[str, float]) -> float:
        return total_strength(Recipe(tuple(Term((("happy", 1.0),), (16,), size, name) for name, size in terms)))

    assert strength(("add", 0.6), ("rotate", 0.8)) == pytest.approx(1.0) and strength() == 0.0
    for name in ("aim", "cap", "ablate", "replace"):
        assert CHANCE.band(strength((name, 1.0)), 40) == CHANCE.band(4.0, 40)
        assert CHANCE.band(strength(("add", 1.0), (name, 1.0)), 40) == CHANCE.band(4.0, 40)


def test_more_repeats_narrow_the_band_but_never_below_what_directions_differ_by() -> None:
    def width(repeats: int) -> float:
        low, high = CHANCE.band(4.0, 40, repeats)
        return high - low

    assert width(1) > width(5) > width(10**9)
    assert width(10**9) == pytest.approx(2 * 1.96 * 0.6, rel=1e-3)


def test_a_band_is_kept_for_its_model_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "chance.json"
    assert load_chance(path, CHANCE.fingerprint) is None
    path.write_text(json.dumps(CHANCE.to_json()))
    assert load_chance(path, CHANCE.fingerprint) == CHANCE
    assert load_chance(path, "0" * 64) is None
    for broken in ("", "[]", '{"fingerprint": "' + "f" * 64 + '", "cells": [{"strength": 1}]}'):
        path.write_text(broken)
        assert load_chance(path, CHANCE.fingerprint) is None


def test_an_effect_is_clear_only_when_its_own_uncertainty_is_outside_the_band_too() -> None:
    assert clarity([0.5, -0.4, 0.3, 0.2], (-1, 1)) == "within chance"
    assert clarity([1.5], (-1, 1)) == "likely"
    assert clarity([5.0, 0.2, 4.0, 0.1], (-1, 1)) == "likely"
    assert clarity([3.0, 3.1, 2.9, 3.2], (-1, 1)) == "clear"
    assert clarity([-3.0, -3.1, -2.9, -3.2], (-1, 1)) == clarity([-1.5], (-1, 1)) == "the wrong way"


def test_fluency_has_three_steps_and_repetition_breaks_it() -> None:
    assert [fluency(ratio) for ratio in (0.8, 2.0, 2.1, 4.0, 4.1)] == [
        "fluent",
        "fluent",
        "losing fluency",
        "losing fluency",
        "incoherent",
    ]
    assert fluency(1.0, repetition=0.4) == "incoherent"


def test_a_verdict_says_what_to_try_next() -> None:
    said = {
        name: verdict(one) or ""
        for name, one in {
            "good": pair(2.0),
            "weak": pair(0.3),
            "broken": pair(3.0, 5.0),
            "backwards": pair(-2.0),
            "none": pair(0.1, strength=0.0),
            "control": replace(pair(0.1), recipe=Recipe((Term((("random", 1.0),), (16,), 2.0),))),
        }.items()
    }
    assert said["good"].startswith("likely, fluent") and "--repeats" in said["good"]
    assert said["weak"].startswith("within chance") and "more strength" in said["weak"]
    assert "incoherent" in said["broken"] and "smaller strength" in said["broken"]
    assert said["backwards"].startswith("the wrong way")
    assert said["none"] == said["control"] == "within chance, fluent"
    assert "/compare" in (verdict(pair(2.0)) or "") and "(" not in (verdict(pair(2.0), False) or "(")
    assert verdict(replace(pair(2.0), chance=None)) is None
    assert verdict(replace(pair(2.0), steered=None)) is None
