"""Concept vectors from and for other programs: safetensors, GGUF control vectors, plain directions.

Layers. Row i, `direction.i` and `--layer i` all mean the output of decoder block i, counted from 0, which is also
what llama.cpp adds a control vector to and what repeng reads. Both leave block 0 out: a GGUF cannot hold it.

Lengths. In an exported GGUF each direction is as long as steerchat's push of strength 1 at that one layer, so that
llama.cpp's scale and repeng's coefficient are our strength. From an imported file only directions are taken:
how long a push is follows from the model.

A foreign file is hostile until shown otherwise: it is known by its first bytes and not by its name, its size and
its header are bounded before anything is allocated, and nothing in it is ever executed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engine.engine import Engine
from ..models.gguf_reader import BoundedReader
from ..system.folders import write_whole
from ..values.errors import ConceptError, shorten
from ..values.recipe import format_layers
from .vector import UNIT, ConceptVector

ARCHITECTURE = "controlvector"
SUFFIXES = (".safetensors", ".gguf")

# Room for names and metadata beside the numbers.
_HEADER_BYTES = 1 << 20
_READ = "a safetensors file, a GGUF control vector, or an .npy array"
_LAYER_OF = re.compile(r"direction\.(\d{1,4})")
_REPORTED = ("agreement", "separability")  # figures a layer


@dataclass(frozen=True)
class Imported:
    """A vector from a file.

    Attributes:
        vector: bound to the model that it was imported on; zero at layers of which the file knows nothing.
        facts: kind and description, where the file says so.
        notes: sentences for the user about layers and lengths.
    """

    vector: ConceptVector
    facts: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Those with a direction."""
        return tuple(torch.nonzero(self.vector.directions.norm(dim=-1) > 0).flatten().tolist())


def import_vector(path: Path, name: str, engine: Engine, layer: int | None = None) -> Imported:
    """Read a vector for a model.

    Args:
        path: safetensors (ours, or one tensor), a GGUF control vector, or an .npy array.
        name: what the concept will be called.
        engine: the model that it is for.
        layer: of a plain direction, a tensor of shape (hidden,).

    Raises:
        ConceptError: naming the file, for anything that is not a finite vector of the right size.
    """
    magic = _magic(path, engine)
    if magic.startswith(b"GGUF"):
        raw, facts, notes = _from_gguf(path, engine)
    elif magic.startswith(b"\x93NUMPY"):
        raw, facts, notes = _placed(path.name, _from_npy(path, engine), engine, layer), {}, ()
    elif (found := _from_safetensors(path, engine)) is not None:
        raw, facts, notes = _placed(path.name, found, engine, layer), {}, ()
    else:
        return _ours(path, name, engine, layer)
    if magic.startswith(b"GGUF") and layer is not None:
        raise _whole(path.name)
    if not torch.isfinite(raw).all():
        raise ConceptError(f"{path.name} holds NaN or infinity", "make the vector again where it comes from")
    if not torch.isfinite(raw.norm(dim=-1)).all():
        raise ConceptError(f"{path.name} holds numbers too large for float32", "scale the direction down")
    if not raw.any():
        raise ConceptError(f"{path.name} holds only zeros", "a direction has a length")
    return Imported(ConceptVector.from_raw(name, raw, engine.fingerprint, "imported"), facts, notes)


