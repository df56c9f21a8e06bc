"""Concept vectors: what is pushed, as values.

A concept vector holds, for every layer, a unit direction, the raw length of the difference it came from, and
(through the model's `lengths`) how long that layer's residual typically is. Strengths are in units of that
length, so one number means about the same push at every layer and on every model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import ConceptError
from .hooks import Edit
from .recipe import UNIT, Recipe, Term, format_layers

# A sum of unit directions shorter than this has cancelled out: rescaling it would push in a random direction.
_CANCELLED = 1e-3


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
        from .vector_files import save_vector

        save_vector(self, Path(path))

    @classmethod
    def load(cls, path: Path | str) -> ConceptVector:
        """Read what `save` wrote.

        Raises:
            ConceptError: for a file that is not one of ours, is broken, or holds NaN.
        """
        from .vector_files import load_vector

        return load_vector(Path(path))


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
