"""Demonstrations of steering: what a recipe does to answers, against random directions and other settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean as mean

from ..conversation.runner import Runner
from ..experiments.evaluation import random_settings
from ..experiments.methods import compare_methods
from ..experiments.tuning import DEFAULT_BUDGET
from ..measures.capability import questions as capability_questions
from ..measures.words import INDEPENDENT
from ..values.errors import UsageError
from ..values.gate import Condition, Gate
from ..values.operation import ADD, UNIT
from ..values.recipe import Recipe, Term, format_strength
from ..values.setting import Setting
from .demonstration import Shown, bar, demonstration, figures
from .lab import PROMPTS, SEEDS, WORD_DIRECTIONS, Comparison, Lab, setting, texts

STRENGTHS = (0.5, 1.0, 1.5, 3.0, 6.0)
DEPTHS = (8, 25, 50, 75, 92)
_TRIAL_FACTS = "effect low high cost repetition same answers words"
_EFFECT = {"effect": "{effect:+.2f}"}
_COST = {"cost": "x{cost:.2f}"}
_REPEATS = {"repeats": "{repetition:.2f}"}
_AGAINST_CHANCE = _EFFECT | {"random pushes": "{low:+.2f} .. {high:+.2f}"} | _COST | _REPEATS


@demonstration(_TRIAL_FACTS)
def trial(lab: Lab) -> Shown:
    """The recipe of the chat, over ten pairs of answers, against random directions."""
    terms = lab.session.recipe.terms
    if len(terms) != 1:
        raise UsageError("this measures one concept or one mix", "/steer happy")
    [tried] = lab.compare(terms)
    table = figures("setting", [(tried.setting.label, tried.facts)], _AGAINST_CHANCE)
    return Shown([table, f"In words: {tried.verdict}.", _how(tried), f'One of them: "{tried.sample}"'], tried.facts)


@demonstration(_TRIAL_FACTS)
def zero(lab: Lab, concept: str) -> Shown:
    """Strength 0: the hooks are there and push nothing."""
    [tried] = lab.compare([lab.term(concept, strength=0.0)], PROMPTS[:1])
    facts = tried.facts
    line = f"{facts['same']} of {facts['answers']} steered answers are the normal one, word for word."
    return Shown([line], facts)


@demonstration("concept random cost random_cost words random_words low high")
def control(lab: Lab, concept: str) -> Shown:
    """A concept beside one random direction of the same strength and layers."""
    term = lab.term(concept)
    plain = Term((("random", 1.0),), term.layers, term.strength)
    along = setting(plain, along=term)
    [steered], [pushed] = lab.compare([term], words=True), lab.pairs([along])
    random = Comparison(along, tuple(pushed), None)
    own = steered.facts
    other = {name: random.facts[name] for name in ("effect", "cost")} | {"words": own.get("random_words", 0.0)}
    columns = {f"effect along {concept}" if name == "effect" else name: f for name, f in _AGAINST_CHANCE.items()}
    del columns["repeats"]
    columns[f"{concept} words"] = "{words:+.2f}"
    table = figures("setting", [(str(term), own), (str(plain), other)], columns)
    facts = {name: own.get(name, 0.0) for name in ("cost", "words", "random_words", "low", "high")}
    facts |= {"concept": own["effect"], "random": other["effect"], "random_cost": other["cost"]}
    words = f"{concept} words are counted per 100 words, against the normal answers; no vector is used for that."
    return Shown([table, _how(steered), words, *_samples((concept, "random"), (steered, random))], facts)


@demonstration("first last window weak_cost strong_cost weak_effect strong_effect strong_repetition")
def strengths(lab: Lab, concept: str) -> Shown:
    """From hardly anything to too much; `first` is the least strength above chance, `last` the largest fluent one."""
    trials = lab.compare([lab.term(concept, strength=strength) for strength in STRENGTHS], PROMPTS[:1])
    names = [format_strength(strength) for strength in STRENGTHS]
    facts = [tried.facts for tried in trials]
    rows = [(name, tried.facts | {"verdict": tried.verdict}) for name, tried in zip(names, trials, strict=True)]
    clear = [strength for strength, fact in zip(STRENGTHS, facts, strict=True) if fact["effect"] > fact["high"]]
    fluent = [
        strength
        for strength, fact in zip(STRENGTHS, facts, strict=True)
        if fact["cost"] <= 2 and fact["repetition"] <= 0.3
    ]
    window = sorted(set(clear) & set(fluent))
    most = max(fact["effect"] for fact in facts)
    picture = ["effect (#) and cost (o), by strength"]
    for name, fact in zip(names, facts, strict=True):
        picture.append(f"    {name:>4} | {bar(fact['effect'], most, '#')}  o{bar(min(fact['cost'], 12) - 1, 11, 'o')}")
    both = "above random pushes and still fluent"
    where = f"{both}: {', '.join(map(format_strength, window))}" if window else f"no strength is {both}"
    parts = [
        figures("setting", rows, _AGAINST_CHANCE | {"verdict": "{verdict}"}),
        "\n".join(picture),
        f"Here, {where}.",
        *_samples((f"At {names[0]}", f"At {names[-1]}"), (trials[0], trials[-1])),
    ]
    shown = {"first": min(clear, default=99.0), "last": max(fluent, default=0.0), "window": len(window)}
    ends = _named(("weak", "strong"), (trials[0], trials[-1]), "cost", "effect", "repetition")
    return Shown(parts, shown | ends)


@demonstration("most least first_gain second_gain third_gain")
def styles(lab: Lab, *concepts: str) -> Shown:
    """Several concepts where each is recommended, judged by words and length, never by their own vectors."""
    trials = lab.compare([lab.term(name) for name in concepts], words=True)
    columns = {"gain": "{words:+.2f}", "random": "{random_words:+.2f}"} | _COST
    table = figures("setting", [(tried.setting.label, tried.facts) for tried in trials], columns)
    gains = [tried.facts.get("words", 0.0) for tried in trials]
    margins = [gain - tried.facts.get("random_words", 0.0) for gain, tried in zip(gains, trials, strict=True)]
    facts = {f"{place}_gain": gain for place, gain in zip(("first", "second", "third"), gains, strict=False)}
    facts |= dict(zip(concepts, gains, strict=True)) | {"most": max(margins), "least": min(margins)}
    line = "Gain: its words per 100 words, or fewer or more words, against the normal answers."
    return Shown([table, line, *_samples(concepts, trials)], facts)


@demonstration("early middle late random best early_cost middle_cost late_cost")
def depths(lab: Lab, concept: str, strength: str = "2.0") -> Shown:
    """One strength at several depths; what counts are words, since the concept's own vector favours late layers."""
    layers = [round(depth / 100 * (lab.engine.n_layers - 1)) for depth in DEPTHS]
    terms = [lab.term(concept, str(layer), float(strength)) for layer in layers]
    trials = lab.compare(terms, PROMPTS[:1], chance=False)
    middle = len(DEPTHS) // 2
    random = lab.compare([terms[middle]], PROMPTS[:1], words=True)[0].facts.get("random_words", 0.0)
    rows = [
        (f"{depth}%", tried.facts | {"layer": layer})
        for depth, layer, tried in zip(DEPTHS, layers, trials, strict=True)
    ]
    rows.append(("random", {"layer": layers[middle], "words": random}))
    columns = {"layer": "{layer}", f"{concept} words": "{words:+.2f}"} | _EFFECT | _COST | _REPEATS
    words = [tried.facts.get("words", 0.0) for tried in trials]
    costs = [tried.facts["cost"] for tried in trials]
    best = max(range(len(words)), key=lambda index: words[index] if costs[index] < 3 else -99)
    facts = {"best": float(DEPTHS[best]), "random": random}
    thirds = {"early": slice(0, middle), "middle": slice(middle, middle + 1), "late": slice(middle + 1, None)}
    for name, part in thirds.items():
        facts |= {name: mean(words[part]), f"{name}_cost": mean(costs[part])}
    line = f"By words, at a cost below 3, {DEPTHS[best]}% did best here. Five answers each: a lead, not a result."
    return Shown([figures("depth", rows, columns), line, f'There: "{trials[best].sample}"'], facts)


