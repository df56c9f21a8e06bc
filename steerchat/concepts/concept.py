"""A concept: a name, a description, and contrast pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ..values.errors import ConceptError

Source = Literal["shipped", "user"]
# How a vector is extracted from the examples (see `extract`).
Extraction = Literal["centred", "mean", "pca", "end", "last"]
Method = Literal["centred", "mean", "pca", "end", "last", "imported"]
METHODS: tuple[Extraction, ...] = ("centred", "mean", "pca", "end", "last")


@dataclass(frozen=True)
class Example:
    """A contrast pair: a text that shows the concept and one like it that does not.

    Attributes:
        prompt: both texts reply to it; empty for plain texts outside the chat template.
        positive: the text that shows the concept.
        negative: the text that does not.
        held_out: whether the pair is left out of the extraction, and used for measuring.
    """

    prompt: str
    positive: str
    negative: str
    held_out: bool = False


@dataclass(frozen=True)
class Tuning:
    """The recommended setting of a concept on one model.

    Attributes:
        fingerprint: the model's.
        layers: as a user types them.
        strength: None when only the layers were chosen, without measuring.
    """

    fingerprint: str
    layers: str
    strength: float | None = None


# What stands for a method in a digest: another text when it computes something else than before.
_COMPUTED = {"mean": "", "centred": "centred, apart"}


@dataclass(frozen=True)
class Concept:
    """A named set of examples.

    `asking`: how one asks for the concept in a prompt, such as `Answer happily.`; empty for `request` to say it.
    """

    name: str
    kind: str
    description: str
    examples: tuple[Example, ...]
    tuned: tuple[Tuning, ...] = ()
    method: Method = "mean"
    source: Source = "user"
    path: Path | None = field(default=None, compare=False)
    asking: str = ""

    @property
    def request(self) -> str:
        """What asks for the concept in a prompt."""
        return self.asking or f"Be {self.name}."

    @property
    def digest(self) -> str:
        """A hash of the examples and the method: a vector with another digest is out of date."""
        text = json.dumps([asdict(example) for example in self.examples], sort_keys=True)
        text += _COMPUTED.get(self.method, self.method)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def tuning(self, fingerprint: str) -> Tuning | None:
        return next((tuning for tuning in self.tuned if tuning.fingerprint == fingerprint), None)


def check_examples(examples: Sequence[Example]) -> tuple[Example, ...]:
    """The examples, if a vector can be extracted from them.

    Raises ConceptError when all are held out, a text is empty, or two texts are equal.
    """
    if all(example.held_out for example in examples):
        raise ConceptError("there are no examples to extract from", "add at least one with held_out = false")
    for number, example in enumerate(examples, 1):
        if not example.positive.strip() or not example.negative.strip():
            raise ConceptError(f"example {number} has an empty text", "write both texts")
        if example.positive.strip() == example.negative.strip():
            raise ConceptError(f"the two texts of example {number} are equal", "only one may show the concept")
    return tuple(examples)
