"""What a lesson can show: each demonstration measures something on the model at hand and gives it as facts.

A lesson names one by `show = "strengths happy"`. Its facts are what the lesson's choices and goals may compare.
To add one, write a function with the decorator; `facts` are the names that it always gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean as mean
from typing import TYPE_CHECKING

import torch

from ..concepts.extract import extract
from ..concepts.vector import random_vector
from ..experiments.evaluation import random_settings
from ..measures.inspection import lens as read_off
from ..measures.words import INDEPENDENT
from ..values.errors import UsageError, unknown
from ..values.operation import UNIT
from ..values.page import Table
from ..values.recipe import Recipe, Term, format_layers, format_strength
from ..values.setting import Setting
from .by_hand import by_hand as steered_twice
from .by_hand import source_by_hand
from .lab import DIRECTIONS, PROMPTS, SEEDS, Comparison, Lab, setting, texts

if TYPE_CHECKING:
    from ..conversation.session import Session
    from ..engine.engine import Engine

STRENGTHS = (0.5, 1.0, 1.5, 3.0, 6.0)
DEPTHS = (8, 25, 50, 75, 92)
_TRIAL_FACTS = "effect low high cost repetition same answers words random_words"
_RIGHT = frozenset({1, 2, 3, 4, 5, 6})
_HEADINGS = ("setting", "effect", "random pushes", "cost", "repeats", "verdict")


@dataclass(frozen=True)
class Shown:
    """What a demonstration found: sentences and tables for the screen, and figures for the lesson's rules."""

    parts: Sequence[object]
    facts: Mapping[str, float] = field(default_factory=dict)


Show = Callable[..., Shown]


@dataclass(frozen=True)
class Demonstration:
    show: Show
    facts: frozenset[str]


ALL: dict[str, Demonstration] = {}


def demonstration(facts: str = "") -> Callable[[Show], Show]:
    def declare(show: Show) -> Show:
        ALL[show.__name__.rstrip("_")] = Demonstration(show, frozenset(facts.split()))
        return show

    return declare


def run(name: str, lab: Lab, session: Session, words: tuple[str, ...]) -> Shown:
    """Raises UnknownName for a demonstration that does not exist."""
    if name not in ALL:
        raise unknown("demonstration", name, ALL, "tutorials/README.md lists them")
    return ALL[name].show(lab, session, *words)


# Effects


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
        (str(term), f"{found.effect:+.2f}", f"x{found.cost:.2f}", _number(found.words)),
        (str(plain), f"{moved:+.2f}", f"x{random.cost:.2f}", _number(found.random_words)),
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
        picture.append(f"    {x:>4.1f} | {_bar(one.effect, most, '#')}  o{_bar(min(one.cost, 12) - 1, 11, 'o')}")
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
    rows = [(str(one.term), _number(one.words), _number(one.random_words), f"x{one.cost:.2f}") for one in trials]
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
        (f"{depth}%", str(layer), _number(one.words), f"{one.effect:+.2f}", f"x{one.cost:.2f}", f"{one.repetition:.2f}")
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
    lines = [f"    {effect:+.2f} {_bar(abs(effect), most, '#' if effect > 0 else '-')}" for effect in effects]
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
    asked = Setting("asked for", Recipe(), along=Recipe((term,)), asking=how)
    steered, asking, *random = lab.pairs([setting(term), asked, *random_settings(term, DIRECTIONS)])
    count = lambda answers: mean([measure.towards(text) for text in answers])  # noqa: E731
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


# Vectors and states


@demonstration()
def pairs(lab: Lab, session: Session, concept: str) -> Shown:
    """The first two of a concept's pairs, whole."""
    examples = lab.library.get(concept).examples[:2]
    return Shown([f"{one.prompt}\n    with:     {one.positive}\n    without:  {one.negative}" for one in examples])


