"""/compare-methods: operations and ways of extraction side by side, each at the strength that takes as much.

Methods are compared fairly at an equal budget alone: at one strength, a method that changes more looks better and
breaks more. So the dial of each method is turned until its answers take the budget: a cost, or a KL divergence. Then
all of them answer the same prompts with the same seeds, and questions with one right answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ..concepts.concept import METHODS, Concept
from ..conversation.runner import ROWS, Runner, Trial
from ..measures.capability import Capability, Quiz, capability
from ..measures.reader import Reader
from ..measures.shift import token_kl
from ..values.operation import ADD
from ..values.recipe import Recipe, Term, format_layers, parse_layers
from ..values.results import Pair, mean_cost
from ..values.setting import Setting
from .evaluation import by_prompt, interval, measure_of, specific, word_gains
from .tuning import Budget

TOKENS = 40
"""The longest answers."""

OPPOSITES = {"happy": "sad", "calm": "excited", "formal": "casual", "enthusiastic": "pessimistic", "friendly": "angry"}
OPPOSITES |= {opposite: name for name, opposite in OPPOSITES.items()}
"""What can be taken away, or bounded, in a concept's place."""

# Where the dials stand at first, and how often they are set by what the answers take.
_START, _ROUNDS = 1.6, 2
# The logarithm of the cost, and the KL, grow about so with the strength.
_POWER = 1.5


@dataclass(frozen=True)
class Method:
    """One way to steer towards a concept."""

    name: str  # for the table
    term: Callable[[float], Term]  # what is done at a number on its dial, which is a strength or a level
    dial: bool = True  # whether it has one


