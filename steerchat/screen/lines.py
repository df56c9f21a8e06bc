"""Values as lines of text: sentences, tables, recipes, measures and definitions. `render` prints them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence

from rich.text import Text

from ..values.chart import Chart, Matrix, Points, Tokens, in_short
from ..values.measures import MEASURES
from ..values.operation import ADD, UNIT
from ..values.page import Definitions, Heading, Shaded, Table
from ..values.recipe import Recipe, Term, format_strength, name_layers
from ..values.results import Notice, Pair, Probed, Strip, format_cost, format_effect
from ..values.text import Line, Wrapper, cell_len, clean, column_widths, fit, pad, wrap
from .charts import chart_table, columns, matrix_table, points_table
from .painter import ACCENT, DIM

INDENT = "  "
# Continuation lines align with the text after these: blanks, and the number or dash of a list item.
_LIST_MARK = re.compile(r" *(?:[0-9]{1,2}  |- )?")
LONGEST = 100  # cells; longer lines are hard to read
_GAP = 3
_LEAST_MEANING = 24  # cells; a meaning with less room than that goes below its name
# From likely to most unlikely: an underline reads on any background and without colour.
_SHADES = ("", "underline", "bold underline", f"bold underline {ACCENT}")
# From which value on a number of a heat map has each shade; below the first one it is dim.
_HEAT = (0.5, 1.0, 2.0)
_LEAST_NAME = 10  # cells of a row's name that must fit
# From little to much of a concept.
_MARKS = "▁▂▃▄▅▆▇█"


def lines_of(value: object, width: int, plain: bool = False) -> list[Text]:
    """The lines that show a value which is complete and fits on any screen.

    Args:
        value: a sentence, a notice, or a part of a page that is not a pair.
        plain: whether the screen has no styles.

    Raises:
        TypeError: for a value that has no drawing.
    """
    match value:
        case str():
            return paragraph(value, width)
        case Notice(text):
            return paragraph(text, width, DIM)
        case Heading(text):
            return [Text(), *paragraph(text, width, "bold")]
        case Table():
            return table_lines(value, width)
        case Definitions():
            return [Text(), *paragraph(value.heading, width, "bold", ""), *_definitions(value.entries, width)]
        case Chart() | Matrix() | Points():
            return [*paragraph(value.title, width, DIM), *_chart_lines(value, width)]
        case Tokens():
            return [*paragraph(value.title, width, DIM), *_token_lines(value, width, plain)]
        case Shaded():
            return _shaded_lines(value, width, plain)
        case Recipe():
            return paragraph(_recipe_text(value), width)
        case Probed(strips):
            return strip_lines(strips, width)
    raise TypeError(f"no drawing for {type(value).__name__}")


def paragraph(text: str, width: int, style: str = "", indent: str = INDENT) -> list[Text]:
    """Wrapped sentences. Line breaks in `text` are kept; a wrapped list item is indented to where its text begins."""
    room = max(1, min(width, LONGEST) - len(indent))
    lines: list[str] = []
    for line in clean(text).strip("\n").split("\n") if text.strip() else ():
        mark = _LIST_MARK.match(line)
        lead = mark[0] if mark and len(mark[0]) < room // 2 else ""
        first, *more = wrap(line[len(lead) :], room - len(lead)) or [""]
        lines += [(lead + first).rstrip(), *(" " * len(lead) + rest for rest in more)]
    return [Text(indent + line if line else "", style) for line in lines]


def flow(parts: Iterable[str], width: int, gap: int) -> list[str]:
    """Clean `parts` on lines of at most `width` cells; a line breaks inside a part only where the part is longer."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1]) + gap + cell_len(part) <= width:
            lines[-1] += " " * gap + part
        else:
            lines += wrap(part, width)
    return lines


# Recipes and measures


def _recipe_text(recipe: Recipe) -> str:
    """The whole recipe, one line for each term."""
    if not recipe.terms:
        return "no steering; /steer happy 16 2.0 starts it"
    lines = [_term_text(term) for term in recipe.terms]
    if recipe.scope != "generated":
        lines.append(f"scope {recipe.scope}: the prompt is pushed too")
    if not recipe.on:
        lines.append("off for now; /steer on resumes it")
    return "\n".join(lines)


def _term_text(term: Term) -> str:
    where = f"{term.concept} at {name_layers(term.layers)}"
    text = where if term.operation == ADD else f"{term.operation} {where}"
    if term.how.number:
        text += f", {term.how.number} {format_strength(term.strength)}"
    shown = term.how.shown(UNIT * abs(term.per_layer), "each layer" if len(term.layers) > 1 else "that layer")
    text = f"{text}: {shown}" if shown else text
    return f"{text}; {term.gate.in_words}" if term.gate else text


