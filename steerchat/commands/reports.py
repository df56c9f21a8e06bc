"""/report: a conversation, an experiment or a pair as a file to keep or to hand on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from ..conversation.chat import Chat
from ..reports.chapters import experiment_report, pair_report, session_report
from ..reports.html import to_html
from ..reports.markdown import Report, to_json, to_markdown
from ..slash.arguments import Int, Option, PairId, PathArg
from ..slash.registry import command
from ..storage.store import Store
from ..system.folders import write_whole
from ..values.errors import Interrupted, StoreError, UsageError
from ..values.results import Notice
from .notebook import open_store


@command(
    "report",
    examples=["/report chat.html", "/report --pair 1 pair.md", "/report --experiment 1 layers.html"],
    group="Notebook",
    shell=True,
    needs_model=False,
)
def report(
    chat: Chat,
    file: Annotated[Path, PathArg("where to; its ending says what: .html, .md or .json")],
    *,
    pair: Annotated[int | None, Option("one pair", PairId(metavar="ID"))] = None,
    experiment: Annotated[int | None, Option("one experiment", Int(least=1))] = None,
    session: Annotated[int | None, Option("in place of this conversation, or of the newest", Int(least=1))] = None,
    replace: Annotated[bool, Option("write over a file that is there")] = False,
) -> Notice:
    """Writes this conversation, or one experiment or pair, as a page, as Markdown or as JSON.

    The page is one file with its charts in it and needs no network. Turns that were taken back are left out.
    """
    if sum(one is not None for one in (pair, experiment, session)) > 1:
        raise UsageError("a report is about one thing", "one of --pair, --experiment and --session")
    form = _form_of(file.suffix)
    store = open_store(chat)
    if pair is not None:
        made = pair_report(store.pair(pair))
    elif experiment is not None:
        made = experiment_report(chat.session.calibration, store, store.experiment(experiment))
    else:
        made = session_report(chat.session.calibration, store, session or _which(chat, store))
    if file.is_dir():
        raise UsageError(f"{file} is a folder", f"/report {file / 'report.html'}")
    if os.path.lexists(file) and not replace:
        if not chat.can_ask:
            raise UsageError(f"{file} is there already", "--replace writes over it, or take another name")
        if chat.ask(f"Write over {file}?", ["yes", "no"]) == "no":
            raise Interrupted("the report")
    try:
        write_whole(file, form(made).encode())
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror or error}", "name another file") from None
    return Notice(f"{made.title}: written to {file}")


def _which(chat: Chat, store: Store) -> int:
    """This conversation, or the newest when nothing was said in this one."""
    if chat.session.journal.session_id is not None:
        return chat.session.journal.session_id
    newest = next((one.id for one in store.sessions(limit=1000) if one.pairs), None)
    if newest is None:
        raise UsageError("the history is empty, so there is nothing to report", "say something first")
    return newest


def _form_of(suffix: str) -> Callable[[Report], str]:
    """What writes a file of that ending. Raises UsageError for an unknown one."""
    forms = {".md": to_markdown, ".markdown": to_markdown, ".json": to_json, ".html": to_html, ".htm": to_html}
    if suffix.lower() not in forms:
        raise UsageError(f"a report is no {suffix or 'file without an ending'}", "end its name in .html, .md or .json")
    return forms[suffix.lower()]
