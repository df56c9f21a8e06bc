"""A weight of four bits that lies in memory, for tests without a file."""

from __future__ import annotations

import torch
from torch import Tensor

from steerchat.engine.weights import GROUP, Levels


class Grouped:
    """Numbers rounded to four bits, held in memory: two in a byte."""

    bits = 4

    def __init__(self, levels: Levels) -> None:
        numbers, self._scale, self._low = levels
        self.shape: tuple[int, int] = (numbers.shape[0], numbers.shape[1])
        self._pairs = numbers[:, ::2] | numbers[:, 1::2] << 4

    @classmethod
    def of(cls, numbers: Tensor) -> Grouped:
        """Round (out, in) float32 to 16 levels between the lowest and the highest number of each group.

        As in a file, scales and lowest numbers have sixteen bits.
        """
        groups = numbers.detach().reshape(len(numbers), -1, GROUP)
        low, high = groups.aminmax(dim=-1)
        low, scale = (part.half().float() for part in (low, ((high - low) / 15).clamp_min(1e-6)))
        levels = ((groups - low[..., None]) / scale[..., None]).round_().clamp_(0, 15).to(torch.uint8)
        return cls(Levels(levels.reshape(numbers.shape), scale, low))

    def dense(self) -> Tensor:
        return self.levels().dense()

    def levels(self) -> Levels:
        numbers = torch.stack([self._pairs & 15, self._pairs >> 4], dim=-1).reshape(self.shape)
        return Levels(numbers, self._scale, self._low)

    def part(self, rows: slice | Tensor) -> Grouped:
        return Grouped(Levels(*(tensor[rows] for tensor in self.levels())))
