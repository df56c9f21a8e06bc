"""Values as lines: sentences, tables, recipes, measures and help. `render` puts them on a screen."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from rich.text import Text

from ..slash.registry import HelpPage
from ..values.page import Shaded, Table
from ..values.recipe import Recipe, Term, format_strength, name_layers
from ..values.results import BenchReport, Pair, Strip
from ..values.text import Wrapper, cell_len, clean, column_widths, fit, pad, wrap
from .painter import ACCENT, DIM

INDENT = "  "
# What a line's text may have before it: blanks, and a number or a dash of a list.
_LEAD = re.compile(r" *(?:[0-9]{1,2}  |- )?")
LONGEST = 100  # cells; longer lines are hard to read
_GAP = 3
_LEAST_MEANING = 24  # cells; with less room than that a meaning goes below its name
# From likely to most unlikely: an underline reads on any background and without colour.
_SHADES = ("", "underline", "bold underline", f"bold underline {ACCENT}")
# From little to much of a concept.
_MARKS = "▁▂▃▄▅▆▇█"
_STATUS = {"interrupted": "stopped", "failed": "failed", "running": "running"}


@runtime_checkable
class Stored(Protocol):
    """A pair as the history keeps it; `created` is an ISO 8601 time."""

    @property
    def pair(self) -> Pair: ...
    @property
    def created(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def undone(self) -> bool: ...
    @property
    def rating(self) -> str | None: ...


def paragraph(text: str, width: int, style: str = "", indent: str = INDENT) -> list[Text]:
    """Sentences, wrapped; their own line breaks are kept, and a line goes on where its text began."""
    room = max(1, min(width, LONGEST) - len(indent))
    lines: list[str] = []
    for line in clean(text).strip("\n").split("\n") if text.strip() else ():
        found = _LEAD.match(line)
        lead = found[0] if found and len(found[0]) < room // 2 else ""
        first, *more = wrap(line[len(lead) :], room - len(lead)) or [""]
        lines += [(lead + first).rstrip(), *(" " * len(lead) + one for one in more)]
    return [Text(indent + line if line else "", style) for line in lines]


def flow(parts: Iterable[str], width: int, gap: int) -> list[str]:
    """Clean `parts` in lines of at most `width` cells, broken between parts where that is enough."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1]) + gap + cell_len(part) <= width:
            lines[-1] += " " * gap + part
        else:
            lines += wrap(part, width)
    return lines


# Recipes and measures


def recipe_text(recipe: Recipe, unit: float | None) -> str:
    """The whole recipe, a line for each term.

    Args:
        recipe: what is steered.
        unit: the push of strength 1 as a share of a layer's typical length; None leaves the push out.
    """
    if not recipe.terms:
        return "no steering; /steer happy 16 2.0 starts it"
    lines = [_term(term, unit) for term in recipe.terms]
    if recipe.scope != "generated":
        lines.append(f"scope {recipe.scope}: the prompt is pushed too")
    if not recipe.on:
        lines.append("off for now; /steer on resumes it")
    return "\n".join(lines)


def _term(term: Term, unit: float | None) -> str:
    where = f"{term.concept} at {name_layers(term.layers)}"
    if term.operation != "add":
        return f"{term.operation} {where}"
    text = f"{where}, strength {format_strength(term.strength)}"
    if unit is None:
        return text
    whose = "each layer's" if len(term.layers) > 1 else "that layer's"
    return f"{text}: a push of {100 * unit * abs(term.per_layer):.2g}% of {whose} typical length"


def measures(pair: Pair, width: int, verdict: str | None = None) -> list[Text]:
    """The lines under a pair: effect, cost, verdict, divergence, speed and number, as far as they are known."""
    parts = measured(pair, verdict)
    if pair.tokens_per_second:
        parts.append(f"{pair.tokens_per_second:.0f} tok/s")
    room = max(width - len(INDENT), 1)
    lines = flow(map(clean, parts), room, _GAP)
    if pair.id is not None:
        last = f"pair {pair.id}"
        if lines and cell_len(lines[-1]) + _GAP + len(last) <= room:
            lines[-1] = pad(lines[-1], room - len(last)) + last
        else:
            lines.append(pad(last, room, right=True))
    return [Text(INDENT + line, DIM) for line in lines]


