"""Which backend multiplies which layer of a model, chosen by how quick each is on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..system.memory import trim
from .backends import BACKENDS, PLAIN, FewBits, LinearBackend, Packed
from .linear import ROWS, FastLinear, Kind, SmallEmbedding, SmallLinear, Times, nearest

# Prepared weights of layers, by the layer's number and their precision.
Forms = Mapping[tuple[int, str], tuple[Tensor, Tensor]]
# What is not torch's own product must be this much quicker than what it stands in for. Float32 in place of few bits has
# to be quicker still: it takes several times the memory, and a busy machine is measured wrongly.
_WORTH, _WORTH_ITS_MEMORY = 0.87, 0.5
# Which of ROWS a chat is judged by: an answer, and a pair.
_CHAT = (0, 1)
# So many of ROWS, the first, share one backend where backends round visibly: a row of a chat's batch is as it is alone.
_FEW = 3
# Seconds without a large batch after which the forms for many rows go: a chat is in a quarter of their memory.
_KEPT_FOR = 15.0


class Kernels:
    """The backends of one model's linear layers.

    Args:
        model: on the CPU in float32, without gradients; its linear layers become `FastLinear`.
        joined: layers that stand for several of the model's, which have become parts of them.

    Attributes:
        layers: all layers that a step runs through, the joined ones first.
        times: what the choice is by.
        precision: how the weights are held: `float32`, or the form that takes least memory of most of them.
        prepared: the place in ROWS that `prepare` was last called for; None before, and after `shrink`.
    """

    precision = "float32"

    def __init__(self, model: nn.Module, joined: Sequence[FastLinear] = ()) -> None:
        self.layers: list[FastLinear] = list(joined)
        self.times: Times = {}
        modules = list(model.modules())
        self._apart = [layer for layer in joined if layer not in modules]
        for module in modules:
            if type(module) is nn.Linear:
                weight = module.weight
                if weight.device.type == "cpu" and weight.dtype == torch.float32:
                    self.layers.append(FastLinear.in_place_of(module))
            elif isinstance(module, FastLinear) and module not in joined:
                self.layers.append(module)
        tables = [module for module in modules if isinstance(module, SmallEmbedding)]
        self._tables = [(table, next(filter(table.is_tied_to, self.layers), None)) for table in tables]
        usual: list[LinearBackend] = [PLAIN] * len(ROWS)
        self._best = {layer.kind: usual for layer in self.layers}
        self._light = dict(self._best)
        self.prepared: int | None = None
        self._many_at = 0.0  # when it was last called for many rows
        self._read: Callable[[], None] = lambda: None  # as of `choose`

    @torch.inference_mode()
    def choose(
        self,
        times: Times,
        small: bool = False,
        free: int = 0,
        kept: Forms | None = None,
        read: Callable[[], None] = lambda: None,
    ) -> None:
        """Use the backends that are quickest by `times` and need no memory; `prepare` adds the others.

        Args:
            times: as measured; nothing where it could not be.
            small: whether weights may be held with as few bits as they have, unless float32 makes a chat quicker and
                there is memory for it. It cannot be undone: `prepare` then adds the forms that are quicker for many
                rows, made of the numbers that are left.
            free: bytes that float32 weights may take.
            kept: what `forms` gave at an earlier start on this machine.
            read: called when the numbers of a layer were read for its form: a file need not stay in memory for them.
        """
        self.times, self._read = times, read
        held = self._small(free) if small else {}
        sizes: Counter[str] = Counter()
        for number, layer in enumerate(self.layers):
            backends = held.get(layer.kind)
            if backends and (tensors := (kept or {}).get((number, backends[0].held))):
                layer.restore(backends[0].held, tensors)
            if backends and layer.hold_small(backends[0]):
                self._light[layer.kind], self._best[layer.kind] = [backends[0]] * len(ROWS), backends
                sizes[backends[0].held] += layer.in_features * layer.out_features
                read()
                continue
            if isinstance(layer, SmallLinear):
                layer.hold_dense()
            seconds = _timed(times, layer, exact=True)
            light = {backend: seconds[backend] for backend in seconds if not layer.bytes(backend)}
            self._light[layer.kind] = quickest(light, [PLAIN] * len(ROWS))
            self._best[layer.kind] = quickest(seconds, self._light[layer.kind])
        self.precision = sizes.most_common(1)[0][0] if sizes else "float32"
        for table, output in () if sizes else self._tables:
            table.hold_dense(output)
        self.shrink()

    def _small(self, free: int) -> dict[Kind, list[LinearBackend]]:
        """The backends that hold few bits, for each number in ROWS, of every kind of weight that has some.

        Nothing where float32 is clearly quicker and fits into `free` bytes.
        """
        best: dict[Kind, list[LinearBackend]] = {}
        before = after = 0.0
        dense = 0
        for layer in self.layers:
            exact, small = (_timed(self.times, layer, kind) for kind in (True, False))
            if isinstance(layer, SmallLinear):
                dense += PLAIN.bytes(layer.shape)
                # As the file holds it, whether or not that could be timed.
                fitting = [backend for backend in BACKENDS if not backend.exact and backend.fits(layer.stored)]
            else:
                fitting = list(small)
            if not fitting:
                continue
            usual = min(fitting, key=lambda backend: backend.bytes(layer.shape))
            best[layer.kind] = _alike(small, exact, usual)
            for place in _CHAT if exact and usual in small else ():
                before += min(seconds[place] for seconds in exact.values())
                after += small[usual][place]
        few = any(isinstance(backends[0], FewBits) for backends in best.values())
        return best if dense > free or before >= (_WORTH_ITS_MEMORY if few else _WORTH) * after else {}

    @torch.inference_mode()
    def prepare(self, rows: int, free: int) -> None:
        """Use what is quickest for a run of so many rows, with another form of the weights where there is memory.

        What rounds how depends on the number of rows alone, and not on what ran before or on when other rows end: a
        form that a sweep needed is kept for a while, and a pair after it does not use it, neither for its prompt nor
        for its reading. The sweep uses it to the last row.

        Args:
            rows: of the batch that will run.
            free: bytes that more forms may take.
        """
        place, now = nearest(rows), time.monotonic()
        if place >= _FEW:
            self._many_at = now
        elif now - self._many_at > _KEPT_FOR and self._has_more:
            self.shrink()
            trim()
        if place == self.prepared:
            return
        self.prepared = place
        plans = {
            kind: [best[place]] * len(ROWS) if best[place] is not self._light[kind][place] else self._light[kind]
            for kind, best in self._best.items()
        }
        more = sum(
            layer.bytes(backend)
            for layer in self.layers
            for backend in dict.fromkeys(plans[layer.kind])
            if layer.form(backend) is None
        )
        for layer in self.layers:
            if more > free or not layer.use(plans[layer.kind]):
                layer.use(self._light[layer.kind])
            elif more:
                self._read()

    @property
    def forms(self) -> Forms:
        """The prepared weights that are worth keeping for the next start."""
        found = [(number, layer.kept_form()) for number, layer in enumerate(self.layers)]
        return {(number, form[0]): form[1] for number, form in found if form is not None}

    def shrink(self) -> None:
        """Give back the memory of the forms that `prepare` added."""
        self.prepared = None
        for layer in self.layers:
            layer.use(self._light[layer.kind])
            layer.keep(self._light[layer.kind])

    @property
    def _has_more(self) -> bool:
        """Whether a layer has a form that `prepare` added."""
        return any(len(layer._forms) > len(set(self._light[layer.kind])) for layer in self.layers)

    @property
    def size(self) -> int:
        """Bytes of weights that are no parameters of the model, nor in a file: joined layers, and forms of backends."""
        apart = sum(parameter.nbytes for layer in self._apart for parameter in layer.parameters())
        return apart + sum(layer.bytes(backend) for layer in self.layers for backend in layer._forms)

    @property
    def bandwidth(self) -> float | None:
        """Bytes of weights that the products of one row read in a second; None where they were not timed."""
        size = seconds = 0.0
        for layer in self.layers:
            backend = self._light[layer.kind][0]
            timed = self.times.get(layer.kind, {}).get(backend.name)
            if timed:
                size, seconds = size + backend.bytes(layer.shape), seconds + timed[0]
        return size / seconds if seconds else None

    @property
    def summary(self) -> str:
        """The backend that most layers use, by numbers of ROWS, such as `1 to 5: plain, 16 to 32: bfloat16`."""
        by_name: list[tuple[str, list[int]]] = []
        for place, rows in enumerate(ROWS):
            used = Counter(self._best[layer.kind][place].name for layer in self.layers)
            name = used.most_common(1)[0][0] if used else PLAIN.name
            if not by_name or by_name[-1][0] != name:
                by_name.append((name, []))
            by_name[-1][1].append(rows)
        return ", ".join(
            f"{' to '.join(map(str, dict.fromkeys((rows[0], rows[-1]))))}: {name}" for name, rows in by_name
        )

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
        better = backend in found and (other not in found or found[backend][place] < _WORTH * found[other][place])
        best.append(backend if better else other)
    return best


def _alike(
    small: Mapping[LinearBackend, Sequence[float]], exact: Mapping[LinearBackend, Sequence[float]], usual: LinearBackend
) -> list[LinearBackend]:
    """As `quickest`, with the usual backend of few bits for the few rows of a chat; many rows may have float32 as well.

    What float32 multiplies then are the rounded numbers, see `SmallLinear.stored`. torch's own product rounds a row in
    another way beside other rows, so that a pair of a sweep could not be repeated alone: packed products do not.
    """
    packed = {backend: seconds for backend, seconds in exact.items() if isinstance(backend, Packed)}
    many = quickest({**small, **packed}, [usual] * len(ROWS))
    return [usual] * _FEW + many[_FEW:]


def _timed(times: Times, layer: FastLinear, exact: bool) -> dict[LinearBackend, Sequence[float]]:
    found = times.get(layer.kind, {})
    return {b: found[b.name] for b in BACKENDS if b.exact == exact and b.name in found}
