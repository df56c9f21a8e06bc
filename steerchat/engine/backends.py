"""Ways to multiply activations by a weight on a CPU: each is a `LinearBackend`, and which is quickest is measured.

A step of decoding reads every weight once and does little with it. Which product does that quickest depends on the
CPU's instructions, on the number of rows and on the shape, so far that the best of one machine takes four times as
long as the worst of another: `kernels` times them. A backend keeps a weight in a form of its own, such as packed for
oneDNN, and multiplies with that.

`exact` ones compute with the float32 numbers of the weight, so that they differ by rounding alone. The others hold
fewer bits and fit only a weight that has no more: no number of a model is lost by how it is multiplied.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

# Numbers that share a scale and an offset, in files of the kind Q4_1 and in torch's four-bit product.
GROUP = 32
# How far from a whole level a four-bit weight may be, in levels: its float32 numbers are rounded products.
_OFF_LEVEL = 0.01
# Rows that oneDNN's order of packed weights is chosen for; others run on it as well.
_PACKED_FOR = 16


class Unfit(Exception):
    """A weight that a backend cannot hold without losing numbers."""


class LinearBackend(Protocol):
    """One product, x @ W.T.

    Attributes:
        name: what it is called where the choice is kept and shown.
        exact: whether it multiplies the weight's own float32 numbers.
    """

    name: str
    exact: bool

    def fits(self, weight: Tensor) -> bool:
        """Whether this machine has the product, and the weight (out, in) float32 the right shape and numbers."""
        ...

    def prepare(self, weight: Tensor) -> Any:
        """The weight in this backend's form. Raises Unfit, or RuntimeError where torch has no such operation."""
        ...

    def multiply(self, rows: Tensor, form: Any) -> Tensor:
        """The product of `rows`, (n, in) float32, with a prepared weight: (n, out) float32."""
        ...

    def weight(self, form: Any) -> Tensor:
        """The numbers of a prepared weight, (out, in) float32."""
        ...

    def bytes(self, shape: tuple[int, int]) -> int:
        """Memory that the form of a weight (out, in) takes beside the weight itself."""
        ...


class Plain:
    """torch's own linear layer."""

    name, exact = "plain", True

    def fits(self, weight: Tensor) -> bool:
        return True

    def prepare(self, weight: Tensor) -> Tensor:
        return weight

    def multiply(self, rows: Tensor, form: Tensor) -> Tensor:
        return nn.functional.linear(rows, form)

    def weight(self, form: Tensor) -> Tensor:
        return form

    def bytes(self, shape: tuple[int, int]) -> int:
        return 0


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

    def fits(self, weight: Tensor) -> bool:
        return torch.backends.mkldnn.is_available()

    def prepare(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(self.dtype), _PACKED_FOR)

    def multiply(self, rows: Tensor, form: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows.to(self.dtype), form, None, "none", [], "").float()

    def weight(self, form: Tensor) -> Tensor:
        return form.to_dense().float()

    def bytes(self, shape: tuple[int, int]) -> int:
        return shape[0] * shape[1] * self.dtype.itemsize


class Bfloat16(Packed):
    """The packed product in bfloat16, for CPUs that multiply it (AMX, AVX512-BF16).

    Fits weights that have no more bits: most published ones, and those of four bits, whose scales are rounded.
    """

    name, exact = "bfloat16", False
    dtype = torch.bfloat16

    def fits(self, weight: Tensor) -> bool:
        return super().fits(weight) and multiplies_bfloat16() and _few_bits(weight)


