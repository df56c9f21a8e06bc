"""Experiments on a tiny model: each row equals its own run, rows are logged, and a stop keeps what was finished."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from engines import recording_blocks
from tiny import LAYERS, finish, rows

from steerchat.concepts.concept import Concept
from steerchat.concepts.files import read_concept
from steerchat.concepts.vector import read_layer
from steerchat.conversation.rerun import logged as logged_pair
from steerchat.conversation.rerun import prompt_of
from steerchat.conversation.session import Session
from steerchat.engine.decoding import Row
from steerchat.engine.engine import Engine
from steerchat.engine.sampling import Sampling
from steerchat.experiments import readings
from steerchat.experiments.inspection_pages import why
from steerchat.experiments.outcomes import Outcome, Result, best
from steerchat.experiments.pages import page as page_of
from steerchat.experiments.recall import pairs_of, recalled
from steerchat.experiments.run import compare_all, experiment
from steerchat.experiments.settings import at_layers, at_strengths, chosen, mix_notes, with_controls
from steerchat.experiments.tuning import Budget, at_budget, budget_of, grid, tune, tuned, within
from steerchat.experiments.tuning import keep as keep_setting
from steerchat.measures.chance import Chance, ChanceCell
from steerchat.measures.inspection import lens, likelihoods, probe, wanted
from steerchat.storage.records import Filters
from steerchat.values.chart import Chart, Matrix
from steerchat.values.errors import UsageError
from steerchat.values.operation import UNIT
from steerchat.values.recipe import Recipe, Term, TermRequest, parse_parts, parse_term
from steerchat.values.results import Answer, Notice, Pair, PairDone, Probed, Progress
from steerchat.values.setting import Setting

PROMPT = "How are you?"


def logged(session: Session, sql: str) -> list[dict[str, object]]:
    assert session.journal.store is not None
    return rows(session.journal.store.path, sql)


@pytest.mark.slow
def test_every_layer_in_one_batch_answers_as_each_would_alone(session: Session):
    recipe = chosen(session, "happy", "1", 6.0)
    result = experiment(session, "layers", PROMPT, at_layers(recipe, LAYERS), repeats=2)
    assert [one.setting.layer for one in result.outcomes] == list(range(LAYERS))
    for one in result.outcomes:
        for pair in one.pairs:
            alone = finish(session.compare(PROMPT, seed=pair.seed, recipe=one.setting.recipe))
            assert alone.steered is not None and pair.steered is not None
            assert pair.steered.token_ids == alone.steered.token_ids
            assert pair.effect == pytest.approx(alone.effect, abs=1e-3)
            assert pair.perplexity_ratio == pytest.approx(alone.perplexity_ratio, rel=1e-3)


def test_a_sweep_is_one_experiment_whose_pairs_share_each_seeds_normal_answer(session: Session):
    recipe = chosen(session, "happy", "2")
    result = experiment(session, "strengths", PROMPT, at_strengths(recipe, [0.0, 4.0, 8.0]), repeats=2)
    [row] = logged(session, "SELECT * FROM experiments")
    assert (row["id"], row["kind"], row["status"]) == (result.experiment, "strengths", "complete")
    pairs = logged(session, "SELECT * FROM pairs")
    assert len(pairs) == 6 and {pair["experiment_id"] for pair in pairs} == {row["id"]}
    assert {pair["status"] for pair in pairs} == {"complete"}
    assert {(pair["strength"], pair["layer"]) for pair in pairs} == {(0.0, 2), (4.0, 2), (8.0, 2)}
    assert len({pair["normal_id"] for pair in pairs}) == 2  # one a seed
    unpushed = result.outcomes[0]
    assert unpushed.effect == pytest.approx(0.0, abs=1e-4) and unpushed.cost == pytest.approx(1.0, abs=1e-4)


def test_a_push_away_is_shown_below_zero_and_judged_along_its_sign(session: Session):
    recipe = chosen(session, "happy", "2")
    result = experiment(session, "strengths", PROMPT, at_strengths(recipe, [-8.0, 8.0]), repeats=2)
    away, towards = result.outcomes
    assert away.effect is not None and away.towards == -away.effect
    assert towards.towards == towards.effect
    page = page_of(result)
    assert [item["strength"] for item in page.objects] == [-8.0, -8.0, 8.0, 8.0]


def test_controls_are_read_along_the_concept_and_named(session: Session):
    recipe = chosen(session, "happy", "2", 8.0)
    result = experiment(session, "compare", PROMPT, with_controls(session, recipe, raw=False), repeats=2)
    steered, random, asked = result.outcomes
    assert random.pairs[0].recipe.concepts == ("random",) and list(random.pairs[0].effects) == ["happy"]
    assert random.pairs[0].steered != random.pairs[1].steered
    assert asked.pairs[0].recipe.terms == () and asked.effect is not None
    page = page_of(result)
    assert [item.get("control") for item in page.objects[::2]] == [None, "random push", "asked for"]
    assert sum(isinstance(part, Chart) for part in page.parts) == 1
    assert [one.setting.label for one in (steered, random, asked)] == ["steered", "random push", "asked for"]
    # nobody can be asked in a text that is only continued
    assert len(with_controls(session, recipe, raw=True)) == 2


def test_each_pair_of_a_sweep_is_logged_with_its_share_of_the_seconds(session: Session):
    started = time.monotonic()
    experiment(session, "strengths", PROMPT, at_strengths(chosen(session, "happy", "2"), [2.0, 4.0]), repeats=3)
    took = time.monotonic() - started
    seconds = [cast(float, pair["seconds"]) for pair in logged(session, "SELECT seconds FROM pairs")]
    assert len(seconds) == 6 and 0 < sum(seconds) <= took


def test_a_sweep_reads_each_concept_file_once(session: Session, monkeypatch: pytest.MonkeyPatch):
    reads: list[str] = []

    def counted(path: Path) -> Concept:
        reads.append(path.stem)
        return read_concept(path)

    monkeypatch.setattr("steerchat.concepts.library.read_concept", counted)
    recipe = chosen(session, "happy:1,sad:-1", "1", 4.0)
    experiment(session, "layers", PROMPT, at_layers(recipe, LAYERS), repeats=4, tokens=2)
    assert sorted(reads) == ["happy", "sad"]


@pytest.mark.parametrize("how", ["sweep", "prompts"])
def test_an_error_while_measuring_leaves_no_pair_running(session: Session, monkeypatch: pytest.MonkeyPatch, how: str):
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("measuring broke")

    recipe = chosen(session, "happy", "2", 4.0)
    monkeypatch.setattr("steerchat.conversation.runner.measured", fails)
    with pytest.raises(RuntimeError, match="measuring broke"):
        if how == "sweep":
            experiment(session, "strengths", PROMPT, at_strengths(recipe, [2.0, 4.0]), repeats=2)
        else:
            session.recipe = recipe
            list(compare_all(session, [PROMPT, "Why?"]))
    statuses = {pair["status"] for pair in logged(session, "SELECT status FROM pairs")}
    assert statuses == {"failed"}


def test_settings_of_one_recipe_are_recalled_apart(session: Session):
    recipe = chosen(session, "random", "2", 8.0)
    result = experiment(session, "compare", PROMPT, with_controls(session, recipe, raw=True), repeats=2)
    steered, random = result.outcomes
    assert steered.setting.recipe == random.setting.recipe  # what told them apart before
    store = session.journal.store
    assert store is not None and result.experiment is not None
    filters = Filters(experiment=result.experiment)
    again = recalled(session.calibration, store.experiment(result.experiment), pairs_of(store, filters))
    assert [[pair.id for pair in one.pairs] for one in again.outcomes] == [
        [pair.id for pair in one.pairs] for one in result.outcomes
    ]


def test_a_stop_keeps_what_came_and_logs_the_rest_as_interrupted(session: Session):
    recipe = chosen(session, "happy", "2", 8.0)
    seen: list[float] = []

    def report(event: object) -> None:
        if isinstance(event, Progress) and event.label.startswith("strengths"):
            seen.append(event.done)
            if event.done > 20:
                session.stop.set()

    session.report = report  # type: ignore[method-assign]
    settings = [Setting(str(number), recipe) for number in range(15)]
    result = experiment(session, "strengths", PROMPT, settings, repeats=6)
    assert result.stopped and 0 < result.finished < 6
    assert seen == sorted(seen)
    statuses = [pair["status"] for pair in logged(session, "SELECT status FROM pairs")]
    assert 0 < len(statuses) < 90 and "running" not in statuses
    assert [one["status"] for one in logged(session, "SELECT status FROM experiments")] == ["interrupted"]
    assert "stopped" in str(page_of(result).parts[0])


def test_what_did_best_is_the_pair_that_is_looked_into_afterwards_and_never_a_control(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    # No answer of random weights is fluent, so which settings show is said here.
    monkeypatch.setattr(Outcome, "shows", property(lambda one: one.setting.label != "0.0"))
    recipe = chosen(session, "happy", "3")
    result = experiment(session, "strengths", PROMPT, at_strengths(recipe, [0.0, 2.0, 8.0]), repeats=2)
    peak = best(result.outcomes)
    assert peak is not None and peak is not result.outcomes[0] and session.last == peak.pairs[0]
    controls = experiment(session, "compare", PROMPT, with_controls(session, recipe, raw=False), repeats=2)
    assert session.last == controls.outcomes[0].pairs[0]


def test_a_mean_is_judged_by_the_chance_band_of_as_many_seeds(session: Session, tiny: Engine):
    chance = Chance(tiny.fingerprint, (ChanceCell(8.0, 8, mean=0.0, between=0.1, within=1.0),))
    session.calibration.keep_chance(chance)
    recipe = chosen(session, "happy", "2")
    result = experiment(session, "strengths", PROMPT, at_strengths(recipe, [0.0, 8.0]), repeats=4)
    unpushed, pushed = result.outcomes
    assert unpushed.clarity == "within chance" and not unpushed.shows
    assert pushed.chance == chance.band(8.0, 8, 4) != chance.band(8.0, 8, 1)
    assert pushed.effect is not None and pushed.chance is not None
    within = pushed.chance[0] <= pushed.effect <= pushed.chance[1]
    assert (pushed.clarity == "within chance") == within
    chart = next(part for part in page_of(result).parts if isinstance(part, Chart))
    assert chart.faint == {0} | ({1} if within else set()) and None not in chart.series[0].bands


def test_an_experiment_without_anything_steered_says_what_to_do(session: Session):
    with pytest.raises(UsageError, match="nothing is steered"):
        chosen(session, None)
    session.recipe = replace(chosen(session, "happy"), on=False)
    assert chosen(session, None).on  # an experiment is about the recipe even while it is paused
    with pytest.raises(UsageError, match="empty"):
        experiment(session, "layers", " ", at_layers(chosen(session, None), LAYERS), 1)


def test_a_mix_of_one_concept_is_that_concept_and_parts_that_cancel_are_refused(session: Session):
    alone, _ = session.resolve(parse_term("happy 2 8.0"))
    for spec in ("happy:1.0", "happy:0.5,happy:0.2"):
        term, _ = session.resolve(TermRequest(parse_parts(spec), "2", 8.0))
        assert term == alone and mix_notes(session, term) == []
    both, _ = session.resolve(TermRequest(parse_parts("happy:3,sad:-1"), "2", 8.0))
    [note] = mix_notes(session, both)
    assert "happy 75%, sad -25%" in note and "degrees" in note
    pair = finish(session.compare(PROMPT, recipe=Recipe((both,))))
    assert set(pair.effects) == {"happy", "sad"}


def test_an_ablated_direction_is_gone_at_every_pushed_position_and_nothing_else_is(session: Session, tiny: Engine):
    term, _ = session.resolve(TermRequest(parse_parts("sad"), "2", operation="ablate"))
    prompt = tuple(tiny.prompter.raw(PROMPT))
    run = tiny.generate([Row(prompt, session.reader.edits(Recipe((term,)), 0))], Sampling(max_tokens=6))
    direction = session.library.vector("sad", tiny).directions[2]
    with recording_blocks(tiny, 2) as (computed, handed_on):
        for _ in range(3):
            next(run)
        run.close()
    # The first pass is the prompt's without its last token, which is not pushed.
    for before, after in zip(computed[1:], handed_on[1:], strict=True):
        left = (after @ direction).abs() / after.norm(dim=-1)
        assert float(left.max()) < 1e-6
        moved = before - after
        along = (moved @ direction).unsqueeze(-1) * direction
        assert torch.allclose(moved, along, atol=1e-5)


def test_why_gives_each_token_the_probability_of_a_plain_forward_pass(session: Session, tiny: Engine):
    session.steer([parse_term("happy 2 8.0")])
    pair = finish(session.say(PROMPT))
    stored = logged_pair(session, None)
    prompt = prompt_of(session, stored, "steered")
    assert stored.id == pair.id and pair.steered is not None and pair.diverges_at is not None
    answer = list(pair.steered.token_ids)
    tokens = likelihoods(tiny, prompt, answer)
    with torch.inference_mode():
        plain = tiny.model(torch.tensor([[*prompt, *answer]])).logits[0].softmax(dim=-1)
    expected = [float(plain[len(prompt) - 1 + at, token]) for at, token in enumerate(answer)]
    assert [one.probability for one in tokens] == pytest.approx(expected, rel=1e-3)
    assert "".join(one.text for one in tokens) == pair.steered.text
    there = plain[len(prompt) - 1 + pair.diverges_at].topk(5)
    rather = wanted(tiny, [*prompt, *answer[: pair.diverges_at]])
    assert [one.probability for one in rather] == pytest.approx(there.values.tolist(), rel=1e-3)
    strips = probe(session.reader, ["happy"], stored.pair, [prompt_of(session, stored, "normal"), prompt])
    read = readings.why(session, stored)
    [item] = why(read).objects
    assert item["tokens"] == [one.to_json() for one in tokens] and item["wanted"] == [one.to_json() for one in rather]
    assert list(read.chart.probabilities) == [one.probability for one in tokens]
    assert item["diverges_at"] == pair.diverges_at
    assert item["concepts"] == [one.to_json() for one in strips] and len(strips) == 2


def test_a_probe_reads_each_answer_with_the_score_that_it_was_logged_with(session: Session, tiny: Engine):
    session.steer([parse_term("happy 2 8.0")])
    pair = finish(session.say(PROMPT))
    stored = logged_pair(session, None)
    assert pair.steered is not None
    prompts = [prompt_of(session, stored, side) for side in ("normal", "steered")]
    normal, steered = probe(session.reader, ["happy"], pair, prompts)
    assert normal.score == pytest.approx(pair.normal.concept_score, abs=1e-3)
    assert steered.score == pytest.approx(pair.steered.concept_score, abs=1e-3)
    assert sum(normal.values) == pytest.approx(0.0, abs=1e-3) and len(steered.values) == len(steered.tokens)


def test_a_probe_reads_the_plain_states_of_the_text_at_the_concepts_read_layer(session: Session, tiny: Engine):
    session.steer([parse_term("happy 2 8.0")])
    pair = finish(session.say(PROMPT))
    stored = logged_pair(session, None)
    assert pair.steered is not None
    prompts = [prompt_of(session, stored, side) for side in ("normal", "steered")]
    strips = probe(session.reader, ["sad", "happy"], pair, prompts)
    assert [(one.concept, one.column) for one in strips] == list(
        itertools.product(("sad", "happy"), ("normal", "steered"))
    )
    vector = session.library.vector("sad", tiny)
    layer = read_layer(vector)
    along: list[torch.Tensor] = []

    def keep(module: object, args: object, output: torch.Tensor) -> None:
        along.append(output[0, len(prompt) :] @ vector.directions[layer])

    for prompt, answer in zip(prompts, (pair.normal, pair.steered), strict=True):
        reply = tiny.prompter.reply(answer.text)
        handle = tiny.blocks[layer].register_forward_hook(keep)
        with torch.inference_mode():
            tiny.model(torch.tensor([[*prompt, *reply]]))
        handle.remove()
    for strip, values in zip(strips, along, strict=False):
        expected = (values - along[0].mean()) / along[0].std()
        assert strip.values == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.slow
def test_what_is_probed_is_read_under_every_answer_until_it_is_off(session: Session):
    assert not any(isinstance(event, Probed) for event in session.say(PROMPT))
    session.probes = ("happy", "sad")
    [plain] = [event for event in session.say(PROMPT) if isinstance(event, Probed)]
    assert [(one.concept, one.column) for one in plain.strips] == [("happy", "normal"), ("sad", "normal")]
    session.steer([parse_term("happy 2 8.0")])
    done, read = list(session.say(PROMPT))[-2:]
    assert isinstance(done, PairDone) and isinstance(read, Probed)
    assert [one.column for one in read.strips] == ["normal", "steered"] * 2
    assert done.pair.steered is not None
    assert read.strips[1].score == pytest.approx(done.pair.steered.concept_score, abs=1e-3)
    assert [isinstance(event, Probed) for event in session.compare(PROMPT, raw=True)][-1]
    session.probes = ()
    assert not any(isinstance(event, Probed) for event in session.say(PROMPT))


def test_a_probed_concept_that_is_gone_costs_no_turn(session: Session):
    session.probes = ("gone",)
    last = list(session.say(PROMPT))[-1]
    assert isinstance(last, Notice) and "gone" in last.text
    assert len(session.turns) == 1 and session.probes == ()


def test_the_last_layer_of_the_lens_is_what_the_model_says(tiny: Engine):
    ids = tiny.prompter.raw(PROMPT)
    steps = lens(tiny, ids)
    [best, *_] = wanted(tiny, ids)
    assert len(steps) == LAYERS
    assert (steps[-1].guess.text, steps[-1].guess.probability) == (best.text, pytest.approx(best.probability, rel=1e-3))


def test_a_term_without_a_strength_does_not_lead_an_experiment_although_it_comes_first():
    ablated = Term((("sad", 1.0),), (2,), 1.0, operation="ablate")
    recipe = Recipe((ablated, Term((("happy", 1.0),), (3,), -3.0)))
    assert [setting.strength for setting in at_layers(recipe, LAYERS)] == [-3.0] * LAYERS
    assert [setting.strength for setting in at_strengths(recipe, [-3.0, 2.0])] == [-3.0, 2.0]
    assert [setting.recipe.terms[0].concept for setting in grid(recipe, ["1"], [2.0], LAYERS)] == ["happy"]


def test_tune_tries_its_grid_on_every_prompt_and_what_is_kept_is_recommended_from_then_on(session: Session):
    recipe = chosen(session, "happy", "2", 4.0)
    settings = grid(recipe, ["1", "2", "1-2"], [2.0, 8.0], LAYERS)
    result = tune(session, settings, ["How are you?", "What is rain?"], tokens=8)
    assert [(one.setting.label, one.setting.strength) for one in result.outcomes] == [
        (where, push) for where in ("1", "2", "1-2") for push in (2.0, 8.0)
    ]
    assert all([pair.prompt for pair in one.pairs] == ["How are you?", "What is rain?"] for one in result.outcomes)
    page = page_of(result)
    assert len(page.objects) == 12 and any(isinstance(part, Matrix) for part in page.parts)
    keep_setting(session, settings[-1].recipe)
    term, notes = session.resolve(TermRequest(parse_parts("happy")))
    assert (term.layers, term.strength, notes) == ((1, 2), 8.0, [])
    with pytest.raises(UsageError, match="one concept"):
        keep_setting(session, Recipe())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("term", "of"), [("happy 2 4.0", "cost"), ("rotate happy 2 -1.0", "cost"), ("rotate happy 2 1.0", "kl")]
)
def test_a_budget_is_bracketed_and_the_strength_found_is_the_last_that_it_allows(
    session: Session, term: str, of: Literal["cost", "kl"]
):
    session.steer([parse_term(term)])
    any_amount = Budget(of, 1e6)
    first = at_budget(session, chosen(session, None), any_amount, ["How are you?"], 8).outcomes
    most = max(amount for one in first if (amount := any_amount.taken(one)) is not None)
    none = 1.0 if of == "cost" else 0.0
    budget = Budget(of, none + (most - none) / 2)
    result = at_budget(session, chosen(session, None), budget, ["How are you?", "What is rain?"], 8)
    strengths = [one.setting.strength or 0.0 for one in result.outcomes]
    assert [abs(strength) for strength in strengths] == sorted(abs(strength) for strength in strengths)
    assert len(set(strengths)) == 9 and all((strength < 0) == ("-" in term) for strength in strengths)
    allowed = within(result.outcomes, budget)
    place = 0 if allowed is None else result.outcomes.index(allowed) + 1
    taken = [budget.taken(one) for one in result.outcomes]
    assert all(amount is not None and amount <= budget.most for amount in taken[:place])
    assert all(amount is None or amount > budget.most for amount in taken[place : place + 1])
    edges = [0.0, *map(abs, strengths), 8.0]
    assert edges[place + 1] - edges[place] == pytest.approx(8.0 / 64)
    if allowed is not None:
        page = page_of(result, budget=budget)
        said = " ".join(str(part) for part in page.parts)
        assert f"Strength {allowed.setting.label} {'costs' if of == 'cost' else 'has a KL of'}" in said
        assert f"To keep it: /{'rotate' if 'rotate' in term else 'steer'} happy 2 {allowed.setting.label}" in said
        [chart] = [part for part in page.parts if isinstance(part, Chart)]
        assert ("KL" in [series.name for series in chart.series]) == (of == "kl")
        assert all((of == "kl") == ("kl" in item) for item in page.objects)


def test_a_budget_is_one_of_two(session: Session):
    assert budget_of(None, None) is None
    assert [str(budget_of(1.5, None)), str(budget_of(None, 1.0))] == ["cost x1.5", "KL 1"]
    with pytest.raises(UsageError, match="not both"):
        budget_of(1.5, 1.0)


@pytest.mark.parametrize("typed", ["aim happy 1-2 1.5", "cap happy 2 0.0", "ablate happy 2", "replace happy 2 8.0"])
def test_the_control_of_an_operation_does_the_same_along_a_random_direction(session: Session, typed: str):
    session.steer([parse_term(typed)])
    steered, control, *asked = with_controls(session, session.recipe, raw=False)
    [term], [random] = steered.recipe.terms, control.recipe.terms
    assert random.parts == (("random", 1.0),) and control.read_along == steered.recipe
    assert (random.operation, random.layers) == (term.operation, term.layers)
    assert len(asked) == (term.operation in ("aim", "replace"))
    reader = session.reader
    if term.how.number == "level":

        def away(recipe: Recipe, seed: int) -> float:
            """How far from ordinary text the level lies, on average over the layers, as a strength."""
            distances = [
                (edit.level - reader.profile.scale(edit.vector, edit.layer)[0])
                / (UNIT * float(reader.profile.lengths[edit.layer]))
                for edit in reader.edits(recipe, seed)
            ]
            return sum(distances) / len(distances)

        wanted = away(steered.recipe, 0)
        assert [away(control.recipe, seed) for seed in (0, 1)] == pytest.approx([wanted] * 2, abs=0.01)
    else:
        assert random.strength == term.strength


def test_what_is_tuned_is_the_strongest_setting_that_stays_fluent() -> None:
    def one(effect: float, ratio: float, repeated: float = 0.0) -> Outcome:
        recipe = Recipe((Term((("joyful", 1.0),), (2,), 2.0),))  # without a word measure: the effect decides
        normal = Answer("some words", 2, "end", 10.0, 0.0, 0.0, (1, 2))
        steered = replace(normal, perplexity=10.0 * ratio, repetition=repeated)
        pair = Pair(1, PROMPT, "tiny", recipe, 0, normal, steered, False, effect)
        return Outcome(Setting("2", recipe, 2, 2.0), (pair,), (-0.5, 0.5))

    fluent = one(2.0, 1.8)
    assert tuned([one(1.0, 1.2), fluent, one(9.0, 5.0), one(8.0, 1.5, 0.5)]) is fluent
    assert tuned([one(-1.0, 1.0)]) is None


def test_a_comparison_tells_which_other_measures_moved_in_every_repeat() -> None:
    recipe = Recipe((Term((("happy", 1.0),), (2,), 2.0),))
    plain = "The train leaves at noon and it stops in every village on the way to the coast today"

    def compared(*steered: str) -> Result:
        normal = Answer(plain + ".", 2, "end", 10.0, 0.0, 0.0, (1, 2))
        pairs = tuple(
            Pair(None, PROMPT, "tiny", recipe, seed, normal, replace(normal, text=text), False, 1.0)
            for seed, text in enumerate(steered)
        )
        return Result("compare", PROMPT, (Outcome(Setting("steered", recipe), pairs, None),), len(pairs), False)

    louder = [f"{plain}, hooray, with {word} and joy!" for word in ("a thrill", "a thrill", "thrills", "excitement")]
    told = compared(*louder)
    found = told.outcomes[0].side_effects
    assert found["excited"] > 1 and found["calm"] < -1 and "happy" not in found
    assert any("side effects" in part and "excited +" in part for part in page_of(told).parts if isinstance(part, str))
    # One answer of four, or fewer than four repeats, show nothing.
    for texts in ((louder[0], plain, plain, plain), louder[:3]):
        assert not compared(*texts).outcomes[0].side_effects
