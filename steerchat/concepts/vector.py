"""Concept vectors, and the edits of the residual stream that a recipe makes with them.

A concept vector has, for every layer, a unit direction and the raw length of the difference that it came from.
Strengths are in units of the layer's typical residual length (the model's `lengths`), so a number means about the same
push at every layer and on every model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.gates import Gate
from ..engine.operations import Edit
from ..system.folders import write_whole
from ..system.untrusted import MAX_HEADER, claimed_header, parse_json
from ..values.errors import ConceptError
from ..values.recipe import Recipe, Term, format_layers
from ..values.results import plot
from .charts import layer_chart

# A shorter sum of unit directions has cancelled out: rescaling it would push in a random direction.
_CANCELLED = 1e-3
_FORMAT = "steerchat-concept-1"
# More than any model has: a larger claim in a header is not a concept vector, and must not be allocated.
_MAX_ELEMENTS = 512 * 65536
_DELETE = "delete it: a concept with examples is then extracted again"
# In a vector's report, a number for each layer: the mean projection of the examples without the concept, and with it.
LEVELS = ("level_0", "level_1")
# The read layer of random and imported vectors, as a share of the depth.
_READ_DEPTH = 0.6


@dataclass(frozen=True, eq=False)
class ConceptVector:
    """A direction per layer.

    Attributes:
        name: the concept's.
        directions: (layers, hidden) float32, each row of unit length, or zero where there is no direction.
        raw_lengths: (layers,) length of the mean difference before it was made a unit vector.
        fingerprint: the model's.
        method: of extraction: `mean`, `centred`, `pca`, `end` or `last`; else `random` or `imported`.
        report: figures of the extraction (agreement, separability, levels per layer), as plain numbers.
    """

    name: str
    directions: Tensor = field(repr=False)
    raw_lengths: Tensor = field(repr=False)
    fingerprint: str
    method: str = "mean"
    report: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_raw(cls, name: str, raw: Tensor, fingerprint: str, method: str = "mean", **report: Any) -> ConceptVector:
        """A vector from raw differences, (layers, hidden). Raises as `checked`."""
        raw = raw.detach().to("cpu", torch.float32)
        return cls(name, *_unit(raw), fingerprint, method, report).checked()

    def checked(self) -> ConceptVector:
        """Itself. Raises ConceptError when it contains NaN or infinity, or is zero everywhere."""
        if not self.raw.isfinite().all():
            raise ConceptError(f"the vector of {self.name} contains NaN or infinity", "all numbers must be finite")
        if not self.raw_lengths.any():
            raise ConceptError(f"the vector of {self.name} is zero", "texts with and without the concept must differ")
        return self

    def plot(self) -> Any:
        """What is known of each layer, as a figure of matplotlib. Raises UsageError without the extra `plot`."""
        return plot(layer_chart(self.name, self.report, self.raw_lengths.tolist()))

    @property
    def n_layers(self) -> int:
        return self.directions.shape[0]

    @property
    def hidden(self) -> int:
        return self.directions.shape[1]

    @cached_property
    def digest(self) -> str:
        """A short hash of the directions."""
        return hashlib.sha256(self.directions.contiguous().numpy().tobytes()).hexdigest()[:16]

    def at_level(self, layer: int, level: float) -> float:
        """The projection on the direction at a layer that a level means: 0 is typical of the concept's plain examples,
        1 of those with the concept.

        Raises ConceptError when the levels were not read, or the examples do not differ there.
        """
        levels = [self.report.get(name) for name in LEVELS]
        if not all(isinstance(values, list) and len(values) == self.n_layers for values in levels):
            raise ConceptError(f"{self.name} has no levels", f"/steer {self.name} needs none")
        low, high = (float(values[layer]) for values in levels if values is not None)
        if not high - low > 1e-6:
            raise ConceptError(
                f"at layer {layer} the examples of {self.name} lie no further along it than the others",
                "choose another layer",
            )
        return low + level * (high - low)

    @property
    def raw(self) -> Tensor:
        """(layers, hidden): directions times raw lengths."""
        return self.directions * self.raw_lengths.unsqueeze(-1)

    def __add__(self, other: ConceptVector) -> ConceptVector:
        self._check_same_model(other)
        return self._sum(f"{self.name}+{other.name}", self.raw + other.raw)

    def __sub__(self, other: ConceptVector) -> ConceptVector:
        self._check_same_model(other)
        return self._sum(f"{self.name}-{other.name}", self.raw - other.raw)

    def __mul__(self, factor: float) -> ConceptVector:
        return self._sum(self.name, self.raw * factor)

    __rmul__ = __mul__

    def __neg__(self) -> ConceptVector:
        return self * -1.0

    def cosine(self, other: ConceptVector) -> Tensor:
        """(layers,) cosine between the two directions at each layer."""
        self._check_same_model(other)
        return (self.directions * other.directions).sum(-1)

    def _sum(self, name: str, raw: Tensor) -> ConceptVector:
        # v - v is a valid value, unlike an extraction whose result is zero.
        return ConceptVector(name, *_unit(raw), self.fingerprint, self.method)

    def _check_same_model(self, other: ConceptVector) -> None:
        if self.fingerprint != other.fingerprint or self.directions.shape != other.directions.shape:
            raise ConceptError(
                f"{self.name} and {other.name} come from different models", "extract both on the same one"
            )

    def save(self, path: Path | str) -> None:
        """Write safetensors: `directions`, `raw_lengths`, and metadata. The file is complete or absent."""
        from safetensors.torch import save

        metadata = {
            "format": _FORMAT,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "method": self.method,
            "layers": str(self.n_layers),
            "report": json.dumps(self.report),
        }
        tensors = {
            "directions": self.directions.to(torch.float32).contiguous(),
            "raw_lengths": self.raw_lengths.to(torch.float32).contiguous(),
        }
        write_whole(Path(path), save(tensors, metadata))

    @classmethod
    def load(cls, path: Path | str) -> ConceptVector:
        """Read what `save` wrote.

        Raises ConceptError for a file that `save` did not write, is broken, or contains NaN.
        """
        path = Path(path)
        from safetensors import SafetensorError, safe_open

        try:
            if claimed_header(path) > MAX_HEADER:
                raise ConceptError(f"{path.name} claims too large a header", "use /concept import for other files")
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ConceptError(
                        f"{path.name} is not a concept vector of steerchat", "use /concept import for other files"
                    )
                shape = file.get_slice("directions").get_shape()
                if len(shape) != 2 or shape[0] * shape[1] > _MAX_ELEMENTS:
                    raise ConceptError(f"{path.name} has a tensor of shape {shape}", "expected (layers, hidden)")
                if file.get_slice("raw_lengths").get_shape() != shape[:1]:
                    raise ConceptError(
                        f"{path.name} has not as many lengths as directions", "expected one for each layer"
                    )
                directions = file.get_tensor("directions").float()
                lengths = file.get_tensor("raw_lengths").float()
            report = parse_json(metadata.get("report", "{}"))
            if not isinstance(report, dict):
                raise ConceptError(f"{path.name} has a report that is not an object", _DELETE)
        except (OSError, SafetensorError, ValueError) as error:
            raise ConceptError(f"{path.name} cannot be read: {error}", _DELETE) from None
        if not torch.isfinite(directions).all() or not torch.isfinite(lengths).all():
            raise ConceptError(f"{path.name} contains NaN or infinity", _DELETE)
        norms = directions.norm(dim=-1, keepdim=True)
        # Rows of unit length stay bit for bit, so that an answer is the same before and after a restart.
        unit = torch.where((norms - 1).abs() < 1e-5, directions, torch.where(norms > 0, directions / norms, 0.0))
        return cls(
            metadata.get("name", path.stem),
            unit,
            lengths,
            metadata.get("fingerprint", ""),
            metadata.get("method", "mean"),
            report,
        )


def read_layer(vector: ConceptVector) -> int:
    """The layer at which a concept is scored; it does not depend on the steered layers."""
    layer = vector.report.get("read_layer")
    return round(_READ_DEPTH * (vector.n_layers - 1)) if layer is None else int(layer)


def random_vector(seed: int, n_layers: int, hidden: int, fingerprint: str) -> ConceptVector:
    """The `random` concept: one random direction for all layers, the control of every claim."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(hidden, generator=generator)
    return ConceptVector.from_raw("random", direction.expand(n_layers, hidden), fingerprint, "random")


