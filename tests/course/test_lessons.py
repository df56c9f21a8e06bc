"""The course: lessons as a learner walks through them, and as a teacher writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chats import Start
from lessons import LESSON, say

from steerchat import commands  # noqa: F401  # declares the commands
from steerchat.course.check import replay
from steerchat.course.files import course_folder
from steerchat.course.lesson import LessonError, read_course, read_lesson
from steerchat.course.progress import Progress
from steerchat.course.tutor import tutor
from steerchat.terminal.cli import main

# As a learner


@pytest.mark.slow
def test_a_lesson_from_its_first_step_to_its_last(start: Start, own: Path):
    chat, screen = start(own)
    assert "pushing Pushing 5 min" in say(chat, screen, "/lesson")
    first = say(chat, screen, "/lesson 1")
    assert "[1/3] Look A paragraph over two lines, with weight." in first and "a picture of two lines" in first
    assert "[2/3] Push" in say(chat, screen, "/lesson next")
    assert "This step waits for a line such as" in say(chat, screen, "/lesson next")
    assert "Not yet: push harder (happy is 0.50)" in say(chat, screen, "/steer happy 50% 0.5")
    assert "So that is a push." in say(chat, screen, "/steer happy 50% 2.0")
    assert "1 everything 2 nothing" in say(chat, screen, "/lesson next")
    wrong = say(chat, screen, "/answer 1")
    assert "5 of 5 steered answers are the normal one" in wrong and "No. There is nothing to add." in wrong
    right = say(chat, screen, "/answer 2")
    assert "Right. Nothing was added." in right and "steered answers are" not in right  # that is on the screen
    assert "That was lesson 1, pushing." in say(chat, screen, "/lesson next")
    assert "done" in say(chat, screen, "/lesson")


@pytest.mark.slow
def test_while_a_lesson_runs_short_lines_do_what_they_say(start: Start, own: Path):
    chat, screen = start(own)
    say(chat, screen, "/lesson 1")
    assert "[2/3] Push" in say(chat, screen, "")
    assert "a gentle hint" in say(chat, screen, "hint") and "nearly the solution" in say(chat, screen, "Hint")
    assert "waits for a line such as /steer happy 50% 2.0" in say(chat, screen, "next")
    assert "So that is a push." in say(chat, screen, "steer happy 50% 2.0")  # its slash forgotten
    assert "[1/3] Look" in say(chat, screen, "back")
    assert "this step asks no question" in say(chat, screen, "3")
    assert "You did this step" in say(chat, screen, "")
    assert "waits for an answer, 1 or 2" in say(chat, screen, "") + say(chat, screen, "")
    assert "No." in say(chat, screen, "answer 1") and "Right." in say(chat, screen, "2")
    assert not chat.session.turns
    assert "normal" in say(chat, screen, "//next") and len(chat.session.turns) == 1
    assert "Left pushing" in say(chat, screen, "quit")
    assert "normal" in say(chat, screen, "next") and len(chat.session.turns) == 2


@pytest.mark.slow
def test_a_measured_goal_that_a_model_does_not_reach_is_said_to_be_the_models(start: Start, own: Path):
    text = LESSON.replace('"happy > 1" = "push harder"', '"answers > 99" = "never enough"').replace(
        'wrong = ["/steer happy 50% 0.5", "/steer sad"]', 'show = "zero happy"'
    )
    (own / "pushing.md").write_text(text, encoding="utf-8")
    chat, screen = start(own)
    for line in ("/lesson 1", ""):
        say(chat, screen, line)
    other = say(chat, screen, "/steer happy 50% 1.0")
    assert "Not yet: never enough (answers is 5.00)" in other and "nothing to show" not in other
    assert "on this model there may be nothing to show" in say(chat, screen, "/steer happy 50% 2.0")


def test_what_was_skipped_can_be_done_later(start: Start, own: Path):
    chat, screen = start(own)
    for line in ("/lesson 1", "", "skip", "back"):
        said = say(chat, screen, line)
    assert "[2/3] Push" in said and "You did" not in said
    assert "So that is a push." in say(chat, screen, "/steer happy 50% 2.0")


def test_an_aim_keeps_its_lines_for_the_solution(start: Start, own: Path):
    text = LESSON.replace('do = "/steer happy 50% 2.0"', 'aim = "Push harder than 1."\ndo = "/steer happy 50% 2.0"')
    (own / "pushing.md").write_text(text, encoding="utf-8")
    chat, screen = start(own)
    say(chat, screen, "/lesson 1")
    assert (said := say(chat, screen, "")).endswith("Push harder than 1.") and "/steer" not in said
    assert "/steer" not in say(chat, screen, "")
    assert "/steer happy 50% 2.0" in say(chat, screen, "solution")
    assert "Done." in say(chat, screen, "/steer happy 1.5")


@pytest.mark.slow
def test_hints_come_one_by_one_and_the_solution_last(start: Start, own: Path):
    chat, screen = start(own)
    say(chat, screen, "/lesson pushing")
    say(chat, screen, "/lesson next")
    assert "a gentle hint 1 more: type hint again." in say(chat, screen, "/lesson hint")
    assert "nearly the solution That was the last one" in say(chat, screen, "/lesson hint")
    assert "/steer happy 50% 2.0" in say(chat, screen, "/lesson solution")
    say(chat, screen, "/lesson skip")
    assert "2 is right. Nothing was added." in say(chat, screen, "/lesson solution")
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


@pytest.mark.slow
def test_a_report_has_what_was_answered_and_measured(start: Start, own: Path, tmp_path: Path):
    chat, screen = start(own)
    assert "no lesson was begun" in say(chat, screen, f"/lesson report {tmp_path / 'report.md'}")
    for line in ("/lesson 1", "", "skip", "hint", "1", "2", "2"):
        say(chat, screen, line)
    say(chat, screen, f"/lesson report {tmp_path / 'report.md'}")
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| 1 | Pushing | 3 of 3 | 1 | 0 of 1 | 1 |" in report
    assert "- **Push**: skipped" in report and "- **Ask**: done" in report
    assert "Question: What is left of a push of strength 0?" in report
    assert "First answer: everything (wrong at first), 2 tries" in report
    assert "same 5, answers 5" in report and "Hints: 1 of 1" in report


def test_progress_of_a_later_version_is_kept(tmp_path: Path):
    path = tmp_path / "lessons.json"
    step = {"state": "passed", "mood": "glad"}
    path.write_text(json.dumps({"track": "", "model": "", "at": {}, "lessons": {"pushing": {"look": step}}}))
    assert Progress(path).record("pushing", "look").state == "passed"


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('title = "Pushing"\n', "", "line 1: its head needs title"),
        ("minutes = 5", "minutes = soon", "line 4: Invalid value"),
        ('hints = ["a gentle hint", "nearly the solution"]\n', "", "line 19: the task has no hints"),
        ('hints = ["a gentle hint", "nearly the solution"]', "hints = [1]", "line 19: hints is a text, or a list"),
        ("minutes = 5", "minutes = 5\nminuts = 5", "line 5: its head has no minuts"),
        ("+++\n\n## Look", "+++\n\nLost.\n\n## Look", "line 7: text before the first step"),
        ("```task\ndo", "```tsk\ndo", "line 19: the only fence is ```task"),
        ("    a picture", "    a picture" + "-" * 70, "line 7: a picture is 83 characters wide"),
        ("/steer sad", "/steer sat", "line 15: /steer sat: no concept called 'sat'"),
        ('show = "zero happy"', 'show = "zero"', "line 29: show = 'zero': missing a required argument: 'concept'"),
        ('"happy > 1"', '"happy big"', "line 19: 'happy big' is not a comparison"),
        ("do =", "doo =", "line 19: a task has no doo"),
        ("## Ask", "## Push", "line 29: two steps have the same heading"),
        ('right = "same == answers"', 'right = "same equals answers"', "is not a comparison"),
        ("/steer happy 50% 2.0", "/stear happy", "line 15: /stear happy: no command called '/stear'"),
        ("/steer happy 50% 2.0", "/steer happy 50% much", "line 15: /steer happy 50% much"),
        ('show = "zero happy"', 'show = "zerro happy"', "line 29: there is no demonstration zerro"),
        ("same == answers", "sam == answers", "line 29: nothing measures sam"),
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


@pytest.mark.slow
def test_the_lesson_that_the_readme_begins_with_is_in_order(start: Start, tmp_path: Path):
    text = (course_folder("shipped") / "README.md").read_text(encoding="utf-8")
    (tmp_path / "mine.md").write_text(text.split("~~~markdown\n")[1].split("~~~")[0], encoding="utf-8")
    chat, screen = start(tmp_path)
    assert "1 lessons with 2 steps are in order." in say(chat, screen, "/lesson check")
    (only,) = tutor(chat).course.lessons
    said = [say(chat, screen, line) for line in replay(tutor(chat), only)]
    assert only.name == "mine" and sum("As expected" in one for one in said) == 4


def test_a_lesson_that_a_question_cannot_pass_is_wrong(own: Path):
    text = LESSON.replace('right = "same == 0"', "right = false").replace('right = "same == answers"', "right = false")
    (own / "pushing.md").write_text(text, encoding="utf-8")
    with pytest.raises(LessonError, match="no choice is right"):
        read_lesson(own / "pushing.md")


def test_the_shell_lists_and_checks_lessons(own: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))
    assert main(["lessons", "check"]) == 0
    assert main(["lesson", "list", "--lessons", str(own), "--json"]) == 0
    listed = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(listed) == {"id": "pushing", "title": "Pushing", "steps": 3, "done": 0}
    (own / "pushing.md").write_text("no lesson", encoding="utf-8")
    assert main(["lessons", "check", "--lessons", str(own)]) == 1


def test_a_script_runs_lines_and_fails_where_something_is_not_as_expected(
    own: Path, tmp_path: Path, tiny_folder: Path, monkeypatch, capsys
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


def test_a_track_lists_its_lessons_and_names_the_next_of_them(start: Start):
    chat, screen = start()
    assert "1 2 4 8 9 13" in say(chat, screen, "/lesson track")
    listed = say(chat, screen, "/lesson track lab")
    assert "which-layer-to-steer" in listed and "tokens-and-states" not in listed
    assert f"{len(tutor(chat).course.lessons) - 6} more lessons" in listed
    say(chat, screen, "/lesson strength")
    for _ in range(4):
        say(chat, screen, "skip")
    assert "Next is /lesson 4" in say(chat, screen, "skip")
