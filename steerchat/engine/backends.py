"""Ways to multiply activations by a weight on a CPU: each is a `LinearBackend`, and which is quickest is measured.

A step of decoding reads every weight once and does little with it. Which product does that quickest depends on the
CPU's instructions, on the number of rows and on the shape, so far that the best of one machine takes four times as
long as the worst of another: `kernels` times them. A backend keeps a weight in a form of its own, such as packed for
oneDNN, and multiplies with that.

`exact` ones compute with the float32 numbers of the weight, so that they differ by rounding alone. The others hold
fewer bits and fit only a weight that has no more: no number of a model is lost by how it is multiplied. torch's own
products with few bits round states to bfloat16 or to eight bits, so those here are machine code of ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from . import few_bits
from .machine_code import LANES
from .weights import GROUP, Weight, slices

# Rows that oneDNN's order of packed weights is chosen for; others run on it as well.
_PACKED_FOR = 16
# Where tensors that products read begin, as torch's own do: a vector in two lines of the cache takes longer to read.
ALIGNED = 64
# Rows of a weight that are prepared at once, a multiple of a run: a vocabulary's table is large.
_PREPARED_AT_ONCE = 4096
# The numbers of rows that oneDNN compiles a product of bfloat16 for: any up to the first, then its multiples.
COMPILED_STEP, _COMPILED_MOST = 64, 512


class LinearBackend(Protocol):
    """One product, x @ W.T.

    Attributes:
        name: what it is called where the choice is kept and shown.
        held: the precision that its form has.
        exact: whether it multiplies the weight's own float32 numbers.
    """

    name: str
    held: str
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

    name, held, exact = "plain", "float32", True

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

    name, held, exact = "packed", "float32", True
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

    name, held, exact = "bfloat16", "bfloat16", False
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


class FewBits:
    """Whole numbers of few bits in groups of 32 with a scale: weight = scale * level, and those of four bits with a
    lowest number that is added. The scales are rounded to float16, and states to 16 bits, see `product_code`.

    A form is levels and scales in the order of `product_code`, filled up to whole runs of outputs, and how many outputs
    there are.

    `bits`: of a level.
    """

    exact = False

    def __init__(self, bits: int) -> None:
        self.name, self.held, self.bits = f"{bits}-bit x 16-bit", f"{bits}-bit", bits

    def fits(self, weight: Weight) -> bool:
        return weight.bits == self.bits and not weight.shape[1] % GROUP and few_bits.works()

    def prepare(self, weight: Weight) -> tuple[Tensor, Tensor, int]:
        out, parts = weight.shape[0], []
        # Levels are wider before they are packed: all of a large weight at once would take eight times its own memory.
        for rows in slices(out, _PREPARED_AT_ONCE):
            part = weight.part(rows)
            parts.append(few_bits.packed(part.levels() if self.bits == 4 else few_bits.eight_bits(part.dense())))
        levels, scales = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return levels, scales, out

    def restored(self, kept: Sequence[Tensor], weight: Weight) -> tuple[Tensor, Tensor, int] | None:
        """The form whose tensors were kept; None when they are of another weight."""
        levels, scales = kept
        shapes = few_bits.shapes(self.bits, *weight.shape)
        fits = scales.dtype == torch.float16 and (levels.shape, scales.shape) == shapes
        return (levels, scales, weight.shape[0]) if fits else None

    def multiply(self, rows: Tensor, form: tuple[Tensor, Tensor, int]) -> Tensor:
        levels, scales, out = form
        return few_bits.multiply(rows, levels, scales)[:, :out]

    def numbers(self, form: tuple[Tensor, Tensor, int]) -> Tensor:
        levels, scales, out = form
        result = torch.empty(len(levels) * LANES, scales.shape[1] * GROUP)
        for runs in slices(len(levels), _PREPARED_AT_ONCE // LANES):
            result[runs.start * LANES : runs.stop * LANES] = few_bits.unpacked(levels[runs], scales[runs])
        return result[:out]

    def bytes(self, shape: tuple[int, int]) -> int:
        (levels, scales), size = few_bits.shapes(self.bits, *shape), 4 if self.bits == 4 else 1
        return math.prod(levels) * size + math.prod(scales) * 2


PLAIN, FOUR_BIT, EIGHT_BIT = Plain(), FewBits(4), FewBits(8)
BACKENDS: tuple[LinearBackend, ...] = (PLAIN, Flipped(), Packed(), Bfloat16(), FOUR_BIT, EIGHT_BIT)
# Those whose forms take long to prepare, and are two tensors that can be kept in a file.
KEPT: tuple[FewBits, ...] = (FOUR_BIT, EIGHT_BIT)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has products of bfloat16 in hardware: without, they are slower than float32's."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