def measured(pair: Pair, verdict: str | None = None) -> list[str]:
    """What steering did to a pair: effect, cost, verdict and divergence, as far as they are known."""
    if pair.steered is None:
        return []
    parts: list[str] = []
    if pair.effect is not None:
        low_high = "" if pair.chance is None else " (random pushes {} .. {})".format(*map(_signed, pair.chance))
        parts.append(f"effect {_signed(pair.effect)}{low_high}")
    if len(pair.effects) > 1:
        parts += [f"{concept} {_signed(value)}" for concept, value in pair.effects.items()]
    if pair.perplexity_ratio is not None:
        parts.append(f"cost {_ratio(pair.perplexity_ratio)}")
    if verdict:
        parts.append(verdict)
    if pair.diverges_at is not None:
        parts.append(f"parts at token {pair.diverges_at + 1}")  # people count from one
    elif pair.steered.text == pair.normal.text:
        parts.append("the same answer twice")
    return parts


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # never -0.0


def _ratio(value: float) -> str:
    return f"x{value:.1f}" if value < 100 else f"x{value:.0f}"


# What bench measured

_BENCH = {
    "pair_vs_single": ("a pair over one answer", "time a token"),
    "hook_one_layer": ("one layer steered over none", "time a token"),
    "hook_all_layers": ("all layers steered over none", "time a token"),
    "hook_operations": ("add, ablate and replace by turns over none", "time a token"),
    "bandwidth_fraction": ("share of the reading limit", "1 is all that memory gives"),
    "tokens_per_second": ("one answer", "tokens a second"),
    "limit_tokens_per_second": ("reading the weights alone", "times a second"),
    "vs_generate": ("steerchat over model.generate", "time a token"),
    "ttft_turn10_vs_turn2": ("first token, turn 10 over turn 2", "time"),
    "strengths_speedup": ("nine strengths at once", "times faster than one by one"),
    "layers_speedup": ("every layer at once", "times faster than one by one"),
    "extract_seconds": ("extracting happy", "seconds"),
    "start_seconds": ("start, until the model is loaded", "seconds"),
}


def bench_heading(report: BenchReport) -> str:
    """What was measured on."""
    threads = "" if report.threads is None else f", {report.threads} threads"
    return f"{report.model}, {report.device} {report.dtype}{threads}; median of several runs, lowest, highest"


def bench_table(report: BenchReport) -> Table:
    """A figure a line, with what it means."""
    rows = []
    for name, figure in report.figures.items():
        what, unit = _BENCH.get(name, (name, ""))
        rows.append([what, *(f"{value:.3g}" for value in (figure.median, figure.low, figure.high)), unit])
    return Table(("figure", "median", "low", "high", "in"), rows, right=frozenset({1, 2, 3}))


# The history


def history_table(rows: Sequence[Stored], now: datetime) -> Table:
    """Pairs, one a line, in the order given."""
    kinds = any(row.kind != "chat" for row in rows)
    judged = any(row.rating for row in rows)
    headings = ["id", "when", *(["kind"] if kinds else []), "prompt", "recipe", *(["rated"] if judged else [])]
    headings += ["effect", "cost"]
    cells = [
        [
            "" if row.pair.id is None else str(row.pair.id),
            when(row.created, now),
            *([row.kind] if kinds else []),
            fit(row.pair.prompt, 60),
            fit(str(row.pair.recipe), 30) if row.pair.recipe.terms else "-",
            *([row.rating or ""] if judged else []),
            _outcome(row),
            "" if row.pair.perplexity_ratio is None else _ratio(row.pair.perplexity_ratio),
        ]
        for row in rows
    ]
    return Table(
        headings,
        cells,
        right=frozenset({0, len(headings) - 2, len(headings) - 1}),
        dim=frozenset(index for index, row in enumerate(rows) if row.undone),
        empty="no pairs yet; type a message, with /steer happy 16 2.0 before it for a steered answer",
    )


def origin(row: Stored, now: datetime) -> str:
    """Where a pair of the history comes from."""
    pair = row.pair
    facts = [f"pair {pair.id}", when(row.created, now), pair.model, f"seed {pair.seed}"]
    facts += [row.kind] if row.kind != "chat" else []
    facts += [_STATUS[row.status]] if row.status in _STATUS else []
    facts += ["undone"] if row.undone else []
    return "   ".join(facts)


def _outcome(row: Stored) -> str:
    if row.status in _STATUS:
        return _STATUS[row.status]
    if row.undone:
        return "undone"
    return "" if row.pair.effect is None else _signed(row.pair.effect)


