"""The course in a chat: which lesson runs, what is shown, and what is judged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from .. import folders
from ..chat import Chat
from ..errors import SteerchatError, UsageError, unknown
from ..lessons import Course, Lesson, LessonError, Progress, Step, read_course
from ..recipe import UNIT
from ..registry import Registry, is_command
from ..results import Notice, divergence
from ..session import Session
from ..text import Table

if TYPE_CHECKING:
    from ..demonstrations import Shown
    from ..lab import Lab

_NAMED = re.compile(r"`(/[a-z][^`]*)`")
STATE_FACTS = frozenset(
    {"terms", "strength", "layers", "depth", "on", "own", "turns", "ablates"}
    | {"pair-same", "pair-effect", "pair-cost", "pair-tokens"}
)


class Tutor:
    """A learner's way through a course.

    Args:
        chat: the chat that the lessons run in.
        course: the lessons.
        progress: what was done so far.
    """

    def __init__(self, chat: Chat, course: Course, progress: Progress) -> None:
        self._chat = chat
        self.course = course
        self.progress = progress
        self.lesson: Lesson | None = None
        self._hints = 0
        self._lab: Lab | None = None
        self._shown: dict[tuple[str, ...], Shown] = {}
        self.measured: dict[str, float] = {}  # by the last demonstration

    # Where the learner is

    def running(self) -> Lesson:
        """Raises UsageError when no lesson runs."""
        if self.lesson is None:
            raise UsageError("no lesson is running", "/lesson 1 begins the first, /lesson lists all")
        return self.lesson

    def step(self) -> Step:
        """The step at which the learner is; the first that is not done when that one is gone from the text."""
        lesson = self.running()
        at = self.progress.at.get(lesson.name)
        open_steps = (one for one in lesson.steps if not self.progress.record(lesson.name, one.id).state)
        by_id = {one.id: one for one in lesson.steps}
        return by_id.get(at or "") or next(open_steps, lesson.steps[-1])

    def listing(self) -> list[object]:
        """Every lesson with its progress."""
        chosen = next((track for track in self.course.tracks if track.name == self.progress.track), None)
        rows, dim = [], set()
        for number, lesson in enumerate(self.course.lessons, start=1):
            done, total = self.progress.done(lesson), len(lesson.steps)
            state = "done" if done == total else f"{done} of {total}" if done else ""
            rows.append((str(number), lesson.name, lesson.title, f"{lesson.minutes} min", state))
            if chosen and lesson.name not in chosen.lessons:
                dim.add(number - 1)
        parts: list[object] = [
            Table(("", "name", "lesson", "takes", "steps done"), rows, frozenset({0, 3}), frozenset(dim))
        ]
        if chosen:
            parts.append(Notice(f"Track {chosen.name}: {chosen.about} The others are dim."))
        parts += [Notice(f"Left out: {problem}") for problem in self.course.broken]
        if self.lesson is not None:
            parts.append(Notice(f"You are in {self.lesson.name}; /lesson {self.lesson.name} shows the step again."))
        else:
            parts.append(Notice("/lesson 1 begins; within a lesson, the chat works as ever."))
        return parts

    # The verbs

    def start(self, name: str) -> list[object]:
        self.lesson = self.course.find(name)
        self._chat.companion = self
        self._hints = 0
        lesson = self.lesson
        number = self.course.number(lesson)
        if self.progress.done(lesson) == len(lesson.steps):
            self.progress.at.pop(lesson.name, None)
            head = f"Lesson {number}: {lesson.title}. You finished it; here is its first step again."
            return [head, *self._go(lesson.steps[0])]
        return [f"Lesson {number}: {lesson.title} ({lesson.minutes} min). {lesson.about}", *self._go(self.step())]

    def next(self) -> list[object]:
        """Goes on, when the step asks for nothing or has what it asked for."""
        step, record = self.step(), self._record()
        if step.has_task and not record.state:
            what = (
                "answer it with /answer and a number"
                if step.question
                else f"type a line such as its own: {_line(step)}"
            )
            return [Notice(f"This step waits for you: {what}. /lesson hint helps, /lesson skip goes on without.")]
        if not record.state:
            record.state = "passed"
        return self._onward()

    def back(self) -> list[object]:
        steps = self.running().steps
        index = steps.index(self.step())
        return self._go(steps[max(0, index - 1)])

    def skip(self) -> list[object]:
        record = self._record()
        record.state = record.state or "skipped"
        return self._onward()

    def hint(self) -> list[object]:
        step = self.step()
        if not step.hints:
            return [Notice("This step asks for nothing; /lesson next goes on.")]
        record = self._record()
        shown = step.hints[min(self._hints, len(step.hints) - 1)]
        self._hints += 1
        record.hints = max(record.hints, min(self._hints, len(step.hints)))
        self._save()
        left = len(step.hints) - self._hints
        more = f"{left} more: /lesson hint" if left > 0 else "no more hints: /lesson solution"
        return [f"Hint: {self._fill(shown)}", Notice(more)]

    def solution(self) -> list[object]:
        step = self.step()
        if not step.has_task:
            return [Notice("This step asks for nothing; /lesson next goes on.")]
        self._record().hints = len(step.hints)
        self._save()
        if step.do:
            self._chat.editing = self._fill(step.do[0])
            return ["Type (it is on your line already):\n" + "\n".join(f"    {self._fill(line)}" for line in step.do)]
        facts = self._show(step).facts
        right = [str(n) for n, one in enumerate(step.choices, start=1) if one.holds(facts)]
        if not right:
            return ["Measured on this model, none of the answers holds. /lesson skip goes on."]
        return [f"/answer {right[0]}: {step.choices[int(right[0]) - 1].because}"]

    def answer(self, number: int) -> list[object]:
        """Judges an answer to the question of the step, by what is measured now where it says so."""
        step, record = self.step(), self._record()
        if not step.question:
            raise UsageError("this step asks no question", f"it waits for {_line(step)}" if step.do else "/lesson next")
        if not 1 <= number <= len(step.choices):
            raise UsageError(f"there is no answer {number}", f"/answer 1 to /answer {len(step.choices)}")
        chosen = step.choices[number - 1]
        shown = self._show(step)
        parts: list[object] = list(shown.parts) if not record.tries else []
        record.tries += 1
        record.answer = record.answer or chosen.text
        if chosen.holds(shown.facts):
            return [*parts, *self._pass(step, f"Right. {chosen.because}", shown.facts)]
        if not any(one.holds(shown.facts) for one in step.choices):
            none = "Measured on this model, none of these answers holds, so there is nothing to show here."
            return [*parts, *self._pass(step, none, shown.facts)]
        self._save()
        return [*parts, f"No. {chosen.because}", Notice("Try another, or /lesson hint.")]

    def quit(self) -> list[object]:
        lesson = self.running()
        self.lesson, self._chat.companion = None, None
        return [f"Left {lesson.name}; /lesson {lesson.name} goes on where you were."]

    def reset(self, name: str) -> list[object]:
        lesson = self.course.find(name) if name else self.running()
        self.progress.reset(lesson.name)
        if self.lesson == lesson:
            self.lesson, self._chat.companion = None, None
        return [f"{lesson.name} is as if never begun."]

    def track(self, name: str) -> list[object]:
        tracks = {track.name: track for track in self.course.tracks}
        if name:
            if name not in tracks:
                raise unknown("track", name, tracks, "/lesson track lists them")
            self.progress.track = name
            self._save()
            return self.listing()
        rows = [
            (track.name, track.about, " ".join(str(self.course.number(self.course.find(one))) for one in track.lessons))
            for track in self.course.tracks
        ]
        return [Table(("track", "what it is", "lessons"), rows), Notice("/lesson track NAME chooses one.")]

    def report(self, path: Path) -> list[object]:
        """Writes what a student hands in, as Markdown."""
        lines = [f"# steerchat lessons, {date.today().isoformat()}", ""]
        if self.progress.model:
            lines += [f"Model: {self.progress.model}", ""]
        for number, lesson in enumerate(self.course.lessons, start=1):
            done = self.progress.done(lesson)
            if not done:
                continue
            lines += [f"## {number}. {lesson.title}: {done} of {len(lesson.steps)} steps", ""]
            for step in lesson.steps:
                record = self.progress.record(lesson.name, step.id)
                lines.append(f"- {step.title}: {record.state or 'open'}{_details(record)}")
            lines.append("")
        try:
            path.write_text("\n".join(lines), encoding="utf-8")
        except OSError as error:
            raise LessonError(f"{path} cannot be written: {error.strerror or error}") from None
        return [f"Written to {path}."]

    def after_line(self, line: str) -> list[object] | None:
        """Judges a line that worked, when it is what the step waits for; None when it is not."""
        if self.lesson is None:
            return None
        step = self.step()
        if not step.do or self._record().state or not same_command(self._chat.registry, line, step.do[-1]):
            return None
        record = self._record()
        record.tries += 1
        facts = state_facts(self._chat.session, self._chat.library.names(), self._owns)
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
            return [
                *parts,
                f"Not yet: {self._fill(why)} ({measured})",
                Notice("/lesson hint helps, /lesson skip goes on."),
            ]
        record.answer = line
        return [*parts, *self._pass(step, "Done.", facts)]

    def facts(self) -> dict[str, float]:
        """What can be expected of a chat: its state, what was measured last, and where the lesson is."""
        found = state_facts(self._chat.session, self._chat.library.names(), self._owns) | self.measured
        if self.lesson is None:
            return found | {"lesson": 0, "step": 0, "passed": 0}
        place = {
            "lesson": self.course.number(self.lesson),
            "step": self.lesson.steps.index(self.step()) + 1,
            "passed": float(self._record().state == "passed"),
        }
        return found | place

    # Within

    def _owns(self, name: str) -> bool:
        return self._chat.library.owns(name)

    def _record(self):
        return self.progress.record(self.running().name, self.step().id)

    def _save(self) -> None:
        engine = self._chat.loader.ready
        if engine is not None:
            self.progress.model = engine.name
        try:
            self.progress.save()
        except LessonError as error:
            self._chat.report(Notice(f"{error.message}; {error.hint}."))

    def _pass(self, step: Step, said: str, facts: Mapping[str, float]) -> list[object]:
        record = self._record()
        record.state = "passed"
        wanted = step.facts
        record.facts = {name: round(value, 4) for name, value in facts.items() if name in wanted}
        self._save()
        steps = self.running().steps
        last = step == steps[-1]
        more = "/lesson next ends the lesson" if last else "/lesson next goes on"
        return [said, *([self._fill(step.after)] if step.after else []), Notice(f"{more}.")]

    def _onward(self) -> list[object]:
        lesson, step = self.running(), self.step()
        index = lesson.steps.index(step)
        if index + 1 < len(lesson.steps):
            return self._go(lesson.steps[index + 1])
        self.lesson, self._chat.companion = None, None
        self.progress.at.pop(lesson.name, None)
        self._save()
        skipped = [one.title for one in lesson.steps if self.progress.record(lesson.name, one.id).state == "skipped"]
        parts: list[object] = [f"That was lesson {self.course.number(lesson)}, {lesson.name}."]
        if skipped:
            parts.append(Notice(f"Skipped: {', '.join(skipped)}."))
        number = self.course.number(lesson)
        if number < len(self.course.lessons):
            parts.append(Notice(f"Next is /lesson {number + 1}, {self.course.lessons[number].name}."))
        return parts

    def _go(self, step: Step) -> list[object]:
        lesson = self.running()
        self.progress.at[lesson.name] = step.id
        self._hints = 0
        self._save()
        parts: list[object] = [f"[{lesson.steps.index(step) + 1}/{len(lesson.steps)}] {step.title}"]
        if step.text:
            parts.append(self._fill(step.text))
        if step.question:
            parts.append(self._fill(step.question))
            parts.append("\n".join(f"    {n}  {self._fill(one.text)}" for n, one in enumerate(step.choices, start=1)))
            parts.append(Notice("/answer 1, or 2, ..."))
        elif step.do:
            parts.append("Type:\n" + "\n".join(f"    {self._fill(line)}" for line in step.do))
        else:
            parts += self._show(step).parts
            parts.append(Notice("/lesson next goes on."))
        return parts

    def _show(self, step: Step, fresh: bool = False) -> Shown:
        """What a step's demonstration finds; measured once, unless the chat has changed."""
        from ..demonstrations import Shown, run

        if not step.show:
            return Shown([])
        if step.show[0] == "trouble":
            return Shown([trouble(self.course.folder)])
        if fresh or step.show not in self._shown:
            session, engine = self._chat.session, self._chat.session.engine
            if self._lab is None or self._lab.engine is not engine:
                from ..lab import Lab

                self._lab = Lab(engine, self._chat.library, session.report, session.stop.is_set)
                self._shown.clear()
            self._shown[step.show] = run(step.show[0], self._lab, session, step.show[1:])
        self.measured = dict(self._shown[step.show].facts)
        return self._shown[step.show]

    def _fill(self, text: str) -> str:
        """The text with what it says about the model and the folder at hand."""
        text = text.replace("{unit}", f"{UNIT:.1%}").replace("{folder}", self.course.folder.as_posix())
        if any(mark in text for mark in ("{model}", "{layers}", "{last}")):
            engine = self._chat.session.engine
            for mark, value in (("model", engine.name), ("layers", engine.n_layers), ("last", engine.n_layers - 1)):
                text = text.replace(f"{{{mark}}}", str(value))
        return text


