"""Writes concept vectors as files for other programs: safetensors, llama.cpp, and plug-ins of vLLM that steer.

Each direction is as long as steerchat's push of strength 1 at that one layer, so that the scale of llama.cpp and of the
plug-ins, and repeng's coefficient, equal our strength at one layer. Over k layers, each gets strength / k.

- `.safetensors`: steerchat's own form, with directions of length 1.
- `.gguf`: a control vector of llama.cpp and repeng.
- `.json`: what vllm-lens takes with a request: the layers of one push, and its scale. Numbers are base64 of float32.
- `.pt`: what hotwire-vllm loads when it starts: a tensor with a row for each layer. Requests name layers and scales.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import torch
from torch import Tensor

from ..system.folders import write_whole
from ..values.errors import ConceptError
from ..values.operation import UNIT
from ..values.recipe import name_layers
from .exchange import ARCHITECTURE
from .vector import ConceptVector

SUFFIXES = (".safetensors", ".gguf", ".json", ".pt")
# llama.cpp, vllm-lens and, with the flag, hotwire differ in which positions they push.
_PROMPT_TOO = "The prompt's positions are pushed too, as /set scope all does."


@dataclass(frozen=True)
class Push:
    """The layers and the strength of a push, for programs that are told them with the vector."""

    layers: Sequence[int]
    strength: float

    @property
    def scale(self) -> float:
        """What each layer gets."""
        return self.strength / len(self.layers)


def check_suffix(path: Path) -> str:
    """The suffix of a file to export to. Raises ConceptError for one that names no format."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConceptError(
            f"the name {path.name} does not say which format to write",
            "end it in .safetensors, .gguf for llama.cpp, .json for vllm-lens, or .pt for hotwire-vllm",
        )
    return path.suffix.lower()


def export_vector(
    vector: ConceptVector, path: Path, lengths: Tensor, model_type: str, facts: Mapping[str, str], push: Push
) -> list[str]:
    """Write a vector as the file's suffix says. The file is complete or absent.

    Args:
        vector: of all layers.
        path: with one of `SUFFIXES`.
        lengths: (layers,) the model's typical residual length at each layer.
        model_type: the model type of the configuration, which repeng checks.
        facts: kind and description, stored in the file where the format has room.
        push: written into a `.json`; for other formats, the sentences say how to ask for it.

    Returns:
        sentences for the user: what the file holds, and how to use it.

    Raises:
        ConceptError: for another suffix, or a vector without a layer that the format can store.
        SteerchatError: when it cannot be written.
    """
    suffix, last = check_suffix(path), vector.n_layers - 1
    vector = replace(vector, report={**vector.report, **facts})
    if suffix == ".safetensors":
        vector.save(path)
        return [f"{path}: a direction for each of layers 0 to {last}; row i is block i's output."]
    rows = vector.directions * (UNIT * lengths[:, None])
    where = f"{name_layers(push.layers)} at scale {push.scale:.3g}"
    if suffix == ".json":
        write_whole(path, _vllm_lens(rows, push))
        return [
            f"{path}: {where}, which is strength {push.strength:g}, as vllm-lens takes it.",
            'Send the text of the file with each request: "vllm_xargs": {"apply_steering_vectors": TEXT}',
            _PROMPT_TOO,
        ]
    if suffix == ".pt":
        file = io.BytesIO()
        torch.save(rows.to(torch.float32).clone(), file)
        write_whole(path, file.getvalue())
        entry = {"id": path.stem, "layer": push.layers[0], "scale": float(f"{push.scale:.3g}"), "decode_only": True}
        return [
            f"{path}: a row for each of layers 0 to {last}, as hotwire-vllm loads them: HOTWIRE_VECTORS={path}",
            f"For {where}, send an entry for each layer: {json.dumps(entry)}",
            "decode_only leaves out the prompt, whose last position steerchat pushes too.",
        ]
    if not vector.directions[1:].any():
        raise ConceptError(
            f"{vector.name} has a direction only at layer 0, which GGUF cannot store", "export it as .safetensors"
        )
    write_whole(path, _gguf(vector, rows, model_type))
    numbers = [layer for layer in push.layers if layer > 0] or [1]
    span = f"--control-vector-layer-range {numbers[0]} {numbers[-1]}"
    return [
        f"{path}: direction.N is added to the output of block N, for layers 1 to {last}; "
        "the format cannot store layer 0. Scale 1 is strength 1 at one layer; over k layers divide by k.",
        f"llama-cli -m MODEL.gguf --control-vector-scaled {path}:{push.strength / len(numbers):.3g} {span}",
        "An older llama.cpp takes a space in place of the colon.",
    ]


def _vllm_lens(rows: Tensor, push: Push) -> bytes:
    numbers = rows[list(push.layers)].to(torch.float32).contiguous().numpy()
    activations = {"data": base64.b64encode(numbers.astype("<f4").tobytes()).decode(), "dtype": "float32"}
    activations |= {"original_dtype": "torch.float32", "shape": list(numbers.shape)}
    steering = {"activations": activations, "layer_indices": list(push.layers), "scale": push.scale}
    return json.dumps([steering | {"norm_match": False, "position_indices": None}]).encode()


def _gguf(vector: ConceptVector, rows: Tensor, model_type: str) -> bytes:
    # Zero rows too: llama.cpp adds only vectors with the same last layer.
    layers = range(1, vector.n_layers)
    # The library only writes to a path.
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
            writer.add_tensor(f"direction.{layer}", rows[layer].to(torch.float32).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()
