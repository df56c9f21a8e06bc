"""Linear layers that multiply by the quickest backend for their number of rows, as measured on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .backends import BACKENDS, EIGHT_BIT, PLAIN, LinearBackend, Unfit

# Rows that backends are timed with: one answer, a pair, a few seeds, a small sweep, a sweep of every layer.
ROWS = (1, 2, 5, 16, 32)
# What is not torch's own product, or costs memory, must be this much quicker than what it stands in for.
_WORTH = 0.87
# Which of ROWS a chat is judged by: an answer, and a pair.
_CHAT = (0, 1)
# So many of ROWS, the first, share one backend where backends round visibly: a row of a chat's batch is as it is alone.
_FEW = 3

Shape = tuple[int, int]
# By shape (out, in) and backend: seconds of one product, for each number in ROWS.
Times = Mapping[Shape, Mapping[str, Sequence[float]]]


def _nearest(rows: int) -> int:
    """Which of ROWS stands for a number of rows: the nearest by ratio."""
    return min(range(len(ROWS)), key=lambda place: max(ROWS[place] / max(1, rows), rows / ROWS[place]))


# The place in ROWS for each number of rows; the last one is for all beyond it.
_PLACES = tuple(_nearest(rows) for rows in range(ROWS[-1] + 1))


class FastLinear(nn.Linear):
    """`nn.Linear` whose product depends on the number of rows; the same up to the backend's rounding."""

    _by_rows: tuple[tuple[LinearBackend, Any], ...]
    _forms: dict[LinearBackend, Any]  # every prepared weight that there is

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> FastLinear:
        """A layer of its own with this weight, (out, in), multiplied in the plain way."""
        layer = cls(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)
        return cls.in_place_of(layer)

    @classmethod
    def in_place_of(cls, layer: nn.Linear) -> FastLinear:
        """The same layer, multiplied in the plain way until `use` is called."""
        layer.__class__ = cls
        assert isinstance(layer, FastLinear)
        layer._forms = {}
        layer.use([PLAIN] * len(ROWS))
        return layer

    @property
    def shape(self) -> Shape:
        return self.out_features, self.in_features

    def use(self, backends: Sequence[LinearBackend]) -> bool:
        """From now on multiply by these backends, one for each number in ROWS. False when torch cannot prepare one."""
        try:
            for backend in backends:
                if backend not in self._forms:
                    self._forms[backend] = backend.prepare(self.weight)
        except (Unfit, RuntimeError):
            return False
        by_rows = [(backend, self._forms[backend]) for backend in backends]
        self._by_rows = tuple([by_rows[place] for place in _PLACES])
        return True

    def keep(self, backends: Iterable[LinearBackend]) -> None:
        """Forget the prepared weights of all other backends, which must not be in use."""
        self._forms = {backend: form for backend, form in self._forms.items() if backend in backends}

    def form(self, backend: LinearBackend) -> Any:
        """The prepared weight of a backend; None while there is none."""
        return self._forms.get(backend)

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if rows == 0 or (torch.is_grad_enabled() and self._needs_gradients(input)):
            return nn.functional.linear(input, self.weight, self.bias)
        return self.product(input.reshape(rows, self.in_features)).reshape(*input.shape[:-1], self.out_features)

    def product(self, rows: Tensor) -> Tensor:
        """`forward` for (rows, in) without a gradient, in a new tensor; a module's call would cost as much again."""
        backend, form = self._by_rows[min(len(rows), ROWS[-1])]
        output = backend.multiply(rows, form)
        return output if self.bias is None else output.add_(self.bias)

    def _needs_gradients(self, input: Tensor) -> bool:
        return input.requires_grad or any(parameter.requires_grad for parameter in self.parameters(recurse=False))


class SmallLinear(FastLinear):
    """A layer whose float32 weight is gone: what it multiplies with is all that there is."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight that it multiplies with, (out, in) float32, computed anew each time."""
        backend, form = next(iter(self._forms.items()))
        return backend.weight(form)


