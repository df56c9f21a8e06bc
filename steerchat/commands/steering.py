"""/steer, /mix and a command for every other operation: change the recipe."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from ..conversation.chat import Chat
from ..experiments.settings import mix_notes
from ..slash.arguments import Concept, Float, Int, Layer, Level, MixSpec, Rest, Strength, When
from ..slash.registry import registry
from ..values.gate import Condition, Gate
from ..values.operation import ADD, OPERATIONS, Operation
from ..values.recipe import Recipe, TermRequest, ambiguous, parse_parts
from ..values.results import Event, Notice

command = partial(registry.command, group="Steering")
_GATE: dict[str, Any] = {
    "when": Annotated[Condition | None, When()],
    "first": Annotated[int | None, Int("push only at the first N positions of the answer", least=1)],
    "after": Annotated[int | None, Int("push only after N positions of the answer", least=1)],
    "decay": Annotated[float | None, Float("multiply the strength by X from token to token", least=0.01, most=1)],
}


def _gated(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of a gate; its handler gets them as its last parameter, `gate`."""

    @functools.wraps(handler)
    def with_gate(chat: Chat, **values: Any) -> Any:
        gate = Gate(**{name: values.pop(name, None) for name in _GATE})
        return handler(chat, **values, gate=gate)

    signature = inspect.signature(handler)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "gate"]
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(name, kind, default=None, annotation=hint) for name, hint in _GATE.items()]
    with_gate.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    with_gate.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
    return with_gate


_Layers = Annotated[str | None, Layer("the layers: 16, a range 12-20, a depth 55%, or all")]


@command(
    "steer",
    examples=["/steer happy 16 2.0", "/steer happy", "/steer sad 12-20 -1.5", "/steer happy --when sad>1", "/steer"],
)
@_gated
def steer(
    chat: Chat,
    concept: Annotated[str | None, Concept("the concept to steer towards")] = None,
    layer: _Layers = None,
    strength: Annotated[float | None, Strength("2.0 is a good first try; a negative one steers away")] = None,
    *,
    gate: Gate,
) -> list[object]:
    """Steers towards a concept, or shows the recipe.

    Without a layer or a strength, the concept's recommended one is used. A single number with a point or a sign is a
    strength; a single whole number is a layer.

    --when sad>1 pushes only while the answer so far scores more than 1 on sad, read below the push in the same pass;
    --when prompt:sad>1 reads the prompt instead, once. --first, --after and --decay go by the position in the answer.

    While an answer streams, Alt-Up and Alt-Down change the strength of what is still to come by a quarter of it, and
    Alt-0 stops the push.
    """
    if concept is None:
        return [chat.session.recipe]
    return _steer(chat, _request(chat, concept, layer, strength, gate), keep=False)


@command("steer add", examples=["/steer add formal 14 1.0", "/steer add formal --first 20"])
@_gated
def add(
    chat: Chat,
    concept: Annotated[str, Concept("the concept to add")],
    layer: _Layers = None,
    strength: Annotated[float | None, Strength("the strength")] = None,
    *,
    gate: Gate,
) -> list[object]:
    """Adds a concept to the recipe."""
    return _steer(chat, _request(chat, concept, layer, strength, gate))


@command("steer drop", examples=["/steer drop happy"])
def drop(chat: Chat, concept: Annotated[str, Concept("the concept to remove")]) -> Recipe:
    """Removes a concept from the recipe."""
    chat.session.drop(concept)
    return chat.session.recipe


@command("steer off", examples=["/steer off"])
def off(chat: Chat) -> Recipe:
    """Pauses steering; the recipe stays."""
    chat.session.switch(False)
    return chat.session.recipe


@command("steer on", examples=["/steer on"])
def on(chat: Chat) -> Recipe:
    """Resumes steering."""
    chat.session.switch(True)
    return chat.session.recipe


@command("steer clear", examples=["/steer clear"])
def clear(chat: Chat) -> Recipe:
    """Empties the recipe."""
    chat.session.recipe = Recipe(scope=chat.settings.scope)
    return chat.session.recipe


