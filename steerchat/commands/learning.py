"""/lesson, /answer, /expect and /glossary: the course."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from ..conversation.chat import Chat
from ..course.check import check as check_course
from ..course.facts import state_facts
from ..course.files import course_folder
from ..course.files import glossary as read_glossary
from ..course.lesson import Condition, LessonError
from ..course.report import write_report
from ..course.tutor import VERBS, Tutor, tutor
from ..slash.arguments import Int, PathArg, Rest
from ..slash.registry import registry
from ..values.errors import SteerchatError, UsageError, unknown
from ..values.page import Page, Table

command = partial(registry.command, group="Learning")


@command("lesson", examples=["/lesson", "/lesson 1", "/lesson first-steering"], aliases=["lessons"])
def lesson(
    chat: Chat, name: Annotated[str, Rest("a lesson's number or name", metavar="N or NAME")] = ""
) -> list[object]:
    """Lists the lessons, or starts one; the chat works as usual during a lesson."""
    return tutor(chat).start(name) if name else tutor(chat).listing()


@command("lesson list", examples=["/lesson list"], shell=True, needs_model=False)
def lesson_list(chat: Chat) -> Page:
    """Lists the lessons with your progress."""
    teacher = tutor(chat)
    objects = [
        {"id": item.name, "title": item.title, "steps": len(item.steps), "done": teacher.progress.done(item)}
        for item in teacher.course.lessons
    ]
    return Page(teacher.listing(), objects)


@command("lesson check", examples=["/lesson check"], shell=True, needs_model=False)
def lesson_check(chat: Chat) -> str:
    """Validates the lessons' files: their form, hints, commands and facts."""
    course = tutor(chat).course
    problems = check_course(course, chat.registry, chat.library.names())
    if problems:
        raise LessonError("\n".join(problems), f"correct {len(problems)} in {course.folder}")
    steps = sum(len(lesson.steps) for lesson in course.lessons)
    return f"{len(course.lessons)} lessons with {steps} steps are in order."


def _declare(verb: str) -> None:
    """The command of a verb of the tutor."""
    method = getattr(Tutor, verb)

    def handler(chat: Chat) -> list[object]:
        return method(tutor(chat))

    handler.__doc__ = method.__doc__
    command(f"lesson {verb}", examples=[f"/lesson {verb}"])(handler)


for _verb in VERBS:
    _declare(_verb)


@command("lesson answer", examples=["/lesson answer 2"], aliases=["answer"])
def lesson_answer(chat: Chat, number: Annotated[int, Int("the answer's number", least=1)]) -> list[object]:
    """Answers the question of the step; the claim of the answer is then measured."""
    return tutor(chat).answer(number)


@command("lesson reset", examples=["/lesson reset", "/lesson reset first-steering"])
def lesson_reset(chat: Chat, name: Annotated[str, Rest("a lesson; by default the running one")] = "") -> list[object]:
    """Deletes the progress in a lesson."""
    return tutor(chat).reset(name)


@command("lesson track", examples=["/lesson track", "/lesson track look"])
def lesson_track(chat: Chat, name: Annotated[str, Rest("a track's name")] = "") -> list[object]:
    """Lists the tracks, shorter paths through the course, or chooses one."""
    return tutor(chat).track(name)


@command("lesson report", examples=["/lesson report my-lessons.md"])
def lesson_report(chat: Chat, file: Annotated[Path, PathArg("the file to write")]) -> list[object]:
    """Writes your answers and measurements as Markdown, to hand in."""
    return write_report(tutor(chat), file)


@command("expect", examples=["/expect happy > 0"])
def expect(
    chat: Chat, what: Annotated[str, Rest("a condition, such as pair-cost < 3", metavar="FACT SIGN NUMBER")]
) -> str:
    """Fails unless a fact of the chat or its lesson is as expected; for scripts.

    Facts are: a concept's name (its strength in the recipe), terms, strength, depth, turns, pair-effect, pair-cost,
    pair-same, the last measurement of a lesson, and during a lesson its number (lesson), step, and passed.
    """
    try:
        condition = Condition.parse(what)
    except ValueError as error:
        raise UsageError(str(error), "/expect happy > 0") from None
    facts = chat.tutor.facts() if chat.tutor else state_facts(chat)
    if missing := [fact for fact in condition.facts if fact not in facts]:
        raise UsageError(f"no fact is called {missing[0]}", f"the facts are {', '.join(sorted(facts))}")
    if not condition.holds(facts):
        values = ", ".join(f"{fact} is {facts[fact]:g}" for fact in condition.facts)
        raise SteerchatError(f"expected {what}; {values}")
    return f"As expected: {what}."


@command("glossary", examples=["/glossary", "/glossary activation"])
def glossary(chat: Chat, word: Annotated[str, Rest("a word", metavar="WORD")] = "") -> Table | str:
    """Explains the technical terms."""
    entries = read_glossary(course_folder(chat.settings.lessons))
    if not word:
        return Table(("word", "meaning"), list(entries.items()))
    known = {name.lower(): name for name in entries}
    if word.lower() not in known:
        raise unknown("word", word, known, "/glossary lists them")
    name = known[word.lower()]
    return f"{name}: {entries[name]}"
