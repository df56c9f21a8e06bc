"""Experiments as pages: a table with a bar for each setting, a few answers, and a sentence that sums them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..measures.capability import CHANCE, Capability
from ..values.errors import shorten
from ..values.page import Page, Table
from ..values.recipe import Recipe, format_strength, name_layers
from ..values.results import Answer, Notice, Pair, format_cost, format_effect
from ..values.text import fit
from .outcomes import Outcome, Result, alike, best
from .tuning import tuned, within

_CELLS = 16  # of a bar
_SAMPLE = 70  # characters of an answer in a table
_READ = 220  # and below it


def page(result: Result, kept: str = "", budget: float | None = None) -> Page:
    """An experiment that just ended.

    Args:
        kept: the concept for which `/tune` kept the best setting.
        budget: the cost at which `/tune --cost` aimed.
    """
    parts = parts_of(result, kept)
    if budget is not None and result.outcomes:
        parts += _budget(result, budget, kept)
    if result.outcomes and result.experiment is not None:
        file = f"/report --experiment {result.experiment} FILE.html"
        parts.append(Notice(f"Logged as experiment {result.experiment}: {file}"))
    return Page(parts, result.objects())


def with_capability(page: Page, measured: Mapping[str, Capability]) -> Page:
    """`/compare --capability`: its page, and which share of the questions each way of answering gets right."""
    first = next(iter(measured.values()))
    names = [*first.right, "all"]
    shares = {label: capability.to_json() for label, capability in measured.items()}
    rows = [[label, *(f"{share[name]:.0%}" for name in names)] for label, share in shares.items()]
    asked = len(first.all)
    parts = [
        *page.parts,
        Table(["right answers", *names], rows, right=frozenset(range(1, 1 + len(names)))),
        Notice(f"{asked} questions; a choice of four by likelihood, so that chance gets {CHANCE:.0%} right."),
    ]
    return Page(parts, [*page.objects, {"capability": shares, "questions": asked}])


def parts_of(result: Result, kept: str = "") -> list[object]:
    """What `page` shows, without where the experiment is logged."""
    parts: list[object] = _stopped(result)
    if not result.outcomes:
        return parts
    match result.kind:
        case "layers":
            return parts + _layers(result)
        case "strengths":
            return parts + _strengths(result)
        case "tune":
            return parts + _tuning(result, kept)
        case "cost":
            return parts
        case _:
            return parts + _comparison(result)


def _comparison(result: Result) -> list[object]:
    """`/compare` over several seeds or with controls."""
    first, *controls = result.outcomes
    return [
        first.pairs[0],
        _table("", result.outcomes, lambda outcome: outcome.effect),
        _legend(result.outcomes),
        _judged(first),
        *_against(controls, first),
        *_side_effects(first),
        Notice(_advice(first)),
    ]


def _layers(result: Result) -> list[object]:
    outcomes, name = result.outcomes, _name(result)
    push = format_strength(outcomes[0].setting.strength or 0.0)
    parts: list[object] = [Notice(f"{name} x {push} at each layer by itself, asked: {shorten(result.prompt)}")]
    parts += [_table("layer", outcomes, lambda outcome: outcome.effect), _legend(outcomes)]
    peak = best(outcomes)
    parts.append(_to_read(peak, outcomes))
    if peak is None:
        return [
            *parts,
            f"No layer moves {name} by more than {_bar_to_clear(outcomes)} and stays fluent. Try another strength.",
        ]
    where = name_layers([outcome.setting.layer or 0 for outcome in alike(outcomes, peak)])
    hint = " A hint, no more: so few seeds leave much to chance." if len(peak.pairs) < 4 else ""
    parts.append(
        f"Best at {where}, each by itself: effect {_signed(peak.effect)} "
        f"at cost {_ratio(peak.cost)} at layer {peak.setting.label} ({peak.verdict}).{hint}"
    )
    return [*parts, Notice(_try(peak.setting.recipe))]


def _strengths(result: Result) -> list[object]:
    outcomes = result.outcomes
    where = " and ".join(dict.fromkeys(name_layers(term.layers) for term in outcomes[0].setting.recipe.terms))
    peak = best([outcome for outcome in outcomes if (outcome.setting.strength or 0.0) > 0])
    return [
        Notice(f"{_name(result)} at {where}, at each strength, asked: {shorten(result.prompt)}"),
        _table("strength", outcomes, lambda outcome: outcome.towards),
        _legend(outcomes),
        _to_read(peak, outcomes),
        _window(result),
        *([] if peak is None else [Notice(_try(peak.setting.recipe))]),
    ]


def _tuning(result: Result, kept: str) -> list[object]:
    """A row for each place, a column for each strength."""
    outcomes, winner = result.outcomes, tuned(result.outcomes)
    words = outcomes[0].words is not None
    gains = {(outcome.setting.label, outcome.setting.strength): outcome for outcome in outcomes}
    most = max(outcome.gain or 0.0 for outcome in outcomes)
    pushes = list(dict.fromkeys(outcome.setting.strength for outcome in outcomes))
    places = list(dict.fromkeys(outcome.setting.label for outcome in outcomes))
    names = [format_strength(push or 0.0) for push in pushes]
    heats = [[_heat(gains.get((place, push)), most, winner) for push in pushes] for place in places]
    if len(places) == 1:
        table = Table(["strength", f"at {places[0]}"], list(zip(names, heats[0], strict=True)))
    else:
        table = Table(["layers", *names], [[place, *row] for place, row in zip(places, heats, strict=True)])
    by = "its word measure, which does not use its vector" if words else "its own vector, as it has no word measure"
    prompts = len(outcomes[0].pairs)
    asked = "one prompt" if prompts == 1 else f"{prompts} prompts"
    parts: list[object] = [
        table,
        Notice(f"Gain by {by}, and cost; {asked}. Lighter: less fluent. *: the best."),
    ]
    if winner is None:
        return [*parts, f"Nothing here moves {_name(result)} clearly and stays fluent."]
    setting = winner.setting
    layers = f"layer {setting.label}" if setting.layer is not None else f"layers {setting.label}"
    after = f"kept for {kept} on this model." if kept else _try(setting.recipe) + ", then /tune keep"
    return [
        *parts,
        f"Best: {layers}, strength {format_strength(setting.strength or 0.0)}: "
        f"effect {_signed(winner.effect)} at cost {_ratio(winner.cost)} ({winner.verdict}).",
        Notice(after),
    ]


def _budget(result: Result, budget: float, kept: str) -> list[object]:
    """`/tune --cost`: the strengths that were tried, and the one that a budget allows."""
    outcomes, allowed = result.outcomes, within(result.outcomes, budget)
    table = _table("strength", outcomes, lambda outcome: outcome.towards)
    parts: list[object] = [table, _legend(outcomes)]
    if allowed is None:
        return [*parts, f"Every strength that was tried costs more than {_ratio(budget)}."]
    setting = allowed.setting
    beyond = outcomes[outcomes.index(allowed) + 1 :]
    then = f"{beyond[0].setting.label} costs {_ratio(beyond[0].cost)}" if beyond else "no stronger one was tried"
    after = f"kept for {kept} on this model." if kept else _try(setting.recipe)
    return [
        *parts,
        f"Strength {setting.label} costs {_ratio(allowed.cost)} of a budget of {_ratio(budget)}, with effect "
        f"{_signed(allowed.effect)} ({allowed.verdict}); {then}.",
        Notice(after),
    ]


def _heat(outcome: Outcome | None, most: float, winner: Outcome | None) -> str:
    """`███·· +2.1 x1.4`: up to five marks for the gain, lighter ones where the answers lose fluency."""
    if outcome is None:
        return ""
    size = max(0, round(5 * (outcome.gain or 0.0) / most)) if most > 0 else 0
    mark = "█" if outcome.fluency == "fluent" else "▒"
    return f"{mark * size:·<5} {_signed(outcome.gain)} {_ratio(outcome.cost)}{' *' if outcome is winner else ''}"


def _window(result: Result) -> str:
    """Where the effect begins, how far it stays fluent, and where it breaks."""
    rising = [outcome for outcome in result.outcomes if (outcome.setting.strength or 0.0) > 0]
    useful = [outcome for outcome in rising if outcome.shows]
    broken = next((outcome for outcome in rising if outcome.fluency != "fluent"), None)
    ending = "nothing tried here breaks the fluency"
    if broken is not None:
        ending = f"at {broken.setting.label} it is {broken.fluency} (cost {_ratio(broken.cost)})"
    if not useful:
        bar_to_clear = _bar_to_clear(result.outcomes)
        return f"No strength moves {_name(result)} by more than {bar_to_clear} and stays fluent; {ending}."
    low, high = useful[0].setting.label, useful[-1].setting.label
    if low == high:
        return f"It shows at {low} alone; {ending}."
    return f"It begins at {low} and is useful up to {high}; {ending}."


# Parts


def _table(heading: str, outcomes: Sequence[Outcome], height: Callable[[Outcome], float | None]) -> Table:
    heights = [height(outcome) for outcome in outcomes]
    bands = [_turned(outcome, height) for outcome in outcomes]
    known = [value for value in heights if value is not None]
    known += [edge for band in bands if band for edge in band]
    low, high = min(0.0, *known), max(0.0, *known)
    words = any(outcome.words is not None for outcome in outcomes)
    rows = [
        [
            outcome.setting.label,
            _signed(value) + ("" if outcome.spread is None else f" ±{outcome.spread:.1f}"),
            *([_signed(_word_gain(outcome, height))] if words else []),
            _ratio(outcome.cost),
            f"{100 * outcome.repetition:.0f}%",
            bar(value, band, low, high),
            _sample(outcome.pairs[0]),
        ]
        for outcome, value, band in zip(outcomes, heights, bands, strict=True)
    ]
    headings = [heading, "effect", *(["words"] if words else []), "cost", "again", "", "an answer"]
    faint = frozenset(index for index, outcome in enumerate(outcomes) if outcome.clarity == "within chance")
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


def _word_gain(outcome: Outcome, height: Callable[[Outcome], float | None]) -> float | None:
    """The word measure counts the concept itself, as `towards` does."""
    away = (outcome.setting.strength or 0.0) < 0 and height(outcome) != outcome.towards
    return -outcome.words if away and outcome.words is not None else outcome.words


def _turned(outcome: Outcome, height: Callable[[Outcome], float | None]) -> tuple[float, float] | None:
    """The chance band, turned with the effect where that is."""
    if outcome.chance is None:
        return None
    low, high = outcome.chance
    return (-high, -low) if height(outcome) != outcome.effect else (low, high)


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
    seeds = max(len(outcome.pairs) for outcome in outcomes)
    texts = [f"mean over {seeds} seeds" if seeds > 1 else "one seed"]
    texts.append("effect read with the concept's own vector")
    if any(outcome.words is not None for outcome in outcomes):
        texts.append("words counted without it")
    texts.append("again: repeated 3-grams")
    if outcomes[0].chance is None:
        texts.append("no chance band is known for this model (/chance measures it)")
    else:
        texts.append("shaded: what random pushes do")
    return Notice("; ".join(texts) + ".")


def _judged(outcome: Outcome) -> str:
    band = "" if outcome.chance is None else " (random pushes {} .. {})".format(*map(_signed, outcome.chance))
    seeds = f" over {len(outcome.pairs)} seeds" if len(outcome.pairs) > 1 else ""
    return f"Effect {_signed(outcome.effect)}{band}{seeds}, cost {_ratio(outcome.cost)}: {outcome.verdict}."


def _bar_to_clear(outcomes: Sequence[Outcome]) -> str:
    return "its own spread" if outcomes[0].chance is None else "chance"


def _against(controls: Sequence[Outcome], steered: Outcome) -> list[object]:
    if not controls or steered.effect is None:
        return []
    effects = [f"{outcome.setting.label} {_signed(outcome.effect)}" for outcome in controls]
    return [f"Against it, along the same direction: {', '.join(effects)}."]


def _side_effects(steered: Outcome) -> list[object]:
    """What else the answers have more or less of, by word measures; empty where nothing is beyond chance."""
    if not steered.side_effects:
        return []
    moved = ", ".join(f"{name} {gain:+.1f}" for name, gain in steered.side_effects.items())
    return [f"side effects, by words, in spreads of each measure: {moved}"]


def _advice(steered: Outcome) -> str:
    if steered.fluency != "fluent":
        name = " and ".join(steered.setting.recipe.concepts)
        return f"Try a smaller strength: /strengths shows where {name} breaks."
    if steered.clarity == "within chance":
        return "Try more strength (/strengths), another layer (/layers), or more seeds."
    if steered.clarity == "likely" or len(steered.pairs) < 4:
        return "More seeds would say it more surely: /compare --repeats 10."
    if steered.clarity == "the wrong way":
        return "Another layer may do better: /layers."
    return "Next: /layers shows where else it works, /strengths how far it can go."


def _to_read(peak: Outcome | None, outcomes: Sequence[Outcome]) -> str:
    """The normal answer, the best one, and the dearest: what the figures look like as text."""
    dearest = max(outcomes, key=lambda outcome: outcome.cost or 0.0)
    answers: dict[str, Answer | None] = {"normal": outcomes[0].pairs[0].normal}
    if peak is not None:
        answers[peak.setting.label] = peak.pairs[0].steered
    if dearest is not peak:
        answers[f"{dearest.setting.label} (cost {_ratio(dearest.cost)})"] = dearest.pairs[0].steered
    return "\n".join(f"{label}: {fit(answer.text, _READ)}" for label, answer in answers.items() if answer is not None)


def _stopped(result: Result) -> list[object]:
    if not result.stopped:
        return []
    if not result.outcomes:
        return [Notice("stopped before anything was finished.")]
    if all(pair.normal.finish == "interrupted" for outcome in result.outcomes for pair in outcome.pairs):
        return [Notice("stopped before any answer ended: these are as long as they got.")]
    what = "prompts" if result.kind in ("tune", "cost") else "seeds"
    return [Notice(f"stopped: {result.finished} of {result.seeds} {what}, kept as they are.")]


def _try(recipe: Recipe) -> str:
    first, *more = [term.typed for term in recipe.terms]
    first = first.replace("/steer add ", "/steer ", 1)
    return f"To keep it: {'   '.join([first, *more])}"


def _name(result: Result) -> str:
    return " and ".join(result.outcomes[0].setting.recipe.concepts)


def _signed(value: float | None) -> str:
    return "?" if value is None else format_effect(value)


def _ratio(value: float | None) -> str:
    return "?" if value is None else format_cost(value)
