"""The pages of /concept list and /concept show, for the screen and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..values.errors import ConceptError, shorten
from ..values.page import Page, Table
from ..values.recipe import RANDOM, format_strength, name_layers, parse_layers
from ..values.results import Notice
from ..values.text import counted
from .concept import Concept
from .files import read_header
from .library import Library

if TYPE_CHECKING:
    from .vector import ConceptVector

_SHOWN_PAIRS = 8
_SHOWN_SIMILAR = 6
_SHOWN_GAINS = 4
_CHART_WIDTH = 64
_CHART_ROWS = 3
_MEASURED = ("unit", "normal", "steered", "random", "asked", "gain", "perplexity_ratio")
_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Entry:
    """One concept with its setting, vector and measurements on one model.

    Attributes:
        layers: the recommended ones, as a user types them.
        tuned: whether layers and strength were measured on this model; False means the default ones.
        report: of its extraction on this model; empty before the first one.
        shadows: whether it hides a shipped concept.
        error: why its file cannot be read.
        measured: by word lists or length, at this setting (`experiments.evaluation.Evaluation`); None without.
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
        """`agreement` or `separability` at the read layer."""
        values, layer = self.report.get(figure), self.read_layer
        return values[layer] if values and layer is not None and layer < len(values) else None

    def to_json(self) -> dict[str, Any]:
        """The JSON object. Keys never change; new ones may be added."""
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
    """The entry of a concept, without loading the model. Raises UnknownName, ConceptError."""
    concept = library.get(name)
    layers, strength, tuned = library.recommended(name, fingerprint)
    file = library.vector_file(concept, fingerprint)
    report = read_header(file)[1] if file else {}
    shadows = concept.source == "user" and library.ships(name)
    return Entry(concept, layers, strength, tuned, report, shadows, measured=library.measured(name, fingerprint))


def entries(library: Library, fingerprint: str) -> list[Entry]:
    """All concepts; the entry of a broken file has its error."""
    listed = []
    for name in library.names():
        try:
            listed.append(entry(library, name, fingerprint))
        except ConceptError as error:
            broken = Concept(name, "broken", "", ())
            listed.append(Entry(broken, "", 0.0, False, {}, library.ships(name), error.message))
    return listed


def list_page(listed: Sequence[Entry]) -> Page:
    """Every concept on a line."""
    rows = [
        (
            item.concept.name + ("*" if item.concept.source == "user" else ""),
            item.concept.kind,
            item.layers,
            "" if item.error else format_strength(item.strength) + ("" if item.tuned else "?"),
            _figure(item.at_read_layer("agreement")),
            f"{item.measured['gain'][0]:+.1f}" if item.measured else "",
            f"x{item.measured['perplexity_ratio']:.1f}" if item.measured else "",
            item.error or item.concept.description.removeprefix("The reply "),  # all shipped ones begin so
        )
        for item in listed
    ]
    steering = [item for item in listed if not item.error and item.concept.name != RANDOM]
    notes = []
    if not all(item.tuned for item in steering):
        notes.append("? no tuned strength for this model; /tune CONCEPT finds one")
    if any(item.measured for item in listed):
        notes.append("gain: more counted words in 100 words (for length: in all); cost: perplexity ratio")
    if any(item.concept.source == "user" for item in listed):
        notes.append("* your own" + ("; some hide a shipped one" if any(item.shadows for item in listed) else ""))
    if not all(item.report for item in steering):
        notes.append("no agreement: not extracted on this model yet; the first use does it")
    headings = ("concept", "kind", "layer", "strength", "agree", "gain", "cost", "description")
    broken = frozenset(row for row, item in enumerate(listed) if item.error)
    table = Table(headings, rows, right=frozenset({3, 4, 5, 6}), dim=broken)
    return Page([table, *(Notice(note) for note in notes)], [item.to_json() for item in listed])


