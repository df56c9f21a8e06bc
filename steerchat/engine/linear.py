"""Linear layers that multiply by the quickest backend for their number of rows, as measured on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .backends import BACKENDS, PLAIN, LinearBackend, Unfit

# Rows that backends are timed with: one answer, a pair, a few seeds, a small sweep, a sweep of every layer.
ROWS = (1, 2, 5, 16, 32)
# A form of the weights that costs memory must be this much quicker than what needs none.
_WORTH = 0.87

Shape = tuple[int, int]
# By shape (out, in) and backend: seconds of one product, for each number in ROWS.
Times = Mapping[Shape, Mapping[str, Sequence[float]]]


class FastLinear(nn.Linear):
    """`nn.Linear` whose product depends on the number of rows; the same up to the backend's rounding."""

    _by_rows: tuple[tuple[LinearBackend, Any], ...]

    @property
    def shape(self) -> Shape:
        return self.out_features, self.in_features

    def use(self, by_rows: Sequence[tuple[LinearBackend, Any]]) -> None:
        """From now on multiply by these backends and prepared weights, one for each number in ROWS."""
        self._by_rows = tuple(by_rows[_nearest(rows)] for rows in range(ROWS[-1] + 1))

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if rows == 0 or (torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)):
            return nn.functional.linear(input, self.weight, self.bias)
        backend, form = self._by_rows[min(rows, ROWS[-1])]
        output = backend.multiply(input.reshape(rows, self.in_features), form)
        if self.bias is not None:
            output = output + self.bias
        return output.reshape(*input.shape[:-1], self.out_features)


class Kernels:
    """The backends of one model's linear layers.

    Args:
        model: on the CPU in float32, without gradients; its linear layers become `FastLinear`.

    Attributes:
        layers: those layers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[FastLinear] = []
        for module in model.modules():
            if (
                type(module) is nn.Linear
                and module.weight.device.type == "cpu"
                and module.weight.dtype == torch.float32
            ):
                module.__class__ = FastLinear
                assert isinstance(module, FastLinear)
                self.layers.append(module)
        self._best: dict[Shape, list[LinearBackend]] = {}
        self._light: dict[Shape, list[LinearBackend]] = {}
        self.choose({})

    def choose(self, times: Times) -> None:
        """Use what `times` found quickest and needs no memory; `grow` adds the rest. Plain where nothing is timed."""
        exact = {backend.name: backend for backend in BACKENDS if backend.exact}
        for layer in self.layers:
            found = {exact[name]: seconds for name, seconds in times.get(layer.shape, {}).items() if name in exact}
            light = {b: seconds for b, seconds in found.items() if not b.bytes(layer.weight)}
            self._light[layer.shape] = quickest(light)
            self._best[layer.shape] = quickest(found, self._light[layer.shape])
        self.shrink()

    def grow(self, rows: int, free: int) -> None:
        """Add the forms of weights that are quickest for so many rows, if all of them fit into `free` bytes.

        Args:
            rows: of the batch that will run.
            free: bytes that may be used.
        """
        place = _nearest(min(rows, ROWS[-1]))
        new = {
            layer: backend
            for layer in self.layers
            if not self._uses(layer, backend := self._best[layer.shape][place]) and backend.bytes(layer.weight)
        }
        if sum(backend.bytes(layer.weight) for layer, backend in new.items()) > free:
            return
        for layer, backend in new.items():
            try:
                form = backend.prepare(layer.weight)
            except (Unfit, RuntimeError):
                continue
            best, light = self._best[layer.shape], self._light[layer.shape]
            layer.use(
                [
                    (backend, form) if wanted is backend else (other, other.prepare(layer.weight))
                    for wanted, other in zip(best, light, strict=True)
                ]
            )

    def shrink(self) -> None:
        """Give back the memory that `grow` took."""
        for layer in self.layers:
            layer.use([(backend, backend.prepare(layer.weight)) for backend in self._light[layer.shape]])

    @property
    def summary(self) -> dict[str, tuple[str, ...]]:
        """By shape, such as 576x1536: the name of the quickest backend for each number in ROWS."""
        return {f"{out}x{size}": tuple(b.name for b in best) for (out, size), best in self._best.items()}

    @property
    def description(self) -> str:
        """What multiplies, for people: the backend that most layers use, for each number in ROWS."""
        names = []
        for place, rows in enumerate(ROWS):
            used = Counter(self._best[layer.shape][place].name for layer in self.layers)
            names.append(f"{rows}: {used.most_common(1)[0][0] if used else PLAIN.name}")
        return "Products as measured on this machine, by rows at once: " + ", ".join(names) + "."

    @staticmethod
    def _uses(layer: FastLinear, backend: LinearBackend) -> bool:
        return any(used is backend for used, _ in layer._by_rows)


def quickest(
    found: Mapping[LinearBackend, Sequence[float]], unless: Sequence[LinearBackend] | None = None
) -> list[LinearBackend]:
    """The quickest backend for each number in ROWS; plain where nothing was timed.

    Args:
        found: seconds by backend, one for each number in ROWS.
        unless: what needs no memory: it is kept where the gain is not worth the memory.
    """
    best: list[LinearBackend] = []
    for place in range(len(ROWS)):
        backend = min(found, key=lambda backend: found[backend][place], default=PLAIN)
        if unless and backend in found and unless[place] in found:
            worth = found[backend][place] < _WORTH * found[unless[place]][place]
            backend = backend if worth else unless[place]
        best.append(backend)
    return best


def _nearest(rows: int) -> int:
    """Which of ROWS stands for a number of rows: the nearest by ratio."""
    return min(range(len(ROWS)), key=lambda place: max(ROWS[place] / max(1, rows), rows / ROWS[place]))
