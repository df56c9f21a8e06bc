"""Experiments as pages: a chart, a few answers, and a sentence that sums them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..measures.capability import CHANCE, Capability
from ..measures.words import is_english
from ..values.chart import in_form
from ..values.page import Page, Table
from ..values.recipe import Recipe, format_strength, name_layers
from ..values.results import Answer, Notice
from ..values.text import fit
from . import charts
from .outcomes import Outcome, Result, alike, best
from .tuning import Budget, tuned, within

_READ = 220  # characters of an answer below a chart
_TOO_EARLY = "It was stopped too early to say which setting works."


def page(result: Result, kept: str = "", budget: Budget | None = None) -> Page:
    """An experiment that just ended.

    Args:
        kept: the concept for which `/tune` kept the best setting.
        budget: at which `/tune --cost` or `/tune --kl` aimed.
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
    pairs = [pair for outcome in result.outcomes if outcome.setting.along is None for pair in outcome.pairs]
    if pairs and all(pair.never_pushed for pair in pairs):
        gates = ", ".join(dict.fromkeys(str(term.gate) for term in pairs[0].recipe.terms))
        return [*parts, f"Nothing was pushed: the gate ({gates}) never opened. Another prompt may open it."]
    match result.kind:
        case "layers":
            return parts + _layers(result)
        case "strengths":
            return parts + _strengths(result)
        case "tune":
            return parts + _tuning(result, kept)
        case "budget":
            return parts
        case _:
            return parts + _comparison(result)


def _comparison(result: Result) -> list[object]:
    """`/compare` over several seeds or with controls."""
    first, *controls = result.outcomes
    return [
        first.pairs[0],
        charts.comparison(result),
        _legend(result.outcomes),
        _judged(first),
        *_against(controls, first),
        *_side_effects(first),
        Notice(_advice(first)),
    ]


def _layers(result: Result) -> list[object]:
    outcomes, name = result.outcomes, charts.names(result)
    parts: list[object] = [charts.layers(result), _legend(outcomes)]
    peak = best(outcomes)
    parts.append(_to_read(peak, outcomes))
    if peak is None:
        bar = _bar_to_clear(outcomes)
        nothing = f"No layer moves {name} by more than {bar} and stays fluent. Try another strength."
        return [*parts, _TOO_EARLY if result.stopped else nothing]
    where = name_layers([outcome.setting.layer or 0 for outcome in alike(outcomes, peak)])
    hint = " A hint, no more: so few seeds leave much to chance." if len(peak.pairs) < 4 else ""
    if where != f"layer {peak.setting.label}":
        where += f", each by itself; at layer {peak.setting.label}"
    parts.append(f"Best at {where}: effect {_signed(peak.effect)}, cost {_ratio(peak.cost)} ({peak.verdict}).{hint}")
    return [*parts, Notice(_try(peak.setting.recipe))]


def _strengths(result: Result) -> list[object]:
    outcomes = result.outcomes
    peak = best([outcome for outcome in outcomes if (outcome.setting.strength or 0.0) > 0])
    return [
        charts.strengths(result),
        _legend(outcomes),
        _to_read(peak, outcomes),
        _TOO_EARLY if peak is None and result.stopped else _window(result),
        *([] if peak is None else [Notice(_try(peak.setting.recipe))]),
    ]


def _tuning(result: Result, kept: str) -> list[object]:
    outcomes, winner = result.outcomes, tuned(result.outcomes)
    words = outcomes[0].words is not None
    by = "its word measure, which does not use its vector" if words else "its own vector, as it has no word measure"
    prompts = len(outcomes[0].pairs)
    asked = "one prompt" if prompts == 1 else f"{prompts} prompts"
    parts: list[object] = [
        charts.grid(result),
        Notice(f"Gain by {by}, and cost; {asked}. Lighter or hatched: less fluent. Starred or framed: the best."),
    ]
    if winner is None:
        return [*parts, f"Nothing here moves {charts.names(result)} clearly and stays fluent."]
    setting = winner.setting
    layers = f"layer {setting.label}" if setting.layer is not None else f"layers {setting.label}"
    after = f"kept for {kept} on this model." if kept else _try(setting.recipe) + ", then /tune keep"
    return [
        *parts,
        f"Best: {layers}, strength {format_strength(setting.strength or 0.0)}: "
        f"effect {_signed(winner.effect)} at cost {_ratio(winner.cost)} ({winner.verdict}).",
        Notice(after),
    ]


def _budget(result: Result, budget: Budget, kept: str) -> list[object]:
    """`/tune --cost` and `--kl`: the strengths that were tried, and the one that a budget allows."""
    outcomes, allowed = result.outcomes, within(result.outcomes, budget)
    parts: list[object] = [charts.strengths(result), _legend(outcomes)]
    takes = "costs" if budget.of == "cost" else "has a KL of"
    if allowed is None:
        return [*parts, f"Every strength that was tried {takes} more than {budget.text(budget.most)}."]
    setting = allowed.setting
    beyond = outcomes[outcomes.index(allowed) + 1 :]
    then = "no stronger one was tried"
    if beyond:
        then = f"{beyond[0].setting.label} {takes} {budget.text(budget.taken(beyond[0]))}"
    after = f"kept for {kept} on this model." if kept else _try(setting.recipe)
    cost = "" if budget.of == "cost" else f", at cost {_ratio(allowed.cost)}"
    return [
        *parts,
        f"Strength {setting.label} {takes} {budget.text(budget.taken(allowed))} of a budget of "
        f"{budget.text(budget.most)}{cost}, with effect {_signed(allowed.effect)} ({allowed.verdict}); {then}.",
        Notice(after),
    ]


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
        return f"No strength moves {charts.names(result)} by more than {bar_to_clear} and stays fluent; {ending}."
    low, high = useful[0].setting.label, useful[-1].setting.label
    if low == high:
        return f"It shows at {low} alone; {ending}."
    return f"It begins at {low} and is useful up to {high}; {ending}."


# Parts


def _legend(outcomes: Sequence[Outcome]) -> Notice:
    seeds = max(len(outcome.pairs) for outcome in outcomes)
    texts = [f"mean over {seeds} seeds" if seeds > 1 else "one seed"]
    texts.append("effect read with the concept's own vector")
    if any(outcome.words is not None for outcome in outcomes):
        replies = [pair.normal.reply for pair in outcomes[0].pairs]
        english = "" if is_english(replies) else " (English words alone: most of these answers' words are not English)"
        texts.append(f"words counted without it{english}")
    if any(outcome.kl is not None for outcome in outcomes):
        texts.append("KL: how far the next token's distribution moves, in nats, at the 95th percentile of tokens")
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
    what = "prompts" if result.kind in ("tune", "budget") else "seeds"
    return [Notice(f"stopped: {result.finished} of {result.seeds} {what}, kept as they are.")]


def _try(recipe: Recipe) -> str:
    first, *more = [term.typed for term in recipe.terms]
    first = first.replace("/steer add ", "/steer ", 1)
    return f"To keep it: {'   '.join([first, *more])}"


def _signed(value: float | None) -> str:
    return in_form("effect", value)


def _ratio(value: float | None) -> str:
    return in_form("cost", value)