def tutor(chat: Chat) -> Tutor:
    """The chat's tutor, made on first use."""
    if chat.tutor is None:
        course = read_course(course_folder(chat.settings.lessons))
        chat.tutor = Tutor(chat, course, Progress(folders.data_dir() / "lessons.json"))
    return chat.tutor


def course_folder(own: str) -> Path:
    """The folder of the lessons: one's own, or the one that ships."""
    return folders.packaged("tutorials") if own == "shipped" else Path(own).expanduser()


def same_command(registry: Registry, line: str, wanted: str) -> bool:
    """Whether a typed line calls what a step waits for; any message does where it waits for a message."""
    if not is_command(wanted):
        return not is_command(line)
    if not is_command(line):
        return False
    try:
        return registry.split(line)[0].name == registry.split(wanted)[0].name
    except SteerchatError:
        return False


def state_facts(session: Session, names: list[str], owns) -> dict[str, float]:
    """What the chat is set to and what its last pair was, as a lesson's goals may ask; every concept's own strength."""
    recipe = session.recipe
    facts = dict.fromkeys(names, 0.0)
    for term in recipe.terms:
        for name, weight in term.parts:
            facts[name] = facts.get(name, 0.0) + weight * term.strength
    layers = sorted({layer for term in recipe.terms for layer in term.layers})
    facts |= {
        "terms": len(recipe.terms),
        "strength": sum(abs(term.strength) for term in recipe.terms),
        "layers": len(layers),
        "on": float(recipe.active),
        "turns": len(session.turns),
        "own": float(any(owns(name) for name in recipe.concepts)),
        "ablates": sum(term.operation == "ablate" for term in recipe.terms),
    }
    if layers:
        facts["depth"] = 100 * (layers[0] + layers[-1]) / 2 / max(1, session.engine.n_layers - 1)
    pair = session.last
    if pair is not None and pair.steered is not None:
        facts["pair-same"] = float(divergence(pair.normal.token_ids, pair.steered.token_ids) is None)
        facts["pair-tokens"] = pair.steered.tokens
        if pair.effect is not None:
            facts["pair-effect"] = pair.effect
        if pair.perplexity_ratio is not None:
            facts["pair-cost"] = pair.perplexity_ratio
    return facts


