"""A learner's progress in one small file.

A record belongs to a lesson's name and a step's heading, so that it survives changes of other steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

from ..system.folders import write_whole
from ..system.untrusted import read_json
from ..values.errors import SteerchatError
from .lesson import Lesson, LessonError


@dataclass
class StepRecord:
    """What a learner did at a step."""

    # `passed`, `skipped`, or `nothing` when there was nothing to show on the model; empty while it is open.
    state: str = ""
    tries: int = 0  # answers or lines that were checked
    hints: int = 0  # how many were asked for; the solution counts as all of them
    answer: str = ""  # the first one, or the line that passed
    facts: dict[str, float] = field(default_factory=dict)  # what was measured when it passed
    when: str = ""  # the day on which it passed or was skipped, as 2026-01-31

    def close(self, state: str) -> None:
        """The step ends today."""
        self.state, self.when = state, date.today().isoformat()

    @property
    def open(self) -> bool:
        """Whether the learner can still do the step, as with a skipped one."""
        return self.state in ("", "skipped")


class Progress:
    """What a learner did, kept in one JSON file and written at every step.

    `path`: the file; one that is broken is moved aside and begun anew. None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.track = ""
        self.model = ""
        self.at: dict[str, str] = {}  # lesson: the step where its learner is
        self._records: dict[str, dict[str, StepRecord]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def record(self, lesson: str, step: str) -> StepRecord:
        return self._records.setdefault(lesson, {}).setdefault(step, StepRecord())

    def done(self, lesson: Lesson) -> int:
        """How many of its steps the learner passed or skipped."""
        records = self._records.get(lesson.name, {})
        return sum(step.id in records and bool(records[step.id].state) for step in lesson.steps)

    def reset(self, lesson: str) -> None:
        self._records.pop(lesson, None)
        self.at.pop(lesson, None)
        self.save()

    def save(self) -> None:
        """Raises LessonError when it cannot be written."""
        if self._path is None:
            return
        data = {
            "track": self.track,
            "model": self.model,
            "at": self.at,
            "lessons": {
                name: {step: vars(record) for step, record in steps.items()} for name, steps in self._records.items()
            },
        }
        try:
            write_whole(self._path, json.dumps(data, indent=1, ensure_ascii=False).encode())
        except (SteerchatError, ValueError) as error:
            raise LessonError(f"progress cannot be kept: {error}", "the lesson goes on all the same") from None

    def _read(self, path: Path) -> None:
        try:
            data = read_json(path)
            records = {
                name: {step: _record(kept) for step, kept in steps.items()} for name, steps in data["lessons"].items()
            }
            self.track, self.model, self.at = str(data["track"]), str(data["model"]), dict(data["at"])
            self._records = records
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            with suppress(OSError):  # where nothing can be written, the course starts afresh all the same
                path.replace(path.with_suffix(".broken"))


def _record(kept: Mapping[str, Any]) -> StepRecord:
    """A record without the fields that only a later version knows: they must not cost a learner their progress."""
    known = {field.name for field in fields(StepRecord)}
    return StepRecord(**{name: value for name, value in kept.items() if name in known})
