"""The pages of /why, /probe and /lens: an answer token by token, a prompt layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..values.chart import Chart, Series, in_form, quoted
from ..values.page import Page, Shaded
from ..values.recipe import RANDOM
from ..values.results import Notice, Strip, format_effect
from ..values.text import fit

if TYPE_CHECKING:
    from ..measures.inspection import Step
    from ..measures.prediction import LayerReading
    from ..measures.reader import Reader
    from .outcomes import Result
    from .readings import Why


def why(read: Why) -> Page:
    """`/why`."""
    pair, tokens, strips = read.stored.pair, read.tokens, read.strips
    assert pair.steered is not None
    parts: list[object] = [
        read.chart,
        Notice("The more a token stands out, the less the unsteered model would have said it: 10%, 1%, 0.1%."),
    ]
    if strips:
        parts.append(Notice("The higher a mark, the more of the concept those tokens carry."))
    if pair.steered.dial:
        parts.append(f"The dial was turned: {pair.steered.turns}.")
    if pair.steered.gate:
        runs = [str(first) if first == last else f"{first}-{last}" for first, last in pair.steered.pushed]
        parts.append(f"The gates were open at tokens {', '.join(runs)}." if runs else "The gates never opened.")
    if pair.diverges_at is None:
        parts.append("Both answers are the same, token for token.")
    elif pair.diverges_at < len(tokens):
        token = tokens[pair.diverges_at]
        likeliest = ", ".join(f"{quoted(guess.text)} {_percent(guess.probability)}" for guess in read.rather)
        parts.append(
            f"They diverge at token {pair.diverges_at + 1}: steered said {quoted(token.text)} "
            f"({_percent(token.probability)} without the push). The unsteered model's likeliest there: {likeliest}."
        )
    else:
        parts.append(f"The steered answer ends at token {pair.diverges_at + 1}, and the normal one goes on.")
    data = {
        "id": pair.id,
        "prompt": pair.prompt,
        "recipe": pair.recipe.to_json(),
        "diverges_at": pair.diverges_at,
        "tokens": [token.to_json() for token in tokens],
        "wanted": [guess.to_json() for guess in read.rather],
        "concepts": [strip.to_json() for strip in strips],
        "gate": [list(change) for change in pair.steered.gate],
        "dial": [list(change) for change in pair.steered.dial],
    }
    return Page(parts, [data])


def probe(strips: Sequence[Strip], concepts: Sequence[str]) -> Page:
    """`/probe`; `concepts` are those that are read from now on."""
    parts: list[object] = []
    for strip in strips:
        parts.append(f"{strip.concept} in the {strip.column} answer, {format_effect(strip.score)} on the whole:")
        shades = [sum(value > edge for edge in (1.0, 2.0, 3.0)) for value in strip.values]
        parts.append(Shaded(list(zip(strip.tokens, shades, strict=True))))
    parts.append(Notice("Tokens stand out 1, 2 or 3 deviations above the average token of the normal answer."))
    parts += probing(concepts).parts
    return Page(parts, [strip.to_json() for strip in strips])


def probing(concepts: Sequence[str]) -> Page:
    """What is read from now on."""
    names = " and ".join(concepts)
    text = f"{names}: read under every answer from now on; the higher a mark, the more of it. /probe off ends it."
    return Page([Notice(text)] if names else [])


def lens(steps: Sequence[Step], layer: int | None, text: str) -> Page:
    """`/lens`."""
    shown = steps if layer is None else [steps[layer]]
    longest = max(step.length for step in steps)
    lengths = Series("length", [step.length for step in shown], "number", rest=0.0, scale=(0.0, longest))
    chances = Series("chance", [step.guess.probability for step in shown], "probability")
    chart = Chart(
        f"after: {fit(text, 90)}",
        "layer",
        [str(step.layer) for step in shown],
        [lengths, chances],
        [float(step.layer) for step in shown],
        notes=[quoted(step.guess.text) for step in shown],
        noted="would say next",
    )
    final = steps[-1].guess.text
    settled = next(step.layer for step in steps if all(later.guess.text == final for later in steps[step.layer :]))
    parts: list[object] = [chart]
    if layer is None:
        parts.append(f"From layer {settled} on the guess is the final one, {quoted(final)}.")
    else:
        parts += _depth(layer, len(steps))
    parts.append(Notice("Early layers are not trained to speak: their guesses are a reading, not what they know."))
    return Page(parts, [step.to_json() for step in shown])


def concept_lens(name: str, readings: Sequence[LayerReading], layer: int | None) -> Page:
    """`/lens CONCEPT`."""
    from ..measures.prediction import predicted_order

    shown = readings if layer is None else [readings[layer]]
    chart = Chart(
        f"{name}, layer by layer: what is predicted of a push",
        "layer",
        [str(reading.layer) for reading in shown],
        [
            Series("predicted", [reading.step for reading in shown], "number", rest=0.0, meaning="predicted effect"),
            Series("pairs agree", [reading.agreement for reading in shown], "number", scale=(0.0, 1.0)),
            Series("as before", [reading.alike for reading in shown], "number", meaning="cosine with the layer before"),
        ],
        [float(reading.layer) for reading in shown],
        notes=[", ".join(_words(reading.tokens)) for reading in shown],
        noted=f"a push towards {name} promotes",
    )
    parts: list[object] = [chart]
    parts.append(
        Notice(
            "Read by the output layer, which early layers are not trained to speak to. as before: the cosine with the "
            "direction at the layer before."
        )
    )
    if readings[0].step is None:
        parts.append(f"{name} has no examples, so nothing is predicted.")
    else:
        best = ", ".join(map(str, predicted_order(readings)[:3]))
        parts.append(
            f"Predicted: strongest at layers {best}. A guess, no measurement: on the default model, the depth alone "
            f"guesses as well. /layers --concept {name} tries them all."
        )
    return Page(parts, [{"concept": name, **reading.to_json()} for reading in shown])


def with_prediction(page: Page, result: Result, reader: Reader) -> Page:
    """The page of `/layers`, and how well `/lens` predicts what it measured; as it is where there is no prediction."""
    from ..measures.prediction import predicted_order, rank_correlation, read_layers

    outcomes = result.outcomes
    recipe = outcomes[0].setting.recipe if outcomes else None
    name = recipe.concepts[0] if recipe is not None and len(recipe.concepts) == 1 else RANDOM
    if recipe is None or name == RANDOM or not reader.library.get(name).examples:
        return page
    readings = read_layers(reader, name)
    away = (outcomes[0].setting.strength or 0.0) < 0
    predicted = [readings[outcome.setting.layer or 0].step or 0.0 for outcome in outcomes]
    measured = {"effect": [outcome.effect or 0.0 for outcome in outcomes]}
    if outcomes[0].words is not None:
        measured["words"] = [(outcome.words or 0.0) * (-1 if away else 1) for outcome in outcomes]
    correlations = {label: round(rank_correlation(predicted, values), 3) for label, values in measured.items()}
    agreement = " and ".join(f"{value:+.2f} with the {label}" for label, value in correlations.items())
    best = ", ".join(map(str, predicted_order(readings)[:3]))
    text = f"Predicted without an answer (/lens {name}): layers {best} first. Rank correlation {agreement}."
    steps = {reading.layer: round(reading.step or 0.0, 4) for reading in readings}
    objects = [{**each, "predicted": steps[each["layer"]]} for each in result.objects()]
    return Page([*page.parts, text], objects)


def _words(tokens: Sequence[str]) -> list[str]:
    """Tokens to be read by people: `joy` and ` Joy` are one."""
    words = {token.strip().lower(): token.strip() for token in reversed(tokens) if token.strip()}
    return list(words.values())[::-1]


def _depth(layer: int, count: int) -> list[object]:
    share = layer / max(1, count - 1)
    if share < 0.3:
        meaning = "Early layers mostly put words and their neighbours together. Pushes there often break the text."
    elif share < 0.75:
        meaning = (
            "Middle layers are where topics, tone and meaning are known to sit. Steering is usually tried here first."
        )
    else:
        meaning = "Late layers turn meaning into the next word. Pushes there act on single words more than on tone."
    return [f"Layer {layer} is {100 * share:.0f}% deep. {meaning}"]


def _percent(share: float) -> str:
    return in_form("probability", share)
