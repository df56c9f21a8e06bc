"""Charts with block characters: bars in a table with a row for each place, or columns side by side."""

from __future__ import annotations

from collections.abc import Sequence

from ..values.chart import Chart, Drawn, Interval, Matrix, Points, Series, Tokens, in_form, quoted
from ..values.page import Table

_BAR = 16  # cells of a bar
_CELL = 5  # marks in a cell of a matrix with texts
_STRIP = 50  # cells of a cloud's line
_KINDS = ("xo", "XO")  # the marks of both kinds, and of their ringed dots
_MOST_COLUMNS = 64
_ROWS = 3  # of columns side by side
_EIGHTHS = " ▁▂▃▄▅▆▇█"


def chart_table(chart: Chart, noted: bool = True) -> Table:
    """A row for each place: its figures, a bar for the first series, and its note unless `noted` is False."""
    lead = chart.series[0]
    low, high = _scale(lead)
    noted = noted and bool(chart.notes)
    rows = [
        [
            label,
            *(series.text(index) for series in chart.series),
            bar(lead.values[index], lead.bands[index] if lead.bands else None, low, high, lead.rest or 0.0),
            *([chart.notes[index]] if noted else []),
        ]
        for index, label in enumerate(chart.labels)
    ]
    headings = [chart.axis, *(series.name for series in chart.series), "", *([chart.noted] if noted else [])]
    return Table(headings, rows, right=frozenset(range(1 + len(chart.series))), dim=chart.faint)


def matrix_table(matrix: Matrix) -> Table:
    """A matrix with texts: up to five marks in each cell for its value, lighter ones where it is faint."""

    def cell(row: int, column: int, value: float | None) -> str:
        if value is None:
            return matrix.text(row, column)
        marks = "▒" if (row, column) in matrix.faint else "█"
        size = max(0, round(_CELL * value / matrix.most)) if matrix.most else 0
        star = " *" if (row, column) == matrix.best else ""
        return f"{marks * size:·<{_CELL}} {matrix.text(row, column)}{star}"

    rows = [
        [name, *(cell(row, column, value) for column, value in enumerate(values))]
        for row, (name, values) in enumerate(matrix.rows)
    ]
    return Table([matrix.corner, *matrix.columns], rows)


def points_table(points: Points) -> Table:
    """A line for each cloud with its dots along x: a mark for each kind, capital where it is ringed."""
    xs = [dot.x for cloud in points.clouds for dot in cloud.dots]
    low, high = min(xs, default=0.0), max(xs, default=1.0)
    rows = []
    for cloud in points.clouds:
        line = ["·"] * _STRIP
        for dot in sorted(cloud.dots, key=lambda dot: dot.ringed):
            cell = round((dot.x - low) / ((high - low) or 1.0) * (_STRIP - 1))
            mark = _KINDS[dot.ringed][dot.kind]
            line[cell] = mark if line[cell] in ("·", mark, mark.lower()) else "*"
        apart = points.apart(cloud)
        rows.append((cloud.name, "".join(line), "" if apart is None else in_form("share", apart)))
    first, second = points.kinds
    heading = f"{_KINDS[0][1]} {second}, {_KINDS[0][0]} {first}, capital: held out, * both"
    return Table(("", heading, "apart"), rows, right=frozenset({2}))


def numbers(drawn: Drawn) -> Table:
    """What a drawing shows, without bars."""
    match drawn:
        case Chart():
            rows = [
                (label, *(series.text(index) for series in drawn.series)) for index, label in enumerate(drawn.labels)
            ]
            headings = (drawn.axis, *(series.name for series in drawn.series))
            return Table(headings, rows, right=frozenset(range(len(headings))), dim=drawn.faint)
        case Matrix():
            rows = [
                (name, *(drawn.text(row, column) for column in range(len(values))))
                for row, (name, values) in enumerate(drawn.rows)
            ]
            return Table((drawn.corner, *drawn.columns), rows, right=frozenset(range(1, 1 + len(drawn.columns))))
        case Points():
            return points_table(drawn)
        case Tokens():
            return _token_table(drawn)


def _token_table(tokens: Tokens) -> Table:
    """A row for each token; without concepts where the text, in which they are read, has more or fewer tokens."""
    strips = [strip for strip in tokens.strips if strip.column == "steered" and len(strip.values) == len(tokens.tokens)]
    rows = [
        (
            str(index + 1),
            quoted(token),
            in_form("probability", tokens.probabilities[index]),
            *(in_form("cosine", strip.values[index]) for strip in strips),
            *(in_form("share", shares[index]) for _, shares in tokens.pushes),
        )
        for index, token in enumerate(tokens.tokens)
    ]
    names = (*(strip.concept for strip in strips), *(name for name, _ in tokens.pushes))
    return Table(("", "token", "likely", *names), rows, right=frozenset({0, *range(2, 3 + len(names))}))


def bar(value: float | None, band: Interval | None, low: float, high: float, rest: float = 0.0) -> str:
    """A bar from `rest` to `value` on a scale from `low` to `high`; the upright is `rest`, shaded is the band."""
    if value is None or high <= low:
        return ""

    def cell(x: float) -> int:
        return round((x - low) / (high - low) * (_BAR - 1))

    line = ["─"] * _BAR
    if band is not None:
        for index in range(max(0, cell(band[0])), min(_BAR - 1, cell(band[1])) + 1):
            line[index] = "░"
    start, end = sorted((cell(rest), cell(value)))
    line[start : end + 1] = "█" * (end + 1 - start)
    line[cell(rest)] = "│"
    return "".join(line)


def _scale(series: Series) -> Interval:
    known = [value for value in series.values if value is not None]
    known += [edge for band in series.bands if band for edge in band]
    known += [series.rest or 0.0, *(series.scale or ())]
    return min(known), max(known)


def columns(chart: Chart) -> list[str]:
    """For each series a sentence, and a column for each place over an axis that names them."""
    lines = []
    for series in chart.series:
        known = [(value, -index) for index, value in enumerate(series.values) if value is not None]
        if known:
            best = -max(known)[1]
            lines.append(f"{series.meaning or series.name}; best {series.text(best)} at {chart.labels[best]}")
            lines += _columns(series, chart)
    return lines


def _columns(series: Series, chart: Chart) -> list[str]:
    low, high = series.scale or _scale(series)
    values = [low if value is None else min(max(value, low), high) for value in series.values]
    step = -(-len(values) // _MOST_COLUMNS)
    bins = [values[start : start + step] for start in range(0, len(values), step)]
    levels = [round((sum(part) / len(part) - low) / (high - low) * _ROWS * 8) for part in bins]
    lines = []
    for row in reversed(range(_ROWS)):
        label = f"{high:.1f}" if row == _ROWS - 1 else f"{low:.1f}" if row == 0 else ""
        lines.append(f"{label:>5} |" + "".join(_EIGHTHS[min(max(level - row * 8, 0), 8)] for level in levels))
    return [*(line.rstrip() for line in lines), f"{chart.axis:>5}  {_axis(chart.labels, step, len(bins))}"]


def _axis(labels: Sequence[str], step: int, count: int) -> str:
    axis = ""
    for column in sorted({0, *range(0, count - 3, 10), count - 1}):
        axis = axis.ljust(column) + labels[column * step]
    return axis
