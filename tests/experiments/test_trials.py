"""Concepts judged by measures that do not use their vectors, on a tiny engine: the arithmetic, not the science."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import a_library

from steerchat.concepts.library import Library
from steerchat.engine.engine import Engine
from steerchat.experiments import trials
from steerchat.experiments.trials import Condition, Trials, evaluate, measure_chance, spreads
from steerchat.measures.chance import Chance, ChanceCell
from steerchat.measures.words import INDEPENDENT
from steerchat.values.errors import ConceptError, Interrupted
from steerchat.values.recipe import Term, parse_term

PROMPTS = ["How are you?", "What is rain?"]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return a_library(tmp_path)


def trials_of(engine: Engine, library: Library, **extra: Any) -> Trials:
    return Trials(engine, library, PROMPTS, [1, 2], **extra)


@pytest.mark.slow
def test_at_strength_zero_nothing_is_gained_and_nothing_is_paid(tiny: Engine, library: Library) -> None:
    (found,) = evaluate(trials_of(tiny, library), library, [parse_term("happy 1 0.0")], directions=1)
    assert found.gain == (0.0, 0.0, 0.0)
    assert found.perplexity_ratio == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
def test_an_evaluation_compares_each_prompt_with_itself(tiny: Engine, library: Library) -> None:
    (found,) = evaluate(trials_of(tiny, library), library, [parse_term("happy")], directions=2)
    measure = INDEPENDENT["happy"]
    assert found.answers == len(PROMPTS) * 2
    assert found.gain[0] == pytest.approx(measure.direction * (found.steered - found.normal))
    assert found.gain[1] <= found.gain[0] <= found.gain[2]
    assert [prompt for prompt, _, _ in found.samples] == PROMPTS


def test_answers_are_the_same_together_and_alone_and_kept_ones_are_not_given_again(
    tiny: Engine, library: Library
) -> None:
    began: list[Any] = []
    together, alone = trials_of(tiny, library, report=began.append), trials_of(tiny, library)
    term = Term((("happy", 1.0),), (1,), 4.0)
    conditions = [Condition("normal"), together.pushed(term), *together.at_random(term, 2)]
    normal, steered, *random = ([o.answer.text for o in found] for found in together.answers(conditions, 8, "all"))
    assert normal == [output.answer.text for output in alone.normal(8)] != steered
    assert steered == [output.answer.text for output in alone.answers([alone.pushed(term)], 8, "steered")[0]]
    assert [*random[0], *random[1]] == [output.answer.text for output in alone.random(term, 2, 8)]
    began.clear()
    assert [output.answer.text for output in together.normal(8)] == normal and not began


@pytest.mark.slow
def test_an_evaluation_takes_the_setting_that_it_is_given(tiny: Engine, library: Library) -> None:
    requests = [parse_term("happy:1:0.0"), parse_term("happy:2"), parse_term("sad")]
    none, second, usual = evaluate(trials_of(tiny, library), library, requests, directions=1)
    assert (none.layers, none.strength, none.gain) == ("1", 0.0, (0.0, 0.0, 0.0))
    assert (second.layers, second.strength) == ("2", library.recommended("happy", tiny.fingerprint)[1])
    assert (usual.concept, usual.layers) == ("sad", library.recommended("sad", tiny.fingerprint)[0])


@pytest.mark.parametrize("term", ["happy:1,sad:1", "random"])
def test_what_has_no_measure_of_its_own_is_refused_before_anything_runs(
    term: str, tiny: Engine, library: Library
) -> None:
    began: list[object] = []
    trials = trials_of(tiny, library, report=began.append)
    began.clear()
    run = evaluate(trials, library, [parse_term("happy"), parse_term(term)])
    with pytest.raises(ConceptError):
        next(run)
    assert not began


def test_a_run_that_is_stopped_says_so(tiny: Engine, library: Library) -> None:
    with pytest.raises(Interrupted):
        trials_of(tiny, library, stopped=lambda: True).normal(8)


def test_a_concept_that_only_its_vector_could_judge_is_refused(tiny: Engine, library: Library) -> None:
    with pytest.raises(ConceptError, match="nothing measures"):
        next(evaluate(trials_of(tiny, library), library, [parse_term("random")]))


def test_a_band_is_as_wide_as_means_over_seeds_of_one_prompt_really_are() -> None:
    random = np.random.default_rng(0)
    prompts = random.normal(0.3, 0.5, size=(17, 40, 60, 1))  # what belongs to a direction on a prompt
    effects = prompts + random.normal(0.0, 0.9, size=(17, 40, 60, 4))
    mean, between, within = spreads(effects)
    assert (mean, between, within) == pytest.approx((0.3, 0.5, 0.9), abs=0.02)
    chance = Chance("tiny", (ChanceCell(2.0, 40, mean, between, within),))
    for repeats in (1, 4):
        low, high = chance.band(2.0, 40, repeats)
        means = effects[..., :repeats].mean(axis=-1)
        assert ((low <= means) & (means <= high)).mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.slow
def test_chance_is_measured_for_every_strength_and_length(
    tiny: Engine, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "CHANCE_TOKENS", (4, 8))
    found = measure_chance(trials_of(tiny, library), ["happy", "sad"], directions=2)
    assert [(cell.tokens, cell.strength) for cell in found.cells] == [(n, x) for n in (4, 8) for x in (1.0, 2.0, 4.0)]
    assert found.fingerprint == tiny.fingerprint and all(cell.within > 0 for cell in found.cells)
