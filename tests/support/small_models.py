"""Tiny models whose weights have few bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gguf
import torch
from engines import tiny_engine, tiny_tokenizer
from grouped import Grouped
from torch import Tensor, nn

from steerchat.engine.backends import BACKENDS, EIGHT_BIT, FOUR_BIT
from steerchat.engine.engine import Engine
from steerchat.engine.kernels import Kernels
from steerchat.engine.lean import make_lean
from steerchat.engine.linear import ROWS, FastLinear, SmallEmbedding, Times
from steerchat.models.file_weights import FileWeight


def in_a_file(numbers: Tensor) -> FileWeight:
    kind = gguf.GGMLQuantizationType.Q8_0
    return FileWeight(torch.from_numpy(gguf.quantize(numbers.numpy(), kind)), kind)


def a_small_model(dense: bool = False, kind: str = "llama") -> Any:
    """A tiny model whose layers hold four-bit numbers and whose tied embeddings hold eight-bit ones.

    With `dense`, the same numbers as float32.
    """
    model = tiny_engine(kind).model
    table = in_a_file(model.get_input_embeddings().weight.data)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3, generator=torch.Generator().manual_seed(1))
            weight = table if name == "lm_head" else Grouped.of(module.weight.data)
            parent, _, child = name.rpartition(".")
            if dense:
                module.weight = nn.Parameter(weight.dense(), requires_grad=False)
            else:
                setattr(model.get_submodule(parent), child, FastLinear.of(weight, module.bias))
    if dense:
        model.get_input_embeddings().weight = model.lm_head.weight
    else:
        SmallEmbedding.in_place_of(model.get_input_embeddings(), table)
    return model


def small_is_quick(layers: Sequence[FastLinear]) -> Times:
    """Times by which the four-bit and the eight-bit products are the quickest, for the layers that they fit."""
    fitting = {
        layer.kind: [b for b in BACKENDS if b in (FOUR_BIT, EIGHT_BIT) and b.fits(layer.stored)] for layer in layers
    }
    return {
        kind: {"plain": [1.0] * len(ROWS), **{b.name: [0.1] * len(ROWS) for b in backends}}
        for kind, backends in fitting.items()
    }


def small_engine(lean: bool, kind: str = "llama") -> Engine:
    """An engine on `a_small_model`, its weights held in as few bits as they have."""
    model = a_small_model(kind=kind)
    engine = Engine(model, tiny_tokenizer(), "tiny", "tiny", lambda: 1 << 32)
    blocks = make_lean(model, engine.blocks) if lean else []
    engine.kernels = Kernels(model, [layer for block in blocks for layer in block.layers])
    engine.kernels.choose(small_is_quick(engine.kernels.layers), small=True, free=1 << 32)
    return engine
