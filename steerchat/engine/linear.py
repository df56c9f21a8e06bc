"""Linear layers that multiply by the quickest backend for their number of rows, as measured on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .backends import KEPT, PLAIN, LinearBackend
from .weights import Dense, Weight

# Rows that backends are timed with: one answer, a pair, a few seeds, a small sweep, a sweep of every layer.
ROWS = (1, 2, 5, 16, 32)
# The shape of a weight (out, in) and the bits of its numbers.
Kind = tuple[int, int, int]
# By kind of weight and backend: seconds of one product, for each number in ROWS.
Times = Mapping[Kind, Mapping[str, Sequence[float]]]


def nearest(rows: int) -> int:
    """Which of ROWS stands for a number of rows: the nearest by ratio."""
    return min(range(len(ROWS)), key=lambda place: max(ROWS[place] / max(1, rows), rows / ROWS[place]))


# Outputs by which a kept form is recognised, and the largest difference that is rounding, as a share of their length.
_PROBED, _ROUNDING = 16, 0.05

# The place in ROWS for each number of rows; the last one is for all beyond it.
_PLACES = tuple(nearest(rows) for rows in range(ROWS[-1] + 1))


class FastLinear(nn.Linear):
    """`nn.Linear` whose product depends on the number of rows; the same up to the backend's rounding.

    `kind`: what products are timed by: outputs, inputs, bits of a number.
    """

    uses: ClassVar[int] = 0  # how often any layer was given other backends
    kind: Kind
    _by_rows: tuple[tuple[LinearBackend, Any], ...]
    _forms: dict[LinearBackend, Any]  # every prepared weight that there is

    @classmethod
    def of(cls, weight: Weight, bias: Tensor | None) -> FastLinear:
        """A layer of its own with this weight, multiplied in the plain way."""
        layer: Any = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)
        if isinstance(weight, Dense):
            layer.weight = nn.Parameter(weight.numbers, requires_grad=False)
            return cls.in_place_of(layer)
        del layer._parameters["weight"]
        layer.__class__ = SmallLinear
        layer._stored, layer._forms, layer._by_rows = weight, {}, ()
        layer.kind = (*weight.shape, weight.bits)
        return layer

    @classmethod
    def in_place_of(cls, layer: nn.Linear) -> FastLinear:
        """The same layer, multiplied in the plain way until `use` is called."""
        layer.__class__ = cls
        assert isinstance(layer, FastLinear)
        layer.kind = (layer.out_features, layer.in_features, layer.stored.bits)
        layer._forms = {}
        layer.use([PLAIN] * len(ROWS))
        return layer

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    @property
    def stored(self) -> Weight:
        """The weight that the forms of all backends are made of."""
        return Dense(self.weight)

    def bytes(self, backend: LinearBackend) -> int:
        """Memory that the form of a backend takes beside the parameters."""
        return 0 if isinstance(backend, type(PLAIN)) else backend.bytes(self.shape)

    def use(self, backends: Sequence[LinearBackend]) -> bool:
        """From now on multiply by these backends, one for each number in ROWS. False when torch cannot prepare one."""
        try:
            for backend in backends:
                if backend not in self._forms:
                    self._forms[backend] = backend.prepare(self.stored)
        except RuntimeError:
            return False
        by_rows = [(backend, self._forms[backend]) for backend in backends]
        self._by_rows = tuple([by_rows[place] for place in _PLACES])
        FastLinear.uses += 1
        return True

    def keep(self, backends: Iterable[LinearBackend]) -> None:
        """Forget the prepared weights of all other backends, which must not be in use."""
        self._forms = {backend: form for backend, form in self._forms.items() if backend in backends}

    def form(self, backend: LinearBackend) -> Any:
        """The prepared weight of a backend; None while there is none."""
        return self._forms.get(backend)

    def form_for(self, rows: int, backend: LinearBackend) -> Any:
        """The prepared weight that so many rows are multiplied with; None where another backend does."""
        own, form = self._by_rows[min(rows, ROWS[-1])] if self._by_rows else (None, None)
        return form if own is backend else None

    def kept_form(self) -> tuple[str, tuple[Tensor, Tensor]] | None:
        """The precision of a form, and its tensors that can be kept for the next start; None without."""
        for backend in KEPT:
            if backend in self._forms:
                first, second, *_ = self._forms[backend]
                return backend.held, (first, second)
        return None

    def restore(self, held: str, tensors: Sequence[Tensor]) -> None:
        """Take the form of this backend from what `kept_form` gave, if it multiplies as this weight does."""
        backend = next(backend for backend in KEPT if backend.held == held)
        form: Any = backend.restored(tensors, self.stored)
        if form is not None:
            # A file may hold another layer's of the same shape: its first outputs tell.
            probe = torch.arange(self.in_features).remainder(7).sub(3)[None].float()
            own = probe @ self.stored.part(slice(_PROBED)).dense().T
            if bool((backend.multiply(probe, form)[:, :_PROBED] - own).norm() <= _ROUNDING * own.norm()):
                self._forms[backend] = form

    def hold_small(self, backend: LinearBackend) -> bool:
        """Multiply by `backend` alone from now on, and forget the float32 weight. False when torch cannot."""
        if not self.use([backend] * len(ROWS)):
            return False
        self.keep([backend])
        # The module stays where the model has it; the type checker knows no change of class.
        self.__class__ = SmallLinear  # type: ignore[assignment]
        assert isinstance(self, SmallLinear)
        self._stored = None
        del self._parameters["weight"]
        return True

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
    """A layer without a float32 weight: it has what the file holds, or no more than the form that it multiplies with.

    Before `use` is called it computes the numbers of a file anew for each product.
    """

    _stored: Weight | None
    _numbers: Tensor | None = None  # those of the file, while `unpacked` holds them

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight that it multiplies with, (out, in) float32, computed anew each time."""
        for backend, form in self._forms.items():
            return backend.numbers(form)
        assert self._stored is not None
        return self._stored.dense() if self._numbers is None else self._numbers

    @property
    def stored(self) -> Weight:
        # Another form is made of the numbers as rounded in the first one: a row says the same beside few and many.
        return Dense(self.weight) if self._forms or self._stored is None else self._stored

    def bytes(self, backend: LinearBackend) -> int:
        return backend.bytes(self.shape)

    def hold_small(self, backend: LinearBackend) -> bool:
        self.keep([backend])
        return self.use([backend] * len(ROWS))

    def hold_dense(self) -> None:
        """Become a layer with float32 numbers of the same values."""
        weight = self.weight
        self.__class__ = FastLinear  # type: ignore[assignment]  # as in `FastLinear.hold_small`
        self._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
        self._forms = {}
        self.use([PLAIN] * len(ROWS))

    def product(self, rows: Tensor) -> Tensor:
        return super().product(rows) if self._by_rows else nn.functional.linear(rows, self.weight, self.bias)


