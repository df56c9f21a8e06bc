"""Lessons replayed from their own solutions: to their end on any model, and passed on the default one."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chats import Start
from lessons import LESSON, say
from places import ROOT
from rich.console import Console
from tiny import save_model

from steerchat import commands  # noqa: F401  # declares the commands
from steerchat.conversation.chat import Chat
from steerchat.course.check import replay
from steerchat.course.files import course_folder
from steerchat.course.lesson import Lesson, read_course
from steerchat.course.progress import Progress
from steerchat.course.tutor import Tutor, tutor
from steerchat.screen.render import Screen
from steerchat.slash.registry import registry
from steerchat.system import folders
from steerchat.system.settings import Settings
from steerchat.terminal.cli import main
from steerchat.terminal.repl import run_script
from steerchat.values.recipe import Recipe


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["first-steering", "tokens-and-states", "what-layers-do", "turning", "gates", "inside"]
)
def test_lessons_go_on_to_their_end_on_a_random_model(start: Start, name: str):
    """Nothing need be shown by it: what cannot be passed can be skipped, and nothing breaks."""
    chat, screen = start()
    lesson = tutor(chat).course.find(name)
    for line in replay(tutor(chat), lesson):
        said = say(chat, screen, line)
        assert "steerchat failed" not in said, said
        assert line != "/expect passed == 0" or "As expected" in said, lesson.name
    assert chat.companion is None
    assert tutor(chat).progress.done(lesson) == len(lesson.steps)


@pytest.mark.slow
def test_layers_are_named_by_depth_so_that_a_model_of_32_layers_is_taught_too(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # One concept and a few neutral texts: this lesson needs no more, and so many layers take long to read.
    few, packaged = tmp_path / "few", folders.packaged
    (few / "texts").mkdir(parents=True)
    shutil.copy(ROOT / "vectors" / "happy.toml", few)
    neutral = (ROOT / "vectors" / "texts" / "neutral.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (few / "texts" / "neutral.jsonl").write_text("".join(neutral[:8]), encoding="utf-8")
    monkeypatch.setattr(folders, "packaged", lambda name: few if name == "vectors" else packaged(name))
    chat, screen = start(model=str(save_model(tmp_path / "deep", layers=32)))
    said = []
    for line in replay(tutor(chat), tutor(chat).course.find("inside")):
        said.append(say(chat, screen, line))
        if tutor(chat).step().show[:1] == ("methods",):
            break  # its hundred answers say nothing about layers; the test above plays it
    assert not any("steerchat failed" in one for one in said)
    assert any("happy at layers 11-19" in one and "[ layer 31 100% ]" in one for one in said)
    assert any("The same tokens." in one for one in said)
    assert "a stack of 32 layers" in say(chat, screen, "/lesson 1")


@pytest.mark.slow
def test_a_lesson_that_its_own_answers_do_not_pass_fails_its_replay(
    own: Path, tmp_path: Path, tiny_folder: Path, shipped_home: Path, monkeypatch, capsys
):
    home = shutil.copytree(shipped_home, tmp_path / "home")
    monkeypatch.setenv("STEERCHAT_HOME", str(home))
    options = ["--model", str(tiny_folder), "--device", "cpu", "--max-tokens", "4"]
    path = own / "pushing.md"
    assert main(["run", str(path), *options]) == 0
    played = capsys.readouterr().out
    assert "> /lesson answer 1" in played and "No. There is nothing to add." in played
    assert not (home / "lessons.json").exists()
    path.write_text(LESSON.replace('"/steer sad"]', '"/steer happy 50% 3.0"]'), encoding="utf-8")
    assert main(["run", str(path), *options]) == 1
    assert "expected passed == 0; passed is 1" in capsys.readouterr().err
    path.write_text(LESSON.replace('do = "/steer happy 50% 2.0"', 'do = "/steer happy 50% 1.0"'), encoding="utf-8")
    assert main(["run", str(path), *options]) == 1
    assert "expected passed == 1; passed is 0" in capsys.readouterr().err


@pytest.fixture(scope="module")
def default_chat(
    default_home: Path, default_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Chat, Screen]]:
    """A chat with the default model. Lessons share it: what one has measured, another need not measure again."""
    with pytest.MonkeyPatch.context() as patch:
        home = shutil.copytree(default_home, tmp_path_factory.mktemp("course") / "home")
        patch.setenv("STEERCHAT_HOME", str(home))
        patch.setenv("STEERCHAT_MODELS", str(default_models))
        screen = Screen(Console(file=io.StringIO(), width=100, color_system=None))
        chat = Chat(Settings(max_tokens=30), registry, screen.show)
        chat.tutor = Tutor(chat, read_course(course_folder("shipped")), Progress(None))
        yield chat, screen
        chat.close()


@pytest.mark.model
@pytest.mark.parametrize("lesson", read_course(course_folder("shipped")).lessons, ids=lambda lesson: lesson.name)
def test_a_lesson_replays_on_the_default_model(lesson: Lesson, default_chat: tuple[Chat, Screen]):
    """Each wrong answer is refused, and what the lesson says passes by what is measured."""
    chat, screen = default_chat
    # As after a start, so that the order of the lessons does not matter.
    session = chat.start().session
    session.new()
    session.recipe, session.last = Recipe(), None
    session.reseed(session.settings.seed)
    screen.console.file = io.StringIO()
    assert run_script(chat, screen, replay(tutor(chat), lesson)), screen.console.file.getvalue()