def measure_lines(pair: Pair, width: int, verdict: str | None = None) -> list[Text]:
    """The lines under a pair: effect, cost, verdict, divergence, speed and id, each where it is known."""
    parts = measured(pair, verdict)
    if pair.tokens_per_second:
        parts.append(f"{pair.tokens_per_second:.0f} tok/s")
    room = max(width - len(INDENT), 1)
    lines = flow(map(clean, parts), room, _GAP)
    if pair.id is not None:
        label = f"pair {pair.id}"
        if lines and cell_len(lines[-1]) + _GAP + len(label) <= room:
            lines[-1] = pad(lines[-1], room - len(label)) + label
        else:
            lines.append(pad(label, room, right=True))
    return [Text(INDENT + line, DIM) for line in lines]


def measured(pair: Pair, verdict: str | None = None) -> list[str]:
    """What steering did to a pair: effect, cost, verdict and divergence, each where it is known."""
    if pair.steered is None:
        return []
    parts = [f"strength {pair.steered.turns}"] if pair.steered.dial else []
    if pair.effect is not None:
        band = "" if pair.chance is None else " (random pushes {} .. {})".format(*map(format_effect, pair.chance))
        parts.append(f"effect {format_effect(pair.effect)}{band}")
    if len(pair.effects) > 1:
        parts += [f"{concept} {format_effect(value)}" for concept, value in pair.effects.items()]
    if pair.perplexity_ratio is not None:
        parts.append(f"cost {format_cost(pair.perplexity_ratio)}")
    figures = pair.measures
    for measure in MEASURES.values():
        if measure.form:
            normal, steered = (measure.form.format(figures[name]) for name in (f"normal_{measure.name}", measure.name))
            parts.append(f"{measure.name} {normal} -> {steered}")
    if verdict:
        parts.append(verdict)
    if pair.diverges_at is not None:
        parts.append(f"diverges at token {pair.diverges_at + 1}")  # people count from one
    elif pair.steered.text == pair.normal.text:
        parts.append("identical answers")
    return parts


# Texts token by token


def styled(line: Line, spans: Iterable[tuple[int, int, str]]) -> Text:
    """A line of a wrapped text with the styles of spans of that text: (start, end, style)."""
    drawn, end = Text(line.text), line.start + len(line.text)
    for low, high, style in spans:
        if low < end and high > line.start:
            drawn.stylize(style, max(low - line.start, 0), high - line.start)
    return drawn


def _shaded_lines(shaded: Shaded, width: int, plain: bool) -> list[Text]:
    """A text whose pieces stand out by shade; without styles, square brackets mark the pieces from shade 2 on."""
    wrapper = Wrapper(max(min(width, LONGEST) - len(INDENT), 1))
    spans: list[tuple[int, int, str]] = []
    at = 0
    for piece, shade in shaded.pieces:
        text = clean(piece)
        if plain and shade > 1 and text.strip():
            bare = text.strip()
            text = text.replace(bare, f"[{bare}]", 1)
        blank = len(text) - len(text.lstrip())
        spans.append((at + blank, at + len(text), "" if plain else _SHADES[shade]))
        wrapper.feed(text)
        at += len(text)
    wrapper.close()
    return [Text(INDENT).append_text(styled(line, spans)) for line in wrapper.lines]


def _token_lines(tokens: Tokens, width: int, plain: bool) -> list[Text]:
    """The text with its unlikely tokens standing out, and a line of marks for each concept, gate and dial."""
    shaded = Shaded(list(zip(tokens.tokens, tokens.shades, strict=True)))
    most = max((share for _, shares in tokens.pushes for share in shares), default=1.0) or 1.0
    pushes = [(name, [share / most for share in shares], "", "") for name, shares in tokens.pushes]
    return [*_shaded_lines(shaded, width, plain), *_mark_lines([*map(_strip_row, tokens.strips), *pushes], width)]


def strip_lines(strips: Sequence[Strip], width: int) -> list[Text]:
    """For each strip a line of marks, higher where the answer has more of the concept, and then its score."""
    return _mark_lines(list(map(_strip_row, strips)), width)


def _strip_row(strip: Strip) -> tuple[str, Sequence[float], str, str]:
    """From one deviation below the average token to three above it."""
    style = ACCENT if strip.column == "steered" else ""
    shares = [(value + 1) / 4 for value in strip.values]
    return f"{strip.concept} in {strip.column}", shares, style, format_effect(strip.score)


