"""Lessons as files: reads them, and names the line of a mistake.

A lesson is Markdown. It opens with TOML between two lines of `+++`; every `## Heading` begins a step; a step may
hold one block of TOML fenced as ```task, which says what the learner does there. The text after the task is shown
once it is done. `tutorials/README.md` describes the form. Nothing here needs a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..system.untrusted import parse_toml, read_small, read_toml
from ..values.errors import SteerchatError, unknown

MANIFEST = "course.toml"
MOST = 1 << 20  # bytes of a file of text
_HEAD_KEYS = {"title": str, "about": str, "minutes": int}
_TASK_KEYS = {"do", "aim", "wrong", "question", "show", "pass", "hints", "choice"}
_CHOICE_KEYS = {"text", "right", "because"}
# A screen has no italics: the words stand for themselves.
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})(\w[^*]*)\1(?![\w*])")
_CONDITION = re.compile(r"\s*([a-z][a-z0-9_-]*)\s*(<=|>=|==|<|>)\s*(-?\d+(?:\.\d+)?|[a-z][a-z0-9_-]*)\s*")


class LessonError(SteerchatError):
    """A lesson's file is wrong; the message names its line."""


@dataclass(frozen=True)
class Condition:
    """A comparison of one measured fact with a number or another fact, such as `effect > high`."""

    fact: str
    sign: str
    other: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Raises ValueError for anything but FACT SIGN NUMBER or FACT SIGN FACT."""
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a comparison such as effect > high")
        return cls(match[1], match[2], match[3])

    def holds(self, facts: Mapping[str, float]) -> bool:
        """Whether the facts satisfy it. A missing fact is 0, like the strength of a concept that is not steered."""
        left = facts.get(self.fact, 0.0)
        right = float(self.other) if _is_number(self.other) else facts.get(self.other, 0.0)
        signs = {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right, "==": left == right}
        return signs[self.sign]

    @property
    def facts(self) -> tuple[str, ...]:
        return (self.fact,) if _is_number(self.other) else (self.fact, self.other)


@dataclass(frozen=True)
class Choice:
    """One answer to a question."""

    text: str
    right: bool | tuple[Condition, ...]  # True, False, or conditions on the measured facts, all of which must hold
    because: str  # the response to whoever chooses it

    def holds(self, facts: Mapping[str, float]) -> bool:
        return self.right if isinstance(self.right, bool) else all(condition.holds(facts) for condition in self.right)


@dataclass(frozen=True)
class Step:
    """One step of a lesson."""

    id: str  # made from the heading, so that progress survives changes of other steps
    title: str
    text: str  # paragraphs before the task
    after: str = ""  # paragraphs that are shown once the task is done
    do: tuple[str, ...] = ()  # lines for the learner to type; the last one is checked. Empty without such a task.
    aim: str = ""  # shown in place of the lines, for a learner who has to find them
    question: str = ""  # the task is to choose one of `choices`; empty for another task
    choices: tuple[Choice, ...] = ()
    # A demonstration and its arguments. It runs with the text of a step without a task, after the line of a do-step,
    # and after the answer to a question.
    show: tuple[str, ...] = ()
    # Conditions on the last line, each with the advice for a learner who misses it.
    goals: tuple[tuple[Condition, str], ...] = ()
    wrong: tuple[str, ...] = ()  # lines that must not pass; a replay types them first
    hints: tuple[str, ...] = ()  # from gentle to nearly the solution
    line: int = 0  # of the heading in the file

    @property
    def numbers(self) -> str:
        """What to type for an answer, such as `1, 2 or 3`."""
        numbers = [str(number) for number in range(1, len(self.choices) + 1)]
        return " or ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))

    @property
    def has_task(self) -> bool:
        return bool(self.do or self.question)

    @property
    def facts(self) -> set[str]:
        """The facts that its goals and choices compare."""
        rules = [goal for goal, _ in self.goals]
        rules += [rule for choice in self.choices if not isinstance(choice.right, bool) for rule in choice.right]
        return {name for rule in rules for name in rule.facts}


@dataclass(frozen=True)
class Lesson:
    """One lesson, its steps in order."""

    name: str
    title: str
    about: str
    minutes: int
    steps: tuple[Step, ...]
    path: Path


@dataclass(frozen=True)
class Track:
    """A path through some of the lessons."""

    name: str
    about: str
    lessons: tuple[str, ...]


@dataclass(frozen=True)
class Course:
    """A folder of lessons."""

    folder: Path  # of the files
    lessons: tuple[Lesson, ...]  # those that can be read, in the manifest's order
    tracks: tuple[Track, ...]  # shorter paths
    broken: tuple[str, ...]  # a sentence for each file that cannot be read, with the line of the mistake

    def find(self, text: str) -> Lesson:
        """The lesson of a number, counted from 1, a name, or a beginning of a name. Raises UnknownName."""
        word = text.strip().lower().replace(" ", "-")
        if word.isdigit() and 1 <= int(word) <= len(self.lessons):
            return self.lessons[int(word) - 1]
        lessons = {lesson.name: lesson for lesson in self.lessons}
        beginning = [name for name in lessons if word and name.startswith(word)]
        if word in lessons or len(beginning) == 1:
            return lessons[word if word in lessons else beginning[0]]
        raise unknown("lesson", text, lessons, f"/lesson lists all {len(lessons)}")

    def number(self, lesson: Lesson) -> int:
        return self.lessons.index(lesson) + 1


def read_course(folder: Path) -> Course:
    """The lessons of a folder; one that is wrong is left out and named in `broken`.

    Without a manifest, every Markdown file but README.md is a lesson, in the order of their names.

    Raises LessonError when the folder cannot be read.
    """
    broken: list[str] = []
    tracks: list[Track] = []
    try:
        manifest = folder / MANIFEST
        if manifest.is_file():
            data = read_toml(manifest)
            files = [folder / str(name) for name in data["lessons"]]
            for name, track in data.get("tracks", {}).items():
                tracks.append(Track(name, track["about"], tuple(track["lessons"])))
        else:
            files = [path for path in sorted(folder.glob("*.md")) if path.name.lower() != "readme.md"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LessonError(f"{folder / MANIFEST} cannot be read: {error}", "tutorials/README.md describes it") from None
    lessons = []
    for path in files:
        try:
            lessons.append(read_lesson(path))
        except LessonError as error:
            broken.append(error.message)
    files_of: dict[str, list[str]] = {}
    for lesson in lessons:
        files_of.setdefault(lesson.name, []).append(lesson.path.name)
    for name, same in files_of.items():
        if len(same) > 1:
            broken.append(f"{' and '.join(same)}: two lessons are called {name}")
    for track in tracks:
        missing = [name for name in track.lessons if name not in files_of]
        broken += [f"{MANIFEST}: the track {track.name} has no lesson {name}" for name in missing]
    if not lessons and not broken:
        raise LessonError(f"there is no lesson in {folder}", "a lesson is a Markdown file; see tutorials/README.md")
    return Course(folder, tuple(lessons), tuple(tracks), tuple(broken))


def read_lesson(path: Path) -> Lesson:
    """One lesson. Raises LessonError with file and line, for the first thing that is wrong."""
    return _File(path).lesson()


class _File:
    """The lines of a lesson's file. Numbers of lines count from 0, but in messages from 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.lines = read_small(path, MOST).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LessonError(f"{path.name}: cannot be read: {error}") from None

    def lesson(self) -> Lesson:
        bounds = [number for number, line in enumerate(self.lines) if line.strip() == "+++"][:2]
        if len(bounds) < 2 or bounds[0] != 0:
            raise self._wrong(0, "it does not open with TOML between two lines of +++")
        first = bounds[1] + 1
        head = self._toml(1, bounds[1])
        for key in head.keys() - _HEAD_KEYS:
            number = next((n for n, text in enumerate(self.lines) if text.strip().startswith(key)), 0)
            raise self._wrong(number, f"its head has no {key}; it has {', '.join(_HEAD_KEYS)}")
        for key, kind in _HEAD_KEYS.items():
            if not isinstance(head.get(key), kind):
                raise self._wrong(0, f"its head needs {key}, {'a whole number' if kind is int else 'a text'}")
        starts = self._headings(first)
        if not starts:
            raise self._wrong(first - 1, "it has no step: a step begins with ## and a heading")
        for number in range(first, starts[0]):
            if self.lines[number].strip():
                raise self._wrong(number, "text before the first step is never shown; a step begins with ##")
        steps: dict[str, Step] = {}
        for start, end in pairwise([*starts, len(self.lines)]):
            step = self._step(start, end)
            if step.id in steps:
                raise self._wrong(start, f"two steps have the same heading: {step.title}")
            steps[step.id] = step
        name = re.sub(r"^\d+-", "", self.path.stem)
        return Lesson(name, head["title"], head["about"], head["minutes"], tuple(steps.values()), self.path)

    def _headings(self, first: int) -> list[int]:
        starts, fenced = [], False
        for number in range(first, len(self.lines)):
            if self.lines[number].startswith("```"):
                fenced = not fenced
            elif not fenced and self.lines[number].startswith("## "):
                starts.append(number)
        return starts

    def _step(self, start: int, end: int) -> Step:
        title = self.lines[start][3:].strip()
        slug = re.sub(r"[\W_]+", "-", title.lower()).strip("-")
        if not slug:
            raise self._wrong(start, "a heading needs a word")
        fences = [number for number in range(start + 1, end) if self.lines[number].startswith("```")]
        if not fences:
            return Step(slug, title, paragraphs(self.lines[start + 1 : end]), line=start + 1)
        opened, closed = fences[0], fences[1] if len(fences) > 1 else None
        if self.lines[opened].strip() != "```task":
            raise self._wrong(opened, "the only fence is ```task; text that keeps its lines is indented by four blanks")
        if closed is None or self.lines[closed].strip() != "```":
            raise self._wrong(opened, "the task is not closed with ```")
        if len(fences) > 2:
            raise self._wrong(fences[2], "a step has one task")
        try:
            task = _task(self._toml(opened + 1, closed))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._wrong(opened, str(error)) from None
        text, after = paragraphs(self.lines[start + 1 : opened]), paragraphs(self.lines[closed + 1 : end])
        return Step(slug, title, text, after, line=start + 1, **task)

    def _toml(self, start: int, end: int) -> dict[str, Any]:
        try:
            return parse_toml("\n".join(self.lines[start:end]))
        except ValueError as error:
            line = re.search(r"at line (\d+)", str(error))
            number = start + (int(line[1]) - 1 if line else 0)
            raise self._wrong(number, re.sub(r" \(at .*\)", "", str(error))) from None

    def _wrong(self, number: int, what: str) -> LessonError:
        return LessonError(f"{self.path.name}, line {number + 1}: {what}", "tutorials/README.md describes the form")


