"""Charts as values, without any drawing: the screen, a page, a notebook and a file each draw the same one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from .results import Strip, format_cost, format_effect, html, plot
from .text import counted

Interval = tuple[float, float]
Form = Literal["effect", "cost", "share", "probability", "cosine", "number"]
_LEAST = 2.0**-50  # a probability that float32 may have made 0
_FORMS = {
    "effect": format_effect,
    "cost": format_cost,
    "share": lambda value: f"{100 * value:.0f}%",
    "probability": lambda value: f"{100 * value:.0f}%" if value >= 0.1 else f"{100 * value:.2g}%",
    "cosine": lambda value: f"{round(value, 2) + 0.0:+.2f}",
    "number": lambda value: f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}",
}


def in_form(form: Form, value: float | None) -> str:
    """A value as text; a question mark for an unknown one."""
    return "?" if value is None else _FORMS[form](value)


def in_short(form: Form, value: float | None) -> str:
    """The same in three characters where that is possible: `+3` for an effect, `-.3` for a cosine; none of no value."""
    if value is None:
        return ""
    if form == "cosine" and abs(value) < 0.95:
        return f"{round(value, 1) + 0.0:+.1f}".replace("0.", ".")
    return f"{value:+.0f}"


class _Described:
    """A description that programs read too, and that a notebook draws."""

    def _repr_html_(self) -> str | None:
        return html(self)

    def plot(self) -> Any:
        """A figure of matplotlib, which `savefig` writes. Raises UsageError without the extra `plot`."""
        return plot(self)

    def to_json(self) -> dict[str, Any]:
        """`chart` with its kind, and its fields."""
        fields = asdict(cast(Any, self)).items()
        plain = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in fields}
        return {"chart": type(self).__name__.lower(), **plain}


@dataclass(frozen=True)
class Series:
    """Figures along a chart's axis.

    Attributes:
        name: what they are, in a word, such as `effect`.
        values: one for each place on the axis; None where it is unknown.
        form: how a value is written.
        spreads: for each value half the length of the interval around it.
        bands: for each place (low, high) of what chance alone gives.
        rest: the value that means that nothing changed.
        scale: (low, high) that is shown at least.
        meaning: the name in a sentence, for a drawing with room for it.
        intervals: for each value (low, high) of the interval around it, where that has two different halves.
        panel: what it shows together with the series of equal `panel`, in one drawing; empty: it has one of its own.
    """

    name: str
    values: Sequence[float | None]
    form: Form = "effect"
    spreads: Sequence[float | None] = ()
    bands: Sequence[Interval | None] = ()
    rest: float | None = None
    scale: Interval | None = None
    meaning: str = ""
    intervals: Sequence[Interval | None] = ()
    panel: str = ""

    def text(self, index: int) -> str:
        """A value with what is known of its uncertainty."""
        spread = self.spreads[index] if self.spreads else None
        interval = self.intervals[index] if self.intervals else None
        around = "" if interval is None else " ({}..{})".format(*(in_form(self.form, edge) for edge in interval))
        return in_form(self.form, self.values[index]) + ("" if spread is None else f" ±{spread:.1f}") + around


@dataclass(frozen=True)
class Chart(_Described):
    """Series over one axis: a dose-response curve, a line over layers, or settings side by side.

    Attributes:
        title: what is shown, in a few words.
        axis: what the places on the axis are, such as `layer`.
        labels: the name of each place.
        series: the first one matters most: on a terminal it has the bars.
        at: the number of each place; empty where places are only names.
        faint: indices of the places that matter less: effects within chance.
        useful: (first, last) index of the places to recommend.
        notes: a text for each place, such as an answer, under the heading `noted`.
    """

    title: str
    axis: str
    labels: Sequence[str]
    series: Sequence[Series]
    at: Sequence[float] = ()
    faint: frozenset[int] = frozenset()
    useful: tuple[int, int] | None = None
    notes: Sequence[str] = ()
    noted: str = ""

    @property
    def panels(self) -> list[list[Series]]:
        """The series of each drawing."""
        panels: dict[str, list[Series]] = {}
        for number, series in enumerate(self.series):
            panels.setdefault(series.panel or f"{number}", []).append(series)
        return list(panels.values())

    @property
    def in_words(self) -> str:
        """The alternative text of a drawing."""
        parts = [f"{self.title}."]
        for series in self.series:
            known = [(value, index) for index, value in enumerate(series.values) if value is not None]
            if not known:
                continue
            most = max(known)[1]
            ends = [f"{series.text(index)} at {self.labels[index]}" for _, index in (known[0], known[-1])]
            peak = f"{series.text(most)} at {self.labels[most]}"
            parts.append(f"{series.name} by {self.axis}: {ends[0]}, {ends[1]}, most {peak}.")
        if self.useful is not None:
            parts.append(f"Useful from {self.labels[self.useful[0]]} to {self.labels[self.useful[1]]}.")
        return " ".join(parts)


@dataclass(frozen=True)
class Matrix(_Described):
    """Numbers in rows and columns that are compared by eye: large ones stand out.

    Attributes:
        title: what is shown, in a few words.
        corner: what the rows are.
        columns: a heading for each column.
        rows: (name, a value for each column; None where it is unknown).
        form: how a value is written.
        texts: what stands in each cell in place of its value.
        faint: (row, column) of the cells that matter less: answers that lose fluency.
        best: the cell to recommend.
    """

    title: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    form: Form = "effect"
    texts: Sequence[Sequence[str]] = ()
    faint: frozenset[tuple[int, int]] = frozenset()
    best: tuple[int, int] | None = None

    def text(self, row: int, column: int) -> str:
        """What stands in a cell; nothing where there is no value."""
        if self.texts:
            return self.texts[row][column]
        value = self.rows[row][1][column]
        return "" if value is None else in_form(self.form, value)

    @property
    def most(self) -> float:
        """The largest distance from 0, which has the strongest shade."""
        return max((abs(value) for _, values in self.rows for value in values if value is not None), default=0.0)

    @property
    def in_words(self) -> str:
        """The alternative text of a drawing."""
        size = f"{counted(len(self.rows), 'row')} and {counted(len(self.columns), 'column')}"
        largest = []
        for row, (name, values) in enumerate(self.rows):
            known = [(value, column) for column, value in enumerate(values) if value is not None]
            if known:
                column = max(known)[1]
                largest.append(f"{name}: {self.columns[column]} {self.text(row, column)}")
        return f"{self.title}. {size}; the largest in each row: {', '.join(largest)}."


@dataclass(frozen=True)
class Dot:
    """A text in two dimensions, of a kind that its index names; `ringed` sets it apart."""

    x: float
    y: float
    kind: int
    ringed: bool


@dataclass(frozen=True)
class Cloud:
    """Dots in one panel, and an arrow from (x, y) to (x, y)."""

    name: str
    dots: Sequence[Dot]
    arrow: tuple[float, float, float, float]


@dataclass(frozen=True)
class Points(_Described):
    """Clouds of dots side by side, such as a concept's texts at several layers.

    Attributes:
        title: what is shown, in a few words.
        axes: what x and y are.
        kinds: the names of the two kinds of dots.
        clouds: a panel each.
        ringed: what the ring around a dot means.
    """

    title: str
    axes: tuple[str, str]
    kinds: tuple[str, str]
    clouds: Sequence[Cloud]
    ringed: str

    def apart(self, cloud: Cloud) -> float | None:
        """How often a ringed dot of the first kind lies further along x than one of the second; None without any."""
        first, second = ([dot.x for dot in cloud.dots if dot.ringed and dot.kind == kind] for kind in (0, 1))
        if not first or not second:
            return None
        return sum(a > b for a in first for b in second) / (len(first) * len(second))

    @property
    def in_words(self) -> str:
        """The alternative text of a drawing."""
        parts = [f"{cloud.name} {in_form('share', self.apart(cloud))}" for cloud in self.clouds]
        first, second = self.kinds
        return (
            f"{self.title}. How often a ringed text {first} lies further along than one {second}: {', '.join(parts)}."
        )


@dataclass(frozen=True)
class Tokens(_Described):
    """An answer token by token: how likely each is, which concepts it carries, and how much of the push it got.

    Attributes:
        title: what is shown, in a few words.
        tokens: the text in pieces.
        probabilities: of each token, by the unsteered model.
        strips: concepts read in this answer, and in the one beside it.
        pushes: (what set it, the share of the strength for each token): a gate, the dial.
        parting: index of the first token that the answer beside it does not have; None where both are the same.
    """

    title: str
    tokens: Sequence[str]
    probabilities: Sequence[float]
    strips: Sequence[Strip] = ()
    pushes: Sequence[tuple[str, Sequence[float]]] = ()
    parting: int | None = None

    @property
    def surprises(self) -> list[float]:
        """Of each token, in bits: 1 where it was as likely as not, 10 where it had a chance of one in a thousand."""
        return [-math.log2(max(each, _LEAST)) for each in self.probabilities]

    @property
    def shades(self) -> list[int]:
        """How much each token stands out, from 0 to 3: less likely than 10%, 1% and 0.1%."""
        return [sum(each < edge for edge in (0.1, 0.01, 0.001)) for each in self.probabilities]

    @property
    def concepts(self) -> dict[str, list[Strip]]:
        """The strips of each concept."""
        by_concept: dict[str, list[Strip]] = {}
        for strip in self.strips:
            by_concept.setdefault(strip.concept, []).append(strip)
        return by_concept

    @property
    def in_words(self) -> str:
        """The alternative text of a drawing."""
        parts = [f"{self.title}. {counted(len(self.tokens), 'token')}."]
        least = sorted(range(len(self.tokens)), key=self.probabilities.__getitem__)[:3]
        if least:
            unlikely = (f"{quoted(self.tokens[at])} {in_form('probability', self.probabilities[at])}" for at in least)
            parts.append(f"Least likely: {', '.join(unlikely)}.")
        if self.parting is not None:
            parts.append(f"The answers part at token {self.parting + 1}.")
        parts += [f"{each.concept} in the {each.column} answer {format_effect(each.score)}." for each in self.strips]
        for name, shares in self.pushes:
            parts.append(f"The {name} lets all of the push through at {sum(s >= 1 for s in shares)} tokens.")
        return " ".join(parts)


def quoted(text: str) -> str:
    """A token in quotation marks, on one line."""
    return '"' + text.replace("\n", "\\n") + '"'


Drawn = Chart | Matrix | Points | Tokens


@dataclass(frozen=True)
class Picture:
    """A chart that a terminal shows as an image where it can, and in text otherwise."""

    drawn: Drawn
