"""`steerchat run`: files of chat lines, and replays of lessons."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from ..conversation.chat import Chat
from ..course.check import replay
from ..course.lesson import read_course, read_lesson
from ..course.progress import Progress
from ..course.tutor import Tutor
from ..measures.chance import verdict
from ..reports.marks import marks
from ..screen.picture import picture, recorder, words
from ..screen.render import Screen
from ..system.folders import write_whole
from ..system.untrusted import read_stream
from ..values.errors import ExitCode, UsageError
from .start import given_settings, new_screen, open_chat, run, setting_options


def script_command() -> click.Command:
    """`steerchat run FILE...`: files of chat lines, with `/expect` for what has to hold, or lessons to be replayed."""

    def callback(files: tuple[str, ...], svg: str | None, **settings: Any) -> None:
        paths = [Path(file) for file in files]
        options = given_settings(settings)
        lessons = [path for path in paths if path.suffix == ".md"]
        if lessons:
            options["lessons"] = str(lessons[0].resolve().parent)
        scripts = {path: _read_script(path) for path in paths if path not in lessons}

        def lines(chat: Chat) -> Iterator[str]:
            for path in paths:
                yield from _replay(chat, path) if path in lessons else scripts[path]

        click.get_current_context().exit(run(options, lines) if svg is None else _draw(options, lines, Path(svg)))

    about = "draw it into FILE as a picture, with a history of its own: the same lines and seed give the same picture"
    parameters = [
        click.Argument(["files"], metavar="FILE.steer...", nargs=-1, required=True),
        click.Option(["--svg"], metavar="FILE", help=about),
        *setting_options(),
    ]
    text = (
        "Run files of chat lines; a line that begins with # is a comment. A lesson's file (.md) is replayed: each "
        "wrong answer has to be refused, then the lesson's own solution has to pass. Exit code 1 when a line failed."
    )
    return click.Command("run", params=parameters, callback=callback, help=text)


def _read_script(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:  # a pipe will do
            lines = read_stream(file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", "name a text file of chat lines") from None
    return [line for line in lines if not line.lstrip().startswith("#")]


def _replay(chat: Chat, path: Path) -> Iterator[str]:
    """The lines of a lesson's replay, which keeps no progress."""
    name = read_lesson(path).name
    tutor = chat.tutor
    if not isinstance(tutor, Tutor):
        tutor = chat.tutor = Tutor(chat, read_course(path.resolve().parent), Progress(None))
    yield from replay(tutor, tutor.course.find(name))


def _draw(options: Mapping[str, Any], lines: Callable[[Chat], Iterable[str]], file: Path) -> ExitCode:
    """Run a script, and draw what the screen shows into a picture; the text goes to standard output."""
    from . import repl

    console = recorder()
    screen = Screen(console, verdict=verdict, marks=marks, speed=False)
    with (
        tempfile.TemporaryDirectory(prefix="steerchat-") as folder,
        open_chat("the chat", options, new_screen().aside, history=Path(folder) / "history.db") as chat,
    ):
        worked = repl.run_script(chat.start(), screen, lines(chat))
    click.echo(words(console), nl=False)
    write_whole(file, picture(console, "steerchat").encode())
    return ExitCode.DONE if worked else ExitCode.FAILED
