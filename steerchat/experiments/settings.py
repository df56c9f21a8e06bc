"""The settings of experiments: a recipe at every layer, at many strengths, or with its controls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from ..conversation.session import Session
from ..values.errors import UsageError
from ..values.recipe import (
    RANDOM,
    Recipe,
    Term,
    TermRequest,
    format_strength,
    parse_layers,
    parse_parts,
    parse_strength,
)
from ..values.setting import Setting

# From pushing away to too much.
STRENGTHS = (-4.0, -2.0, 0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def chosen(
    session: Session, concept: str | None, layer: str | int | None = None, strength: float | None = None
) -> Recipe:
    """The recipe that an experiment is about: a concept's or a mix's own, else the session's.

    Raises UsageError when nothing is steered, or what is steered adds nothing, and for a strength out of bounds.
    """
    layer = None if layer is None else str(layer)
    strength = None if strength is None else parse_strength(str(strength))
    if concept is None:
        recipe = replace(session.recipe, on=True, scope=session.settings.scope)
        terms = [_at(term, layer, strength, session) for term in recipe.terms]
        recipe = replace(recipe, terms=tuple(terms))
    else:
        term, _ = session.resolve(TermRequest(parse_parts(concept), layer, strength))
        recipe = Recipe((term,), session.settings.scope)
    if not recipe.graded:
        raise UsageError("nothing is steered", "/steer happy first, or name one with --concept happy")
    return recipe


def _at(term: Term, layer: str | None, strength: float | None, session: Session) -> Term:
    layers = term.layers if layer is None else parse_layers(layer, session.engine.n_layers)
    return replace(term, layers=layers, strength=term.strength if strength is None else strength)


def at_layers(recipe: Recipe, n_layers: int) -> list[Setting]:
    """The recipe at each layer by itself, all of its terms together."""

    def moved(layer: int) -> Recipe:
        return replace(recipe, terms=tuple(replace(term, layers=(layer,)) for term in recipe.terms))

    strength = recipe.graded[0].strength
    return [Setting(str(layer), moved(layer), layer, strength) for layer in range(n_layers)]


def at_strengths(recipe: Recipe, strengths: Sequence[float]) -> list[Setting]:
    """The recipe at each strength of its first graded term; further ones keep their share."""
    lead = recipe.graded[0]
    strengths = [parse_strength(str(strength)) for strength in strengths]

    def scaled(strength: float) -> Recipe:
        terms = [
            replace(term, strength=strength * (term.strength / lead.strength if lead.strength else 1.0))
            if term.how.graded
            else term
            for term in recipe.terms
        ]
        return replace(recipe, terms=tuple(terms))

    layer = lead.layers[0] if len(lead.layers) == 1 else None
    return [
        Setting(format_strength(strength), scaled(strength), layer, strength) for strength in dict.fromkeys(strengths)
    ]


def with_controls(session: Session, recipe: Recipe, raw: bool) -> list[Setting]:
    """The recipe; the same along random directions, another for each seed; and, in a chat, asking for it in the prompt.

    A level is a concept's own, so a random direction gets the one that lies as far from ordinary text.
    """
    reader = session.reader
    levels = {term: reader.distance(term) for term in recipe.terms if term.how.number == "level"}
    random = Recipe(
        tuple(
            replace(term, parts=((RANDOM, 1.0),), strength=round(levels.get(term, term.strength), 2))
            for term in recipe.terms
        ),
        recipe.scope,
    )
    weights = [
        (name, weight * (term.strength if term.how.graded else term.how.sign))
        for term in recipe.terms
        for name, weight in term.parts
    ]
    wanted = [name for name, weight in weights if weight > 0 and name != RANDOM]
    settings = [Setting("steered", recipe), Setting("random push", random, along=recipe)]
    if wanted and not raw:
        asking = " ".join(session.library.get(name).request for name in dict.fromkeys(wanted))
        settings.append(Setting.asked_for(recipe, asking))
    return settings


def mix_notes(session: Session, term: Term) -> list[str]:
    """A mix in words: its weights as they count, and the angles between its parts where it is pushed first.

    Raises ConceptError when the parts cancel out at one of its layers.
    """
    reader = session.reader
    reader.edits(Recipe((term,)), session.settings.seed)
    if len(term.parts) == 1:
        return []
    layer = term.layers[0]
    vectors = [reader.vector(name) for name, _ in term.parts]
    weights = ", ".join(f"{name} {100 * weight:.0f}%" for name, weight in term.parts)
    angles = ", ".join(
        f"{a.name} and {b.name} {math.degrees(math.acos(max(-1.0, min(1.0, float(a.cosine(b)[layer]))))):.0f} degrees"
        for a, b in itertools.combinations(vectors, 2)
    )
    return [f"weights {weights}; angles at layer {layer}: {angles}"]
