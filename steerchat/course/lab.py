"""Measurements for lessons: settings against normal answers and random directions, as figures that a lesson can judge.

Everything is measured on the model at hand. Answers to the same prompts with the same seeds differ by the setting
alone; what random directions of the same strength do to them is the chance that a setting has to beat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..conversation.runner import Plan, Runner
from ..engine.sampling import Sampling
from ..experiments.evaluation import questions, random_settings
from ..experiments.outcomes import Outcome
from ..measures.calibration import Calibration
from ..measures.chance import Chance, ChanceCell
from ..measures.pair import Reader
from ..values.errors import Interrupted
from ..values.operation import ADD
from ..values.recipe import Recipe, Term, parse_layers
from ..values.results import Pair, Report, drain
from ..values.setting import Setting

if TYPE_CHECKING:
    from ..concepts.library import Library
    from ..engine.engine import Engine, Output

PROMPTS = ("Tell me about the weather", "Describe your favourite place")
SEEDS = range(5)
TOKENS = 40
DIRECTIONS = 4


@dataclass(frozen=True)
class Comparison:
    """A setting against normal answers and random directions, over every prompt and seed.

    Attributes:
        outcome: of the setting; its chance band is that of random directions measured in the same run.
        random: of the random directions, read along the setting's recipe; None where they were not measured.
    """

    term: Term
    outcome: Outcome
    random: Outcome | None

    @property
    def effects(self) -> list[float]:
        """One a pair of answers, in standard deviations of the neutral corpus."""
        return self.outcome.effects

    @property
    def effect(self) -> float:
        return self.outcome.effect or 0.0

    @property
    def chance(self) -> tuple[float, float]:
        return self.outcome.chance or (0.0, 0.0)

    @property
    def cost(self) -> float:
        """Perplexity ratio, geometric mean; NaN when no answer could be read."""
        return math.nan if self.outcome.cost is None else self.outcome.cost

    @property
    def repetition(self) -> float:
        return self.outcome.repetition

    @property
    def words(self) -> float | None:
        """Mean gain by the concept's word list, towards the concept; None without such a list."""
        return self.outcome.words

    @property
    def random_words(self) -> float | None:
        return 0.0 if self.random is None else self.random.words

    @property
    def verdict(self) -> str:
        return self.outcome.verdict

    @property
    def sample(self) -> str:
        """The first steered answer."""
        return texts(self.outcome.pairs)[0]

    @property
    def same(self) -> int:
        """How many steered answers equal the normal one, token for token."""
        return sum(pair.diverges_at is None for pair in self.outcome.pairs)

    @property
    def facts(self) -> dict[str, float]:
        figures = {
            "effect": self.effect,
            "low": self.chance[0],
            "high": self.chance[1],
            "cost": self.cost,
            "repetition": self.repetition,
            "same": self.same,
            "answers": len(self.outcome.pairs),
        }
        if self.words is not None and self.random_words is not None:
            figures |= {"words": self.words, "random_words": self.random_words}
        return figures


class Lab:
    """Measures on one model, and remembers the answers while the chat runs.

    Args:
        engine: the model.
        library: the concepts.
        report: receives progress.
        stopped: asked between steps; Interrupted is raised once it returns True.
    """

    def __init__(self, engine: Engine, library: Library, report: Report, stopped: Callable[[], bool]) -> None:
        self.engine = engine
        self.library = library
        self._calibration = Calibration(library)
        self._report = report
        self._stopped = stopped
        self._memo: dict[object, Output] = {}

    @property
    def reader(self) -> Reader:
        """The concepts of the model as they are now."""
        return Reader(self.engine, self.library, self._calibration, self._report, self._stopped)

    def term(self, concept: str, layers: str = "", strength: float | None = None, operation: str = ADD) -> Term:
        """A concept where it is recommended on this model, unless layers or strength are given."""
        recommended, guess, _ = self.library.recommended(concept, self.engine.fingerprint)
        chosen = parse_layers(layers or recommended, self.engine.n_layers)
        return Term(((concept, 1.0),), chosen, guess if strength is None else strength, operation)

    def pairs(self, settings: Sequence[Setting], prompts: Sequence[str] = PROMPTS) -> list[list[Pair]]:
        """The pairs of each setting, over every prompt and seed; answers that are remembered are not given again."""
        plan = Plan(Sampling(max_tokens=TOKENS), thought=False, label=f"answering under {len(settings)} settings")
        trials = drain(Runner(self.reader, self._memo).run(questions(prompts), settings, SEEDS, plan))
        if self._stopped():
            raise Interrupted(plan.label)
        return [[trial.pair for trial in trials if trial.setting == index] for index in range(len(settings))]

    def compare(self, terms: Sequence[Term], prompts: Sequence[str] = PROMPTS, chance: bool = True) -> list[Comparison]:
        """Each term against normal answers, all in one run.

        Args:
            terms: what is steered.
            prompts: what is answered.
            chance: whether to measure random directions too, which takes four times as long as the terms. A push of
                strength 0 has no chance to beat: whatever it changes is a mistake.
        """
        settings = [setting(term) for term in terms]
        controls = {term: random_settings(added(term), DIRECTIONS) for term in terms if term.strength and chance}
        flat = [control for several in controls.values() for control in several]
        found = self.pairs([*settings, *flat], prompts)
        random = dict(zip(flat, found[len(settings) :], strict=True))
        return [
            self._comparison(term, pairs, [random[control] for control in controls.get(term, ())])
            for term, pairs in zip(terms, found, strict=False)
        ]

    def _comparison(self, term: Term, pairs: Sequence[Pair], random: Sequence[Sequence[Pair]]) -> Comparison:
        """Of a term's pairs and those of each random direction."""
        outcome = Outcome(setting(term), tuple(pairs), None)
        if not random:
            return Comparison(term, outcome, None)
        effects = np.array([[pair.effect or 0.0 for pair in direction] for direction in random])
        band = self._chance(term, effects).band(term.strength, TOKENS, len(pairs))
        control = replace(outcome.setting, along=Recipe((added(term),)))
        pushed = Outcome(control, tuple(pair for direction in random for pair in direction), None)
        return Comparison(term, replace(outcome, chance=band), pushed)

    def _chance(self, term: Term, effects: np.ndarray) -> Chance:
        """The chance band of random effects, (directions, pairs)."""
        within = effects.var(axis=1, ddof=1).mean()
        between = effects.mean(axis=1).var(ddof=1) - within / effects.shape[1] if len(effects) > 1 else 0.0
        cell = ChanceCell(
            term.strength, TOKENS, float(effects.mean()), math.sqrt(max(0.0, between)), float(math.sqrt(within))
        )
        return Chance(self.engine.fingerprint, (cell,))


def added(term: Term) -> Term:
    """The same term as an addition: a direction is read alike, whatever is done with it."""
    return replace(term, operation=ADD)


def setting(term: Term, along: Term | None = None) -> Setting:
    """A term as a setting of the lab: `random` means the same direction in every answer."""
    read = added(term) if along is None else along
    return Setting(str(term), Recipe((term,)), along=Recipe((read,)), direction=0)


def texts(pairs: Sequence[Pair]) -> list[str]:
    """The steered answers of pairs."""
    return [pair.steered.text for pair in pairs if pair.steered is not None]