def when(created: str, now: datetime) -> str:
    """`today 14:03`, `yesterday 14:03`, or the date."""
    try:
        then = datetime.fromisoformat(created).astimezone(now.tzinfo)
    except ValueError:
        return created
    if then.date() == now.date():
        return f"today {then:%H:%M}"
    if then.date() == (now - timedelta(days=1)).date():
        return f"yesterday {then:%H:%M}"
    return f"{then:%Y-%m-%d}"


def shaded_lines(shaded: Shaded, width: int, plain: bool) -> list[Text]:
    """A text whose pieces stand out by shade; in square brackets from shade 2 on where there are no styles."""
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
    lines = []
    for line in wrapper.lines:
        drawn = Text(INDENT + line.text)
        for low, high, style in spans:
            first, last = max(low - line.start, 0), min(high - line.start, len(line.text))
            if style and first < last:
                drawn.stylize(style, first + len(INDENT), last + len(INDENT))
        lines.append(drawn)
    return lines


def strip_lines(strips: Sequence[Strip], width: int) -> list[Text]:
    """A concept's course through an answer in marks, the higher the more of it, with its score after them."""
    names = [f"{strip.concept} in {strip.column}" for strip in strips]
    left = max(map(cell_len, names), default=0)
    room = max(min(width, LONGEST) - len(INDENT) - left - 10, 1)
    lines = []
    for name, strip in zip(names, strips, strict=True):
        marks = "".join(map(_mark, _in_bins(strip.values, room)))
        style = ACCENT if strip.column == "steered" else ""
        lines.append(Text(f"{INDENT}{pad(name, left)}  ").append(marks, style).append(f"  {_signed(strip.score)}", DIM))
    return lines


def _mark(value: float) -> str:
    """From a deviation below the average token to three above it."""
    return _MARKS[max(0, min(len(_MARKS) - 1, round((value + 1) / 4 * (len(_MARKS) - 1))))]


def _in_bins(values: Sequence[float], most: int) -> list[float]:
    """Means of neighbours, as few for each as leave at most `most` bins."""
    size = max(1, -(-len(values) // most))
    return [statistics.fmean(values[at : at + size]) for at in range(0, len(values), size)]


# Tables and help


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


def help_lines(groups: Mapping[str, Sequence[tuple[str, str]]], width: int) -> list[Text]:
    """Every command by group: usage and summary."""
    lines: list[Text] = []
    for group, commands in groups.items():
        lines += [*([Text("")] if lines else []), *paragraph(group, width, "bold", "")]
        lines += _definitions(commands, width, INDENT)
    return lines


def help_page_lines(page: HelpPage, width: int) -> list[Text]:
    """One command's page."""
    lines = [*paragraph(page.usage, width, "bold"), *paragraph(page.summary, width)]
    if page.body:
        lines += [Text(""), *paragraph(page.body, width)]
    for heading, entries in (("Arguments", page.arguments), ("Options", page.options), ("See also", page.verbs)):
        if entries:
            lines += [Text(""), *paragraph(heading, width, "bold"), *_definitions(entries, width, INDENT * 2)]
    if page.aliases:
        lines += [Text(""), *paragraph(f"Also {', '.join(page.aliases)}", width)]
    if page.examples:
        lines += [Text(""), *paragraph("Examples", width, "bold")]
        lines += [line for example in page.examples for line in paragraph(example, width, indent=INDENT * 2)]
    return lines


def _definitions(entries: Sequence[tuple[str, str]], width: int, indent: str) -> list[Text]:
    """Names on the left and their meanings on the right, or below where that leaves too little room."""
    width = min(width, LONGEST)
    left = min(max((cell_len(name) for name, _ in entries), default=0), 2 * width // 5)
    room = width - len(indent) - left - 2
    lines: list[Text] = []
    for name, meaning in entries:
        if room < _LEAST_MEANING:
            lines += [*paragraph(name, width, indent=indent), *paragraph(meaning, width, DIM, indent + INDENT)]
            continue
        name = clean(name)
        if cell_len(name) > left:
            lines += paragraph(name, width, indent=indent)
            name = ""
        for part in wrap(clean(meaning), room) or [""]:
            lines.append(Text(f"{indent}{pad(name, left)}  ").append(part, DIM))
            name = ""
    return lines
