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
# Seconds after which nothing is repeated.
_PATIENCE = 1.5


@torch.inference_mode()
def measure(
    layers: Sequence[FastLinear], backends: Sequence[LinearBackend] = BACKENDS
) -> dict[Shape, dict[str, list[float]]]:
    """Time every backend that fits.

    Args:
        layers: in the order in which a step runs through them.
        backends: the candidates. One that does not work here is left out.

    Returns:
        by shape and backend: seconds of one product with the whole weight, for each number in `ROWS`.
    """
    ends = time.perf_counter() + _PATIENCE
    sample = _sample(layers)
    times: dict[Shape, dict[str, list[float]]] = {shape: {} for shape, *_ in sample}
    for backend in backends:
        forms = []
        unfit: set[Shape] = set()
        for shape, weight, share in sample:
            if shape in unfit:
                continue
            try:
                if not backend.fits(weight):
                    raise Unfit
                form = backend.prepare(weight)
                backend.multiply(torch.zeros(1, shape[1]), form)
            except (Unfit, RuntimeError, AttributeError, NotImplementedError):
                unfit.add(shape)
                continue
            forms.append((shape, form, share))
        forms = [entry for entry in forms if entry[0] not in unfit]
        for rows in ROWS:
            for shape, seconds in _time(backend, forms, rows, ends).items():
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


def _time(
    backend: LinearBackend, forms: Sequence[tuple[Shape, object, float]], rows: int, ends: float
) -> dict[Shape, float]:
    """Seconds of one product by shape: the quickest of some passes, the mean over the layers of a shape."""
    inputs = {shape: torch.ones(rows, shape[1]) for shape, *_ in forms}
    best: dict[Shape, float] = {}
    for _ in range(_REPEATS):
        passed: dict[Shape, list[float]] = {}
        for shape, form, share in forms:
            started = time.perf_counter()
            backend.multiply(inputs[shape], form)
            passed.setdefault(shape, []).append((time.perf_counter() - started) * share)
        for shape, seconds in passed.items():
            mean = sum(seconds) / len(seconds)
            best[shape] = min(mean, best.get(shape, mean))
        if time.perf_counter() > ends:
            break
    return best
