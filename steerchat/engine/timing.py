"""How quick each backend is on this machine, for a model's own weights."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from .backends import BACKENDS, LinearBackend
from .linear import ROWS, FastLinear, Kind
from .weights import Weight

# Bytes of float32 weights that are timed. One round goes through them in the form of every backend, several times as
# much: what lies in a cache is quicker than a model ever is.
_ENOUGH = 48 * 1024 * 1024
# Of one layer as much as this: a vocabulary's table would be most of the time.
_SLICE = 16 * 1024 * 1024
_ROUNDS = 8
# Seconds after which no further round begins, and after which the machine is too busy to say anything.
_PATIENCE = 1.5
_LIMIT = 12.0


@torch.inference_mode()
def measure(
    layers: Sequence[FastLinear], backends: Sequence[LinearBackend] = BACKENDS
) -> dict[Kind, dict[str, list[float]]]:
    """Time every backend that fits.

    Backends take turns at every layer. One after the other, each would be timed in a moment of its own, and whichever
    another program disturbed would lose: on a busy machine the choice was half as fast as the right one.

    Args:
        layers: in the order in which a step runs through them.
        backends: the candidates. One that does not work here is left out.

    Returns:
        by kind of weight and backend: seconds of one product with the whole weight, for each number in `ROWS`: the
        least of all rounds, since other programs only ever add time. Nothing when the machine is so busy that measuring
        does not end.
    """
    started = time.perf_counter()
    sample = _sample(layers)
    forms = _forms(backends, sample)
    taken: dict[tuple[Kind, str, int], list[float]] = {}
    for _ in range(_ROUNDS):
        for rows in ROWS:
            inputs = {kind: torch.ones(rows, kind[1]) for kind, *_ in sample}
            for (kind, _, share), candidates in zip(sample, forms, strict=True):
                for backend, form in candidates:
                    begun = time.perf_counter()
                    backend.multiply(inputs[kind], form)
                    taken.setdefault((kind, backend.name, rows), []).append((time.perf_counter() - begun) * share)
            if time.perf_counter() - started > _LIMIT:
                return {}
        if time.perf_counter() - started > _PATIENCE:
            break
    times: dict[Kind, dict[str, list[float]]] = {kind: {} for kind, *_ in sample}
    for (kind, name, _), seconds in taken.items():
        times[kind].setdefault(name, []).append(min(seconds))
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


def _forms(
    backends: Sequence[LinearBackend], sample: Sequence[tuple[Kind, Weight, float]]
) -> list[list[tuple[LinearBackend, object]]]:
    """For each weight of the sample the backends that can multiply its kind, with their forms of it."""
    forms: list[list[tuple[LinearBackend, object]]] = []
    unfit: set[tuple[Kind, LinearBackend]] = set()
    for kind, weight, _ in sample:
        candidates = []
        for backend in backends:
            if (kind, backend) in unfit:
                continue
            try:
                if not backend.fits(weight):
                    raise RuntimeError("the weight does not fit this product")
                form = backend.prepare(weight)
                backend.multiply(torch.ones(1, kind[1]), form)
                candidates.append((backend, form))
            except (RuntimeError, AttributeError):  # torch lacks the operation, or this CPU what it needs
                unfit.add((kind, backend))
        forms.append(candidates)
    return [
        [(backend, form) for backend, form in candidates if (kind, backend) not in unfit]
        for (kind, *_), candidates in zip(sample, forms, strict=True)
    ]
