"""The course: lessons as a learner walks through them, as a teacher writes them, and as CI replays them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from tiny import tiny_folder  # noqa: F401

from steerchat import commands, folders  # noqa: F401
from steerchat.chat import Chat
from steerchat.cli import main
from steerchat.commands.course import course_folder, tutor
from steerchat.config import Settings
from steerchat.lessons import LessonError, Progress, read_course, read_lesson
from steerchat.registry import registry
from steerchat.render import Screen
from steerchat.repl import run_line

Start = Callable[..., tuple[Chat, Screen]]

LESSON = """+++
title = "Pushing"
about = "A first push."
minutes = 5
+++

## Look

A paragraph over
two lines, with *weight*.

    a picture
      of two lines

## Push

Now push.

```task
do = "/steer happy 50% 2.0"
hints = ["a gentle hint", "nearly the solution"]
[pass]
"happy > 1" = "push harder"
```

So that is a push.

## Ask

```task
question = "What is left of a push of strength 0?"
show = "zero happy"
hints = ["look at the table"]

[[choice]]
text = "everything"
right = "same == 0"
because = "There is nothing to add."

[[choice]]
text = "nothing"
right = "same == answers"
because = "Nothing was added."
```
"""


@pytest.fixture
def start(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:  # noqa: F811
    """Starts chats with the tiny model and all that ships, in a home of their own."""
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    chats: list[Chat] = []

    def begin(lessons: Path | str = "shipped", **changes) -> tuple[Chat, Screen]:
        screen = Screen(Console(file=io.StringIO(), width=100, color_system=None))
        settings = Settings(
            **{"model": str(tiny_folder), "device": "cpu", "max_tokens": 4, "lessons": str(lessons), **changes}
        )
        chat = Chat(settings, registry, screen.show).start()
        chats.append(chat)
        return chat, screen

    yield begin
    for chat in chats:
        chat.close()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "lessons"
    folder.mkdir()
    (folder / "pushing.md").write_text(LESSON, encoding="utf-8")
    return folder


def say(chat: Chat, screen: Screen, line: str) -> str:
    """What one line puts on the screen, its line breaks aside."""
    screen.console.file = io.StringIO()
    run_line(chat, screen, line)
    return " ".join(screen.console.file.getvalue().split())


# As a learner


def test_a_lesson_from_its_first_step_to_its_last(start: Start, own: Path):
    chat, screen = start(own)
    assert "pushing Pushing 5 min" in say(chat, screen, "/lesson")
    first = say(chat, screen, "/lesson 1")
    assert "[1/3] Look A paragraph over two lines, with weight." in first and "a picture of two lines" in first
    assert "[2/3] Push" in say(chat, screen, "/lesson next")
    assert "This step waits for you" in say(chat, screen, "/lesson next")
    assert "Not yet: push harder (happy is 0.50)" in say(chat, screen, "/steer happy 50% 0.5")
    assert "So that is a push." in say(chat, screen, "/steer happy 50% 2.0")
    assert "1 everything 2 nothing" in say(chat, screen, "/lesson next")
    wrong = say(chat, screen, "/answer 1")
    assert "5 of 5 steered answers are the normal one" in wrong and "No. There is nothing to add." in wrong
    assert "Right. Nothing was added." in say(chat, screen, "/answer 2")
    assert "That was lesson 1, pushing." in say(chat, screen, "/lesson next")
    assert "done" in say(chat, screen, "/lesson")


def test_hints_come_one_by_one_and_the_solution_last(start: Start, own: Path):
    chat, screen = start(own)
    say(chat, screen, "/lesson pushing")
    say(chat, screen, "/lesson next")
    assert "a gentle hint 1 more" in say(chat, screen, "/lesson hint")
    assert "nearly the solution no more hints" in say(chat, screen, "/lesson hint")
    assert "/steer happy 50% 2.0" in say(chat, screen, "/lesson solution")
    say(chat, screen, "/lesson skip")
    assert "/answer 2: Nothing was added." in say(chat, screen, "/lesson solution")
    assert "there is no answer 3" in say(chat, screen, "/answer 3")
    assert "[2/3] Push" in say(chat, screen, "/lesson back")


def test_the_chat_works_as_ever_during_a_lesson(start: Start, own: Path):
    chat, screen = start(own)
    say(chat, screen, "/lesson 1")
    say(chat, screen, "/lesson next")
    assert "normal" in say(chat, screen, "Well?") and len(chat.session.turns) == 1
    assert "Not yet" not in say(chat, screen, "/steer clear")
    say(chat, screen, "/lesson quit")
    assert "So that is a push." not in say(chat, screen, "/steer happy 50% 2.0")


def test_progress_survives_a_restart_and_an_update_of_the_text(start: Start, own: Path):
    chat, screen = start(own)
    for line in ("/lesson 1", "/lesson next", "/steer happy 50% 2.0", "/lesson next"):
        say(chat, screen, line)
    (own / "pushing.md").write_text(LESSON.replace("## Ask", "## New\n\nMore.\n\n## Ask"), encoding="utf-8")
    chat, screen = start(own)
    assert "2 of 4" in say(chat, screen, "/lesson")
    assert "[4/4] Ask" in say(chat, screen, "/lesson 1")
    say(chat, screen, "/lesson reset")
    assert "[1/4] Look" in say(chat, screen, "/lesson 1")


def test_a_report_has_what_was_answered_and_measured(start: Start, own: Path, tmp_path: Path):
    chat, screen = start(own)
    for line in ("/lesson 1", "/lesson next", "/lesson skip", "/answer 1", "/answer 2"):
        say(chat, screen, line)
    say(chat, screen, f"/lesson report {tmp_path / 'report.md'}")
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- Push: skipped" in report
    assert '- Ask: passed (answer: "everything"; 2 tries; same 5, answers 5)' in report


def test_broken_progress_is_moved_aside(tmp_path: Path):
    path = tmp_path / "lessons.json"
    path.write_text('{"lessons": 3', encoding="utf-8")
    assert Progress(path).at == {}
    assert path.with_suffix(".broken").is_file()


def test_words_are_explained_and_unknown_ones_have_a_nearest(start: Start):
    chat, screen = start()
    assert "activation: The numbers" in say(chat, screen, "/glossary activation")
    assert "did you mean strength?" in say(chat, screen, "/glossary strenght")
    for word in ("embedding", "hook", "residual stream", "layer", "concept vector", "contrast pair", "baseline"):
        assert word in say(chat, screen, "/glossary")
    assert "Out of memory." in say(chat, screen, "/help trouble")


# As a teacher


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('title = "Pushing"\n', "", "line 1: its head needs title"),
        ("minutes = 5", "minutes = soon", "line 4: Invalid value"),
        ('hints = ["a gentle hint", "nearly the solution"]\n', "", "line 19: the task has no hints"),
        ('"happy > 1"', '"happy big"', "line 19: 'happy big' is not a comparison"),
        ("do =", "doo =", "line 19: a task has no doo"),
        ("## Ask", "## Push", "line 28: two steps have the same heading"),
        ('right = "same == answers"', 'right = "same equals answers"', "is not a comparison"),
        ("/steer happy 50% 2.0", "/stear happy", "line 15: /stear happy: no command called '/stear'"),
        ("/steer happy 50% 2.0", "/steer happy 50% much", "line 15: /steer happy 50% much"),
        ('show = "zero happy"', 'show = "zerro happy"', "line 28: there is no demonstration zerro"),
        ("same == answers", "sam == answers", "line 28: nothing measures sam"),
    ],
)
def test_what_is_wrong_with_a_lesson_is_named_with_its_line_and_does_not_stop_the_chat(
    start: Start, own: Path, old: str, new: str, problem: str
):
    (own / "another.md").write_text(LESSON, encoding="utf-8")
    assert old in LESSON
    (own / "pushing.md").write_text(LESSON.replace(old, new, 1), encoding="utf-8")
    chat, screen = start(own)
    found = say(chat, screen, "/lesson check")
    assert "pushing.md" in found and problem in found and "another.md" not in found
    assert "[1/3] Look" in say(chat, screen, "/lesson another")


def test_a_lesson_that_a_question_cannot_pass_is_wrong(own: Path):
    text = LESSON.replace('right = "same == 0"', "right = false").replace('right = "same == answers"', "right = false")
    (own / "pushing.md").write_text(text, encoding="utf-8")
    with pytest.raises(LessonError, match="no choice is right"):
        read_lesson(own / "pushing.md")


def test_the_shell_lists_and_checks_lessons(own: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))
    assert main(["lessons", "--check"]) == 0
    assert main(["lesson", "list", "--lessons", str(own), "--json"]) == 0
    listed = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(listed) == {"id": "pushing", "title": "Pushing", "steps": 3, "done": 0}
    (own / "pushing.md").write_text("no lesson", encoding="utf-8")
    assert main(["lessons", "--check", "--lessons", str(own)]) == 1


def test_a_script_runs_lines_and_fails_where_something_is_not_as_expected(
    own: Path,
    tmp_path: Path,
    tiny_folder: Path,  # noqa: F811
    monkeypatch,
    capsys,
):
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))
    script = tmp_path / "pushing.steer"
    lines = [
        "# a note",
        "/lesson 1",
        "/lesson next",
        "/steer happy 50% 2.0",
        "/expect happy == 2",
        "/expect passed == 1",
    ]
    script.write_text("\n".join(lines), encoding="utf-8")
    options = ["--lessons", str(own), "--model", str(tiny_folder), "--device", "cpu"]
    assert main(["run", str(script), *options]) == 0
    script.write_text("/steer happy 50% 2.0\n/expect happy < 1\n", encoding="utf-8")
    assert main(["run", str(script), *options]) == 1
    assert "expected happy < 1; happy is 2" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "none.steer")]) == 2


def test_every_track_is_made_of_lessons():
    course = read_course(course_folder("shipped"))
    assert not course.broken and {track.name for track in course.tracks} == {"look", "lab", "all"}
    assert course.tracks[-1].lessons == tuple(lesson.name for lesson in course.lessons)


# As CI


def walk(chat: Chat, screen: Screen, name: str) -> Iterator[tuple[str, bool, bool]]:
    """Does each step of a lesson as it says itself, wrong answers first: (step, passed, wrong ones were refused)."""
    one = tutor(chat)
    lesson = one.course.find(name)
    said = say(chat, screen, f"/lesson {name}")
    for step in lesson.steps:
        assert step.title in said
        record, refused = one.progress.record(lesson.name, step.id), True
        for line in step.do:
            said = say(chat, screen, line.replace("{folder}", one.course.folder.as_posix()))
            assert "steerchat failed" not in said, said
        if step.question:
            right = say(chat, screen, "/lesson solution")
            numbers = [str(number) for number in range(1, len(step.choices) + 1)]
            wrong = [number for number in numbers if not right.startswith(f"/answer {number}")]
            for number in wrong if right.startswith("/answer") else []:
                refused = refused and "No." in say(chat, screen, f"/answer {number}") and not record.state
            for number in numbers:
                if not record.state:
                    assert "steerchat failed" not in say(chat, screen, f"/answer {number}")
        yield step.title, not step.has_task or record.state == "passed", refused
        said = say(chat, screen, "/lesson skip")


@pytest.mark.parametrize("name", ["first-steering", "tokens-and-states", "what-layers-do", "inside"])
def test_lessons_can_be_walked_through_on_a_random_model(start: Start, name: str):
    """Nothing need be shown by it: what cannot be passed can be skipped, and nothing breaks."""
    chat, screen = start()
    steps = list(walk(chat, screen, name))
    assert all(refused for _, _, refused in steps)
    assert chat.companion is None
    assert tutor(chat).progress.done(tutor(chat).course.find(name)) == len(steps)


@pytest.mark.model
@pytest.mark.timeout(1800)
def test_every_lesson_replays_on_the_default_model(start: Start):
    chat, screen = start(model="smollm2", max_tokens=30)
    course = tutor(chat).course
    for lesson in course.lessons:
        for title, passed, refused in walk(chat, screen, lesson.name):
            assert passed and refused, (lesson.name, title)
