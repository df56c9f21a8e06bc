"""Recipes: terms of (concept, layers, strength), their scope, and whether steering is on.

A `Term` has layers of a certain model; a `TermRequest` is a term as a user types it, where parts may be missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .errors import UsageError, shorten
from .gate import Gate
from .operation import ADD, OPERATIONS, Operation

Scope = Literal["generated", "all"]
SCOPES: tuple[Scope, ...] = ("generated", "all")

# The built-in concept without a meaning: a random direction, drawn by the seed, for comparison.
RANDOM = "random"

# A stronger push only produces noise, and overflows float16; an error explains that better than such an answer.
MAX_STRENGTH = 100.0

Parts = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Term:
    """One concept, or a mix of several, applied at some layers.

    Attributes:
        parts: (concept, weight) pairs; the weights' absolute values sum to 1.
        layers: zero-based decoder blocks, ascending.
        strength: in `operation.UNIT`s of a layer's typical residual length, divided among the layers; the level of an
            operation that has one.
        operation: how the vector changes the residual stream at those layers.
        gate: when it does.
    """

    parts: Parts
    layers: tuple[int, ...]
    strength: float
    operation: str = ADD
    gate: Gate = Gate()

    @property
    def concept(self) -> str:
        """The name as a user types it: `happy`, or `happy:0.7,excited:0.3`."""
        return format_parts(self.parts)

    @property
    def how(self) -> Operation:
        """What its operation does."""
        return OPERATIONS[self.operation]

    @property
    def per_layer(self) -> float:
        """The strength at each layer, a share of the whole, since pushes add up along the residual stream."""
        return self.strength / len(self.layers)

    def __str__(self) -> str:
        text = f"{self.concept} {format_layers(self.layers)}"
        if self.how.number:
            text += f" {'to' if self.how.number == 'level' else 'x'} {format_strength(self.strength)}"
        text = text if self.operation == ADD else f"{self.operation} {text}"
        return f"{text} {self.gate}".rstrip()

    @property
    def typed(self) -> str:
        """The command that adds it to a recipe."""
        text = f"{'steer add' if self.operation == ADD else self.operation} {self.concept} {format_layers(self.layers)}"
        if self.how.number:
            text += f" {format_strength(self.strength)}"
        return f"/{text}" + "".join(f" --{name} {value}" for name, value in self.gate.settings.items())

    def to_json(self) -> dict[str, Any]:
        data = {
            "concept": self.concept,
            "parts": dict(self.parts),
            "layers": list(self.layers),
            "strength": self.strength,
            "operation": self.operation,
        }
        return data | ({"gate": self.gate.to_json()} if self.gate else {})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Term:
        """The term that `to_json` describes. Raises ValueError, KeyError or TypeError for any other data."""
        term = cls(
            parts=tuple((str(name), float(weight)) for name, weight in data["parts"].items()),
            layers=tuple(int(layer) for layer in data["layers"]),
            strength=float(data["strength"]),
            operation=data["operation"],
            gate=Gate.from_json(data.get("gate", {})),
        )
        sizes = [weight for _, weight in term.parts] + [term.strength]
        finite = all(math.isfinite(size) for size in sizes) and abs(term.strength) <= MAX_STRENGTH
        if not (finite and term.parts and term.layers and min(term.layers) >= 0 and term.operation in OPERATIONS):
            raise ValueError("it is not a recipe")
        return term


@dataclass(frozen=True)
class Recipe:
    """All terms, the positions that they apply to, and whether steering is on."""

    terms: tuple[Term, ...] = ()
    scope: Scope = "generated"
    on: bool = True

    @property
    def active(self) -> bool:
        """Whether a turn with this recipe has a steered answer."""
        return self.on and bool(self.terms)

    @property
    def graded(self) -> tuple[Term, ...]:
        """The terms whose strength says how far the state is moved."""
        return tuple(term for term in self.terms if term.how.graded)

    @property
    def gated(self) -> bool:
        """Whether there are terms, and each has a gate."""
        return bool(self.terms) and all(term.gate for term in self.terms)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The name of each concept that is steered, once, in order."""
        return tuple(dict.fromkeys(name for term in self.terms for name, _ in term.parts))

    @property
    def named(self) -> tuple[str, ...]:
        """`concepts`, and those that gates read."""
        read = [term.gate.when.concept for term in self.terms if term.gate.when is not None]
        return tuple(dict.fromkeys([*self.concepts, *read]))

    def add(self, term: Term) -> Recipe:
        """With one more term, and on. Pushes add up; a term of another operation replaces an earlier one like it."""
        like = None if term.operation == ADD else (term.operation, term.parts)
        others = [other for other in self.terms if (other.operation, other.parts) != like]
        return replace(self, terms=(*others, term), on=True)

    def drop(self, concept: str) -> Recipe:
        """Without the terms of `concept` (a name or a whole mix)."""
        return replace(self, terms=tuple(t for t in self.terms if concept not in (t.concept, *dict(t.parts))))

    def __str__(self) -> str:
        if not self.terms:
            return "no steering"
        text = " + ".join(str(term) for term in self.terms)
        if self.scope != "generated":
            text += f" (scope {self.scope})"
        return text if self.on else text + " (off)"

    def to_json(self) -> dict[str, Any]:
        return {"terms": [term.to_json() for term in self.terms], "scope": self.scope, "on": self.on}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """The recipe that `to_json` describes. Raises as `Term.from_json`."""
        if data["scope"] not in SCOPES:
            raise ValueError("it has no valid scope")
        return cls(tuple(Term.from_json(t) for t in data["terms"]), data["scope"], bool(data["on"]))


