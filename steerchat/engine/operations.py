"""What each operation computes at one layer, for all rows of a batch at once. `values.operation` declares them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..values.operation import ADD


class LayerOperation(ABC):
    """An operation at one layer. A subclass names the operation and computes it.

    Args:
        rows: for each row of the batch the operation's vectors there, (hidden,) float32 each; none leaves it as it is.
        hidden: the width of the residual stream.
        device: where the block computes.

    Its tensors have the batch in front; `select` takes rows of them.
    """

    kinds: ClassVar[dict[str, type[LayerOperation]]] = {}

    def __init_subclass__(cls, name: str) -> None:
        LayerOperation.kinds[name] = cls

    def __init__(self, rows: Sequence[Sequence[Tensor]], hidden: int, device: torch.device) -> None:
        tensors = self.prepare(rows, hidden)
        self.tensors = {name: tensor.to(device) for name, tensor in tensors.items()}

    @abstractmethod
    def prepare(self, rows: Sequence[Sequence[Tensor]], hidden: int) -> dict[str, Tensor]:
        """The tensors that `apply` takes by name, each with the batch in front."""

    @abstractmethod
    def apply(self, state: Tensor, **tensors: Tensor) -> Tensor:
        """The changed state. `state`: (batch, positions, hidden) float32."""

    def __call__(self, state: Tensor) -> Tensor:
        return self.apply(state, **self.tensors)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order. `rows`: (kept,) long."""
        self.tensors = {name: tensor[rows.to(tensor.device)] for name, tensor in self.tensors.items()}


class Add(LayerOperation, name=ADD):
    """Adds the sum of a row's vectors."""

    def prepare(self, rows: Sequence[Sequence[Tensor]], hidden: int) -> dict[str, Tensor]:
        return {"push": _sums(rows, hidden)}

    def apply(self, state: Tensor, *, push: Tensor) -> Tensor:
        return state + push


class Ablate(LayerOperation, name="ablate"):
    """Projects the directions of a row's vectors out of the state."""

    def prepare(self, rows: Sequence[Sequence[Tensor]], hidden: int) -> dict[str, Tensor]:
        # Directions need be neither orthogonal nor distinct: a basis of their span, rows of zeros where unused.
        basis = torch.zeros(len(rows), max(map(len, rows)), hidden)
        for index, vectors in enumerate(rows):
            if vectors:
                _, sizes, directions = torch.linalg.svd(torch.stack(list(vectors)), full_matrices=False)
                spanned = directions[sizes > 1e-5 * sizes[0]]
                basis[index, : len(spanned)] = spanned
        return {"basis": basis}

    def apply(self, state: Tensor, *, basis: Tensor) -> Tensor:
        return state - (state @ basis.mT) @ basis


class Replace(LayerOperation, name="replace"):
    """Puts the sum of a row's vectors in the place of the state."""

    def prepare(self, rows: Sequence[Sequence[Tensor]], hidden: int) -> dict[str, Tensor]:
        replaced = torch.tensor([bool(vectors) for vectors in rows])[:, None, None]
        return {"value": _sums(rows, hidden), "replaced": replaced}

    def apply(self, state: Tensor, *, value: Tensor, replaced: Tensor) -> Tensor:
        return torch.where(replaced, value, state)


def _sums(rows: Sequence[Sequence[Tensor]], hidden: int) -> Tensor:
    """(batch, 1, hidden) the sum of each row's vectors."""
    sums = torch.zeros(len(rows), 1, hidden)
    for index, vectors in enumerate(rows):
        for vector in vectors:
            sums[index, 0] += vector
    return sums