@demonstration("bad_told good_told cosine unrelated bad_words good_words bad_cost good_cost")
def baseline(lab: Lab, session: Session, bad: str, good: str) -> Shown:
    """Two concepts that should be one: what each tells of the good one's held-out pairs and adds of its words."""
    where = lab.term(good)
    terms = [Term(((name, 1.0),), where.layers, where.strength) for name in (bad, good)]
    # Both are counted by the words of the good one.
    found = lab.pairs([setting(term, along=terms[1]) for term in terms])
    measure = INDEPENDENT[good]
    gains = [
        mean([measure.towards(text) for text in texts(pairs)])
        - mean([measure.towards(pair.normal.text) for pair in pairs])
        for pairs in found
    ]
    trials = lab.compare(terms, chance=False)
    middle = where.layers[len(where.layers) // 2]
    vectors = [lab.reader.vector(name) for name in (bad, good)]
    cosine = float(vectors[0].cosine(vectors[1])[middle])
    told = [_told(lab, session, name, good, middle) for name in (bad, good)]
    rows = [
        (name, str(vector.report.get("pairs", "")), f"{share:.2f}", f"{gain:+.2f}", f"x{one.cost:.2f}")
        for name, vector, share, gain, one in zip((bad, good), vectors, told, gains, trials, strict=True)
    ]
    headings = ("concept", "pairs", "told apart", f"{good} words", "cost")
    samples = [f'{name}: "{one.sample}"' for name, one in zip((bad, good), trials, strict=True)]
    facts = {
        "bad_told": told[0],
        "good_told": told[1],
        "cosine": cosine,
        "unrelated": _random_cosine(lab.engine.hidden),
        "bad_words": gains[0],
        "good_words": gains[1],
        "bad_cost": trials[0].cost,
        "good_cost": trials[1].cost,
    }
    below = f"random ones stay below {facts['unrelated']:.2f}"
    line = f"Their directions have a cosine of {cosine:+.2f} at layer {middle}; {below}."
    return Shown([Table(headings, rows, frozenset({1, 2, 3, 4})), line, *samples], facts)


def _told(lab: Lab, session: Session, name: str, judged_by: str, layer: int) -> float:
    """How often a concept's direction ranks the held-out pairs of another one rightly at a layer; NaN without any."""
    held = tuple(one for one in lab.library.get(judged_by).examples if one.held_out)
    own = tuple(one for one in lab.library.get(name).examples if not one.held_out)
    both = replace(lab.library.get(name), examples=own + held)
    found = extract(lab.engine, both, report=session.report, stopped=session.stop.is_set).report["separability"]
    return found[layer] if found else math.nan


@demonstration("count letters words")
def tokens(lab: Lab, session: Session, *words: str) -> Shown:
    """How the model's tokenizer cuts a text."""
    text = " ".join(words)
    prompter = lab.engine.prompter
    ids = prompter.reply(text)
    pieces = " ".join(f"[{prompter.text([one])}]" for one in ids)
    facts = {"count": len(ids), "letters": len(text), "words": len(words)}
    return Shown([f"{len(words)} words, {len(text)} characters, {len(ids)} tokens:\n    {pieces}"], facts)


@demonstration("static same different gap early_gap")
def context(lab: Lab, session: Session) -> Shown:
    """One word in three sentences: its embedding cannot differ, its states do, by what it means."""
    sentences = (
        "We sat in the grass beside the river, on its muddy bank",
        "The boat drifted through the reeds until it touched the bank",
        "She paid the cheque into her account at the bank",
    )
    states = _states(lab.engine, sentences)
    # What every text has in common at a layer would make all of them look alike.
    states = states - lab.reader.profile.states.float().mean(dim=0)
    layers = sorted({round(depth / 100 * (lab.engine.n_layers - 1)) for depth in (0, 25, 50, 75, 100)})
    rows, same, different = [], [], []
    for layer in layers:
        at = states[:, layer]
        cosine = lambda a, b, at=at: float(torch.cosine_similarity(at[a], at[b], dim=0))  # noqa: E731
        same.append(cosine(0, 1))
        different.append((cosine(0, 2) + cosine(1, 2)) / 2)
        rows.append(
            (f"after layer {layer}", f"{same[-1]:.2f}", f"{different[-1]:.2f}", f"{same[-1] - different[-1]:+.2f}")
        )
    rows.insert(0, ("the embedding", "1.00", "1.00", "+0.00"))
    headings = ("bank, compared", "river and river", "river and money", "gap")
    gaps = [a - b for a, b in zip(same, different, strict=True)]
    middle = len(layers) // 2
    facts = {
        "static": 1.0,
        "same": same[middle],
        "different": different[middle],
        "gap": max(gaps),
        "early_gap": gaps[0],
    }
    lines = "\n".join(f"    {one}" for one in sentences)
    return Shown([lines, Table(headings, rows, frozenset({1, 2, 3}))], facts)


@demonstration("settled early_chance middle_chance last_chance changes")
def lens(lab: Lab, session: Session, *words: str) -> Shown:
    """The next token read off after each layer; `settled` is the depth from which it stays what it is at the end."""
    prompt = " ".join(words) or "The capital of France is the city of"
    steps = read_off(lab.engine, lab.engine.prompter.raw(prompt))
    guesses = [(step.guess.text, step.guess.probability) for step in steps]
    last = len(guesses) - 1
    settled = last
    while settled and guesses[settled - 1][0] == guesses[last][0]:
        settled -= 1
    shown = sorted({round(depth / 10 * last) for depth in range(11)} | {settled})
    rows = [
        (str(layer), f"{100 * layer / max(1, last):.0f}%", repr(guesses[layer][0]), f"{guesses[layer][1]:.0%}")
        for layer in shown
    ]
    table = Table(("layer", "depth", "guess", "chance"), rows, frozenset({0, 1, 3}))
    facts = {
        "settled": 100 * settled / max(1, last),
        "early_chance": guesses[0][1],
        "middle_chance": guesses[last // 2][1],
        "last_chance": guesses[last][1],
        "changes": sum(a[0] != b[0] for a, b in pairwise(guesses)),
    }
    line = f'"{prompt}": from layer {settled} on ({facts["settled"]:.0f}% deep) the guess is what it is at the end.'
    return Shown([table, line], facts)


@demonstration("first early middle late best best_depth")
def separability(lab: Lab, session: Session, concept: str) -> Shown:
    """Read now from the concept's held-out pairs: how often each layer ranks with above without."""
    vector = extract(lab.engine, lab.library.get(concept), report=session.report, stopped=session.stop.is_set)
    values = vector.report["separability"]
    if not values:
        raise UsageError(f"no pairs of {concept} are held out", "a concept that ships has some")
    last = len(values) - 1
    chosen = [round(depth / 10 * last) for depth in range(11)]
    lines = [
        f"    layer {layer:>3} {values[layer]:.2f} {_bar(values[layer] - 0.5, 0.5, '#')}"
        for layer in sorted(set(chosen))
    ]
    third = max(1, len(values) // 3)
    best = max(range(len(values)), key=values.__getitem__)
    facts = {
        "first": values[0],
        "early": mean(values[:third]),
        "middle": mean(values[third : 2 * third] or values),
        "late": mean(values[2 * third :]),
        "best": values[best],
        "best_depth": 100 * best / max(1, last),
    }
    head = f"how often {concept} is told from its baseline, on held-out pairs (0.50 is chance)"
    return Shown([head + "\n" + "\n".join(lines)], facts)


@demonstration("layers pushed share")
def stack(lab: Lab, session: Session) -> Shown:
    """The blocks of this model, from the last to the first, and where the recipe pushes."""
    count = lab.engine.n_layers
    pushed = {layer: term for term in session.recipe.terms for layer in term.layers} if session.recipe.active else {}
    lines = ["    next token", "        ^"]
    for layer in reversed(range(count)):
        if count > 20 and layer not in pushed and 2 < layer < count - 3 and layer % 5:
            if not lines[-1].endswith("..."):
                lines.append("      ...")
            continue
        term = pushed.get(layer)
        arrow = "" if term is None else f" <== + {format_strength(round(term.per_layer, 3))} x {term.concept}"
        lines.append(f"    [ layer {layer:>2}  {100 * layer / max(1, count - 1):>3.0f}% ]{arrow}")
    lines += ["        ^", "    embedding of the token"]
    share = sum(abs(term.strength) for term in session.recipe.terms) * UNIT
    facts = {"layers": count, "pushed": len(pushed), "share": share}
    return Shown(["\n".join(lines)], facts)


@demonstration()
def source(lab: Lab, session: Session) -> Shown:
    """The lines that steer, to be read."""
    return Shown(["\n".join("    " + line for line in source_by_hand().splitlines())])


@demonstration("same")
def hook(lab: Lab, session: Session, concept: str) -> Shown:
    """Those lines run: whether they say what the engine says."""
    layer = str(round(0.5 * (lab.engine.n_layers - 1)))
    term = lab.term(concept, layer, 2.0)
    ours, theirs = steered_twice(lab.reader, term, PROMPTS[0])
    text = lab.engine.prompter.text
    same = ours == theirs
    lines = [
        f"Those lines, run just now with {concept} at layer {format_layers(term.layers)}, greedily:",
        f"    by hand:   {text(ours)!r}\n    steerchat: {text(theirs)!r}",
        "The same tokens." if same else "They differ, which happens in sixteen bits; in float32 it would be a mistake.",
    ]
    return Shown(lines, {"same": float(same)})


def _states(engine: Engine, sentences: Sequence[str]) -> torch.Tensor:
    """(texts, layers, hidden) after each block at the last token of each plain text."""
    encoded = [engine.prompter.raw(text) for text in sentences]
    return engine.states([(ids[:-1] or engine.prompter.start(), ids[-1:]) for ids in encoded], "last")


def _random_cosine(hidden: int, directions: int = 20) -> float:
    """The largest cosine between random directions of a width: what counts as unrelated."""
    vectors = torch.stack([random_vector(seed, 1, hidden, "").directions[0] for seed in range(directions)])
    between = (vectors @ vectors.T).fill_diagonal_(0)
    return float(between.abs().max())


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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _bar(value: float, most: float, mark: str, width: int = 24) -> str:
    return mark * round(max(0.0, value) / most * width) if most > 0 else ""
