"""The shell's groups of verbs, and the two groups without slash commands: `model fetch` and `db`."""

from __future__ import annotations

from pathlib import Path

import click

from ..conversation.app import history_path
from ..models.find import fetch_default
from ..storage import file as storage
from ..values.errors import ExitCode, StoreError
from ..values.text import clean
from .start import new_screen


class Noun(click.Group):
    """The verbs of a noun; a bare noun lists, as in the chat."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        listing = self.commands.get("list")
        if listing is not None and self._is_for(listing, ctx, args):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def _is_for(self, listing: click.Command, ctx: click.Context, args: list[str]) -> bool:
        if not args:
            return True
        first = args[0]
        if first in (*ctx.help_option_names, "--"):
            return False
        # `history 3`: the bare noun is a command with arguments.
        takes_words = any(isinstance(parameter, click.Argument) and parameter.metavar for parameter in listing.params)
        return first.startswith("-") or (takes_words and first not in self.commands)


def model_group() -> click.Group:
    """`steerchat model`."""

    @click.group(cls=Noun, help="Models on this machine.")
    def model() -> None: ...

    @model.command(help="Fetch the default model ahead of time.")
    @click.option("--to", metavar="DIR", help="also put the download there, to be copied to other machines")
    def fetch(to: str | None) -> None:
        screen = new_screen()
        path = fetch_default(Path(to) if to else None, screen.show)
        screen.show(f"the default model is ready in {path}")

    return model


def db_group() -> click.Group:
    """`steerchat db`. None of it opens the history as a chat does, so that it works on a damaged file too."""

    @click.group(help="The history's file: its path, a backup, a check for damage.")
    def db() -> None: ...

    @db.command(help="Print its path.")
    def path() -> None:
        click.echo(history_path())

    @db.command(help="Write a whole copy to FILE, also while a chat is running.")
    @click.argument("file", metavar="FILE")
    def backup(file: str) -> None:
        copy = storage.backup(history_path(), Path(file))
        click.echo(copy)
        if storage.check(copy):
            raise StoreError("the history is damaged, and so is its copy", "steerchat db check lists the damage")

    @db.command(help="Look for damage. Exit code 1 when there is some.")
    def check() -> None:
        damage = storage.check(history_path())
        for line in damage or ["no damage found"]:
            click.echo(clean(line))
        click.get_current_context().exit(ExitCode.FAILED if damage else ExitCode.DONE)

    return db