def _task(task: dict[str, Any]) -> dict[str, Any]:
    """A step's fields from its task. The caller adds the line to a ValueError, TypeError, KeyError, AttributeError."""
    if extra := sorted(set(task) - _TASK_KEYS):
        raise ValueError(f"a task has no {extra[0]}; it has {', '.join(sorted(_TASK_KEYS))}")
    do, wrong, hints = (_texts(task, name) for name in ("do", "wrong", "hints"))
    aim, question, show = (" ".join(_texts(task, name)) for name in ("aim", "question", "show"))
    if (do or question) and not hints:
        raise ValueError("the task has no hints; the first is gentle, the last nearly the solution")
    if not (do or question or show):
        raise ValueError("a task needs do, question or show")
    if do and question:
        raise ValueError("a task has do or question, not both")
    choices = []
    for choice in task.get("choice", ()):
        if set(choice) != _CHOICE_KEYS:
            raise ValueError(f"a choice has {', '.join(sorted(_CHOICE_KEYS))}")
        right = choice["right"]
        if not isinstance(right, bool):
            right = tuple(Condition.parse(part) for part in str(right).split(" and "))
        text, because = (" ".join(_texts(choice, name)) for name in ("text", "because"))
        choices.append(Choice(text, right, because))
    if bool(question) != bool(choices):
        raise ValueError("a question has choices, and choices have a question")
    if question and not any(choice.right for choice in choices):
        raise ValueError("no choice is right")
    goals = tuple((Condition.parse(text), str(why)) for text, why in task.get("pass", {}).items())
    if (goals or wrong or aim) and not do:
        raise ValueError("pass, aim and wrong belong to do")
    return {
        "do": do,
        "aim": aim,
        "question": question,
        "choices": tuple(choices),
        "show": tuple(show.split()),
        "goals": goals,
        "wrong": wrong,
        "hints": hints,
    }


def _texts(task: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A text or a list of texts; empty for a missing name. Raises ValueError for anything else."""
    value = task.get(name, ())
    values = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(text, str) and text.strip() for text in values):
        raise ValueError(f"{name} is a text, or a list of texts, none of them empty")
    return values


def paragraphs(lines: Sequence[str]) -> str:
    """Lines of Markdown as paragraphs of one line each; lists, tables and indented text keep their lines."""
    groups: list[list[str]] = []
    joins = False
    for line in lines:
        kept = line.startswith(("    ", "|", "- "))
        if joins and line.strip() and not kept:
            groups[-1].append(line.strip())
        else:
            groups.append([line.rstrip() if kept else line.strip()])
        joins = bool(line.strip()) and (joins or not kept or line.startswith("- ")) and not line.startswith("    ")
    texts = (" ".join(group) for group in groups)
    return "\n".join(text if text.startswith("    ") else _EMPHASIS.sub(r"\2", text) for text in texts).strip("\n")


def _is_number(text: str) -> bool:
    return text[0].isdigit() or text[0] == "-"
