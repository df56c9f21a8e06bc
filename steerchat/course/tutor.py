"""The course in a chat: the running lesson, its steps on the screen, and the judging of lines and answers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..conversation.chat import Chat
from ..slash.registry import is_command
from ..system import folders
from ..values.errors import UsageError, unknown
from ..values.page import Heading, Table
from ..values.results import Notice
from .facts import STATE_FACTS, state_facts
from .files import course_folder, filled, trouble
from .lesson import Course, Lesson, LessonError, Step, Track, read_course
from .progress import Progress, StepRecord

if TYPE_CHECKING:
    from .demonstration import Shown
    from .lab import Lab

VERBS = ("next", "back", "hint", "solution", "skip", "quit")
"""Methods of the tutor. While a lesson runs, a learner may type them without /lesson before."""

_LONG = 50  # characters of a line that is tedious to type
_NUMBER = re.compile(r"(?:answer )?([0-9]{1,3})")
_NOTHING = "Measured on this model, none of these answers holds, so there is nothing to show here."


class Tutor:
    """A learner's way through a course."""

    def __init__(self, chat: Chat, course: Course, progress: Progress) -> None:
        self._chat = chat
        self.course = course
        self.progress = progress
        self.lesson: Lesson | None = None
        self._hints = 0
        self._revealed = False  # whether the measurements of the step are on the screen
        self._lab: Lab | None = None
        self._shown: dict[tuple[str, ...], Shown] = {}
        self.measured: dict[str, float] = {}  # by the last demonstration

    # Where the learner is

    @property
    def teaches(self) -> bool:
        return self.lesson is not None

    def running(self) -> Lesson:
        """Raises UsageError when no lesson runs."""
        if self.lesson is None:
            raise UsageError("no lesson is running", "/lesson 1 begins the first, /lesson lists all")
        return self.lesson

    def step(self) -> Step:
        """The learner's step; if it is gone from the text, the first step that is not done."""
        lesson = self.running()
        at = self.progress.at.get(lesson.name)
        left = (step for step in lesson.steps if not self.progress.record(lesson.name, step.id).state)
        return next((step for step in lesson.steps if step.id == at), None) or next(left, lesson.steps[-1])

    def listing(self) -> list[object]:
        """The lessons of the chosen track, or all of them, with the progress."""
        rows = []
        for lesson in self._among():
            number = self.course.number(lesson)
            done, total = self.progress.done(lesson), len(lesson.steps)
            state = "done" if done == total else f"{done} of {total}" if done else ""
            rows.append((str(number), lesson.name, lesson.title, f"{lesson.minutes} min", state))
        parts: list[object] = [Table(("", "name", "lesson", "takes", "steps"), rows, frozenset({0, 3}))]
        if (track := self._track()) is not None:
            others = len(self.course.lessons) - len(rows)
            left = f" {others} more lessons are not on it; /lesson track shows the tracks." if others else ""
            parts.append(Notice(f"Track {track.name}: {track.about}{left}"))
        parts += [Notice(f"Left out: {problem}") for problem in self.course.broken]
        if self.lesson is not None:
            parts.append(Notice(f"You are in {self.lesson.name}; /lesson {self.lesson.name} shows the step again."))
        elif (follows := self._follows(None)) is not None:
            number = self.course.number(follows)
            begun = self.progress.done(follows) or follows.name in self.progress.at
            verb = "goes on" if begun else "begins"
            parts.append(Notice(f"/lesson {number} {verb}. You can chat as usual during a lesson."))
        return parts

    # The verbs

    def start(self, name: str) -> list[object]:
        self.lesson = self.course.find(name)
        lesson = self.lesson
        head = f"Lesson {self.course.number(lesson)}: {lesson.title} ({lesson.minutes} min). {lesson.about}"
        keys = Notice(
            "Enter goes on. Type hint, solution, skip, back or quit when you want one. You can chat as usual, too."
        )
        if self.progress.done(lesson) == len(lesson.steps):
            self.progress.at.pop(lesson.name, None)
            finished = Notice("You finished this lesson; here is its first step again.")
            return [head, finished, keys, *self._go(lesson.steps[0])]
        return [head, keys, *self._go(self.step())]

    def next(self) -> list[object]:
        """Goes on to the next step."""
        step, record = self.step(), self._record()
        if step.has_task and not record.state:
            return [
                Notice(f"This step waits for {self._waits(step)}. Type hint for help, or skip to go on without it.")
            ]
        if not record.state:
            self._record().close("passed")
        return self._onward()

    def back(self) -> list[object]:
        """Shows the previous step."""
        steps = self.running().steps
        index = steps.index(self.step())
        return self._go(steps[max(0, index - 1)])

    def skip(self) -> list[object]:
        """Skips the step."""
        if not self._record().state:
            self._record().close("skipped" if self.step().has_task else "passed")
        return self._onward()

    def hint(self) -> list[object]:
        """Gives a hint, and another one at each call."""
        step = self.step()
        if not step.hints:
            return [Notice("This step asks for nothing. Enter goes on.")]
        record = self._record()
        shown = step.hints[min(self._hints, len(step.hints) - 1)]
        self._hints += 1
        record.hints = max(record.hints, min(self._hints, len(step.hints)))
        self._save()
        left = len(step.hints) - self._hints
        more = f"{left} more: type hint again." if left > 0 else "That was the last one; type solution for the rest."
        return [f"Hint: {self._filled(shown)}", Notice(more)]

    def solution(self) -> list[object]:
        """Shows the solution of the step."""
        step = self.step()
        if not step.has_task:
            return [Notice("This step asks for nothing. Enter goes on.")]
        self._record().hints = len(step.hints)
        self._save()
        if step.do:
            self._chat.editing = self._filled(step.do[0])
            where = "Type (it is on your line already)" if self._chat.can_ask else "Type"
            return [f"{where}:\n" + "\n".join(f"    {self._filled(line)}" for line in step.do)]
        parts = self._reveal(step)
        right = self.right()
        if not right:
            return [*parts, f"{_NOTHING} Type skip."]
        return [*parts, f"{right[0]} is right. {step.choices[right[0] - 1].because}", Notice(f"Type {right[0]}.")]

    def right(self) -> list[int]:
        """The numbers of the answers that hold on the model at hand, to the question of the step."""
        step = self.step()
        facts = self._show(step).facts
        return [number for number, choice in enumerate(step.choices, start=1) if choice.holds(facts)]

    def answer(self, number: int) -> list[object]:
        """Judges an answer to the question of the step, by measurements if the choice has conditions."""
        step, record = self.step(), self._record()
        if not step.question:
            waits = f"it waits for {self._waits(step)}" if step.do else "Enter goes on"
            raise UsageError("this step asks no question", waits)
        if not 1 <= number <= len(step.choices):
            raise UsageError(f"there is no answer {number}", f"type {step.numbers}")
        chosen = step.choices[number - 1]
        parts, right = self._reveal(step), self.right()
        facts = self._show(step).facts
        if record.open:
            record.tries += 1
            record.answer = record.answer or chosen.text
        if number in right:
            return [*parts, *self._pass(step, f"Right. {chosen.because}", facts)]
        if not right:
            return [*parts, *self._pass(step, _NOTHING, facts, "nothing")]
        self._save()
        return [*parts, f"No. {chosen.because}", Notice("Try another, or type hint.")]

    def quit(self) -> list[object]:
        """Leaves the lesson; the progress stays."""
        lesson = self.running()
        self.lesson = None
        return [f"Left {lesson.name}; /lesson {lesson.name} goes on where you were."]

    def reset(self, name: str) -> list[object]:
        lesson = self.course.find(name) if name else self.running()
        self.progress.reset(lesson.name)
        if self.lesson == lesson:
            self.lesson = None
        return [f"{lesson.name} starts from the beginning; its progress is deleted."]

    def track(self, name: str) -> list[object]:
        tracks = {track.name: track for track in self.course.tracks}
        if name:
            if name not in tracks:
                raise unknown("track", name, tracks, "/lesson track lists them")
            self.progress.track = name
            self._save()
            return self.listing()
        rows = []
        for track in self.course.tracks:
            numbers = [str(self.course.number(self.course.find(lesson))) for lesson in track.lessons]
            rows.append((track.name, track.about, " ".join(numbers)))
        return [Table(("track", "what it is", "lessons"), rows), Notice("/lesson track NAME chooses one.")]

    def meant(self, line: str) -> str:
        """The full line for a short one: an empty line goes on, a number answers the question of the step."""
        word = " ".join(line.lower().split())
        if not word:
            return "/lesson next"
        if word in VERBS:
            return f"/lesson {word}"
        if number := _NUMBER.fullmatch(word):
            return f"/lesson answer {number[1]}"
        step = self.step()
        # The line that the step waits for, without its slash, would go to the model as a message.
        if step.do and is_command(step.do[-1]) and self._chat.registry.same_command(f"/{word}", step.do[-1]):
            return f"/{line.strip()}"
        return line

    def after_line(self, line: str) -> list[object] | None:
        """Judges a line that ran without an error, if the step waits for such a line; else None."""
        if self.lesson is None:
            return None
        step = self.step()
        if not step.do or not self._record().open or not self._chat.registry.same_command(line, step.do[-1]):
            return None
        record = self._record()
        record.tries += 1
        facts = state_facts(self._chat)
        failed = next(((goal, why) for goal, why in step.goals if not goal.holds(facts) and goal.fact in facts), None)
        missing = [goal for goal, _ in step.goals if goal.fact in STATE_FACTS and not goal.holds(facts)]
        parts: list[object] = []
        if failed is None and not missing:
            shown = self._show(step, fresh=True)
            facts, parts = {**facts, **shown.facts}, list(shown.parts)
            failed = next(((goal, why) for goal, why in step.goals if not goal.holds(facts)), None)
        if failed is not None:
            goal, why = failed
            self._save()
            measured = f"{goal.fact} is {facts.get(goal.fact, 0.0):.2f}"
            if (other := goal.facts[1:]) and other[0] in facts:
                measured += f", {other[0]} is {facts[other[0]]:.2f}"
            parts.append(f"Not yet: {self._filled(why)} ({measured}).")
            if goal.fact in self.measured and line.split() == self._filled(step.do[-1]).split():
                parts.append("That was the lesson's own line, so on this model there may be nothing to show here.")
            return [*parts, Notice("Type hint for help, or skip to go on without it.")]
        record.answer = line
        return [*parts, *self._pass(step, "Done.", facts)]

    def facts(self) -> dict[str, float]:
        """Facts for `/expect`: the state of the chat, the last measurement, and the place in the lesson."""
        place = {"lesson": 0.0, "step": 0.0, "passed": 0.0}
        if self.lesson is not None:
            place = {
                "lesson": self.course.number(self.lesson),
                "step": self.lesson.steps.index(self.step()) + 1,
                "passed": float(self._record().state == "passed"),
            }
        return state_facts(self._chat) | self.measured | place

    # Within

    def _record(self) -> StepRecord:
        return self.progress.record(self.running().name, self.step().id)

    def _save(self) -> None:
        engine = self._chat.loader.ready
        if engine is not None:
            self.progress.model = engine.name
        try:
            self.progress.save()
        except LessonError as error:
            self._chat.report(Notice(f"{error.message}; {error.hint}."))

    def _pass(self, step: Step, verdict: str, facts: Mapping[str, float], state: str = "passed") -> list[object]:
        if self._record().open:
            self._record().close(state)
            wanted = step.facts | self._show(step).facts.keys()
            self._record().facts = {
                name: round(value, 4) for name, value in facts.items() if name in wanted and math.isfinite(value)
            }
            self._save()
        return [verdict, *([self._filled(step.after)] if step.after else []), self._more(step)]

    def _waits(self, step: Step) -> str:
        if step.question:
            return f"an answer, {step.numbers}"
        return "a line that does what it asks" if step.aim else f"a line such as {self._filled(step.do[-1])}"

    def _more(self, step: Step) -> Notice:
        return Notice("Enter ends the lesson." if step == self.running().steps[-1] else "Enter goes on.")

    def _track(self) -> Track | None:
        return next((track for track in self.course.tracks if track.name == self.progress.track), None)

    def _among(self) -> list[Lesson]:
        """The lessons of the chosen track, or all."""
        track = self._track()
        return [lesson for lesson in self.course.lessons if track is None or lesson.name in track.lessons]

    def _follows(self, lesson: Lesson | None) -> Lesson | None:
        """The next lesson on the track that is not finished; the first such lesson when `lesson` is None."""
        start = 0 if lesson is None else self.course.number(lesson)
        unfinished = (other for other in self._among() if self.progress.done(other) < len(other.steps))
        return next((other for other in unfinished if self.course.number(other) > start), None)

    def _onward(self) -> list[object]:
        lesson, step = self.running(), self.step()
        index = lesson.steps.index(step)
        if index + 1 < len(lesson.steps):
            return self._go(lesson.steps[index + 1])
        self.lesson = None
        self.progress.at.pop(lesson.name, None)
        self._save()
        skipped = [step.title for step in lesson.steps if self.progress.record(lesson.name, step.id).state == "skipped"]
        parts: list[object] = [f"That was lesson {self.course.number(lesson)}, {lesson.name}."]
        if skipped:
            parts.append(Notice(f"Skipped: {', '.join(skipped)}."))
        follows = self._follows(lesson)
        onward = f"Next is /lesson {self.course.number(follows)}, {follows.name}." if follows else ""
        return [*parts, Notice(onward or "/lesson report FILE writes down what you did.")]

    def _go(self, step: Step) -> list[object]:
        lesson = self.running()
        self.progress.at[lesson.name] = step.id
        self._hints, self._revealed = 0, False
        self._save()
        parts: list[object] = [Heading(f"[{lesson.steps.index(step) + 1}/{len(lesson.steps)}] {step.title}")]
        behind = not self._record().open
        texts = [self._filled(step.text)] if step.text else []
        if step.question:
            choices = [f"    {n}  {self._filled(choice.text)}" for n, choice in enumerate(step.choices, start=1)]
            parts.append("\n\n".join([*texts, "\n".join([self._filled(step.question), *choices])]))
            parts.append(Notice(f"Type {step.numbers}{' again, or Enter goes on' if behind else ''}."))
        elif step.do:
            lines = "\n".join(["Type:", *(f"    {self._filled(line)}" for line in step.do)])
            parts.append("\n\n".join([*texts, self._filled(step.aim) or lines]))
            if len(max(step.do, key=len)) > _LONG and not step.aim and not behind:
                parts.append(Notice("Type solution to have it on your line."))
            parts += [Notice("You did this step; Enter goes on.")] if behind else []
        else:
            parts += [*texts, *self._show(step).parts, self._more(step)]
        return parts

    def _reveal(self, step: Step) -> list[object]:
        """The parts of a question's demonstration, unless they are on the screen already."""
        parts = [] if self._revealed else list(self._show(step).parts)
        self._revealed = True
        return parts

    def _show(self, step: Step, fresh: bool = False) -> Shown:
        """The demonstration of a step; measured once, unless `fresh` or on another model."""
        from .demonstration import Shown, demonstrations

        if not step.show:
            return Shown([])
        if step.show[0] == "trouble":
            return Shown([trouble(self.course.folder)])
        if fresh or step.show not in self._shown:
            session, engine = self._chat.session, self._chat.session.engine
            if self._lab is None or self._lab.engine is not engine:
                from .lab import Lab

                self._lab = Lab(session)
                self._shown.clear()
            name, *words = step.show
            known = demonstrations()
            if name not in known:
                raise unknown("demonstration", name, known, "tutorials/README.md lists them")
            self._shown[step.show] = known[name].show(self._lab, *words)
        self.measured = dict(self._shown[step.show].facts)
        return self._shown[step.show]

    def _filled(self, text: str) -> str:
        return filled(text, self.course.folder, lambda: self._chat.session.engine)


def tutor(chat: Chat) -> Tutor:
    """The chat's tutor, made on first use."""
    if chat.tutor is None:
        course = read_course(course_folder(chat.settings.lessons))
        chat.tutor = Tutor(chat, course, Progress(folders.data_dir() / "lessons.json"))
    assert isinstance(chat.tutor, Tutor)
    return chat.tutor
