"""Draws charts with matplotlib. Importing this needs the extra `plot`."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..values.chart import Chart, Cloud, Drawn, Interval, Matrix, Points, Series, Tokens
from ..values.text import clean, fit
from .looks import ACCENT, DOTS, FAINT, INK, OTHER, label, legend, style
from .tokens import token_panels

_PANEL = (4.5, 2.7)  # inches
_SQUARE = 3.2
_LOW = 2.1  # the height of a wide panel
_MOST_LABELS = 12  # on an axis


class Drawing(Figure):
    """A figure that a notebook shows, and that keeps the description it was drawn from."""

    drawn: Drawn

    def _repr_svg_(self) -> str:
        from .svg import standing

        return standing(self)


def figure(drawn: Drawn, titled: bool = True) -> Drawing:
    """A whole chart as one figure.

    `titled`: whether the figure has the chart's title, which a page shows as a caption instead.
    """
    match drawn:
        case Chart():
            columns = 1 if len(drawn.panels) < 3 else 2
            size = (_PANEL[0] * columns, _PANEL[1] * -(-len(drawn.panels) // columns))
            return _drawing(drawn, [_panel(drawn, panel) for panel in drawn.panels], size, titled, columns)
        case Matrix():
            return _drawing(drawn, [_matrix(drawn)], _matrix_size(drawn), titled)
        case Points():
            columns = min(3, len(drawn.clouds))
            size = (_SQUARE * max(columns, 1), _SQUARE * -(-len(drawn.clouds) // max(columns, 1)))
            return _drawing(drawn, [_cloud(drawn, cloud) for cloud in drawn.clouds], size, titled, columns)
        case Tokens():
            drawers = token_panels(drawn)
            return _drawing(drawn, drawers, (2 * _PANEL[0], _LOW * len(drawers)), titled)


def panels(drawn: Drawn) -> list[Drawing]:
    """A figure for each panel of a chart, so that a page can set them side by side or, where it is narrow, in a row."""
    match drawn:
        case Chart():
            return [_drawing(drawn, [_panel(drawn, panel)], _PANEL, False) for panel in drawn.panels]
        case Matrix():
            return [figure(drawn, titled=False)]
        case Points():
            return [_drawing(drawn, [_cloud(drawn, cloud)], (_SQUARE, _SQUARE), False) for cloud in drawn.clouds]
        case Tokens():
            return [_drawing(drawn, [panel], _PANEL, False) for panel in token_panels(drawn)]


def _drawing(
    drawn: Drawn, draw: Sequence[Callable[[Axes], None]], size: tuple[float, float], titled: bool, columns: int = 1
) -> Drawing:
    title = textwrap.wrap(clean(drawn.title), max(24, int(size[0] * 10.5))) if titled else []
    with style():
        made = Drawing(figsize=(size[0], size[1] + 0.2 * len(title)))
        made.drawn = drawn
        if title:
            made.suptitle("\n".join(title), x=0.01, ha="left", fontsize=10, fontweight="bold")
        for index, panel in enumerate(draw, 1):
            panel(made.add_subplot(-(-len(draw) // columns), columns, index))
        return made


# Series over an axis


def _panel(chart: Chart, panel: Sequence[Series]) -> Callable[[Axes], None]:
    places = list(chart.at) or list(map(float, range(len(chart.labels))))
    order = sorted(range(len(places)), key=places.__getitem__)
    joined = bool(chart.at)

    def draw(axes: Axes) -> None:
        lead = panel[0]
        known = [(places[index], band) for index in order if lead.bands and (band := lead.bands[index])]
        meaning = clean(lead.meaning or lead.name) + ("; shaded: chance" if known else "")
        axes.set_title("\n".join(textwrap.wrap(meaning, 58)))
        _bands(axes, known, joined)
        if lead.rest is not None:
            axes.axhline(lead.rest, color=FAINT, lw=0.8)
        for series in panel:
            number = chart.series.index(series) if len(panel) == 1 else panel.index(series)
            values = [math.nan if value is None or not math.isfinite(value) else value for value in series.values]
            axes.errorbar(
                [places[index] for index in order],
                [values[index] for index in order],
                _reach(series, order),
                fmt=DOTS[number % len(DOTS)] + ("-" if joined else ""),
                color=OTHER if number else ACCENT,
                label=label(series.name),
                **{"ms": 4, "lw": 1.4, "elinewidth": 1, "capsize": 2},
            )
        axes.set_xlabel(label(chart.axis))
        _ticks(axes, places, list(map(label, chart.labels)), order, joined)
        _scale(axes, lead, room=chart.useful is not None)
        if len(panel) > 1:
            legend(axes)
        if chart.useful is not None:
            first, last = sorted(places[index] for index in chart.useful)
            pad = _least_gap(sorted(places)) / 4
            axes.axvspan(first - pad, last + pad, color=ACCENT, alpha=0.1, lw=0)
            axes.text((first + last) / 2, 0.99, "useful", transform=axes.get_xaxis_transform(), ha="center", va="top")

    return draw


def _reach(series: Series, order: Sequence[int]) -> Any:
    """How far each value's interval reaches below and above it; None where no interval is known."""
    if any(series.intervals):
        edges = [series.intervals[index] or (series.values[index] or 0.0,) * 2 for index in order]
        values = [series.values[index] or 0.0 for index in order]
        return [
            [max(0.0, value - low) for value, (low, _) in zip(values, edges, strict=True)],
            [max(0.0, high - value) for value, (_, high) in zip(values, edges, strict=True)],
        ]
    return [series.spreads[index] or 0.0 for index in order] if any(series.spreads) else None


