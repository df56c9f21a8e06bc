"""A lesson replayed from its own solutions, as a test and as a demonstration."""

from __future__ import annotations

from collections.abc import Iterator

from .lesson import Course, Lesson
from .tutor import Tutor


def in_folder(line: str, course: Course) -> str:
    """A line of a lesson with the course's folder where it names it."""
    return line.replace("{folder}", course.folder.as_posix())


def replay(tutor: Tutor, lesson: Lesson) -> Iterator[str]:
    """The chat lines of a learner who gives each wrong answer first and then does as the lesson says.

    Each wrong one is followed by an `/expect` that it did not pass, each right one by one that it did. What is right
    is measured on the model at hand, so the lines come as the lesson goes on: run each before the next is asked for.
    """
    yield f"/lesson {lesson.name}"
    for step in lesson.steps:
        for line in step.wrong:
            yield in_folder(line, tutor.course)
            yield "/expect passed == 0"
        for line in step.do:
            yield in_folder(line, tutor.course)
        if step.question:
            right = tutor.right()
            for number in range(1, len(step.choices) + 1):
                if number not in right:
                    yield f"/lesson answer {number}"
                    yield "/expect passed == 0"
            for number in right[:1]:
                yield f"/lesson answer {number}"
        if step.has_task:
            yield "/expect passed == 1"
        yield "/lesson skip"