class SmallEmbedding(nn.Embedding):
    """A table of embeddings that is held in the form of the output layer with the same weight."""

    form: tuple[Tensor, Tensor]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self(torch.arange(self.num_embeddings))

    def forward(self, input: Tensor) -> Tensor:
        numbers, scale = self.form
        return numbers[input].float() * scale[input, None].float()


class Part(nn.Module):
    """A linear layer that is a part of a joined one, for whoever calls it apart.

    Args:
        whole: the joined layer.
        rows: which of its outputs.
    """

    def __init__(self, whole: FastLinear, rows: slice) -> None:
        super().__init__()
        self._whole = (whole,)  # in a tuple, so that it is no submodule of several
        self._rows = rows
        self.in_features, self.out_features = whole.in_features, rows.stop - rows.start

    @property
    def weight(self) -> Tensor:
        return self._whole[0].weight[self._rows]

    def forward(self, input: Tensor) -> Tensor:
        return self._whole[0](input)[..., self._rows]


class Kernels:
    """The backends of one model's linear layers.

    Args:
        model: on the CPU in float32, without gradients; its linear layers become `FastLinear`.
        joined: layers that stand for several of the model's, which are left as they are.

    Attributes:
        layers: all layers that a step runs through, the joined ones first.
        times: what the choice is by.
        precision: how the weights are held: `float32`, or the form that takes least memory of most of them.
    """

    precision = "float32"

    def __init__(self, model: nn.Module, joined: Sequence[FastLinear] = ()) -> None:
        self.layers: list[FastLinear] = list(joined)
        self.times: Times = {}
        stand_in = {layer.weight.untyped_storage().data_ptr() for layer in joined}
        for module in model.modules():
            if type(module) not in (nn.Linear, FastLinear):
                continue
            weight: Any = module.weight
            known = weight.untyped_storage().data_ptr() in stand_in
            if not known and weight.device.type == "cpu" and weight.dtype == torch.float32:
                assert isinstance(module, nn.Linear)
                self.layers.append(FastLinear.in_place_of(module))
        self._best: dict[Shape, list[LinearBackend]] = {}
        self._light: dict[Shape, list[LinearBackend]] = {}
        self._prepared: int | None = None  # the place in ROWS that `prepare` was last called for
        self.choose({})

    def choose(self, times: Times) -> None:
        """Use the exact backends that are quickest by `times` and need no memory; `prepare` adds the others."""
        self.times = times
        for layer in self.layers:
            found = _timed(times, layer, exact=True)
            light = {b: seconds for b, seconds in found.items() if not b.bytes(layer.shape)}
            self._light[layer.shape] = quickest(light, [PLAIN] * len(ROWS))
            self._best[layer.shape] = quickest(found, self._light[layer.shape])
        self.shrink()

    @torch.inference_mode()
    def make_small(self, embeddings: nn.Module) -> bool:
        """Hold weights with no more bits than they have, in place of float32, if that makes a chat quicker.

        Args:
            embeddings: the model's input embeddings, which may share the output layer's weight.

        Returns:
            whether weights are held so now. It cannot be undone: the float32 numbers are gone. `prepare` adds
            the forms that are quicker for many rows, made of the numbers that are left.
        """
        best: dict[Shape, list[LinearBackend]] = {}
        before = after = 0.0
        for layer in self.layers:
            exact, small = (_timed(self.times, layer, kind) for kind in (True, False))
            if not exact or not small:
                continue
            best[layer.shape] = _alike(small, min(small, key=lambda backend: backend.bytes(layer.shape)))
            for place in _CHAT:
                before += exact[self._light[layer.shape][place]][place]
                after += small[best[layer.shape][place]][place]
        if not best or after > _WORTH * before:
            return False
        light = {shape: [backends[0]] * len(ROWS) for shape, backends in best.items()}
        held: Counter[str] = Counter()
        for layer in self.layers:
            if layer.shape not in light:
                continue
            size, tied = layer.weight.numel(), layer.weight is getattr(embeddings, "weight", None)
            if layer.use(light[layer.shape]):
                layer.keep(light[layer.shape])
                held[light[layer.shape][0].name] += size
                layer.__class__ = SmallLinear
                del layer._parameters["weight"]
                if tied:
                    _share_table(embeddings, layer)
        self._best |= best
        self._light |= light
        self._prepared = None
        self.precision = held.most_common(1)[0][0] if held else "float32"
        return bool(held)

    @torch.inference_mode()
    def prepare(self, rows: int, free: int) -> None:
        """Use what is quickest for a run of so many rows, with another form of the weights where there is memory.

        What rounds how depends on the number of rows alone, and not on what ran before: a form that a sweep needed is
        kept, and a pair after it does not use it, neither for its prompt nor for its reading.

        Args:
            rows: of the batch that will run.
            free: bytes that more forms may take.
        """
        place = _nearest(rows)
        if place == self._prepared:
            return
        self._prepared = place
        plans = {
            shape: best if best[place] is not self._light[shape][place] else self._light[shape]
            for shape, best in self._best.items()
        }
        more = sum(
            backend.bytes(layer.shape)
            for layer in self.layers
            for backend in dict.fromkeys(plans[layer.shape])
            if layer.form(backend) is None
        )
        for layer in self.layers:
            if more > free or not layer.use(plans[layer.shape]):
                layer.use(self._light[layer.shape])

    def shrink(self) -> None:
        """Give back the memory of the forms that `prepare` added."""
        self._prepared = None
        for layer in self.layers:
            layer.use(self._light[layer.shape])
            layer.keep(self._light[layer.shape])

    @property
    def size(self) -> int:
        """Bytes of the forms that weights are held in, which are no parameters of the model."""
        return sum(backend.bytes(layer.shape) for layer in self.layers for backend in layer._forms)

    @property
    def summary(self) -> str:
        """The backend that most layers use, for each number in ROWS, such as `1: 4-bit, 2: 4-bit, 5: bfloat16`."""
        names = []
        for place, rows in enumerate(ROWS):
            used = Counter(self._best[layer.shape][place].name for layer in self.layers)
            names.append(f"{rows}: {used.most_common(1)[0][0] if used else PLAIN.name}")
        return ", ".join(names)

    @property
    def description(self) -> str:
        """`summary` for people."""
        return f"Weights in {self.precision}; products as measured on this machine, by rows at once: {self.summary}."


