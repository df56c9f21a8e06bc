"""Experiments as charts: a series for each figure, over layers, strengths or settings; a matrix for a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..values.chart import Chart, Matrix, Series, in_form
from ..values.errors import shorten
from ..values.recipe import format_strength, name_layers
from ..values.results import Pair, shared_length
from ..values.text import fit
from .outcomes import Outcome, Result, alike, best
from .tuning import tuned

_EFFECT = "effect: along the concept's own vector, in spreads of neutral text"
_COST = "cost: perplexity of the steered answers over the normal ones"
_KL = "KL: of the next token's distribution, steered from unsteered, in nats (95th percentile)"
_GAIN = "words: gain by the concept's word measure, in spreads"
_SPECIFIC = "specific: that less the largest gain of another concept"
_RIGHT = "right: share of short questions that are answered right"
_AGAIN = "again: share of repeated 3-grams"
_SAMPLE = 70  # characters of an answer beside a chart


def chart_of(result: Result) -> Chart | Matrix:
    """What an experiment with at least one outcome found."""
    match result.kind:
        case "layers":
            return layers(result)
        case "strengths" | "budget":
            return strengths(result)
        case "tune":
            return grid(result)
        case _:
            return comparison(result)


def layers(result: Result) -> Chart:
    """Figures over layers; useful are those around the best one that do nearly as well."""
    outcomes, peak = result.outcomes, best(result.outcomes)
    push = format_strength(outcomes[0].setting.strength or 0.0)
    title = f"{names(result)} x {push} at each layer by itself, asked: {shorten(result.prompt)}"
    at = [float(outcome.setting.layer or 0) for outcome in outcomes]
    return _chart(title, "layer", outcomes, at, [] if peak is None else alike(outcomes, peak))


def strengths(result: Result) -> Chart:
    """Figures over strengths. Effects are along the concept: a push away that works is below 0."""
    outcomes = result.outcomes
    where = " and ".join(dict.fromkeys(name_layers(term.layers) for term in outcomes[0].setting.recipe.terms))
    asked = f", asked: {shorten(result.prompt)}" if result.prompt else ""
    title = f"{names(result)} at {where}, at each strength{asked}"
    at = [outcome.setting.strength or 0.0 for outcome in outcomes]
    useful = [outcome for outcome in outcomes if outcome.shows and (outcome.setting.strength or 0.0) > 0]
    return _chart(title, "strength", outcomes, at, useful, towards=True)


def of_pair(pair: Pair) -> Chart:
    """The effect of one pair along each of its concepts, within the chance band, and its cost."""
    effects = {"all": pair.effect, **pair.effects} if len(pair.effects) > 1 else {str(pair.recipe): pair.effect}
    whole: list[float | None] = [pair.perplexity_ratio, *([None] * (len(effects) - 1))]
    bands = [pair.chance] * len(effects)
    return Chart(
        f"{pair.recipe}, asked: {shorten(pair.prompt)}",
        "",
        list(effects),
        [
            Series("effect", list(effects.values()), "effect", bands=bands, rest=0.0, meaning=_EFFECT),
            Series("cost", whole, "cost", rest=1.0, scale=(1.0, 2.0), meaning=_COST),
        ],
    )


def comparison(result: Result) -> Chart:
    """The recipe and its controls, side by side."""
    title = f"{names(result)} and its controls, asked: {shorten(result.prompt)}"
    return _chart(title if len(result.outcomes) > 1 else names(result), "", result.outcomes, [], [])


def grid(result: Result) -> Matrix:
    """The gains of `/tune`: a row for each place, a column for each strength; turned where there is one place."""
    outcomes, winner = result.outcomes, tuned(result.outcomes)
    found = {(outcome.setting.label, outcome.setting.strength): outcome for outcome in outcomes}
    places = list(dict.fromkeys(outcome.setting.label for outcome in outcomes))
    pushes = list(dict.fromkeys(outcome.setting.strength for outcome in outcomes))
    cells = [[found.get((place, push)) for push in pushes] for place in places]
    rows, columns = places, [format_strength(push or 0.0) for push in pushes]
    corner = "layers"
    if len(places) == 1:
        cells, rows, columns, corner = [[cell] for cell in cells[0]], columns, [f"at {places[0]}"], "strength"
    by_cell = {(row, column): cell for row, line in enumerate(cells) for column, cell in enumerate(line) if cell}
    return Matrix(
        f"{names(result)} at layers and strengths: gain and cost",
        corner,
        columns,
        [(name, [cell and cell.gain for cell in line]) for name, line in zip(rows, cells, strict=True)],
        texts=[
            ["" if cell is None else f"{in_form('effect', cell.gain)} {in_form('cost', cell.cost)}" for cell in line]
            for line in cells
        ],
        faint=frozenset(place for place, cell in by_cell.items() if cell.fluency != "fluent"),
        best=next((place for place, cell in by_cell.items() if cell is winner), None),
    )


def gains(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Matrix:
    """What concepts moved, by every word measure: (concept, gain by the concept that is measured), in spreads."""
    columns = [name for name in rows[0][1] if all(name in found for _, found in rows)]
    rows = sorted(rows, key=lambda row: columns.index(row[0]) if row[0] in columns else len(columns))
    title = "gains by every word measure, in its spreads over the normal answers: a concept should move its own most"
    return Matrix(title, "concept", columns, [(name, [found[column] for column in columns]) for name, found in rows])


def methods(rows: Sequence[Mapping[str, Any]]) -> Chart | Matrix:
    """Methods at equal cost, as `/compare-methods` measured them: of one concept all figures, of several the gains.

    `rows`: as `MethodRow.to_json` gives them.
    """
    concepts, compared = ([*dict.fromkeys(row[key] for row in rows)] for key in ("concept", "method"))
    found = {(row["method"], row["concept"]): row for row in rows}
    if len(concepts) > 1:
        gains = [
            [float(found[method, name]["gain"][0]) if (method, name) in found else None for name in concepts]
            for method in compared
        ]
        means = [fmean(known) if (known := [gain for gain in line if gain is not None]) else None for line in gains]
        lines = [
            (method.replace("the ", ""), [*line, mean])
            for method, line, mean in zip(compared, gains, means, strict=True)
        ]
        return Matrix(
            "methods at equal cost: gain by the concept's word measure, in spreads",
            "method",
            [*concepts, "mean"],
            lines,
        )
    gains, low, high = ([float(row["gain"][place]) for row in rows] for place in range(3))
    return Chart(
        f"methods for {concepts[0]} at equal cost",
        "method",
        [row["method"].replace("the ", "") for row in rows],
        [
            Series("words", gains, "effect", intervals=list(zip(low, high, strict=True)), rest=0.0, meaning=_GAIN),
            Series("specific", [float(row["specificity"][0]) for row in rows], "effect", rest=0.0, meaning=_SPECIFIC),
            Series("cost", [float(row["cost"]) for row in rows], "cost", rest=1.0, scale=(1.0, 2.0), meaning=_COST),
            Series("right", [float(row["right"]) for row in rows], "share", scale=(0.0, 1.0), meaning=_RIGHT),
        ],
    )


def names(result: Result) -> str:
    """The concepts that an experiment steered."""
    return " and ".join(result.outcomes[0].setting.recipe.concepts)


def _chart(
    title: str,
    axis: str,
    outcomes: Sequence[Outcome],
    at: Sequence[float],
    useful: Sequence[Outcome],
    towards: bool = False,
) -> Chart:
    """The figures of outcomes.

    `towards`: effects are along the concept itself, where a push away that works is below 0. Words always count it.
    """
    away = [(outcome.setting.strength or 0.0) < 0 for outcome in outcomes]
    bands = [outcome.chance for outcome in outcomes]
    words = [outcome.words for outcome in outcomes]
    if towards:
        bands = [(-band[1], -band[0]) if turn and band else band for turn, band in zip(away, bands, strict=True)]
    else:
        words = [-gain if turn and gain is not None else gain for turn, gain in zip(away, words, strict=True)]
    moved = [outcome.kl for outcome in outcomes]
    series = [
        Series(
            "effect",
            [outcome.towards if towards else outcome.effect for outcome in outcomes],
            "effect",
            [outcome.spread for outcome in outcomes],
            bands,
            rest=0.0,
            meaning=_EFFECT,
        )
    ]
    if any(gain is not None for gain in words):
        series.append(Series("words", words, "effect", rest=0.0, meaning="words: gain by counted words, without it"))
    series += [
        Series("cost", [outcome.cost for outcome in outcomes], "cost", rest=1.0, scale=(1.0, 2.0), meaning=_COST),
        *([Series("KL", moved, "number", rest=0.0, meaning=_KL)] if any(value is not None for value in moved) else []),
        Series(
            "again", [outcome.repetition for outcome in outcomes], "share", rest=0.0, scale=(0.0, 0.3), meaning=_AGAIN
        ),
    ]
    return Chart(
        title,
        axis,
        [outcome.setting.label for outcome in outcomes],
        series,
        at,
        frozenset(index for index, outcome in enumerate(outcomes) if outcome.clarity == "within chance"),
        (outcomes.index(useful[0]), outcomes.index(useful[-1])) if useful else None,
        [_sample(outcome.pairs[0]) for outcome in outcomes],
        "an answer",
    )


def _sample(pair: Pair) -> str:
    """The steered answer from the word on at which it leaves the normal one."""
    if pair.steered is None:
        return ""
    text = pair.steered.text
    parting = shared_length(pair.normal.text, text)
    if parting == len(text):
        return "as the normal one"
    start = text.rfind(" ", 0, parting) + 1
    return fit(("..." if start else "") + text[start:], _SAMPLE)
