"""Changing and reading the residual stream: one forward hook on each block concerned.

A block's output is the residual stream after that layer, shape (batch, position, hidden). `Steering` changes
it row by row, `StateReader` averages it over chosen positions. Both are context managers, and their hooks are
gone when the block ends, however it ends.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from ..values.errors import ModelError
from ..values.operation import OPERATIONS
from .gates import Gate, RowGates, row_gates
from .operations import Add, Edit, LayerOperation

Hook = TypeVar("Hook", bound=Callable[..., Any])


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a causal language model, in order.

    The usual names are tried first, then the longest list of alike modules: that is what a stack of blocks is.

    Raises ModelError when there is no such list.
    """
    base = base_of(model)
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else base
    for root in (decoder, base, model):
        for name in ("layers", "h", "blocks"):
            found = getattr(root, name, None)
            if isinstance(found, nn.ModuleList) and len(found):
                return found
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len({type(block) for block in m}) == 1]
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of decoder blocks", "steerchat needs a causal language model"
        )
    return max(lists, key=len)


def base_of(model: Any) -> Any:
    """The model without its output layer."""
    base = getattr(model, "base_model", model)
    # Llama 4 calls it otherwise than it says: it is the part that has most parts itself.
    return (
        base
        if base is not model
        else max(model.children(), key=lambda child: len(list(child.modules())), default=model)
    )


def hidden_of(output: Any) -> Tensor:
    """The hidden state in a block's output: most return a tensor, some a tuple that starts with it.

    Gemma 3n has several streams, (streams, batch, position, hidden) (AltUp, Baykal et al. 2023, arXiv 2301.13310). The
    first is the active one: blocks compute on it, and correct the others by it.
    """
    state = streams_of(output)
    return state[0] if state.dim() == 4 else state


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A block's output with its hidden state exchanged."""
    state = streams_of(output)
    if state.dim() == 4:
        hidden = torch.cat([hidden[None], state[1:]])
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def streams_of(output: Any) -> Tensor:
    """A block's hidden state with all of its streams, where there are several."""
    return output if isinstance(output, Tensor) else output[0]


def reads(hook: Hook) -> Hook:
    """Marks a hook that never changes a block's output."""
    # A function takes any attribute; the type checker knows none of them.
    hook.only_reads = True  # type: ignore[attr-defined]
    return hook


def only_reads(hook: Callable[..., Any]) -> bool:
    """Whether a hook never changes a block's output, so that the next block need not wait for it."""
    return getattr(hook, "only_reads", False)


def pushed_by(hook: Callable[..., Any]) -> Tensor | None:
    """What a hook adds to one position of every row, (rows, 1, hidden), if that is all it does; None else."""
    return hook.push if isinstance(hook, _LayerEdits) else None


class BlockHooks:
    """Forward hooks that are put on and taken off at every step, without what torch's registering takes each time.

    Args:
        hooks: by the block that they belong to. They run behind those that were put on before.
    """

    def __init__(self, hooks: Iterable[tuple[nn.Module, Callable[[nn.Module, Any, Any], Any]]]) -> None:
        self._places: list[tuple[dict[int, Any], int, Any]] = []
        for block, hook in hooks:
            handle = block.register_forward_hook(hook)  # for a key of its own
            handle.remove()
            self._places.append((block._forward_hooks, handle.id, hook))

    def put_on(self) -> None:
        for hooks, key, hook in self._places:
            hooks[key] = hook

    def take_off(self) -> None:
        for hooks, key, _ in self._places:
            hooks.pop(key, None)