def quickest(found: Mapping[LinearBackend, Sequence[float]], usual: Sequence[LinearBackend]) -> list[LinearBackend]:
    """The quickest backend for each number in ROWS.

    Args:
        found: seconds by backend, one for each number in ROWS.
        usual: for each of them the backend that is kept where nothing is clearly quicker, or nothing was timed.
    """
    best: list[LinearBackend] = []
    for place, other in enumerate(usual):
        backend = min(found, key=lambda backend: found[backend][place], default=other)
        worth = backend in found and (other not in found or found[backend][place] < _WORTH * found[other][place])
        best.append(backend if worth else other)
    return best


def _alike(found: Mapping[LinearBackend, Sequence[float]], usual: LinearBackend) -> list[LinearBackend]:
    """As `quickest`, with one backend for the few rows of a chat."""
    few = {backend: [sum(seconds[:_FEW])] * len(ROWS) for backend, seconds in found.items()}
    return quickest(few, [usual] * len(ROWS))[:_FEW] + quickest(found, [usual] * len(ROWS))[_FEW:]


def _timed(times: Times, layer: FastLinear, exact: bool) -> dict[LinearBackend, Sequence[float]]:
    found = times.get(layer.shape, {})
    return {b: found[b.name] for b in BACKENDS if b.exact == exact and b.name in found}


def _share_table(embeddings: Any, output: FastLinear) -> None:
    """Input embeddings that share the output layer's weight share its eight-bit form; of another form they keep it."""
    form = output.form(EIGHT_BIT)
    if form is not None:
        embeddings.__class__ = SmallEmbedding
        embeddings.form = form
        del embeddings._parameters["weight"]
