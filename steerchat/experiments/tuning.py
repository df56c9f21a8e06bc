"""/tune: which layers and strength of a concept change most and stay fluent, and keeping them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..concepts.concept import Tuning
from ..conversation.session import Session
from ..measures.shift import token_kl
from ..values.chart import Form, in_form
from ..values.errors import Interrupted, UsageError
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

# Beyond it a budget is not sought; each round of `at_budget` narrows the bracket to a quarter.
MOST = 8.0
_ROUNDS = 3


def grid(recipe: Recipe, layers: Sequence[str], strengths: Sequence[float], n_layers: int) -> list[Setting]:
    """The recipe's first graded term at every pair of layers and strength."""
    places = dict.fromkeys(parse_layers(where, n_layers) for where in layers)
    return [
        Setting(
            format_layers(place),
            replace(recipe, terms=(replace(recipe.graded[0], layers=place, strength=strength),)),
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


@dataclass(frozen=True)
class Budget:
    """What a strength may take.

    Attributes:
        of: `cost`, the perplexity ratio of the answers, or `kl`, how far the distribution of the next token moves
            (`measures.shift`), in nats.
        most: of it.
    """

    of: Literal["cost", "kl"]
    most: float

    def __str__(self) -> str:
        return f"cost x{self.most:g}" if self.of == "cost" else f"KL {self.most:g}"

    def taken(self, outcome: Outcome) -> float | None:
        """What a setting takes of it."""
        return outcome.cost if self.of == "cost" else outcome.kl

    def text(self, amount: float | None) -> str:
        """An amount of it for people."""
        form: Form = "cost" if self.of == "cost" else "number"
        return in_form(form, amount) + ("" if self.of == "cost" else " nats")


DEFAULT_BUDGET = Budget("cost", 1.5)
"""Of comparisons of methods."""


def budget_of(cost: float | None, kl: float | None) -> Budget | None:
    """What somebody asked for; None for neither. Raises UsageError for both."""
    if cost is not None and kl is not None:
        raise UsageError("a budget is a cost or a KL, not both", "leave out --cost or --kl")
    if kl is not None:
        return Budget("kl", kl)
    return None if cost is None else Budget("cost", cost)


def at_budget(session: Session, recipe: Recipe, budget: Budget, prompts: Sequence[str], tokens: int) -> Result:
    """Strengths of a recipe at its layers, closer and closer to the one that takes the whole budget.

    The place where the budget is used up is bracketed by three strengths at a time, since they share a batch.

    Args:
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
        tried, stopped = result.outcomes, result.stopped
        if budget.of == "kl" and not stopped:
            try:
                tried = _with_kl(session, tried)
            except Interrupted:
                tried, stopped = (), True
        outcomes += tried
        if stopped or not tried:
            break
        allowed = within(tried, budget)
        reached = 0 if allowed is None else 1 + tried.index(allowed)
        low, high = [low, *steps, high][reached : reached + 2]
    outcomes.sort(key=lambda outcome: abs(outcome.setting.strength or 0.0))
    return Result("budget", "", tuple(outcomes), len(prompts), stopped)


def _with_kl(session: Session, outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """The outcomes with what their settings do to the distribution of the next token."""
    from ..engine.decoding import Row

    reader = session.reader

    def row(pair: Pair) -> Row:
        messages = session.question(pair.prompt, steered=True).normal
        prompt = reader.engine.prompter.chat(messages, session.settings.thought)
        edits = reader.edits(pair.recipe, pair.seed, pair.prompt)
        return Row(tuple(prompt), edits, scope=pair.recipe.scope)

    answers = [[(row(pair), pair.steered.text) for pair in each.pairs if pair.steered] for each in outcomes]
    moved = token_kl(reader, answers)
    return tuple(replace(outcome, kl=kl) for outcome, kl in zip(outcomes, moved, strict=True))


def within(outcomes: Sequence[Outcome], budget: Budget) -> Outcome | None:
    """The last of ascending strengths before the first that takes more than a budget."""
    taken = map(budget.taken, outcomes)
    over = [amount is None or amount > budget.most for amount in taken]
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

    Raises UsageError for a recipe of anything but one concept.
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
