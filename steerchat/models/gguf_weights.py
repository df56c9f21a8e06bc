"""A model's weights as a GGUF file holds them, put into a model of transformers without unpacking all of them."""

from __future__ import annotations

import importlib
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from ..engine.transformers_api import transformers
from .described import description
from .file_weights import complete, empty_model, keep, put
from .gguf_reader import Entry

_FREQUENCIES = "rope_freqs.weight"


def load_gguf(folder: Path, files: Sequence[mmap.mmap], device: torch.device, dtype: torch.dtype) -> Any:
    """The model in a GGUF file.

    On the CPU in float32, its linear layers and embeddings keep what the file holds; everything else gets numbers.

    Args:
        folder: that `describe` made.
        files: the GGUF's bytes, part by part; the model's weights stay in them.
        device, dtype: where the numbers go, and their precision.

    Raises:
        OSError, ValueError, RuntimeError: when a file cannot be read, or lacks a weight.
    """
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    model = empty_model(config, dtype)
    model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    library: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    known = description(folder)
    held, names = known.contents, dict(known.parameters)
    settings = config.get_text_config().to_dict()
    processor = library.TENSOR_PROCESSORS.get(held.architecture, library.TensorProcessor)(config=settings)
    data = [torch.frombuffer(file, dtype=torch.uint8) for file in files]
    keeps = device.type == "cpu" and dtype == torch.float32
    parsed: dict[str, Any] = {"config": settings, "tensors": {}}
    for name, entry in held.tensors.items():
        rows = _rows(entry, data)
        order = _order(processor, name, entry.shape) if keeps and len(entry.shape) == 2 else None
        if order is not None and name in names and keep(model, names[name], rows, entry.kind, order):
            continue
        numbers = gguf.dequantize(rows.numpy(), entry.kind).reshape(entry.shape)
        result = processor.process(weights=numbers, name=name, tensor_key_mapping=names, parsed_parameters=parsed)
        if result.name in names:
            parsed["tensors"][names[result.name]] = torch.from_numpy(np.ascontiguousarray(result.weights))
        while parsed["tensors"]:
            name, tensor = parsed["tensors"].popitem()
            put(model, name, tensor, device, dtype)
    if _FREQUENCIES in held.tensors:
        entry = held.tensors[_FREQUENCIES]
        _stretch(model, torch.from_numpy(gguf.dequantize(_rows(entry, data).numpy(), entry.kind)).flatten())
    complete(model)
    return model.to(device)


def _rows(entry: Entry, data: Sequence[Tensor]) -> Tensor:
    """A tensor's bytes, one row for each index of all dimensions but the last."""
    start = entry.start
    for part in data:
        if start < len(part):
            break
        start -= len(part)
    if start + entry.size > len(part):
        raise ValueError("the file ends before its tensors do")
    numbers, size = gguf.GGML_QUANT_SIZES[entry.kind]
    width = entry.shape[-1] // numbers * size
    return part[start : start + entry.size].reshape(-1, width)


def _order(processor: Any, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """Which row of the file each row of the weight is, if transformers does no more than order them."""
    places = np.arange(shape[0], dtype=np.int64)[:, None]
    try:
        result = processor.process(weights=places, name=name, tensor_key_mapping={}, parsed_parameters={"tensors": {}})
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    order = np.asarray(result.weights)
    moved = result.name != name or order.shape != places.shape or not np.array_equal(np.sort(order, 0), places)
    return None if moved else torch.from_numpy(order[:, 0].copy())


def _stretch(model: Any, factors: Tensor) -> None:
    """Divide the frequencies of rotary positions by factors, (head size / 2,).

    Llama 3.1 and later have them for long contexts. transformers leaves this tensor of a GGUF out.
    """
    for module in model.modules():
        for name in ("inv_freq", "original_inv_freq"):
            frequencies = module._buffers.get(name)
            if frequencies is not None:
                if frequencies.shape != factors.shape:
                    raise ValueError(f"{_FREQUENCIES} has {len(factors)} numbers, not {len(frequencies)}")
                module._buffers[name] = frequencies / factors
