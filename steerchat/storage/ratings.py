"""How users rate pairs: which pairs a blind review shows, and what the ratings say."""

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

# A review draws from this many of the newest pairs: the pairs of one sweep share their normal answer, and a repeated
# answer would show which one is steered.
_NEWEST = 500
_MOST = 100_000  # pairs that are counted
# Bounds of the groups of effects, in standard deviations of the neutral corpus.
_EDGES = (0.0, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Blind:
    """A pair whose answers are shown as `a` and `b`, in random order."""

    stored: StoredPair
    order: tuple[Column, Column]

    @property
    def answers(self) -> tuple[Answer, Answer]:
        pair = self.stored.pair
        assert pair.steered is not None
        return (pair.normal, pair.steered) if self.order[0] == "normal" else (pair.steered, pair.normal)


def unseen(store: Store, filters: Filters, count: int) -> list[Blind]:
    """Some of the newest pairs that a blind review can show, in random order.

    `filters`: which pairs; `rated` should be False.
    """
    pairs = [stored for stored in store.pairs(filters, limit=_NEWEST) if _reviewable(stored)]
    drawn = random.sample(pairs, min(count, len(pairs)))
    return [Blind(stored, random.choice((("normal", "steered"), ("steered", "normal")))) for stored in drawn]


def _reviewable(stored: StoredPair) -> bool:
    """Whether both answers are complete and differ, and a concept's name can be asked for. A rerun repeats a pair."""
    pair = stored.pair
    named = pair.recipe.active and RANDOM not in pair.recipe.concepts
    different = pair.steered is not None and pair.steered.text != pair.normal.text
    return named and different and stored.status == "complete" and stored.kind != "rerun"


def asked_for(recipe: Recipe) -> str:
    """What a recipe should change, in words: `more happy and less sad`."""
    wanted: dict[str, str] = {}
    for term in recipe.terms:
        for name, weight in term.parts:
            away = weight * (term.strength if term.how.graded else 1.0) * term.how.sign < 0
            wanted[name] = "less" if away else "more"
    return " and ".join(f"{way} {name}" for name, way in wanted.items())


@dataclass(frozen=True)
class Tally:
    """Ratings of a group of pairs, counted."""

    label: str  # what the pairs have in common
    judged: int  # rated pairs
    steered: int  # how many were rated `steered`
    ties: int  # how many were rated `tie`
    reads: int  # how often the steered answer read better
    compared: int  # how often one of the two answers read better
    effect: float | None  # mean of the measured effects; None where none was measured

    @property
    def share(self) -> float:
        """The steered answer's share of the ratings that are not ties; 0.5 without any."""
        decided = self.judged - self.ties
        return self.steered / decided if decided else 0.5

    @property
    def range(self) -> tuple[float, float]:
        """The 95% confidence interval of that share (Wilson's score interval)."""
        decided, z = self.judged - self.ties, statistics.NormalDist().inv_cdf(0.975)
        if not decided:
            return 0.0, 1.0
        middle = (self.share + z * z / (2 * decided)) / (1 + z * z / decided)
        variance = self.share * (1 - self.share) / decided + (z / (2 * decided)) ** 2
        half = z * math.sqrt(variance) / (1 + z * z / decided)
        return max(0.0, middle - half), min(1.0, middle + half)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "share": self.share, "range": list(self.range)}


def rated_pairs(store: Store, filters: Filters) -> list[StoredPair]:
    """The steered pairs with a verdict, the newest first; `rated` of the filters should be True."""
    return [stored for stored in store.pairs(filters, limit=_MOST) if stored.pair.steered is not None]


def tally(label: str, judged: Sequence[StoredPair]) -> Tally:
    """Counts the ratings of at least one rated pair."""
    ratings = [stored.rating for stored in judged]
    effects = [stored.pair.effect for stored in judged if stored.pair.effect is not None]
    compared = [stored.reads_better for stored in judged if stored.reads_better in ("steered", "normal")]
    return Tally(
        label,
        len(judged),
        ratings.count("steered"),
        ratings.count("tie"),
        compared.count("steered"),
        len(compared),
        statistics.fmean(effects) if effects else None,
    )


def by_recipe(judged: Sequence[StoredPair]) -> list[Tally]:
    """A tally for each recipe, ordered by concept, layers and strength."""
    groups: dict[tuple[Term, ...], list[StoredPair]] = {}
    for stored in judged:
        groups.setdefault(stored.pair.recipe.terms, []).append(stored)
    order = sorted(groups, key=lambda terms: [(term.concept, term.layers, term.strength) for term in terms])
    return [tally(str(Recipe(terms)), groups[terms]) for terms in order]


def by_effect(judged: Sequence[StoredPair]) -> list[Tally]:
    """A tally for each range of effects, which shows whether the measure agrees with the users."""
    measured = [stored for stored in judged if stored.pair.effect is not None]
    tallies = []
    for low, high in itertools.pairwise((-math.inf, *_EDGES, math.inf)):
        group = [stored for stored in measured if low <= (stored.pair.effect or 0.0) < high]
        if group:
            tallies.append(tally(_range_label(low, high), group))
    return tallies


def agreement(judged: Sequence[StoredPair]) -> tuple[int, int]:
    """Of the ratings that are not ties, how many the sign of the effect agrees with, and how many there are."""
    decided = [stored for stored in judged if stored.rating != "tie" and stored.pair.effect]
    agreeing = [stored for stored in decided if (stored.rating == "steered") == ((stored.pair.effect or 0.0) > 0)]
    return len(agreeing), len(decided)


def _range_label(low: float, high: float) -> str:
    if math.isinf(low):
        return f"below {high:g}"
    return f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
