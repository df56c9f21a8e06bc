"""Reads concept vectors from files of other programs: safetensors, GGUF control vectors, plain directions.

Layers. Row i, `direction.i` and `--layer i` all mean the output of decoder block i, counted from 0: there llama.cpp
adds a control vector, and repeng reads one. Neither has block 0, which a GGUF cannot store.

Lengths. An import takes only directions: the length of a push follows from the model. export.py writes files.

A foreign file may be hostile. Its first bytes, not its name, tell its format; its size and its header are checked
before anything is allocated; nothing in it is executed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engine.engine import Engine
from ..models.gguf_reader import BoundedReader
from ..values.errors import ConceptError, shorten
from ..values.recipe import format_layers
from .foreign import Layout, archive_error, glp_ablates, layout, pickle_error
from .vector import LEVELS, ConceptVector

ARCHITECTURE = "controlvector"

# Bytes for names and metadata beside the numbers.
_HEADER_BYTES = 1 << 20
_FORMATS = "use a safetensors file, a GGUF control vector, or an .npy array"
_HAS_LENGTH = "a direction needs a length"
_LAYER_OF = re.compile(r"direction\.(\d{1,4})")
_REPORTED = ("agreement", "separability", *LEVELS)  # a number for each layer


@dataclass(frozen=True)
class Imported:
    """A vector from a file."""

    vector: ConceptVector  # bound to the model that it was imported on; zero at layers that the file does not have
    facts: Mapping[str, str]  # kind and description, if the file has them
    notes: tuple[str, ...]  # sentences for the user about the layers
    ablates: bool = False  # whether the file is meant to be taken out of states and not added

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers with a direction."""
        return tuple(torch.nonzero(self.vector.directions.norm(dim=-1) > 0).flatten().tolist())


def import_vector(path: Path, name: str, engine: Engine, layer: int | None = None) -> Imported:
    """Read a vector for a model.

    Args:
        path: safetensors (of steerchat, saklas or steering-lite, or with one tensor), a GGUF control vector, or an
            .npy array.
        layer: for a plain direction, a tensor of shape (hidden,).

    Raises:
        ConceptError: naming the file, for anything but a finite vector of the right size.
    """
    magic, ablates = _magic(path, engine), False
    facts: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()
    if magic.startswith(b"GGUF"):
        if layer is not None:
            raise _has_layers(path.name)
        raw, facts, notes, ablates = _from_gguf(path, engine)
    elif magic.startswith(b"\x93NUMPY"):
        raw = _placed(path.name, _from_npy(path, engine), engine, layer)
    elif (read := _from_safetensors(path, engine)) is not None:
        tensor, known = read
        raw = _placed(path.name, tensor, engine, layer)
        if known is not None:
            notes, ablates = known.notes, known.ablates
    else:
        return _own(path, name, engine, layer)
    if not torch.isfinite(raw).all():
        raise ConceptError(f"{path.name} contains NaN or infinity", "compute the vector again")
    if not torch.isfinite(raw.norm(dim=-1)).all():
        raise ConceptError(f"{path.name} contains numbers too large for float32", "scale the direction down")
    if not raw.any():
        raise ConceptError(f"{path.name} contains only zeros", _HAS_LENGTH)
    if ablates:
        notes = (*notes, "It is meant to be taken out of what the model computes, and not to be added.")
    return Imported(ConceptVector.from_raw(name, raw, engine.fingerprint, "imported"), facts, notes, ablates)


# Reading


def _magic(path: Path, engine: Engine) -> bytes:
    """The first bytes of a file. Raises ConceptError unless it is a regular file of a vector's size, and no pickle."""
    try:
        if not path.is_file():
            raise ConceptError(f"there is no file {path}", "check the path")
        with path.open("rb") as file:
            magic = file.read(8)
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise ConceptError(f"{path.name} cannot be read: {error}", "check the path and its rights") from None
    # A pickle, or the zip file that torch.save and np.savez put it into. A safetensors file may begin with the same
    # byte, of the length of its header.
    is_pickle = magic[:1] == b"\x80" and (len(magic) < 8 or int.from_bytes(magic, "little") > _HEADER_BYTES)
    if path.suffix.lower() in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt") or is_pickle:
        raise pickle_error(path)
    if magic.startswith(b"PK\x03\x04"):
        raise archive_error(path) if path.suffix.lower() == ".npz" else pickle_error(path)
    most = engine.n_layers * engine.hidden * 8 + 2 * _HEADER_BYTES
    if size > most:
        raise ConceptError(
            f"{path.name} is too large for a vector of {engine.name}",
            f"it has {size:,} bytes, and {engine.n_layers} layers of {engine.hidden} numbers at most {most:,}",
        )
    return magic