@demonstration("add_cost replace_cost add_repetition replace_repetition add_effect replace_effect")
def replacing(lab: Lab, concept: str) -> Shown:
    """Adding a direction against putting it in the place of the state, at one middle layer."""
    layer = str(round(0.5 * (lab.engine.n_layers - 1)))
    names = ("add", "replace")
    trials = lab.compare([lab.term(concept, layer, 2.0), lab.term(concept, layer, 1 / UNIT, "replace")], PROMPTS[:1])
    rows = [(name, tried.facts) for name, tried in zip(names, trials, strict=True)]
    table = figures("what is done", rows, _EFFECT | _COST | _REPEATS)
    return Shown([table, *_samples(names, trials)], _named(names, trials, "cost", "repetition", "effect"))


@demonstration("turn_ratio small_add_cost small_turn_cost large_add_cost large_turn_cost")
def turning(lab: Lab, concept: str) -> Shown:
    """Adding against turning at one middle layer; `turn_ratio` is the cost of turning over that of adding, at 4.0."""
    layer = str(round(0.5 * (lab.engine.n_layers - 1)))
    kinds = [(strength, operation) for strength in (1.0, 2.0, 3.0, 4.0) for operation in (ADD, "rotate")]
    trials = lab.compare([lab.term(concept, layer, *kind) for kind in kinds], PROMPTS[:1], chance=False)
    titles = [f"{'turn' if operation == 'rotate' else 'add'} {strength}" for strength, operation in kinds]
    rows = [(title, tried.facts) for title, tried in zip(titles, trials, strict=True)]
    ends = [*trials[:2], *trials[-2:]]
    facts = _named(("small_add", "small_turn", "large_add", "large_turn"), ends, "cost", "effect")
    facts["turn_ratio"] = facts["large_turn_cost"] / facts["large_add_cost"]
    table = figures("what is done", rows, _EFFECT | _COST | _REPEATS)
    return Shown([table, *_samples(titles[-2:], trials[-2:])], facts)


