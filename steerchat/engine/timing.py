"""How quick each backend is on this machine, for a model's own shapes and weights."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import BACKENDS, LinearBackend, Unfit
from .linear import ROWS, FastLinear, Shape

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
) -> dict[Shape, dict[str, list[float]]]:
    """Time every backend that fits.

    Args:
        layers: in the order in which a step runs through them.
        backends: the candidates. One that does not work here is left out.

    Returns:
        by shape and backend: seconds of one product with the whole weight, for each number in `ROWS`. Nothing when
        other programs keep the machine so busy that measuring does not end.
    """
    started = time.perf_counter()
    sample = _sample(layers)
    times: dict[Shape, dict[str, list[float]]] = {shape: {} for shape, *_ in sample}
    for backend in backends:
        forms = _forms(backend, sample)
        for rows in ROWS:
            if time.perf_counter() - started > _LIMIT:
                return {}
            for shape, seconds in _time(backend, forms, rows, started + _PATIENCE).items():
                times[shape].setdefault(backend.name, []).append(seconds)
    return times


def _sample(layers: Sequence[FastLinear]) -> list[tuple[Shape, Tensor, float]]:
    """Layers to time: shape, weight or the first rows of it, and how many times larger the whole weight is.

    As many of the first layers as are enough, and the first of every other shape.
    """
    size, seen, sample = 0, set(), []
    for layer in layers:
        if size > _ENOUGH and layer.shape in seen:
            continue
        seen.add(layer.shape)
        out, width = layer.shape
        rows = max(16, min(out, _SLICE // (4 * width)) // 16 * 16)
        weight = layer.weight[:rows]
        size += weight.numel() * 4
        sample.append((layer.shape, weight, out / len(weight)))
    return sample


def _forms(backend: LinearBackend, sample: Sequence[tuple[Shape, Tensor, float]]) -> list[tuple[Shape, object, float]]:
    """The sample's weights as this backend holds them, without the shapes that it cannot multiply."""
    forms: list[tuple[Shape, object, float]] = []
    unfit: set[Shape] = set()
    for shape, weight, share in sample:
        try:
            if shape in unfit or not backend.fits(weight):
                raise Unfit
            form = backend.prepare(weight)
            backend.multiply(weight.new_ones(1, shape[1]), form)
            forms.append((shape, form, share))
        except (Unfit, RuntimeError, AttributeError):  # torch lacks the operation, or this CPU what it needs
            unfit.add(shape)
    return [entry for entry in forms if entry[0] not in unfit]


def _time(
    backend: LinearBackend, forms: Sequence[tuple[Shape, object, float]], rows: int, ends: float
) -> dict[Shape, float]:
    """Seconds of one product by shape: the lower quartile of some passes through all layers.

    Other programs only ever add time, so the mean would be a measure of them.
    """
    inputs = {shape: torch.ones(rows, shape[1]) for shape, *_ in forms}
    taken: dict[Shape, list[float]] = {}
    for _ in range(_REPEATS):
        for shape, form, share in forms:
            started = time.perf_counter()
            backend.multiply(inputs[shape], form)
            taken.setdefault(shape, []).append((time.perf_counter() - started) * share)
        if time.perf_counter() > ends:
            break
    return {shape: sorted(seconds)[len(seconds) // 4] for shape, seconds in taken.items()}