def show_page(shown: Entry, vector: ConceptVector, similar: Sequence[tuple[str, float]], without_vector: int) -> Page:
    """One concept in full.

    Args:
        shown: with its report.
        vector: on this model.
        similar: other concepts and the cosine between the directions at the read layer, most similar first.
        without_vector: how many other concepts have no vector on this model yet.
    """
    from .vector import read_layer

    concept = shown.concept
    parts: list[object] = [f"{concept.name} ({concept.kind}): {concept.description}".rstrip(": ")]
    place = name_layers(parse_layers(shown.layers, len(vector.directions)))
    facts = [f"steers at {place} with strength {format_strength(shown.strength)}"]
    facts[0] += "" if shown.tuned else f"; no tuned strength for this model: /tune {concept.name} finds one"
    if concept.examples:
        held_out = sum(example.held_out for example in concept.examples)
        trained = counted(len(concept.examples) - held_out, "pair")
        facts.append(f"{trained}, method {concept.method}; {held_out} held-out for measuring")
    else:
        facts.append("imported" if concept.method == "imported" else "drawn from the seed")
    if row := shown.measured:
        means = ", ".join(f"{side} {row[side]:.1f}" for side in ("normal", "steered", "random", "asked"))
        facts.append(f"measured by {row['unit']}: {means}; cost x{row['perplexity_ratio']:.1f}")
        gains = sorted(row.get("gains", {}).items(), key=lambda item: -item[1])[:_SHOWN_GAINS]
        if gains:
            moved = ", ".join(f"{name} {gain:+.1f}" for name, gain in gains)
            facts.append(f"moves most, in spreads of each word measure: {moved}")
    parts.append("\n".join(facts))
    if shown.shadows:
        parts.append(Notice(f"It hides the shipped {concept.name}; /concept delete {concept.name} brings that back."))
    parts += _taken_out(shown)
    parts += _charts(shown)
    if similar:
        rows = [(name, f"{cosine:+.2f}") for name, cosine in similar[:_SHOWN_SIMILAR]]
        heading = f"similar concepts, at layer {read_layer(vector)}"
        parts.append(Table((heading, "cosine"), rows, right=frozenset({1})))
    if without_vector:
        parts.append(Notice(f"{without_vector} more concepts have no vector on this model yet to compare with."))
    parts += [Notice(f"Warning: {warning}.") for warning in shown.report.get("warnings", [])]
    if concept.examples:
        pairs = [
            (example.prompt or "(no prompt)", example.positive, example.negative)
            for example in concept.examples[:_SHOWN_PAIRS]
        ]
        parts.append(Table(("prompt", "with", "without"), pairs))
        if len(concept.examples) > _SHOWN_PAIRS:
            parts.append(Notice(f"{counted(len(concept.examples) - _SHOWN_PAIRS, 'pair')} more in {concept.path}"))
    data = shown.to_json() | {
        "agreement_by_layer": shown.report.get("agreement"),
        "separability_by_layer": shown.report.get("separability"),
        "shared_by_layer": shown.report.get("shared"),
        "resembles": {name: round(cosine, 4) for name, cosine in similar},
        "pairs": [asdict(example) for example in concept.examples],
        "path": None if concept.path is None else str(concept.path),
    }
    return Page(parts, [data])


def extraction_lines(concept: Concept, vector: ConceptVector) -> list[object]:
    """The result of an extraction: the number of pairs, how well they agree and separate, and the warnings."""
    extracted = Entry(concept, "", 0.0, False, vector.report, False)
    pairs = sum(not example.held_out for example in concept.examples)
    line = f"{concept.name} is extracted from {counted(pairs, 'pair')}"
    if pairs > 1:
        line += f"; their agreement is {_figure(extracted.at_read_layer('agreement'))} (1: all point the same way)"
    if (separability := extracted.at_read_layer("separability")) is not None:
        line += f"; it separates {separability:.0%} of the held-out pairs (chance is 50%)"
    return [
        line + ".",
        *_taken_out(extracted),
        *(Notice(f"Warning: {warning}.") for warning in vector.report.get("warnings", [])),
    ]


def _taken_out(shown: Entry) -> list[object]:
    """What `centred` took out of the vector, in a sentence; empty for other methods."""
    before, after = shown.at_read_layer("shared_before"), shown.at_read_layer("shared")
    if before is None or after is None:
        return []
    return [
        f"What all tones share is taken out (mean-centring), and most of what single ones do: at layer "
        f"{shown.read_layer}, the cosine with all was {before:+.2f} and is {after:+.2f}."
    ]


def _charts(shown: Entry) -> list[object]:
    charts: list[object] = []
    separability, agreement = shown.report.get("separability"), shown.report.get("agreement")
    if separability:
        head = f"share of held-out pairs that each layer separates (0.5 is chance); {_best(separability)}"
        charts.append(f"{head}\n{chart(separability, 0.5, 1.0)}")
    elif shown.concept.examples:
        charts.append(Notice("No pairs are held out, so the separability is unknown."))
    if agreement and shown.report.get("pairs", 2) > 1:
        head = f"agreement of the pairs at each layer (1 is full agreement); {_best(agreement)}"
        charts.append(f"{head}\n{chart(agreement, 0.0, 1.0)}")
    return charts


def _best(values: Sequence[float]) -> str:
    best = max(range(len(values)), key=values.__getitem__)
    return f"best {values[best]:.2f} at {best}"


def chart(values: Sequence[float], low: float, high: float) -> str:
    """A column for each value between `low` and `high`, over an axis that numbers them from 0."""
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


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def default_description(concept: Concept) -> str:
    """The description of a concept that has none."""
    example = concept.examples[0]
    return f'More like "{shorten(example.positive, 48)}" than "{shorten(example.negative, 48)}"'
