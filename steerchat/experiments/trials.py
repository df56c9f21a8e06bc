"""Many answers under many conditions, judged by measures that use no concept's vector.

`evaluate` judges the settings that `/tune` chose, on other prompts than it did, against two controls: random
directions of the same size, and simply asking for the concept in the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..concepts.library import DEFAULT_LAYERS, Library
from ..concepts.vector import ConceptVector, edits, random_vector, read_layer
from ..engine.engine import Engine, Output, Row
from ..engine.hooks import Edit
from ..engine.sampling import Sampling
from ..measures.calibration import Calibration
from ..measures.chance import Chance, ChanceCell
from ..measures.profile import Profile
from ..measures.words import INDEPENDENT, Measure
from ..values.errors import ConceptError, Interrupted
from ..values.recipe import RANDOM, Recipe, Term, TermRequest, parse_layers
from ..values.results import Delta, Finished, Notice, Progress

Report = Callable[[Notice | Progress], None]

# At which strengths and lengths of answer the chance band is measured.
CHANCE_STRENGTHS = (1.0, 2.0, 4.0)
CHANCE_TOKENS = (40, 120)

# How one asks for a concept in so many words.
ASKING = {
    "happy": "Answer happily.",
    "sad": "Answer sadly.",
    "angry": "Answer angrily.",
    "fearful": "Answer fearfully.",
    "excited": "Answer excitedly.",
    "calm": "Answer calmly.",
    "formal": "Answer formally.",
    "casual": "Answer casually.",
    "poetic": "Answer poetically.",
    "technical": "Answer technically.",
    "pirate": "Answer like a pirate.",
    "shakespeare": "Answer like Shakespeare.",
    "enthusiastic": "Answer enthusiastically.",
    "pessimistic": "Answer pessimistically.",
    "friendly": "Answer in a friendly way.",
    "brief": "Answer briefly.",
    "verbose": "Answer at great length.",
}


@dataclass(frozen=True)
class Evaluation:
    """A concept at its recommended setting. Intervals are 95%, bootstrapped over prompts.

    Attributes:
        unit: what the independent measure counts.
        normal, steered, random, asked: mean of the measure; `random` over all random directions.
        gain: (mean, low, high) of steered minus normal, turned so that above 0 is towards the concept.
        over_random: the same of steered minus random.
        over_asking: the same of steered minus asked.
        samples: (prompt, normal, steered) of the first few prompts.
    """

    concept: str
    layers: str
    strength: float
    unit: str
    normal: float
    steered: float
    random: float
    asked: float
    gain: tuple[float, float, float]
    over_random: tuple[float, float, float]
    over_asking: tuple[float, float, float]
    perplexity_ratio: float
    repetition: float
    answers: int
    samples: list[tuple[str, str, str]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Condition:
    """What is done to all prompts alike.

    Attributes:
        name: under which the answers are kept, to be asked for again; empty: they are not kept.
        pushes: what steers.
        ending: is put behind every prompt.
    """

    name: str
    pushes: tuple[Edit, ...] = ()
    ending: str = ""


class Trials:
    """Answers to the same prompts and seeds under different conditions.

    Args:
        engine: the model.
        library: the concepts.
        prompts: what to answer; every condition answers all of them, with every seed.
        seeds: common random numbers: a condition differs from the normal answers by its own doing alone.
        report: told of progress.
        stopped: asked between steps.
    """

    def __init__(
        self,
        engine: Engine,
        library: Library,
        prompts: Sequence[str],
        seeds: Sequence[int],
        report: Report = lambda event: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.engine = engine
        self.library = library
        self.prompts = prompts
        self._seeds = seeds
        self._report = report
        self._stopped = stopped
        self._lengths = Calibration(library).profile(engine, report).lengths
        self._kept: dict[tuple[str, int], list[Output]] = {}

    def normal(self, tokens: int) -> list[Output]:
        """The unsteered answers, prompt by prompt and seed by seed."""
        return self.answers([Condition("normal")], tokens, "normal answers")[0]

    def random(self, term: Term, directions: int, tokens: int) -> list[Output]:
        """Answers under random directions, at the layers and strength of `term`."""
        answers = self.answers(self.at_random(term, directions), tokens, "random directions")
        return [output for outputs in answers for output in outputs]

    def asked(self, instruction: str, tokens: int) -> list[Output]:
        """Unsteered answers when the prompt asks for the concept."""
        return self.answers([Condition(instruction, ending=" " + instruction)], tokens, "asking instead")[0]

    def pushed(self, term: Term) -> Condition:
        """The condition of being steered by `term`."""
        vectors = {name: self.library.vector(name, self.engine, self._report) for name, _ in term.parts}
        return Condition("", edits(Recipe((term,)), vectors, self._lengths))

    def at_random(self, term: Term, directions: int) -> list[Condition]:
        """Conditions that push in random directions, at the layers and strength of `term`."""
        engine, plain = self.engine, Recipe((Term((("random", 1.0),), term.layers, term.strength),))
        found = []
        for seed in range(directions):
            vector = random_vector(seed, engine.n_layers, engine.hidden, engine.fingerprint)
            key = f"random {seed} {term.layers} {term.strength}"
            found.append(Condition(key, edits(plain, {"random": vector}, self._lengths)))
        return found

    def answers(self, conditions: Sequence[Condition], tokens: int, label: str) -> list[list[Output]]:
        """The answers under each condition, all in one run: rows share the reading of the weights."""
        new = [condition for condition in conditions if (condition.name, tokens) not in self._kept]
        found = dict(zip(map(id, new), self._answer(label, new, tokens) if new else [], strict=True))
        self._kept |= {(one.name, tokens): found[id(one)] for one in new if one.name}
        return [found[id(one)] if id(one) in found else self._kept[one.name, tokens] for one in conditions]

    def _answer(self, label: str, conditions: Sequence[Condition], tokens: int) -> list[list[Output]]:
        chat = self.engine.prompter.chat
        rows = [
            Row(
                tuple(chat([{"role": "user", "content": prompt + condition.ending}], thought=False)),
                condition.pushes,
                seed,
            )
            for condition in conditions
            for prompt in self.prompts
            for seed in self._seeds
        ]
        run = self.engine.generate(rows, Sampling(max_tokens=tokens), self._stopped)
        written = [0] * len(rows)  # in tokens, of which a row that ends early has all
        self._report(Progress(label, 0, len(rows) * tokens))
        while True:
            try:
                event = next(run)
            except StopIteration as end:
                outputs = end.value
                break
            if isinstance(event, Delta | Finished):
                ended = isinstance(event, Finished)
                written[event.row] = tokens if ended else min(tokens, written[event.row] + 1)
                self._report(Progress(label, sum(written), len(rows) * tokens))
                if ended and all(count == tokens for count in written):
                    self._report(Progress("reading the answers", 0))
        if self._stopped():
            raise Interrupted(label)
        size = len(self.prompts) * len(self._seeds)
        return [outputs[start : start + size] for start in range(0, len(outputs), size)]


def evaluate(
    trials: Trials, library: Library, requests: Sequence[TermRequest], directions: int = 4
) -> Iterator[Evaluation]:
    """Judge one concept after the other on this model.

    Args:
        requests: one concept each; layers and strength are the recommended ones where they are None.
        directions: how many random ones to compare with.

    Raises:
        ConceptError: for a mix, or a concept that nothing measures but its own vector.
    """
    engine = trials.engine
    settings = []
    for request in requests:
        if len(request.parts) != 1:
            raise ConceptError("a mix is not measured here", "name one concept after the other")
        name = request.parts[0][0]
        measure, concept = measure_of(name), library.get(name)
        usual_layers, usual_strength, _ = library.recommended(name, engine.fingerprint)
        where = usual_layers if request.layers is None else request.layers
        push = usual_strength if request.strength is None else request.strength
        settings.append((measure, concept, where, Term(((name, 1.0),), parse_layers(where, engine.n_layers), push)))
    for measure, concept, where, term in settings:
        name, push = concept.name, term.strength
        tokens = 120 if concept.kind == "length" else 60
        how = ASKING.get(name, f"Be {name}.")
        conditions = [Condition("normal"), trials.pushed(term), Condition(how, ending=" " + how)]
        conditions += trials.at_random(term, directions)
        normal, steered, asked, *others = trials.answers(conditions, tokens, f"measuring {name}")
        random = [output for outputs in others for output in outputs]
        size = len(trials.prompts)
        base, moved = _by_prompt(_towards(measure, normal), size), _by_prompt(_towards(measure, steered), size)
        told = _by_prompt(_towards(measure, asked), size)
        chance = _by_prompt(_towards(measure, random), size, directions)
        sign = measure.direction
        yield Evaluation(
            name,
            where,
            push,
            measure.unit,
            float(base.mean()) * sign,
            float(moved.mean()) * sign,
            float(chance.mean()) * sign,
            float(told.mean()) * sign,
            _interval(moved - base),
            _interval(moved - chance),
            _interval(moved - told),
            _cost(steered, normal),
            float(np.mean([output.answer.repetition or 0.0 for output in steered])),
            len(steered),
            [
                (prompt, normal[i * len(normal) // size].answer.text, steered[i * len(steered) // size].answer.text)
                for i, prompt in enumerate(trials.prompts[:3])
            ],
        )


def measure_chance(trials: Trials, names: Sequence[str], directions: int = 6) -> Chance:
    """Push answers in random directions and read them along every concept in `names`.

    Seeds of one prompt are alike, so that more of them do not make a band as narrow as more prompts would: what
    belongs to a direction on a prompt is told from what belongs to a seed. `trials` has at least two seeds.
    """
    engine, library = trials.engine, trials.library
    profile = Calibration(library).profile(engine)
    vectors = [library.vector(name, engine) for name in names]
    layers = parse_layers(DEFAULT_LAYERS, engine.n_layers)
    cells = []
    for tokens in CHANCE_TOKENS:
        normal = trials.normal(tokens)
        for strength in CHANCE_STRENGTHS:
            pushed = trials.random(Term(((RANDOM, 1.0),), layers, strength), directions, tokens)
            effects = np.stack([_effects(profile, vector, normal, pushed) for vector in vectors])
            by_prompt = effects.reshape(*effects.shape[:2], len(trials.prompts), -1)
            cells.append(ChanceCell(strength, tokens, *(round(value, 3) for value in spreads(by_prompt))))
    return Chance(engine.fingerprint, tuple(cells))


def spreads(effects: np.ndarray) -> tuple[float, float, float]:
    """Mean, `between` and `within` of a `ChanceCell`, from effects (..., prompts, seeds) with at least two seeds."""
    means, variances = effects.mean(axis=-1), effects.var(axis=-1, ddof=1)
    within = math.sqrt(float(variances.mean()))
    # An observed mean differs from the true one by what single pairs add to it.
    between = math.sqrt(max(0.0, float(means.var()) - within**2 / effects.shape[-1]))
    return float(effects.mean()), between, within


def _effects(profile: Profile, vector: ConceptVector, normal: Sequence[Output], pushed: Sequence[Output]) -> np.ndarray:
    """(directions, answers) how far each pushed answer moved along a vector's direction."""
    layer = read_layer(vector)
    scores = [
        [profile.score(vector.directions[layer], layer, output.reading.states[layer]) for output in outputs]
        for outputs in (normal, pushed)
    ]
    return np.array(scores[1]).reshape(-1, len(normal)) - np.array(scores[0])


