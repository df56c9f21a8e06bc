"""Blocks of the Llama shape computed by machine code, for one token of each row."""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .block_code import BLOCK, STEP
from .few_bits import rounded, split, splits
from .machine_code import LANES
from .native import native
from .weights import GROUP


class BlockWeights(NamedTuple):
    """What a compiled block has of its own.

    Attributes:
        products: levels and scales of four bits: of queries, keys and values; out of attention; gate and up; down.
        biases: theirs.
        norms: the weights of its two RMSNorms.
        epsilons: theirs.
        heads: of queries, and of keys.
        size: of a head.
        scaling: of scores.
    """

    products: Sequence[tuple[Tensor, Tensor]]
    biases: Sequence[Tensor | None]
    norms: Sequence[Tensor]
    epsilons: Sequence[float]
    heads: tuple[int, int]
    size: int
    scaling: float

    def values(self, step: Any) -> dict[str, int]:
        """Those of BLOCK that stay the same. `step`: the values of STEP."""
        values = {"step": ctypes.addressof(step), "size": self.size, "scaling": _bits(self.scaling)}
        values |= zip(("heads", "shared"), self.heads, strict=True)
        for product, ((levels, scales), bias) in enumerate(zip(self.products, self.biases, strict=True)):
            outputs, inputs = len(levels) * LANES, scales.shape[1] * GROUP
            own = (inputs, outputs, levels.data_ptr(), scales.data_ptr(), 0 if bias is None else bias.data_ptr())
            names = ("inputs", "outputs", "levels", "scales", "bias")
            values |= {f"{name}_{product}": value for name, value in zip(names, own, strict=True)}
        for product, norm, epsilon in zip((0, 2), self.norms, self.epsilons, strict=True):
            values |= {f"norm_{product}": norm.data_ptr(), f"epsilon_{product}": _bits(epsilon)}
        return values


class CompiledParts:
    """What is around the attention of a block, for any number of tokens."""

    def __init__(self, weights: BlockWeights) -> None:
        self.weights = weights  # in memory while the code may run
        self._steps = (ctypes.c_int64 * len(STEP))()
        self._block = dict.fromkeys(BLOCK, 0) | weights.values(self._steps)
        self._sizes = [len(levels) * LANES for levels, _ in weights.products]
        self._inputs = max(scales.shape[1] * GROUP for _, scales in weights.products)

    def inward(self, states: Tensor) -> Tensor:
        """Queries, keys and values side by side, (n, all), of the states (n, hidden) that enter the block."""
        states = states.contiguous()
        result = states.new_empty(len(states), self._sizes[0])
        for part, share, apart in splits(len(states), self._inputs):
            places = {"before": states[part], "inward": result[part]}
            self._run("inward", part.stop - part.start, share, apart, places)
        return result

    def outward(self, mixed: Tensor, states: Tensor) -> Tensor:
        """The states that leave the block, of what attention gives (n, all) and the states that enter."""
        states, mixed = states.contiguous(), mixed.contiguous()
        result = torch.empty_like(states)
        _, hidden, wide, _ = self._sizes
        for part, share, apart in splits(len(states), self._inputs):
            count = part.stop - part.start
            places = {"before": states[part], "mixed": mixed[part], "after": result[part]}
            places |= {"between": states.new_empty(count, hidden), "wide": states.new_empty(count, wide)}
            self._run("outward", count, share, apart, places)
        return result

    def _run(self, name: str, rows: int, share: int, apart: int, places: Mapping[str, Tensor]) -> None:
        threads = torch.get_num_threads()
        room = torch.empty(threads, share)
        found = {place: tensor.data_ptr() for place, tensor in places.items()}
        found |= {"rows": rows, "scratch": room.data_ptr(), "share": share * 4, "threads": threads, "apart": apart}
        self._steps[:] = [found.get(value, 0) for value in STEP]
        block = (ctypes.c_int64 * len(BLOCK))(*(found.get(value, self._block[value]) for value in BLOCK))
        native(name)(block)


