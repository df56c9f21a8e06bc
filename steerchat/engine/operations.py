"""What each operation computes at one layer, for all rows of a batch at once. `values.operation` declares them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..values.operation import ADD
from .gates import Gate

_TINY = 1e-6  # a length of zero for all that matters here
# How long a direction to turn towards is: a state along a longer one would have no plane with it to be turned in.
_ALONG = 1.0 - 5e-7
_HALF_TURN = 3.1  # radians; of a larger angle the sine says nothing in float32, and no state is further away


@dataclass(frozen=True)
class Edit:
    """What one row does at one layer.

    Attributes:
        layer: the block whose output changes.
        operation: its name in `values.operation`.
        vector: (hidden,) float32, as long as the operation's `size` says.
        level: how far a state shall lie along the vector, for an operation with a level.
        gate: when it is applied; None always. Edits of one term share their gate.
    """

    layer: int
    operation: str
    vector: Tensor
    level: float = 0.0
    gate: Gate | None = None

    @property
    def key(self) -> bytes:
        """All that it is, as bytes."""
        gate = b"" if self.gate is None else self.gate.key
        return f"{self.layer} {self.operation} {self.level} ".encode() + self.vector.numpy().tobytes() + gate


class LayerOperation(ABC):
    """An operation at one layer. A subclass names the operation and computes it.

    Args:
        rows: for each row of the batch the operation's edits there; none leaves it as it is.
        hidden: the width of the residual stream.
        device: where the block computes.

    Its tensors have the batch in front; `select` takes rows of them. `graded` names the tensor that is as large as the
    strength, where the operation has a strength.
    """

    kinds: ClassVar[dict[str, type[LayerOperation]]] = {}
    graded: ClassVar[str] = ""

    def __init_subclass__(cls, name: str) -> None:
        LayerOperation.kinds[name] = cls

    def __init__(self, rows: Sequence[Sequence[Edit]], hidden: int, device: torch.device) -> None:
        tensors = self.prepare(rows, hidden)
        self.tensors = {name: tensor.to(device) for name, tensor in tensors.items()}

    @abstractmethod
    def prepare(self, rows: Sequence[Sequence[Edit]], hidden: int) -> dict[str, Tensor]:
        """The tensors that `apply` takes by name, each with the batch in front."""

    @abstractmethod
    def apply(self, state: Tensor, **tensors: Tensor) -> Tensor:
        """The changed state. `state`: (batch, positions, hidden) float32."""

    def __call__(self, state: Tensor, factor: Tensor | None = None) -> Tensor:
        """The changed state. `factor`: (batch, 1, 1) of the strength; at 0 nothing is done; None leaves it as it is."""
        if factor is None:
            return self.apply(state, **self.tensors)
        factor = factor.to(state.device)
        return torch.where(factor != 0, self.apply(state, **self.scaled(factor)), state)

    def scaled(self, factor: Tensor) -> dict[str, Tensor]:
        """The tensors at a share of the strength, (batch, 1, 1)."""
        return {name: tensor * factor if name == self.graded else tensor for name, tensor in self.tensors.items()}

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order. `rows`: (kept,) long."""
        self.tensors = {name: tensor[rows.to(tensor.device)] for name, tensor in self.tensors.items()}


class Add(LayerOperation, name=ADD):
    """Adds the sum of a row's vectors."""

    graded = "push"

    def prepare(self, rows: Sequence[Sequence[Edit]], hidden: int) -> dict[str, Tensor]:
        return {"push": _sums(rows, hidden)}

    def apply(self, state: Tensor, *, push: Tensor) -> Tensor:
        return state + push


class Ablate(LayerOperation, name="ablate"):
    """Projects the directions of a row's vectors out of the state."""

    def prepare(self, rows: Sequence[Sequence[Edit]], hidden: int) -> dict[str, Tensor]:
        # Directions need be neither orthogonal nor distinct: a basis of their span, rows of zeros where unused.
        basis = torch.zeros(len(rows), max(map(len, rows)), hidden)
        for index, edits in enumerate(rows):
            if edits:
                _, sizes, directions = torch.linalg.svd(_stacked(edits), full_matrices=False)
                spanned = directions[sizes > 1e-5 * sizes[0]]
                basis[index, : len(spanned)] = spanned
        return {"basis": basis}

    def apply(self, state: Tensor, *, basis: Tensor) -> Tensor:
        for (direction,) in _each(basis):
            state = torch.addcmul(state, _along(state, direction), direction, value=-1.0)
        return state


class Replace(LayerOperation, name="replace"):
    """Puts the sum of a row's vectors in the place of the state."""

    graded = "value"

    def prepare(self, rows: Sequence[Sequence[Edit]], hidden: int) -> dict[str, Tensor]:
        replaced = torch.tensor([bool(edits) for edits in rows])[:, None, None]
        return {"value": _sums(rows, hidden), "replaced": replaced}

    def apply(self, state: Tensor, *, value: Tensor, replaced: Tensor) -> Tensor:
        return torch.where(replaced, value, state)


