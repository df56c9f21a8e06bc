"""One exchange of a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from ..values.recipe import Recipe


@dataclass(frozen=True)
class Turn:
    """One exchange. `steered` is None when nothing was steered: both columns then hold the normal answer."""

    user: str
    normal: str
    steered: str | None
    pair_id: int | None
    seed: int
    # The settings of the question, so that `/retry same` can repeat it.
    recipe: Recipe

    def answer(self, column: str) -> str:
        return self.steered if column == "steered" and self.steered is not None else self.normal
