"""The shell: `steerchat` alone is the chat, its subcommands are the same experiments without one.

What a command gives back is on standard output; progress, notices and errors are on standard error.
Exit codes: 0 done, 1 a command failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import copy
import itertools
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._version import __version__
from ..system.untrusted import read_stream
from ..values.errors import Interrupted, SteerchatError, UsageError
from .groups import Noun, db_group, model_group

if TYPE_CHECKING:
    from ..conversation.chat import Chat

_SETTINGS = (
    "model",
    "device",
    "dtype",
    "memory",
    "offload",
    "fallback",
    "trust_remote_code",
    "seed",
    "max_tokens",
    "temperature",
    "top_p",
    "repetition_penalty",
    "scope",
    "steer_thinking",
    "lessons",
)


def _common() -> list[click.Parameter]:
    from ..system.settings import descriptions

    options: list[click.Parameter] = []
    for name, description in descriptions().items():
        if name.replace("-", "_") in _SETTINGS:
            switch = description.choices == ("off", "on")
            kind: dict[str, Any] = {"is_flag": True, "flag_value": "on"} if switch else {"metavar": "VALUE"}
            options.append(click.Option([f"--{name}"], default=None, help=description.help, **kind))
    return options


def _options(command: Any) -> list[click.Parameter]:
    """A subcommand's options beside its own; a recipe and a file of prompts only where there is a prompt."""
    options: list[click.Parameter] = [
        click.Option(["--json", "as_json"], is_flag=True, help="one JSON object a line"),
        *_common(),
    ]
    if command.name == "history":
        options += [
            click.Option(["--csv"], is_flag=True, help="one line a pair, with the columns of pair_view"),
            click.Option(["--markdown"], is_flag=True, help="each pair whole"),
        ]
    if all(parameter.name != "prompt" for parameter in command.parameters):
        return options
    return [
        click.Option(["--steer"], multiple=True, metavar="TERM", help='"happy 16 2.0" or happy:16:2.0; repeat to add'),
        click.Option(["--prompts"], metavar="FILE", help="a prompt a line; - reads standard input"),
        *options,
    ]


def build() -> click.Group:
    """The whole command line."""
    from .. import commands  # noqa: F401  # declares the slash commands
    from ..slash.registry import click_command, registry

    @click.group(
        invoke_without_command=True,
        params=[
            click.Option(["--resume"], is_flag=True, help="go on with the last conversation"),
            *_common(),
        ],
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Chat with a language model and steer it while you talk. Without a command: the chat.",
        epilog="Exit codes: 0 done, 1 a command failed, 2 wrong usage, 130 interrupted.",
    )
    @click.version_option(__version__, prog_name="steerchat")
    @click.pass_context
    def group(context: click.Context, resume: bool, **options: Any) -> None:
        context.obj = options
        if context.invoked_subcommand is None:
            context.exit(_chat(options, first=["/session resume"] if resume else []))
        if resume:
            raise UsageError("--resume is for the chat", "steerchat --resume, without a subcommand")

    group.add_command(_script_command())
    nouns = {"model": model_group(_screen), "db": db_group()}
    for command in registry:
        noun, _, verb = command.name.partition(" ")
        if command.shell:
            where = nouns.setdefault(noun, Noun(noun, help=_about(noun))) if verb else group
            where.add_command(click_command(command, _run_command, _options(command)))
    for noun, verbs in nouns.items():
        own = group.commands.get(noun)
        if own is not None:  # a noun that is a command too: `history 3` beside `history rerun 3`
            verbs.add_command(own, "list")
            verbs.epilog = f"What `steerchat {noun}` takes by itself: steerchat {noun} list --help"
        group.add_command(verbs)
        if f"{noun}s" not in group.commands:
            plural = copy.copy(verbs)
            plural.hidden = True
            group.add_command(plural, f"{noun}s")
    return group


def _script_command() -> click.Command:
    """`steerchat run FILE...`: files of chat lines, with `/expect` for what has to hold, or lessons to be replayed."""

    def run(files: tuple[str, ...], svg: str | None, **options: Any) -> None:
        context = click.get_current_context()
        paths = [Path(file) for file in files]
        given = {**(context.find_root().obj or {}), **{name: value for name, value in options.items() if value}}
        lessons = [path for path in paths if path.suffix == ".md"]
        if lessons:
            given["lessons"] = str(lessons[0].resolve().parent)
        scripts = {path: _script(path) for path in paths if path not in lessons}

        def lines(chat: Chat) -> Iterator[str]:
            for path in paths:
                yield from _replay(chat, path) if path in lessons else scripts[path]

        context.exit(_chat(given, lines) if svg is None else _recorded(given, lines, Path(svg)))

    about = "draw it into FILE as a picture, with a history of its own: the same lines and seed give the same picture"
    parameters = [
        click.Argument(["files"], metavar="FILE.steer...", nargs=-1, required=True),
        click.Option(["--svg"], metavar="FILE", help=about),
        *_common(),
    ]
    text = (
        "Run files of chat lines; a line that begins with # is a note. A lesson's file (.md) is replayed: each wrong "
        "answer is given and has to be refused, then what the lesson says has to pass. Exit code 1 when a line failed."
    )
    return click.Command("run", params=parameters, callback=run, help=text)