def export_vector(vector: ConceptVector, path: Path, lengths: Tensor, model_type: str, facts: Mapping[str, str]) -> str:
    """Write a vector for others, as the file's suffix says; whole, or not at all.

    Args:
        vector: of all layers.
        path: `.safetensors` or `.gguf`.
        lengths: (layers,) the model's typical residual length at each layer.
        model_type: of the model's configuration, which repeng asks for.
        facts: kind and description, to travel along.

    Returns:
        what was written, in a sentence for the user.

    Raises:
        ConceptError: for another suffix, a vector without a layer that the format can hold, or a disk's no.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConceptError(f"cannot tell the format of {path.name}", "name it .safetensors, or .gguf for llama.cpp")
    vector = replace(vector, report={**vector.report, **facts})
    try:
        if suffix == ".safetensors":
            vector.save(path)
            return f"{path}: a direction for each of layers 0 to {vector.n_layers - 1}; row i is block i's output."
        if not vector.directions[1:].any():
            raise ConceptError(f"{vector.name} has a direction at layer 0 alone, and GGUF cannot hold that", _READ)
        write_whole(path, _gguf_bytes(vector, lengths, model_type))
    except OSError as error:
        raise ConceptError(f"{path} cannot be written: {error.strerror or error}", "check the folder") from None
    return (
        f"{path}: direction.N is added to the output of block N, for layers 1 to {vector.n_layers - 1}; "
        "the format has no place for layer 0. Scale 1 is strength 1 at one layer; over k layers divide by k."
    )


# Reading


def _magic(path: Path, engine: Engine) -> bytes:
    """The first bytes of a file that may be read: a regular one, of a vector's size, and no pickle."""
    try:
        if not path.is_file():
            raise ConceptError(f"there is no file {path}", "check the path")
        with path.open("rb") as file:
            magic = file.read(8)
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise ConceptError(f"{path.name} cannot be read: {error}", "check the path and its rights") from None
    # Pickle itself, and the zip that torch.save and np.savez put it into.
    if path.suffix.lower() in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt") or magic[:1] == b"\x80":
        raise _pickle(path)
    if magic.startswith(b"PK\x03\x04"):
        raise _pickle(path)
    most = engine.n_layers * engine.hidden * 8 + 2 * _HEADER_BYTES
    if size > most:
        raise ConceptError(
            f"{path.name} is too large to be a vector of {engine.name}",
            f"{size:,} bytes; {engine.n_layers} layers of {engine.hidden} numbers take at most {most:,}",
        )
    return magic


def _pickle(path: Path) -> ConceptError:
    source, target = path.name, path.with_suffix(".safetensors").name
    line = (
        "import torch; from safetensors.torch import save_file; "
        f"v = torch.load({source!r}, weights_only=True); save_file({{'direction': v.float().contiguous()}}, {target!r})"
    )
    return ConceptError(
        f"{source} is a pickle, which can run code when it is read, and is never opened",
        f'if you trust it, convert it: python -c "{line}"',
    )


def _from_npy(path: Path, engine: Engine) -> Tensor:
    try:
        # Mapped, not read: the header's claims are checked against the file before a byte is allocated.
        with np.errstate(all="ignore"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, OverflowError, SyntaxError, MemoryError) as error:
        raise _broken(path.name, error) from None
    return _tensor(path.name, array, engine)


def _from_safetensors(path: Path, engine: Engine) -> Tensor | None:
    """The one tensor in the file; None when it is one of ours, which says more."""
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
        opening = file.read(1)
    if opening != b"{" or claimed > _HEADER_BYTES:
        raise ConceptError(f"{path.name} is none of the files that can be read", _READ)
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("format", "").startswith("steerchat"):
                return None
            names = list(file.keys())
            if len(names) != 1:
                shown = shorten(", ".join(names) or "none", 80)
                raise ConceptError(f"{path.name} holds {len(names)} tensors: {shown}", "save the one direction alone")
            _check_shape(path.name, file.get_slice(names[0]).get_shape(), engine)
        with safe_open(path, framework="pt") as file:  # numpy knows no bfloat16
            tensor = file.get_tensor(names[0])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise _broken(path.name, error) from None
    if not tensor.is_floating_point():
        raise ConceptError(f"{path.name} holds {tensor.dtype}, not floating-point numbers", "save it as float32")
    return tensor.float()


def _ours(path: Path, name: str, engine: Engine, layer: int | None) -> Imported:
    if layer is not None:
        raise _whole(path.name)
    try:
        vector = ConceptVector.load(path)
    except ConceptError as error:
        raise ConceptError(error.message, "export it again where it comes from") from None
    if vector.fingerprint != engine.fingerprint:
        raise ConceptError(
            f"{path.name} was read from another model than {engine.name}",
            "a vector steers its own model only; make the concept here from its examples: /concept new NAME --examples",
        )
    _check_shape(path.name, list(vector.directions.shape), engine)
    if not vector.directions.any():
        raise ConceptError(f"{path.name} holds only zeros", "a direction has a length")
    report, facts = _reported(vector.report, engine.n_layers)
    vector = ConceptVector(name, vector.directions, vector.raw_lengths, engine.fingerprint, "imported", report)
    return Imported(vector, facts, ())


def _reported(found: Any, n_layers: int) -> tuple[dict[str, Any], dict[str, str]]:
    """What a file says of its vector, as far as it has the right form."""
    given = found if isinstance(found, dict) else {}
    report: dict[str, Any] = {}
    for key in _REPORTED:
        values = given.get(key)
        if isinstance(values, list) and len(values) == n_layers and all(isinstance(v, int | float) for v in values):
            report[key] = [float(value) for value in values]
    layer = given.get("read_layer")
    if isinstance(layer, int) and 0 <= layer < n_layers:
        report["read_layer"] = layer
    return report, {key: given[key] for key in ("kind", "description") if isinstance(given.get(key), str)}


