"""Weights of linear layers in the form that a file holds them, from which each product prepares its own.

A layer need not hold float32 numbers: `Weight` says how many bits a number has, and gives the numbers when they are
asked for, all of them or some rows. So a file of four-bit numbers is read row by row and never lies in memory as
float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Numbers of a row that share a scale and an offset.
GROUP = 32


def slices(total: int, size: int) -> Iterator[slice]:
    """`total` rows part by part, `size` of them in each but the last."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


class Levels(NamedTuple):
    """Four-bit numbers: each is scale * level + low.

    Attributes:
        levels: (out, in) uint8, below 16.
        scale, low: (out, in / 32) float32.
    """

    levels: Tensor
    scale: Tensor
    low: Tensor

    def dense(self) -> Tensor:
        """The numbers, (out, in) float32."""
        groups = self.levels.reshape(len(self.levels), -1, GROUP).float()
        return groups.mul_(self.scale[..., None]).add_(self.low[..., None]).reshape(self.levels.shape)


class Weight(Protocol):
    """A matrix (out, in).

    Attributes:
        shape: its outputs and inputs.
        bits: of a number: 32, 16 where bfloat16 holds all of them, or 8 or 4 with a scale for some of them.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def bits(self) -> int: ...

    def dense(self) -> Tensor:
        """The numbers, (out, in) float32."""
        ...

    def levels(self) -> Levels:
        """Only of a weight of four bits."""
        ...

    def part(self, rows: slice | Tensor) -> Weight:
        """Some of its outputs: a run of them, or those of these numbers, (n,) long, in their order."""
        ...


@dataclass(frozen=True)
class Dense:
    """A weight whose numbers lie in memory, (out, in) float32."""

    numbers: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        out, size = self.numbers.shape
        return out, size

    @property
    def bits(self) -> int:
        sample = self.numbers[:64].detach()
        return 16 if bool((sample.bfloat16().float() == sample).all()) else 32

    def dense(self) -> Tensor:
        return self.numbers.detach()

    def levels(self) -> Levels:
        raise TypeError("dense numbers have no levels")

    def part(self, rows: slice | Tensor) -> Dense:
        return Dense(self.numbers[rows])


class Stack:
    """Weights that read the same input, as one: their outputs side by side."""

    def __init__(self, parts: Sequence[Weight]) -> None:
        self._parts = parts
        self.shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
        self.bits = max(part.bits for part in parts)

    def dense(self) -> Tensor:
        return torch.cat([part.dense() for part in self._parts])

    def levels(self) -> Levels:
        return Levels(*map(torch.cat, zip(*(part.levels() for part in self._parts), strict=True)))

    def part(self, rows: slice | Tensor) -> Weight:
        if isinstance(rows, Tensor):
            return Dense(self.dense()[rows])
        start, parts = 0, []
        for part in self._parts:
            here = range(self.shape[0])[rows]
            low, high = max(here.start - start, 0), min(here.stop - start, part.shape[0])
            if low < high:
                parts.append(part.part(slice(low, high)))
            start += part.shape[0]
        return Stack(parts)


def joined(weights: Sequence[Weight]) -> Weight:
    """Several weights as one; the numbers of dense ones are copied."""
    if all(isinstance(weight, Dense) for weight in weights):
        return Dense(torch.cat([weight.dense() for weight in weights]))
    return Stack(weights)
