"""A concept's figures layer by layer, as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..values.chart import Chart, Series


def layer_chart(name: str, report: Mapping[str, Any], lengths: Sequence[float] = ()) -> Chart | None:
    """How well the examples of a concept come apart and agree at each layer.

    Args:
        report: of its vector's extraction; empty before it.
        lengths: of the raw vector at each layer.

    Returns:
        None where nothing is known.
    """
    separability, agreement = report.get("separability"), report.get("agreement")
    series = []
    if separability:
        meaning = "share of held-out pairs that each layer separates (0.5 is chance)"
        series.append(Series("separability", separability, "number", rest=0.5, scale=(0.5, 1.0), meaning=meaning))
    if agreement and report.get("pairs", 2) > 1:
        meaning = "agreement of the pairs at each layer (1 is full agreement)"
        series.append(Series("agreement", agreement, "number", rest=0.0, scale=(0.0, 1.0), meaning=meaning))
    if lengths:
        series.append(Series("length", lengths, "number", rest=0.0, meaning="length of the raw vector at each layer"))
    if not series:
        return None
    at = range(len(series[0].values))
    return Chart(f"the vector of {name}, layer by layer", "layer", list(map(str, at)), series, list(at))
