"""/report: write a conversation, an experiment or a pair into a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from ..conversation.chat import Chat
from ..conversation.rerun import conversation_number
from ..experiments import inspection_pages, readings
from ..figures import HOW, available
from ..reports.chapters import experiment_report, nothing_more, pair_report, session_report
from ..reports.html import to_html
from ..reports.markdown import to_markdown
from ..reports.report import Report, to_json
from ..slash.arguments import Int, PairId, PathArg
from ..slash.registry import command
from ..storage.records import StoredPair
from ..system.folders import write_whole
from ..values.errors import UsageError
from ..values.results import Notice, Progress
from .asking import Replace, confirm_replacing

FORMS: dict[str, Callable[[Report], str]] = {
    ".md": to_markdown,
    ".markdown": to_markdown,
    ".json": to_json,
    ".html": to_html,
    ".htm": to_html,
}


@command(
    "report",
    examples=["/report chat.html", "/report --pair 1 pair.md", "/report --experiment 1 layers.html"],
    group="Notebook",
    shell=True,
    needs_model=False,
)
def report(
    chat: Chat,
    file: Annotated[Path, PathArg("the file to write; its ending gives the format: .html, .md or .json")],
    *,
    pair: Annotated[int | None, PairId("report one pair")] = None,
    experiment: Annotated[int | None, Int("report one experiment", least=1)] = None,
    session: Annotated[int | None, Int("report this session", least=1)] = None,
    why: Annotated[bool, "also read each steered answer of a conversation or pair token by token"] = False,
    replace: Replace = False,
) -> Notice:
    """Writes this conversation, or one experiment or pair, as an HTML page, Markdown or JSON.

    The page is one file that contains its figures and needs no network. Turns that were taken back are left out.
    """
    if sum(number is not None for number in (pair, experiment, session)) > 1:
        raise UsageError("a report has one subject", "use one of --pair, --experiment and --session")
    form = _form_of(file.suffix)
    extra = partial(_why, chat) if why else nothing_more
    store = chat.session.store
    if pair is not None:
        content = pair_report(store.pair(pair), extra)
    elif experiment is not None:
        content = experiment_report(chat.session.calibration, store, store.experiment(experiment))
    else:
        content = session_report(
            chat.session.calibration, store, session or conversation_number(chat.session, chat.single), extra
        )
    if file.is_dir():
        raise UsageError(f"{file} is a folder", f"/report {file / 'report.html'}")
    confirm_replacing(chat, file, replace)
    write_whole(file, form(content).encode())
    without = form is to_html and bool(content.charts) and not available()
    return Notice(f"{content.title}: written to {file}" + (f", its charts as tables: {HOW}" if without else ""))


def _form_of(suffix: str) -> Callable[[Report], str]:
    """The function that renders a report for a file of that ending. Raises UsageError for an unknown ending."""
    if suffix.lower() not in FORMS:
        raise UsageError(
            f"no report has the ending {suffix!r}" if suffix else "the file's name has no ending",
            "end the name in .html, .md or .json",
        )
    return FORMS[suffix.lower()]


def _why(chat: Chat, stored: StoredPair) -> list[object]:
    """`/why` of a pair that this model answered."""
    steered = stored.pair.steered
    if steered is None or not steered.token_ids or stored.fingerprint != chat.session.engine.fingerprint:
        return []
    chat.report(Progress("reading the answers", 0))
    parts = inspection_pages.why(readings.why(chat.session, stored)).parts
    return [part for part in parts if not isinstance(part, Notice)]  # they explain the marks of a terminal