class _LayerEdits:
    """The operations of every row at one layer, in the order of `OPERATIONS`.

    Args:
        rows: each row's edits there.
        gates: each row's gates, in the order of `opening`.
        opening: what opens the first gate of every row, the second, and so on.
        hidden, device: as of `LayerOperation`.
    """

    def __init__(
        self,
        layer: int,
        rows: Sequence[Sequence[Edit]],
        gates: Sequence[Sequence[Gate]],
        opening: Sequence[RowGates],
        hidden: int,
        device: torch.device,
    ) -> None:
        self.open: Tensor | None = None  # which rows are changed for now; None changes all
        self.share: Tensor | None = None  # of every strength, (1, 1, 1); None is all of it
        self.place: int | None = None  # as of `Steering`
        self._layer = layer
        self._read = [gate for gate in opening if layer in gate.layers]
        self._operations: list[tuple[LayerOperation, RowGates | None]] = []
        numbers = [(None, None), *enumerate(opening)]
        for name, (number, opens) in itertools.product(OPERATIONS, numbers):
            chosen = [
                [edit for edit in edits if edit.operation == name and _number(edit, own) == number]
                for edits, own in zip(rows, gates, strict=True)
            ]
            if any(chosen):
                self._operations.append((LayerOperation.kinds[name](chosen, hidden, device), opens))

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        whole = hidden_of(output)
        hidden = whole if self.place is None else whole[self.place : self.place + 1]
        # Sixteen bits would lose a small push against a large state.
        state = hidden if hidden.dtype == torch.float32 else hidden.float()
        for gate in self._read:
            gate.read(self._layer, state)
        for operation, opens in self._operations:
            factor = None if opens is None else opens.factor()
            if self.share is not None:
                factor = self.share if factor is None else factor * self.share.to(factor.device)
            state = operation(state, factor)
        if self.open is not None:
            state = torch.where(self.open.to(state.device), state, hidden.to(state.dtype))
        state = state.to(hidden.dtype)
        if self.place is not None:
            whole = whole.clone()
            whole[self.place] = state[0]
            state = whole
        return with_hidden(output, state)

    @property
    def push(self) -> Tensor | None:
        """As of `pushed_by`."""
        if self.place is not None or self._read or len(self._operations) > 1:
            return None
        operation, opens = self._operations[0]
        if opens is not None or not isinstance(operation, Add):
            return None
        push = operation.tensors["push"]
        if self.share is not None:
            push = push * self.share
        return push if self.open is None else torch.where(self.open, push, 0.0)

    def select(self, rows: Tensor) -> None:
        for operation, _ in self._operations:
            operation.select(rows)


def _number(edit: Edit, gates: Sequence[Gate]) -> int | None:
    """Which of its row's gates an edit has."""
    return None if edit.gate is None else gates.index(edit.gate)


