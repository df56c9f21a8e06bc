"""Pairs and experiments as HTML in a notebook's cells. Importing this registers them with `results.html`."""

from __future__ import annotations

from ..experiments import pages as experiment_pages
from ..experiments.outcomes import Result
from ..storage.records import StoredPair
from ..values.results import Pair, html
from .chapters import answers, pair_chapter
from .html import to_cell
from .report import Chapter


@html.register
def _(pair: Pair) -> str:
    return to_cell(Chapter(pair.prompt, [("model", f"{pair.model}, seed {pair.seed}")], [pair]))


@html.register
def _(stored: StoredPair) -> str:
    return to_cell(pair_chapter(stored))


@html.register
def _(result: Result) -> str:
    parts = experiment_pages.parts_of(result)
    return to_cell(Chapter(f"{result.kind}: {result.prompt}", [], parts, list(answers(result))))
