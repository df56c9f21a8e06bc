"""Concepts on disk: shipped ones, the user's own, and their vectors for each model.

A concept is a readable TOML with its examples. Its vector belongs to one model and one set of examples: it
is found by the model's fingerprint and the examples' hash, and extracted again when there is none.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import ConceptError, shorten, unknown
from .results import Notice, Progress

if TYPE_CHECKING:
    from .engine import Engine
    from .profile import Profile
    from .vectors import ConceptVector

Source = Literal["shipped", "user"]
Report = Callable[[Notice | Progress], None]

RANDOM = "random"
RESERVED = frozenset({RANDOM, "all"})
# Where a concept steers best on a model for which it was never tuned: a range past the first third.
DEFAULT_LAYERS = "35%-62%"
DEFAULT_STRENGTH = 2.0
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


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
    """The setting that works for a concept on one model."""

    fingerprint: str
    layers: str
    strength: float


@dataclass(frozen=True)
class Concept:
    """A named set of examples."""

    name: str
    kind: str
    description: str
    examples: tuple[Example, ...]
    tuned: tuple[Tuning, ...] = ()
    source: Source = "user"
    path: Path | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """Of the examples: a vector that was extracted from others is out of date."""
        text = json.dumps([asdict(example) for example in self.examples], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def tuning(self, fingerprint: str) -> Tuning | None:
        return next((tuning for tuning in self.tuned if tuning.fingerprint == fingerprint), None)


class Library:
    """Every concept there is.

    Args:
        shipped: the folder that comes with steerchat; only read.
        user: the user's own concepts, which shadow shipped ones of the same name.
        cache: where vectors for other models are kept.
        reserved: names that no concept may have.
    """

    def __init__(self, shipped: Path, user: Path, cache: Path, reserved: Collection[str] = ()) -> None:
        self._shipped = shipped
        self._user = user
        self._cache = cache
        self._reserved = RESERVED | set(reserved)
        self._vectors: dict[tuple[str, str], ConceptVector] = {}
        self._profiles: dict[str, Profile] = {}

    def names(self) -> list[str]:
        """Every concept's name, `random` last."""
        found = {path.stem for folder in (self._shipped, self._user) for path in folder.glob("*.toml")}
        return [*sorted(name for name in found if _NAME.fullmatch(name) and name not in NOT_CONCEPTS), RANDOM]

    def get(self, name: str) -> Concept:
        """The concept called `name`.

        Raises:
            UnknownName: when there is none; the nearest is suggested.
            ConceptError: when its file cannot be read.
        """
        if name == RANDOM:
            return Concept(
                RANDOM, "control", "a random direction: what any push of this size does", (), source="shipped"
            )
        for folder, source in ((self._user, "user"), (self._shipped, "shipped")):
            path = folder / f"{name}.toml"
            if _NAME.fullmatch(name) and name not in NOT_CONCEPTS and path.is_file():
                return replace(read_concept(path), source=source, path=path)
        raise unknown("concept", name, self.names(), "/concept lists them")

    def concepts(self) -> list[Concept]:
        return [self.get(name) for name in self.names()]

    def recommended(self, name: str, fingerprint: str) -> tuple[str, float, bool]:
        """(layers, strength, tuned): what to use for a concept on a model; `tuned` False says it is a guess."""
        tuning = self.get(name).tuning(fingerprint)
        if tuning is None:
            return DEFAULT_LAYERS, DEFAULT_STRENGTH, False
        return tuning.layers, tuning.strength, True

    def vector(self, name: str, engine: Engine, report: Report = lambda event: None, seed: int = 0) -> ConceptVector:
        """A concept's vector for a model, extracted with progress when there is none.

        Args:
            name: a concept, or `random`, whose direction follows from `seed`.
            engine: the model.
            report: told of progress.
            seed: for `random`.
        """
        from .vectors import ConceptVector, random_vector

        if name == RANDOM:
            return random_vector(seed, engine.n_layers, engine.hidden, engine.fingerprint)
        concept = self.get(name)
        key = (engine.fingerprint, concept.digest)
        if key not in self._vectors:
            for path in (self._shipped / f"{name}.safetensors", self.cached(concept, engine.fingerprint)):
                if path.is_file():
                    vector = ConceptVector.load(path)
                    if (vector.fingerprint, vector.report.get("examples")) == key:
                        self._vectors[key] = vector
                        return vector
            self._vectors[key] = self._extract(concept, engine, report)
        return self._vectors[key]

    def profile(self, engine: Engine, report: Report = lambda event: None) -> Profile:
        """What is typical of a model's residual stream; measured once, then kept by its fingerprint."""
        from .profile import load_profile, measure_profile

        if engine.fingerprint not in self._profiles:
            corpus = self._shipped / "neutral.jsonl"
            kept = self._folder(engine.fingerprint) / "profile.safetensors"
            for path in (self._shipped / "profile.safetensors", kept):
                found = load_profile(path, engine.fingerprint, corpus) if path.is_file() else None
                if found is not None:
                    break
            else:
                found = measure_profile(engine, corpus, report)
                found.save(kept)
            self._profiles[engine.fingerprint] = found
        return self._profiles[engine.fingerprint]

    def cached(self, concept: Concept, fingerprint: str) -> Path:
        """Where the vector of a concept for a model is kept."""
        return self._folder(fingerprint) / f"{concept.name}-{concept.digest}.safetensors"

    def _folder(self, fingerprint: str) -> Path:
        return self._cache / hashlib.sha256(fingerprint.encode()).hexdigest()[:16]

    def _extract(self, concept: Concept, engine: Engine, report: Report) -> ConceptVector:
        from .extract import extract

        vector = extract(engine, concept, report=report)
        vector.save(self.cached(concept, engine.fingerprint))
        return vector

    def check_name(self, name: str) -> str:
        """`name` in small letters, if a concept may have it.

        Raises:
            ConceptError: when it may not.
        """
        lowered = name.strip().lower()
        if not _NAME.fullmatch(lowered):
            raise ConceptError(
                f"{shorten(name, 40)!r} cannot name a concept", "a letter, then letters, digits, - or _, at most 40"
            )
        if lowered in self._reserved or lowered in NOT_CONCEPTS:
            raise ConceptError(f"{lowered} is a word of the commands", "choose another name")
        return lowered


# Files beside the concepts that are not concepts.
NOT_CONCEPTS = frozenset({"prompts", "lexicons"})


def read_concept(path: Path) -> Concept:
    """Read a concept's TOML.

    Raises:
        ConceptError: naming the file and what is wrong with it.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConceptError(f"{path.name} cannot be read: {error}", "mend the file, or delete the concept") from None
    try:
        return Concept(
            name=path.stem,
            kind=_text(data, "kind", "custom"),
            description=_text(data, "description", ""),
            examples=check_examples([_example(entry) for entry in data.get("examples", [])]),
            tuned=tuple(
                Tuning(str(t["fingerprint"]), str(t["layers"]), float(t["strength"])) for t in data.get("tuned", [])
            ),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConceptError(f"{path.name}: {error} is missing or of the wrong type", "see vectors/happy.toml") from None
    except ConceptError as error:
        raise ConceptError(f"{path.name}: {error.message}", error.hint) from None


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


def _example(entry: dict[str, Any]) -> Example:
    return Example(
        _text(entry, "prompt", ""),
        _text(entry, "positive"),
        _text(entry, "negative"),
        bool(entry.get("held_out", False)),
    )


def _text(data: dict[str, Any], key: str, default: str | None = None) -> str:
    value = data[key] if default is None else data.get(key, default)
    if not isinstance(value, str):
        raise TypeError(key)
    return value
