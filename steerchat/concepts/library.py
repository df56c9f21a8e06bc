"""Concepts on disk: shipped ones, the user's own, and their vectors for each model.

A concept is a readable TOML with its examples. Its vector belongs to one model and one set of examples: it
is found by the model's fingerprint and the examples' hash, and extracted again when there is none. An imported
concept has no examples: its one vector lies beside its TOML, for the one model that it was imported on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.folders import write_whole
from ..system.untrusted import MAX_HEADER, claimed_header, parse_json
from ..values.errors import ConceptError, shorten, unknown
from ..values.recipe import RANDOM
from ..values.results import Notice, Progress
from .concept import Concept, check_examples
from .files import concept_toml, read_concept

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from .vector import ConceptVector

Report = Callable[[Notice | Progress], None]

RESERVED = frozenset({RANDOM, "all"})
# Where concepts may steer on a model for which they were never tuned: on the default one they do best a little later.
DEFAULT_LAYERS = "48%-76%"
DEFAULT_STRENGTH = 2.0
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class Library:
    """Every concept there is.

    Args:
        shipped: the folder that comes with steerchat; only read.
        user: the user's own concepts, which shadow shipped ones of the same name.
        cache: where vectors for other models are kept.
        reserved: names that no concept may have.
    """

    def __init__(self, shipped: Path, user: Path, cache: Path, reserved: Collection[str] = ()) -> None:
        self.shipped = shipped
        self._user = user
        self._cache = cache
        self._reserved = RESERVED | set(reserved)
        self._vectors: dict[tuple[str, str, str], ConceptVector] = {}

    def names(self) -> list[str]:
        """Every concept's name, `random` last."""
        found = {path.stem for folder in (self.shipped, self._user) for path in folder.glob("*.toml")}
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
        for folder, source in ((self._user, "user"), (self.shipped, "shipped")):
            path = folder / f"{name}.toml"
            if _NAME.fullmatch(name) and name not in NOT_CONCEPTS and path.is_file():
                return replace(read_concept(path), source=source, path=path)
        raise unknown("concept", name, self.names(), "/concept lists them")

    def concepts(self) -> list[Concept]:
        return [self.get(name) for name in self.names()]

    def ships(self, name: str) -> bool:
        """Whether a concept of this name comes with steerchat, shadowed or not."""
        return name not in NOT_CONCEPTS and (self.shipped / f"{name}.toml").is_file()

    def recommended(self, name: str, fingerprint: str) -> tuple[str, float, bool]:
        """(layers, strength, tuned): what to use for a concept on a model; `tuned` False says it is a guess."""
        tuning = self.get(name).tuning(fingerprint)
        if tuning is None:
            return DEFAULT_LAYERS, DEFAULT_STRENGTH, False
        if tuning.strength is None:
            return tuning.layers, DEFAULT_STRENGTH, False
        return tuning.layers, tuning.strength, True

    def measured(self, name: str, fingerprint: str) -> dict[str, Any] | None:
        """What `/concept evaluate` found of a shipped concept at its setting on a model, if that ships too."""
        if self.get(name).source != "shipped" or not self.recommended(name, fingerprint)[2]:
            return None
        path = self.shipped / "measured" / "evaluation.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        rows = {row["concept"]: row for row in map(json.loads, lines)}
        found = rows.get(name)
        setting = self.recommended(name, fingerprint)[:2]
        return found if found and (found["layers"], found["strength"]) == setting else None

    def vector(
        self,
        name: str,
        engine: Engine,
        report: Report = lambda event: None,
        seed: int = 0,
        stopped: Callable[[], bool] = lambda: False,
    ) -> ConceptVector:
        """A concept's vector for a model, extracted with progress when there is none.

        Args:
            name: a concept, or `random`, whose direction follows from `seed`.
            engine: the model.
            report: told of progress.
            seed: for `random`.
            stopped: asked while it is extracted.

        Raises:
            UnknownName: for a concept that does not exist.
            ConceptError: when its files are broken, or it was imported for another model.
            Interrupted: when `stopped` said so.
        """
        from .vector import random_vector

        if name == RANDOM:
            return random_vector(seed, engine.n_layers, engine.hidden, engine.fingerprint)
        concept = self.get(name)
        vector = self.stored(concept, engine.fingerprint)
        if vector is not None:
            if (vector.n_layers, vector.hidden) != (engine.n_layers, engine.hidden):
                raise ConceptError(
                    f"the vector of {name} has {vector.n_layers} layers of {vector.hidden}, "
                    f"and {engine.name} {engine.n_layers} of {engine.hidden}",
                    f"/concept delete {name}, then import or make it again",
                )
            return vector
        vector = self._extract(concept, engine, report, stopped)
        vector.save(self.cached(concept, engine.fingerprint))
        self._vectors[name, engine.fingerprint, concept.digest] = vector
        return vector

    def stored(self, concept: Concept, fingerprint: str) -> ConceptVector | None:
        """A concept's vector for a model if it is there already; nothing is extracted.

        Raises:
            ConceptError: when its file is broken.
        """
        from .vector import ConceptVector

        key = (concept.name, fingerprint, concept.digest)
        if key not in self._vectors:
            path = self.vector_file(concept, fingerprint)
            if path is None:
                return None
            self._vectors[key] = ConceptVector.load(path)
        return self._vectors[key]

    def vector_file(self, concept: Concept, fingerprint: str) -> Path | None:
        """Where a concept's vector for a model lies, if it is there; needs no torch."""
        cached = self.cached(concept, fingerprint)
        for path in (self._beside(concept.name), self.shipped / f"{concept.name}.safetensors", cached):
            if not path.is_file() or (concept.method == "imported" and path != self._beside(concept.name)):
                continue
            model, report = read_header(path)
            if (model, report.get("examples")) == (fingerprint, concept.digest):
                return path
        return None

    def cached(self, concept: Concept, fingerprint: str) -> Path:
        """Where the vector of a concept for a model is kept."""
        return self.folder(fingerprint) / f"{concept.name}-{concept.digest}.safetensors"

    def folder(self, fingerprint: str) -> Path:
        """Where what was measured on a model is kept."""
        return self._cache / hashlib.sha256(fingerprint.encode()).hexdigest()[:16]

    def _beside(self, name: str) -> Path:
        """Where the vector of a user's concept lies, beside its TOML."""
        return self._user / f"{name}.safetensors"

    def _extract(
        self, concept: Concept, engine: Engine, report: Report, stopped: Callable[[], bool] = lambda: False
    ) -> ConceptVector:
        from .extract import extract

        if concept.method == "imported":
            raise ConceptError(
                f"{concept.name} was imported for another model, and has no examples to extract it from",
                "/model brings that model back; or import a vector that was read from this one",
            )
        return extract(engine, concept, concept.method, report, stopped)

    # The user's own

    def add(
        self,
        concept: Concept,
        engine: Engine,
        report: Report = lambda event: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> ConceptVector:
        """Extract a concept and keep it, TOML and vector; when extracting fails, nothing is changed.

        Raises:
            ConceptError: for a name it may not have, or examples that give no direction.
            Interrupted: when `stopped` said so.
        """
        concept = replace(concept, name=self.check_name(concept.name), examples=check_examples(concept.examples))
        vector = self._extract(concept, engine, report, stopped)
        self.save(concept, vector)
        return vector

    def save(self, concept: Concept, vector: ConceptVector | None = None) -> Path:
        """Keep a concept among the user's own, in place of one of that name. Returns its TOML.

        Args:
            concept: its name is checked.
            vector: lies beside it from then on; without, one that lies there stays.

        Raises:
            ConceptError: for a name that it may not have, or when it cannot be written.
        """
        name = self.check_name(concept.name)
        path = self._user / f"{name}.toml"
        text = concept_toml(replace(concept, name=name))
        try:
            # The vector first: one without its TOML is found by nobody, and a TOML without its vector extracts it.
            if vector is not None:
                vector.save(self._beside(name))
            write_whole(path, text)
        except OSError as error:
            raise ConceptError(f"{path} cannot be written: {error.strerror or error}", "is there room?") from None
        self.forget(name)
        return path

    def keep_import(self, concept: Concept, vector: ConceptVector) -> None:
        """Keep a concept without examples, with the one vector that it has. Raises as `save`."""
        report = {**vector.report, "examples": concept.digest, "warnings": []}
        self.save(concept, replace(vector, report=report))

    def owns(self, name: str) -> bool:
        """Whether the user has a concept of this name, in order or not."""
        return _NAME.fullmatch(name) is not None and (self._user / f"{name}.toml").is_file()

    def check_deletable(self, name: str) -> None:
        """Raises UnknownName for a concept that does not exist, ConceptError for one that only ships."""
        if not self.owns(name):
            self.get(name)
            raise ConceptError(f"{name} comes with steerchat and stays", "delete is for concepts of your own")

    def own_copy(self, name: str) -> tuple[Path, bool]:
        """The user's TOML of a concept, and whether it was made just now from the one that ships.

        Raises:
            UnknownName: for a concept that does not exist.
            ConceptError: for one that has no file, or when it cannot be written.
        """
        path = self._user / f"{name}.toml"
        if self.owns(name):
            return path, False
        shipped = self.get(name).path
        if shipped is None:
            raise ConceptError(f"{name} is made anew for every seed; it has no file", "/concept new NAME makes one")
        try:
            write_whole(path, shipped.read_bytes())
        except OSError as error:
            raise ConceptError(f"{path} cannot be written: {error.strerror or error}", "is there room?") from None
        return path, True

    def delete(self, name: str) -> bool:
        """Delete a concept of the user's. Returns whether a shipped one of that name is back.

        Raises:
            UnknownName: for a concept that does not exist.
            ConceptError: for one that only ships with steerchat.
        """
        self.check_deletable(name)
        path = self._user / f"{name}.toml"
        digest = None
        with suppress(ConceptError):  # a broken one can go too
            digest = read_concept(path).digest
        ships = self.ships(name)
        try:
            path.unlink()
            self._beside(name).unlink(missing_ok=True)
            for cached in self._cache.glob(f"*/{name}-{digest}.safetensors"):
                cached.unlink(missing_ok=True)
        except OSError as error:
            raise ConceptError(f"{path} cannot be deleted: {error.strerror or error}", "check its rights") from None
        self.forget(name)
        return ships

    def forget(self, name: str) -> None:
        """Read a concept's files again on next use."""
        for key in [key for key in self._vectors if key[0] == name]:
            del self._vectors[key]

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


# Files that lay beside the shipped concepts in earlier versions: a copy in the user's folder is not a concept.
NOT_CONCEPTS = frozenset({"prompts", "lexicons"})


def read_header(path: Path) -> tuple[str, dict[str, Any]]:
    """(fingerprint, report) of a vector's file, read without torch; both empty when it is no vector of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        if claimed_header(path) > MAX_HEADER:
            return "", {}
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        report = parse_json(metadata.get("report", "{}"))
        return metadata.get("fingerprint", ""), report if isinstance(report, dict) else {}
    except (OSError, SafetensorError, ValueError):
        return "", {}
