"""What teachers run: lessons are checked without a model, and replayed from their own solutions with one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence

from ..slash.registry import Registry, is_command
from ..values.errors import SteerchatError
from .demonstration import demonstrations
from .facts import STATE_FACTS
from .files import glossary
from .lesson import Course, Lesson, LessonError, Step
from .tutor import Tutor

_NAMED = re.compile(r"`(/[a-z][^`]*)`")
_PICTURE = 76  # characters of a line that keeps its blanks, so that a terminal of 80 shows it whole


def check(course: Course, registry: Registry, concepts: Sequence[str]) -> list[str]:
    """The mistakes in a course, a sentence each, with file and line. No lesson is run.

    `concepts`: the names that lessons may steer, beside those that they make.
    """
    problems = list(course.broken)
    try:
        glossary(course.folder)
    except LessonError as error:
        problems.append(error.message)
    made = [name for lesson in course.lessons for step in lesson.steps for name in _made(step, registry, course)]
    known = {*concepts, *made, "random"}
    for lesson in course.lessons:
        for step in lesson.steps:
            wrong = (*_lines(step, registry, course, known), *_measures(step, known))
            problems += [f"{lesson.path.name}, line {step.line}: {problem}" for problem in wrong]
    return problems


def _lines(step: Step, registry: Registry, course: Course, concepts: set[str]) -> Iterator[str]:
    """Mistakes in the lines that a step types, and in those that its text names."""
    for line in filter(is_command, (*step.do, *step.wrong)):
        try:
            bound = registry.parse(in_folder(line, course))
        except SteerchatError as error:
            yield f"{line}: {error.message}"
            continue
        steered = str(bound.kwargs.get("concept") or "") if bound.command.name.startswith("steer") else ""
        named = [part.partition(":")[0] for part in steered.split(",")] if steered else []
        yield from (f"{line}: no concept called {name!r}" for name in named if name not in concepts)
    for line in (*step.text.splitlines(), *step.after.splitlines()):
        if line.startswith("    ") and len(line) > _PICTURE:
            yield f"a picture is {len(line)} characters wide; {_PICTURE} fit"
    texts = (step.text, step.after, *step.hints, *(choice.because for choice in step.choices))
    for line in _NAMED.findall("\n".join(texts)):
        try:
            registry.split(line)
        except SteerchatError as error:
            yield f"{line}: {error.message}"


def _measures(step: Step, concepts: set[str]) -> Iterator[str]:
    """Mistakes in a step's demonstration, and facts that nothing measures."""
    known = concepts | (STATE_FACTS if step.do else set())
    if step.show and step.show != ("trouble",):
        measurements, (name, *words) = demonstrations(), step.show
        if name not in measurements:
            yield f"there is no demonstration {name}; there are {', '.join(measurements)}"
            return
        try:
            inspect.signature(measurements[name].show).bind(None, *words)
        except TypeError as error:
            yield f"show = {' '.join(step.show)!r}: {error}"
        known |= measurements[name].facts
    yield from (f"nothing measures {fact}" for fact in sorted(step.facts - known))


def _made(step: Step, registry: Registry, course: Course) -> Iterator[str]:
    """The concepts that a step has its learner make."""
    for line in filter(is_command, step.do):
        try:
            bound = registry.parse(in_folder(line, course))
        except SteerchatError:
            continue
        if bound.command.name in ("concept new", "concept import"):
            yield str(bound.kwargs.get("name", ""))


def in_folder(line: str, course: Course) -> str:
    """A line of a lesson, with the course's folder in place of `{folder}`."""
    return line.replace("{folder}", course.folder.as_posix())


def replay(tutor: Tutor, lesson: Lesson) -> Iterator[str]:
    """The chat lines of a learner who gives each wrong answer first and then does as the lesson says.

    After each wrong answer, an `/expect` fails if it passed; after each right one, if it did not. Measurements on this
    model say which answer is right, so run each line before you ask for the next.
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
