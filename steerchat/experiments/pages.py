"""What experiments say: a table with a bar for each setting, a few answers to read, and one honest sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..values.errors import shorten
from ..values.page import Page, Table
from ..values.recipe import Recipe, Term, format_layers, format_strength, name_layers
from ..values.results import Notice, Pair, format_cost, format_effect
from ..values.text import fit
from .outcomes import Outcome, Result, alike, best
from .tuning import tuned

_CELLS = 16  # of a bar
_SAMPLE = 70  # characters of an answer in a table
_READ = 220  # and below it


def page(result: Result) -> Page:
    """An experiment out of the history, as it was shown when it ended."""
    result = replace(result, experiment=None)  # whoever asks for it knows its number
    recipe = result.outcomes[0].setting.recipe if result.outcomes else Recipe()
    match result.kind:
        case "layers":
            return layers(result, recipe)
        case "strengths":
            return strengths(result, recipe)
        case "tune":
            return tuning(result, recipe, tuned(result.outcomes), "")
        case _:
            return comparison(result, recipe)


def comparison(result: Result, recipe: Recipe) -> Page:
    """`/compare` over several seeds or with controls."""
    parts: list[object] = _stopped(result)
    if not result.outcomes:
        return Page(parts)
    first = result.outcomes[0]
    parts += [first.pairs[0], _table("", result.outcomes, lambda one: one.effect)]
    parts += [_legend(result.outcomes), _judged(first), *_against(result.outcomes[1:], first)]
    parts += [Notice(_advice(first, len(first.pairs), recipe)), *_kept(result)]
    return Page(parts, result.objects())


def layers(result: Result, recipe: Recipe) -> Page:
    """`/layers`."""
    parts: list[object] = _stopped(result)
    outcomes = result.outcomes
    if not outcomes:
        return Page(parts)
    push = format_strength(outcomes[0].setting.strength or 0.0)
    parts.append(Notice(f"{_name(recipe)} x {push} at each layer by itself, asked: {shorten(result.prompt)}"))
    parts += [_table("layer", outcomes, lambda one: one.effect), _legend(outcomes)]
    peak = best(outcomes)
    parts += _to_read(peak, outcomes)
    if peak is None:
        parts.append(
            f"No layer moves {_name(recipe)} by more than {_bar_to_clear(outcomes)} and stays fluent. "
            "Try another strength."
        )
    else:
        run = alike(outcomes, peak)
        where = name_layers([one.setting.layer or 0 for one in run])
        parts.append(
            f"Best at {where}, each by itself: effect {_signed(peak.effect)} "
            f"at cost {_ratio(peak.cost)} at layer {peak.setting.label} ({peak.verdict})."
            + (" A hint, no more: so few seeds leave much to chance." if len(peak.pairs) < 4 else "")
        )
        parts.append(Notice(_try(peak.setting.recipe)))
    return Page([*parts, *_kept(result)], result.objects())


def strengths(result: Result, recipe: Recipe) -> Page:
    """`/strengths`."""
    parts: list[object] = _stopped(result)
    outcomes = result.outcomes
    if not outcomes:
        return Page(parts)
    where = " and ".join(dict.fromkeys(name_layers(term.layers) for term in recipe.terms))
    parts.append(Notice(f"{_name(recipe)} at {where}, at each strength, asked: {shorten(result.prompt)}"))
    parts += [_table("strength", outcomes, lambda one: one.towards), _legend(outcomes)]
    peak = best([one for one in outcomes if (one.setting.strength or 0.0) > 0])
    parts += _to_read(peak, outcomes)
    parts.append(_window(outcomes, recipe))
    if peak is not None:
        parts.append(Notice(_try(peak.setting.recipe)))
    return Page([*parts, *_kept(result)], result.objects())


def tuning(result: Result, recipe: Recipe, found: Outcome | None, kept: str) -> Page:
    """`/tune`: a row for each place, a column for each strength."""
    parts: list[object] = _stopped(result, "prompts")
    if not result.outcomes:
        return Page(parts)
    words = result.outcomes[0].words is not None
    gains = {(one.setting.label, one.setting.strength): one for one in result.outcomes}
    most = max(one.words or 0.0 if words else one.effect or 0.0 for one in result.outcomes)
    pushes = list(dict.fromkeys(one.setting.strength for one in result.outcomes))
    places = list(dict.fromkeys(one.setting.label for one in result.outcomes))
    named = [format_strength(push or 0.0) for push in pushes]
    if len(places) == 1:
        rows = [
            (name, _heat(gains.get((places[0], push)), most, found)) for name, push in zip(named, pushes, strict=True)
        ]
        parts.append(Table(["strength", f"at {places[0]}"], rows))
    else:
        rows = [(place, *(_heat(gains.get((place, push)), most, found) for push in pushes)) for place in places]
        parts.append(Table(["layers", *named], rows))
    by = "its word measure, which does not use its vector" if words else "its own vector, as it has no word measure"
    parts.append(Notice(f"Gain by {by}, and cost; {_prompts(result)}. Lighter: less fluent. *: the best."))
    if found is None:
        parts.append(f"Nothing here moves {_name(recipe)} clearly and stays fluent.")
        return Page(parts, result.objects())
    parts.append(
        f"Best: {_layers(found)}, strength {format_strength(found.setting.strength or 0.0)}: "
        f"effect {_signed(found.effect)} at cost {_ratio(found.cost)} ({found.verdict})."
    )
    after = f"kept for {kept} on this model." if kept else _try(found.setting.recipe) + ", then /tune keep"
    parts.append(Notice(after))
    return Page(parts, result.objects())


def _prompts(result: Result) -> str:
    count = len(result.outcomes[0].pairs)
    return "one prompt" if count == 1 else f"{count} prompts"


def _layers(one: Outcome) -> str:
    return f"layer {one.setting.label}" if one.setting.layer is not None else f"layers {one.setting.label}"


def _heat(one: Outcome | None, most: float, found: Outcome | None) -> str:
    """`███·· +2.1 x1.4`: up to five marks for the gain, lighter ones where the answers lose fluency."""
    if one is None:
        return ""
    gain = one.effect if one.words is None else one.words
    size = max(0, round(5 * (gain or 0.0) / most)) if most > 0 else 0
    mark = "█" if one.fluency == "fluent" else "▒"
    return f"{mark * size:·<5} {_signed(gain)} {_ratio(one.cost)}{' *' if one is found else ''}"


def _window(outcomes: Sequence[Outcome], recipe: Recipe) -> str:
    """Where the effect begins, how far it stays fluent, and where it breaks."""
    rising = [one for one in outcomes if (one.setting.strength or 0.0) > 0]
    useful = [one for one in rising if one.shows]
    broken = next((one for one in rising if one.fluency != "fluent"), None)
    ending = "nothing tried here breaks the fluency"
    if broken is not None:
        ending = f"at {broken.setting.label} it is {broken.fluency} (cost {_ratio(broken.cost)})"
    if not useful:
        return f"No strength moves {_name(recipe)} by more than {_bar_to_clear(outcomes)} and stays fluent; {ending}."
    low, high = useful[0].setting.label, useful[-1].setting.label
    if low == high:
        return f"It shows at {low} alone; {ending}."
    return f"It begins at {low} and is useful up to {high}; {ending}."


# Parts


def _table(heading: str, outcomes: Sequence[Outcome], height: Callable[[Outcome], float | None]) -> Table:
    heights = [height(one) for one in outcomes]
    bands = [_turned(one, height) for one in outcomes]
    known = [value for value in heights if value is not None]
    known += [edge for band in bands if band for edge in band]
    low, high = min(0.0, *known), max(0.0, *known)
    words = any(one.words is not None for one in outcomes)
    rows = [
        [
            one.setting.label,
            _signed(value) + ("" if one.spread is None else f" ±{one.spread:.1f}"),
            *([_signed(_word_gain(one, height))] if words else []),
            _ratio(one.cost),
            f"{100 * one.repetition:.0f}%",
            bar(value, band, low, high),
            _sample(one.pairs[0]),
        ]
        for one, value, band in zip(outcomes, heights, bands, strict=True)
    ]
    headings = [heading, "effect", *(["words"] if words else []), "cost", "again", "", "an answer"]
    faint = frozenset(index for index, one in enumerate(outcomes) if one.clarity == "within chance")
    last = len(headings) - 1
    return Table(headings, rows, right=frozenset(range(last - 1)), dim=faint, samples=frozenset({last}))


def _sample(pair: Pair) -> str:
    """The steered answer from the word on at which it leaves the normal one."""
    if pair.steered is None:
        return ""
    text = pair.steered.text
    ends = (index for index, (a, b) in enumerate(zip(pair.normal.text, text, strict=False)) if a != b)
    parting = next(ends, min(len(pair.normal.text), len(text)))
    if parting == len(text):
        return "as the normal one"
    start = text.rfind(" ", 0, parting) + 1
    return fit(("..." if start else "") + text[start:], _SAMPLE)


def _word_gain(one: Outcome, height: Callable[[Outcome], float | None]) -> float | None:
    """The word measure counts the concept itself, as `towards` does."""
    away = (one.setting.strength or 0.0) < 0 and height(one) != one.towards
    return -one.words if away and one.words is not None else one.words


def _turned(one: Outcome, height: Callable[[Outcome], float | None]) -> tuple[float, float] | None:
    """The chance band, turned with the effect where that is."""
    if one.chance is None:
        return None
    low, high = one.chance
    return (-high, -low) if height(one) != one.effect else (low, high)


def bar(value: float | None, band: tuple[float, float] | None, low: float, high: float) -> str:
    """A bar from 0 to `value` on a scale from `low` to `high`; the upright is 0, shaded is the chance band."""
    if value is None or high <= low:
        return ""

    def cell(x: float) -> int:
        return round((x - low) / (high - low) * (_CELLS - 1))

    line = ["─"] * _CELLS
    if band is not None:
        for index in range(max(0, cell(band[0])), min(_CELLS - 1, cell(band[1])) + 1):
            line[index] = "░"
    start, end = sorted((cell(0.0), cell(value)))
    line[start : end + 1] = "█" * (end + 1 - start)
    line[cell(0.0)] = "│"
    return "".join(line)


def _legend(outcomes: Sequence[Outcome]) -> Notice:
    seeds = max(len(one.pairs) for one in outcomes)
    texts = [f"mean over {seeds} seeds" if seeds > 1 else "one seed"]
    texts.append("effect read with the concept's own vector")
    if any(one.words is not None for one in outcomes):
        texts.append("words counted without it")
    texts.append("again: repeated 3-grams")
    if outcomes[0].chance is None:
        texts.append("no chance band is known for this model (/chance measures it)")
    else:
        texts.append("shaded: what random pushes do")
    return Notice("; ".join(texts) + ".")


def _judged(one: Outcome) -> str:
    band = "" if one.chance is None else " (random pushes {} .. {})".format(*map(_signed, one.chance))
    seeds = f" over {len(one.pairs)} seeds" if len(one.pairs) > 1 else ""
    return f"Effect {_signed(one.effect)}{band}{seeds}, cost {_ratio(one.cost)}: {one.verdict}."


def _bar_to_clear(outcomes: Sequence[Outcome]) -> str:
    return "its own spread" if outcomes[0].chance is None else "chance"


def _against(controls: Sequence[Outcome], steered: Outcome) -> list[object]:
    if not controls or steered.effect is None:
        return []
    told = [f"{one.setting.label} {_signed(one.effect)}" for one in controls]
    return [f"Against it, along the same direction: {', '.join(told)}."]


def _advice(one: Outcome, seeds: int, recipe: Recipe) -> str:
    if one.fluency != "fluent":
        return f"Try a smaller strength: /strengths shows where {_name(recipe)} breaks."
    if one.clarity == "within chance":
        return "Try more strength (/strengths), another layer (/layers), or more seeds."
    if one.clarity == "likely" or seeds < 4:
        return "More seeds would say it more surely: /compare --repeats 10."
    if one.clarity == "the wrong way":
        return "Another layer may do better: /layers."
    return "Next: /layers shows where else it works, /strengths how far it can go."


def _to_read(peak: Outcome | None, outcomes: Sequence[Outcome]) -> list[object]:
    """The normal answer, the best one, and the dearest: what the figures look like as text."""
    first = outcomes[0].pairs[0]
    lines = [f"normal: {fit(first.normal.text, _READ)}"]
    if peak is not None and peak.pairs[0].steered is not None:
        lines.append(f"{peak.setting.label}: {fit(peak.pairs[0].steered.text, _READ)}")
    dearest = max(outcomes, key=lambda one: one.cost or 0.0)
    if dearest is not peak and dearest.pairs[0].steered is not None:
        lines.append(
            f"{dearest.setting.label} (cost {_ratio(dearest.cost)}): {fit(dearest.pairs[0].steered.text, _READ)}"
        )
    return ["\n".join(lines)]


def _kept(result: Result) -> list[object]:
    if result.experiment is None:
        return []
    return [Notice(f"Logged as experiment {result.experiment}: /report --experiment {result.experiment} FILE.html")]


def _stopped(result: Result, what: str = "seeds") -> list[object]:
    if not result.stopped:
        return []
    if not result.outcomes:
        return [Notice("stopped before anything was finished.")]
    if all(pair.normal.finish == "interrupted" for one in result.outcomes for pair in one.pairs):
        return [Notice("stopped before any answer ended: these are as long as they got.")]
    return [Notice(f"stopped: {result.finished} of {result.seeds} {what}, kept as they are.")]


def _try(recipe: Recipe) -> str:
    first, *rest = map(_line, recipe.terms)
    return "To keep it: " + "   ".join([f"/steer {first}", *(f"/steer add {term}" for term in rest)])


def _line(term: Term) -> str:
    return f"{term.concept} {format_layers(term.layers)} {format_strength(term.strength)}"


def _name(recipe: Recipe) -> str:
    return " and ".join(recipe.concepts)


def _signed(value: float | None) -> str:
    return "?" if value is None else format_effect(value)


def _ratio(value: float | None) -> str:
    return "?" if value is None else format_cost(value)
