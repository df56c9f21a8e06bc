"""The shell's groups of verbs, and those that no slash command stands behind: `model fetch` and `db`."""

from __future__ import annotations

from pathlib import Path

import click

from ..values.errors import ExitCode
from .start import new_screen


class Noun(click.Group):
    """The verbs of a noun; a bare noun lists, as in the chat. The plural is another spelling."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        helps = bool(args) and args[0] in (*ctx.help_option_names, "--")
        listing = self.commands.get("list")
        itself = listing is not None and listing.name == self.name  # the bare noun's own command, which takes words
        words = bool(args) and (args[0].startswith("-") or (itself and args[0] not in self.commands))
        bare = not args or (not helps and words)
        return super().parse_args(ctx, ["list", *args] if bare and "list" in self.commands else args)


def model_group() -> click.Group:
    """`steerchat model`."""

    @click.group(cls=Noun, help="Models on this machine.")
    def model() -> None: ...

    @model.command(help="Fetch the default model ahead of time.")
    @click.option("--to", metavar="DIR", help="also put the download there, to be copied to other machines")
    def fetch(to: str | None) -> None:
        from ..models.find import fetch_default

        screen = new_screen()
        path = fetch_default(Path(to) if to else None, screen.show)
        screen.show(f"the default model is ready in {path}")

    return model


def db_group() -> click.Group:
    """`steerchat db`. Nothing here opens the history as a chat does, so that a broken one can be looked at too."""

    @click.group(help="The history's file: where it is, a copy of it, whether it is sound.")
    def db() -> None: ...

    @db.command(help="Say where it is.")
    def path() -> None:
        from ..conversation.chat import history_path

        click.echo(history_path())

    @db.command(help="Write a whole copy to FILE, also while a chat goes on.")
    @click.argument("file", metavar="FILE")
    def backup(file: str) -> None:
        from ..conversation.chat import history_path
        from ..storage.file import backup

        click.echo(backup(history_path(), Path(file)))

    @db.command(help="Look for damage. Exit code 1 when there is some.")
    def check() -> None:
        from ..conversation.chat import history_path
        from ..storage.file import check
        from ..values.text import clean

        damage = check(history_path())
        for line in damage or ["no damage found"]:
            click.echo(clean(line))
        click.get_current_context().exit(ExitCode.FAILED if damage else ExitCode.DONE)

    return db