def _from_npy(path: Path, engine: Engine) -> Tensor:
    try:
        # Mapped, not read: numpy checks the header's claims against the file before anything is allocated.
        with np.errstate(all="ignore"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, OverflowError, SyntaxError, MemoryError) as error:
        raise _broken(path.name, error) from None
    return _tensor(path.name, array, engine)


def _from_safetensors(path: Path, engine: Engine) -> tuple[Tensor, Layout | None] | None:
    """The only tensor in the file, or (layers, hidden) where the layout is known; None for a file of steerchat's."""
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
        opening = file.read(1)
    if opening != b"{" or claimed > _HEADER_BYTES:
        raise ConceptError(f"{path.name} has an unknown format", _FORMATS)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format", "").startswith("steerchat"):
                return None
            names = list(file.keys())
            known = layout(path.name, names, metadata)
            if known is None and len(names) != 1:
                shown = shorten(", ".join(names) or "none", 80)
                raise ConceptError(f"{path.name} has {len(names)} tensors: {shown}", "save the direction alone")
            for name in names:
                shape = file.get_slice(name).get_shape()
                _check_shape(path.name, shape, engine)
                if known is not None and math.prod(shape) != engine.hidden:
                    raise ConceptError(f"{path.name}: {name} has shape {tuple(shape)}", f"({engine.hidden},)")
            if known is not None:
                _check_block(path.name, max(known.tensors), engine)
        with safe_open(path, framework="pt") as file:  # numpy knows no bfloat16
            tensor = file.get_tensor(names[0])
            if known is not None:
                rows = torch.zeros(engine.n_layers, engine.hidden, dtype=tensor.dtype)
                for block, name in known.tensors.items():
                    rows[block] = file.get_tensor(name).flatten()
                tensor = rows
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise _broken(path.name, error) from None
    if not tensor.is_floating_point():
        raise ConceptError(f"{path.name} contains {tensor.dtype}, not floating-point numbers", "save it as float32")
    return tensor.float(), known


def _own(path: Path, name: str, engine: Engine, layer: int | None) -> Imported:
    """A file that `export_vector` wrote."""
    if layer is not None:
        raise _has_layers(path.name)
    try:
        vector = ConceptVector.load(path)
    except ConceptError as error:
        raise ConceptError(error.message, "export it again") from None
    if vector.fingerprint != engine.fingerprint:
        raise ConceptError(
            f"{path.name} was read from another model than {engine.name}",
            "a vector steers its own model only; extract the concept here: /concept new NAME --examples FILE",
        )
    _check_shape(path.name, list(vector.directions.shape), engine)
    if not vector.directions.any():
        raise ConceptError(f"{path.name} contains only zeros", _HAS_LENGTH)
    report, facts = _reported(vector.report, engine.n_layers)
    vector = ConceptVector(name, vector.directions, vector.raw_lengths, engine.fingerprint, "imported", report)
    return Imported(vector, facts, ())