@dataclass(frozen=True)
class MethodRow:
    """A method on one concept. Intervals are 95%, bootstrapped over prompts, or over questions for capability.

    Attributes:
        typed: the recipe, at the strength that was found.
        gain: (mean, low, high) of the concept's own word measure, steered minus normal, in spreads of the normal
            answers, above 0 towards the concept.
        against_add: the same less the gain of the first method, which adds the shipped vector.
        effect: along the shipped vector; it favours methods that push along it.
        other: the other concept whose measure gained most.
        specificity: (mean, low, high) of the own gain less the other's.
        cost: the perplexity ratio of these answers.
        repetition: mean share of repeated 3-grams.
        right: share of the questions that are answered right.
        kept: (mean, low, high) of the share that is right, steered minus normal.
        kl: how far the distribution of the next token moves (`measures.shift`); None where the budget is a cost.
    """

    concept: str
    method: str
    typed: str
    gain: tuple[float, float, float]
    against_add: tuple[float, float, float]
    effect: float
    other: str
    specificity: tuple[float, float, float]
    cost: float
    repetition: float
    right: float
    kept: tuple[float, float, float]
    answers: int
    kl: float | None = None

    def to_json(self) -> dict[str, Any]:
        """An object for programs, its figures to three decimals."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def methods(reader: Reader, concept: Concept, layers: tuple[int, ...]) -> list[Method]:
    """What is compared for a concept; the first one adds its shipped vector.

    Vectors of the other ways of extraction are made here, and known to the reader as `happy (pca)`.

    Args:
        concept: one with a word measure.

    Raises:
        Interrupted: when the reader is stopped.
    """
    from ..concepts.extract import extract, read_texts

    def term(operation: str, name: str = concept.name) -> Callable[[float], Term]:
        return lambda number: Term(((name, 1.0),), layers, number, operation)

    compared = [Method("add", term(ADD))]
    engine, whole = reader.engine, None  # the means over replies, which several ways begin with
    for method in METHODS:
        if method in ("end", concept.method) or not concept.examples:
            continue
        name = f"{concept.name} ({method})"
        reference = reader.library.reference(engine) if method == "centred" else None
        if method != "last" and whole is None:
            whole = read_texts(engine, concept.name, concept.examples, "mean", reader.watch)
        read = None if method == "last" else whole
        reader.know(name, extract(engine, concept, method, reader.watch, reference, read))
        compared.append(Method(f"add {method}", term(ADD, name)))
    compared += [Method("rotate", term("rotate")), Method("aim", term("aim"))]
    if opposite := OPPOSITES.get(concept.name):
        bound = term("cap", opposite)
        compared.append(Method("cap the opposite", lambda number: bound(1.0 - number)))
        compared.append(Method("ablate the opposite", term("ablate", opposite), dial=False))
    return compared


def compare_methods(
    runner: Runner,
    concepts: Sequence[str],
    budget: Budget,
    prompts: Sequence[str],
    seeds: Sequence[int],
    asked: Sequence[Quiz],
    ways: Callable[[Reader, Concept, tuple[int, ...]], list[Method]] = methods,
) -> Iterator[list[MethodRow]]:
    """Compare the methods on one concept after the other, at their recommended layers.

    Args:
        concepts: each with a word measure.
        seeds: of the answers; the strengths are found with the first one alone.
        ways: the methods of a concept, of which the first is what the others are compared with.

    Raises:
        ConceptError: for a concept that nothing measures but its own vector.
        Interrupted: when the runner was stopped; the concepts before are finished.
    """
    reader = runner.reader
    for name in concepts:
        measure_of(name)
    for name in concepts:
        concept = reader.library.get(name)
        where, _, _ = reader.library.recommended(name, reader.engine.fingerprint)
        layers = parse_layers(where, reader.engine.n_layers)
        along = Recipe((Term(((name, 1.0),), layers, 1.0),))
        compared = ways(reader, concept, layers)
        dials = _calibrated(runner, compared, along, budget, prompts, seeds[0])
        settings = [_setting(method, dial, along) for method, dial in zip(compared, dials, strict=True)]
        trials = runner.measure(prompts, settings, seeds, TOKENS, f"{name}: methods at {budget}", ROWS)
        moved = _kl(reader, trials) if budget.of == "kl" else [None] * len(trials)
        measured = capability(reader, settings, asked, label=f"{name}: questions")
        yield _rows(name, compared, settings, [by_prompt(of_setting) for of_setting in trials], moved, measured)


def _setting(method: Method, number: float, along: Recipe) -> Setting:
    return Setting(method.name, Recipe((method.term(number),)), strength=number, along=along)


def _calibrated(
    runner: Runner, compared: Sequence[Method], along: Recipe, budget: Budget, prompts: Sequence[str], seed: int
) -> list[float]:
    """For each method the number on its dial at which its answers take the budget; 0.0 where it has none."""
    dials = [_START if method.dial else 0.0 for method in compared]
    tried: list[list[tuple[float, float]]] = [[] for _ in compared]
    turned = [place for place, method in enumerate(compared) if method.dial]
    most = math.log(budget.most) if budget.of == "cost" else budget.most
    for number in range(_ROUNDS):
        settings = [_setting(compared[place], dials[place], along) for place in turned]
        label = f"{along.concepts[0]}: {budget}, round {number + 1} of {_ROUNDS}"
        trials = runner.measure(prompts, settings, (seed,), TOKENS, label, ROWS)
        for place, taken in zip(turned, _taken(runner.reader, budget, trials), strict=True):
            tried[place].append((dials[place], taken))
            dials[place] = _crossing(tried[place], most)
    return dials


def _taken(reader: Reader, budget: Budget, trials: Sequence[Sequence[Trial]]) -> list[float]:
    """What each setting takes of the budget: the logarithm of its cost, or its KL; infinite where it is unknown."""
    if budget.of == "kl":
        return [math.inf if kl is None else kl for kl in _kl(reader, trials)]
    costs = [mean_cost(trial.pair for trial in of_setting) for of_setting in trials]
    return [math.log(cost) if cost else math.inf for cost in costs]


def _kl(reader: Reader, trials: Sequence[Sequence[Trial]]) -> list[float | None]:
    return token_kl(
        reader, [[(trial.rows[1], trial.outputs[1].answer.text) for trial in of_setting] for of_setting in trials]
    )


def _crossing(tried: Sequence[tuple[float, float]], budget: float) -> float:
    """Where the log cost, or the KL, reaches a budget, by (number, log cost or KL) of what was tried.

    On the line between two that enclose it; else on a curve through zero and the nearest.
    """
    under = max((point for point in tried if point[1] <= budget), default=None)
    over = min((point for point in tried if point[1] > budget), default=None)
    if under and over and math.isfinite(over[1]) and under[0] < over[0]:
        return under[0] + (over[0] - under[0]) * (budget - under[1]) / (over[1] - under[1])
    number, cost = over or under or (_START, budget)
    return number * min(2.0, max(0.4, (budget / max(cost, 1e-3)) ** (1 / _POWER)))


def _rows(
    name: str,
    compared: Sequence[Method],
    settings: Sequence[Setting],
    pairs: Sequence[list[list[Pair]]],
    moved: Sequence[float | None],
    measured: Mapping[str, Capability],
) -> list[MethodRow]:
    normal = np.array(measured["normal"].all, dtype=float)
    gains = [word_gains(name, groups) for groups in pairs]
    rows = []
    for method, setting, groups, gained, kl in zip(compared, settings, pairs, gains, moved, strict=True):
        flat = [pair for group in groups for pair in group]
        other, specificity = specific(name, gained)
        cost = mean_cost(flat)
        [term] = setting.recipe.terms
        where = format_layers(term.layers)
        rows.append(
            MethodRow(
                concept=name,
                method=method.name,
                typed=f"{where} x {term.strength:.2f}" if method.dial else where,
                gain=interval(gained[name]),
                against_add=interval(gained[name] - gains[0][name]),
                effect=float(np.mean([pair.effect or 0.0 for pair in flat])),
                other=other,
                specificity=specificity,
                cost=math.inf if cost is None else cost,
                repetition=float(np.mean([pair.steered.repetition or 0.0 for pair in flat if pair.steered])),
                right=measured[method.name].share,
                kept=interval(np.array(measured[method.name].all, dtype=float) - normal),
                answers=len(flat),
                kl=kl,
            )
        )
    return rows


@dataclass(frozen=True)
class Summary:
    """A method over concepts: means of the rows' figures."""

    method: str
    concepts: int
    gain: float
    more: int  # for how many concepts it clearly gains more than adding, by the interval over prompts
    less: int  # for how many it clearly gains less
    specificity: float
    cost: float
    repetition: float
    kept: float


def summaries(rows: Sequence[Mapping[str, Any]]) -> list[Summary]:
    """The methods over all concepts that they were compared on. `rows`: as `MethodRow.to_json` gives them."""
    summed = []
    for method in dict.fromkeys(row["method"] for row in rows):
        chosen = [row for row in rows if row["method"] == method]
        summed.append(
            Summary(
                method,
                len(chosen),
                gain=fmean(row["gain"][0] for row in chosen),
                more=sum(row["against_add"][1] > 0 for row in chosen),
                less=sum(row["against_add"][2] < 0 for row in chosen),
                specificity=fmean(row["specificity"][0] for row in chosen),
                cost=math.exp(fmean(math.log(row["cost"]) for row in chosen)),
                repetition=fmean(row["repetition"] for row in chosen),
                kept=fmean(row["kept"][0] for row in chosen),
            )
        )
    return summed


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [round(item, 3) for item in value]
    return round(value, 3) if isinstance(value, float) else value
