"""The files of a course: where they are, what is wrong with them, and a lesson replayed as its learner would do it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import folders
from ..errors import SteerchatError
from ..lessons import MOST, Course, Lesson, LessonError, Step, paragraphs
from ..registry import Registry, is_command
from ..untrusted import parse_toml, read_small
from .facts import STATE_FACTS

if TYPE_CHECKING:
    from .course import Tutor

_NAMED = re.compile(r"`(/[a-z][^`]*)`")
_PICTURE = 76  # characters of a line that keeps its blanks, so that a terminal of 80 shows it whole


def course_folder(own: str) -> Path:
    """The folder of the lessons: one's own, or the one that ships."""
    return folders.packaged("tutorials") if own == "shipped" else Path(own).expanduser()


def trouble(folder: Path) -> str:
    """What to try when something does not work: one text for lesson 12 and for /help trouble."""
    path = folder / "trouble.txt"
    path = path if path.is_file() else folders.packaged("tutorials") / "trouble.txt"
    return paragraphs(text_of(path).splitlines())


def text_of(path: Path) -> str:
    """A file beside the lessons. Raises LessonError when it cannot be read."""
    try:
        return read_small(path, MOST)
    except (OSError, UnicodeDecodeError) as error:
        raise LessonError(f"{path} cannot be read: {error}", "install steerchat again") from None


def glossary(folder: Path) -> dict[str, str]:
    """The words of this field with what they mean; a folder's own ones beside those that ship.

    Raises:
        LessonError: with the file, when one cannot be read.
    """
    found: dict[str, str] = {}
    for path in dict.fromkeys((folders.packaged("tutorials") / "glossary.toml", folder / "glossary.toml")):
        if not path.is_file() and found:
            continue
        try:
            found |= {str(word): str(meaning) for word, meaning in parse_toml(text_of(path)).items()}
        except ValueError as error:
            raise LessonError(f"{path.name}: {error}", "a word, =, and what it means in quotation marks") from None
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def check(course: Course, registry: Registry, concepts: Sequence[str]) -> list[str]:
    """What is wrong with a course, a sentence each, with file and line.

    Args:
        course: its lessons are looked at, none is run.
        registry: the commands that may be typed.
        concepts: the names that may be steered, beside those that the lessons make.
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
            found = [*_lines(step, registry, course, known), *_measures(step, known)]
            problems += [f"{lesson.path.name}, line {step.line}: {one}" for one in found]
    return problems


def _lines(step: Step, registry: Registry, course: Course, concepts: set[str]) -> Iterator[str]:
    """What is wrong with the lines that a step has typed, and with those that its text names."""
    for line in filter(is_command, (*step.do, *step.wrong)):
        try:
            bound = registry.parse(in_folder(line, course))
        except SteerchatError as error:
            yield f"{line}: {error.message}"
            continue
        steered = str(bound.kwargs.get("concept") or "") if bound.command.name.startswith("steer") else ""
        named = [part.partition(":")[0] for part in steered.split(",")] if steered else []
        yield from (f"{line}: no concept called {one!r}" for one in named if one not in concepts)
    for line in (*step.text.splitlines(), *step.after.splitlines()):
        if line.startswith("    ") and len(line) > _PICTURE:
            yield f"a picture is {len(line)} characters wide; {_PICTURE} fit"
    said = "\n".join((step.text, step.after, *step.hints, *(one.because for one in step.choices)))
    for named in _NAMED.findall(said):
        try:
            registry.split(named)
        except SteerchatError as error:
            yield f"{named}: {error.message}"


def _measures(step: Step, concepts: set[str]) -> Iterator[str]:
    """What is wrong with a step's demonstration, and the facts that nothing gives."""
    from ..demonstrations import ALL

    known = concepts | (STATE_FACTS if step.do else set())
    if step.show and step.show != ("trouble",):
        name, *words = step.show
        if name not in ALL:
            yield f"there is no demonstration {name}; there are {', '.join(ALL)}"
            return
        try:
            inspect.signature(ALL[name].show).bind(None, None, *words)
        except TypeError as error:
            yield f"show = {' '.join(step.show)!r}: {error}"
        known |= ALL[name].facts
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
