"""The chance band: the effects that pushes without meaning produce, and the verdict that it allows.

Any push changes the text, and a changed text scores differently along any direction. How differently is measured
once for a model, by random directions of the same size read along every concept (`measure_chance` in
`experiments.chance`), and kept. An effect inside the band is no effect.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from ..system.untrusted import read_json
from ..values.recipe import MAX_STRENGTH, RANDOM, Recipe
from ..values.results import Pair

# Largest file that is read, in bytes.
MOST = 1 << 20
# Two-sided 95% of a normal distribution.
_Z = 1.96
# Perplexity ratios up to which an answer is fluent, and up to which it only loses fluency.
_FLUENT, _LOSING = 2.0, 4.0
_MOST_REPETITION = 0.3


@dataclass(frozen=True)
class ChanceCell:
    """Effects of random pushes at one strength on answers of one length.

    Attributes:
        strength: of the push.
        tokens: length of the answers.
        mean: of all effects, in standard deviations of the neutral corpus.
        between: standard deviation of a direction's means on one prompt: what more seeds do not average away.
        within: standard deviation of single pairs around such a mean.
    """

    strength: float
    tokens: int
    mean: float
    between: float
    within: float


@dataclass(frozen=True)
class Chance:
    """A model's chance bands."""

    fingerprint: str
    cells: tuple[ChanceCell, ...]

    def band(self, strength: float, tokens: float, repeats: int = 1) -> tuple[float, float]:
        """(low, high) between which 95% of meaningless effects fall.

        Args:
            strength: of the recipe, see `total_strength`; the nearest measured one counts.
            tokens: length of the answers; likewise.
            repeats: over how many pairs the effect is a mean.
        """
        cell = min(
            self.cells,
            key=lambda c: (abs(math.log(c.tokens / max(1.0, tokens))), abs(c.strength - abs(strength))),
        )
        half = _Z * math.hypot(cell.between, cell.within / math.sqrt(max(1, repeats)))
        return cell.mean - half, cell.mean + half

    def to_json(self) -> dict[str, object]:
        return {"fingerprint": self.fingerprint, "cells": [asdict(cell) for cell in self.cells]}


def load_chance(path: Path, fingerprint: str) -> Chance | None:
    """What `Chance.to_json` gave, from a file; None for another model's, a broken or a missing one."""
    try:
        data = read_json(path, MOST)
        if data["fingerprint"] != fingerprint:
            return None
        cells = tuple(ChanceCell(**cell) for cell in data["cells"])
        sound = all(math.isfinite(figure) for cell in cells for figure in astuple(cell))
        if not sound or min((cell.tokens for cell in cells), default=0) < 1:
            return None
        return Chance(fingerprint, cells)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def total_strength(recipe: Recipe) -> float:
    """The strength of a whole recipe: its terms are nearly orthogonal, so their squares add up.

    How far an aim, a cap, an ablation or a replacement moves a state is up to the state. So a recipe with one of them
    counts as stronger than every push that was measured, and has the band of the strongest.
    """
    if len(recipe.graded) < len(recipe.terms):
        return MAX_STRENGTH
    return math.hypot(*[term.strength for term in recipe.graded], 0.0)


def clarity(effects: Sequence[float], band: tuple[float, float]) -> str:
    """A mean effect in words: below the band (the wrong way), within chance, above (likely), or clear.

    A clear one is above the band by more than its own uncertainty.

    Args:
        effects: of the repeats, at least one.
        band: for as many repeats.
    """
    mean, (low, high) = statistics.fmean(effects), band
    if mean < low:
        return "the wrong way"
    if mean <= high:
        return "within chance"
    if len(effects) < 4:
        return "likely"
    error = _Z * statistics.stdev(effects) / math.sqrt(len(effects))
    return "clear" if mean - error > high else "likely"


def fluency(perplexity_ratio: float, repetition: float = 0.0) -> str:
    """What an answer's cost means: fluent, losing fluency, or incoherent."""
    if perplexity_ratio > _LOSING or repetition > _MOST_REPETITION:
        return "incoherent"
    return "fluent" if perplexity_ratio <= _FLUENT else "losing fluency"


def verdict(pair: Pair, advise: bool = True) -> str | None:
    """One pair in words; None when it was not steered or there is no band to judge it by.

    `advise`: say what to try next.
    """
    if pair.steered is None or pair.effect is None or pair.chance is None or pair.perplexity_ratio is None:
        return None
    if pair.never_pushed:
        return "not pushed: its gate never opened"
    seen = clarity([pair.effect], pair.chance)
    reads = fluency(pair.perplexity_ratio, pair.steered.repetition or 0.0)
    graded = any(term.strength for term in pair.recipe.graded)
    if not advise or not graded or pair.recipe.concepts == (RANDOM,):
        return f"{seen}, {reads}"
    advice = "one pair; /compare --repeats 5 for more"
    if reads != "fluent":
        advice = "try a smaller strength"
    elif seen == "within chance":
        advice = "try more strength, or /compare --repeats 5"
    return f"{seen}, {reads} ({advice})"