@contextmanager
def unpacked(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Let layers hold their float32 numbers for many products before `use`; a file takes seconds to unpack."""
    held = [layer for layer in layers if isinstance(layer, SmallLinear) and not layer._forms]
    try:
        for layer in held:
            layer._numbers = layer.weight
        yield
    finally:
        for layer in held:
            layer._numbers = None


class SmallEmbedding(nn.Embedding):
    """A table of embeddings without a float32 weight: the rows that it looks up are computed from those of a file."""

    stored: Weight

    @classmethod
    def in_place_of(cls, table: nn.Embedding, stored: Weight) -> SmallEmbedding:
        """The same table with the weight of a file.

        A table of a class of its own, such as Gemma's, which scales the rows, goes on to do so.
        """
        kind = type(table)
        own: Any = (kind, cls)
        table.__class__ = cls if kind is nn.Embedding else type(f"Small{kind.__name__}", own, {})
        assert isinstance(table, SmallEmbedding)
        del table._parameters["weight"]
        table.stored = stored
        return table

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The table, (words, hidden) float32, computed anew each time."""
        return self.stored.dense()

    def forward(self, input: Tensor) -> Tensor:
        return self.stored.part(input.flatten()).dense().view(*input.shape, self.embedding_dim)

    def is_tied_to(self, output: FastLinear) -> bool:
        """Whether an output layer multiplies by the weight of this table."""
        return isinstance(output, SmallLinear) and output._stored is self.stored

    def hold_dense(self, output: FastLinear | None) -> None:
        """Become a table of float32 numbers: those of the tied output layer if there is one."""
        numbers: Any = nn.Parameter(self.stored.dense(), requires_grad=False) if output is None else output.weight
        kind = next(kind for kind in type(self).__mro__ if not issubclass(kind, SmallEmbedding))
        self.__class__ = kind  # type: ignore[assignment]  # as in `FastLinear.hold_small`
        self._parameters["weight"] = numbers


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