def _script(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:  # a pipe will do
            lines = read_stream(file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", "a text file of chat lines") from None
    return [line for line in lines if not line.lstrip().startswith("#")]


def _replay(chat: Chat, path: Path) -> Iterator[str]:
    """The lines of a lesson's replay, which keeps no progress."""
    from ..course.lesson import read_course, read_lesson
    from ..course.progress import Progress
    from ..course.replay import replay
    from ..course.tutor import Tutor

    named = read_lesson(path).name
    tutor = chat.tutor
    if not isinstance(tutor, Tutor):
        tutor = chat.tutor = Tutor(chat, read_course(path.resolve().parent), Progress(None))
    yield from replay(tutor, tutor.course.find(named))


def _about(noun: str) -> str:
    """What a noun's help says first: the summary of its bare slash command."""
    from ..slash.registry import registry

    return registry.get(noun).summary if noun in registry else ""


def _screen() -> Any:
    from ..measures.chance import verdict
    from ..screen.render import Screen
    from ..values.recipe import UNIT

    return Screen(verdict=verdict, unit=UNIT)


def _chat(
    options: dict[str, Any], lines: Callable[[Chat], Iterable[str]] | None = None, first: Sequence[str] = ()
) -> int:
    """The chat with whoever is there, or the lines of a script, after those of `first`. Returns the exit code."""
    from ..conversation.chat import Chat, config_path
    from ..slash.registry import registry
    from ..system.settings import load_settings
    from . import repl

    _check_processes("the chat")
    settings = load_settings(options, config_path())
    screen = _screen()
    person = lines is None and repl.interactive()
    chat = Chat(settings, registry, screen.show, repl.asker(screen) if person else None).start()
    try:
        if person:
            repl.run_chat(chat, screen, first=first)
            return 0
        rest = repl.read_lines(sys.stdin) if lines is None else lines(chat)
        return 0 if repl.run_script(chat, screen, itertools.chain(first, rest)) else 1
    finally:
        chat.close()


def _recorded(options: dict[str, Any], lines: Callable[[Chat], Iterable[str]], file: Path) -> int:
    """A script as a picture, and as text on standard output. Returns the exit code."""
    from ..conversation.chat import Chat, config_path
    from ..measures.chance import verdict
    from ..screen.picture import picture, recorder, words
    from ..screen.render import Screen
    from ..slash.registry import registry
    from ..system.folders import write_whole
    from ..system.settings import load_settings
    from ..values.errors import StoreError
    from ..values.recipe import UNIT
    from . import repl

    console = recorder()
    screen = Screen(console, verdict=verdict, unit=UNIT, speed=False)
    with tempfile.TemporaryDirectory(prefix="steerchat-") as folder:
        settings, history = load_settings(options, config_path()), Path(folder) / "history.db"
        chat = Chat(settings, registry, _screen().aside, history=history).start()
        try:
            worked = repl.run_script(chat, screen, lines(chat))
        finally:
            chat.close()
    click.echo(words(console), nl=False)
    try:
        write_whole(file, picture(console, "steerchat").encode())
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror or error}", "name another file") from None
    return 0 if worked else 1


def _run_command(command: Any, values: dict[str, Any], common: dict[str, Any]) -> None:
    """A slash command from the shell: the same handler, shown or as JSON."""
    from ..conversation.chat import Chat, config_path
    from ..slash.registry import registry
    from ..system.settings import load_settings
    from ..values.recipe import parse_term
    from ..values.text import clean, to_json
    from . import repl

    _check_processes(command.name)
    given = {**(click.get_current_context().find_root().obj or {})}
    given |= {name: common[name] for name in _SETTINGS if common.get(name) is not None}
    requests = [parse_term(term) for term in common.get("steer", ())]
    settings = load_settings(given, config_path())
    screen = _screen()
    ask = repl.asker(screen) if repl.interactive() else None
    team = _team(settings.device)
    chat = Chat(settings, registry, screen.aside, ask, team)
    chat.single = True
    try:
        with repl.stoppable(chat.session.stop if team is None else team.stop):
            if command.name not in _WITHOUT_MODEL:
                chat.start()
            if requests:
                for note in chat.session.steer(requests):
                    click.echo(clean(note), err=True)
            file = common.get("prompts")
            prompts = _prompts(file) if team is None else team.from_first(lambda: _prompts(file))
            for result in _results(chat, command, values, prompts):
                form = _form(common)
                if form == "as_json":
                    for item in _json(result):
                        click.echo(to_json(item))
                elif form is not None:
                    click.echo(_exported(chat, result, form), nl=False)
                else:
                    repl.show(chat, screen, result)
            if chat.session.stop.is_set():
                raise Interrupted(f"steerchat {command.name}")
    finally:
        chat.close()


def _results(chat: Any, command: Any, values: dict[str, Any], prompts: Sequence[str] | None) -> Iterator[Any]:
    """What a command gives back, for each prompt of a file where there is one."""
    plain = command.name == "compare" and values.get("repeats", 1) == 1 and not values.get("control")
    if prompts is None:
        yield command.handler(chat, **values)
    elif plain:
        from ..experiments.prompts import compare_all

        yield compare_all(chat.session, prompts, values.get("raw", False))
    else:
        for prompt in prompts:
            if chat.session.stop.is_set():
                return
            yield command.handler(chat, **values | {"prompt": prompt})


def _check_processes(command: str) -> None:
    """Raises UsageError for what is not for several processes; all but the first fall silent."""
    from ..engine import processes

    if processes.count() == 1:
        return
    if not processes.is_first():
        # What they would say, the first one says.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
    if command not in _SHARED:
        raise UsageError(
            f"{command} is for one process, and {processes.count()} were started",
            f"what they can share: {', '.join(sorted(_SHARED))}",
        )


def _team(device: str) -> Any:
    """This process among those that were started with it; None when it is alone."""
    from ..engine import processes

    return None if processes.count() == 1 else processes.Team(device)


# Commands whose answers several processes can share.
_SHARED = frozenset({"compare", "mix", "layers", "strengths", "tune", "chance", "concept evaluate"})


def _form(common: dict[str, Any]) -> str | None:
    """How a result is wanted, where not as on a screen."""
    wanted = [name for name in ("as_json", "csv", "markdown") if common.get(name)]
    if len(wanted) > 1:
        raise UsageError("a result has one form", "one of --json, --csv and --markdown")
    return wanted[0] if wanted else None


def _exported(chat: Any, result: Any, form: str) -> str:
    from ..commands.notebook import open_store
    from ..reports.csv import FORMS

    return FORMS[form](open_store(chat), [item["id"] for item in _json(result)])


_WITHOUT_MODEL = {
    "config",
    "model list",
    "history",
    "history delete",
    "session list",
    "session delete",
    "stats",
    "concept list",
    "concept edit",
    "concept delete",
    "lesson list",
    "lesson check",
    "report",
}


def _prompts(file: str | None) -> list[str] | None:
    """The prompts of a file, one a line; None without a file."""
    from ..system.folders import read_prompts

    return None if file is None else read_prompts(file)


def _json(result: Any) -> Iterator[Any]:
    """A result's JSON objects: of each pair in a stream, of each row of a list, of a value."""
    from ..values.results import Notice, PairDone
    from ..values.text import Page

    if isinstance(result, Iterator):
        for event in result:
            if isinstance(event, PairDone):
                yield event.pair.to_json()
    elif isinstance(result, Page):
        yield from result.objects
    elif isinstance(result, list):
        for item in result:
            yield from _json(item)
    elif isinstance(result, str | Notice):
        yield {"message": result if isinstance(result, str) else result.text}
    else:
        yield result.to_json()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run steerchat. Returns the exit code; every error becomes a line on standard error here."""
    _open_streams()
    # Nothing leaves the machine but what was asked for.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:  # what a library says to its callers would land in the middle of an answer
        warnings.simplefilter("ignore")
    try:
        result = build().main(arguments, prog_name="steerchat", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (Interrupted, KeyboardInterrupt, click.Abort):
        return 130
    except SteerchatError as error:
        _screen().error(error)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # the reader has gone, and nobody is left to tell
        _let_go_of_output()
        return 1
    except OSError as error:
        _screen().error(
            SteerchatError(f"{error.filename or 'the output'} cannot be read or written: {error.strerror}", _ROOM)
        )
        _let_go_of_output()
        return 1
    except Exception as error:  # a mistake in steerchat: a line, with the details in a file
        from ..conversation.chat import unexpected

        _screen().error(unexpected(error))
        return 1


_ROOM = "is there room on the disk, and may it be written?"


def _open_streams() -> None:
    """A stream that was closed before the start (`steerchat <&-`) is None, which no library expects."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _let_go_of_output() -> None:
    """Python would complain once more when it closes its output."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