@demonstration("never_same answers first_share after_share lacking_share first_cost lacking_cost lacking_ratio")
def gates(lab: Lab, concept: str) -> Shown:
    """One push always, and behind gates; a `share` is of the effect of always, `lacking_ratio` of its cost."""
    kinds = {
        "always": Gate(),
        "first 10 tokens": Gate(first=10),
        "after 10 tokens": Gate(after=10),
        "while it lacks": Gate(Condition(concept, above=False, threshold=1.0)),
        "never": Gate(Condition(concept, above=True, threshold=1000.0)),
    }
    terms = [replace(lab.term(concept), gate=gate) for gate in kinds.values()]
    trials = lab.compare(terms, PROMPTS[:1], chance=False)
    always, *gated, never = [tried.facts for tried in trials]
    facts = {"never_same": never["same"], "answers": never["answers"]}
    for name, fact in zip(("first", "after", "lacking"), gated, strict=True):
        share = fact["effect"] / always["effect"] if always["effect"] else math.nan
        facts |= {f"{name}_share": share, f"{name}_cost": fact["cost"]}
    facts["lacking_ratio"] = facts["lacking_cost"] / always["cost"]
    table = figures("when", [(name, tried.facts) for name, tried in zip(kinds, trials, strict=True)], _EFFECT | _COST)
    lines = [
        f"While it lacks: --when {concept}<1, read on the answer so far.",
        f"Never: {never['same']} of {never['answers']} answers are the normal one, token for token.",
    ]
    return Shown([table, *lines, *_samples(("Always", "First 10 tokens"), trials[:2])], facts)


@demonstration("best_gain add_gain best_is_add least_cost most_cost least_right")
def methods(lab: Lab, concept: str) -> Shown:
    """Operations and ways of extraction at equal cost; gains are in spreads of the concept's own word measure."""
    asked = capability_questions()[::16]
    [rows] = compare_methods(Runner(lab.reader, memo={}), [concept], DEFAULT_BUDGET, PROMPTS, tuple(SEEDS)[:3], asked)
    columns = {"gain": "{gain:+.2f}"} | _COST | {"right answers": "{right:.0%}"}
    table = figures("method", [(row.method, vars(row) | {"gain": row.gain[0]}) for row in rows], columns)
    costs = [row.cost for row in rows]
    best = max(rows, key=lambda row: row.gain[0])
    facts = {"best_gain": best.gain[0], "add_gain": rows[0].gain[0], "best_is_add": float(best is rows[0])}
    facts |= {"least_cost": min(costs), "most_cost": max(costs), "least_right": min(row.right for row in rows)}
    line = f"{rows[0].answers} answers each, and {len(asked)} questions with one right answer."
    return Shown([table, line], facts)


@demonstration("least most against count effect high")
def spread(lab: Lab, concept: str) -> Shown:
    """Single pairs of one setting, side by side: how much luck there is in one."""
    [tried] = lab.compare([lab.term(concept)])
    effects = sorted(tried.effects)
    most = max(abs(effect) for effect in effects)
    lines = [f"    {effect:+.2f} {bar(abs(effect), most, '#' if effect > 0 else '-')}" for effect in effects]
    facts = {name: tried.facts[name] for name in ("effect", "high")}
    facts |= {"least": effects[0], "most": effects[-1], "count": len(effects)}
    facts["against"] = sum(effect <= 0 for effect in effects)
    label, effect = tried.setting.label, facts["effect"]
    head = f"the effect of {label} in {len(effects)} single pairs; their mean is {effect:+.2f}"
    return Shown(["\n".join([head, *lines]), _how(tried)], facts)


