"""The shell: `steerchat` alone is the chat, its subcommands are the same experiments without one.

A command's result is on standard output; progress, notices and errors are on standard error.
Exit codes: 0 done, 1 a command failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from .. import commands  # noqa: F401  # declares the slash commands
from .._version import __version__
from ..conversation.chat import unexpected
from ..slash.registry import registry
from ..values.errors import ExitCode, SteerchatError, UsageError
from .groups import Noun, db_group, model_group
from .scripts import script_command
from .serving import serve_command
from .start import new_screen, run, setting_options
from .subcommands import Subcommand


class _Shell(click.Group):
    """The group of all subcommands. For a word that is none of them, it says what to type."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            word = args[0].removeprefix("/").split(" ")[0]
            if word in self.commands:
                hint = f"Without the slash and the quotation marks: steerchat {word}"
            elif word in registry:
                hint = f"/{word} is a command of the chat: start steerchat, then type it."
            elif getattr(error, "possibilities", None):
                raise  # click names the nearest
            else:
                hint = 'To ask the model once: steerchat compare "Tell me about the sea" --steer happy'
            raise click.UsageError(f"No such command {args[0]!r}. {hint}", ctx) from None


def build() -> click.Group:
    """The whole command line."""

    @click.group(
        cls=_Shell,
        invoke_without_command=True,
        params=[click.Option(["--resume"], is_flag=True, help="go on with the last conversation"), *setting_options()],
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Chat with a language model and steer it while you talk. Without a command: the chat.",
        epilog="Exit codes: 0 done, 1 a command failed, 2 wrong usage, 130 interrupted.",
    )
    @click.version_option(__version__, prog_name="steerchat")
    @click.pass_context
    def group(context: click.Context, resume: bool, **options: Any) -> None:
        context.obj = options
        if context.invoked_subcommand is None:
            context.exit(run(options, first=["/session resume"] if resume else []))
        if resume:
            raise UsageError("--resume is for the chat", "use steerchat --resume, without a subcommand")

    group.add_command(script_command())
    group.add_command(serve_command())
    nouns = {"model": model_group(), "db": db_group()}
    for command in registry:
        noun, _, verb = command.name.partition(" ")
        if command.shell:
            summary = registry.get(noun).summary if noun in registry else ""
            parent = nouns.setdefault(noun, Noun(noun, help=summary)) if verb else group
            parent.add_command(Subcommand(command))
    for noun, verbs in nouns.items():
        bare = group.commands.get(noun)
        if bare is not None:  # a noun that is a command too: `history 3` beside `history rerun 3`
            verbs.add_command(bare, "list")
            verbs.epilog = f"The options of `steerchat {noun}` alone: steerchat {noun} list --help"
        group.add_command(verbs)
        for alias in registry.get(noun).aliases if noun in registry else ():
            hidden = copy.copy(verbs)
            hidden.hidden = True
            group.add_command(hidden, alias)
    return group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run steerchat. Returns the exit code; every error becomes a line on standard error here."""
    _open_streams()
    # Nothing leaves the machine but what the user asked for.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:  # a library's warnings to its callers would land in the middle of an answer
        warnings.simplefilter("ignore")
    try:
        result = build().main(arguments, prog_name="steerchat", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.DONE
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except SteerchatError as error:
        if error.exit_code != ExitCode.INTERRUPTED:
            new_screen().error(error)
        return error.exit_code
    except BrokenPipeError:  # nobody reads any more
        _drop_output()
        return ExitCode.FAILED
    except OSError as error:
        message = f"{error.filename or 'the output'} cannot be read or written: {error.strerror}"
        new_screen().error(SteerchatError(message, "check the space on the disk and the rights to the file"))
        _drop_output()
        return ExitCode.FAILED
    except Exception as error:  # a mistake in steerchat: a line, with the details in a file
        new_screen().error(unexpected(error))
        return ExitCode.FAILED


def _open_streams() -> None:
    """Make the streams fit for any text.

    One that was closed before the start (`steerchat <&-`) is None, which no library expects. One in another encoding
    than UTF-8 would break off at the first character that it lacks.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _drop_output() -> None:
    """Keeps Python from reporting the error again when it closes its output."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
