"""/concept evaluate: do concepts do what their names say, by measures that use no concept's vector?

It judges the settings that `/tune` chose, on other prompts than it did, against two controls: random directions of the
same size, and asking for the concept in the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from ..conversation.runner import Runner, Trial
from ..measures.words import INDEPENDENT, RATES, Measure, spread
from ..values.errors import ConceptError
from ..values.recipe import RANDOM, Recipe, Term, TermRequest, parse_layers
from ..values.results import Answer, Pair, mean_cost
from ..values.setting import Setting

# The longest answers: enough for a rate of words; and, where length itself is measured, for most answers to end.
TOKENS, LENGTH_TOKENS = 60, 300


@dataclass(frozen=True)
class Evaluation:
    """A concept at its recommended setting. Intervals are 95%, bootstrapped over prompts.

    Attributes:
        unit: what the independent measure counts.
        normal, steered, random, asked: mean of the measure; `random` over all random directions.
        gain: (mean, low, high) of steered minus normal, turned so that above 0 is towards the concept.
        over_random: the same of steered minus random.
        over_asking: the same of steered minus asked.
        gains: steered minus normal by every word measure, by the concept that it measures, in spreads of that measure
            over the normal answers (`measures.words.spread`), so that they compare. Length is only in a length
            concept's own row: elsewhere answers end at the limit.
        other: the other concept whose measure gained most.
        specificity: (mean, low, high) of the own gain less the other's, in spreads.
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
    gains: dict[str, float]
    other: str
    specificity: tuple[float, float, float]
    perplexity_ratio: float
    repetition: float
    answers: int
    samples: list[tuple[str, str, str]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def random_settings(term: Term, directions: int) -> list[Setting]:
    """Settings that push in random directions, at the layers and strength of `term`, read along `term`."""
    recipe = Recipe((Term(((RANDOM, 1.0),), term.layers, term.strength),))
    along = Recipe((term,))
    return [Setting(f"random {seed}", recipe, along=along, direction=seed) for seed in range(directions)]


def evaluate(
    runner: Runner, prompts: Sequence[str], seeds: Sequence[int], requests: Sequence[TermRequest], directions: int = 4
) -> Iterator[Evaluation]:
    """Judge one concept after the other on this model.

    Args:
        runner: remembers answers, so that normal and random ones are shared by concepts.
        prompts: every setting answers all of them, with every seed.
        seeds: common random numbers: a setting differs from the normal answers by its own doing alone.
        requests: one concept each; layers and strength are the recommended ones where they are None.
        directions: how many random ones to compare with.

    Raises:
        ConceptError: for a mix, or a concept that nothing measures but its own vector.
        Interrupted: when the runner was stopped; the concepts before are finished.
    """
    library, engine = runner.reader.library, runner.reader.engine
    terms = []
    for request in requests:
        if len(request.parts) != 1:
            raise ConceptError("a mix is not measured here", "name one concept after the other")
        name = request.parts[0][0]
        layers, strength, _ = library.recommended(name, engine.fingerprint)
        layers = layers if request.layers is None else request.layers
        strength = strength if request.strength is None else request.strength
        terms.append((measure_of(name), layers, Term(((name, 1.0),), parse_layers(layers, engine.n_layers), strength)))
    for measure, layers, term in terms:
        concept = library.get(term.concept)
        recipe = Recipe((term,))
        settings = [
            Setting("steered", recipe),
            *(
                replace(control, read=False)
                for control in (Setting.asked_for(recipe, concept.request), *random_settings(term, directions))
            ),
        ]
        tokens = LENGTH_TOKENS if concept.kind == "length" else TOKENS
        trials = runner.measure(prompts, settings, seeds, tokens, f"measuring {concept.name}")
        yield _evaluation(measure, layers, term, prompts, trials)


def _evaluation(
    measure: Measure, layers: str, term: Term, prompts: Sequence[str], trials: Sequence[Sequence[Trial]]
) -> Evaluation:
    steered, asked, others = by_prompt(trials[0]), by_prompt(trials[1]), by_prompt(*trials[2:])
    normal = _means(measure, [[pair.normal for pair in group] for group in steered])
    moved, by_asking, chance = (
        _means(measure, [[_steered(pair) for pair in group] for group in groups]) for groups in (steered, asked, others)
    )
    flat = [pair for group in steered for pair in group]
    gains = word_gains(term.concept, steered)
    other, specificity = specific(term.concept, gains)
    cost = mean_cost(flat)
    sign = measure.direction
    return Evaluation(
        concept=term.concept,
        layers=layers,
        strength=term.strength,
        unit=measure.unit,
        normal=float(normal.mean()) * sign,
        steered=float(moved.mean()) * sign,
        random=float(chance.mean()) * sign,
        asked=float(by_asking.mean()) * sign,
        gain=interval(moved - normal),
        over_random=interval(moved - chance),
        over_asking=interval(moved - by_asking),
        gains={name: round(float(gain.mean()), 3) for name, gain in gains.items()},
        other=other,
        specificity=specificity,
        perplexity_ratio=math.inf if cost is None else cost,
        repetition=float(np.mean([_steered(pair).repetition or 0.0 for pair in flat])),
        answers=len(flat),
        samples=[
            (prompt, group[0].normal.text, _steered(group[0]).text)
            for prompt, group in zip(prompts[:3], steered, strict=False)
        ],
    )


def by_prompt(*trials: Sequence[Trial]) -> list[list[Pair]]:
    """The pairs of one or more settings, prompt by prompt. `trials`: of each setting."""
    pairs: dict[int, list[Pair]] = {}
    for trial in chain.from_iterable(zip(*trials, strict=True)):
        pairs.setdefault(trial.question, []).append(trial.pair)
    return list(pairs.values())


def word_gains(concept: str, steered: Sequence[Sequence[Pair]]) -> dict[str, np.ndarray]:
    """(prompts,) gains in spreads, by every measure of words and by the concept's own."""
    gains = {}
    for name in dict.fromkeys((*RATES, concept)):
        measure = INDEPENDENT[name]
        normal, moved = ([[answer(pair) for pair in group] for group in steered] for answer in (_normal, _steered))
        unit = spread(measure, [answer.reply for group in normal for answer in group])
        gains[name] = (_means(measure, moved) - _means(measure, normal)) / unit
    return gains


def specific(concept: str, gains: Mapping[str, np.ndarray]) -> tuple[str, tuple[float, float, float]]:
    """The other concept whose measure gained most, and the interval of the concept's own gain less the other's.

    `gains`: what `word_gains` gave.
    """
    other = max((name for name in gains if name != concept), key=lambda name: gains[name].mean())
    return other, interval(gains[concept] - gains[other])


def measure_of(name: str) -> Measure:
    """The measure of a concept that does not use its vector. Raises ConceptError when there is none."""
    if name not in INDEPENDENT:
        raise ConceptError(f"nothing measures {name} but its own vector", "judge it by reading: /compare --repeats 5")
    return INDEPENDENT[name]


def _normal(pair: Pair) -> Answer:
    return pair.normal


def _steered(pair: Pair) -> Answer:
    assert pair.steered is not None
    return pair.steered


def _means(measure: Measure, answers: Sequence[Sequence[Answer]]) -> np.ndarray:
    """(prompts,) the mean of the measure, higher towards the concept, over each prompt's answers."""
    return np.array([np.mean([measure.towards(answer.reply) for answer in group]) for group in answers])


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95% bootstrap interval. Prompts are drawn, not answers: seeds of one prompt are alike."""
    draws = np.random.default_rng(0).choice(differences, size=(4000, len(differences))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)
