"""Gates of edits: at which positions they are applied, and how strongly, for all rows of a batch at once.

Conditional Activation Steering (Lee et al. 2025, arXiv 2409.05907) pushes only where a reading of the prompt says so.
Here the answer is read too, at a layer below the push in the same pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Probe:
    """A reading of the answer as far as it goes."""

    layer: int  # the block whose output is read, before any edit there
    # (hidden,) float32; the mean of the products of the answer's states with it, less `offset`, is read.
    direction: Tensor
    offset: float
    above: bool  # whether the reading must be more than the threshold, or less
    threshold: float


@dataclass(frozen=True, eq=False)
class Gate:
    """When an edit is applied.

    Attributes:
        probe: only while this reading says so; never before the answer's first token is read.
        first: at so many positions, counted from the one that the first token is chosen at; None at all.
        after: not at so many positions.
        decay: factor of the strength from one position to the next.
    """

    probe: Probe | None = None
    first: int | None = None
    after: int = 0
    decay: float = 1.0

    @property
    def key(self) -> bytes:
        """All that it is, as bytes."""
        text = f"{self.first} {self.after} {self.decay} "
        if self.probe is None:
            return text.encode()
        read = (self.probe.layer, self.probe.offset, self.probe.above, self.probe.threshold)
        return f"{text}{read}".encode() + self.probe.direction.numpy().tobytes()


class RowGates:
    """One gate of each row of a batch, or none.

    `prompt`: whether passes are of prompts, which lie before the first position.
    """

    def __init__(self, gates: Sequence[Gate | None], hidden: int, prompt: bool = False) -> None:
        given = [gate or Gate() for gate in gates]
        probes = [gate.probe for gate in given]
        nothing = Probe(-1, torch.zeros(hidden), 0.0, True, -math.inf)
        self.layers = {probe.layer for probe in probes if probe is not None}
        self._tensors = {
            # -1: a position of a prompt is after none.
            "after": torch.tensor([gate.after or -1 for gate in given]),
            "first": torch.tensor([math.inf if gate.first is None else gate.first for gate in given]),
            "decay": torch.tensor([gate.decay for gate in given]),
            "gated": torch.tensor([gate is not None for gate in gates]),
            "probed": torch.tensor([probe is not None for probe in probes]),
            "layer": torch.tensor([(probe or nothing).layer for probe in probes]),
            "direction": torch.stack([(probe or nothing).direction for probe in probes]),
            "offset": torch.tensor([(probe or nothing).offset for probe in probes]),
            "sign": torch.tensor([1.0 if (probe or nothing).above else -1.0 for probe in probes]),
            "threshold": torch.tensor([(probe or nothing).threshold for probe in probes]),
            "total": torch.zeros(len(given)),
            "position": torch.full((len(given),), -1 if prompt else 0),
        }
        self._factor: Tensor | None = None  # of the pass at hand

    def read(self, layer: int, state: Tensor) -> None:
        """Take the readings of a layer. `state`: (batch, positions, hidden) float32."""
        if layer not in self.layers:
            return
        self._tensors = {name: tensor.to(state.device) for name, tensor in self._tensors.items()}
        of = self._tensors
        reading = (state[:, -1] * of["direction"]).sum(dim=-1) - of["offset"]
        # The first position is the prompt's last, and no part of the answer.
        counts = (of["layer"] == layer) & (of["position"] > 0)
        of["total"] = of["total"] + torch.where(counts, reading, 0.0)

    def factor(self) -> Tensor:
        """(batch, 1, 1) of each row's strength in the pass at hand; 0 where its gate is closed, or it has none."""
        if self._factor is None:
            of = self._tensors
            position = of["position"]
            reading = of["total"] / position.clamp_min(1)
            opened = (position > 0) & (of["sign"] * (reading - of["threshold"]) > 0)
            opened = (opened | ~of["probed"]) & (position >= of["after"]) & (position < of["first"])
            faded = of["decay"] ** (position - of["after"].clamp_min(0)).clamp_min(0)
            self._factor = (opened * of["gated"] * faded)[:, None, None]
        return self._factor

    def advance(self, rows: Tensor | None) -> None:
        """Go to the next position. `rows`: (batch,) bool, those that do; all when None."""
        position = self._tensors["position"]
        self._tensors["position"] = position + (1 if rows is None else rows.to(position.device))
        self._factor = None

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order. `rows`: (kept,) long."""
        self._tensors = {name: tensor[rows.to(tensor.device)] for name, tensor in self._tensors.items()}
        self._factor = None


def row_gates(rows: Sequence[Sequence[Gate]], hidden: int, prompt: bool = False) -> list[RowGates]:
    """The first gate of every row, the second of every row, and so on. `rows`: each row's gates."""
    most = max(map(len, rows), default=0)
    return [
        RowGates([gates[number] if number < len(gates) else None for gates in rows], hidden, prompt)
        for number in range(most)
    ]
