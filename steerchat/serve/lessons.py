"""The lessons as a program reads them: their texts, what to type, and what each answer to a question is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..course.files import course_folder, filled
from ..course.lesson import Course, Lesson, read_course
from ..engine.engine import Engine


class Lessons:
    """The course of a server.

    Args:
        folder: the setting `lessons`.
        engine: the model, whose name and layers the texts name.
    """

    def __init__(self, folder: str, engine: Engine) -> None:
        self._folder = folder
        self._engine = engine
        self._course: Course | None = None

    @property
    def course(self) -> Course:
        """Read on first use, with the files that can be read. Raises LessonError when there are none."""
        if self._course is None:
            self._course = read_course(course_folder(self._folder))
        return self._course

    def listed(self) -> list[dict[str, Any]]:
        """All lessons without their texts."""
        return [self._head(lesson) for lesson in self.course.lessons]

    def whole(self, name: str) -> dict[str, Any]:
        """A lesson with its steps. Raises UnknownName."""
        lesson = self.course.find(name)

        def text(marked: str) -> str:
            # The name of the folder: where it is on this machine is not for clients.
            return filled(marked, Path(self.course.folder.name), lambda: self._engine)

        steps = [
            {
                "title": step.title,
                "text": text(step.text),
                "do": [text(line) for line in step.do],
                "aim": text(step.aim),
                "question": text(step.question),
                "choices": [
                    # What is measured decides about some choices: nobody knows before.
                    {
                        "text": text(choice.text),
                        "right": choice.right if isinstance(choice.right, bool) else None,
                        "because": text(choice.because),
                    }
                    for choice in step.choices
                ],
                "hints": [text(hint) for hint in step.hints],
                "after": text(step.after),
            }
            for step in lesson.steps
        ]
        return self._head(lesson) | {"steps": steps}

    def _head(self, lesson: Lesson) -> dict[str, Any]:
        about = {"name": lesson.name, "title": lesson.title, "about": lesson.about, "minutes": lesson.minutes}
        return {"object": "lesson", "number": self.course.number(lesson), **about}
