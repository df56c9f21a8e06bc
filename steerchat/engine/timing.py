"""How quick each backend is on this machine, for a model's own weights."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from .backends import BACKENDS, LinearBackend
from .linear import ROWS, FastLinear, Kind
from .weights import Weight

# Bytes of float32 weights that one pass goes through: what lies in a cache is quicker than a model ever is.
_ENOUGH = 96 * 1024 * 1024
# Of one layer as much as this: a vocabulary's table would be most of the time.
_SLICE = 24 * 1024 * 1024
_REPEATS = 3
# Seconds after which nothing is repeated, and after which the machine is too busy to say anything.
_PATIENCE = 1.5
_LIMIT = 12.0


@torch.inference_mode()
def measure(
    layers: Sequence[FastLinear], backends: Sequence[LinearBackend] = BACKENDS
) -> dict[Kind, dict[str, list[float]]]:
    """Time every backend that fits.

    Args:
        layers: in the order in which a step runs through them.
        backends: the candidates. One that does not work here is left out.

    Returns:
        by kind of weight and backend: seconds of one product with the whole weight, for each number in `ROWS`. Nothing
        when other programs keep the machine so busy that measuring does not end.
    """
    started = time.perf_counter()
    sample = _sample(layers)
    times: dict[Kind, dict[str, list[float]]] = {kind: {} for kind, *_ in sample}
    for backend in backends:
        forms = _forms(backend, sample)
        for rows in ROWS:
            if time.perf_counter() - started > _LIMIT:
                return {}
            for kind, seconds in _time(backend, forms, rows, started + _PATIENCE).items():
                times[kind].setdefault(backend.name, []).append(seconds)
    return times


def _sample(layers: Sequence[FastLinear]) -> list[tuple[Kind, Weight, float]]:
    """Layers to time: kind, weight or the first rows of it, and how many times larger the whole weight is.

    As many of the first layers as are enough, and the first of every other kind.
    """
    size, seen, sample = 0, set(), []
    for layer in layers:
        if size > _ENOUGH and layer.kind in seen:
            continue
        seen.add(layer.kind)
        out, width = layer.shape
        rows = max(16, min(out, _SLICE // (4 * width)) // 16 * 16)
        weight = layer.stored.part(slice(0, rows))
        size += weight.shape[0] * width * 4
        sample.append((layer.kind, weight, out / weight.shape[0]))
    return sample


def _forms(backend: LinearBackend, sample: Sequence[tuple[Kind, Weight, float]]) -> list[tuple[Kind, object, float]]:
    """The sample's weights as this backend holds them, without the kinds that it cannot multiply."""
    forms: list[tuple[Kind, object, float]] = []
    unfit: set[Kind] = set()
    for kind, weight, share in sample:
        if kind in unfit:
            continue
        try:
            if not backend.fits(weight):
                raise RuntimeError("the weight does not fit this product")
            form = backend.prepare(weight)
            backend.multiply(torch.ones(1, kind[1]), form)
            forms.append((kind, form, share))
        except (RuntimeError, AttributeError):  # torch lacks the operation, or this CPU what it needs
            unfit.add(kind)
    return [entry for entry in forms if entry[0] not in unfit]


def _time(
    backend: LinearBackend, forms: Sequence[tuple[Kind, object, float]], rows: int, ends: float
) -> dict[Kind, float]:
    """Seconds of one product by kind: the lower quartile of some passes through all layers.

    Other programs only ever add time, so the mean would be a measure of them.
    """
    inputs = {kind: torch.ones(rows, kind[1]) for kind, *_ in forms}
    taken: dict[Kind, list[float]] = {}
    for _ in range(_REPEATS):
        for kind, form, share in forms:
            started = time.perf_counter()
            backend.multiply(inputs[kind], form)
            taken.setdefault(kind, []).append((time.perf_counter() - started) * share)
        if time.perf_counter() > ends:
            break
    return {kind: sorted(seconds)[len(seconds) // 4] for kind, seconds in taken.items()}