class Steering:
    """While it is entered, block outputs are changed, each row of the batch by its own edits.

    Args:
        rows: for each row of the batch its edits; the batch that is run must have as many rows.
        prompt: whether it is entered for prompts, where gates do not count positions.

    Every position of a forward pass is changed, so the caller decides the scope by what it runs inside. Gates take each
    time that it is entered for one position.

    Attributes:
        place: where its single row is in a batch that it shares with others; None when the batch is its own.
    """

    def __init__(
        self, blocks: nn.ModuleList, rows: Sequence[Sequence[Edit]], hidden: int, prompt: bool = False
    ) -> None:
        self.blocks = blocks
        self._layers: dict[int, _LayerEdits] = {}
        gates = [list(dict.fromkeys(edit.gate for edit in edits if edit.gate is not None)) for edits in rows]
        self._gated = torch.tensor([bool(own) for own in gates])
        self._gates = row_gates(gates, hidden, prompt)
        self._advancing: Tensor | None = None  # rows whose positions count; None when those of all do
        self.shares: Tensor | None = None  # (batch,) the largest factor of each row's gated edits in the last pass
        layers = {edit.layer for edits in rows for edit in edits}
        for layer in sorted(layers.union(*(gate.layers for gate in self._gates))):
            here = [[edit for edit in edits if edit.layer == layer] for edits in rows]
            self._layers[layer] = _LayerEdits(layer, here, gates, self._gates, hidden, device_of(blocks[layer]))
        self._hooks = BlockHooks((blocks[layer], edits) for layer, edits in self._layers.items())
        self.place: int | None = None

    def __enter__(self) -> Self:
        for edits in self._layers.values():
            edits.place = self.place
        self._hooks.put_on()
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.take_off()
        if self._gates:
            factors = [gate.factor().flatten().cpu() for gate in self._gates]
            self.shares = torch.where(self._gated, torch.stack(factors).amax(dim=0), 1.0)
            for gate in self._gates:
                gate.advance(self._advancing)

    def only(self, rows: Sequence[bool] | None) -> None:
        """From now on change just the rows that are marked; all when None."""
        self._advancing = None if rows is None or all(rows) else torch.tensor(rows)
        for edits in self._layers.values():
            edits.open = None if self._advancing is None else self._advancing[:, None, None]

    def turn(self, share: float) -> None:
        """From now on do everything at this share of its strength; at 0 nothing is done."""
        for edits in self._layers.values():
            edits.share = None if share == 1.0 else torch.full((1, 1, 1), share)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order. `rows`: (kept,) long."""
        for part in (*self._layers.values(), *self._gates):
            part.select(rows)
        self._gated = self._gated[rows]


class OutputReader(ABC):
    """While it is entered, `read` gets the output of some blocks; their hooks are gone at the end.

    Args:
        layers: which blocks; all when None.
    """

    def __init__(self, blocks: nn.ModuleList, layers: Iterable[int] | None = None) -> None:
        self.layers = tuple(range(len(blocks)) if layers is None else layers)
        self._hooks = BlockHooks((blocks[layer], self._hook(layer)) for layer in self.layers)

    def __enter__(self) -> Self:
        self._hooks.put_on()
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.take_off()

    def _hook(self, layer: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: self.read(layer, output)

    @abstractmethod
    def read(self, layer: int, output: Any) -> None:
        """Take the output of a block, after each of its passes."""


class FirstOverflow(OutputReader):
    """Notes the first block whose output holds Inf or NaN; None while none did."""

    layer: int | None = None

    def read(self, layer: int, output: Any) -> None:
        if self.layer is None and not bool(hidden_of(output).isfinite().all()):
            self.layer = layer


class StateReader(OutputReader):
    """Averages block outputs over the positions that `weights` marks, once or more a row.

    After each forward pass, `means` is (batch, averages, len(layers), hidden) float32, for the weights set before it.
    `check`: called after each block; what it raises ends the pass.
    """

    def __init__(
        self, blocks: nn.ModuleList, layers: Iterable[int] | None = None, check: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(blocks, layers)
        self._check = check
        self.weights: Tensor | None = None  # (batch, averages, position), each average's summing to one
        self._means: dict[int, Tensor] = {}

    def read(self, layer: int, output: Any) -> None:
        self._check()
        if self.weights is not None:
            hidden = hidden_of(output)
            self._means[layer] = torch.bmm(self.weights.to(hidden.device), hidden.float()).cpu()

    @property
    def means(self) -> Tensor:
        return torch.stack([self._means[layer] for layer in self.layers], dim=2)


class LengthReader(OutputReader):
    """Collects how long block outputs are at every position but the first of a text.

    For batches of one text: padding would count.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__(blocks)
        self._lengths: list[list[Tensor]] = [[] for _ in blocks]

    def read(self, layer: int, output: Any) -> None:
        self._lengths[layer].append(hidden_of(output)[0, 1:].float().norm(dim=-1).cpu())

    @property
    def medians(self) -> Tensor:
        """(layers,) the median length at each layer."""
        return torch.stack([torch.cat(lengths).median() for lengths in self._lengths])


class LastOutputs(OutputReader):
    """Keeps the last output of each block, by layer."""

    def __init__(self, blocks: nn.ModuleList, layers: Iterable[int] | None = None) -> None:
        super().__init__(blocks, layers)
        self.outputs: dict[int, Any] = {}

    def read(self, layer: int, output: Any) -> None:
        self.outputs[layer] = output


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: with accelerate's offloading its parameters may be elsewhere between steps."""
    for part in module.modules():
        execution = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if execution is not None:
            return torch.device(execution)
    parameter = next(module.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")
