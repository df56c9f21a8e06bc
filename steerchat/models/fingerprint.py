"""Fingerprints of model files, which identify a model whatever its device, precision and split into files.

They read only headers and a fixed sample of the weights, so that 15 GB take a moment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..system.untrusted import MAX_JSON, claimed_header, parse_json, read_json
from ..values.errors import ModelError

# The sample of a folder: this many bytes at four evenly spaced places of every tensor, start and end included.
_PIECE = 1024
_PLACES = 4
# The sample of a GGUF: its head, which has the configuration and (for any usual vocabulary) the tensors' names and
# shapes, and pieces at evenly spaced places of the whole file.
_GGUF_HEAD = 8 << 20
_GGUF_PLACES = 512
# These keys differ between two downloads or two versions of transformers with the same model.
_VOLATILE = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype"})

# What tells that a folder has a LoRA adapter.
ADAPTER = "adapter_config.json"
_BROKEN = "it may be cut short; download or copy it again"


def fingerprint_folder(folder: Path) -> str:
    """SHA-256 over config.json, every tensor's name and shape, and the sample; in hexadecimal.

    Raises:
        ModelError: naming the file that is missing or cannot be read.
    """
    config = json_object(folder / "config.json")
    return _digest(config, weight_files(folder))


def fingerprint_adapter(folder: Path, base: str) -> str:
    """As `fingerprint_folder`, of a LoRA adapter on the model with the fingerprint `base`."""
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{folder} has no {weights.name}", "pickled weights (.bin) can run code and are never read")
    return _digest(json_object(folder / ADAPTER), [weights], base)


def _digest(configuration: dict[str, Any], files: Sequence[Path], base: str = "") -> str:
    config = {key: value for key, value in configuration.items() if key not in _VOLATILE}
    digest = hashlib.sha256(base.encode() + json.dumps(config, sort_keys=True).encode())
    samples: dict[str, bytes] = {}
    for file in files:
        headers = tensors(file)
        with file.open("rb") as stream:
            for name, shape, start, size in headers:
                samples[name] = f"\n{name} {shape}\n".encode() + _sample(stream, start, size, _PLACES)
    # By name, so that the split into files does not matter.
    for name in sorted(samples):
        digest.update(samples[name])
    return digest.hexdigest()


def fingerprint_gguf(*files: Path) -> str:
    """SHA-256 over the size, the head and the sample of a GGUF file, and of its further parts; in hexadecimal.

    Raises:
        ModelError: when it cannot be read, or is not a GGUF.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(_gguf_sample(file))
    return digest.hexdigest()


def _gguf_sample(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(_GGUF_HEAD)
            sample = _sample(stream, 0, size, _GGUF_PLACES)
    except OSError as error:
        raise _unreadable(file, error) from error
    if len(head) < 24 or not head.startswith(b"GGUF"):
        raise ModelError(f"{file} is not a GGUF file" if size else f"{file} is empty", _BROKEN)
    return f"{size}\n".encode() + head + sample


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model in `folder`.

    Raises:
        ModelError: when there are none, or a file of the index is missing.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        shards = json_object(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelError(f"{index} names no files", _BROKEN)
        names = {name for name in shards.values() if isinstance(name, str) and name == Path(name).name}
        if len(names) < len(set(map(str, shards.values()))):
            raise ModelError(f"{index} names files outside its folder", "download the model again from its author")
        files = [folder / name for name in sorted(names)]
    elif single.is_file():
        files = [single]
    else:
        raise ModelError(
            f"{folder} has no model.safetensors",
            "use safetensors or GGUF; pickled weights (.bin, .pt) can run code and are never read",
        )
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise ModelError(f"{missing} is missing", "the model has several files; download or copy all of them")
    return files


def json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: naming the file, when it cannot be read or is not an object.
    """
    try:
        data = read_json(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ModelError(f"{file} is not a JSON object", _BROKEN)
    return data


def tensors(file: Path) -> list[tuple[str, list[int], int, int]]:
    """(name, shape, first byte in the file, number of bytes) of every tensor in a safetensors file."""
    try:
        size, length = file.stat().st_size, claimed_header(file)
        if not 2 <= length <= min(size - 8, MAX_JSON):
            raise ValueError("no header")
        with file.open("rb") as stream:
            stream.seek(8)
            header = parse_json(stream.read(length))
        listed = []
        for name, info in header.items():
            if name != "__metadata__":
                shape, (begin, end) = info["shape"], info["data_offsets"]
                if not all(type(number) is int and 0 <= number < 1 << 63 for number in (*shape, begin, end)):
                    raise ValueError("no sizes")
                listed.append((name, shape, 8 + length + begin, end - begin))
    except OSError as error:
        raise _unreadable(file, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is not a safetensors file", _BROKEN) from error
    if not listed or any(bytes_ < 0 or start + bytes_ > size for _, _, start, bytes_ in listed):
        raise ModelError(f"{file} is not a complete safetensors file", _BROKEN)
    return listed


def _sample(stream: BinaryIO, start: int, size: int, places: int) -> bytes:
    """Pieces of the `size` bytes from `start` on, at evenly spaced places, both ends included."""
    pieces = []
    for place in range(places):
        stream.seek(start + max(size - _PIECE, 0) * place // (places - 1))
        pieces.append(stream.read(min(_PIECE, size)))
    return b"".join(pieces)


def _unreadable(file: Path, error: OSError) -> ModelError:
    return ModelError(f"{file} cannot be read: {error.strerror or error}", "check the path and its rights")
