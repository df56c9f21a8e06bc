"""Linear layers that are quick for few rows on a CPU.

Decoding multiplies every weight by one vector per row of the batch, so its speed is the memory's. The BLAS
that torch uses reads weights at a fraction of that for one to eight rows: with W (out, in) and x (rows, in)
it computes x @ W.T by kernels made for many rows. The same product the other way round, (W @ x.T).T, streams
W once at full speed: on a two-core AMD machine a pair of rows took 20 ms instead of 74 for all of a 135M
model's weights, and one row, as two equal columns, 20 instead of 45 (`steerchat bench` shows the whole).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# From here on the usual product is as quick.
_ROWS = 8


class SkinnyLinear(nn.Linear):
    """`nn.Linear` with another order of multiplication for few rows; the same up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if rows > _ROWS or rows == 0 or torch.is_grad_enabled():
            return super().forward(input)
        vectors = input.reshape(rows, self.in_features)
        if rows == 1:
            # One column would be a matrix-vector product, which runs on one core.
            vectors = vectors.expand(2, -1)
        # The columns must each lie in one piece: the same product with them interleaved takes five times as long.
        columns = vectors.contiguous().T
        output = torch.mm(self.weight, columns).T[:rows]
        if self.bias is not None:
            output = output + self.bias
        return output.reshape(*input.shape[:-1], self.out_features)


def speed_up(model: nn.Module) -> None:
    """Let every linear layer of a float32 model on the CPU use the quick order. Weights stay where they are."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = SkinnyLinear
