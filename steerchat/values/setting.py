"""A setting of an experiment: what is done to every prompt alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .recipe import Recipe

Message = dict[str, str]


@dataclass(frozen=True)
class Setting:
    """What steers, or asks, in the steered column.

    Attributes:
        label: for people.
        recipe: what is pushed; nothing when it is not active.
        layer, strength: its place in a sweep.
        along: the recipe along which the effect is read, as for a control; None for its own.
        asking: is put behind the prompt, in place of a push.
        direction: the seed of the concept `random`; None for the seed of the answer.
        read: whether the pairs have a cost and an effect, which take as long as the answers; without, only texts count.
    """

    label: str
    recipe: Recipe
    layer: int | None = None
    strength: float | None = None
    along: Recipe | None = None
    asking: str = ""
    direction: int | None = None
    read: bool = True

    @property
    def read_along(self) -> Recipe:
        """The recipe along which the effect is read."""
        return self.recipe if self.along is None else self.along

    def drawn(self, seed: int) -> int:
        """The seed of the random direction in the answer with `seed`."""
        return seed if self.direction is None else self.direction

    def asked(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with what `asking` adds to the last of them."""
        if not self.asking:
            return list(messages)
        *before, last = messages
        return [*before, {**last, "content": f"{last['content']} {self.asking}"}]

    @classmethod
    def asked_for(cls, along: Recipe, asking: str) -> Setting:
        """The control that asks in the prompt, and pushes nothing."""
        return cls("asked for", Recipe(), along=along, asking=asking)

    def to_json(self) -> dict[str, Any]:
        """For the log: `experiments.recall` makes a setting of it again."""
        control = {} if self.along is None else {"along": self.along.to_json(), "asking": self.asking}
        return {"label": self.label, "recipe": self.recipe.to_json()} | control
