"""The measures of a text, one entry each: figures of an answer that need neither the model nor a concept's vector.

To add one, add an entry. Both answers of every pair are measured; the log, JSON, the lines under an answer, reports,
lessons and `/expect` follow. Effect and cost need the model: they are fields of `Pair`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TextMeasure:
    """One figure of a text.

    Attributes:
        name: in the log and in JSON; `/expect` calls it `pair-NAME`.
        of: the figure of an answer without its thought.
        form: how the lines under an answer show it, such as `{:.0%}`; empty where they do not.
    """

    name: str
    of: Callable[[str], float]
    form: str = ""


MEASURES: dict[str, TextMeasure] = {
    measure.name: measure
    for measure in (
        # brief and verbose change it, and hardly the effect.
        TextMeasure("words", lambda text: len(text.split())),
    )
}


def measures(normal: str, steered: str | None) -> dict[str, float]:
    """Every measure of a pair's answers by name: of the normal one as `normal_NAME`, of the steered one as NAME."""
    figures = {f"normal_{name}": float(measure.of(normal)) for name, measure in MEASURES.items()}
    if steered is not None:
        figures |= {name: float(measure.of(steered)) for name, measure in MEASURES.items()}
    return figures
