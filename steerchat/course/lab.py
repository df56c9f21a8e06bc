"""Measurements for lessons: settings against normal answers and random directions.

Everything is measured on the model of the chat. Answers to the same prompts with the same seeds differ by the setting
alone. A setting has to beat the model's chance band. Where the model has none, random directions give one on the spot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from ..conversation.runner import Runner
from ..experiments.chance import spreads
from ..experiments.evaluation import random_settings
from ..experiments.outcomes import Outcome
from ..measures.chance import Chance, ChanceCell, total_strength
from ..measures.reader import Reader
from ..values.operation import ADD
from ..values.recipe import Recipe, Term, parse_layers
from ..values.results import Pair
from ..values.setting import Setting
from ..values.text import counted

if TYPE_CHECKING:
    from ..conversation.session import Session
    from ..engine.engine import Output

PROMPTS = ("Tell me about the weather", "Describe your favourite place")
SEEDS = range(5)
TOKENS = 40
# Random directions that give a chance band, and those that words are compared with.
BAND_DIRECTIONS, WORD_DIRECTIONS = 4, 2


@dataclass(frozen=True)
class Comparison(Outcome):
    """The outcome of a term over every prompt and seed.

    `random`: what came of random directions in the same run, read along the term; None where none were asked for.
    """

    random: Outcome | None = None

    @property
    def sample(self) -> str:
        """The first steered answer."""
        return texts(self.pairs)[0]

    @property
    def facts(self) -> dict[str, float]:
        """Its figures. `cost` is NaN when no answer could be read; `words` needs a word list for the concept, and
        `random_words` random directions too."""
        low, high = self.chance or (0.0, 0.0)
        facts = {
            "effect": self.effect or 0.0,
            "low": low,
            "high": high,
            "cost": math.nan if self.cost is None else self.cost,
            "repetition": self.repetition,
            "same": sum(pair.diverges_at is None for pair in self.pairs),
            "answers": len(self.pairs),
        }
        if self.words is not None:
            facts["words"] = self.words
            if self.random is not None:
                facts["random_words"] = self.random.words or 0.0
        return facts


class Lab:
    """Measures on the model of a conversation, and remembers the answers while the chat runs."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.engine = session.engine
        self._memo: dict[object, Output] = {}

    @property
    def reader(self) -> Reader:
        """The concepts of the model as they are now."""
        return self.session.reader

    def term(self, concept: str, layers: str = "", strength: float | None = None, operation: str = ADD) -> Term:
        """A concept with the layers and strength that are recommended on this model, unless others are given."""
        recommended, guess, _ = self.session.library.recommended(concept, self.engine.fingerprint)
        chosen = parse_layers(layers or recommended, self.engine.n_layers)
        return Term(((concept, 1.0),), chosen, guess if strength is None else strength, operation)

    def pairs(self, settings: Sequence[Setting], prompts: Sequence[str] = PROMPTS) -> list[list[Pair]]:
        """The pairs of each setting, over every prompt and seed. Remembered answers are not generated again."""
        label = f"answering {counted(len(prompts) * len(SEEDS) * (len(settings) + 1), 'time')}"
        trials = Runner(self.reader, self._memo).measure(prompts, settings, SEEDS, TOKENS, label)
        return [[trial.pair for trial in of_setting] for of_setting in trials]

    def compare(
        self, terms: Sequence[Term], prompts: Sequence[str] = PROMPTS, chance: bool = True, words: bool = False
    ) -> list[Comparison]:
        """Each term against normal answers, all in one run.

        Args:
            chance: whether effects are judged by a chance band. A push of strength 0 has no chance to beat: whatever it
                changes is a mistake.
            words: whether random directions answer too, to compare words with.
        """
        directions = max(BAND_DIRECTIONS if chance and not self.reader.chance else 0, WORD_DIRECTIONS if words else 0)
        settings = [setting(term) for term in terms]
        controls = [random_settings(added(term), directions if term.strength else 0) for term in terms]
        answered = iter(self.pairs([*settings, *chain.from_iterable(controls)], prompts))
        steered = list(islice(answered, len(settings)))
        pushed = [list(islice(answered, len(control))) for control in controls]
        return [
            Comparison(
                setting,
                tuple(pairs),
                self._band(setting, random, len(pairs)) if chance and term.strength else None,
                random=Outcome(setting, tuple(chain.from_iterable(random)), None) if random else None,
            )
            for term, setting, pairs, random in zip(terms, settings, steered, pushed, strict=True)
        ]

    def _band(self, setting: Setting, random: Sequence[Sequence[Pair]], repeats: int) -> tuple[float, float]:
        """The model's chance band, or one from the pairs of each random direction."""
        strength = total_strength(setting.read_along)
        known = self.reader.chance
        if known is None:
            effects = np.array([[pair.effect or 0.0 for pair in direction] for direction in random])
            known = Chance("", (ChanceCell(strength, TOKENS, *spreads(effects)),))
        return known.band(strength, TOKENS, repeats)


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
