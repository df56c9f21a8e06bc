"""Concepts judged by measures that do not use their vectors, on a tiny engine: the arithmetic, not the science."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import a_library

from steerchat.concepts.library import Library
from steerchat.conversation.runner import Plan, Question, Runner
from steerchat.engine.engine import Engine
from steerchat.engine.sampling import Sampling
from steerchat.experiments import chance
from steerchat.experiments.chance import measure_chance, spreads
from steerchat.experiments.evaluation import Evaluation, evaluate, random_settings
from steerchat.measures.calibration import Calibration
from steerchat.measures.chance import Chance, ChanceCell
from steerchat.measures.reader import Reader
from steerchat.measures.words import INDEPENDENT, RATES
from steerchat.values.errors import ConceptError, Interrupted
from steerchat.values.recipe import Recipe, Term, parse_term
from steerchat.values.results import UNWATCHED, Delta, Event, Finished, Returning, Watch
from steerchat.values.setting import Setting

PROMPTS = ["How are you?", "What is rain?"]
SEEDS = [1, 2]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return a_library(tmp_path)


def runner_of(engine: Engine, library: Library, watch: Watch = UNWATCHED) -> Runner:
    return Runner(Reader(engine, library, Calibration(library), watch), memo={})


def evaluated(runner: Runner, *terms: str, directions: int = 1) -> list[Evaluation]:
    return list(evaluate(runner, PROMPTS, SEEDS, [parse_term(term) for term in terms], directions))


def test_a_setting_that_is_not_read_has_the_same_answers_without_cost_and_effect(
    tiny: Engine, library: Library
) -> None:
    recipe = Recipe((Term((("happy", 1.0),), (1,), 2.0),))
    settings = [Setting("read", recipe), Setting("not read", recipe, read=False)]
    for read, unread in zip(*runner_of(tiny, library).measure(PROMPTS, settings, SEEDS, 12, "both"), strict=True):
        assert read.pair.steered is not None and unread.pair.steered is not None
        assert (read.setting, unread.setting) == (0, 1)
        assert unread.pair.steered.token_ids == read.pair.steered.token_ids
        assert unread.pair.normal.perplexity == read.pair.normal.perplexity is not None
        assert read.pair.effect is not None and read.pair.perplexity_ratio is not None
        assert unread.pair.effect is None and unread.pair.perplexity_ratio is None


@pytest.mark.slow
def test_at_strength_zero_nothing_is_gained_and_nothing_is_paid(tiny: Engine, library: Library) -> None:
    [zero] = evaluated(runner_of(tiny, library), "happy 1 0.0")
    assert zero.gain == (0.0, 0.0, 0.0)
    assert zero.perplexity_ratio == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
def test_an_evaluation_compares_each_prompt_with_itself(tiny: Engine, library: Library) -> None:
    [happy] = evaluated(runner_of(tiny, library), "happy", directions=2)
    measure = INDEPENDENT["happy"]
    assert happy.answers == len(PROMPTS) * len(SEEDS)
    assert happy.gain[0] == pytest.approx(measure.direction * (happy.steered - happy.normal))
    assert happy.gain[1] <= happy.gain[0] <= happy.gain[2]
    assert [prompt for prompt, _, _ in happy.samples] == PROMPTS
    # The matrix: all fifteen word measures, the own one in spreads of the normal answers.
    assert set(happy.gains) == set(RATES)
    assert happy.gains[happy.other] == max(gain for name, gain in happy.gains.items() if name != "happy")
    assert happy.specificity[0] == pytest.approx(happy.gains["happy"] - happy.gains[happy.other], abs=2e-3)
    assert happy.specificity[1] <= happy.specificity[0] <= happy.specificity[2]


def test_answers_are_the_same_together_and_alone_and_remembered_ones_are_not_given_again(
    tiny: Engine,
    library: Library,
) -> None:
    term = Term((("happy", 1.0),), (1,), 4.0)
    steered, random = Setting("steered", Recipe((term,))), random_settings(term, 2)
    together = runner_of(tiny, library)

    seen: list[Event] = []

    def answers(runner: Runner, settings: list[Setting]) -> list[list[str]]:
        plan = Plan(Sampling(max_tokens=8), thought=False)
        messages = ([{"role": "user", "content": prompt}] for prompt in PROMPTS)
        questions = [Question(prompt, message, message) for prompt, message in zip(PROMPTS, messages, strict=True)]
        run = Returning(runner.run(questions, settings, SEEDS, plan))
        seen[:] = run
        return [
            [output.answer.text for trial in run.value if trial.setting == index for output in trial.outputs]
            for index in range(len(settings))
        ]

    first = answers(together, [steered, *random])
    assert len({tuple(texts) for texts in first}) == 3
    assert first == [answers(runner_of(tiny, library), [setting])[0] for setting in (steered, *random)]
    assert answers(together, [random[0], steered]) == [first[1], first[0]]
    assert not [event for event in seen if isinstance(event, Delta | Finished)]


@pytest.mark.slow
def test_an_evaluation_takes_the_setting_that_it_is_given(tiny: Engine, library: Library) -> None:
    none, second, usual = evaluated(runner_of(tiny, library), "happy:1:0.0", "happy:2", "sad")
    assert (none.layers, none.strength, none.gain) == ("1", 0.0, (0.0, 0.0, 0.0))
    assert (second.layers, second.strength) == ("2", library.recommended("happy", tiny.fingerprint)[1])
    assert (usual.concept, usual.layers) == ("sad", library.recommended("sad", tiny.fingerprint)[0])


@pytest.mark.parametrize("term", ["happy:1,sad:1", "random"])
def test_what_has_no_measure_of_its_own_is_refused_before_anything_runs(
    term: str, tiny: Engine, library: Library
) -> None:
    began: list[object] = []
    with pytest.raises(ConceptError):
        evaluated(runner_of(tiny, library, Watch(began.append)), "happy", term)
    assert not began


def test_a_run_that_is_stopped_says_so(tiny: Engine, library: Library) -> None:
    Calibration(library).profile(tiny)  # what is measured once is measured now
    library.vector("happy", tiny)
    with pytest.raises(Interrupted):
        evaluated(runner_of(tiny, library, Watch(stopped=lambda: True)), "happy")


def test_a_concept_that_only_its_vector_could_judge_is_refused(tiny: Engine, library: Library) -> None:
    with pytest.raises(ConceptError, match="nothing measures"):
        evaluated(runner_of(tiny, library), "random")


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
    monkeypatch.setattr(chance, "CHANCE_TOKENS", (4, 8))
    found = measure_chance(runner_of(tiny, library), PROMPTS, SEEDS, ["happy", "sad"], directions=2)
    assert [(cell.tokens, cell.strength) for cell in found.cells] == [(n, x) for n in (4, 8) for x in (1.0, 2.0, 4.0)]
    assert found.fingerprint == tiny.fingerprint and all(cell.within > 0 for cell in found.cells)
