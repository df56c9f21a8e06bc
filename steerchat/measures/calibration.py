"""What is typical of a model, measured once and kept by its fingerprint: its residual stream and its chance band."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..concepts.library import Library
from ..system.folders import write_whole
from ..values.errors import SteerchatError
from ..values.results import UNWATCHED, Notice, Watch
from .chance import Chance, load_chance
from .format_cost import FORMAT_COST, FormatCost, load_format_cost

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from .profile import Profile

CHANCE = "chance.json"


class Calibration:
    """The measurements of models. `library`: its folders hold the shipped measurements and the ones made here."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._profiles: dict[str, Profile] = {}
        self._chances: dict[str, Chance | None] = {}

    def profile(self, engine: Engine, watch: Watch = UNWATCHED) -> Profile:
        """What is typical of a model's residual stream; measured once, then kept by its fingerprint.

        Raises Interrupted when the watch stops the measuring.
        """
        from .profile import load_profile, measure_profile

        if engine.fingerprint not in self._profiles:
            corpus = self._library.neutral
            kept = self._library.folder(engine.fingerprint) / "profile.safetensors"
            for path in (self._library.shipped / "measured" / "profile.safetensors", kept):
                profile = load_profile(path, engine.fingerprint, corpus) if path.is_file() else None
                if profile is not None:
                    break
            else:
                profile = measure_profile(engine, corpus, watch)
                try:
                    profile.save(kept)
                except SteerchatError as error:
                    watch.report(Notice(f"{error.message}, so the model is measured again at the next start"))
            self._profiles[engine.fingerprint] = profile
        return self._profiles[engine.fingerprint]

    def chance(self, fingerprint: str) -> Chance | None:
        """The effects of meaningless pushes on a model, if they were measured; needs no torch."""
        if fingerprint not in self._chances:
            paths = (self._library.folder(fingerprint) / CHANCE, self._library.shipped / "measured" / CHANCE)
            self._chances[fingerprint] = next(filter(None, (load_chance(path, fingerprint) for path in paths)), None)
        return self._chances[fingerprint]

    def format_cost(self, fingerprint: str, dtype: str) -> FormatCost | None:
        """What a format costs a model, if it was measured; needs no torch."""
        return load_format_cost(self._library.folder(fingerprint) / FORMAT_COST, dtype)

    def keep_format_cost(self, fingerprint: str, cost: FormatCost) -> None:
        """Store what a format costs a model. Raises SteerchatError when it cannot be written."""
        path = self._library.folder(fingerprint) / FORMAT_COST
        write_whole(path, (json.dumps(cost.to_json(), indent=1) + "\n").encode())

    def keep_chance(self, chance: Chance) -> Path:
        """Store a measured chance band; it takes the place of the shipped one. Returns the file.

        Raises SteerchatError when it cannot be written; it counts until the end of this start all the same.
        """
        self._chances[chance.fingerprint] = chance
        path = self._library.folder(chance.fingerprint) / CHANCE
        write_whole(path, (json.dumps(chance.to_json(), indent=1) + "\n").encode())
        return path
