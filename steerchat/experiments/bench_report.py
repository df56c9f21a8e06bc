"""The figures of `bench`, and their page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..values.operation import OPERATIONS
from ..values.page import Page, Table
from ..values.results import Notice

# For each figure: its name on the screen, and its unit.
# Those named `vs` compare with another program; the other ratios compare steerchat with itself.
_FIGURES = {
    **{
        f"{what}vs_{key}": (f"{label} {name}", "time per token")
        for key, name in (("generate", "transformers' generate"), ("llama_cpp", "llama.cpp"))
        for what, label in (
            ("", "one answer over"),
            ("pair_", "a pair over two runs of"),
            ("layers_", "every layer over as many runs of"),
        )
    },
    "pair_vs_single": ("a pair over one answer of steerchat's", "time per token"),
    "pair_beside_another": ("a pair beside another steerchat's over one alone", "time per token"),
    "hook_one_layer": ("one layer steered over none", "time per token"),
    "hook_all_layers": ("all layers steered over none", "time per token"),
    "hook_operations": ("all operations in turn over none", "time per token"),
    **{
        f"{name}_{where}": (f"{name} at {what} over none", "time per token")
        for name in OPERATIONS
        for where, what in (("one_layer", "one layer"), ("all_layers", "all layers"))
    },
    "bandwidth_fraction": ("products alone over one answer's step", "1 is the limit"),
    "tokens_per_second": ("one answer", "tokens per second"),
    "limit_tokens_per_second": ("products alone", "times per second"),
    "ttft_turn10_vs_turn2": ("first token, turn 10 over turn 2", "time"),
    "strengths_speedup": ("nine strengths in one batch", "times faster than steerchat in sequence"),
    "layers_speedup": ("every layer in one batch", "times faster than steerchat in sequence"),
    "extract_seconds": ("extracting happy", "seconds"),
    "start_seconds": ("start, until the model is loaded", "seconds"),
}


@dataclass(frozen=True)
class Figure:
    """The median, lowest and highest of several measurements."""

    median: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {name: float(f"{value:.4g}") for name, value in vars(self).items()}


@dataclass(frozen=True)
class BenchReport:
    """The figures of `bench`. A ratio is steerchat's time over the other's, so that below 1 steerchat is faster.

    Attributes:
        model, device, dtype, threads: what the figures were measured on; `threads` is None on a GPU.
        machine: CPU, instruction sets and versions.
        kernels: which products were chosen for this machine, in words; empty where there is no choice.
        repeats: the number of measurements of each figure, by its name.
        figures: by name, in the order of measurement.
    """

    model: str
    device: str
    dtype: str
    threads: int | None
    machine: dict[str, Any]
    kernels: str
    repeats: dict[str, int]
    figures: dict[str, Figure]

    def to_json(self) -> dict[str, Any]:
        """An object for programs: keys are never renamed or removed, and new ones may be added."""
        data = {name: value for name, value in vars(self).items() if name != "figures"}
        return data | {name: figure.to_json() for name, figure in self.figures.items()}

    def page(self) -> Page:
        threads = "" if self.threads is None else f", {self.threads} threads"
        model = f"{self.model}, {self.device} {self.dtype}{threads}; median of several runs, lowest, highest"
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items() if name != "threads")
        rows = []
        for name in sorted(self.figures, key=list(_FIGURES).index):
            figure, (label, unit) = self.figures[name], _FIGURES[name]
            rows.append([label, *(f"{value:.3g}" for value in (figure.median, figure.low, figure.high)), unit])
        table = Table(("figure", "median", "low", "high", "unit"), rows, right=frozenset({1, 2, 3}))
        return Page([*map(Notice, filter(None, (model, machine, self.kernels))), table], [self.to_json()])