def combine(parts: Sequence[tuple[ConceptVector, float]], layer: int) -> Tensor:
    """The unit direction of a mix at one layer, (hidden,): the weighted sum of unit directions, rescaled.

    Raises ConceptError when the parts cancel out there.
    """
    total = sum((weight * vector.directions[layer] for vector, weight in parts), torch.zeros(parts[0][0].hidden))
    length = total.norm()
    if length < _CANCELLED:
        missing = next((vector for vector, _ in parts if not vector.directions[layer].any()), None)
        if missing is not None:
            have = format_layers(torch.nonzero(missing.directions.any(dim=-1)).flatten().tolist())
            raise ConceptError(f"{missing.name} has no direction at layer {layer}", f"it has layers {have}")
        names = " and ".join(vector.name for vector, _ in parts)
        raise ConceptError(f"{names} cancel out at layer {layer}", "change a weight or a layer")
    return total / length


def edits(
    recipe: Recipe,
    vectors: dict[str, ConceptVector],
    lengths: Tensor,
    gate: Callable[[Term], Gate | None] = lambda term: None,
) -> tuple[Edit, ...]:
    """The edits that a recipe makes in a row.

    Args:
        recipe: its terms count whether it is on or off.
        vectors: by concept name.
        lengths: (layers,) the model's typical residual length at each layer.
        gate: gives what opens a term.
    """
    gates = {term: gate(term) for term in recipe.terms}
    return tuple(
        Edit(
            layer, term.operation, term_vector(term, vectors, lengths, layer), _level(term, vectors, layer), gates[term]
        )
        for term in recipe.terms
        for layer in term.layers
        if term.strength or term.how.number != "strength"
    )


def _level(term: Term, vectors: dict[str, ConceptVector], layer: int) -> float:
    """The projection that an operation with a level is about; 0 for any other."""
    if term.how.number != "level":
        return 0.0
    if len(term.parts) != 1:
        raise ConceptError(f"{term.operation} takes one concept", "levels are those of a concept's own examples")
    name, weight = term.parts[0]
    return math.copysign(1.0, weight) * vectors[name].at_level(layer, term.strength)


def term_vector(term: Term, vectors: dict[str, ConceptVector], lengths: Tensor, layer: int) -> Tensor:
    """A term's vector at one layer, (hidden,), as long as its operation says."""
    direction = combine([(vectors[name], weight) for name, weight in term.parts], layer)
    return direction * term.how.size(term.strength, len(term.layers), float(lengths[layer]))


def _unit(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit length, or zero, and their lengths. `raw`: (layers, hidden) float32."""
    lengths = raw.norm(dim=-1)
    # The squares of small numbers are zero in float32.
    lengths = torch.where(lengths > 0, lengths, raw.double().norm(dim=-1).float())
    return raw / torch.where(lengths > 0, lengths, 1.0)[:, None], lengths
