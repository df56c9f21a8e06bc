"""Gates: at which positions a term of a recipe is applied."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from .errors import UsageError, shorten

PROMPT = "prompt:"
_FORM = re.compile(r"(prompt:)?([^<>:\s]+)([<>])(.+)")
_EXAMPLE = "--when sad>1, or --when prompt:angry>0.5"


@dataclass(frozen=True)
class Condition:
    """A reading that opens a gate.

    Attributes:
        concept: what is read.
        above: whether it must be more than the threshold, or less.
        threshold: a concept score, in standard deviations of the neutral corpus.
        prompt: whether the user's prompt is read, once; if not, the answer as far as it goes, at every position.
    """

    concept: str
    above: bool
    threshold: float
    prompt: bool = False

    def holds(self, score: float) -> bool:
        return score > self.threshold if self.above else score < self.threshold

    def __str__(self) -> str:
        return f"{PROMPT if self.prompt else ''}{self.concept}{'>' if self.above else '<'}{self.threshold:g}"

    @classmethod
    def parse(cls, text: str) -> Condition:
        """The condition that `str` gives. Raises UsageError for any other text."""
        match = _FORM.fullmatch(text.strip().lower())
        if match is None:
            raise UsageError(f"{shorten(text, 40)!r} is not a condition", _EXAMPLE)
        try:
            threshold = float(match[4])
        except ValueError:
            threshold = math.nan
        if not math.isfinite(threshold):
            raise UsageError(f"{shorten(match[4], 20)!r} is not a number", _EXAMPLE)
        return cls(match[2], match[3] == ">", threshold, match[1] is not None)


@dataclass(frozen=True)
class Gate:
    """When a term is applied; by default always.

    Positions count from 1, which is the one that the answer's first token is chosen at.

    Attributes:
        when: only while this holds.
        first: only at so many positions.
        after: not at so many positions.
        decay: the strength is multiplied by it from one position to the next.
    """

    when: Condition | None = None
    first: int | None = None
    after: int | None = None
    decay: float | None = None

    def __bool__(self) -> bool:
        return self != Gate()

    def __post_init__(self) -> None:
        if self.first is not None and self.after is not None and self.first <= self.after:
            raise UsageError(
                f"after {self.after} positions, none of the first {self.first} is left", "a larger --first"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What is set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        """As a user types it, less the dashes: `when sad>1 first 20`; empty when it is always open."""
        return " ".join(f"{name} {value}" for name, value in self.settings.items())

    @property
    def in_words(self) -> str:
        """For the echo of a recipe."""
        parts = []
        if self.when is not None:
            text = "the prompt" if self.when.prompt else "the answer so far"
            side = "more" if self.when.above else "less"
            parts.append(f"only while {text} scores {side} than {self.when.threshold:g} on {self.when.concept}")
        if self.after is not None:
            parts.append(f"from token {self.after + 1} on")
        if self.first is not None:
            parts.append(f"up to token {self.first}")
        if self.decay is not None:
            parts.append(f"times {self.decay:g} from token to token")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {name: str(value) if name == "when" else value for name, value in self.settings.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Gate:
        """The gate that `to_json` describes. Raises ValueError for any other data."""
        try:
            return cls.parse({name: str(value) for name, value in data.items()})
        except (UsageError, AttributeError):
            raise ValueError("it has no valid gate") from None

    @classmethod
    def parse(cls, options: dict[str, str]) -> Gate:
        """A gate from what follows each option. Raises UsageError for another name, or a value that does not fit."""
        values: dict[str, Any] = {}
        for name, text in options.items():
            if name == "when":
                values[name] = Condition.parse(text)
            elif name == "decay":
                values[name] = _number(name, text, float, "0.9")
            elif name in ("first", "after"):
                values[name] = _number(name, text, int, "20")
            else:
                raise UsageError(f"a term has no option --{shorten(name, 20)}", "--when, --first, --after and --decay")
        return cls(**values)


def _number(name: str, text: str, kind: type[int] | type[float], example: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value <= (1.0 if kind is float else 10**6):
        raise UsageError(f"--{name} cannot be {shorten(text, 20)!r}", f"--{name} {example}")
    return value
