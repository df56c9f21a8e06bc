"""Slash commands, each declared once.

To add one, write a function in the commands package; its first parameter is the chat:

    @command("history", examples=["/history 3", "/history --search weather"], group="Notebook", shell=True)
    def history(chat: Chat, pair: Annotated[int | None, PairId] = None, *,
                search: Annotated[str, "only pairs with these words"] = "") -> Page:
        \"\"\"Lists the pairs, or shows one in full.\"\"\"
        return pages(chat, pair, search)

Positional parameters are the command's arguments, keyword-only ones its options (`--search WORDS`; a bool is a flag);
those with a default are optional. The docstring's first line is the summary. `steerchat.slash.arguments` has the kinds
of argument. Usage, help, completion, the table of commands in tutorials/ and the shell's subcommand derive from this.
A name of two words is a noun with a verb, its subcommand: "/history rerun 3" calls "history rerun", not "history".
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..values.errors import UsageError, unknown
from ..values.operation import OPERATIONS
from ..values.page import Definitions, Heading, Page
from ..values.results import Notice
from .arguments import Candidate
from .line import Reading
from .parameters import Parameter, parameters_of

Handler = TypeVar("Handler", bound=Callable[..., Any])

_HEAD = re.compile(r"\s*/(\S*)\s*(\S*)")
_LISTED = "/help lists the commands; a message that begins with / is typed with //"


@dataclass(frozen=True)
class Command:
    """One command as declared."""

    name: str  # "compare", or a noun and a verb, "steer add"
    handler: Callable[..., Any]  # called with the chat and the parsed values
    parameters: tuple[Parameter, ...]
    summary: str  # its docstring's first line
    body: str  # the rest of the docstring; may be empty
    examples: tuple[str, ...]  # slash lines
    group: str  # its heading in /help
    shell: bool  # whether `steerchat` also has it as a subcommand
    aliases: tuple[str, ...]
    needs_model: bool  # whether the shell starts to load the model for it
    parallel: bool  # whether several processes, started together, can divide its answers among them
    exports: bool  # whether its JSON objects are stored pairs, which the shell also writes as CSV and Markdown

    @property
    def usage(self) -> str:
        """`/compare [--repeats N] [--raw] [PROMPT]`."""
        return self._usage([*self.options, *self.arguments])

    @property
    def short_usage(self) -> str:
        """Without options: `/compare [PROMPT]`."""
        return self._usage(self.arguments)

    @property
    def arguments(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters if not parameter.option]

    @property
    def options(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters if parameter.option]

    def _usage(self, parameters: Sequence[Parameter]) -> str:
        words = [parameter.shown if parameter.required else f"[{parameter.shown}]" for parameter in parameters]
        return " ".join([f"/{self.name}", *words])

    def reading(self) -> Reading:
        return Reading(self.parameters, self.usage)


@dataclass(frozen=True)
class Bound:
    """A command with the values for one call; the handler's defaults stand for the values that the line omits."""

    command: Command
    kwargs: dict[str, Any]

    def run(self, chat: Any) -> Any:
        return self.command.handler(chat, **self.kwargs)


