"""Concepts on disk: shipped ones, the user's own, and their vectors for each model.

A concept is a readable TOML file with examples. Its vector belongs to one model and one set of examples: the library
finds it by the model's fingerprint and the examples' hash, and extracts it when there is none. An imported concept has
no examples: its only vector lies beside its TOML, for the model that it was imported on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.folders import write_whole
from ..values.errors import ConceptError, SteerchatError, shorten, unknown
from ..values.recipe import RANDOM
from ..values.results import UNWATCHED, Notice, Watch
from .concept import Concept, Source, check_examples
from .files import concept_toml, read_concept, read_header

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from .reference import Reference
    from .vector import ConceptVector

RESERVED = frozenset({RANDOM, "all"})
# The layers for a concept that was never tuned on the model. On the default model, slightly later layers do best.
DEFAULT_LAYERS = "48%-76%"
DEFAULT_STRENGTH = 2.0
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
# Other files that lay beside the shipped concepts in earlier versions: a user's copy of one is not a concept.
_NOT_CONCEPTS = frozenset({"prompts", "lexicons"})


class Library:
    """All concepts.

    Args:
        shipped: the folder of the concepts that ship; read only.
        user: the folder of the user's own concepts, which hide shipped ones of the same name.
        cache: the folder for vectors that were extracted on other models.
        reserved: names that no concept may have.

    Attributes:
        neutral: the file of prompts with ordinary replies, on which models are measured.
    """

    def __init__(self, shipped: Path, user: Path, cache: Path, reserved: Collection[str] = ()) -> None:
        self.shipped = shipped
        self.neutral = shipped / "texts" / "neutral.jsonl"
        self._user = user
        self._cache = cache
        self._reserved = RESERVED | set(reserved)
        self._vectors: dict[tuple[str, str, str], ConceptVector] = {}
        self._references: dict[tuple[str, str], Reference] = {}
        self._files: dict[Path, tuple[tuple[int, int, int], Concept]] = {}

    def names(self) -> list[str]:
        """The names of all concepts, `random` last."""
        files = (path for folder in (self.shipped, self._user) for path in folder.glob("*.toml"))
        names = {path.stem for path in files if path.is_file()}
        return [*sorted(filter(_is_name, names)), RANDOM]

    def get(self, name: str) -> Concept:
        """The concept called `name`.

        Raises UnknownName when there is none; the error suggests the nearest name; ConceptError when its file cannot be
        read.
        """
        if name == RANDOM:
            description = "a random direction: shows the effect of any push of this size"
            return Concept(RANDOM, "control", description, (), source="shipped")
        places: tuple[tuple[Path, Source], ...] = ((self._user, "user"), (self.shipped, "shipped"))
        for folder, source in places:
            path = folder / f"{name}.toml"
            if _is_name(name) and path.is_file():
                return self._read(path, source)
        raise unknown("concept", name, self.names(), "/concept lists them")

    def _read(self, path: Path, source: Source) -> Concept:
        """The concept in a file, which is parsed again only when it changed."""
        status = path.stat()
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
        if path not in self._files or self._files[path][0] != state:
            self._files[path] = state, replace(read_concept(path), source=source, path=path)
        return self._files[path][1]

    def ships(self, name: str) -> bool:
        """Whether a concept of this name ships with steerchat, hidden or not."""
        return _is_name(name) and (self.shipped / f"{name}.toml").is_file()

    def recommended(self, name: str, fingerprint: str) -> tuple[str, float, bool]:
        """(layers, strength, tuned): a concept's setting on a model; the default strength when `tuned` is False."""
        tuning = self.get(name).tuning(fingerprint)
        if tuning is None:
            return DEFAULT_LAYERS, DEFAULT_STRENGTH, False
        if tuning.strength is None:
            return tuning.layers, DEFAULT_STRENGTH, False
        return tuning.layers, tuning.strength, True

    def measured(self, name: str, fingerprint: str) -> dict[str, Any] | None:
        """The shipped row of `/concept evaluate` for a shipped concept at its setting on a model, if there is one."""
        layers, strength, tuned = self.recommended(name, fingerprint)
        path = self.shipped / "measured" / "evaluation.jsonl"
        if self.get(name).source != "shipped" or not tuned or not path.is_file():
            return None
        rows = {row["concept"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
        row = rows.get(name)
        return row if row and (row["layers"], row["strength"]) == (layers, strength) else None

    def vector(self, name: str, engine: Engine, watch: Watch = UNWATCHED, seed: int = 0) -> ConceptVector:
        """A concept's vector for a model, extracted when there is none.

        The direction of `random` follows from `seed`.

        Raises:
            UnknownName: for a concept that does not exist.
            ConceptError: when its files are broken, or it was imported for another model.
            Interrupted: when the watch stops the extraction.
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
        vector = self._extract(concept, engine, watch)
        try:
            vector.save(self.cached(concept, engine.fingerprint))
        except SteerchatError as error:
            watch.report(Notice(f"{error.message}, so {name} is extracted again at the next start"))
        self._vectors[name, engine.fingerprint, concept.digest] = vector
        return vector

    def levelled(self, name: str, engine: Engine, watch: Watch = UNWATCHED) -> ConceptVector:
        """`vector`, with the levels that `at_level` needs: a vector from before vectors had them gets them here.

        Raises ConceptError as `vector`, and for a concept without examples.
        """
        from .extract import read_levels
        from .vector import LEVELS, ConceptVector

        vector = self.vector(name, engine, watch)
        if LEVELS[0] in vector.report:
            return vector
        concept = self.get(name)
        if not concept.examples:
            raise ConceptError(f"{name} has no examples to read its levels from", f"/steer {name} needs none")
        kept = self.cached(concept, engine.fingerprint)
        earlier = ConceptVector.load(kept) if kept.is_file() else vector
        if earlier.digest == vector.digest and LEVELS[0] in earlier.report:
            vector = earlier
        else:
            levels = read_levels(engine, concept, vector, watch)
            vector = replace(vector, report={**vector.report, **levels})
            vector.save(kept)
        self._vectors[name, engine.fingerprint, concept.digest] = vector
        return vector

    def reference(self, engine: Engine, watch: Watch = UNWATCHED) -> Reference | None:
        """The mean replies of the shipped tones on a model, for centred concepts; read once, then kept.

        None when nothing that ships is centred.

        Raises ConceptError when a shipped concept is broken, Interrupted when the watch stops it.
        """
        from .extract import read_reference
        from .reference import examples_digest, load_reference, reference_examples

        paths = sorted(path for path in self.shipped.glob("*.toml") if _is_name(path.stem))
        tones = [tone for tone in (self._read(path, "shipped") for path in paths) if tone.method == "centred"]
        if not tones:
            return None
        examples = reference_examples(tones)
        digest = examples_digest(examples)
        key = (engine.fingerprint, digest)
        if key not in self._references:
            kept = self.folder(engine.fingerprint) / f"reference-{digest}.safetensors"
            loaded = (
                load_reference(path, engine.fingerprint, digest)
                for path in (self.shipped / "measured" / "reference.safetensors", kept)
                if path.is_file()
            )
            reference = next(filter(None, loaded), None)
            if reference is None:
                reference = read_reference(engine, examples, watch)
                reference.save(kept)
            self._references[key] = reference
        return self._references[key]

    def stored(self, concept: Concept, fingerprint: str) -> ConceptVector | None:
        """A concept's vector for a model, if it was extracted before. Raises ConceptError when its file is broken."""
        from .vector import ConceptVector

        key = (concept.name, fingerprint, concept.digest)
        if key not in self._vectors:
            path = self.vector_file(concept, fingerprint)
            if path is None:
                return None
            self._vectors[key] = ConceptVector.load(path)
        return self._vectors[key]

    def vector_file(self, concept: Concept, fingerprint: str) -> Path | None:
        """The file of a concept's vector for a model, if there is one; needs no torch."""
        cached = self.cached(concept, fingerprint)
        for path in (self._beside(concept.name), self.shipped / f"{concept.name}.safetensors", cached):
            if not path.is_file() or (concept.method == "imported" and path != self._beside(concept.name)):
                continue
            model, report = read_header(path)
            if (model, report.get("examples")) == (fingerprint, concept.digest):
                return path
        return None

    def cached(self, concept: Concept, fingerprint: str) -> Path:
        """The file into which a concept's vector for a model is extracted."""
        return self.folder(fingerprint) / f"{concept.name}-{concept.digest}.safetensors"

    def folder(self, fingerprint: str) -> Path:
        """The folder of a model's vectors and measurements."""
        return self._cache / hashlib.sha256(fingerprint.encode()).hexdigest()[:16]

    def _beside(self, name: str) -> Path:
        """The file for the vector of a user's concept, beside its TOML."""
        return self._user / f"{name}.safetensors"

    def _extract(self, concept: Concept, engine: Engine, watch: Watch) -> ConceptVector:
        from .extract import extract

        if concept.method == "imported":
            raise ConceptError(
                f"{concept.name} was imported for another model and has no examples to extract it from",
                "switch back with /model, or import a vector of this model",
            )
        reference = self.reference(engine, watch) if concept.method == "centred" else None
        return extract(engine, concept, concept.method, watch, reference)

    # The user's own

    def add(self, concept: Concept, engine: Engine, watch: Watch = UNWATCHED) -> ConceptVector:
        """Extract a concept and keep it, TOML and vector. A failed extraction changes no file.

        Raises ConceptError for a name that it may not have, or examples that give no direction; Interrupted when
        the watch stops it.
        """
        concept = replace(concept, name=self.check_name(concept.name), examples=check_examples(concept.examples))
        vector = self._extract(concept, engine, watch)
        self.save(concept, vector)
        return vector

    def save(self, concept: Concept, vector: ConceptVector | None = None) -> Path:
        """Keep a concept among the user's own, in place of one of the same name. Returns its TOML.

        Args:
            vector: is written beside it; None leaves a vector that lies there.

        Raises:
            ConceptError: for a name that it may not have.
            SteerchatError: when it cannot be written.
        """
        name = self.check_name(concept.name)
        path = self._user / f"{name}.toml"
        text = concept_toml(replace(concept, name=name))
        # The vector first: a vector without a TOML is ignored, and a TOML without a vector is extracted.
        if vector is not None:
            vector.save(self._beside(name))
        write_whole(path, text)
        self.forget(name)
        return path

    def keep_import(self, concept: Concept, vector: ConceptVector) -> None:
        """Keep a concept that has a vector and no examples. Raises as `save`, and as `ConceptVector.checked`."""
        report = {**vector.report, "examples": concept.digest, "warnings": []}
        self.save(concept, replace(vector.checked(), report=report))

    def owns(self, name: str) -> bool:
        """Whether the user has a concept of this name, even one whose file is broken."""
        return _NAME.fullmatch(name) is not None and (self._user / f"{name}.toml").is_file()

    def check_deletable(self, name: str) -> None:
        """Raises UnknownName for a concept that does not exist, ConceptError for a shipped one."""
        if not self.owns(name):
            self.get(name)
            raise ConceptError(f"{name} ships with steerchat and cannot be deleted", "/concept list marks your own")

    def own_copy(self, name: str) -> tuple[Path, bool]:
        """The user's TOML of a concept, and whether this call copied it from the shipped one.

        Raises:
            UnknownName: for a concept that does not exist.
            ConceptError: for `random`, which has no file.
            SteerchatError: when the copy cannot be written.
        """
        path = self._user / f"{name}.toml"
        if self.owns(name):
            return path, False
        shipped = self.get(name).path
        if shipped is None:
            raise ConceptError(f"{name} is drawn from the seed and has no file", "/concept new NAME makes a concept")
        write_whole(path, shipped.read_bytes())
        return path, True

    def delete(self, name: str) -> bool:
        """Delete a concept of the user's. Returns whether a shipped one of the same name comes back.

        Raises UnknownName for a concept that does not exist, ConceptError for a shipped one, or when its file cannot be
        deleted.
        """
        self.check_deletable(name)
        path = self._user / f"{name}.toml"
        digest = None
        with suppress(ConceptError):  # a broken concept can be deleted too
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
        """`name` in lower case, if a concept may have it. Raises ConceptError when it may not."""
        lowered = name.strip().lower()
        if not _NAME.fullmatch(lowered):
            raise ConceptError(
                f"{shorten(name, 40)!r} cannot be a concept's name",
                "use a letter, then letters, digits, - or _, at most 40",
            )
        if lowered in self._reserved or not _is_name(lowered):
            raise ConceptError(f"{lowered} is a word of the commands", "choose another name")
        return lowered


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _NOT_CONCEPTS
