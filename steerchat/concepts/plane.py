"""A concept's contrast pairs as points in two dimensions: along its direction, and across it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..values.chart import Cloud, Dot, Points
from ..values.errors import ConceptError
from ..values.recipe import check_layer
from ..values.results import UNWATCHED, Watch
from .concept import Concept
from .extract import read_texts
from .vector import ConceptVector


def pairs_in_plane(
    engine: Engine, concept: Concept, vector: ConceptVector, layers: Sequence[int], watch: Watch = UNWATCHED
) -> Points:
    """Every text of a concept's examples at some layers, as the unsteered model reads it.

    Along is the projection on the direction. Across is the first principal component of what is left without it. Both
    count from the middle between the two sides' means, in lengths of the mean difference, so that layers compare.

    Raises:
        ConceptError: when the concept has no examples.
        UsageError: when the model has no such layer.
        Interrupted: when the watch stops it.
    """
    if not concept.examples:
        raise ConceptError(f"{concept.name} has no examples to draw", "choose a concept that was made from pairs")
    for layer in layers:
        check_layer(layer, engine.n_layers)
    positive, negative, _ = read_texts(engine, concept.name, concept.examples, concept.method, watch)
    held_out = torch.tensor([example.held_out for example in concept.examples])
    clouds = [
        _cloud(f"layer {layer}", positive[:, layer], negative[:, layer], vector.directions[layer], held_out)
        for layer in layers
    ]
    return Points(
        f"contrast pairs of {concept.name}, along its direction and across it; held-out ones ringed",
        ("along the direction", "across it"),
        (f"with {concept.name}", "without"),
        clouds,
        "held out: the direction was not made from them",
    )


def _cloud(name: str, positive: Tensor, negative: Tensor, direction: Tensor, held_out: Tensor) -> Cloud:
    """The points of one layer. Texts are (pairs, hidden), the direction (hidden,)."""
    train = ~held_out if bool((~held_out).any()) else held_out
    means = positive[train].mean(dim=0), negative[train].mean(dim=0)
    centred = torch.cat([positive, negative]) - (means[0] + means[1]) / 2
    along = centred @ direction
    rest = centred - along.unsqueeze(-1) * direction
    across = rest @ torch.linalg.svd(rest - rest.mean(dim=0), full_matrices=False).Vh[0]
    length = float((means[0] - means[1]) @ direction) or 1.0
    points = torch.stack([along, across], dim=-1) / abs(length)
    kinds = [0] * len(positive) + [1] * len(negative)
    ringed = held_out.tolist() * 2
    dots = [Dot(float(x), float(y), kind, ring) for (x, y), kind, ring in zip(points, kinds, ringed, strict=True)]
    return Cloud(name, dots, (-0.5, 0.0, 0.5, 0.0))
