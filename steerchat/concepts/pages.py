"""What /concept list and /concept show say, in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..values.errors import ConceptError, shorten
from ..values.page import Page, Table
from ..values.recipe import RANDOM, format_strength, name_layers, parse_layers
from ..values.results import Notice
from .concept import Concept
from .library import Library, read_header

if TYPE_CHECKING:
    from .vector import ConceptVector

_SHOWN_PAIRS = 8
_SHOWN_NEIGHBOURS = 6
_CHART_WIDTH = 64
_CHART_ROWS = 3
_MEASURED = ("unit", "normal", "steered", "random", "asked", "gain", "perplexity_ratio")
_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Entry:
    """One concept as the library knows it on one model.

    Attributes:
        layers: recommended, as one would type them.
        tuned: whether layers and strength were measured on this model; without, they are a guess.
        report: of its extraction on this model; empty when there was none yet.
        shadows: whether it hides one that ships with steerchat.
        error: why its file cannot be read.
        measured: by word lists or length, at this setting (`experiments.trials.Evaluation`); None when it was not.
    """

    concept: Concept
    layers: str
    strength: float
    tuned: bool
    report: dict[str, Any]
    shadows: bool
    error: str = ""
    measured: dict[str, Any] | None = None

    @property
    def read_layer(self) -> int | None:
        return self.report.get("read_layer")

    def at_read_layer(self, figure: str) -> float | None:
        """`agreement` or `separability` where the concept is read."""
        values, layer = self.report.get(figure), self.read_layer
        return values[layer] if values and layer is not None and layer < len(values) else None

    def to_json(self) -> dict[str, Any]:
        """The object of design section 8; keys stay, new ones may join."""
        concept = self.concept
        return {
            "name": concept.name,
            "kind": concept.kind,
            "description": concept.description,
            "layer": self.layers,
            "strength": self.strength,
            "tuned": self.tuned,
            "agreement": self.at_read_layer("agreement"),
            "separability": self.at_read_layer("separability"),
            "read_layer": self.read_layer,
            "extracted": bool(self.report),
            "examples": len(concept.examples),
            "held_out": sum(example.held_out for example in concept.examples),
            "method": concept.method,
            "source": concept.source,
            "shadows": self.shadows,
            "measured": self.measured and {key: self.measured[key] for key in _MEASURED},
            "warnings": self.report.get("warnings", []),
            "error": self.error or None,
        }


def entry(library: Library, name: str, fingerprint: str) -> Entry:
    """What is known of a concept on a model, without the model. Raises UnknownName, ConceptError."""
    concept = library.get(name)
    layers, strength, tuned = library.recommended(name, fingerprint)
    file = library.vector_file(concept, fingerprint)
    report = read_header(file)[1] if file else {}
    shadows, measured = concept.source == "user" and library.ships(name), library.measured(name, fingerprint)
    return Entry(concept, layers, strength, tuned, report, shadows, measured=measured)


def entries(library: Library, fingerprint: str) -> list[Entry]:
    """Every concept; one whose file is broken says so instead of hiding the others."""
    found = []
    for name in library.names():
        try:
            found.append(entry(library, name, fingerprint))
        except ConceptError as error:
            broken = Concept(name, "broken", "", ())
            found.append(Entry(broken, "", 0.0, False, {}, library.ships(name), error.message))
    return found


def list_page(found: Sequence[Entry]) -> Page:
    """Every concept on a line."""
    rows = [
        (
            one.concept.name + ("*" if one.concept.source == "user" else ""),
            one.concept.kind,
            one.layers,
            "" if one.error else format_strength(one.strength) + ("" if one.tuned else "?"),
            _figure(one.at_read_layer("agreement")),
            f"{one.measured['gain'][0]:+.1f}" if one.measured else "",
            f"x{one.measured['perplexity_ratio']:.1f}" if one.measured else "",
            one.error or one.concept.description.removeprefix("The reply "),  # all that ship begin so
        )
        for one in found
    ]
    notes = []
    if any(not one.tuned and not one.error and one.concept.name != RANDOM for one in found):
        notes.append("? never tuned on this model: a guess; see what it costs")
    if any(one.measured for one in found):
        notes.append("gain: counted words more, of 100 (for length: of all); cost: perplexity, times")
    if any(one.concept.source == "user" for one in found):
        notes.append("* your own" + ("; some hide a shipped one" if any(one.shadows for one in found) else ""))
    if any(not one.report and not one.error and one.concept.name != RANDOM for one in found):
        notes.append("no agreement: not extracted on this model yet; that happens on first use")
    headings = ("concept", "kind", "layer", "strength", "agree", "gain", "cost", "what it shows")
    table = Table(
        headings, rows, right=frozenset({3, 4, 5, 6}), dim=frozenset(i for i, one in enumerate(found) if one.error)
    )
    return Page([table, *(Notice(note) for note in notes)], [one.to_json() for one in found])


def show_page(one: Entry, vector: ConceptVector, neighbours: Sequence[tuple[str, float]], unread: int) -> Page:
    """One concept whole.

    Args:
        one: with its report.
        vector: on this model.
        neighbours: other concepts and the cosine between them at the read layer, nearest first.
        unread: how many others have no vector on this model yet.
    """
    concept = one.concept
    parts: list[object] = [f"{concept.name} ({concept.kind}): {concept.description}".rstrip(": ")]
    guess = "" if one.tuned else ", a guess: it was never tuned on this model"
    where = name_layers(parse_layers(one.layers, len(vector.directions)))
    facts = [f"steers at {where} with strength {format_strength(one.strength)}{guess}"]
    if concept.examples:
        held_out = sum(example.held_out for example in concept.examples)
        facts.append(
            f"{_pairs(len(concept.examples) - held_out)}, method {concept.method}; {held_out} more for measuring"
        )
    else:
        facts.append("imported" if concept.method == "imported" else "made anew for every seed")
    if told := one.measured:
        means = ", ".join(f"{side} {told[side]:.1f}" for side in ("normal", "steered", "random", "asked"))
        facts.append(f"measured by {told['unit']}: {means}; cost x{told['perplexity_ratio']:.1f}")
    parts.append("\n".join(facts))
    if one.shadows:
        parts.append(
            Notice(f"It hides the {concept.name} that ships; /concept delete {concept.name} brings that back.")
        )
    parts += _charts(one)
    if neighbours:
        rows = [(name, f"{cosine:+.2f}") for name, cosine in neighbours[:_SHOWN_NEIGHBOURS]]
        parts.append(Table((f"resembles, at layer {_read_layer(one, vector)}", "cosine"), rows, right=frozenset({1})))
    if unread:
        parts.append(Notice(f"{unread} more have no vector on this model yet, to compare with."))
    parts += [Notice(f"Warning: {warning}.") for warning in one.report.get("warnings", [])]
    if concept.examples:
        pairs = [
            (example.prompt or "(no prompt)", example.positive, example.negative)
            for example in concept.examples[:_SHOWN_PAIRS]
        ]
        parts.append(Table(("prompt", "with", "without"), pairs))
        if len(concept.examples) > _SHOWN_PAIRS:
            parts.append(Notice(f"{_pairs(len(concept.examples) - _SHOWN_PAIRS)} more in {concept.path}"))
    data = one.to_json() | {
        "agreement_by_layer": one.report.get("agreement"),
        "separability_by_layer": one.report.get("separability"),
        "resembles": {name: round(cosine, 4) for name, cosine in neighbours},
        "pairs": [
            {"prompt": e.prompt, "positive": e.positive, "negative": e.negative, "held_out": e.held_out}
            for e in concept.examples
        ],
        "path": None if concept.path is None else str(concept.path),
    }
    return Page(parts, [data])


def extraction_lines(concept: Concept, vector: ConceptVector) -> list[object]:
    """What an extraction came to: how many pairs, how well they agree and separate, and what to be wary of."""
    one = Entry(concept, "", 0.0, False, vector.report, False)
    pairs = sum(not example.held_out for example in concept.examples)
    line = f"{concept.name} is extracted from {_pairs(pairs)}"
    if pairs > 1:
        line += f"; they agree {_figure(one.at_read_layer('agreement'))} (1: all point the same way)"
    if (separability := one.at_read_layer("separability")) is not None:
        line += f"; held-out pairs are told apart {separability:.0%} of the time (chance is 50%)"
    return [line + ".", *(Notice(f"Warning: {warning}.") for warning in vector.report.get("warnings", []))]


def _charts(one: Entry) -> list[object]:
    found: list[object] = []
    separability, agreement = one.report.get("separability"), one.report.get("agreement")
    if separability:
        best = max(range(len(separability)), key=separability.__getitem__)
        head = (
            f"how well each layer tells held-out pairs apart (0.5 is chance); best {separability[best]:.2f} at {best}"
        )
        found.append(f"{head}\n{chart(separability, 0.5, 1.0)}")
    elif one.concept.examples:
        found.append(Notice("No pairs are held out, so how well it separates is not known."))
    if agreement and one.report.get("pairs", 2) > 1:
        best = max(range(len(agreement)), key=agreement.__getitem__)
        head = f"how well the pairs agree at each layer (1 is fully); best {agreement[best]:.2f} at {best}"
        found.append(f"{head}\n{chart(agreement, 0.0, 1.0)}")
    return found


def chart(values: Sequence[float], low: float, high: float) -> str:
    """A column for each value between `low` and `high`, over an axis that counts them from 0."""
    count = len(values)
    step = -(-count // _CHART_WIDTH)
    bins = [values[start : start + step] for start in range(0, count, step)]
    levels = [
        round((min(max(sum(part) / len(part), low), high) - low) / (high - low) * _CHART_ROWS * 8) for part in bins
    ]
    lines = []
    for row in reversed(range(_CHART_ROWS)):
        label = f"{high:.1f}" if row == _CHART_ROWS - 1 else f"{low:.1f}" if row == 0 else ""
        lines.append(f"{label:>5} |" + "".join(_EIGHTHS[min(max(level - row * 8, 0), 8)] for level in levels))
    axis = ""
    for column in sorted({0, *range(0, len(bins) - 3, 10), len(bins) - 1}):
        axis = axis.ljust(column) + str(column * step)
    lines.append(f"{'layer':>5}  {axis}")
    return "\n".join(line.rstrip() for line in lines)


def _read_layer(one: Entry, vector: ConceptVector) -> int:
    from .vector import read_layer

    return read_layer(vector) if one.read_layer is None else one.read_layer


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"


def default_description(concept: Concept) -> str:
    """What to say of a concept whose maker said nothing."""
    example = concept.examples[0]
    return f'More like "{shorten(example.positive, 48)}" than "{shorten(example.negative, 48)}"'
