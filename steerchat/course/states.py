"""Demonstrations of vectors and states: tokens, activations, layers, and the lines that steer by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from statistics import fmean as mean

import torch

from ..concepts.concept import Concept
from ..concepts.extract import extract
from ..concepts.vector import random_vector
from ..engine.operations import LayerOperation
from ..measures.inspection import last_states
from ..measures.inspection import lens as read_off
from ..measures.words import INDEPENDENT
from ..values.errors import UsageError
from ..values.operation import ADD, UNIT
from ..values.page import Table
from ..values.recipe import Recipe, Term, format_layers, format_strength
from ..values.text import counted
from .by_hand import by_hand as steered_twice
from .by_hand import source_by_hand
from .demonstration import Shown, bar, demonstration, figures
from .lab import PROMPTS, Lab, setting, texts

_SENTENCES = (
    "We sat in the grass beside the river, on its muddy bank",
    "The boat drifted through the reeds until it touched the bank",
    "She paid the cheque into her account at the bank",
)


@demonstration()
def pairs(lab: Lab, concept: str) -> Shown:
    """The first two of a concept's pairs, whole."""
    examples = lab.session.library.get(concept).examples[:2]
    return Shown([f"{pair.prompt}\n    with:     {pair.positive}\n    without:  {pair.negative}" for pair in examples])


@demonstration("small_ratio add_length turn_length add_angle turn_angle")
def geometry(lab: Lab, concept: str) -> Shown:
    """What a push and a turn of a strength do to states at a middle layer; `small_ratio` compares the angles at 1.0."""
    layer, prompter = round(0.5 * (lab.engine.n_layers - 1)), lab.engine.prompter
    asked = [prompter.chat([{"role": "user", "content": prompt}], thought=False) for prompt in PROMPTS]
    states = last_states(lab.engine, asked)[:, layer]
    rows, measured = [], {}
    for strength in (1.0, 2.0, 4.0, 8.0):
        for name, operation in (("add", ADD), ("turn", "rotate")):
            changes = lab.reader.edits(Recipe((lab.term(concept, str(layer), strength, operation),)), 0)
            changed = LayerOperation.kinds[operation]([changes], states.shape[-1], states.device)(states[None])[0]
            cosines = torch.cosine_similarity(changed, states, dim=-1).clamp(-1.0, 1.0)
            measured[f"{name}_angle"] = math.degrees(float(cosines.acos().mean()))
            measured[f"{name}_length"] = 100 * float((changed.norm(dim=-1) / states.norm(dim=-1)).mean())
        if strength == 1.0:
            small = measured["turn_angle"] / measured["add_angle"]
        rows.append((format_strength(strength), dict(measured)))
    columns = {
        "a push turns by": "{add_angle:.1f} degrees",
        "and makes it": "{add_length:.0f}% as long",
        "a turn turns by": "{turn_angle:.1f} degrees",
        "and leaves it": "{turn_length:.0f}% as long",
    }
    line = f"States at layer {layer}, at the last token of {counted(len(asked), 'prompt')}."
    facts = measured | {"small_ratio": max(small, 1 / small)}
    return Shown([figures("strength", rows, columns), line], facts)


