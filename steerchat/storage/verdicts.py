"""What people made of pairs: which to show them blind, and what their verdicts say."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..values.recipe import RANDOM, Recipe, Term
from ..values.results import Answer, Column
from .records import Filters, StoredPair
from .store import Store

# A review draws from so many of the newest pairs: the answers of one sweep would give each other away.
_NEWEST = 500
# Effects that are looked at together, in standard deviations of the neutral corpus.
_EDGES = (0.0, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Blind:
    """A pair whose answers are shown as `a` and `b`."""

    stored: StoredPair
    order: tuple[Column, Column]

    @property
    def answers(self) -> tuple[Answer, Answer]:
        pair = self.stored.pair
        assert pair.steered is not None
        return (pair.normal, pair.steered) if self.order[0] == "normal" else (pair.steered, pair.normal)


def unseen(store: Store, filters: Filters, count: int) -> list[Blind]:
    """Some of the newest pairs that nobody judged and that can be told apart, in no order.

    Args:
        store: the history.
        filters: which pairs; `rated` should be False.
        count: at most.
    """
    found = [stored for stored in store.pairs(filters, limit=_NEWEST) if _tellable(stored)]
    drawn = random.sample(found, min(count, len(found)))
    return [Blind(one, random.choice((("normal", "steered"), ("steered", "normal")))) for one in drawn]


def _tellable(stored: StoredPair) -> bool:
    pair = stored.pair
    named = pair.recipe.active and RANDOM not in pair.recipe.concepts
    different = pair.steered is not None and pair.steered.text != pair.normal.text
    return named and different and stored.status == "complete" and stored.kind != "rerun"  # of a pair that is there


def asked_for(recipe: Recipe) -> str:
    """What a recipe pushes towards: `more happy and less sad`."""
    wanted: dict[str, str] = {}
    for term in recipe.terms:
        for name, weight in term.parts:
            away = term.operation == "ablate" or (term.operation == "add" and weight * term.strength < 0)
            wanted[name] = "less" if away else "more"
    return " and ".join(f"{way} {name}" for name, way in wanted.items())


@dataclass(frozen=True)
class Tally:
    """Verdicts on pairs that have something in common.

    Attributes:
        label: what that is.
        judged: how many.
        steered, ties: how often the steered answer was judged to show the concept, and how often both or none.
        reads: how often the steered answer read better, of `compared`.
        effect: mean of the measured effects; None where none was measured.
    """

    label: str
    judged: int
    steered: int
    ties: int
    reads: int
    compared: int
    effect: float | None

    @property
    def share(self) -> float:
        """Of the verdicts for one of both, those for the steered answer; a half when there is none."""
        decided = self.judged - self.ties
        return self.steered / decided if decided else 0.5

    @property
    def range(self) -> tuple[float, float]:
        """Where that share may well be: 95%, by Wilson's score."""
        decided, z = self.judged - self.ties, statistics.NormalDist().inv_cdf(0.975)
        if not decided:
            return 0.0, 1.0
        middle = (self.share + z * z / (2 * decided)) / (1 + z * z / decided)
        variance = self.share * (1 - self.share) / decided + (z / (2 * decided)) ** 2
        half = z * math.sqrt(variance) / (1 + z * z / decided)
        return max(0.0, middle - half), min(1.0, middle + half)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "share": self.share, "range": list(self.range)}


def tally(label: str, judged: Sequence[StoredPair]) -> Tally:
    """Over at least one judged pair."""
    effects = [one.pair.effect for one in judged if one.pair.effect is not None]
    compared = [one.reads_better for one in judged if one.reads_better in ("steered", "normal")]
    return Tally(
        label,
        len(judged),
        sum(one.rating == "steered" for one in judged),
        sum(one.rating == "tie" for one in judged),
        compared.count("steered"),
        len(compared),
        statistics.fmean(effects) if effects else None,
    )


def by_recipe(judged: Sequence[StoredPair]) -> list[Tally]:
    """By concepts, layers and strengths, as they would be typed; in their order."""
    groups: dict[tuple[Term, ...], list[StoredPair]] = {}
    for one in judged:
        groups.setdefault(one.pair.recipe.terms, []).append(one)
    order = sorted(groups, key=lambda terms: [(term.concept, term.layers, term.strength) for term in terms])
    return [tally(str(Recipe(terms)), groups[terms]) for terms in order]


def by_effect(judged: Sequence[StoredPair]) -> list[Tally]:
    """By what was measured: does the figure say what people see?"""
    measured = [one for one in judged if one.pair.effect is not None]
    edges = (-math.inf, *_EDGES, math.inf)
    found = []
    for low, high in itertools.pairwise(edges):
        inside = [one for one in measured if low <= (one.pair.effect or 0.0) < high]
        if inside:
            found.append(tally(_between(low, high), inside))
    return found


def agreement(judged: Sequence[StoredPair]) -> tuple[int, int]:
    """(agreeing, all): of the verdicts for one answer, those that the sign of the effect agrees with."""
    decided = [one for one in judged if one.rating != "tie" and one.pair.effect]
    return sum((one.rating == "steered") == ((one.pair.effect or 0.0) > 0) for one in decided), len(decided)


def _between(low: float, high: float) -> str:
    if math.isinf(low):
        return f"below {high:g}"
    return f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
