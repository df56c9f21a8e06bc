"""Demonstrations of steering: what a recipe does to answers, against random directions and other settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean as mean
from typing import TYPE_CHECKING

from ..experiments.evaluation import random_settings
from ..measures.words import INDEPENDENT
from ..values.errors import UsageError
from ..values.operation import UNIT
from ..values.page import Table
from ..values.recipe import Recipe, Term, format_strength
from ..values.setting import Setting
from .demonstration import Shown, bar, demonstration, number
from .lab import DIRECTIONS, PROMPTS, SEEDS, Comparison, Lab, setting, texts

if TYPE_CHECKING:
    from ..conversation.session import Session

STRENGTHS = (0.5, 1.0, 1.5, 3.0, 6.0)
DEPTHS = (8, 25, 50, 75, 92)
_TRIAL_FACTS = "effect low high cost repetition same answers words random_words"
_RIGHT = frozenset({1, 2, 3, 4, 5, 6})
_HEADINGS = ("setting", "effect", "random pushes", "cost", "repeats", "verdict")


@demonstration(_TRIAL_FACTS)
def trial(lab: Lab, session: Session) -> Shown:
    """The recipe of the chat, over ten pairs of answers, against random directions."""
    term = _only_term(session)
    found = lab.compare([term])[0]
    table = Table(_HEADINGS[:-1], [_row(str(term), found)[:-1]], _RIGHT - {5})
    verdict = f"In words: {found.verdict}."
    return Shown([table, verdict, _how(found), f'One of them: "{found.sample}"'], found.facts)


@demonstration(_TRIAL_FACTS)
def zero(lab: Lab, session: Session, concept: str) -> Shown:
    """Strength 0: the hooks are there and push nothing."""
    found = lab.compare([lab.term(concept, strength=0.0)], PROMPTS[:1])[0]
    line = f"{found.same} of {len(found.effects)} steered answers are the normal one, word for word."
    return Shown([line], found.facts)


@demonstration("concept random cost random_cost words random_words low high")
def control(lab: Lab, session: Session, concept: str) -> Shown:
    """A concept beside one random direction of the same strength and layers."""
    term = lab.term(concept)
    plain = Term((("random", 1.0),), term.layers, term.strength)
    found, random = lab.compare([term, plain])
    [pushed] = lab.pairs([setting(plain, along=term)])
    moved = mean([pair.effect or 0.0 for pair in pushed])
    rows = [
        (str(term), f"{found.effect:+.2f}", f"x{found.cost:.2f}", number(found.words)),
        (str(plain), f"{moved:+.2f}", f"x{random.cost:.2f}", number(found.random_words)),
    ]
    rows.append(("random pushes", "{:+.2f} .. {:+.2f}".format(*found.chance), "", ""))
    table = Table(("setting", f"effect along {concept}", "cost", f"{concept} words"), rows, frozenset({1, 2, 3}))
    facts = {
        "concept": found.effect,
        "random": moved,
        "cost": found.cost,
        "random_cost": random.cost,
        "words": found.words or 0.0,
        "random_words": found.random_words or 0.0,
        "low": found.chance[0],
        "high": found.chance[1],
    }
    words = f"{concept} words are counted per 100 words, against the normal answers; no vector is used for that."
    return Shown([table, _how(found), words, f'{concept}: "{found.sample}"', f'random: "{random.sample}"'], facts)


@demonstration("first last window weak_cost strong_cost weak_effect strong_effect strong_repetition")
def strengths(lab: Lab, session: Session, concept: str) -> Shown:
    """From hardly anything to too much; `first` is the least strength above chance, `last` the largest fluent one."""
    trials = lab.compare([lab.term(concept, strength=x) for x in STRENGTHS], PROMPTS[:1])
    rows = [_row(format_strength(x), one) for x, one in zip(STRENGTHS, trials, strict=True)]
    clear = [x for x, one in zip(STRENGTHS, trials, strict=True) if one.effect > one.chance[1]]
    fluent = [x for x, one in zip(STRENGTHS, trials, strict=True) if one.cost <= 2 and one.repetition <= 0.3]
    window = sorted(set(clear) & set(fluent))
    most = max(one.effect for one in trials)
    picture = ["effect (#) and cost (o), by strength"]
    for x, one in zip(STRENGTHS, trials, strict=True):
        picture.append(f"    {x:>4.1f} | {bar(one.effect, most, '#')}  o{bar(min(one.cost, 12) - 1, 11, 'o')}")
    both = "above random pushes and still fluent"
    where = f"{both}: {', '.join(map(format_strength, window))}" if window else f"no strength is {both}"
    facts = {
        "first": min(clear, default=99.0),
        "last": max(fluent, default=0.0),
        "window": len(window),
        "weak_cost": trials[0].cost,
        "strong_cost": trials[-1].cost,
        "weak_effect": trials[0].effect,
        "strong_effect": trials[-1].effect,
        "strong_repetition": trials[-1].repetition,
    }
    last = [
        f"Here, {where}.",
        f'At {STRENGTHS[0]:g}: "{trials[0].sample}"',
        f'At {STRENGTHS[-1]:g}: "{trials[-1].sample}"',
    ]
    return Shown([Table(_HEADINGS, rows, _RIGHT - {5}), "\n".join(picture), *last], facts)


@demonstration("most least first_gain second_gain third_gain")
def styles(lab: Lab, session: Session, *concepts: str) -> Shown:
    """Several concepts where each is recommended, judged by words and length, never by their own vectors."""
    trials = lab.compare([lab.term(name) for name in concepts])
    rows = [(str(one.term), number(one.words), number(one.random_words), f"x{one.cost:.2f}") for one in trials]
    samples = [f'{one.term.concept}: "{one.sample}"' for one in trials]
    gains = [(one.words or 0.0) for one in trials]
    facts = {f"{place}_gain": gain for place, gain in zip(("first", "second", "third"), gains, strict=False)}
    margin = [(one.words or 0.0) - (one.random_words or 0.0) for one in trials]
    facts |= {f"{name}": value for name, value in zip(concepts, gains, strict=True)}
    facts |= {"most": max(margin), "least": min(margin)}
    table = Table(("setting", "gain", "random", "cost"), rows, frozenset({1, 2, 3}))
    gain = "Gain: its words per 100 words, or fewer or more words, against the normal answers."
    return Shown([table, gain, *samples], facts)


@demonstration("early middle late random best early_cost middle_cost late_cost")
def depths(lab: Lab, session: Session, concept: str, strength: str = "2.0") -> Shown:
    """One strength at several depths; what counts are words, since the concept's own vector favours late layers."""
    count = lab.engine.n_layers
    layers = [round(depth / 100 * (count - 1)) for depth in DEPTHS]
    terms = [lab.term(concept, str(layer), float(strength)) for layer in layers]
    trials = lab.compare(terms, PROMPTS[:1], chance=False)
    middle = len(DEPTHS) // 2
    random = lab.compare([terms[middle]], PROMPTS[:1])[0].random_words or 0.0
    rows = [
        (f"{depth}%", str(layer), number(one.words), f"{one.effect:+.2f}", f"x{one.cost:.2f}", f"{one.repetition:.2f}")
        for depth, layer, one in zip(DEPTHS, layers, trials, strict=True)
    ]
    rows.append(("random", str(layers[middle]), f"{random:+.2f}", "", "", ""))
    words = [one.words or 0.0 for one in trials]
    best = max(range(len(words)), key=lambda index: words[index] if trials[index].cost < 3 else -99)
    thirds = {"early": slice(0, middle), "middle": slice(middle, middle + 1), "late": slice(middle + 1, None)}
    facts = {"best": float(DEPTHS[best]), "random": random}
    for name, part in thirds.items():
        facts[name] = sum(words[part]) / len(words[part])
        facts[f"{name}_cost"] = sum(one.cost for one in trials[part]) / len(trials[part])
    headings = ("depth", "layer", f"{concept} words", "effect", "cost", "repeats")
    table = Table(headings, rows, frozenset(range(6)))
    line = f"By words, at a cost below 3, {DEPTHS[best]}% did best here. Five answers each: a lead, not a result."
    return Shown([table, line, f'There: "{trials[best].sample}"'], facts)


