"""What a pair's answers show: scores along a recipe, the effect and its chance band, concepts token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

from ..concepts.library import Library
from ..values.operation import UNIT
from ..values.recipe import RANDOM, Recipe, Term
from ..values.results import UNWATCHED, Answer, Column, Pair, Strip, Watch, divergence
from ..values.setting import Setting
from .calibration import Calibration
from .chance import Chance, total_strength

if TYPE_CHECKING:
    from ..concepts.vector import ConceptVector
    from ..engine.engine import Engine, Output
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


def measured(reader: Reader, setting: Setting, pair: Pair, outputs: Sequence[Output], seconds: float) -> Pair:
    """A pair with its answers and its effect along the setting's recipe.

    Args:
        setting: what the second output was steered by.
        outputs: the normal one and, if there is one, the steered one.
    """
    answers = [output.answer for output in outputs]
    normal, steered = answers[0], answers[1] if len(answers) > 1 else None
    along, effect, effects = setting.read_along, None, {}
    if steered is not None and along.terms:
        scores, effects = _scores(reader, along, setting.drawn(pair.seed), outputs)
        normal, steered = (
            replace(answer, concept_score=score) for answer, score in zip((normal, steered), scores, strict=True)
        )
        if scores[0] is not None and scores[1] is not None:
            effect = scores[1] - scores[0]
    chance = None
    if effect is not None and reader.chance is not None:
        chance = reader.chance.band(total_strength(along), max(answer.tokens for answer in answers))
    return replace(
        pair,
        normal=normal,
        steered=steered,
        effect=effect,
        effects=effects,
        chance=chance,
        diverges_at=None if steered is None else divergence(normal.token_ids, steered.token_ids),
        seconds=seconds,
        tokens_per_second=sum(answer.tokens for answer in answers) / max(seconds, 1e-9),
    )


def _scores(
    reader: Reader, recipe: Recipe, seed: int, outputs: Sequence[Output]
) -> tuple[list[float | None], dict[str, float]]:
    """Both answers' scores along the recipe's direction, and the effect along each of its concepts."""
    from .effect import concept_effects, recipe_scores

    if any(not output.reading.tokens for output in outputs):
        return [None, None], {}
    vectors = reader.vectors(recipe, seed)
    normal, steered = (output.reading.states for output in outputs)
    scores = recipe_scores(recipe, vectors, reader.profile, (normal, steered))
    return scores, concept_effects(recipe, vectors, reader.profile, normal, steered)


def probe(reader: Reader, concepts: Sequence[str], pair: Pair, prompts: Sequence[Sequence[int]]) -> tuple[Strip, ...]:
    """Concepts read off a pair's answers, token by token, by the unsteered model.

    Args:
        prompts: the ids that the normal and the steered answer go on from.

    Returns:
        a strip for each concept and answer; none when an answer is too short to tell its tokens apart.

    Raises:
        UnknownName: for a concept that does not exist.
    """
    from . import inspection

    vectors = [reader.vector(name, pair.seed) for name in concepts]
    both: tuple[tuple[Column, Answer | None], ...] = (("normal", pair.normal), ("steered", pair.steered))
    # As scores are taken: off the text, which may be other tokens than the sampled ones.
    answers: list[tuple[Column, Sequence[int], Sequence[int]]] = [
        (side, prompt, reader.engine.prompter.reply(answer.text))
        for prompt, (side, answer) in zip(prompts, both, strict=False)
        if answer is not None
    ]
    if any(len(ids) < 2 for _, _, ids in answers):
        return ()
    return tuple(inspection.probe(reader.engine, reader.profile, vectors, answers))
