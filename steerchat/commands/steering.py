"""/steer: what is pushed."""

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
    concept: Annotated[str | None, Concept("what to push towards")] = None,
    layer: Annotated[str | None, Layer("where: 16, a range 12-20, a depth 55%, or all")] = None,
    strength: Annotated[float | None, Strength("how hard; 2.0 is a good first try, negative pushes away")] = None,
) -> list[object]:
    """Steers towards a concept, or shows what is steered.

    A left-out layer or strength takes the concept's recommended one. A lone number with a point or a sign is a
    strength; a lone whole number is a layer.
    """
    if concept is None:
        return [chat.session.recipe]
    return _change(chat, concept, layer, strength, keep=False)


@command("steer add", examples=["/steer add formal 14 1.0"], group=_GROUP)
def add(
    chat: Chat,
    concept: Annotated[str, Concept("what to push towards as well")],
    layer: Annotated[str | None, Layer("where")] = None,
    strength: Annotated[float | None, Strength("how hard")] = None,
) -> list[object]:
    """Adds a concept to what is steered."""
    return _change(chat, concept, layer, strength, keep=True)


@command("steer drop", examples=["/steer drop happy"], group=_GROUP)
def drop(chat: Chat, concept: Annotated[str, Concept("what to leave out")]) -> Recipe:
    """Takes a concept out of what is steered."""
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
        layer, strength, notes = _which(chat, layer)
    else:
        notes = ()
    said = chat.session.steer([TermRequest(parse_parts(concept), layer, strength, notes=notes)], keep=keep)
    return [*map(Notice, said), chat.session.recipe]


def _which(chat: Chat, number: str) -> tuple[str | None, float | None, tuple[str, ...]]:
    """A lone small number could be either: ask, or take the layer and say so."""
    if chat.can_ask:
        if chat.ask(f"Is {number} the layer or the strength?", ["layer", "strength"]) == "strength":
            return None, float(number), ()
        return number, None, ()
    return number, None, (f"{number} is taken as the layer; for strength {number} type {number}.0",)