@demonstration("add_cost replace_cost add_repetition replace_repetition add_effect replace_effect")
def replacing(lab: Lab, session: Session, concept: str) -> Shown:
    """Adding a direction against putting it in the place of the state, at one middle layer."""
    layer = str(round(0.5 * (lab.engine.n_layers - 1)))
    added, replaced = lab.compare(
        [lab.term(concept, layer, 2.0), lab.term(concept, layer, 1 / UNIT, "replace")], PROMPTS[:1]
    )
    rows = [
        (name, f"{one.effect:+.2f}", f"x{one.cost:.1f}", f"{one.repetition:.2f}")
        for name, one in (("add", added), ("replace", replaced))
    ]
    headings = ("what is done", "effect", "cost", "repeats")
    table = Table(headings, rows, frozenset({1, 2, 3}))
    facts = {
        "add_cost": added.cost,
        "replace_cost": replaced.cost,
        "add_repetition": added.repetition,
        "replace_repetition": replaced.repetition,
        "add_effect": added.effect,
        "replace_effect": replaced.effect,
    }
    return Shown([table, f'add: "{added.sample}"', f'replace: "{replaced.sample}"'], facts)


@demonstration("least most against count effect high")
def spread(lab: Lab, session: Session, concept: str) -> Shown:
    """Single pairs of one setting, side by side: how much luck there is in one."""
    found = lab.compare([lab.term(concept)])[0]
    effects = sorted(found.effects)
    most = max(abs(effect) for effect in effects)
    lines = [f"    {effect:+.2f} {bar(abs(effect), most, '#' if effect > 0 else '-')}" for effect in effects]
    facts = {
        "least": effects[0],
        "most": effects[-1],
        "against": sum(effect <= 0 for effect in effects),
        "count": len(effects),
        "effect": found.effect,
        "high": found.chance[1],
    }
    head = f"the effect of {found.term} in {len(effects)} single pairs; their mean is {found.effect:+.2f}"
    return Shown([head + "\n" + "\n".join(lines), _how(found)], facts)


