"""Weights of few bits in the order of machine code, and products with them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache, partial

import torch
from torch import Tensor, nn

from .machine_code import LANES
from .native import native
from .product_code import PRODUCT, scratch
from .weights import GROUP, Levels, slices

# The least scale of a group: half a float16 above zero.
_LEAST = 2.0**-24
# The largest difference that is rounding, as a share of a result's length.
_ROUNDING = 1e-4
# Rows of a thread from which it computes them alone, and how many at once: what they become stays in its second cache.
_APART_FROM, _AT_ONCE = 8, 128
# The lowest bit of each of eight levels in a whole number of 32 bits: two at a time stand in 16 bits of each half.
_PLACES = tuple(4 * (place // 2) + 16 * (place % 2) for place in range(8))
_Product = ctypes.c_int64 * len(PRODUCT)


def multiply(rows: Tensor, levels: Tensor, scales: Tensor) -> Tensor:
    """The product of rows (n, in) float32 with a weight that lies as above: (n, whole runs of outputs) float32."""
    rows = rows.contiguous()
    (count, size), outputs, threads = rows.shape, len(levels) * LANES, torch.get_num_threads()
    result = rows.new_empty(count, outputs)
    call = native("multiply 4" if levels.dtype == torch.int32 else "multiply 8")
    for part, share, apart in splits(count, size):
        room = rows.new_empty(threads, share)
        given = (part.stop - part.start, size, outputs, rows[part].data_ptr(), levels.data_ptr(), scales.data_ptr())
        call(_Product(*given, 0, 0, result[part].data_ptr(), room.data_ptr(), share * 4, threads, apart))
    return result


def split(rows: int, inputs: int) -> tuple[int, int]:
    """How threads share the products of so many rows: the float32 numbers of scratch that each thread has for them,
    and `apart` of PRODUCT.
    """
    threads = torch.get_num_threads()
    apart = rows >= _APART_FROM * threads
    return rounded(scratch(-(-rows // threads) if apart else rows, inputs)), int(apart)


def splits(rows: int, inputs: int) -> Iterator[tuple[slice, int, int]]:
    """The rows that are computed at once, of many, and how threads share each part of them."""
    for part in slices(rows, _AT_ONCE * torch.get_num_threads()):
        yield part, *split(part.stop - part.start, inputs)


@cache
def works() -> bool:
    """Whether this machine has the machine code, and it computes what torch does."""
    try:
        return _works()
    except (OSError, RuntimeError, AttributeError):
        return False


def _works() -> bool:
    numbers = partial(torch.arange, device="cpu")
    levels, scale = numbers(LANES * 2 * GROUP).remainder(13).view(LANES, -1), numbers(1, LANES * 2 + 1).view(-1, 2) / 4
    rows = numbers(3 * 2 * GROUP).remainder(7).sub(3).view(3, -1).float()
    for kind in (torch.uint8, torch.int8):
        weight = Levels(levels.to(kind), scale, scale * -4 if kind == torch.uint8 else torch.zeros_like(scale))
        expected = rows @ weight.dense().T
        if not bool((multiply(rows, *packed(weight)) - expected).norm() <= _ROUNDING * expected.norm()):
            return False
    return True


def rounded(numbers: int) -> int:
    """So many float32, and some more for the next to begin where a vector does."""
    return -(-numbers // LANES) * LANES


def shapes(bits: int, out: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the levels, in int32 where they have four bits and in int8 where they have eight, and of the scales."""
    runs = -(-out // LANES)
    levels = (size // 8, LANES) if bits == 4 else (size // 2, LANES, 2)
    return (runs, *levels), (runs, size // GROUP, 8 // bits, LANES)


def packed(weight: Levels) -> tuple[Tensor, Tensor]:
    """A weight in the order of products: levels of int8 have eight bits and no lowest number, the others four."""
    short = -len(weight.levels) % LANES
    levels, scale, low = (nn.functional.pad(part, (0, 0, 0, short)) for part in weight)
    runs = levels.view(-1, LANES, levels.shape[1])
    parts = [scale] if levels.dtype == torch.int8 else [scale, low]
    scales = torch.stack(parts).view(len(parts), len(runs), LANES, -1).permute(1, 3, 0, 2).half().contiguous()
    if levels.dtype == torch.int8:
        return runs.unflatten(2, (-1, 2)).transpose(1, 2).contiguous(), scales
    eights = runs.unflatten(2, (-1, 8)).to(torch.int32)
    words = torch.zeros(eights.shape[:3], dtype=torch.int32)
    for place, bit in enumerate(_PLACES):
        words |= eights[..., place] << bit
    return words.transpose(1, 2).contiguous(), scales


def eight_bits(numbers: Tensor) -> Levels:
    """Numbers (out, in) float32 rounded to levels of eight bits: by 1/254 of a group's largest number at most."""
    groups = numbers.unflatten(1, (-1, GROUP))
    scale = (groups.abs().amax(dim=-1) / 127).clamp_min(_LEAST).half().float()
    levels = (groups / scale[..., None]).round_().clamp_(-127, 127).to(torch.int8)
    return Levels(levels.view(numbers.shape), scale, torch.zeros_like(scale))


def unpacked(levels: Tensor, scales: Tensor) -> Tensor:
    """The numbers (whole runs of outputs, in) float32 of a weight in the order of products."""
    if levels.dtype == torch.int32:
        # Bytes: of the inputs 0, 2, 4, 6 in the first half, of 1, 3, 5, 7 in the second, and two in each.
        halves = levels.view(torch.uint8).unflatten(-1, (LANES, 2, 2))
        levels = torch.stack((halves & 15, halves >> 4), dim=-1).permute(0, 2, 1, 4, 5, 3)
    else:
        levels = levels.transpose(1, 2)
    scale, *low = (part.float()[..., None] for part in scales.permute(2, 0, 3, 1))
    numbers = levels.reshape(len(scales), LANES, -1, GROUP) * scale
    return (numbers.add_(*low) if low else numbers).view(len(scales) * LANES, -1)
