"""The layers below a row's first edit: what decoding computes there, the unsteered reading need not compute again.

An edit changes its block's output, so everything up to that output is what the model computes without it. Of a row
without edits that is the whole stack. `Lower` notes it while a batch decodes and skips it while the batch is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from .batch import Batch
from .hooks import BlockHooks, hidden_of, reads, with_hidden
from .operations import Edit

# States that wait to be added up take no more bytes than this.
_WAITING = 64 * 1024 * 1024


class NotByRow(Exception):
    """A block is given something that has no row per row of the batch, so it cannot run for some rows alone."""


class Lower:
    """What decoding computes below each row's first edit.

    While it is entered, forward passes of one position per running row are noted; enter it before the edits, so
    that it sees a block's output without them.
    """

    def __init__(self, blocks: nn.ModuleList, rows: Sequence[Sequence[Edit]]) -> None:
        self._blocks = blocks
        last = len(blocks) - 1
        # The topmost block whose output, before any edit, is the unsteered model's.
        self._tops = [min((edit.layer for edit in edits), default=last) for edits in rows]
        self._sums: dict[int, Tensor] = {}  # by layer: (rows, hidden) float32, over the answer's own tokens
        self._states: list[Tensor] = []  # by step: (rows, hidden), each row's at its topmost block
        self._pass: list[Tensor] = []  # by layer: (running rows, 1, hidden), of the pass at hand
        self._passes: list[list[Tensor]] = []  # those that are to be added up, all of the same rows
        self._bare = True  # blocks return a tensor and no tuple
        self.run_rows(range(len(rows)))

    @property
    def noted(self) -> bool:
        """Whether there was any pass."""
        return bool(self._states)

    def run_rows(self, rows: Sequence[int]) -> None:
        """From now on these rows run, in this order."""
        self._add_up()
        self._rows = torch.tensor(list(rows), dtype=torch.long)
        self._slots = {
            top: torch.tensor([slot for slot, row in enumerate(rows) if self._tops[row] == top])
            for top in {self._tops[row] for row in rows}
        }
        highest = max((self._tops[row] for row in rows), default=-1)
        self._hooks = BlockHooks((block, self._note) for block in self._blocks[: highest + 1])

    def __enter__(self) -> Self:
        self._pass = []
        self._hooks.put_on()
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.take_off()
        if not self._pass or exc[0] is not None:
            return
        step = self._pass[0].new_zeros(len(self._tops), self._pass[0].shape[-1])
        for top, slots in self._slots.items():
            state = self._pass[top][:, 0]
            step[self._rows[slots].to(step.device)] = state[slots.to(state.device)].to(step.device)
        # The first pass is of the prompt's last token, which is none of the answer's.
        if self._states:
            self._passes.append(self._pass)
            if len(self._passes) * step.nbytes * len(self._blocks) > _WAITING:
                self._add_up()
        self._states.append(step)

    @reads
    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        # Added up later: thirty small sums in every step would cost more than they save.
        self._bare = isinstance(output, Tensor)
        self._pass.append(hidden_of(output))

    def _add_up(self) -> None:
        for layer in range(max(map(len, self._passes), default=0)):
            states = torch.stack([outputs[layer] for outputs in self._passes if layer < len(outputs)])
            states = states[:, :, 0].float().sum(dim=0)
            if layer not in self._sums:
                self._sums[layer] = states.new_zeros(len(self._tops), states.shape[-1])
            self._sums[layer].index_add_(0, self._rows.to(states.device), states)
        self._passes = []

    def plan(self, known: Sequence[bool]) -> Plan:
        """How to read these rows. `known`: for each row whether its text is, token for token, what was decoded."""
        self._add_up()
        tops = [top if usable else -1 for top, usable in zip(self._tops, known, strict=True)]
        return Plan(self, tops)


class Plan:
    """In which order rows are read, and what of each is known.

    `order`: the rows, those with least known first: at each block, the rows that still need it come first.
    """

    def __init__(self, lower: Lower, tops: Sequence[int]) -> None:
        self._lower = lower
        self.order = sorted(range(len(tops)), key=lambda row: tops[row])
        self._tops = [tops[row] for row in self.order]

    def counts(self) -> list[int]:
        """For each block, how many of the first rows have to run through it."""
        return [sum(top < layer for top in self._tops) for layer in range(len(self._lower._blocks))]

    def means(self, computed: Tensor, lengths: Sequence[int]) -> Tensor:
        """Mean states of the answers, (rows, layers, hidden) in the order of `order`.

        Args:
            computed: what the reading found; right where it was computed.
            lengths: tokens of each text.
        """
        computed = computed.clone()
        for place, (row, top) in enumerate(zip(self.order, self._tops, strict=True)):
            for layer in range(top + 1):
                total = self._lower._sums.get(layer)
                computed[place, layer] = 0.0 if total is None else total[row].cpu() / max(1, lengths[place])
        return computed

    @contextmanager
    def skipping(self, batch: Batch, positions: int) -> Iterator[None]:
        """While it is entered, `batch`, its rows in order, runs `positions` new tokens without what is known.

        Raises NotByRow from the pass, where a block cannot run for some of the rows.
        """
        counts = self.counts()
        batch.limit(counts)
        states = torch.stack(self._lower._states)[:, self.order].transpose(0, 1)[:, :positions]
        states = nn.functional.pad(states, (0, 0, 0, positions - states.shape[1]))
        with ExitStack() as stack:
            for layer, block in enumerate(self._lower._blocks):
                if counts[layer] < len(self._tops):
                    stack.callback(_restore(block))
                    block.forward = self._forward(block.forward, counts[layer], self._tops.count(layer), states)
            yield

    def _forward(self, forward: Any, count: int, ending: int, states: Tensor) -> Any:
        """A block's pass for the first `count` rows; the next `ending` rows get what is known of its output."""

        def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if hidden.dim() != 3:  # several streams
                raise NotByRow
            size = hidden.shape[0]
            known = states[count : count + ending].to(hidden.device, hidden.dtype)
            if not count:
                rows = torch.cat([known, hidden[ending:]])
                return rows if self._lower._bare else (rows,)
            output = forward(
                hidden[:count],
                *[_first(value, count, size) for value in args],
                **{name: _first(value, count, size) for name, value in kwargs.items()},
            )
            return with_hidden(output, torch.cat([hidden_of(output), known, hidden[count + ending :]]))

        return run


def _first(value: Any, count: int, size: int) -> Any:
    """What of a block's argument belongs to the first `count` of `size` rows."""
    if isinstance(value, Tensor) and value.dim() >= 2:
        if value.shape[0] not in (1, size):
            raise NotByRow
        return value[:count] if value.shape[0] == size else value
    if isinstance(value, tuple | list):
        return type(value)(_first(part, count, size) for part in value)
    return value


def _restore(block: nn.Module) -> Any:
    """Puts a block's own forward back: accelerate may have given it one of its own."""
    own = vars(block).get("forward")

    def restore() -> None:
        if own is None:
            del block.forward
        else:
            block.forward = own

    return restore
