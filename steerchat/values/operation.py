"""The operations: what can be done to the residual stream, one entry each. `engine.operations` computes them.

To add one, add an entry here and a class of its name there. The slash command, the recipe, the log, help and lessons
follow from the entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# Strength 1 adds a vector of this share of the layer's typical residual length. Calibrated on the default model: 2.0 is
# a good first try, and 6 produces broken text.
UNIT = 0.125

ADD = "add"


@dataclass(frozen=True)
class Operation:
    """One way to change the state at a layer along a concept's direction.

    Attributes:
        name: in recipes, in the log and, but for `add`, of the slash command.
        sign: 1 when it moves the state towards the concept, -1 when it moves the state away.
        number: what a user gives beside concept and layers: a `strength`, a `level`, or nothing.
        graded: whether twice the strength does twice as much; sweeps over strengths and effects weigh by it.
        size: (strength, number of layers, the layer's typical length) to the length of the vector that the engine gets.
        default: the strength or level where a user names none; None takes the one that is recommended for the concept.
        summary: the first line of its help.
        details: the rest of its help.
        shown: what it does in words, of `UNIT` times the strength at a layer, and "that layer" or "each layer".
    """

    name: str
    sign: int
    number: Literal["strength", "level", ""]
    graded: bool
    size: Callable[[float, int, float], float]
    default: float | None
    summary: str
    details: str
    shown: Callable[[float, str], str] = lambda share, where: ""


def _degrees(radians: float) -> str:
    """An angle for people."""
    degrees = math.degrees(radians)
    return f"{degrees:.2g}" if degrees < 99.5 else f"{degrees:.0f}"


_LEVELS = (
    "Levels are the concept's own, along its direction at each layer: its examples with the concept lie at 1.0 on "
    "average, those without it at 0.0."
)

# In the order in which they are applied at a layer.
OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            "replace",
            sign=1,
            number="strength",
            graded=False,
            size=lambda strength, layers, length: strength * UNIT * length,
            default=1 / UNIT,
            summary="Replaces the residual stream with a concept's direction, in addition to the recipe.",
            details="Everything else at those positions is lost, which shows why steering adds. Strength 8.0 makes the "
            "new state as long as the states there are. /steer drop CONCEPT ends it.",
        ),
        Operation(
            "ablate",
            sign=-1,
            number="",
            graded=False,
            size=lambda strength, layers, length: 1.0,
            default=None,
            summary="Removes a concept's direction from the residual stream, in addition to the recipe.",
            details="The residual stream keeps everything except its component along that direction. "
            "/steer drop CONCEPT ends it.",
        ),
        Operation(
            "rotate",
            sign=1,
            number="strength",
            graded=True,
            # An angle in radians: a short push across the state turns it by the push's share of the state's length.
            size=lambda strength, layers, length: strength / layers * UNIT,
            default=None,
            summary="Turns the residual stream towards a concept's direction, in addition to the recipe.",
            details="Each state keeps its length, and is turned by the same angle in the plane of itself and the "
            f"direction, at most up to the direction. Strength 1.0 is {math.degrees(UNIT):.1f} degrees: at a small "
            "strength, a turn and a push of the same number change a state of typical length alike. "
            "/steer drop CONCEPT ends it.",
            shown=lambda share, where: f"a turn by {_degrees(share)} degrees at {where}",
        ),
        Operation(
            ADD,
            sign=1,
            number="strength",
            graded=True,
            # Pushes of one direction add up along the residual stream, so the layers share the strength.
            size=lambda strength, layers, length: strength / layers * UNIT * length,
            default=None,
            summary="Adds a concept's direction to the residual stream.",
            details="",
            shown=lambda share, where: f"a push of {100 * share:.2g}% of {where}'s typical length",
        ),
        # Last, so that a level holds whatever else is done at the layer.
        Operation(
            "aim",
            sign=1,
            number="level",
            graded=False,
            size=lambda strength, layers, length: 1.0,
            default=1.0,
            summary="Pushes each position up to a level along a concept, where it lacks, in addition to the recipe.",
            details=f"{_LEVELS} A state that lies further already stays as it is. /steer drop CONCEPT ends it.",
            shown=lambda share, where: "each position is pushed as far as it lacks",
        ),
        Operation(
            "cap",
            sign=-1,
            number="level",
            graded=False,
            size=lambda strength, layers, length: 1.0,
            default=0.0,
            summary="Lets no position lie further along a concept than a level, in addition to the recipe.",
            details=f"{_LEVELS} A state that lies less far stays as it is. /steer drop CONCEPT ends it.",
            shown=lambda share, where: "no position lies further",
        ),
    )
}
