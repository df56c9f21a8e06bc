"""The results of an experiment: the outcome of each setting over seeds, and all outcomes together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..measures.chance import Chance, clarity, fluency, total_strength
from ..measures.words import INDEPENDENT, RATES, spread
from ..values.results import Pair, html, mean_cost, plot
from ..values.setting import Setting

# From how many repeats on side effects are told, and beyond how many standard errors a gain is one.
_FEWEST_REPEATS, _BEYOND = 4, 4.0


@dataclass(frozen=True)
class Outcome:
    """The measured pairs of one setting, at least one, and their means.

    Attributes:
        chance: (low, high) of meaningless effects, for a mean over as many pairs; None where it was never measured.
        kl: how far the setting moves the distribution of the next token (`measures.shift`); None where nobody asked.
    """

    setting: Setting
    pairs: tuple[Pair, ...]
    chance: tuple[float, float] | None
    kl: float | None = None

    @cached_property
    def effects(self) -> list[float]:
        return [pair.effect for pair in self.pairs if pair.effect is not None]

    @property
    def effect(self) -> float | None:
        return statistics.fmean(self.effects) if self.effects else None

    @property
    def towards(self) -> float | None:
        """The effect along the concept itself: a push away that works is below 0."""
        return -self.effect if self.effect is not None and (self.setting.strength or 0.0) < 0 else self.effect

    @property
    def spread(self) -> float | None:
        """Standard deviation of the effects over the seeds."""
        return statistics.stdev(self.effects) if len(self.effects) > 1 else None

    @property
    def cost(self) -> float | None:
        return mean_cost(self.pairs)

    @property
    def repetition(self) -> float:
        return statistics.fmean(pair.steered.repetition or 0.0 for pair in self.pairs if pair.steered is not None)

    @property
    def words(self) -> float | None:
        """Gain by the concept's own word measure, which does not use its vector; None where there is none."""
        recipe = self.setting.read_along
        if len(recipe.concepts) != 1 or recipe.concepts[0] not in INDEPENDENT:
            return None
        measure = INDEPENDENT[recipe.concepts[0]]
        texts = [(pair.normal.reply, pair.steered.reply) for pair in self.pairs if pair.steered is not None]
        return statistics.fmean(measure.towards(steered) - measure.towards(normal) for normal, steered in texts)

    @cached_property
    def side_effects(self) -> dict[str, float]:
        """Gains of other concepts' word measures that chance does not explain, in spreads, the largest first.

        A gain counts from four repeats on, when it is beyond four times its standard error: fifteen measures are
        looked at, so that twice would find one by chance alone in most comparisons.
        """
        texts = [(pair.normal.reply, pair.steered.reply) for pair in self.pairs if pair.steered is not None]
        if len(texts) < _FEWEST_REPEATS:
            return {}
        moved = {}
        for name in RATES:
            measure = INDEPENDENT[name]
            gains = [measure.towards(steered) - measure.towards(normal) for normal, steered in texts]
            mean, error = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
            if name not in self.setting.read_along.concepts and abs(mean) > _BEYOND * error:
                moved[name] = mean / spread(measure, [normal for normal, _ in texts])
        return dict(sorted(moved.items(), key=lambda item: -abs(item[1])))

    @property
    def gain(self) -> float | None:
        """The gain by the word measure where there is one, else the effect."""
        return self.effect if self.words is None else self.words

    @property
    def clarity(self) -> str | None:
        """The effect in a word or two; None without a chance band."""
        return clarity(self.effects, self.chance) if self.effects and self.chance is not None else None

    @property
    def fluency(self) -> str:
        return fluency(math.inf if self.cost is None else self.cost, self.repetition)

    @property
    def verdict(self) -> str:
        return ", ".join(filter(None, (self.clarity, self.fluency)))

    @property
    def shows(self) -> bool:
        """Whether it moved as it should by more than chance (without a band: than its own error), still fluent."""
        if self.fluency != "fluent" or self.effect is None:
            return False
        if self.clarity is not None:
            return self.clarity in ("likely", "clear")
        return self.effect > 2 * (self.spread or 0.0) / math.sqrt(len(self.effects))

    def objects(self) -> Iterator[dict[str, Any]]:
        """A JSON object for each pair, as `compare` gives it."""
        for pair in self.pairs:
            control = {"control": self.setting.label} if self.setting.along is not None else {}
            yield pair.to_json() | control | ({} if self.kl is None else {"kl": self.kl})


@dataclass(frozen=True)
class Result:
    """The outcomes of an experiment that ended or was stopped.

    Attributes:
        seeds: the number of seeds that were asked for.
        stopped: whether the user stopped it.
    """

    kind: str
    prompt: str
    outcomes: tuple[Outcome, ...]
    seeds: int
    stopped: bool
    experiment: int | None = None

    def __repr__(self) -> str:
        return f"<{self.kind}: {len(self.outcomes)} settings, {self.finished} of {self.seeds} seeds, {self.prompt!r}>"

    def _repr_html_(self) -> str | None:
        return html(self)

    def plot(self) -> Any:
        """Its chart as a figure of matplotlib, which `savefig` writes. Raises UsageError without the extra `plot`."""
        return plot(self)

    def objects(self) -> list[dict[str, Any]]:
        """A JSON object for each pair, as the shell gives them."""
        return [item | {"experiment": self.experiment} for outcome in self.outcomes for item in outcome.objects()]

    @property
    def finished(self) -> int:
        """Pairs of the setting that has most."""
        return max((len(outcome.pairs) for outcome in self.outcomes), default=0)


def outcomes_of(chance: Chance | None, pairs: Mapping[Setting, Sequence[Pair]]) -> tuple[Outcome, ...]:
    """The outcome of each setting that has a measured pair.

    It is over the pairs that came to their end or, when none did, over those that were cut short.

    Args:
        chance: the model's; None where it was never measured.
        pairs: those of each setting, whatever became of them.
    """
    outcomes = []
    for setting, of_setting in pairs.items():
        measured = [pair for pair in of_setting if pair.effect is not None]
        used = tuple([pair for pair in measured if not _cut(pair)] or measured)
        if used:
            # The one place where a chance band joins a mean over seeds.
            tokens = statistics.fmean(max(answer.tokens for answer in pair.answers) for pair in used)
            strength = total_strength(setting.read_along)
            outcomes.append(Outcome(setting, used, chance and chance.band(strength, tokens, len(used))))
    return tuple(outcomes)


def _cut(pair: Pair) -> bool:
    return any(answer.finish == "interrupted" for answer in pair.answers)


def best(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The largest effect that shows; None when none does."""
    showing = (outcome for outcome in outcomes if outcome.shows)
    return max(showing, key=lambda outcome: outcome.effect or 0.0, default=None)


def alike(outcomes: Sequence[Outcome], peak: Outcome, share: float = 0.75) -> list[Outcome]:
    """The unbroken run around `peak` of settings that show at least `share` of its effect."""
    middle = outcomes.index(peak)
    least = share * (peak.effect or 0.0)
    good = [outcome.shows and (outcome.effect or 0.0) >= least for outcome in outcomes]
    low = high = middle
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(good) and good[high + 1]:
        high += 1
    return list(outcomes[low : high + 1])
