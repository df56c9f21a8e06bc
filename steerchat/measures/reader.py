"""The concepts of one model as a run uses them: their vectors, what they add to a row, and what is read along them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

from ..concepts.library import Library
from ..values.operation import UNIT
from ..values.recipe import RANDOM, Recipe, Term
from ..values.results import UNWATCHED, Watch
from .calibration import Calibration
from .chance import Chance

if TYPE_CHECKING:
    from ..concepts.vector import ConceptVector
    from ..engine.engine import Engine
    from ..engine.gates import Gate
    from ..engine.operations import Edit
    from .profile import Profile


class Reader:
    """The concepts of one model, for steering and for reading. One serves one run: every vector is resolved once.

    Args:
        calibration: the model's profile and chance band.
        watch: of extractions and measurements.
    """

    def __init__(self, engine: Engine, library: Library, calibration: Calibration, watch: Watch = UNWATCHED) -> None:
        self.engine = engine
        self.library = library
        self.watch = watch
        self._calibration = calibration
        self._vectors: dict[tuple[str, int], ConceptVector] = {}
        self._edits: dict[tuple[Recipe, int], tuple[Edit, ...]] = {}
        self._readings: dict[tuple[str, int, str], float] = {}

    @cached_property
    def profile(self) -> Profile:
        """What is typical of the model's residual stream; measured on first use."""
        return self._calibration.profile(self.engine, self.watch)

    @property
    def chance(self) -> Chance | None:
        """The model's chance band; None when it was never measured."""
        return self._calibration.chance(self.engine.fingerprint)

    def vector(self, name: str, seed: int = 0) -> ConceptVector:
        """A concept's vector on the model; extracted when there is none. `seed` is that of `random`.

        Raises UnknownName when the concept does not exist, ConceptError when its files are broken.
        """
        key = (name, seed if name == RANDOM else 0)
        if key not in self._vectors:
            self._vectors[key] = self.library.vector(name, self.engine, self.watch, seed)
        return self._vectors[key]

    def know(self, name: str, vector: ConceptVector) -> None:
        """Let a name that is no concept's stand for a vector, in this run."""
        self._vectors[name, 0] = vector

    def vectors(self, recipe: Recipe, seed: int) -> dict[str, ConceptVector]:
        """The vectors of a recipe's concepts, and of those that its gates read, by name."""
        return {name: self.vector(name, seed) for name in recipe.named}

    def digests(self, recipe: Recipe, seed: int) -> dict[str, str]:
        """Which vector each name stands for: a concept may be changed later. `random` follows from the seed."""
        vectors = self.vectors(recipe, seed)
        return {name: vector.digest for name, vector in vectors.items() if name != RANDOM}

    def edits(self, recipe: Recipe, seed: int, prompt: str = "") -> tuple[Edit, ...]:
        """What the recipe does to a row, whether it is on or not. `prompt` is read by the gates that ask for it."""
        from ..concepts.vector import edits

        def opened(term: Term) -> bool:
            when = term.gate.when
            return when is None or not when.prompt or when.holds(self.reading(when.concept, prompt, seed))

        recipe = replace(recipe, terms=tuple(term for term in recipe.terms if opened(term)))
        key = (recipe, seed if RANDOM in recipe.named else 0)
        if key not in self._edits:
            vectors = self.vectors(recipe, seed)
            for term in recipe.terms:
                if term.how.number == "level":
                    vectors |= {name: self._levelled(name, seed) for name, _ in term.parts}
            self._edits[key] = edits(recipe, vectors, self.profile.lengths, lambda term: self._gate(term, seed))
        return self._edits[key]

    def reading(self, concept: str, prompt: str, seed: int = 0) -> float:
        """The concept score of a prompt, which the unsteered model reads by itself, outside the template."""
        from ..concepts.vector import read_layer

        key = (concept, seed if concept == RANDOM else 0, prompt)
        if key not in self._readings:
            vector, prompter = self.vector(concept, seed), self.engine.prompter
            layer = read_layer(vector)
            [states] = self.engine.states([(prompter.start(), prompter.reply(prompt) or prompter.start())])
            self._readings[key] = self.profile.score(vector.directions[layer], layer, states[layer])
        return self._readings[key]

    def _gate(self, term: Term, seed: int) -> Gate | None:
        """A term's gate for the engine; a condition on the prompt holds when there is anything to open."""
        from ..concepts.vector import read_layer
        from ..engine.gates import Gate, Probe

        gate, probe = term.gate, None
        if gate.when is not None and not gate.when.prompt:
            vector = self.vector(gate.when.concept, seed)
            layer = min(read_layer(vector), term.layers[0])
            direction = vector.directions[layer]
            mean, spread = self.profile.scale(direction, layer)
            probe = Probe(layer, direction / spread, mean / spread, gate.when.above, gate.when.threshold)
        if probe is None and gate.first is None and gate.after is None and gate.decay is None:
            return None
        return Gate(probe, gate.first, gate.after or 0, 1.0 if gate.decay is None else gate.decay)

    def _levelled(self, name: str, seed: int) -> ConceptVector:
        """A vector with levels. Those of `random` are strengths: 0 is ordinary text, 1 a push of strength 1 further."""
        from ..concepts.vector import LEVELS

        if name != RANDOM:
            return self.library.levelled(name, self.engine, self.watch)
        vector = self.vector(RANDOM, seed)
        plain = [self.profile.scale(direction, layer)[0] for layer, direction in enumerate(vector.directions)]
        further = [low + UNIT * float(length) for low, length in zip(plain, self.profile.lengths, strict=True)]
        return replace(vector, report={LEVELS[0]: plain, LEVELS[1]: further})

    def distance(self, term: Term) -> float:
        """How far from ordinary text the level of a term lies, as a strength: the mean over its layers."""
        [(name, weight)] = term.parts
        vector, lengths = self._levelled(name, 0), self.profile.lengths
        away = [
            (vector.at_level(layer, term.strength) - self.profile.scale(vector.directions[layer], layer)[0])
            / (UNIT * float(lengths[layer]))
            for layer in term.layers
        ]
        return math.copysign(1.0, weight) * fmean(away)
