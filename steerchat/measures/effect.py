"""What steering did and what it cost: each measure has its one definition here.

An effect is the difference of two concept scores (`Profile.score`), read by the unsteered model at the
concept's read layer; a perplexity ratio is the cost (`Pair.perplexity_ratio`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..concepts.vector import ConceptVector, read_layer
from ..values.recipe import Recipe
from .profile import Profile


def recipe_direction(recipe: Recipe, vectors: Mapping[str, ConceptVector]) -> tuple[Tensor, int] | None:
    """A recipe's summed unit direction and the layer it is read at, that of its heaviest concept.

    A negative strength turns its concept's direction round, so that a push away that works is a positive effect.
    None when it pushes nowhere.
    """
    weights: dict[str, float] = {}
    for term in recipe.terms:
        if term.how.graded:
            for name, weight in term.parts:
                weights[name] = weights.get(name, 0.0) + weight * term.strength * term.how.sign
    if not any(weights.values()):
        # At strength 0 there is still a direction to read on: the concepts as they are, and turned round for an
        # ablation, so that one that works is a positive effect too.
        weights = {name: term.how.sign * weight for term in recipe.terms for name, weight in term.parts}
    if not weights:
        return None
    layer = read_layer(vectors[max(weights, key=lambda name: abs(weights[name]))])
    total = torch.stack([vectors[name].directions[layer] * weight for name, weight in weights.items()]).sum(dim=0)
    length = total.norm()
    return (total / length, layer) if length > 1e-6 else None


def recipe_scores(
    recipe: Recipe, vectors: Mapping[str, ConceptVector], profile: Profile, states: Sequence[Tensor]
) -> list[float | None]:
    """The concept score of each text, by its mean states (layers, hidden), along the recipe's direction."""
    found = recipe_direction(recipe, vectors)
    if found is None:
        return [None for _ in states]
    direction, layer = found
    return [profile.score(direction, layer, state[layer]) for state in states]


def concept_effects(
    recipe: Recipe, vectors: Mapping[str, ConceptVector], profile: Profile, normal: Tensor, steered: Tensor
) -> dict[str, float]:
    """How far the steered text moved along each of the recipe's concepts, by itself."""
    return {name: moved(vectors[name], profile, normal, steered) for name in recipe.concepts}


def moved(vector: ConceptVector, profile: Profile, normal: Tensor, steered: Tensor) -> float:
    """The effect along a concept, by both texts' mean states (layers, hidden)."""
    layer = read_layer(vector)
    direction = vector.directions[layer]
    return profile.score(direction, layer, steered[layer]) - profile.score(direction, layer, normal[layer])
