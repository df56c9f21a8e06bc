"""Ways to multiply activations by a weight on a CPU: each is a `LinearBackend`, and which is quickest is measured.

A step of decoding reads every weight once and does little with it. Which product does that quickest depends on the
CPU's instructions, on the number of rows and on the shape, so far that the best of one machine takes four times as
long as the worst of another: `kernels` times them. A backend keeps a weight in a form of its own, such as packed for
oneDNN, and multiplies with that.

`exact` ones compute with the float32 numbers of the weight, so that they differ by rounding alone. The others hold
fewer bits and fit only a weight that has no more: no number of a model is lost by how it is multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .weights import GROUP, Levels, Weight, slices

# Rows that oneDNN's order of packed weights is chosen for; others run on it as well.
_PACKED_FOR = 16
# Where tensors that products read have to begin: torch puts its own at such addresses.
ALIGNED = 64
# Rows of a weight that are prepared at once: a vocabulary's table is large. torch packs runs of rows, of 64 at most,
# which have to lie in one part.
_PREPARED_AT_ONCE = 4096
# Numbers of a weight that are made wider at once: they stay in the CPU's cache, and in memory that the allocator keeps.
# More than 32 MB it asks of the system each time, which takes thrice as long as the product.
_WIDENED_AT_ONCE = 1 << 20
# The numbers of rows that oneDNN compiles a product of bfloat16 for: any up to the first, then its multiples.
COMPILED_STEP, _COMPILED_MOST = 64, 512
# From so many rows on, levels of eight and of four bits are multiplied as wider numbers: torch's products of few bits
# take as long for each further row. Levels of four bits come from the weight's file, so a chat's pair stays below.
_WIDE_FROM, _WIDE_FOUR_FROM = 16, 512


class LinearBackend(Protocol):
    """One product, x @ W.T.

    Attributes:
        name: what it is called where the choice is kept and shown.
        exact: whether it multiplies the weight's own float32 numbers.
    """

    name: str
    exact: bool

    def fits(self, weight: Weight) -> bool:
        """Whether this machine has the product, and the weight the right shape and no more bits than it holds."""
        ...

    def prepare(self, weight: Weight) -> Any:
        """The weight in this backend's form. Raises RuntimeError where torch has no such operation."""
        ...

    def multiply(self, rows: Tensor, form: Any) -> Tensor:
        """The product of `rows`, (n, in) float32, with a prepared weight: (n, out) float32."""
        ...

    def numbers(self, form: Any) -> Tensor:
        """The numbers of a prepared weight, (out, in) float32, as rounded in that form."""
        ...

    def bytes(self, shape: tuple[int, int]) -> int:
        """Memory that the form of a weight (out, in) takes."""
        ...


class Plain:
    """torch's own linear layer."""

    name, exact = "plain", True

    def fits(self, weight: Weight) -> bool:
        return True

    def prepare(self, weight: Weight) -> Tensor:
        return weight.dense()

    def multiply(self, rows: Tensor, form: Tensor) -> Tensor:
        return nn.functional.linear(rows, form)

    def numbers(self, form: Tensor) -> Tensor:
        return form

    def bytes(self, shape: tuple[int, int]) -> int:
        return 4 * shape[0] * shape[1]


class Flipped(Plain):
    """(W @ x.T).T: the same product the other way round, which on some CPUs streams the weight twice as fast."""

    name = "flipped"

    def multiply(self, rows: Tensor, form: Tensor) -> Tensor:
        # One column would be a matrix-vector product, which runs on one core.
        vectors = rows.expand(2, -1) if len(rows) == 1 else rows
        # Columns must each lie in one piece, and the result's rows too: attention is slow on interleaved ones.
        return torch.mm(form, vectors.contiguous().T).T[: len(rows)].contiguous()


class Packed:
    """oneDNN's product on weights in an order of its own, the operation that torch's compiler emits."""

    name, exact = "packed", True
    dtype = torch.float32

    def fits(self, weight: Weight) -> bool:
        return torch.backends.mkldnn.is_available()

    def prepare(self, weight: Weight) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.dense().to(self.dtype), _PACKED_FOR)

    def multiply(self, rows: Tensor, form: Tensor) -> Tensor:
        return self._product(rows.to(self.dtype), form).float()

    def _product(self, rows: Tensor, form: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, form, None, "none", [], "")

    def numbers(self, form: Tensor) -> Tensor:
        return form.to_dense().float()

    def bytes(self, shape: tuple[int, int]) -> int:
        return shape[0] * shape[1] * self.dtype.itemsize


class Bfloat16(Packed):
    """The packed product in bfloat16, for CPUs that multiply it (AMX, AVX512-BF16).

    Fits weights that have no more bits: most published ones, and those of four or eight bits, whose scales are rounded.
    """

    name, exact = "bfloat16", False
    dtype = torch.bfloat16

    def fits(self, weight: Weight) -> bool:
        return super().fits(weight) and multiplies_bfloat16() and weight.bits <= 16

    def multiply(self, rows: Tensor, form: Tensor) -> Tensor:
        if len(rows) <= COMPILED_STEP:
            return super().multiply(rows, form)
        # oneDNN compiles this product anew for each number of rows: for thousands that takes ten times as long as the
        # product. The texts of a sweep give another number at each layer, so they are cut into a few numbers.
        output, states = rows.new_empty(len(rows), form.shape[0]), rows.to(self.dtype)
        for part in slices(len(rows), _COMPILED_MOST):
            some, count = states[part], part.stop - part.start
            if count % COMPILED_STEP:
                some = nn.functional.pad(some, (0, 0, 0, -count % COMPILED_STEP))
            output[part] = self._product(some, form)[:count]
        return output