class CompiledBlocks:
    """Blocks of a model for one token of each row.

    Args:
        count: of blocks.
    """

    def __init__(self, count: int) -> None:
        self._weights: list[BlockWeights | None] = [None] * count
        self._values = (ctypes.c_int64 * (len(BLOCK) * count))()
        self._step = (ctypes.c_int64 * len(STEP))()
        self._sizes = [0, 0, 0, 0]  # the most outputs of each product
        self._inputs = self._size = self._together = 0  # the most of any product, of a head, and of heads that share
        self._run = native("step")

    def use(self, number: int, weights: BlockWeights) -> None:
        """Compute block `number` with these weights."""
        if self._weights[number] is weights:
            return
        self._weights[number] = weights
        for product, (levels, scales) in enumerate(weights.products):
            self._sizes[product] = max(self._sizes[product], len(levels) * LANES)
            self._inputs = max(self._inputs, scales.shape[1] * GROUP)
        self._size = max(self._size, weights.size)
        self._together = max(self._together, weights.heads[0] // weights.heads[1])
        for name, value in weights.values(self._step).items():
            self._values[len(BLOCK) * number + BLOCK.index(name)] = value

    def run(
        self,
        blocks: range,
        states: Tensor,
        turn: tuple[Tensor, Tensor],
        caches: Sequence[tuple[Tensor, Tensor]],
        length: int,
        alike: int,
        mask: Tensor | None,
        pushes: Mapping[int, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The states that leave each of some blocks, (blocks, rows, 1, hidden), before its push; and the last, pushed.

        Args:
            blocks: one after the other.
            states: (rows, 1, hidden) that enter the first.
            turn: cosines and sines, (rows, 1, 1, head size), as of `lean.Rotation`.
            caches: each block's keys and values, (rows or more, heads, columns, head size): it adds the token's.
            length: columns in use before it, less than there are.
            alike: so many of the first of them hold the same in all rows.
            mask: (rows, 1, 1, length + 1) added to scores.
            pushes: by block, (rows, 1, hidden) added to the states that leave it.
        """
        states = states.contiguous()
        (rows, _, hidden), threads = states.shape, torch.get_num_threads()
        share, apart = split(rows, self._inputs)
        share = rounded(max(share, self._together * (self._size + length + 4 * LANES)))
        inward, _, wide, _ = self._sizes
        sizes = [rows * inward, rows * self._inputs, rows * hidden, rows * wide, threads * share]
        room, result = torch.empty(sum(sizes)), torch.empty(len(blocks), *states.shape)
        places = [room.data_ptr() + 4 * start for start in accumulate(sizes[:-1], initial=0)]
        cosines, sines = turn
        if mask is not None:
            mask = nn.functional.pad(mask, (0, LANES))  # whole vectors of it are read
        masked = (0, 0) if mask is None else (mask.data_ptr(), mask.stride(0) * 4)
        first = len(BLOCK) * blocks.start
        self._step[:] = (
            *(rows, ctypes.addressof(self._values) + 8 * first, len(blocks)),
            *(cosines.data_ptr(), sines.data_ptr(), cosines.stride(0) * 4),
            *(length, alike, *masked, *places, share * 4, threads, apart),
        )
        before, last = states.data_ptr(), states
        held = []  # in memory while the code runs
        for start, block, output, (keys, values) in zip(
            itertools.count(first, len(BLOCK)), blocks, result.unbind(), caches, strict=False
        ):
            push, after, last = pushes.get(block), output.data_ptr(), output
            if push is None:
                self._values[start + 1 : start + 5] = before, after, 0, 0
            else:
                last, push = torch.empty_like(output), push.contiguous()
                held += [push, last]
                self._values[start + 1 : start + 5] = before, after, push.data_ptr(), last.data_ptr()
            own = (keys.data_ptr(), values.data_ptr(), keys.stride(0) * 4, keys.stride(1) * 4)
            self._values[start + len(BLOCK) - len(own) : start + len(BLOCK)] = own
            before = last.data_ptr()
        self._run(self._step)
        return result, last


def _bits(number: float) -> int:
    """A float32's bits as a whole number."""
    return int.from_bytes(struct.pack("<f", number), "little")