@demonstration("steered asked random steered_gain asked_gain random_gain")
def asking(lab: Lab, concept: str) -> Shown:
    """Steering against saying it in the prompt, by a count of words."""
    if concept not in INDEPENDENT:
        raise UsageError(f"there is no word list for {concept}", f"one of {', '.join(INDEPENDENT)}")
    measure, term = INDEPENDENT[concept], lab.term(concept)
    request = lab.session.library.get(concept).request
    asked = Setting.asked_for(Recipe((term,)), request)
    steered, asking, *random = lab.pairs([setting(term), asked, *random_settings(term, WORD_DIRECTIONS)])
    answers = {
        "normal": [pair.normal.text for pair in steered],
        "steered": texts(steered),
        "asked": texts(asking),
        "random": [text for pairs in random for text in texts(pairs)],
    }
    counts = {name: mean([measure.towards(text) for text in given]) for name, given in answers.items()}
    normal = counts.pop("normal")
    gains = {name: count - normal for name, count in counts.items()}
    rows = [("normal", {"count": normal})]
    rows += [(name, {"count": counts[name], "gain": gains[name]}) for name in counts]
    table = figures("answers", rows, {measure.unit: "{count:.2f}", "against normal": "{gain:+.2f}"})
    facts = counts | {f"{name}_gain": gain for name, gain in gains.items()}
    return Shown([table, f'asked: the prompt ends with "{request}"; steered: {term}.'], facts)


@demonstration("cosine first_kept first_alone second_alone first_mixed second_mixed cost")
def mixing(lab: Lab, first: str, second: str) -> Shown:
    """Two concepts alone and as a mix of the same strength: what of each is left, `first_kept` in per cent."""
    names = (first, second)
    where = lab.term(first)
    alone = [Term(((name, 1.0),), where.layers, where.strength) for name in names]
    mixed = Term(((first, 0.5), (second, 0.5)), where.layers, where.strength)
    pairs = iter(lab.pairs([setting(term, along) for term in (*alone, mixed) for along in alone]))
    rows = [
        (title, {name: mean([pair.effect or 0.0 for pair in next(pairs)]) for name in ("first", "second")})
        for title in (first, second, f"{first} and {second}")
    ]
    [whole] = lab.compare([mixed], chance=False)
    vectors = [lab.reader.vector(name) for name in names]
    middle = where.layers[len(where.layers) // 2]
    cosine = float(vectors[0].cosine(vectors[1])[middle])
    columns = {f"effect along {first}": "{first:+.2f}", f"along {second}": "{second:+.2f}"}
    effects = [effect for _, effect in rows]
    kept = 100 * effects[2]["first"] / effects[0]["first"] if effects[0]["first"] > 0 else math.nan
    facts = {
        "cosine": cosine,
        "first_alone": effects[0]["first"],
        "second_alone": effects[1]["second"],
        "first_kept": kept,
        "first_mixed": effects[2]["first"],
        "second_mixed": effects[2]["second"],
        "cost": whole.facts["cost"],
    }
    line = f"The cosine between the two directions at layer {middle} is {cosine:+.2f} (1: the same, 0: unrelated)."
    if math.isfinite(kept):
        line += f" Of its effect alone, {first} keeps {kept:.0f}%."
    return Shown([figures("steered", rows, columns), line, f'The mix: "{whole.sample}"'], facts)


def _named(names: Iterable[str], trials: Iterable[Comparison], *facts: str) -> dict[str, float]:
    """Facts of several comparisons, each with the comparison's name before it: `add_cost`."""
    return {f"{name}_{fact}": tried.facts[fact] for name, tried in zip(names, trials, strict=True) for fact in facts}


def _samples(names: Sequence[str], trials: Sequence[Comparison]) -> list[str]:
    """The first steered answer of each comparison."""
    return [f'{name}: "{tried.sample}"' for name, tried in zip(names, trials, strict=True)]


def _how(tried: Comparison) -> str:
    return (
        f"{len(tried.pairs)} pairs with {len(SEEDS)} seeds. Random pushes: where 95% of the means would fall if the "
        "direction meant nothing."
    )
