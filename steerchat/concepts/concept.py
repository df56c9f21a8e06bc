"""What a concept is: a name, a sentence about it, and examples with and without it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ..values.errors import ConceptError

Source = Literal["shipped", "user"]
# How a vector is extracted from examples (see `extract`).
Extraction = Literal["mean", "pca", "end", "last"]
Method = Literal["mean", "pca", "end", "last", "imported"]
METHODS: tuple[Extraction, ...] = ("mean", "pca", "end", "last")


@dataclass(frozen=True)
class Example:
    """A contrast pair: a text that shows the concept and one like it that does not.

    Attributes:
        prompt: what both reply to; empty for plain text outside the chat template.
        positive: shows the concept.
        negative: does not.
        held_out: kept away from extraction, for measuring.
    """

    prompt: str
    positive: str
    negative: str
    held_out: bool = False


@dataclass(frozen=True)
class Tuning:
    """The setting that works for a concept on one model.

    Attributes:
        fingerprint: of the model.
        layers: as one would type them.
        strength: None when only the layers were chosen: nothing was measured then.
    """

    fingerprint: str
    layers: str
    strength: float | None = None


@dataclass(frozen=True)
class Concept:
    """A named set of examples."""

    name: str
    kind: str
    description: str
    examples: tuple[Example, ...]
    tuned: tuple[Tuning, ...] = ()
    method: Method = "mean"
    source: Source = "user"
    path: Path | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """Of the examples and the method: a vector that was extracted from others is out of date."""
        text = json.dumps([asdict(example) for example in self.examples], sort_keys=True)
        text += "" if self.method == "mean" else self.method
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def tuning(self, fingerprint: str) -> Tuning | None:
        return next((tuning for tuning in self.tuned if tuning.fingerprint == fingerprint), None)


def check_examples(examples: Sequence[Example]) -> tuple[Example, ...]:
    """The examples, if a vector can come from them.

    Raises:
        ConceptError: when there are none to extract from, a text is empty, or two texts are equal.
    """
    if not any(not example.held_out for example in examples):
        raise ConceptError("there are no examples to extract from", "at least one with held_out = false")
    for number, example in enumerate(examples, 1):
        if not example.positive.strip() or not example.negative.strip():
            raise ConceptError(f"example {number} has an empty text", "both texts are needed")
        if example.positive.strip() == example.negative.strip():
            raise ConceptError(f"the two texts of example {number} are equal", "one shows the concept, one does not")
    return tuple(examples)
