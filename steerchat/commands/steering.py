"""/steer: the recipe."""

from __future__ import annotations

from typing import Annotated

from ..conversation.chat import Chat
from ..slash.arguments import Concept, Layer, Strength
from ..slash.registry import command
from ..values.recipe import Recipe, TermRequest, ambiguous, parse_parts
from ..values.results import Notice

_GROUP = "Steering"


@command("steer", examples=["/steer happy 16 2.0", "/steer happy", "/steer sad 12-20 -1.5", "/steer"], group=_GROUP)
def steer(
    chat: Chat,
    concept: Annotated[str | None, Concept("the concept to steer towards")] = None,
    layer: Annotated[str | None, Layer("the layers: 16, a range 12-20, a depth 55%, or all")] = None,
    strength: Annotated[
        float | None, Strength("the strength; 2.0 is a good first try, a negative one steers away")
    ] = None,
) -> list[object]:
    """Steers towards a concept, or shows the recipe.

    Without a layer or a strength, the concept's recommended one is used. A single number with a point or a sign is a
    strength; a single whole number is a layer.
    """
    if concept is None:
        return [chat.session.recipe]
    return _change(chat, concept, layer, strength, keep=False)


@command("steer add", examples=["/steer add formal 14 1.0"], group=_GROUP)
def add(
    chat: Chat,
    concept: Annotated[str, Concept("the concept to add")],
    layer: Annotated[str | None, Layer("the layers")] = None,
    strength: Annotated[float | None, Strength("the strength")] = None,
) -> list[object]:
    """Adds a concept to the recipe."""
    return _change(chat, concept, layer, strength, keep=True)


@command("steer drop", examples=["/steer drop happy"], group=_GROUP)
def drop(chat: Chat, concept: Annotated[str, Concept("the concept to remove")]) -> Recipe:
    """Removes a concept from the recipe."""
    chat.session.drop(concept)
    return chat.session.recipe


@command("steer off", examples=["/steer off"], group=_GROUP)
def off(chat: Chat) -> Recipe:
    """Pauses steering; the recipe stays."""
    chat.session.switch(False)
    return chat.session.recipe


@command("steer on", examples=["/steer on"], group=_GROUP)
def on(chat: Chat) -> Recipe:
    """Resumes steering."""
    chat.session.switch(True)
    return chat.session.recipe


@command("steer clear", examples=["/steer clear"], group=_GROUP)
def clear(chat: Chat) -> Recipe:
    """Empties the recipe."""
    chat.session.recipe = Recipe(scope=chat.settings.scope)
    return chat.session.recipe


def _change(chat: Chat, concept: str, layer: str | None, strength: float | None, keep: bool) -> list[object]:
    if layer is not None and strength is None and ambiguous(layer):
        layer, strength, notes = _layer_or_strength(chat, layer)
    else:
        notes = ()
    request = TermRequest(parse_parts(concept), layer, strength, notes=notes)
    return [*map(Notice, chat.session.steer([request], keep=keep)), chat.session.recipe]


def _layer_or_strength(chat: Chat, number: str) -> tuple[str | None, float | None, tuple[str, ...]]:
    """A single small number could be either: ask the user, or take it as the layer with a note."""
    if chat.can_ask:
        if chat.ask(f"Is {number} the layer or the strength?", ["layer", "strength"]) == "strength":
            return None, float(number), ()
        return number, None, ()
    return number, None, (f"{number} is taken as the layer; for strength {number} type {number}.0",)
