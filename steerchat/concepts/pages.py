"""The pages of /concept list and /concept show, for the screen and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..values.chart import Matrix
from ..values.errors import ConceptError, shorten
from ..values.page import Page, Table
from ..values.recipe import RANDOM, format_strength, name_layers, parse_layers
from ..values.results import Notice
from ..values.text import counted
from .charts import layer_chart
from .concept import Concept
from .files import read_header
from .library import Library

if TYPE_CHECKING:
    from .vector import ConceptVector

_SHOWN_PAIRS = 8
_SHOWN_SIMILAR = 6
_SHOWN_GAINS = 4
_MEASURED = ("unit", "normal", "steered", "random", "asked", "gain", "perplexity_ratio")


@dataclass(frozen=True)
class Entry:
    """One concept with its setting, vector and measurements on one model."""

    concept: Concept
    layers: str  # the recommended ones, as a user types them
    strength: float
    tuned: bool  # whether layers and strength were measured on this model; False means the default ones
    report: dict[str, Any]  # of its extraction on this model; empty before the first one
    shadows: bool  # whether it hides a shipped concept
    error: str = ""  # why its file cannot be read
    # By word lists or length, at this setting (`experiments.evaluation.Evaluation`); None without.
    measured: dict[str, Any] | None = None

    @property
    def read_layer(self) -> int | None:
        return self.report.get("read_layer")

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
            "agreement": at_read_layer(self.report, "agreement"),
            "separability": at_read_layer(self.report, "separability"),
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
            _figure(at_read_layer(item.report, "agreement")),
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
    parts += _taken_out(shown.report)
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


def at_read_layer(report: dict[str, Any], figure: str) -> float | None:
    """A figure of an extraction, such as `agreement`, at the layer that the concept is read at; None where unknown."""
    values, layer = report.get(figure), report.get("read_layer")
    return values[layer] if values and layer is not None and layer < len(values) else None


def extraction_lines(concept: Concept, vector: ConceptVector) -> list[object]:
    """The result of an extraction: the number of pairs, how well they agree and separate, and the warnings."""
    pairs = sum(not example.held_out for example in concept.examples)
    line = f"{concept.name} is extracted from {counted(pairs, 'pair')}"
    if pairs > 1:
        line += f"; their agreement is {_figure(at_read_layer(vector.report, 'agreement'))} (1: all point the same way)"
    if (separability := at_read_layer(vector.report, "separability")) is not None:
        line += f"; it separates {separability:.0%} of the held-out pairs (chance is 50%)"
    return [
        line + ".",
        *_taken_out(vector.report),
        *(Notice(f"Warning: {warning}.") for warning in vector.report.get("warnings", [])),
    ]


def _taken_out(report: dict[str, Any]) -> list[object]:
    """What `centred` took out of the vector, in a sentence; empty for other methods."""
    before, after = at_read_layer(report, "shared_before"), at_read_layer(report, "shared")
    if before is None or after is None:
        return []
    return [
        f"What all tones share is taken out (mean-centring), and most of what single ones do: at layer "
        f"{report['read_layer']}, the cosine with all was {before:+.2f} and is {after:+.2f}."
    ]


def cosine_map(library: Library, fingerprint: str, layer: int | None = None) -> Matrix:
    """How alike the directions of concepts with a vector on a model are, those that are most alike side by side.

    Args:
        layer: where; by default the middle one of those at which the concepts are read.

    Raises:
        ConceptError: when fewer than two concepts have a vector on the model, or it has no such layer.
    """
    from .vector import read_layer

    stored = (library.stored(library.get(name), fingerprint) for name in library.names() if name != RANDOM)
    vectors = [vector for vector in stored if vector is not None]
    if len(vectors) < 2:
        raise ConceptError("fewer than two concepts have a vector on this model", "/concept show NAME extracts one")
    where = sorted(map(read_layer, vectors))[len(vectors) // 2] if layer is None else layer
    if where >= vectors[0].n_layers:
        raise ConceptError(f"no layer {where}: this model has layers 0 to {vectors[0].n_layers - 1}", "choose another")
    cosines = {(a.name, b.name): float(a.cosine(b)[where]) for a in vectors for b in vectors}
    order = [vectors[0].name]
    while rest := [vector.name for vector in vectors if vector.name not in order]:
        order.append(max(rest, key=lambda name: cosines[order[-1], name]))
    rows = [(name, [cosines[name, other] for other in order]) for name in order]
    return Matrix(f"cosine between concept vectors at layer {where}", "concept", order, rows, "cosine")


def _charts(shown: Entry) -> list[object]:
    chart = layer_chart(shown.concept.name, shown.report)
    unknown = shown.concept.examples and not shown.report.get("separability")
    notes: list[object] = [Notice("No pairs are held out, so the separability is unknown.")] if unknown else []
    return notes + ([] if chart is None else [chart])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def default_description(concept: Concept) -> str:
    """The description of a concept that has none."""
    example = concept.examples[0]
    return f'More like "{shorten(example.positive, 48)}" than "{shorten(example.negative, 48)}"'