def measure_of(name: str) -> Measure:
    """The measure of a concept that does not use its vector. Raises ConceptError when there is none."""
    if name not in INDEPENDENT:
        raise ConceptError(f"nothing measures {name} but its own vector", "judge it by reading: /compare --repeats 5")
    return INDEPENDENT[name]


def _towards(measure: Measure, outputs: Sequence[Output]) -> list[float]:
    return [measure.towards(output.answer.text) for output in outputs]


def _by_prompt(scores: Sequence[float], prompts: int, repeats: int = 1) -> np.ndarray:
    """(prompts,) each prompt's mean over seeds and, for random directions, over those."""
    return np.array(scores).reshape(repeats, prompts, -1).mean(axis=(0, 2))


def _interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95% bootstrap interval. Prompts are drawn, not answers: seeds of one prompt are alike."""
    draws = np.random.default_rng(0).choice(differences, size=(4000, len(differences))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def _cost(steered: Sequence[Output], normal: Sequence[Output]) -> float:
    """Geometric mean of the pairs' perplexity ratios."""
    ratios = [
        math.log(s.reading.perplexity / n.reading.perplexity)
        for s, n in zip(steered, normal, strict=True)
        if s.reading.perplexity and n.reading.perplexity
    ]
    return math.exp(sum(ratios) / len(ratios)) if ratios else math.inf
