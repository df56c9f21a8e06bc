"""A student's report: every step of the lessons that they began, with their answers and the measurements."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from .._version import __version__
from ..system.folders import write_whole
from .lesson import Lesson, LessonError, Step
from .progress import Progress, StepRecord
from .tutor import Tutor

_STATES = {"passed": "done", "skipped": "skipped", "nothing": "nothing to show on this model", "": "open"}


def write_report(tutor: Tutor, path: Path) -> list[object]:
    """Writes the report as Markdown.

    Raises LessonError when no lesson was begun, SteerchatError when it cannot be written.
    """
    begun = [lesson for lesson in tutor.course.lessons if tutor.progress.done(lesson)]
    if not begun:
        raise LessonError("no lesson was begun, so the report would be empty", "/lesson 1 begins the first")
    write_whole(path, "\n".join(_lines(tutor, begun)).encode())
    return [f"{path} has what you did in {len(begun)} of {len(tutor.course.lessons)} lessons."]


def _lines(tutor: Tutor, begun: list[Lesson]) -> Iterator[str]:
    progress = tutor.progress
    yield from ("# steerchat: what I did in the lessons", "", "Name:", "")
    yield f"Written on {date.today().isoformat()} by steerchat {__version__}" + (
        f"; the figures are of {progress.model}." if progress.model else "."
    )
    yield from ("", "| | Lesson | Steps done | Skipped | Right at once | Hints |", "|--:|---|--:|--:|--:|--:|")
    for lesson in begun:
        records = [(step, progress.record(lesson.name, step.id)) for step in lesson.steps]
        asked = [record for step, record in records if step.question and record.state == "passed"]
        yield (
            f"| {tutor.course.number(lesson)} | {lesson.title} | {progress.done(lesson)} of {len(records)} "
            f"| {sum(record.state == 'skipped' for _, record in records)} "
            f"| {sum(record.tries == 1 for record in asked)} of {len(asked)} "
            f"| {sum(record.hints for _, record in records)} |"
        )
    for lesson in begun:
        yield from ("", f"## {tutor.course.number(lesson)}. {lesson.title}", "")
        for step in lesson.steps:
            yield from _step(step, progress, lesson)
    yield ""


def _step(step: Step, progress: Progress, lesson: Lesson) -> Iterator[str]:
    record = progress.record(lesson.name, step.id)
    yield f"- **{step.title}**: {_STATES.get(record.state, record.state)}" + (f", {record.when}" if record.when else "")
    if step.question and (record.answer or record.state):
        yield f"  - Question: {step.question}"
    if record.answer:
        yield f"  - {_answer(step, record)}"
    if record.facts:
        yield f"  - Measured: {', '.join(f'{name} {value:.3g}' for name, value in record.facts.items())}"
    if record.hints:
        yield f"  - Hints: {record.hints} of {max(record.hints, len(step.hints))}"


def _answer(step: Step, record: StepRecord) -> str:
    tries = f", {record.tries} tries" if record.tries > 1 else ""
    if step.do:
        return f"Typed: `{record.answer}`{tries}"
    verdict = "" if record.state != "passed" else " (right)" if record.tries == 1 else " (wrong at first)"
    return f"First answer: {record.answer}{verdict}{tries}"