class FourBit:
    """Groups of four-bit numbers, w = scale * level + low, whose scale and middle are rounded to bfloat16.

    torch keeps the levels in an order that depends on the CPU, and to ask the product for them takes seconds: they come
    from the weight again.
    """

    name, exact = "4-bit", False

    def fits(self, weight: Weight) -> bool:
        out, size = weight.shape
        has_product = hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
        return has_product and weight.bits == 4 and not out % 16 and not size % GROUP

    def prepare(self, weight: Weight) -> tuple[Tensor, Tensor, Weight]:
        out, size = weight.shape
        packed = torch.empty(out, size // 2, dtype=torch.uint8)
        scales = torch.empty(size // GROUP, out, 2, dtype=torch.bfloat16)
        # torch packs numbers of 32 bits: all of a large weight at once would take eight times its own memory.
        for rows in slices(out, _PREPARED_AT_ONCE):
            levels, scale, low = weight.part(rows).levels()
            packed[rows] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.to(torch.int32), 1)
            # torch counts the levels from -8, so that its offset is the middle of a group.
            scales[:, rows] = torch.stack([scale, low + scale * 8], dim=-1).transpose(0, 1).bfloat16()
        return packed, scales, weight

    def restored(self, kept: Sequence[Tensor], weight: Weight) -> tuple[Tensor, Tensor, Weight] | None:
        """The form whose tensors were kept; None when they are of another weight."""
        (out, size), (packed, scales) = weight.shape, kept
        fits = packed.numel() * packed.itemsize == out * size // 2 and scales.shape == (size // GROUP, out, 2)
        return (packed, scales, weight) if fits else None

    def multiply(self, rows: Tensor, form: tuple[Tensor, Tensor, Weight]) -> Tensor:
        states = rows.bfloat16()
        if len(rows) < _WIDE_FOUR_FROM:
            return torch.ops.aten._weight_int4pack_mm_for_cpu(states, form[0], GROUP, form[1]).float()
        return _widened(states.float(), form[2].shape, lambda part: self.numbers(form, part)).bfloat16().float()

    def numbers(self, form: tuple[Tensor, Tensor, Weight], rows: slice = slice(None)) -> Tensor:
        scale, middle = form[1][:, rows].float().transpose(0, 1).unbind(dim=-1)
        return Levels(form[2].part(rows).levels().levels, scale, middle - scale * 8).dense()

    def bytes(self, shape: tuple[int, int]) -> int:
        size = shape[0] * shape[1]
        return size // 2 + size // GROUP * 4


class EightBit:
    """Whole numbers of eight bits with a scale for each output.

    A file has a scale for every 16 or 32 numbers, so this one rounds: by 1/254 of a row's largest number at most.
    """

    name, exact = "8-bit", False

    def fits(self, weight: Weight) -> bool:
        return hasattr(torch.ops.aten, "_weight_int8pack_mm") and weight.bits == 8

    def prepare(self, weight: Weight) -> tuple[Tensor, Tensor]:
        levels = torch.empty(weight.shape, dtype=torch.int8)
        scales = torch.empty(weight.shape[0], dtype=torch.bfloat16)
        for rows in slices(weight.shape[0], _PREPARED_AT_ONCE):
            numbers = weight.part(rows).dense()
            scale = (numbers.abs().amax(dim=1) / 127).clamp_min(1e-12).bfloat16()
            levels[rows] = (numbers / scale[:, None].float()).round_().clamp_(-127, 127).to(torch.int8)
            scales[rows] = scale
        return levels, scales

    def restored(self, kept: Sequence[Tensor], weight: Weight) -> tuple[Tensor, Tensor] | None:
        """As `FourBit.restored`.

        torch's product of four and more rows ends the program when the levels do not begin at a multiple of 16 bytes.
        """
        levels, scales = kept
        if levels.data_ptr() % ALIGNED:
            levels = levels.clone()
        return (levels, scales) if levels.shape == weight.shape and len(scales) == len(levels) else None

    def multiply(self, rows: Tensor, form: tuple[Tensor, Tensor]) -> Tensor:
        if len(rows) < _WIDE_FROM:
            return torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), *form).float()
        levels, scale = form
        dtype = torch.bfloat16 if multiplies_bfloat16() else torch.float32
        return _widened(rows.to(dtype), levels.shape, lambda part: levels[part].to(dtype)).mul_(scale.float())

    def numbers(self, form: tuple[Tensor, Tensor]) -> Tensor:
        levels, scale = form
        return levels.float().mul_(scale.float()[:, None])

    def bytes(self, shape: tuple[int, int]) -> int:
        return shape[0] * (shape[1] + 2)


PLAIN, FOUR_BIT, EIGHT_BIT = Plain(), FourBit(), EightBit()
BACKENDS: tuple[LinearBackend, ...] = (PLAIN, Flipped(), Packed(), Bfloat16(), FOUR_BIT, EIGHT_BIT)
# Those whose forms take long to prepare, and are two tensors that can be kept in a file.
KEPT: tuple[FourBit | EightBit, ...] = (FOUR_BIT, EIGHT_BIT)


def _widened(states: Tensor, shape: Sequence[int], numbers: Callable[[slice], Tensor]) -> Tensor:
    """The product of states with a weight (out, in) whose wider numbers are made part by part: (n, out) float32.

    `numbers`: gives those of some outputs, in the precision of the states.
    """
    out, size = shape
    output = states.new_empty(len(states), out, dtype=torch.float32)
    # A multiple of the rows that products like.
    for part in slices(out, max(1, _WIDENED_AT_ONCE // size // COMPILED_STEP) * COMPILED_STEP):
        output[:, part] = nn.functional.linear(states, numbers(part))
    return output


def multiplies_bfloat16() -> bool:
    """Whether this CPU has products of bfloat16 in hardware: without, they are slower than float32's."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
