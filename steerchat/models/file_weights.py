"""Weights of four or eight bits as they lie in a mapped file, and how the layers of a model get them."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import accelerate
import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor, nn

from ..engine.linear import FastLinear, SmallEmbedding
from ..engine.transformers_api import auto_model, no_init_weights
from ..engine.weights import GROUP, Levels
from .gguf_reader import bits


class FileWeight:
    """A matrix in a file that is mapped into memory; see `Weight`.

    Args:
        rows: the bytes of each output, (out, bytes) uint8.
        kind: how the numbers are held.
        order: which row of the file each output is; None where they are in turn.
    """

    def __init__(self, rows: Tensor, kind: Kind, order: Tensor | None = None) -> None:
        self._rows, self._kind, self._order = rows, kind, order
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        self.shape = (len(rows) if order is None else len(order), rows.shape[1] // size * numbers)
        self.bits = bits(kind)

    def dense(self) -> Tensor:
        # The library unpacks sixteen rows at a time, which takes several times as long.
        if self.bits == 4:
            scale, low, pairs = self._four_bits()
            numbers = torch.empty(*pairs.shape[:2], 2, pairs.shape[2])
            numbers[:, :, 0], numbers[:, :, 1] = pairs & 15, pairs >> 4
            return numbers.view(-1, GROUP).mul_(scale.reshape(-1, 1)).add_(low.reshape(-1, 1)).view(self.shape)
        if self._kind == Kind.Q8_0:
            blocks = self._blocks()
            return blocks[:, 2:].view(torch.int8).float().mul_(_halves(blocks[:, :2])).view(self.shape)
        numbers = gguf.dequantize(self._bytes().numpy(), self._kind)
        return torch.from_numpy(np.ascontiguousarray(numbers, np.float32)).reshape(self.shape)

    def levels(self) -> Levels:
        scale, low, pairs = self._four_bits()
        out, size = self.shape
        levels = torch.stack([pairs & 15, pairs >> 4], dim=2).reshape(out, size)
        return Levels(levels, scale.reshape(out, -1), low.reshape(out, -1))

    def _four_bits(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scales and offsets of the groups, and (blocks, runs, bytes) uint8: a run's low halves, then its high ones."""
        blocks = self._blocks()
        scale, low = _halves(blocks[:, :2]), _halves(blocks[:, 2:4])
        if self._kind == Kind.Q4_K:
            # 256 numbers; each 32 of them have a share of six bits of the scale and of the offset.
            steps, offsets = gguf.quants.Q4_K.get_scale_min(blocks[:, 4:16].numpy())
            scale, low = scale * torch.from_numpy(steps), -low * torch.from_numpy(offsets)
        elif self._kind == Kind.Q4_0:
            low = scale * -8
        pairs = blocks[:, {Kind.Q4_K: 16, Kind.Q4_1: 4, Kind.Q4_0: 2}[self._kind] :]
        return scale, low, pairs.reshape(len(blocks), -1, GROUP if self._kind == Kind.Q4_K else GROUP // 2)

    def part(self, rows: slice | Tensor) -> FileWeight:
        if self._order is None:
            return FileWeight(self._rows[rows], self._kind)
        return FileWeight(self._rows, self._kind, self._order[rows])

    def _blocks(self) -> Tensor:
        """(blocks, bytes) uint8: numbers that lie together with their scale."""
        return self._bytes().reshape(-1, gguf.GGML_QUANT_SIZES[self._kind][1])

    def _bytes(self) -> Tensor:
        return self._rows if self._order is None else self._rows[self._order]


def keep(model: Any, name: str, rows: Tensor, kind: Kind, order: Tensor | None = None) -> bool:
    """Let the layer of a weight hold what a file holds. False for what is no plain linear layer nor embedding.

    Args:
        model: its weights may be on the meta device.
        name: of the weight in the model.
        rows: the bytes of each output, (out, bytes) uint8.
        kind: how the numbers are held.
        order: which row each output is; None where they are in turn.

    Raises:
        ValueError: for another shape than the layer's.
    """
    path, _, attribute = name.rpartition(".")
    parent, _, child = path.rpartition(".")
    module = model.get_submodule(path)
    known = type(module) is nn.Linear or isinstance(module, nn.Embedding)
    if attribute != "weight" or bits(kind) > 8 or not known:
        return False
    if order is not None and bool((order[1:] > order[:-1]).all()):
        order = None
    weight = FileWeight(rows, kind, order)
    if weight.shape != tuple(module.weight.shape):
        raise ValueError(f"{name} has the shape {weight.shape}, not {tuple(module.weight.shape)}")
    if isinstance(module, nn.Embedding):
        SmallEmbedding.in_place_of(module, weight)
    else:
        setattr(model.get_submodule(parent), child, FastLinear.of(weight, module.bias))
    return True


def put(model: Any, name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> None:
    """Give a parameter of a model its numbers. Raises ValueError for another shape than the parameter's."""
    path, _, attribute = name.rpartition(".")
    parameters = model.get_submodule(path)._parameters
    if attribute in parameters and parameters[attribute].shape != tensor.shape:
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(parameters[attribute].shape)}")
    if attribute in parameters:
        parameters[attribute] = nn.Parameter(tensor.to(device, dtype), requires_grad=False)


def mapped(*files: Path) -> list[mmap.mmap]:
    """The bytes of files, read when they are used. Raises OSError when one cannot be read."""
    maps = []
    for file in files:
        with file.open("rb") as stream:
            # torch wants memory that can be written to; nothing is, and the file would not change.
            maps.append(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    return maps


def empty_model(config: Any, dtype: torch.dtype, code: bool = False) -> Any:
    """A model whose weights are on the meta device: numbers drawn for them would cost time, and torch's compiler."""
    with accelerate.init_empty_weights(include_buffers=False), no_init_weights():
        return auto_model(config).from_config(config, dtype=dtype, trust_remote_code=code)


def complete(model: Any) -> None:
    """Let the output layer share the embeddings' weight, where the file has one for both.

    Raises:
        ValueError: naming a weight that the file does not have.
    """
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(table, SmallEmbedding):
        model.tie_weights()
    elif type(output) is nn.Linear and output.weight.is_meta:
        model.set_output_embeddings(FastLinear.of(table.stored, output.bias))
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise ValueError(f"the file has no {missing[0]}")


def _halves(pairs: Tensor) -> Tensor:
    """Numbers of sixteen bits, (blocks, 2) uint8 to (blocks, 1) float32."""
    return pairs.contiguous().view(torch.float16).float()