class FourBit:
    """Groups of four-bit numbers as the files of the kind Q4_1 hold them, w = scale * q + offset.

    torch keeps the numbers in an order that depends on the CPU. They are kept in their own order too, two in a byte: to
    ask the product for them takes seconds.
    """

    name, exact = "4-bit", False

    def fits(self, weight: Tensor) -> bool:
        out, size = weight.shape
        if out % 16 or size % GROUP or not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
            return False
        return _four_bits(weight[:64])

    def prepare(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        numbers, scale, low = _levels(weight)
        # torch counts the levels from -8, so that its offset is the middle of a group.
        scales = torch.stack([scale, low + scale * 8], dim=-1).transpose(0, 1).contiguous().bfloat16()
        levels = numbers.to(torch.int32).reshape(weight.shape)
        pairs = levels[:, ::2].add(levels[:, 1::2], alpha=16).to(torch.uint8)
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1), scales, pairs

    def multiply(self, rows: Tensor, form: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(rows.bfloat16(), form[0], GROUP, form[1]).float()

    def weight(self, form: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        _, scales, pairs = form
        levels = torch.stack([pairs & 15, pairs >> 4], dim=-1).reshape(len(pairs), -1, GROUP)
        scale, middle = scales.float().transpose(0, 1).unbind(dim=-1)
        return (levels.sub(8.0).mul_(scale[..., None]).add_(middle[..., None])).reshape(len(pairs), -1)

    def bytes(self, shape: tuple[int, int]) -> int:
        return shape[0] * shape[1] + shape[0] * shape[1] // GROUP * 4


class EightBit:
    """Whole numbers of eight bits with a scale for each output, for embeddings that a file holds in eight bits.

    The file has a scale for every 32 numbers, so this one rounds a little: by 1/254 of a row's largest number at most.
    """

    name, exact = "8-bit", False

    def fits(self, weight: Tensor) -> bool:
        return hasattr(torch.ops.aten, "_weight_int8pack_mm") and _eight_bits(weight[:64])

    def prepare(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12)
        return (weight / scale[:, None]).round_().to(torch.int8), scale.bfloat16()

    def multiply(self, rows: Tensor, form: tuple[Tensor, Tensor]) -> Tensor:
        return torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), *form).float()

    def weight(self, form: tuple[Tensor, Tensor]) -> Tensor:
        numbers, scale = form
        return numbers.float().mul_(scale.float()[:, None])

    def bytes(self, shape: tuple[int, int]) -> int:
        return shape[0] * (shape[1] + 2)


PLAIN, EIGHT_BIT = Plain(), EightBit()
BACKENDS: tuple[LinearBackend, ...] = (PLAIN, Flipped(), Packed(), Bfloat16(), FourBit(), EIGHT_BIT)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has products of bfloat16 in hardware: without, they are slower than float32's."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def _levels(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which of 16 levels each number of a group has, (out, groups, 32), and the groups' scales and lowest levels.

    Raises Unfit where the numbers lie on no 16 levels. Whoever wrote such a file used the lowest and the highest.
    """
    groups = weight.detach().reshape(weight.shape[0], -1, GROUP)
    low, high = groups.aminmax(dim=-1)
    scale = ((high - low) / 15).clamp_min(1e-12)
    exact = (groups - low[..., None]).div_(scale[..., None])
    levels = exact.round()
    if float((exact - levels).abs_().max()) > _OFF_LEVEL:
        raise Unfit
    return levels, scale, low


def _four_bits(weight: Tensor) -> bool:
    try:
        _levels(weight)
    except Unfit:
        return False
    return True


def _eight_bits(weight: Tensor) -> bool:
    """Whether numbers are those of a file of the kind Q8_0: whole multiples of their group's largest over 127."""
    if weight.shape[1] % GROUP:
        return False
    groups = weight.detach().reshape(weight.shape[0], -1, GROUP)
    exact = groups / (groups.abs().amax(dim=-1, keepdim=True) / 127).clamp_min(1e-12)
    return float((exact - exact.round()).abs().max()) < 0.05


def _few_bits(weight: Tensor) -> bool:
    sample = weight[:64].detach()
    in_bfloat16 = bool((sample.bfloat16().float() == sample).all())
    return in_bfloat16 or (sample.shape[1] % GROUP == 0 and (_four_bits(sample) or _eight_bits(sample)))