class Registry:
    """Commands by name, in the order of their declaration."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}
        self._aliases: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._commands or name in self._aliases

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())

    def command(
        self,
        name: str,
        *,
        examples: Sequence[str],
        group: str = "General",
        shell: bool = False,
        aliases: Sequence[str] = (),
        needs_model: bool = True,
        parallel: bool = False,
        exports: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Declares the decorated function as a command; the function itself is unchanged.

        Raises ValueError for a mistake in the declaration.
        """

        def declare(handler: Handler) -> Handler:
            summary, _, body = (inspect.getdoc(handler) or "").partition("\n")
            if not summary:
                raise ValueError(f"/{name} needs a docstring, whose first line is the summary")
            for label in (name, *aliases):
                if label in self:
                    raise ValueError(f"/{label} is declared twice")
                if not re.fullmatch(r"[a-z][a-z-]*( [a-z][a-z-]*)?", label):
                    raise ValueError(f"a name is one or two lower-case words, not {label!r}")
            # Only a blank line separates paragraphs; other line breaks belong to the source.
            paragraphs = re.sub(r"(?<!\n)\n(?!\n)", " ", body.strip())
            self._commands[name] = Command(
                name,
                handler,
                parameters_of(handler),
                summary,
                paragraphs,
                tuple(examples),
                group,
                shell,
                tuple(aliases),
                needs_model,
                parallel,
                exports,
            )
            self._aliases.update(dict.fromkeys(aliases, name))
            return handler

        return declare

    # Finding and parsing

    def get(self, name: str) -> Command:
        """The command called `name`, with or without a slash, by its own name or an alias.

        Raises UnknownName when there is no such command; the hint suggests the nearest name.
        """
        plain = " ".join(name.lower().removeprefix("/").split())
        noun, _, verb = plain.partition(" ")
        full = f"{self._aliases.get(noun, noun)} {verb}".strip()
        command = self._commands.get(self._aliases.get(full, full))
        if command is None:
            raise self._unknown(plain)
        return command

    def split(self, line: str) -> tuple[Command, str]:
        """The command that a line calls, and the rest of the line.

        Raises UsageError when the line calls no known command.
        """
        head = _HEAD.match(line)
        if head is None or not head[1]:
            raise UsageError("there is no command after the slash", _LISTED)
        noun = head[1].lower()
        verb = head[2].lower()
        if verb in dict(self.verbs(noun)):
            return self.get(f"{noun} {verb}"), line[head.end() :]
        try:
            command = self.get(noun)
        except UsageError:
            if not self.verbs(noun):
                raise
            if verb:
                raise self._unknown(f"{noun} {verb}") from None
            verbs = [name for name, _ in self.verbs(noun)]
            message = f"/{noun} needs a subcommand: {', '.join(verbs)}"
            raise UsageError(message, f"for example: /{noun} {verbs[0]}") from None
        if verb and not verb.startswith("-") and not command.parameters and self.verbs(noun):
            raise self._unknown(f"{command.name} {verb}")
        return command, line[head.end(1) :]

    def same_command(self, line: str, other: str) -> bool:
        """Whether two lines call the same command, or both are messages."""
        if not (is_command(line) and is_command(other)):
            return is_command(line) == is_command(other)
        try:
            return self.split(line)[0].name == self.split(other)[0].name
        except UsageError:
            return False

    def parse(self, line: str) -> Bound:
        """A slash line as a call of its command.

        Raises UsageError when the command is unknown, or does not take the arguments.
        """
        command, tail = self.split(line)
        return Bound(command, command.reading().read(tail).values())

    def _unknown(self, name: str) -> UsageError:
        return unknown("command", f"/{name}", [f"/{label}" for label in (*self._commands, *self._aliases)], _LISTED)

    # For completion and for the names of concepts

    def nouns(self) -> list[Candidate]:
        """Every first word, with its command's summary; with its verbs where it is no command itself."""
        summaries: dict[str, str] = {}
        for name in self._commands:
            noun = name.partition(" ")[0]
            bare = self._commands.get(noun)
            summaries[noun] = bare.summary if bare else ", ".join(verb for verb, _ in self.verbs(noun))
        summaries |= {alias: f"same as /{name}" for alias, name in self._aliases.items() if " " not in alias}
        return list(summaries.items())

    def verbs(self, noun: str) -> list[Candidate]:
        """The second words that a noun takes, with their summaries."""
        noun = self._aliases.get(noun, noun)
        aliased = ((alias, self._commands[name]) for alias, name in self._aliases.items())
        return [
            (name.partition(" ")[2], command.summary)
            for name, command in (*self._commands.items(), *aliased)
            if name.startswith(f"{noun} ")
        ]

    def reserved_words(self) -> frozenset[str]:
        """Names that a concept cannot have, because a line would take them for a verb or a built-in concept."""
        names = [*self._commands, *self._aliases]
        verbs = (name.partition(" ")[2] for name in names if " " in name)
        return frozenset({"all", "random", *OPERATIONS, *verbs})

    # Help

    def groups(self) -> dict[str, list[Command]]:
        """The commands of each group."""
        groups: dict[str, list[Command]] = {}
        for command in self:
            groups.setdefault(command.group, []).append(command)
        return groups

    def help(self, name: str = "") -> Page:
        """Help on one command; without a name, the list of all commands. Raises UnknownName."""
        if not name:
            lists = [Definitions(group, _entries(commands, short=True)) for group, commands in self.groups().items()]
            return Page([*lists, Notice("/help COMMAND explains a command and its options.")])
        command = self.get(name)
        sections = {
            "Arguments": [(argument.shown, argument.meaning) for argument in command.arguments],
            "Options": [(option.shown, option.meaning) for option in command.options],
            "Subcommands": _entries([other for other in self if other.name.startswith(f"{command.name} ")]),
            "Aliases": [(f"/{alias}", "") for alias in command.aliases],
            "Examples": [(example, "") for example in command.examples],
        }
        text = f"{command.summary}\n\n{command.body}".strip()
        lists = [Definitions(heading, entries) for heading, entries in sections.items() if entries]
        return Page([Heading(command.usage), text, *lists])

    def markdown_table(self) -> str:
        """Every command as a table in Markdown, with a heading row for each group."""
        rows = ["| Command | What it does |", "|---|---|"]
        for group, commands in self.groups().items():
            rows.append(f"| **{_cell(group)}** | |")
            rows += [f"| `{_cell(usage)}` | {_cell(summary)} |" for usage, summary in _entries(commands)]
        return "\n".join(rows) + "\n"


def _entries(commands: Sequence[Command], short: bool = False) -> list[tuple[str, str]]:
    return [(command.short_usage if short else command.usage, command.summary) for command in commands]


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


registry = Registry()
"""The commands of steerchat; the commands package fills it."""

command = registry.command


def is_command(line: str) -> bool:
    """Whether a line calls a command; if not, it is a message."""
    return line.lstrip().startswith("/") and not line.lstrip().startswith("//")


def message_text(line: str) -> str:
    """The message in a line that calls no command: `//usr/bin` stands for `/usr/bin`."""
    return line.replace("//", "/", 1) if line.lstrip().startswith("//") else line