def _bands(axes: Axes, known: Sequence[tuple[float, Interval]], joined: bool) -> None:
    """What chance alone gives, shaded: along the axis, or around each place where the places are only names."""
    for x, (low, high) in () if joined else known:
        axes.fill_between([x - 0.3, x + 0.3], low, high, color=FAINT, alpha=0.25, lw=0)
    if joined and known:
        lows, highs = zip(*(band for _, band in known), strict=True)
        axes.fill_between([x for x, _ in known], lows, highs, color=FAINT, alpha=0.25, lw=0)


def _ticks(axes: Axes, places: Sequence[float], labels: Sequence[str], order: Sequence[int], joined: bool) -> None:
    """A tick for each place, and a label where the one before is far enough away."""
    room = (max(places) - min(places)) / _MOST_LABELS
    shown: list[int] = []
    for index in order:
        if not shown or places[index] - places[shown[-1]] >= room:
            shown.append(index)
    axes.set_xticks([places[index] for index in shown], [labels[index] for index in shown])
    if joined:
        axes.set_xticks(list(places), minor=True)
    else:
        axes.set_xlim(min(places) - 0.6, max(places) + 0.6)


def _least_gap(places: Sequence[float]) -> float:
    return min((b - a for a, b in itertools.pairwise(places) if a != b), default=1.0)


def _scale(axes: Axes, series: Series, room: bool) -> None:
    """Shows at least the series' own scale, with room for a word at the top; a cost that explodes is logarithmic."""
    low, high = axes.get_ylim()
    if series.scale is not None:
        pad = 0.05 * (series.scale[1] - series.scale[0])
        low, high = min(low, series.scale[0] - pad), max(high, series.scale[1] + pad)
    if series.form in ("share", "probability"):
        low = -0.02 * high
    if series.form == "cost" and high > 12:
        axes.set_yscale("log")
        low = max(0.7, min((value for value in series.values if value), default=1.0) * 0.9)
        high *= (high / low) ** 0.12 if room else 1.0
    elif room:
        high += 0.12 * (high - low)
    axes.set_ylim(low, high)
    match series.form:
        case "cost":
            axes.yaxis.set_major_formatter(lambda value, _: f"x{value:g}")
            axes.yaxis.set_minor_formatter("")
        case "share" | "probability":
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")


# Matrices


def _matrix_size(matrix: Matrix) -> tuple[float, float]:
    left = 0.09 * max((len(label(name)) for name, _ in matrix.rows), default=0)
    above = 0.075 * max((len(label(name)) for name in matrix.columns), default=0)
    texts = [matrix.text(row, column) for row in range(len(matrix.rows)) for column in range(len(matrix.columns))]
    cell = 0.1 + 0.085 * max(map(len, texts), default=4)
    return max(3.5, left + cell * len(matrix.columns)), 0.5 + above + 0.27 * len(matrix.rows)


def _matrix(matrix: Matrix) -> Callable[[Axes], None]:
    """A shade for each cell, in one colour above 0 and another below, and its number."""

    def draw(axes: Axes) -> None:
        for row, (name, values) in enumerate(matrix.rows):
            for column, value in enumerate(values):
                share = (abs(value or 0.0) / (matrix.most or 1.0)) ** 0.7
                colour = ACCENT if (value or 0.0) > 0 else OTHER
                axes.add_patch(_cell(row, column, facecolor=colour, alpha=0.6 * share, lw=0))
                if (row, column) in matrix.faint:
                    axes.add_patch(_cell(row, column, fill=False, edgecolor=FAINT, hatch="///", lw=0, alpha=0.3))
                if name == matrix.columns[column] or (row, column) == matrix.best:
                    axes.add_patch(_cell(row, column, fill=False, edgecolor=INK, lw=1, zorder=2))
                axes.text(column, row, clean(matrix.text(row, column)), ha="center", va="center", fontsize=8)
        axes.set_xlim(-0.5, len(matrix.columns) - 0.5)
        axes.set_ylim(len(matrix.rows) - 0.5, -0.5)
        turned = 90 if max(map(len, matrix.columns), default=0) > 6 else 0
        axes.set_xticks(range(len(matrix.columns)), list(map(label, matrix.columns)), rotation=turned)
        axes.set_yticks(range(len(matrix.rows)), [label(name) for name, _ in matrix.rows])
        axes.set_ylabel(label(matrix.corner))
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)
        if matrix.faint:
            axes.text(-0.5, len(matrix.rows) - 0.4, "hatched: less fluent", va="top", fontsize=8, color=FAINT)

    return draw


def _cell(row: int, column: int, **look: Any) -> Rectangle:
    return Rectangle((column - 0.5, row - 0.5), 1, 1, clip_on=False, **look)


# Dots in two dimensions


def _cloud(points: Points, cloud: Cloud) -> Callable[[Axes], None]:
    """Both kinds by shape and colour, rings around the ringed ones, and the arrow."""

    def draw(axes: Axes) -> None:
        apart = points.apart(cloud)
        title = label(cloud.name) + ("" if apart is None else f": ringed {apart:.0%} apart")
        axes.set_title(title)
        for kind, (name, colour, dot) in enumerate(zip(points.kinds, (ACCENT, OTHER), "ox", strict=True)):
            dots = [each for each in cloud.dots if each.kind == kind]
            axes.plot(
                [each.x for each in dots],
                [each.y for each in dots],
                dot,
                color=colour,
                ms=4,
                label=fit(clean(name), 16),
            )
            rings = [each for each in dots if each.ringed]
            axes.plot([each.x for each in rings], [each.y for each in rings], "o", color=colour, ms=8, mfc="none")
        x0, y0, x1, y1 = cloud.arrow
        axes.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.4})
        axes.set_xlabel(label(points.axes[0]))
        axes.set_ylabel(label(points.axes[1]))
        legend(axes, gap=0.1)

    return draw
