"""Linear layers that are quick on a CPU, from one row to a sweep of many.

Decoding multiplies every weight by one vector per row of the batch, so its speed is the memory's. The product
that torch takes by itself, x @ W.T with W (out, in) and x (rows, in), reads the weights at a fraction of that.
For few rows the same product the other way round, (W @ x.T).T, streams W once at full speed; from a handful on,
oneDNN's own kernel is the quickest, and quicker still with weights in its own order, which `pack` adds where
memory allows: a sweep's step of 30 rows took 77 ms instead of 110. `steerchat bench` shows what comes of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The other way round is the quickest up to here: measured, two cores with AVX-512.
FEW = 5


def _onednn(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


# The operation that torch's compiler emits for a linear layer; a torch built without oneDNN has none.
_HAS_ONEDNN = torch.backends.mkldnn.is_available()
_MANY = _onednn if _HAS_ONEDNN else nn.functional.linear

# The number of rows that the order of packed weights is chosen for; others run on it as well.
_ROWS = 30


class QuickLinear(nn.Linear):
    """`nn.Linear` by the quickest product for its number of rows; the same up to rounding.

    Attributes:
        packed: the weights once more, in oneDNN's own order; None without.
    """

    packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if rows == 0 or torch.is_grad_enabled():
            return super().forward(input)
        if rows > FEW:
            return _MANY(input, self.weight if self.packed is None else self.packed, self.bias)
        vectors = input.reshape(rows, self.in_features)
        if rows == 1:
            # One column would be a matrix-vector product, which runs on one core.
            vectors = vectors.expand(2, -1)
        # The columns must each lie in one piece: the same product with them interleaved takes five times as long.
        columns = vectors.contiguous().T
        # Back in the usual order at once: of rows that lie interleaved, attention takes its slowest path.
        output = torch.mm(self.weight, columns).T[:rows].contiguous()
        if self.bias is not None:
            output = output + self.bias
        return output.reshape(*input.shape[:-1], self.out_features)


def speed_up(model: nn.Module) -> None:
    """Let every linear layer of a float32 model on the CPU use the quick products. Weights stay where they are."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = QuickLinear


@torch.inference_mode()
def pack(model: nn.Module, free: int) -> None:
    """Add packed weights for batches of many rows, where there is memory for a second copy of the weights.

    Args:
        model: one that `speed_up` went through; nothing happens to others.
        free: bytes that may be used.
    """
    layers = [module for module in model.modules() if type(module) is QuickLinear and module.packed is None]
    if _HAS_ONEDNN and sum(layer.weight.nbytes for layer in layers) <= free:
        for layer in layers:
            layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight, _ROWS)


def unpack(model: nn.Module) -> None:
    """Give the memory of packed weights back."""
    for module in model.modules():
        if type(module) is QuickLinear:
            module.packed = None
