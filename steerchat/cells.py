"""Pairs and experiments as HTML in a notebook's cells. Importing this registers them with `results.html`."""

from __future__ import annotations

from .chance import verdict
from .commands import experiment_pages, reports
from .outcomes import Result
from .records import StoredPair
from .report import Chapter
from .report_html import to_cell
from .results import Pair, html


@html.register
def _(pair: Pair) -> str:
    return to_cell(Chapter(pair.prompt, [("model", f"{pair.model}, seed {pair.seed}")], [pair]), verdict)


@html.register
def _(stored: StoredPair) -> str:
    return to_cell(reports.pair_chapter(stored), verdict)


@html.register
def _(result: Result) -> str:
    parts = experiment_pages.page(result).parts
    return to_cell(Chapter(f"{result.kind}: {result.prompt}", [], parts, list(reports.answers(result))), verdict)
