"""What a pair's answers show: scores along a recipe, the effect and its chance band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..values.recipe import Recipe
from ..values.results import Pair, divergence
from ..values.setting import Setting
from .chance import total_strength
from .reader import Reader

if TYPE_CHECKING:
    from ..engine.engine import Output


def measured(reader: Reader, setting: Setting, pair: Pair, outputs: Sequence[Output], seconds: float) -> Pair:
    """A pair with its answers and its effect along the setting's recipe.

    Args:
        setting: what the second output was steered by.
        outputs: the normal one and, if there is one, the steered one.
    """
    answers = [output.answer for output in outputs]
    normal, steered = answers[0], answers[1] if len(answers) > 1 else None
    along, effect, effects = setting.read_along, None, {}
    if steered is not None and along.terms:
        scores, effects = _scores(reader, along, setting.drawn(pair.seed), outputs)
        normal, steered = (
            replace(answer, concept_score=score) for answer, score in zip((normal, steered), scores, strict=True)
        )
        if scores[0] is not None and scores[1] is not None:
            effect = scores[1] - scores[0]
    chance = None
    if effect is not None and reader.chance is not None:
        chance = reader.chance.band(total_strength(along), max(answer.tokens for answer in answers))
    return replace(
        pair,
        normal=normal,
        steered=steered,
        effect=effect,
        effects=effects,
        chance=chance,
        diverges_at=None if steered is None else divergence(normal.token_ids, steered.token_ids),
        seconds=seconds,
        tokens_per_second=sum(answer.tokens for answer in answers) / max(seconds, 1e-9),
    )


def _scores(
    reader: Reader, recipe: Recipe, seed: int, outputs: Sequence[Output]
) -> tuple[list[float | None], dict[str, float]]:
    """Both answers' scores along the recipe's direction, and the effect along each of its concepts."""
    from .effect import concept_effects, recipe_scores

    if any(not output.reading.tokens for output in outputs):
        return [None, None], {}
    vectors = reader.vectors(recipe, seed)
    normal, steered = (output.reading.states for output in outputs)
    scores = recipe_scores(recipe, vectors, reader.profile, (normal, steered))
    return scores, concept_effects(recipe, vectors, reader.profile, normal, steered)
