"""Slash commands, each declared once.

To add one, write a function in the commands package; its first parameter is the chat:

    @command("history", examples=["/history 3", "/history --search weather"], group="Notebook", shell=True)
    def history(chat: Chat, pair: Annotated[int | None, PairId] = None, *,
                search: Annotated[str, Option("only pairs with these words")] = "") -> None:
        \"\"\"Lists the pairs, or shows one whole.\"\"\"
        chat.show_history(pair, search)

That is all. Positional parameters are its arguments, keyword-only ones its options (`--search WORDS`; a bool is a
flag), defaults make them optional. The docstring's first line is its summary. `steerchat.slash.arguments` has the kinds
of argument. Usage, help, completion, the table of commands in tutorials/ and the shell's subcommand follow from this.
A name of two words is a noun with its verb: "/history rerun 3" finds "history rerun" before "history".
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..values.errors import UsageError, unknown
from ..values.page import Definitions, Page
from .arguments import Candidate
from .line import bind
from .parameters import Parameter, parameters_of

Handler = TypeVar("Handler", bound=Callable[..., Any])

_HEAD = re.compile(r"\s*/(\S*)\s*(\S*)")
_LISTED = "/help lists the commands; a message that begins with / is typed with //"


@dataclass(frozen=True)
class Command:
    """One command as declared.

    Attributes:
        name: "compare", or a noun and its verb, "steer add".
        handler: called with the chat and the values given.
        summary: one line.
        body: the rest of the docstring; may be empty.
        examples: slash lines.
        group: the heading that help lists it under.
        shell: whether `steerchat` has it as a subcommand too.
        aliases: other names for it.
        needs_model: whether the shell starts to load the model for it.
        parallel: whether several processes, started together, can divide its answers among them.
        exports: whether its JSON objects are stored pairs, which the shell also writes as CSV and Markdown.
    """

    name: str
    handler: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    summary: str
    body: str
    examples: tuple[str, ...]
    group: str
    shell: bool
    aliases: tuple[str, ...]
    needs_model: bool
    parallel: bool
    exports: bool

    @property
    def usage(self) -> str:
        """`/compare [--repeats N] [--raw] [PROMPT]`."""
        ordered = sorted(self.parameters, key=lambda one: not one.option)
        return " ".join([f"/{self.name}", *(one.shown if one.required else f"[{one.shown}]" for one in ordered)])


@dataclass(frozen=True)
class Bound:
    """A command with the values for one call; what the user left out stays with the handler's defaults."""

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

        Raises:
            ValueError: for a mistake in the declaration.
        """

        def declare(handler: Handler) -> Handler:
            summary, _, body = (inspect.getdoc(handler) or "").partition("\n")
            if not summary:
                raise ValueError(f"/{name} has no docstring to take its summary from")
            for one in (name, *aliases):
                if one in self._commands or one in self._aliases:
                    raise ValueError(f"/{one} is declared twice")
                if not re.fullmatch(r"[a-z][a-z-]*( [a-z][a-z-]*)?", one):
                    raise ValueError(f"{one!r} is not one or two lower-case words")
            self._commands[name] = Command(
                name,
                handler,
                parameters_of(handler),
                summary,
                # Its line breaks are the source's; a blank line parts paragraphs.
                re.sub(r"(?<!\n)\n(?!\n)", " ", body.strip()),
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

        Raises:
            UnknownName: with the nearest name.
        """
        plain = " ".join(name.lower().removeprefix("/").split())
        noun, _, verb = plain.partition(" ")
        full = f"{self._aliases.get(noun, noun)} {verb}".strip()
        found = self._commands.get(self._aliases.get(full, full))
        if found is None:
            raise self._unknown(plain)
        return found

    def split(self, line: str) -> tuple[Command, str]:
        """The command that a line calls, and the line after its name.

        Raises:
            UsageError: when it calls none.
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
            known = ", ".join(f"/{noun} {one}" for one, _ in self.verbs(noun))
            raise UsageError(f"/{noun} needs one word more", known) from None
        if verb and not verb.startswith("-") and not command.parameters and self.verbs(noun):
            raise self._unknown(f"{command.name} {verb}")
        return command, line[head.end(1) :]

    def parse(self, line: str) -> Bound:
        """A slash line as a call of its command.

        Raises:
            UsageError: for an unknown command, or arguments that it does not take.
        """
        command, tail = self.split(line)
        return Bound(command, bind(tail, command.parameters, command.usage))

    def _unknown(self, name: str) -> UsageError:
        names = [f"/{one}" for one in (*self._commands, *self._aliases)]
        return unknown("command", f"/{name}", names, _LISTED)

    # What completion and concept names need

    def nouns(self) -> list[Candidate]:
        """Every first word, with its summary; of a noun that has no command itself, its verbs."""
        found: dict[str, str] = {}
        for name in self._commands:
            noun = name.partition(" ")[0]
            bare = self._commands.get(noun)
            found[noun] = bare.summary if bare else ", ".join(verb for verb, _ in self.verbs(noun))
        for alias, name in self._aliases.items():
            if " " not in alias:
                found[alias] = f"same as /{name}"
        return list(found.items())

    def verbs(self, noun: str) -> list[Candidate]:
        """The second words that a noun takes, with their summaries."""
        noun = self._aliases.get(noun, noun)
        named = [*self._commands.items(), *((alias, self._commands[name]) for alias, name in self._aliases.items())]
        return [(name.partition(" ")[2], one.summary) for name, one in named if name.startswith(f"{noun} ")]

    def reserved_words(self) -> frozenset[str]:
        """Words that a concept cannot be called, as they would be taken for a verb or a built-in."""
        names = [*self._commands, *self._aliases]
        return frozenset({"all", "random", *(name.partition(" ")[2] for name in names if " " in name)})

    # Help

    def overview(self) -> dict[str, list[Candidate]]:
        """(usage, summary) of every command, by group."""
        groups: dict[str, list[Candidate]] = {}
        for one in self:
            groups.setdefault(one.group, []).append((one.usage, one.summary))
        return groups

    def help(self, name: str = "") -> Page:
        """Help on one command, or the list of all commands without a name. Raises UnknownName."""
        if not name:
            return Page([Definitions(group, commands) for group, commands in self.overview().items()])
        command = self.get(name)
        arguments = [(one.shown, one.meaning) for one in command.parameters if not one.option]
        options = [(one.shown, one.meaning) for one in command.parameters if one.option]
        subcommands = [(one.usage, one.summary) for one in self if one.name.startswith(f"{command.name} ")]
        sections = [("Arguments", arguments), ("Options", options), ("See also", subcommands)]
        sections.append(("Aliases", [(f"/{alias}", "") for alias in command.aliases]))
        sections.append(("Examples", [(example, "") for example in command.examples]))
        text = f"{command.usage}\n{command.summary}" + (f"\n\n{command.body}" if command.body else "")
        return Page([text, *(Definitions(*section) for section in sections if section[1])])

    def markdown_table(self) -> str:
        """Every command as a table in Markdown, with a heading row for each group."""
        rows = ["| Command | What it does |", "|---|---|"]
        for group, commands in self.overview().items():
            rows.append(f"| **{_cell(group)}** | |")
            rows += [f"| `{_cell(usage)}` | {_cell(summary)} |" for usage, summary in commands]
        return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


registry = Registry()
"""The commands of steerchat; the commands package fills it."""

command = registry.command


def is_command(line: str) -> bool:
    """Whether a line calls a command, rather than being a message."""
    return line.lstrip().startswith("/") and not line.lstrip().startswith("//")


def message_text(line: str) -> str:
    """What a line that is no command says to the model: `//usr/bin` says `/usr/bin`."""
    return line.replace("//", "/", 1) if line.lstrip().startswith("//") else line
