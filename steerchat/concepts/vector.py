"""Concept vectors: what is pushed, as values.

A concept vector holds, for every layer, a unit direction, the raw length of the difference it came from, and
(through the model's `lengths`) how long that layer's residual typically is. Strengths are in units of that
length, so one number means about the same push at every layer and on every model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.hooks import Edit
from ..system.folders import write_whole
from ..system.untrusted import MAX_HEADER, claimed_header, parse_json
from ..values.errors import ConceptError
from ..values.recipe import UNIT, Recipe, Term, format_layers

# A sum of unit directions shorter than this has cancelled out: rescaling it would push in a random direction.
_CANCELLED = 1e-3
# Of a vector's file, which is safetensors with checked contents and never pickle.
_FORMAT = "steerchat-concept-1"
# More than any model has: a header that claims more is not a concept vector, and must not be allocated.
_MAX_ELEMENTS = 512 * 65536

# Where vectors without examples of their own (random, imported ones) are read, as a share of the depth.
_READ_DEPTH = 0.6


@dataclass(frozen=True, eq=False)
class ConceptVector:
    """A direction per layer.

    Attributes:
        name: the concept.
        directions: (layers, hidden) float32, each row of unit length, or zero where the concept has none.
        raw_lengths: (layers,) length of the mean difference before it was made a unit.
        fingerprint: of the model it was read from.
        method: how it was extracted: `mean`, `pca`, `last`, `random`, `imported`.
        report: figures of the extraction (agreement, separability per layer), as plain numbers.
    """

    name: str
    directions: Tensor = field(repr=False)
    raw_lengths: Tensor = field(repr=False)
    fingerprint: str
    method: str = "mean"
    report: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_raw(cls, name: str, raw: Tensor, fingerprint: str, method: str = "mean", **report: Any) -> ConceptVector:
        """From raw differences, (layers, hidden).

        Raises:
            ConceptError: when they hold NaN or infinity, or are zero everywhere.
        """
        raw = raw.detach().to("cpu", torch.float32)
        if not torch.isfinite(raw).all():
            raise ConceptError(f"the vector of {name} holds NaN or infinity", "extract it again from its examples")
        lengths = raw.norm(dim=-1)
        if not (lengths > 0).any():
            raise ConceptError(f"the vector of {name} is zero", "its texts with and without the concept must differ")
        unit = raw / lengths.clamp_min(1e-12).unsqueeze(-1)
        return cls(name, torch.where(lengths.unsqueeze(-1) > 0, unit, 0.0), lengths, fingerprint, method, report)

    @property
    def n_layers(self) -> int:
        return self.directions.shape[0]

    @property
    def hidden(self) -> int:
        return self.directions.shape[1]

    @cached_property
    def digest(self) -> str:
        """Short, and the same for the same directions."""
        return hashlib.sha256(self.directions.contiguous().numpy().tobytes()).hexdigest()[:16]

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
        # v - v is a legitimate value, unlike an extraction that came out zero.
        lengths = raw.norm(dim=-1)
        unit = raw / lengths.clamp_min(1e-12).unsqueeze(-1)
        return ConceptVector(name, unit, lengths, self.fingerprint, self.method)

    def _check_same_model(self, other: ConceptVector) -> None:
        if self.fingerprint != other.fingerprint or self.directions.shape != other.directions.shape:
            raise ConceptError(
                f"{self.name} and {other.name} come from different models", "extract both on the same one"
            )

    def save(self, path: Path | str) -> None:
        """Write safetensors: `directions`, `raw_lengths`, and metadata. The file is whole or absent."""
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

        Raises:
            ConceptError: for a file that is not one of ours, is broken, or holds NaN.
        """
        path = Path(path)
        from safetensors import SafetensorError, safe_open

        try:
            if claimed_header(path) > MAX_HEADER:
                raise ConceptError(f"{path.name} claims a header too large to be read", "/concept import reads others")
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ConceptError(
                        f"{path.name} is not a concept vector of steerchat", "/concept import reads others"
                    )
                shape = file.get_slice("directions").get_shape()
                if len(shape) != 2 or shape[0] * shape[1] > _MAX_ELEMENTS:
                    raise ConceptError(f"{path.name} holds a tensor of shape {shape}", "expected (layers, hidden)")
                if file.get_slice("raw_lengths").get_shape() != shape[:1]:
                    raise ConceptError(
                        f"{path.name} holds other lengths than directions", "expected one for each layer"
                    )
                directions = file.get_tensor("directions").float()
                lengths = file.get_tensor("raw_lengths").float()
            report = parse_json(metadata.get("report", "{}"))
            if not isinstance(report, dict):
                raise ConceptError(
                    f"{path.name} says nothing readable of itself", "delete it, and it is extracted again"
                )
        except (OSError, SafetensorError, ValueError) as error:
            raise ConceptError(f"{path.name} cannot be read: {error}", "delete it, and it is extracted again") from None
        if lengths.shape != (shape[0],) or not torch.isfinite(directions).all() or not torch.isfinite(lengths).all():
            raise ConceptError(f"{path.name} holds wrong shapes or NaN", "delete it, and it is extracted again")
        norms = directions.norm(dim=-1, keepdim=True)
        # What has unit length already stays bit for bit, so that an answer is the same before and after a restart.
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
    """The layer at which a concept is scored: fixed for a vector, whatever layer is steered."""
    layer = vector.report.get("read_layer")
    return round(_READ_DEPTH * (vector.n_layers - 1)) if layer is None else int(layer)


def random_vector(seed: int, n_layers: int, hidden: int, fingerprint: str) -> ConceptVector:
    """The `random` concept: one random direction for all layers, the control that every claim needs."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(hidden, generator=generator)
    return ConceptVector.from_raw("random", direction.expand(n_layers, hidden), fingerprint, "random")


def combine(parts: Sequence[tuple[ConceptVector, float]], layer: int) -> Tensor:
    """The unit direction of a mix at one layer, (hidden,): the weighted sum of unit directions, rescaled.

    Raises:
        ConceptError: when the parts cancel out there.
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


def edits(recipe: Recipe, vectors: dict[str, ConceptVector], lengths: Tensor) -> tuple[Edit, ...]:
    """What a recipe does to a row.

    Args:
        recipe: its terms are taken whether it is on or not.
        vectors: by concept name.
        lengths: (layers,) the model's typical residual length at each layer.
    """
    return tuple(
        Edit(layer, term.operation, term_vector(term, vectors, lengths, layer))
        for term in recipe.terms
        for layer in term.layers
        if term.strength or term.operation == "ablate"
    )


def term_vector(term: Term, vectors: dict[str, ConceptVector], lengths: Tensor, layer: int) -> Tensor:
    """A term's vector at one layer, (hidden,): its push for add, its unit direction for the other operations."""
    direction = combine([(vectors[name], weight) for name, weight in term.parts], layer)
    if term.operation == "add":
        return direction * (term.per_layer * UNIT * float(lengths[layer]))
    if term.operation == "replace":
        # The state becomes the direction, as long as the states there are: what adding avoids.
        return direction * float(lengths[layer])
    return direction