def _reported(given: dict[str, Any], n_layers: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures and the facts in a file's report that have the right form."""
    report: dict[str, Any] = {}
    for key in _REPORTED:
        values = given.get(key)
        if isinstance(values, list) and len(values) == n_layers and all(isinstance(v, int | float) for v in values):
            report[key] = [float(value) for value in values]
    layer = given.get("read_layer")
    if isinstance(layer, int) and 0 <= layer < n_layers:
        report["read_layer"] = layer
    return report, {key: given[key] for key in ("kind", "description") if isinstance(given.get(key), str)}


def _from_gguf(path: Path, engine: Engine) -> tuple[Tensor, dict[str, str], tuple[str, ...], bool]:
    try:
        with np.errstate(all="ignore"):
            reader = BoundedReader(path)
        architecture = _field(reader, "general.architecture")
        if architecture != ARCHITECTURE:
            what = shorten(str(architecture), 30)
            raise ConceptError(f"{path.name} is a GGUF of {what}, not a control vector", _FORMATS)
        ablates = glp_ablates(path.name, partial(_value, reader))
        raw = torch.zeros(engine.n_layers, engine.hidden)
        layers = []
        for tensor in reader.tensors:
            match = _LAYER_OF.fullmatch(tensor.name)
            if match is None:
                continue
            layer = int(match[1])
            _check_block(path.name, layer, engine)
            row = _tensor(path.name, tensor.data, engine)
            if row.ndim != 1:
                raise ConceptError(f"{path.name}: {tensor.name} has shape {tuple(row.shape)}", f"({engine.hidden},)")
            raw[layer] = row
            layers.append(layer)
        hint = _field(reader, f"{ARCHITECTURE}.model_hint")
        facts = {key: value for key in ("kind", "description") if (value := _field(reader, f"steerchat.{key}"))}
        fingerprint = _field(reader, "steerchat.fingerprint")
        del reader
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise _broken(path.name, error) from None
    if not layers:
        raise ConceptError(f"{path.name} has no direction.N", "a control vector has one for each block from 1 on")
    if fingerprint and fingerprint != engine.fingerprint:
        raise ConceptError(f"{path.name} was read from another model than {engine.name}", "use it with that model")
    lacks = "" if 0 in layers else "; the format cannot store block 0"
    notes = [f"It has directions for blocks {format_layers(sorted(layers))}{lacks}."]
    own = engine.model.config.model_type
    if hint and hint != own:
        notes.append(f"It was made for {shorten(hint, 40)}, and this model is {own}: it may not steer this one.")
    elif not fingerprint and max(layers) < engine.n_layers - 1:
        notes.append(f"This model has blocks up to {engine.n_layers - 1}: the file may be for a smaller model.")
    return raw, facts, tuple(notes), ablates


def _field(reader: gguf.GGUFReader, key: str) -> str | None:
    value = _value(reader, key)
    return value if isinstance(value, str) else None


def _value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


# Checking


def _tensor(file: str, array: Any, engine: Engine) -> Tensor:
    """A float32 copy of an array whose size and type are right."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        kind = getattr(array, "dtype", type(array).__name__)
        raise ConceptError(f"{file} contains {kind}, not floating-point numbers", "save it as float32")
    _check_shape(file, list(array.shape), engine)
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, which is refused later
        return torch.from_numpy(np.array(array, dtype=np.float32))


def _check_block(file: str, block: int, engine: Engine) -> None:
    if block >= engine.n_layers:
        raise ConceptError(
            f"{file} steers block {block}, and {engine.name} has blocks 0 to {engine.n_layers - 1}",
            "use it with the model that it was made for",
        )


def _check_shape(file: str, shape: list[int], engine: Engine) -> None:
    """Raises unless the shape is (hidden,), (1, hidden) or (layers, hidden)."""
    layers, hidden = engine.n_layers, engine.hidden
    if shape in ([hidden], [1, hidden], [layers, hidden]):
        return
    if shape == [layers + 1, hidden]:
        raise ConceptError(f"{file} has {layers + 1} rows for {layers} blocks", "leave out the first, the embeddings")
    if shape and shape[-1] != hidden and len(shape) <= 2:
        raise ConceptError(
            f"{file} has {shape[-1]} numbers a direction, and {engine.name} has {hidden}",
            "a vector steers the model that it was read from",
        )
    raise ConceptError(f"{file} has shape {tuple(shape)}", f"({hidden},) for one layer, or ({layers}, {hidden})")


def _placed(file: str, tensor: Tensor, engine: Engine, layer: int | None) -> Tensor:
    """(layers, hidden) with a plain direction at its layer."""
    if tensor.ndim == 2 and tensor.shape[0] == engine.n_layers and engine.n_layers > 1:
        if layer is not None:
            raise _has_layers(file)
        return tensor
    if layer is None:
        raise ConceptError(
            f"{file} has one direction and does not say for which layer",
            "add --layer 14, for the output of block 14, counted from 0",
        )
    raw = torch.zeros(engine.n_layers, engine.hidden)
    raw[layer] = tensor.flatten()
    return raw


def _has_layers(file: str) -> ConceptError:
    return ConceptError(f"{file} says itself which layers it steers", "leave out --layer")


def _broken(file: str, error: BaseException) -> ConceptError:
    reason = shorten(str(error), 120) or type(error).__name__
    return ConceptError(f"{file} is damaged or incomplete: {reason}", _FORMATS)
