"""What every start of steerchat shares: settings as options, the screen, and a chat with a person or a script."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..conversation.app import config_path
from ..conversation.chat import Chat
from ..engine import processes
from ..measures.chance import verdict
from ..reports.marks import marks
from ..screen.render import Screen
from ..slash.registry import registry
from ..system.settings import descriptions, load_settings
from ..values.errors import ExitCode, UsageError


def setting_options() -> list[click.Parameter]:
    """An option for each setting that belongs to the shell."""
    options: list[click.Parameter] = []
    for name, setting in descriptions().items():
        if setting.in_shell:
            switch = setting.choices == ("off", "on")
            kind: dict[str, Any] = {"is_flag": True, "flag_value": "on"} if switch else {"metavar": "VALUE"}
            options.append(click.Option([f"--{name}"], default=None, help=setting.help, **kind))
    return options


def given_settings(after: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on the command line. Those after the subcommand win over those before it; None is not given."""
    before = click.get_current_context().find_root().obj or {}
    return before | {name: value for name, value in after.items() if value is not None}


def new_screen() -> Screen:
    """The screen of this terminal."""
    return Screen(verdict=verdict, marks=marks)


@contextmanager
def open_chat(
    name: str,
    options: Mapping[str, Any],
    report: Callable[[Any], None],
    ask: Callable[[str, Sequence[str]], str] | None = None,
    *,
    parallel: bool = False,
    history: Path | None = None,
) -> Iterator[Chat]:
    """A chat that is closed at the end. `start` makes it load its model.

    Args:
        name: of the command, for messages.
        report, ask, history: as `Chat` takes them.
        parallel: whether several processes can run it.
    """
    _check_processes(name, parallel)
    settings = load_settings(options, config_path())
    team = processes.Team(settings.device) if processes.count() > 1 else None
    chat = Chat(settings, registry, report, ask, team, history)
    try:
        yield chat
    finally:
        chat.close()


def run(
    options: Mapping[str, Any], lines: Callable[[Chat], Iterable[str]] | None = None, first: Sequence[str] = ()
) -> ExitCode:
    """The chat with a person, or with a script.

    Args:
        lines: the lines of a script; None for a person at the terminal, or the lines of standard input.
        first: lines to run before all others.
    """
    from . import repl

    screen = new_screen()
    person = lines is None and repl.interactive()
    with open_chat("the chat", options, screen.show, repl.asker(screen) if person else None) as chat:
        chat.start()
        if person:
            repl.run_chat(chat, screen, first=first)
            return ExitCode.DONE
        rest = repl.read_lines(sys.stdin) if lines is None else lines(chat)
        return ExitCode.DONE if repl.run_script(chat, screen, itertools.chain(first, rest)) else ExitCode.FAILED


def _check_processes(name: str, parallel: bool) -> None:
    """Silences every process but the first one, where several were started together.

    Raises UsageError when they cannot run the command.
    """
    if processes.count() == 1:
        return
    if not processes.is_first():
        # Only rank 0 prints.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
    if not parallel:
        names = sorted(command.name for command in registry if command.parallel)
        raise UsageError(
            f"{name} runs in one process, and {processes.count()} were started",
            f"several processes can run: {', '.join(names)}",
        )