def _mark_lines(rows: Sequence[tuple[str, Sequence[float], str, str]], width: int) -> list[Text]:
    """For each (name, values from 0 to 1, style, note) a line with a mark for a value or a few."""
    left = max((cell_len(name) for name, *_ in rows), default=0)
    room = max(min(width, LONGEST) - len(INDENT) - left - 10, 1)
    lines = []
    for name, values, style, note in rows:
        marks = "".join(map(_mark, _bin_means(values, room)))
        line = Text(f"{INDENT}{pad(name, left)}  ").append(marks, style)
        lines.append(line.append(f"  {note}" if note else "", DIM))
    return lines


def _mark(value: float) -> str:
    return _MARKS[max(0, min(len(_MARKS) - 1, round(value * (len(_MARKS) - 1))))]


def _bin_means(values: Sequence[float], most: int) -> list[float]:
    """Means of neighbouring values, so that at most `most` are left."""
    size = max(1, -(-len(values) // most))
    return [statistics.fmean(values[at : at + size]) for at in range(0, len(values), size)]


# Tables and definitions


def table_lines(table: Table, width: int) -> list[Text]:
    """Aligned columns, or running lines where the screen is too narrow for columns."""
    if not table.rows:
        return paragraph(table.empty, width, DIM)
    rows = [[fit(clean(cell), LONGEST * 2) for cell in row] for row in table.rows]
    widths = column_widths(table.headings, rows, width - len(INDENT), gap=2)
    styles = [DIM if index in table.dim else "" for index in range(len(rows))]
    if widths is None:
        room = max(width - 2 * len(INDENT), 1)
        return [
            Text(INDENT * (2 if number else 1) + line, style)
            for row, style in zip(rows, styles, strict=True)
            for number, line in enumerate(flow((fit(cell, room) for cell in row if cell), room, gap=2))
        ]

    def draw(row: Sequence[str], style: str) -> Text:
        cells = (
            pad(fit(cell, room), room, right=index in table.right)
            for index, (cell, room) in enumerate(zip(row, widths, strict=True))
        )
        return Text((INDENT + "  ".join(cells)).rstrip(), style)

    return [draw(table.headings, "bold"), *map(draw, rows, styles)]


def _chart_lines(value: Chart | Matrix | Points, width: int) -> list[Text]:
    match value:
        case Chart(at=[_, *_], notes=[]):
            return paragraph("\n".join(columns(value)), width)
        case Chart():
            return table_lines(chart_table(value), width)
        case Matrix(texts=[]):
            return _matrix_lines(value, width)
        case Matrix():
            return table_lines(matrix_table(value), width)
        case Points():
            return table_lines(points_table(value), width)


def _matrix_lines(matrix: Matrix, width: int) -> list[Text]:
    """A line for each row. On a narrow screen names are cut, and numbers are rounded to three characters."""
    names = [matrix.corner, *(name for name, _ in matrix.rows)]
    left, count = max(map(cell_len, names)), len(matrix.columns)
    room = 5 if len(INDENT) + left + 6 * count <= width else 3
    left = min(left, max(width - len(INDENT) - (room + 1) * count, min(left, _LEAST_NAME)))
    texts = [[matrix.text(row, column) for column in range(count)] for row in range(len(matrix.rows))]
    if len(INDENT) + left + (room + 1) * count > width:
        rows = [(name, *cells) for name, cells in zip(names[1:], texts, strict=True)]
        return table_lines(Table((matrix.corner, *matrix.columns), rows), width)
    if room == 3:
        texts = [[in_short(matrix.form, value) for value in values] for _, values in matrix.rows]
    names = [pad(fit(name, left), left) for name in names]
    lines = [
        Text(INDENT + names[0] + "".join(f" {pad(name[:room], room, right=True)}" for name in matrix.columns), "bold")
    ]
    for name, (_, values), cells in zip(names[1:], matrix.rows, texts, strict=True):
        line = Text(INDENT + name)
        for value, cell in zip(values, cells, strict=True):
            size = abs(value or 0.0)
            style = DIM if size < _HEAT[0] else _SHADES[sum(size >= least for least in _HEAT)]
            line.append(" ").append(cell.rjust(room), style)
        lines.append(line)
    return lines


def _definitions(entries: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """Names on the left and their meanings on the right, or below where that leaves too little room."""
    width = min(width, LONGEST)
    left = min(max((cell_len(name) for name, _ in entries), default=0), 2 * width // 5)
    room = width - len(INDENT) - left - 2
    lines: list[Text] = []
    for name, meaning in entries:
        if room < _LEAST_MEANING or not meaning:
            lines += [*paragraph(name, width), *paragraph(meaning, width, DIM, INDENT * 2)]
            continue
        name = clean(name)
        if cell_len(name) > left:
            lines += paragraph(name, width)
            name = ""
        for part in wrap(clean(meaning), room) or [""]:
            lines.append(Text(f"{INDENT}{pad(name, left)}  ").append(part, DIM))
            name = ""
    return lines
