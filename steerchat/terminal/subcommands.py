"""Slash commands as subcommands of the shell: their options, and how a result is printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from ..conversation.chat import Chat
from ..experiments.run import compare_all
from ..reports.csv import FORMS
from ..slash.parameters import Parameter
from ..slash.registry import Command
from ..system.folders import read_prompts
from ..values.errors import Interrupted, UsageError
from ..values.operation import ADD, OPERATIONS
from ..values.page import Page
from ..values.recipe import parse_term
from ..values.results import Notice, PairDone
from ..values.text import clean, in_encoding, to_json
from .start import given_settings, new_screen, open_chat, setting_options

_NUMBER = re.compile(r"-(\d|\.\d)")


class Subcommand(click.Command):
    """A slash command in the shell, under the last word of its name.

    click splits options from arguments and makes the help. The values are read as in a slash line, so that both say
    the same of a mistake.
    """

    def __init__(self, command: Command) -> None:
        self._command = command
        options = [_option(option) for option in command.options]
        own = {option.name for option in options}
        options += [option for option in _shared_options(command) if option.name not in own]
        arguments = command.short_usage.removeprefix(f"/{command.name}").strip()
        super().__init__(
            command.name.rpartition(" ")[2],
            callback=self._run,
            params=[click.Argument(["words"], nargs=-1, metavar=arguments), *options],
            help=f"{command.summary}\n\n{command.body}".strip(),
            short_help=command.summary,
            context_settings={"ignore_unknown_options": True},
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click takes -2.0 for an option unless it may pass unknown ones on, which would hide real slips.
        known = {label for parameter in self.get_params(ctx) for label in parameter.opts}
        for arg in args[: args.index("--")] if "--" in args else args:
            name = arg.partition("=")[0] if arg.startswith("--") else arg[:2]
            if name.startswith("-") and name != "-" and not _NUMBER.match(arg) and name not in known:
                raise click.NoSuchOption(name, ctx=ctx)
        return super().parse_args(ctx, args)

    def _run(self, words: Sequence[str], **given: Any) -> None:
        command = self._command
        own = {option.name: given.pop(option.name) for option in command.options}
        options = {name: value for name, value in own.items() if value is not None and value is not False}
        run_command(command, command.reading().read_words(words, options).values(), **given)


def _option(parameter: Parameter) -> click.Parameter:
    kind: dict[str, Any] = {"is_flag": True} if parameter.flag else {"metavar": parameter.metavar}
    return click.Option([parameter.label, parameter.name], help=parameter.meaning, **kind)


def _shared_options(command: Command) -> list[click.Parameter]:
    """The options beside a command's own; a recipe and a file of prompts only where there is a prompt."""
    options: list[click.Parameter] = []
    if any(parameter.name == "prompt" for parameter in command.parameters):
        term = '"happy 16 2.0" or happy:16:2.0; repeat to add'
        options += [
            click.Option(["--steer"], multiple=True, metavar="TERM", help=term),
            *(
                click.Option([f"--{name}", f"operation_{name}"], multiple=True, metavar="TERM", help=operation.summary)
                for name, operation in OPERATIONS.items()
                if name != ADD
            ),
            click.Option(["--prompts"], metavar="FILE", help="a prompt a line; - reads standard input"),
        ]
    options += [click.Option(["--json", "as_json"], is_flag=True, help="one JSON object a line"), *setting_options()]
    if command.exports:
        options += [
            click.Option(["--csv"], is_flag=True, help="one line a pair, with the columns of pair_view"),
            click.Option(["--markdown"], is_flag=True, help="each pair whole"),
        ]
    return options


def run_command(
    command: Command,
    values: dict[str, Any],
    *,
    steer: Sequence[str] = (),
    prompts: str | None = None,
    as_json: bool = False,
    csv: bool = False,
    markdown: bool = False,
    **settings: Any,
) -> None:
    """Run a slash command from the shell, and print its result as on a screen or in one of the forms.

    Args:
        values: of its own arguments and options.
        steer: terms of the recipe; those of another operation than adding are in `settings`, by its name.
        prompts: a file of prompts, each answered by its own call.
        settings: those given after the subcommand; None where one was not.
    """
    from . import repl

    forms = [name for name, wanted in (("json", as_json), ("csv", csv), ("markdown", markdown)) if wanted]
    if len(forms) > 1:
        raise UsageError("a result has one form", "use one of --json, --csv and --markdown")
    if prompts is not None and values.get("prompt"):
        raise UsageError("both a prompt and a file of prompts are given", "put the prompt into the file")
    others = {name: settings.pop(f"operation_{name}", ()) for name in OPERATIONS}
    terms = [*steer, *(f"{name} {term}" for name, given in others.items() for term in given)]
    requests = [parse_term(term) for term in terms]
    screen = new_screen()
    ask = repl.asker(screen) if repl.interactive() else None
    with open_chat(command.name, given_settings(settings), screen.aside, ask, parallel=command.parallel) as chat:
        chat.single = True
        screen.images = repl.images(chat, screen)
        team, stop = chat.team, chat.session.stop
        with repl.stoppable(stop if team is None else team.stop):
            if command.needs_model:
                chat.start()
            if requests:
                for note in chat.session.steer(requests):
                    click.echo(clean(note), err=True)
            read = lambda: None if prompts is None else read_prompts(prompts)  # noqa: E731
            for result in _results(chat, command, values, read() if team is None else team.from_first(read)):
                if as_json:
                    for item in _json(result):
                        click.echo(in_encoding(to_json(item), getattr(sys.stdout, "encoding", None) or "utf-8"))
                elif forms:
                    ids = [item["id"] for item in _json(result)]
                    click.echo(FORMS[forms[0]](chat.session.store, ids), nl=False)
                else:
                    repl.show(chat, screen, result)
            if stop.is_set():
                raise Interrupted(f"steerchat {command.name}")


def _results(chat: Chat, command: Command, values: dict[str, Any], prompts: Sequence[str] | None) -> Iterator[Any]:
    """The result of the command, or one for each prompt of a file."""
    plain = command.name == "compare" and values.get("repeats", 1) == 1 and not values.get("control")
    if prompts is None:
        yield command.handler(chat, **values)
    elif plain:
        yield compare_all(chat.session, prompts, values.get("raw", False))
    else:
        for prompt in prompts:
            if chat.session.stop.is_set():
                return
            yield command.handler(chat, **values | {"prompt": prompt})


def _json(result: Any) -> Iterator[Any]:
    """A result's JSON objects: of each pair in a stream, of each row of a list, of a value."""
    if isinstance(result, Iterator):
        for event in result:
            if isinstance(event, PairDone):
                yield event.pair.to_json()
            elif isinstance(event, Page):
                yield from event.objects
    elif isinstance(result, Page):
        yield from result.objects
    elif isinstance(result, list):
        for item in result:
            yield from _json(item)
    elif isinstance(result, str | Notice):
        yield {"message": result if isinstance(result, str) else result.text}
    else:
        yield result.to_json()
