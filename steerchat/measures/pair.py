"""What a pair's answers show: scores along the recipe, the effect and its chance band, concepts token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ..concepts.library import Library, Report
from ..values.recipe import Recipe
from ..values.results import Answer, Column, Pair, Strip, divergence
from .calibration import Calibration
from .chance import total_strength

if TYPE_CHECKING:
    from ..engine.engine import Engine, Output


class Reader(Protocol):
    """What reading a pair needs; a session has it."""

    library: Library
    calibration: Calibration
    report: Report

    @property
    def engine(self) -> Engine: ...


def measured(
    session: Reader,
    pair_id: int | None,
    prompt: str,
    seed: int,
    recipe: Recipe,
    outputs: list[Output],
    raw: bool,
    seconds: float,
    along: Recipe | None = None,
) -> Pair:
    """The pair of one or two outputs; its effect is along another recipe's direction when `along` names one."""
    read_on = recipe if along is None else along
    answers = [output.answer for output in outputs]
    normal, steered = answers[0], answers[1] if len(answers) > 1 else None
    effect: float | None = None
    effects: dict[str, float] = {}
    if steered is not None and read_on.terms:
        normal_score, steered_score, effects = _scores(session, read_on, seed, outputs)
        normal = replace(normal, concept_score=normal_score)
        steered = replace(steered, concept_score=steered_score)
        if normal_score is not None and steered_score is not None:
            effect = steered_score - normal_score
    return Pair(
        pair_id,
        prompt,
        session.engine.name,
        recipe,
        seed,
        normal,
        steered,
        raw,
        effect,
        effects,
        chance=None if effect is None else _chance(session, read_on, outputs),
        diverges_at=None if steered is None else divergence(normal.token_ids, steered.token_ids),
        seconds=seconds,
        tokens_per_second=sum(answer.tokens for answer in answers) / max(seconds, 1e-9),
    )


def _chance(session: Reader, recipe: Recipe, outputs: list[Output]) -> tuple[float, float] | None:
    """Which effects a push without meaning would have, if that was ever measured on this model."""
    chance = session.calibration.chance(session.engine.fingerprint)
    if chance is None:
        return None
    return chance.band(total_strength(recipe), max(output.answer.tokens for output in outputs))


def _scores(
    session: Reader, recipe: Recipe, seed: int, outputs: list[Output]
) -> tuple[float | None, float | None, dict[str, float]]:
    """Both answers' scores along the recipe's direction, and the effect along each of its concepts."""
    from .effect import concept_effects, recipe_scores

    if any(not output.reading.tokens for output in outputs):
        return None, None, {}
    engine = session.engine
    vectors = {name: session.library.vector(name, engine, session.report, seed) for name in recipe.concepts}
    profile = session.calibration.profile(engine, session.report)
    states = [output.reading.states for output in outputs]
    scores = recipe_scores(recipe, vectors, profile, states)
    return scores[0], scores[1], concept_effects(recipe, vectors, profile, states[0], states[1])


def probe(session: Reader, concepts: Sequence[str], pair: Pair, prompts: Sequence[Sequence[int]]) -> tuple[Strip, ...]:
    """Concepts read off a pair's answers, token by token, by the unsteered model.

    Args:
        session: its model and its concepts.
        concepts: what to read.
        pair: with the answers.
        prompts: the ids that the normal and the steered answer go on from.

    Returns:
        a strip for each concept and answer; none when an answer is too short to tell its tokens apart.

    Raises:
        UnknownName: for a concept that does not exist.
    """
    from . import inspection

    engine = session.engine
    vectors = [session.library.vector(name, engine, session.report, pair.seed) for name in concepts]
    both: tuple[tuple[Column, Answer | None], ...] = (("normal", pair.normal), ("steered", pair.steered))
    # As scores are taken: off the text, which may be other tokens than the sampled ones.
    answers: list[tuple[Column, Sequence[int], Sequence[int]]] = [
        (side, prompt, engine.prompter.reply(one.text))
        for prompt, (side, one) in zip(prompts, both, strict=False)
        if one is not None
    ]
    if any(len(ids) < 2 for _, _, ids in answers):
        return ()
    return tuple(inspection.probe(engine, session.calibration.profile(engine, session.report), vectors, answers))