@demonstration("bad_told good_told cosine unrelated bad_words good_words bad_cost good_cost")
def baseline(lab: Lab, bad: str, good: str) -> Shown:
    """Two concepts that should be one: what each tells of the good one's held-out pairs and adds of its words."""
    where, names = lab.term(good), (bad, good)
    terms = [Term(((name, 1.0),), where.layers, where.strength) for name in names]
    # Both are counted by the words of the good one.
    answered = lab.pairs([setting(term, along=terms[1]) for term in terms])
    towards = INDEPENDENT[good].towards
    gains = [
        mean([towards(text) for text in texts(pairs)]) - mean([towards(pair.normal.text) for pair in pairs])
        for pairs in answered
    ]
    trials = lab.compare(terms, chance=False)
    middle = where.layers[len(where.layers) // 2]
    vectors = [lab.reader.vector(name) for name in names]
    cosine = float(vectors[0].cosine(vectors[1])[middle])
    told = [_told(lab, name, good, middle) for name in names]
    costs = [tried.facts["cost"] for tried in trials]
    rows = [
        (name, {"pairs": vector.report.get("pairs", ""), "told": share, "words": gain, "cost": cost})
        for name, vector, share, gain, cost in zip(names, vectors, told, gains, costs, strict=True)
    ]
    columns = {"pairs": "{pairs}", "told apart": "{told:.2f}", f"{good} words": "{words:+.2f}", "cost": "x{cost:.2f}"}
    samples = [f'{name}: "{tried.sample}"' for name, tried in zip(names, trials, strict=True)]
    facts = {f"bad_{name}": rows[0][1][name] for name in ("told", "words", "cost")}
    facts |= {f"good_{name}": rows[1][1][name] for name in ("told", "words", "cost")}
    facts |= {"cosine": cosine, "unrelated": _random_cosine(lab.engine.hidden)}
    below = f"random ones stay below {facts['unrelated']:.2f}"
    line = f"Their directions have a cosine of {cosine:+.2f} at layer {middle}; {below}."
    return Shown([figures("concept", rows, columns), line, *samples], facts)


def _told(lab: Lab, name: str, judged_by: str, layer: int) -> float:
    """How often a concept's direction ranks the held-out pairs of another one rightly at a layer; NaN without any."""
    library = lab.session.library
    held_out = tuple(example for example in library.get(judged_by).examples if example.held_out)
    own = tuple(example for example in library.get(name).examples if not example.held_out)
    shares = _separability(lab, replace(library.get(name), examples=own + held_out))
    return shares[layer] if shares else math.nan


def _separability(lab: Lab, concept: Concept) -> list[float]:
    """How often each layer ranks the held-out pairs rightly, read now; empty without such pairs."""
    return extract(lab.engine, concept, watch=lab.session.watch).report["separability"]


@demonstration("count letters words")
def tokens(lab: Lab, *words: str) -> Shown:
    """How the model's tokenizer cuts a text."""
    text = " ".join(words)
    prompter = lab.engine.prompter
    ids = prompter.reply(text)
    pieces = " ".join(f"[{prompter.text([token])}]" for token in ids)
    facts = {"count": len(ids), "letters": len(text), "words": len(words)}
    return Shown([f"{len(words)} words, {len(text)} characters, {len(ids)} tokens:\n    {pieces}"], facts)


@demonstration("static same different gap early_gap")
def context(lab: Lab) -> Shown:
    """One word in three sentences: its embedding cannot differ, its states do, by what it means."""
    states = last_states(lab.engine, [lab.engine.prompter.raw(text) for text in _SENTENCES])
    # What every text has in common at a layer would make all of them look alike.
    states = states - lab.reader.profile.states.float().mean(dim=0)

    def cosine(first: int, second: int, layer: int) -> float:
        return float(torch.cosine_similarity(states[first, layer], states[second, layer], dim=0))

    rows = [("the embedding", {"same": 1.0, "different": 1.0, "gap": 0.0})]
    for layer in sorted({round(depth / 100 * (lab.engine.n_layers - 1)) for depth in (0, 25, 50, 75, 100)}):
        same = cosine(0, 1, layer)
        different = (cosine(0, 2, layer) + cosine(1, 2, layer)) / 2
        rows.append((f"after layer {layer}", {"same": same, "different": different, "gap": same - different}))
    columns = {"river and river": "{same:.2f}", "river and money": "{different:.2f}", "gap": "{gap:+.2f}"}
    layers = [similar for _, similar in rows[1:]]
    facts = {"static": 1.0} | layers[len(layers) // 2]
    facts |= {"gap": max(similar["gap"] for similar in layers), "early_gap": layers[0]["gap"]}
    sentences = "\n".join(f"    {sentence}" for sentence in _SENTENCES)
    return Shown([sentences, figures("bank, compared", rows, columns)], facts)


@demonstration("settled early_chance middle_chance last_chance changes")
def lens(lab: Lab, *words: str) -> Shown:
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
def separability(lab: Lab, concept: str) -> Shown:
    """Read now from the concept's held-out pairs: how often each layer ranks with above without."""
    values = _separability(lab, lab.session.library.get(concept))
    if not values:
        raise UsageError(f"no pairs of {concept} are held out", "a concept that ships has some")
    last = len(values) - 1
    chosen = [round(depth / 10 * last) for depth in range(11)]
    lines = [
        f"    layer {layer:>3} {values[layer]:.2f} {bar(values[layer] - 0.5, 0.5, '#')}"
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
def stack(lab: Lab) -> Shown:
    """The blocks of this model, from the last to the first, and where the recipe pushes."""
    count, recipe = lab.engine.n_layers, lab.session.recipe
    pushed = {layer: term for term in recipe.terms for layer in term.layers if recipe.active}
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
    share = sum(abs(term.strength) for term in recipe.terms) * UNIT
    facts = {"layers": count, "pushed": len(pushed), "share": share}
    return Shown(["\n".join(lines)], facts)


@demonstration()
def source(lab: Lab) -> Shown:
    """The lines that steer, to be read."""
    return Shown(["\n".join("    " + line for line in source_by_hand().splitlines())])


@demonstration("same")
def hook(lab: Lab, concept: str) -> Shown:
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


def _random_cosine(hidden: int, directions: int = 20) -> float:
    """The largest cosine between random directions of a width: what counts as unrelated."""
    vectors = torch.stack([random_vector(seed, 1, hidden, "").directions[0] for seed in range(directions)])
    between = (vectors @ vectors.T).fill_diagonal_(0)
    return float(between.abs().max())