@dataclass(frozen=True)
class TermRequest:
    """A term as typed; None stands for the concept's recommended value."""

    parts: Parts
    layers: str | None = None
    strength: float | None = None
    operation: str = ADD
    gate: Gate = Gate()
    # How an ambiguous text was understood, for the user.
    notes: tuple[str, ...] = field(default=(), compare=False)


def parse_strength(text: str) -> float:
    """A finite strength between -`MAX_STRENGTH` and `MAX_STRENGTH`. Raises UsageError for any other text."""
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"a strength is a number, not {shorten(text, 20)!r}", "try 2.0") from None
    if not math.isfinite(value):
        raise UsageError(f"a strength is a finite number, not {text}", "try 2.0; negative ones push away")
    if abs(value) > MAX_STRENGTH:
        raise UsageError(
            f"strength {value:g} exceeds {MAX_STRENGTH:g}", "1.5 to 3.0 is the useful range; 6 is already noise"
        )
    return value + 0.0  # -0.0 becomes 0.0


_RUN = re.compile(r"(\d+(?:\.\d+)?%|\d+)(?:-(\d+(?:\.\d+)?%|\d+))?")


def is_layers(text: str) -> bool:
    """Whether `text` has the form of a layer, a range, a depth, or several with commas."""
    return text.lower() == "all" or all(_RUN.fullmatch(run) for run in text.split(","))


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """Layers from a number `16`, a range `12-20`, a depth `55%`, a range of depths, several with commas, or `all`.

    Returns:
        ascending zero-based layers, at least one.

    Raises:
        UsageError: for another form, or a layer that the model does not have.
    """
    if text.lower() == "all":
        return tuple(range(n_layers))
    layers: set[int] = set()
    for run in text.split(","):
        match = _RUN.fullmatch(run)
        if match is None:
            raise UsageError(
                f"{shorten(text, 20)!r} is not a layer",
                f"use a number from 0 to {n_layers - 1}, a range 12-20, a depth 55%, or all",
            )
        first = _parse_layer(match[1], n_layers)
        last = _parse_layer(match[2], n_layers) if match[2] else first
        if last < first:
            raise UsageError(f"the range {run} is backwards", f"did you mean {match[2]}-{match[1]}?")
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def _parse_layer(text: str, n_layers: int) -> int:
    last = n_layers - 1
    if text.endswith("%"):
        depth = float(text[:-1])
        if depth > 100:
            raise UsageError(f"a depth is at most 100%, not {text}", "for example, 55% is a little past the middle")
        return round(depth / 100 * last)
    if len(text) > 9 or int(text) > last:
        raise UsageError(
            f"no layer {shorten(text, 20)}: this model has layers 0 to {last}",
            f"the middle is {last // 2}; a depth such as 55% fits any model",
        )
    return int(text)


def check_layer(layer: int, n_layers: int, hint: str = "choose another") -> None:
    """Raises UsageError for a layer that the model does not have."""
    if not 0 <= layer < n_layers:
        raise UsageError(f"no layer {layer}: this model has layers 0 to {n_layers - 1}", hint)