def check(course: Course, registry: Registry, concepts: list[str]) -> list[str]:
    """What is wrong with a course, a sentence each, with file and line."""
    from ..demonstrations import ALL

    problems = list(course.broken)
    for lesson in course.lessons:
        for step in lesson.steps:
            where = f"{lesson.path.name}, line {step.line}"
            for line in step.do:
                if not is_command(line):
                    continue
                try:
                    registry.parse(line.replace("{folder}", course.folder.as_posix()))
                except SteerchatError as error:
                    problems.append(f"{where}: {line}: {error.message}")
            for named in _NAMED.findall(f"{step.text}\n{step.after}"):
                try:
                    registry.split(named)
                except SteerchatError as error:
                    problems.append(f"{where}: {named}: {error.message}")
            known = set(concepts) | (STATE_FACTS if step.do else set())
            if step.show and step.show[0] != "trouble":
                if step.show[0] not in ALL:
                    problems.append(f"{where}: there is no demonstration {step.show[0]}")
                    continue
                known |= ALL[step.show[0]].facts
            for fact in sorted(step.facts - known):
                problems.append(f"{where}: nothing measures {fact}")
    return problems


def trouble(folder: Path) -> str:
    """What to try when something does not work: one text for lesson 12 and for /help trouble."""
    from ..lessons import paragraphs

    path = folder / "trouble.txt"
    path = path if path.is_file() else folders.packaged("tutorials") / "trouble.txt"
    return paragraphs(text_of(path).splitlines())


def text_of(path: Path) -> str:
    """A file beside the lessons. Raises LessonError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LessonError(f"{path} cannot be read: {error}", "install steerchat again") from None


def _line(step: Step) -> str:
    return step.do[-1]


def _details(record) -> str:
    found = []
    if record.answer:
        found.append(f"answer: {json.dumps(record.answer, ensure_ascii=False)}")
    if record.tries > 1:
        found.append(f"{record.tries} tries")
    if record.hints:
        found.append(f"{record.hints} hints")
    if record.facts:
        found.append(", ".join(f"{name} {value:g}" for name, value in record.facts.items()))
    return f" ({'; '.join(found)})" if found else ""
