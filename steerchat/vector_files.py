"""Concept vectors on disk: safetensors with checked contents. Never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .errors import ConceptError
from .folders import write_whole
from .untrusted import MAX_HEADER, claimed_header, parse_json

if TYPE_CHECKING:
    from .vectors import ConceptVector

_FORMAT = "steerchat-concept-1"
# More than any model has: a header that claims more is not a concept vector, and must not be allocated.
_MAX_ELEMENTS = 512 * 65536


def save_vector(vector: ConceptVector, path: Path) -> None:
    """Write `vector` to `path`, whole or not at all."""
    from safetensors.torch import save

    metadata = {
        "format": _FORMAT,
        "name": vector.name,
        "fingerprint": vector.fingerprint,
        "method": vector.method,
        "layers": str(vector.n_layers),
        "report": json.dumps(vector.report),
    }
    tensors = {
        "directions": vector.directions.to(torch.float32).contiguous(),
        "raw_lengths": vector.raw_lengths.to(torch.float32).contiguous(),
    }
    write_whole(path, save(tensors, metadata))


def load_vector(path: Path) -> ConceptVector:
    """Read a file that `save_vector` wrote. Raises ConceptError with the file's name for anything else."""
    from safetensors import SafetensorError, safe_open

    from .vectors import ConceptVector

    try:
        if claimed_header(path) > MAX_HEADER:
            raise ConceptError(f"{path.name} claims a header too large to be read", "/concept import reads others")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ConceptError(f"{path.name} is not a concept vector of steerchat", "/concept import reads others")
            shape = file.get_slice("directions").get_shape()
            if len(shape) != 2 or shape[0] * shape[1] > _MAX_ELEMENTS:
                raise ConceptError(f"{path.name} holds a tensor of shape {shape}", "expected (layers, hidden)")
            if file.get_slice("raw_lengths").get_shape() != shape[:1]:
                raise ConceptError(f"{path.name} holds other lengths than directions", "expected one for each layer")
            directions = file.get_tensor("directions").float()
            lengths = file.get_tensor("raw_lengths").float()
        report = parse_json(metadata.get("report", "{}"))
        if not isinstance(report, dict):
            raise ConceptError(f"{path.name} says nothing readable of itself", "delete it, and it is extracted again")
    except (OSError, SafetensorError, ValueError) as error:
        raise ConceptError(f"{path.name} cannot be read: {error}", "delete it, and it is extracted again") from None
    if lengths.shape != (shape[0],) or not torch.isfinite(directions).all() or not torch.isfinite(lengths).all():
        raise ConceptError(f"{path.name} holds wrong shapes or NaN", "delete it, and it is extracted again")
    norms = directions.norm(dim=-1, keepdim=True)
    # What has unit length already stays bit for bit, so that an answer is the same before and after a restart.
    unit = torch.where((norms - 1).abs() < 1e-5, directions, torch.where(norms > 0, directions / norms, 0.0))
    return ConceptVector(
        metadata.get("name", path.stem),
        unit,
        lengths,
        metadata.get("fingerprint", ""),
        metadata.get("method", "mean"),
        report,
    )