def _from_gguf(path: Path, engine: Engine) -> tuple[Tensor, dict[str, str], tuple[str, ...]]:
    try:
        with np.errstate(all="ignore"):
            reader = BoundedReader(path)
        architecture = _field(reader, "general.architecture")
        if architecture != ARCHITECTURE:
            what = shorten(str(architecture), 30)
            raise ConceptError(f"{path.name} is a GGUF of {what}, not a control vector", "llama.cpp's and repeng's are")
        raw = torch.zeros(engine.n_layers, engine.hidden)
        layers = []
        for tensor in reader.tensors:
            match = _LAYER_OF.fullmatch(tensor.name)
            if match is None:
                continue
            layer = int(match[1])
            if layer >= engine.n_layers:
                raise ConceptError(
                    f"{path.name} steers block {layer}, and {engine.name} has blocks 0 to {engine.n_layers - 1}",
                    "it was made for another model",
                )
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
        raise ConceptError(f"{path.name} holds no direction.N", "a control vector has one for each block from 1 on")
    if fingerprint and fingerprint != engine.fingerprint:
        raise ConceptError(f"{path.name} was read from another model than {engine.name}", "use it with that model")
    notes = [f"It holds the outputs of blocks {format_layers(sorted(layers))}; block 0 is never in such a file."]
    own = engine.model.config.model_type
    if hint and hint != own:
        notes.append(f"It says that it was made for {shorten(hint, 40)}, and this model is {own}: judge what it does.")
    elif not fingerprint and max(layers) < engine.n_layers - 1:
        notes.append(f"This model has blocks up to {engine.n_layers - 1}: is the file meant for a smaller one?")
    return raw, facts, tuple(notes)


def _field(reader: gguf.GGUFReader, key: str) -> str | None:
    found = reader.get_field(key)
    value = None if found is None else found.contents()
    return value if isinstance(value, str) else None


# Checking


def _tensor(file: str, array: Any, engine: Engine) -> Tensor:
    """A float32 copy of an array whose size and type are right."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        kind = getattr(array, "dtype", type(array).__name__)
        raise ConceptError(f"{file} holds {kind}, not floating-point numbers", "save it as float32")
    _check_shape(file, list(array.shape), engine)
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused as that
        return torch.from_numpy(np.array(array, dtype=np.float32))


def _check_shape(file: str, shape: list[int], engine: Engine) -> None:
    """Raises unless it is (hidden,), (1, hidden) or (layers, hidden)."""
    layers, hidden = engine.n_layers, engine.hidden
    if shape in ([hidden], [1, hidden], [layers, hidden]):
        return
    if shape == [layers + 1, hidden]:
        raise ConceptError(f"{file} has {layers + 1} rows for {layers} blocks", "leave out the first: the embeddings")
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
            raise _whole(file)
        return tensor
    if layer is None:
        raise ConceptError(
            f"{file} holds one direction, and does not say for which layer",
            "/concept import NAME FILE --layer 14: block 14's output, counted from 0",
        )
    raw = torch.zeros(engine.n_layers, engine.hidden)
    raw[layer] = tensor.flatten()
    return raw


def _whole(file: str) -> ConceptError:
    return ConceptError(f"{file} says itself which layers it is for", "leave out --layer")


def _broken(file: str, error: BaseException) -> ConceptError:
    said = shorten(str(error), 120) or type(error).__name__
    return ConceptError(f"{file} is broken or cut short: {said}", _READ)


# Writing


def _gguf_bytes(vector: ConceptVector, lengths: Tensor, model_type: str) -> bytes:
    # Every layer, zero or not: llama.cpp adds up only vectors that end at the same one.
    layers = range(1, vector.n_layers)
    # The library writes to a path only.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vector.gguf"
        writer = gguf.GGUFWriter(file, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(layers))
        writer.add_string("steerchat.name", vector.name)
        writer.add_string("steerchat.fingerprint", vector.fingerprint)
        for key in ("kind", "description"):
            writer.add_string(f"steerchat.{key}", str(vector.report.get(key, "")))
        for layer in layers:
            push = vector.directions[layer] * (UNIT * float(lengths[layer]))
            writer.add_tensor(f"direction.{layer}", push.to(torch.float32).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()