@demonstration("steered asked random steered_gain asked_gain random_gain")
def asking(lab: Lab, session: Session, concept: str) -> Shown:
    """Steering against saying it in the prompt, by a count of words."""
    if concept not in INDEPENDENT:
        raise UsageError(f"there is no word list for {concept}", f"one of {', '.join(INDEPENDENT)}")
    measure, term = INDEPENDENT[concept], lab.term(concept)
    how = lab.library.get(concept).request
    asked = Setting.asked_for(Recipe((term,)), how)
    steered, asking, *random = lab.pairs([setting(term), asked, *random_settings(term, DIRECTIONS)])

    def count(answers: Sequence[str]) -> float:
        return mean([measure.towards(text) for text in answers])

    normal = count([pair.normal.text for pair in steered])
    figures = {
        "steered": count(texts(steered)),
        "asked": count(texts(asking)),
        "random": count([text for pairs in random for text in texts(pairs)]),
    }
    rows = [("normal", f"{normal:.2f}", "")]
    rows += [(name, f"{value:.2f}", f"{value - normal:+.2f}") for name, value in figures.items()]
    table = Table(("answers", measure.unit, "against normal"), rows, frozenset({1, 2}))
    facts = figures | {f"{name}_gain": value - normal for name, value in figures.items()}
    return Shown([table, f'asked: the prompt ends with "{how}"; steered: {term}.'], facts)


@demonstration("cosine first_kept first_alone second_alone first_mixed second_mixed cost")
def mixing(lab: Lab, session: Session, first: str, second: str) -> Shown:
    """Two concepts alone and as a mix of the same strength: what of each is left, `first_kept` in per cent."""
    names = (first, second)
    alone = [lab.term(name) for name in names]
    layers, strength = alone[0].layers, alone[0].strength
    alone = [Term(((name, 1.0),), layers, strength) for name in names]
    mixed = Term(((first, 0.5), (second, 0.5)), layers, strength)
    steered = [*alone, mixed]
    found = iter(lab.pairs([setting(term, along) for term in steered for along in alone]))
    grid = [[mean([pair.effect or 0.0 for pair in next(found)]) for _ in alone] for _ in steered]
    [whole] = lab.compare([mixed], chance=False)
    vectors = {name: lab.reader.vector(name) for name in names}
    middle = layers[len(layers) // 2]
    cosine = float(vectors[first].cosine(vectors[second])[middle])
    rows = [
        (title, *(f"{value:+.2f}" for value in line))
        for title, line in zip((first, second, f"{first} and {second}"), grid, strict=True)
    ]
    table = Table(("steered", f"effect along {first}", f"along {second}"), rows, frozenset({1, 2}))
    facts = {
        "cosine": cosine,
        "first_alone": grid[0][0],
        "second_alone": grid[1][1],
        "first_kept": 100 * grid[2][0] / grid[0][0] if grid[0][0] > 0 else math.nan,
        "first_mixed": grid[2][0],
        "second_mixed": grid[2][1],
        "cost": whole.cost,
    }
    line = f"The cosine between the two directions at layer {middle} is {cosine:+.2f} (1: the same, 0: unrelated)."
    if grid[0][0] > 0:
        line += f" Of its effect alone, {first} keeps {facts['first_kept']:.0f}%."
    return Shown([table, line, f'The mix: "{whole.sample}"'], facts)


def _only_term(session: Session) -> Term:
    if len(session.recipe.terms) != 1:
        raise UsageError("this measures one concept or one mix", "/steer happy")
    return session.recipe.terms[0]


def _row(title: str, one: Comparison) -> tuple[str, ...]:
    low, high = one.chance
    return (
        title,
        f"{one.effect:+.2f}",
        f"{low:+.2f} .. {high:+.2f}",
        f"x{one.cost:.2f}",
        f"{one.repetition:.2f}",
        one.verdict,
    )


def _how(one: Comparison) -> str:
    return (
        f"{len(one.effects)} pairs with {len(SEEDS)} seeds. Random pushes: where 95% of the means would fall if the "
        "direction meant nothing, by random directions of this strength just now."
    )