@command(
    "mix",
    examples=[
        "/mix happy:0.7,excited:0.3",
        "/mix formal:0.5,friendly:0.5 16 2.0",
        "/mix happy:1,sad:-1 Tell me about the weather",
    ],
    shell=True,
    parallel=True,
)
@_gated
def mix(
    chat: Chat,
    spec: Annotated[str, MixSpec("concepts with weights; a negative weight pushes away")],
    where: Annotated[str | None, Layer("the layers; by default those of the heaviest concept")] = None,
    push: Annotated[float | None, Strength("the strength; by default that of the heaviest concept")] = None,
    prompt: Annotated[str, Rest("a prompt to answer at once, normal and steered")] = "",
    *,
    layer: Annotated[str | None, Layer("the layers, as an option")] = None,
    strength: Annotated[float | None, Strength("the strength, as an option")] = None,
    raw: Annotated[bool, "continue the prompt itself, without the chat template"] = False,
    gate: Gate,
) -> list[object] | Iterator[Event]:
    """Steers towards a mix of concepts.

    Weights are divided by the sum of their absolute values; the weighted directions are added and rescaled to unit
    length, so a mix pushes no harder than a single concept. Every answer then shows the effect of each part.
    """
    session = chat.session
    request = TermRequest(parse_parts(spec), layer or where, push if strength is None else strength, gate=gate)
    term, notes = session.resolve(request)
    notes += mix_notes(session, term)
    session.recipe = Recipe((term,), chat.settings.scope)
    if not prompt:
        return [*map(Notice, notes), session.recipe]
    return itertools.chain(map(Notice, notes), session.compare(prompt, raw=raw, kind="mix"))


def _declare(operation: Operation) -> None:
    """The slash command of an operation, which adds a term to the recipe."""

    name, summary = operation.name, f"{operation.summary}\n\n{operation.details}"

    def plain(
        chat: Chat, concept: Annotated[str, Concept("the concept")], layer: _Layers = None, *, gate: Gate
    ) -> list[object]:
        return _steer(chat, TermRequest(parse_parts(concept), layer, None, name, gate))

    def with_strength(
        chat: Chat,
        concept: Annotated[str, Concept("the concept")],
        layer: _Layers = None,
        strength: Annotated[float | None, Strength("the strength")] = None,
        *,
        gate: Gate,
    ) -> list[object]:
        return _steer(chat, _request(chat, concept, layer, strength, gate, name))

    def with_level(
        chat: Chat,
        concept: Annotated[str, Concept("the concept")],
        layer: _Layers = None,
        level: Annotated[float | None, Level()] = None,
        *,
        gate: Gate,
    ) -> list[object]:
        return _steer(chat, _request(chat, concept, layer, level, gate, name))

    handler = {"": plain, "strength": with_strength, "level": with_level}[operation.number]
    handler.__doc__ = summary
    examples = [f"/{name} sad", f"/{name} sad 12-20"] + ([f"/{name} sad 12-20 1.0"] if operation.number else [])
    command(name, examples=examples)(_gated(handler))


for _operation in OPERATIONS.values():
    if _operation.name != ADD:
        _declare(_operation)


def _steer(chat: Chat, request: TermRequest, keep: bool = True) -> list[object]:
    """Change the recipe and show it; `keep` keeps its other terms."""
    return [*map(Notice, chat.session.steer([request], keep=keep)), chat.session.recipe]


def _request(
    chat: Chat, concept: str, layer: str | None, value: float | None, gate: Gate, operation: str = ADD
) -> TermRequest:
    """A single small number could be the layer or the strength: ask the user, or take it as the layer with a note."""
    request = TermRequest(parse_parts(concept), layer, value, operation, gate)
    number = OPERATIONS[operation].number
    if layer is None or value is not None or not ambiguous(layer):
        return request
    if not chat.can_ask:
        note = f"{layer} is taken as the layer; for {number} {layer} type {layer}.0"
        return replace(request, notes=(note,))
    if chat.ask(f"Is {layer} the layer or the {number}?", ["layer", number]) == number:
        return replace(request, layers=None, strength=float(layer))
    return request