def layer_runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """(first, last) of each run of adjacent layers in ascending `layers`."""
    runs: list[tuple[int, int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], layer)
        else:
            runs.append((layer, layer))
    return runs


def format_layers(layers: Sequence[int]) -> str:
    """`16`, `12-20`, or `3,7,12-14`."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in layer_runs(layers))


def name_layers(layers: Sequence[int]) -> str:
    """`layer 16`, or `layers 12-20`, for use in a sentence."""
    return f"layer{'s' if len(layers) > 1 else ''} {format_layers(layers)}"


def parse_parts(text: str) -> Parts:
    """A mix `happy:0.7,excited:0.3`, or one concept; weights are divided by the sum of their absolute values.

    Raises UsageError for a missing name, a weight that is not a number, or weights that are all zero.
    """
    weights: dict[str, float] = {}
    for piece in text.split(","):
        name, _, weight_text = piece.strip().partition(":")
        name = name.strip().lower()
        if not name:
            raise UsageError(f"a part of {shorten(text)!r} has no concept", "happy:0.7,excited:0.3")
        try:
            weight = float(weight_text) if weight_text else 1.0
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise UsageError(f"the weight of {name} is not a number: {shorten(weight_text, 20)!r}", f"{name}:0.5")
        weights[name] = weights.get(name, 0.0) + weight
    total = sum(abs(weight) for weight in weights.values())
    if total < 1e-9:
        raise UsageError(f"the weights of {shorten(text)} cancel out", "happy:0.7,excited:0.3")
    return tuple((name, weight / total) for name, weight in weights.items())


def format_strength(strength: float) -> str:
    """Always with a decimal point, so that nobody takes it for a layer: `2.0`."""
    text = f"{strength:g}"
    return text if "." in text or "e" in text else text + ".0"


def format_parts(parts: Parts) -> str:
    """The mix as a user types it, or the name of a single concept."""
    if len(parts) == 1 and parts[0][1] == 1.0:
        return parts[0][0]
    return ",".join(f"{name}:{round(weight, 4):g}" for name, weight in parts)


def parse_term(text: str) -> TermRequest:
    """A term as a user types it: `happy 16 2.0` or `happy:16:2.0`, where layer and strength may be missing.

    An operation other than adding comes first: `rotate happy 16 2.0`. The options of a gate come last:
    `happy 16 2.0 --when sad>1 --first 20`. A lone number with a point or a sign is a
    strength. A lone whole number is a layer; up to 6 it could be either, and the request gets a note. In the form with
    colons, `happy::2.0` omits the layer.

    Raises UsageError when the text has neither form.
    """
    words, *options = re.split(r"\s+--", f" {text.strip()}")
    gate = Gate.parse(dict(_option(option) for option in options))
    words = words.split()
    operation = words.pop(0) if len(words) > 1 and words[0] in OPERATIONS else ADD
    if not words:
        raise UsageError("--steer needs a concept", '--steer "happy 16 2.0"')
    if len(words) == 1 and "," not in words[0]:
        words = [word or None for word in words[0].split(":")]  # type: ignore[misc]  # None: field left out
    concept, *numbers = words
    if concept is None or len(numbers) > 2:
        raise UsageError(f"{shorten(text)!r} is not CONCEPT LAYER STRENGTH", '--steer "happy 16 2.0"')
    parts = parse_parts(concept)
    layers, strength, notes = None, None, ()
    if len(numbers) == 1 and numbers[0] is not None and not is_layers(numbers[0]):
        strength = parse_strength(numbers[0])
    elif len(numbers) == 1 and numbers[0] is not None:
        layers = numbers[0]
        if ambiguous(layers):
            number = OPERATIONS[operation].number
            notes = (f"{layers} is taken as the layer; for {number} {layers} type {layers}.0",) if number else ()
    elif len(numbers) == 2:
        layers = numbers[0]
        strength = None if numbers[1] is None else parse_strength(numbers[1])
    if strength is not None and not OPERATIONS[operation].number:
        raise UsageError(f"{operation} takes no strength", f"{operation} {concept} {layers or ''}".rstrip())
    return TermRequest(parts, layers, strength, operation, gate, notes)


def _option(text: str) -> tuple[str, str]:
    """(name, value) of `name value` or `name=value`."""
    name, _, value = text.replace("=", " ", 1).partition(" ")
    return name, value.strip()


def ambiguous(text: str) -> bool:
    """Whether a lone number could be a layer or a strength."""
    return text.isdigit() and int(text) <= 6