class Rotate(LayerOperation, name="rotate"):
    """Turns the state towards the sum of a row's vectors, by as many radians as the sum is long. The length stays.

    The plane is that of the state and the direction, so every state turns straight towards the direction, and never
    past it. (Angular Steering, Vu and Nguyen 2025, arXiv 2510.26243, turns all states in one plane, which a second
    direction spans; Selective Steering, Dang and Ngo 2026, arXiv 2601.19375, shows what comes of an implementation that
    does not keep the length.)

    To add a push and rescale the sum to the old length is such a turn too, by an angle that grows with the push and
    shrinks with the state's length. So there is no second operation for it: this one has the angle itself as its dial.
    """

    def prepare(self, rows: Sequence[Sequence[Edit]], hidden: int) -> dict[str, Tensor]:
        total = _sums(rows, hidden)
        angle = total.norm(dim=-1, keepdim=True)
        return self._by(total * (_ALONG / angle.clamp_min(_TINY)), angle)

    def scaled(self, factor: Tensor) -> dict[str, Tensor]:
        return self._by(self.tensors["direction"], self.tensors["angle"] * factor)

    def _by(self, direction: Tensor, angle: Tensor) -> dict[str, Tensor]:
        turn = angle.clamp_max(_HALF_TURN)
        # `scaled` takes a share of the whole angle, `apply` knows none beyond half a turn.
        return {
            "direction": direction,
            "angle": angle,
            "turn": turn,
            "cosine": turn.cos(),
            "turning": direction * turn.sin(),
        }

    def apply(
        self, state: Tensor, *, direction: Tensor, turn: Tensor, cosine: Tensor, turning: Tensor, **others: Tensor
    ) -> Tensor:
        length = torch.linalg.vector_norm(state, dim=-1, keepdim=True).clamp_min_(_TINY)
        # A state that is nearer than the angle counts as that near: nothing of it is left, and the turn ends there.
        between = torch.minimum(_along(state, direction).div_(length), cosine).acos_()
        # By the law of sines, a sum with these weights lies so far from the state and from the direction.
        turned = torch.addcmul(length * turning, state, between.sub_(turn).sin_())
        return turned.mul_(length / torch.linalg.vector_norm(turned, dim=-1, keepdim=True).clamp_min_(_TINY))


class Aim(LayerOperation, name="aim"):
    """Pushes the state along each of a row's directions as far as it lacks of the level there.

    Steer-to-Target-Projection of Herbster et al. 2026 (arXiv 2604.08169) pushes so along one direction.
    """

    unreached = -math.inf  # the level of no edit: every state has reached it

    def prepare(self, rows: Sequence[Sequence[Edit]], hidden: int) -> dict[str, Tensor]:
        most = max(map(len, rows))
        directions, along = torch.zeros(2, len(rows), most, hidden)
        levels = torch.full((len(rows), most, 1), self.unreached)
        for index, edits in enumerate(rows):
            if edits:
                directions[index, : len(edits)] = _stacked(edits)
                # To move along these changes the projection on one direction alone, also where they are not orthogonal.
                along[index, : len(edits)] = torch.linalg.pinv(_stacked(edits)).T
                levels[index, : len(edits), 0] = torch.tensor([edit.level for edit in edits])
        return {"directions": directions, "along": along, "levels": levels}

    def apply(self, state: Tensor, *, directions: Tensor, along: Tensor, levels: Tensor) -> Tensor:
        moved = state
        for direction, step, level in _each(directions, along, levels):
            moved = torch.addcmul(moved, self._lack(level - _along(state, direction)), step)
        return moved

    def _lack(self, difference: Tensor) -> Tensor:
        """How far to move, from the level less the state's projection."""
        return difference.clamp_min_(0.0)


class Cap(Aim, name="cap"):
    """Takes from the state what lies beyond the level along each of a row's directions.

    Lu et al. 2026 (arXiv 2601.10387) keep a model in its role by such a bound on one direction.
    """

    unreached = math.inf

    def _lack(self, difference: Tensor) -> Tensor:
        return difference.clamp_max_(0.0)


def _each(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The parts of tensors (batch, directions, any) for each direction, (batch, 1, any).

    Most rows have one: between two blocks, an operation on few numbers takes several times as long as in a loop.
    """
    if tensors[0].shape[1] == 1:
        return [tensors]
    return zip(*(tensor.split(1, dim=1) for tensor in tensors), strict=True)


def _along(state: Tensor, direction: Tensor) -> Tensor:
    """(batch, positions, 1) the products of states with each row's direction, (batch, 1, hidden).

    A sum of products: for the few positions of a step, a batched product takes several times as long.
    """
    return (state * direction).sum(dim=-1, keepdim=True)


def _sums(rows: Sequence[Sequence[Edit]], hidden: int) -> Tensor:
    """(batch, 1, hidden) the sum of each row's vectors."""
    sums = torch.zeros(len(rows), 1, hidden)
    for index, edits in enumerate(rows):
        for edit in edits:
            sums[index, 0] += edit.vector
    return sums


def _stacked(edits: Sequence[Edit]) -> Tensor:
    """(edits, hidden) their vectors."""
    return torch.stack([edit.vector for edit in edits])
