"""Pairs, experiments and charts as HTML in a notebook's cells, and as figures.

Importing this registers them with `results.html` and `results.plot`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..experiments import pages as experiment_pages
from ..experiments.charts import chart_of, of_pair
from ..experiments.outcomes import Result
from ..figures import HOW, available
from ..storage.records import StoredPair
from ..values.chart import Chart, Drawn, Matrix, Points, Tokens
from ..values.errors import UsageError
from ..values.results import Pair, html, plot
from .chapters import answers, pair_chapter
from .html import to_cell
from .report import Chapter

if TYPE_CHECKING:
    from ..figures.drawing import Drawing


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


@html.register(Chart)
@html.register(Matrix)
@html.register(Points)
@html.register(Tokens)
def _(drawn: Drawn) -> str:
    return to_cell(Chapter("", [], [drawn]))


@plot.register(Chart)
@plot.register(Matrix)
@plot.register(Points)
@plot.register(Tokens)
def _(drawn: Drawn) -> Drawing:
    if not available():
        raise UsageError("figures are drawn by matplotlib, which is not installed", HOW)
    from ..figures.drawing import figure

    return figure(drawn)


@plot.register(Pair)
def _(pair: Pair) -> Drawing:
    return plot(of_pair(pair))


@plot.register(Result)
def _(result: Result) -> Drawing:
    if not result.outcomes:
        raise UsageError(f"the {result.kind} experiment has no measured pair", "run it again")
    return plot(chart_of(result))
