"""/tune: which layers and strength of a concept change most and stay fluent, and keeping them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..concepts.concept import Tuning
from ..conversation.session import Session
from ..values.errors import UsageError
from ..values.operation import ADD
from ..values.recipe import RANDOM, Recipe, format_layers, parse_layers
from ..values.results import Pair
from ..values.setting import Setting
from .outcomes import Outcome, Result, outcomes_of
from .run import experiment
from .settings import at_strengths

# Where it looks: single layers through the depth, and two ranges.
LAYERS = ("25%", "40%", "50%", "60%", "70%", "80%", "90%", "33%-60%", "60%-90%")
STRENGTHS = (1.0, 2.0, 3.0)
# At a place that somebody named.
FINER = (1.0, 1.25, 1.5, 1.75, 2.0, 2.3, 2.6, 3.0)

# Beyond it a budget is not sought; each round of `at_cost` narrows the bracket to a quarter.
MOST = 8.0
_ROUNDS = 3


def grid(recipe: Recipe, layers: Sequence[str], strengths: Sequence[float], n_layers: int) -> list[Setting]:
    """The recipe's first term at every pair of layers and strength."""
    places = dict.fromkeys(parse_layers(where, n_layers) for where in layers)
    return [
        Setting(
            format_layers(place),
            replace(recipe, terms=(replace(recipe.terms[0], layers=place, strength=strength),)),
            place[0] if len(place) == 1 else None,
            strength,
        )
        for place in places
        for strength in strengths
    ]


def tune(session: Session, settings: Sequence[Setting], prompts: Sequence[str], tokens: int) -> Result:
    """Every setting on every prompt; a stop keeps the prompts that were finished."""
    pairs: dict[Setting, list[Pair]] = {}
    for number, prompt in enumerate(prompts, 1):
        label = f"tune: prompt {number} of {len(prompts)}"
        result = experiment(session, "tune", prompt, settings, 1, tokens=tokens, label=label)
        for outcome in result.outcomes:
            pairs.setdefault(outcome.setting, []).extend(outcome.pairs)
        if result.stopped:
            break
    chance = session.calibration.chance(session.engine.fingerprint)
    return Result("tune", "", outcomes_of(chance, pairs), len(prompts), session.stop.is_set())


def at_cost(session: Session, recipe: Recipe, budget: float, prompts: Sequence[str], tokens: int) -> Result:
    """Strengths of a recipe at its layers, closer and closer to the one whose cost reaches a budget.

    The place where the cost crosses the budget is bracketed by three strengths at a time, since they share a batch.

    Args:
        budget: a perplexity ratio.
        prompts: each strength answers all of them; a stop keeps the rounds that were finished.

    Returns:
        the strengths in ascending order of size; `within` finds the one that the budget allows.
    """
    low, high, sign = 0.0, MOST, math.copysign(1.0, recipe.graded[0].strength)
    outcomes: list[Outcome] = []
    stopped = False
    for _ in range(_ROUNDS):
        steps = [low + (high - low) * part / 4 for part in (1, 2, 3)]
        result = tune(session, at_strengths(recipe, [sign * step for step in steps]), prompts, tokens)
        outcomes += result.outcomes
        stopped = result.stopped
        if stopped or not result.outcomes:
            break
        allowed = within(result.outcomes, budget)
        reached = 0 if allowed is None else 1 + result.outcomes.index(allowed)
        low, high = [low, *steps, high][reached : reached + 2]
    outcomes.sort(key=lambda outcome: abs(outcome.setting.strength or 0.0))
    return Result("cost", "", tuple(outcomes), len(prompts), stopped)


def within(outcomes: Sequence[Outcome], budget: float) -> Outcome | None:
    """The last of ascending strengths before the first whose cost exceeds a budget."""
    over = [outcome.cost is None or outcome.cost > budget for outcome in outcomes]
    allowed = over.index(True) if True in over else len(over)
    return outcomes[allowed - 1] if allowed else None


def tuned(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The fluent setting that changes most, by the word measure where there is one, else by the effect.

    With few prompts a setting is rarely surer than chance by itself, so only those that chance explains are left out.
    """
    useful = [
        outcome
        for outcome in outcomes
        if outcome.fluency == "fluent"
        and outcome.clarity not in ("within chance", "the wrong way")
        and (outcome.effect or 0.0) > 0
        and (outcome.gain or 0.0) > 0
    ]
    return max(useful, key=lambda outcome: outcome.gain or 0.0, default=None)


def keep(session: Session, recipe: Recipe) -> str:
    """Keep a recipe of one concept as what is recommended for it on this model. Returns the concept's name.

    Raises:
        UsageError: for a recipe of anything but one concept.
    """
    adding = [term for term in recipe.terms if term.operation == ADD]
    if len(adding) != 1 or len(adding[0].parts) != 1 or adding[0].concept == RANDOM:
        raise UsageError("only a recipe of one concept can be kept", "/steer happy 16 2.0, then /tune keep")
    term, library = adding[0], session.library
    concept = library.get(term.concept)
    fresh = Tuning(session.engine.fingerprint, format_layers(term.layers), term.strength)
    others = tuple(tuning for tuning in concept.tuned if tuning.fingerprint != fresh.fingerprint)
    library.save(replace(concept, tuned=(*others, fresh)))
    return concept.name
